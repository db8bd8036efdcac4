"""Size of a sticker that somebody left to us: a band over the word against detectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from own_model import MODEL, work_beside
from test_mixed_ensemble import DETECTOR

from physadv.core.errors import OptionError
from physadv.patches.config import DEFAULT_SIZE_MM, DETECTOR_SIZE_MM, PatchConfig
from physadv.patches.patch_run import PatchRun, checkpoint_key
from physadv.patches.race import Race
from physadv.patches.task import PatchTask


@pytest.fixture
def left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PatchConfig:
    work_beside("sized_models", MODEL + DETECTOR, tmp_path, monkeypatch)
    return PatchConfig(
        model="sized_models:detector", goal="vanish", steps=1, draws=2, resolution=8, test_draws=8
    )


@pytest.mark.parametrize(
    ("change", "class_name", "detectors", "size"),
    [
        ({}, "stop sign", True, DETECTOR_SIZE_MM),
        ({}, "stop", False, DEFAULT_SIZE_MM),
        ({"size_mm": (190, 150)}, "stop sign", True, DEFAULT_SIZE_MM),
        ({"size_mm": (80, 60)}, "stop sign", True, (80, 60)),
        ({"center_mm": (0, 40)}, "stop sign", True, DEFAULT_SIZE_MM),
        ({"mask": "circle"}, "stop sign", True, DEFAULT_SIZE_MM),
        ({"object": "person"}, "person", True, DEFAULT_SIZE_MM),
        ({}, "yield", True, DEFAULT_SIZE_MM),
        ({"sign_width_mm": 914.0}, "stop", True, tuple(2 * side for side in DETECTOR_SIZE_MM)),
    ],
)
def test_the_size_where_it_is_left_open(
    change: dict[str, Any], class_name: str, detectors: bool, size: tuple[float, float]
) -> None:
    """Only a plain rectangle on a stop sign against detectors, without a place, is larger, and as
    wide a share of any sign; what is given stays."""
    config = PatchConfig(**change)
    assert config.size_on(class_name=class_name, detectors=detectors) == size
    assert size in config.possible_sizes


def test_a_run_takes_it_and_finds_its_bundle_again(left_open: PatchConfig, tmp_path: Path) -> None:
    """The card has the size of the run, the same command finds it again, and one with a size of its
    own is another configuration, with checkpoints of its own."""
    run = PatchRun(left_open, tmp_path / "out", force=True)
    assert run.config.size_mm == DETECTOR_SIZE_MM
    assert (run.task.placement.width_mm, run.task.placement.height_mm) == DETECTOR_SIZE_MM
    list(run.steps())
    bundle, _ = run.finish()
    assert (bundle.card.size.width_mm, bundle.card.size.height_mm) == DETECTOR_SIZE_MM

    PatchRun(left_open, tmp_path / "out", force=True)
    given = replace(left_open, size_mm=(190, 150))
    with pytest.raises(OptionError, match="another configuration"):
        PatchRun(given, tmp_path / "out", force=True)
    assert checkpoint_key(given, ()) != checkpoint_key(left_open, ())


def test_an_ensemble_with_a_classifier_keeps_the_size_of_classifiers(
    left_open: PatchConfig,
) -> None:
    """A blank band over the word may be enough for a classifier, so it stays smaller there."""
    mixed = replace(left_open, ensemble=("sized_models:make",))
    placement = PatchTask.from_config(mixed).placement
    assert (placement.width_mm, placement.height_mm) == DEFAULT_SIZE_MM


def test_a_race_keeps_its_area(left_open: PatchConfig) -> None:
    """With --search proportions against a detector every start has the area of the band."""
    searched = replace(left_open, search="proportions", restarts=4)
    task = PatchTask.from_config(searched)
    sized = replace(searched, size_mm=DETECTOR_SIZE_MM)
    area = DETECTOR_SIZE_MM[0] * DETECTOR_SIZE_MM[1]
    for start in Race(sized, task)._starts():
        assert start.size_mm[0] * start.size_mm[1] == pytest.approx(area, rel=0.01)
