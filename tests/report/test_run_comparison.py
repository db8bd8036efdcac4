"""Two runs compared, and runs listed: from their rows, in pairs, and no more than was measured."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_check_report import ROWS, SETTINGS

from physadv.core.errors import DataError
from physadv.core.rows import append_rows
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import (
    RateInterval,
    difference_interval,
    paired_share_difference,
)
from physadv.evaluation.metrics.intervals import wilson_interval as wilson
from physadv.report.run_comparison import compare_runs, read_figures
from physadv.report.run_list import list_runs


def write_run(folder: Path, robust: Sequence[bool], command: str = "evaluate", **identity: object):
    """A run folder of an evaluation in which every image is right and these are robust."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'command = "{command}"\nmodel = "toy"\n')
    settings = {"victim": "toy", "threat": "linf:0.1", "images": len(robust), **identity}
    (folder / "evaluation.json").write_text(json.dumps(settings))
    append_rows(
        folder / "rows.jsonl",
        (
            {"index": i, "image": f"{i}.png", "correct": True, "robust": bool(held)}
            for i, held in enumerate(robust)
        ),
    )
    return folder


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_paired_difference_holds_what_it_must(pairs: list[tuple[bool, bool]]) -> None:
    """It contains the difference, turns its sign with the order, stays within [-1, 1], and is that
    of independent shares where the outcomes are not correlated."""
    first, second = zip(*pairs, strict=True)
    found, turned = paired_share_difference(first, second), paired_share_difference(second, first)
    assert found.value == pytest.approx((sum(second) - sum(first)) / len(pairs))
    assert -1 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    if len(set(first)) == 1:  # a constant outcome is correlated with nothing
        n = len(pairs)
        apart = difference_interval(wilson(sum(first), n), wilson(sum(second), n))
        assert (found.low, found.high) == pytest.approx((max(apart.low, -1), min(apart.high, 1)))


@pytest.mark.parametrize("shares", [(0.5, 0.1, 0.1), (0.6, 0.2, 0.05), (0.25, 0.25, 0.25)])
def test_a_paired_interval_covers(shares: tuple[float, float, float]) -> None:
    """Over 1,500 drawn sets of 40 pairs, the true difference lies within in 93 % or more."""
    both, lost, gained = shares
    random = np.random.default_rng(0)
    kinds = random.choice(4, (1500, 40), p=(both, lost, gained, 1 - sum(shares)))
    inside = 0
    for row in kinds:
        found = paired_share_difference(np.isin(row, (0, 1)), np.isin(row, (0, 2)))
        inside += found.low <= gained - lost <= found.high
    assert inside / len(kinds) >= 0.93


def test_pairs_show_what_shares_alone_hide(tmp_path: Path) -> None:
    """Ten of 100 images lost and none gained: clearly weaker in pairs, not as two shares."""
    before = read_figures(write_run(tmp_path / "a", [True] * 60 + [False] * 40))
    after = read_figures(write_run(tmp_path / "b", [True] * 50 + [False] * 50))
    clean, robust = compare_runs(before, after)
    assert (robust.lost, robust.gained, robust.verdict) == (10, 0, "weaker")
    assert not difference_interval(before.rates["robust"], after.rates["robust"]).is_clear
    assert (clean.name, clean.verdict) == ("clean", "no clear change")
    assert compare_runs(after, before)[1].verdict == "stronger"


def test_only_images_that_both_have_count(tmp_path: Path) -> None:
    """An unfinished run is compared on what it has."""
    before = read_figures(write_run(tmp_path / "a", [True] * 50))
    after = read_figures(write_run(tmp_path / "b", [True] * 20, images=50))
    assert compare_runs(before, after)[1].before.n == 20


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"threat": "linf:0.2"}, "threat linf:0.1 -> linf:0.2"),
        ({"command": "attack"}, "a run of evaluate and one of attack"),
        ({"command": "train"}, "holds a run of train"),
    ],
)
def test_unlike_runs_are_refused(tmp_path: Path, other: dict[str, str], said: str) -> None:
    write_run(tmp_path / "a", [True] * 5)
    write_run(tmp_path / "b", [True] * 5, **other)
    with pytest.raises(DataError, match=said):
        compare_runs(read_figures(tmp_path / "a"), read_figures(tmp_path / "b"))


