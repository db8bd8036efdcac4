"""Success by distance and angle: every draw is counted once, in its bin, and a card that claims
another success in one bin is found out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physadv.core.rows import Row
from physadv.patches.by_distance import bin_rates, differing_bins, rate_lines
from physadv.patches.config import PatchConfig
from physadv.patches.patch_run import PatchRun
from physadv.patches.reverify import verify_bundle
from physadv.patches.task import PatchTask


@pytest.fixture(scope="module")
def task() -> PatchTask:
    return PatchTask.from_config(PatchConfig(resolution=8))


def row(size: float, yaw: float | None, clean: bool, success: bool) -> Row:
    """A draw whose blank control never meets the goal."""
    verdict = {"recognised": clean, "success": False}
    known = {} if yaw is None else {"yaw_deg": yaw}
    return {
        **{"group": "stop", "size": size, "clean": verdict, "blank": verdict, **known},
        "patch": {"recognised": not success, "success": success},
    }


def test_bins_count_their_own_draws(task: PatchTask) -> None:
    """Two draws at 50 px, one of them valid, and one at 30 px, counted by hand; the meters are
    those of a camera of 65 degrees and 1920 px."""
    rows = [row(50, -33.0, True, True), row(50, 2.0, False, True), row(30, None, True, False)]
    tables = bin_rates(task, rows)
    small, large = tables["by_distance"]["bins"]
    assert (small["from"], small["to"], large["from"], large["to"]) == (22, 33, 47, 110)
    assert (large["success"]["n"], large["success"]["rate"]) == (1, 1.0)
    assert (large["clean_recognised"]["n"], large["clean_recognised"]["rate"]) == (2, 0.5)
    assert (small["success"]["rate"], small["blank_success"]["rate"]) == (0.0, 0.0)
    assert small["far_m"] == pytest.approx(1506.9 * 0.457 / 22, abs=0.02)
    assert [(b["from"], b["to"]) for b in tables["by_angle"]["bins"]] == [(0, 15), (30, 45)]
    assert "22-33 (21-31)" in "\n".join(rate_lines(tables))


@given(st.lists(st.tuples(st.floats(8, 110), st.floats(-80, 80), st.booleans()), min_size=1))
@settings(deadline=None, max_examples=50)
def test_every_draw_is_in_one_bin(task: PatchTask, draws: list[tuple[float, float, bool]]) -> None:
    """Counts add up, whatever was drawn."""
    tables = bin_rates(task, [row(size, yaw, clean, clean) for size, yaw, clean in draws])
    for table in tables.values():
        assert sum(b["clean_recognised"]["n"] for b in table["bins"]) == len(draws)
        assert sum(b["success"]["n"] for b in table["bins"]) == sum(c for *_, c in draws)


def test_a_bin_that_claims_more_is_found_out(own_model: str, tmp_path: Path) -> None:
    """On the card's own draws `verify` compares every bin; on fresh ones it only names those that
    differ."""
    config = PatchConfig(model=own_model, steps=1, draws=2, test_draws=100, resolution=8)
    run = PatchRun(replace(config, size_mm=(60, 60)), tmp_path / "out")
    for _ in run.steps():
        pass
    bundle, _ = run.finish()
    given_model: dict[str, Any] = {"model": own_model}
    honest = verify_bundle(bundle, given=given_model)
    assert honest.agrees
    assert honest.bins["by_distance"] == bundle.card.heldout["by_distance"]

    heldout = dict(bundle.card.heldout)
    bins = [dict(entry) for entry in heldout["by_distance"]["bins"]]
    busiest = max(bins, key=lambda entry: entry["success"]["n"])
    rate = busiest["success"]["rate"]
    other = 1.0 if rate < 0.5 else 0.0
    busiest["success"] = {"rate": other, "low": abs(other - 0.1), "high": other, "n": 30}
    busiest["success"] |= {"low": 0.9, "high": 1.0} if other else {"low": 0.0, "high": 0.1}
    heldout["by_distance"] = {**heldout["by_distance"], "bins": bins}
    boasting = replace(bundle, card=replace(bundle.card, heldout=heldout))
    caught = verify_bundle(boasting, given=given_model)
    assert not caught.agrees
    assert len(caught.differing) == 1
    fresh = verify_bundle(boasting, given=given_model, fresh=True)
    assert fresh.agrees
    assert fresh.differing


def test_cards_without_bins_have_nothing_to_differ() -> None:
    """A card from before is compared in all, not by bins."""
    assert differing_bins({}, {"by_distance": {"bins": []}}, same_draws=True) == []
    assert rate_lines({}) == []
