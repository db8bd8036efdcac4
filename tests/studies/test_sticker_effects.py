"""The study of what print and camera destroy of a sticker."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from physadv.eot.ranges import NEUTRAL
from physadv.report.study_report import study_chapter, write_study_report
from physadv.studies.attack_configs import PhysicalConfig
from physadv.studies.sticker_effects import (
    ALL_EFFECTS,
    ARMS,
    DIGITAL,
    FULL,
    NO_EFFECT,
    STUDY,
    twin_ways,
    with_only,
)
from physadv.studies.study import run_study, study_rows
from physadv.twin.cameras import CCTV, leave_out
from physadv.twin.cameras import EFFECTS as CAMERA_EFFECTS
from physadv.twin.flat_print import stored_picture


def test_each_effect_stands_alone() -> None:
    """A column's ranges are those of the whole way in its own fields and neutral in all others;
    together the columns have what the whole way has but mosaic, sharpening and lens."""
    covered: set[str] = set()
    for name, ranges in DIGITAL.items():
        if name in (NO_EFFECT, ALL_EFFECTS):
            continue
        on = {n for n in NEUTRAL if getattr(ranges, n) != NEUTRAL[n]}
        assert on
        assert all(getattr(ranges, n) == getattr(FULL, n) for n in on)
        covered |= on
    acting = {n for n in NEUTRAL if getattr(FULL, n) != NEUTRAL[n]}
    of_frames = {"frame_aspect", "frame_place", "post_probability"}  # a classifier is shown crops
    assert acting - covered <= {"bayer_probability", "sharpening", "lens_k1", *of_frames}


def test_nothing_acts_where_nothing_is_named() -> None:
    """Without a name every effect is off."""
    ranges = with_only()
    assert all(
        getattr(ranges, f.name) == NEUTRAL[f.name] for f in fields(ranges) if f.name in NEUTRAL
    )


def test_ways_to_film_end_with_whole_cameras() -> None:
    """First no effect, then each effect alone, then cameras as they are."""
    ways = twin_ways(PhysicalConfig())
    assert ways[0].camera == leave_out(CCTV, CAMERA_EFFECTS)
    assert ways[-1].camera == CCTV
    noise = next(way for way in ways if way.name == "noise")
    assert noise.camera.read_noise == CCTV.read_noise
    assert noise.camera.jpeg == 100


def test_a_stored_picture_loses_by_its_quality() -> None:
    """At quality 100 a picture is delivered as it is; below, it changes."""
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    assert (stored_picture(picture, 100) == picture).all()
    assert (stored_picture(picture, 40) != picture).any()


@pytest.mark.slow
def test_a_quick_run_makes_a_page_and_resumes(tmp_path: Path) -> None:
    """Every part has rows, all counts lie within their n, and a second run adds nothing."""
    config = PhysicalConfig(quick=True)
    list(run_study(STUDY, config, tmp_path))
    rows = study_rows(STUDY, config, tmp_path)
    for arm in (name for name in ARMS if f"make {name}" in rows):
        for row in (*rows[f"effects {arm}"], *rows[f"twin {arm}"]):
            assert 0 <= row["success"] <= row["n"]
            assert 0 <= row["blank"] <= row["n"]

    before = (tmp_path / "rows.jsonl").read_bytes()
    list(run_study(STUDY, config, tmp_path))
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert write_study_report(study_chapter(STUDY, config, tmp_path)).is_file()