def test_models_may_differ_in_all_of_their_own_and_images_may_not(tmp_path: Path) -> None:
    """Attributes and class numbers are a model's; a file replaced between the runs is no pair."""
    for name in ("a", "b", "c"):
        attributes = {"temperature": name, "classes of layers": name}
        write_run(tmp_path / name, [True] * 3, image_digest=name, model_attributes=attributes)
        append_rows(
            tmp_path / name / "samples.jsonl",
            (
                {"index": i, "image": f"{i}.png", "label": ord(name), "digest": f"{i}{name > 'b'}"}
                for i in range(3)
            ),
        )
    baseline, other, replaced = (read_figures(tmp_path / name) for name in ("a", "b", "c"))
    assert compare_runs(baseline, other)[1].verdict == "no clear change"
    with pytest.raises(DataError, match=r'other contents of "0.png" and 2 more'):
        compare_runs(baseline, replaced)


def test_checks_are_named_by_patch_and_model(tmp_path: Path) -> None:
    """A check compared with itself: nothing changes, and the longest name keeps its distance."""
    append_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "config.toml").write_text('command = "check"\n')
    (tmp_path / "check.json").write_text(json.dumps({**SETTINGS, "bundle": {"name": "sticker"}}))
    figures = read_figures(tmp_path)
    assert figures.subject == f"sticker on {SETTINGS['victim']['name']}"
    changes = compare_runs(figures, figures)
    assert {change.name for change in changes} == {"recognized", "success"}
    assert all(change.verdict == "no clear change" for change in changes)
    assert all(change.headline.startswith(f"{change.name} ") for change in changes)


def test_runs_are_listed_with_what_they_measured(tmp_path: Path) -> None:
    """Finished, unfinished and broken ones alike; files, other folders and links are not."""
    write_run(tmp_path / "done", [True, False])
    write_run(tmp_path / "half", [True], images=4)
    write_run(tmp_path / "broken", [True])
    (tmp_path / "broken/rows.jsonl").write_text("nonsense\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "done")
    found = {run.folder.name: run for run in list_runs(tmp_path)}
    assert set(found) == {"done", "half", "broken"}
    assert "robust 50.0 %" in found["done"].result
    assert found["half"].result.startswith("1 of 4 images: ")
    assert found["broken"].result.startswith("cannot be read: ")


def test_a_patch_is_listed_with_its_success_beside_the_blank_one(tmp_path: Path) -> None:
    """The figures are those of the bundle's card; a run without one is not finished yet."""
    for name in ("made", "going"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text('command = "patch"\nmodel = "signs"\n')
    card = Path(__file__).parents[2] / "patches" / "stop-sticker-signs-v1" / "card.toml"
    shutil.copy(card, tmp_path / "made" / "card.toml")
    heldout = tomllib.loads(card.read_text(encoding="utf-8"))["heldout"]

    found = {run.folder.name: run.result for run in list_runs(tmp_path)}
    assert str(RateInterval(**heldout["success"])) in found["made"]
    assert format_percent(heldout["blank_success"]["rate"]) in found["made"]
    assert found["going"] == "unfinished"


def test_runs_on_properties_and_studies_are_listed_too(tmp_path: Path) -> None:
    """What is no run on images of a classifier has its own line, and is not compared."""
    run = write_run(tmp_path / "v", [True], command="certify", properties=3)
    (run / "rows.jsonl").unlink()
    append_rows(run / "rows.jsonl", ({"index": i, "verdict": "verified"} for i in range(2)))
    study = tmp_path / "s"
    study.mkdir()
    (study / "config.toml").write_text('command = "study-norms"\n')
    found = {run.folder.name: run for run in list_runs(tmp_path)}
    assert found["v"].result == "2 of 3 properties: 2 verified"
    assert (found["s"].command, found["s"].result) == ("study norms", "unfinished")
    with pytest.raises(DataError, match="properties of networks"):
        read_figures(run)
