"""The table of all places where stickers were measured, on the page of the physical side."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from physadv.core.rows import read_rows
from physadv.patches.bundle import read_bundle

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


def test_the_table_on_the_page_is_what_the_script_prints() -> None:
    """A card or a row that changed without the page fails here: `python benchmarks/everywhere.py
    --write` mends it."""
    import everywhere

    page = everywhere.PAGE.read_text(encoding="utf-8")
    assert everywhere.table_on_page(page) == everywhere.table()


def test_every_line_has_rates_or_says_that_there_are_none() -> None:
    """Each bundle and model has a line for every place, with three rates or with words."""
    import everywhere

    lines = [line.strip("|").split(" | ") for line in everywhere.table().splitlines()[2:]]
    assert [line[1] for line in lines] == list(everywhere.PLACES) * (len(lines) // 4)
    for _, place, clean, *others, counted in lines:
        if others == [everywhere.MISSING] * 2:
            assert (clean, counted.strip()) == (everywhere.MISSING, "none"), place
        else:
            assert all("[" in rate for rate in others), place
            assert counted[0].isdigit(), place


def test_draws_are_counted_as_their_card_counts_them() -> None:
    """Rates recomputed from the raw draws of a card are those on it."""
    import everywhere

    bundle = read_bundle("stop-sticker-yolox-v1")
    rates = everywhere.of_draws(list(read_rows(bundle.folder / "rows.jsonl")), "faces")
    assert rates.clean is not None
    for ours, key in (
        (rates.clean, "clean_recognised"),
        (rates.blank, "blank_success"),
        (rates.patch, "success"),
    ):
        recorded = bundle.card.heldout[key]
        assert ours.n == recorded["n"]
        assert [ours.rate, ours.low, ours.high] == pytest.approx(
            [recorded["rate"], recorded["low"], recorded["high"]], abs=1e-6
        )


def test_rows_of_another_run_do_not_count() -> None:
    """Rows of a sticker that was since made anew stay in the file, and out of the table."""
    import everywhere

    bundle = read_bundle("stop-sticker-signs-v1")
    runs = {
        row["run_id"]
        for row in read_rows(BENCHMARKS / "path_traced.jsonl")
        if row["bundle"] == bundle.card.patch.name
    }
    assert len(runs) > 1
    rows = list(everywhere.rows_of("path_traced.jsonl", bundle, "signs"))
    assert {row["run_id"] for row in rows} == {bundle.card.patch.run_id}
