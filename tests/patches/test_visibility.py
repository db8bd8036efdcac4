"""How small a victim reads the clean sign is measured, poses are drawn down to there and no
further, and what a user or an old card states is kept."""

from __future__ import annotations

import json
import math
import re
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import physadv
from hypothesis import given, settings
from hypothesis import strategies as st
from own_model import work_beside
from torch import Tensor
from typer.testing import CliRunner

from physadv.core.sign_artwork import sign_face
from physadv.core.types import Detections
from physadv.eot.placement import Placement
from physadv.eot.presets import eot_preset
from physadv.eot.ranges import NOTHING, EotRanges
from physadv.eot.scenes.load import SceneSources
from physadv.eot.scenes.sign_framing import draw_framing
from physadv.eot.scenes.signs import DrawnScenes, SceneSize
from physadv.patches.apparent_size import describe_objects, size_edges
from physadv.patches.bundle import read_bundle
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import measure_controls
from physadv.patches.patch_run import PatchRun
from physadv.patches.reverify import config_from_bundle, recorded_ranges
from physadv.patches.task import PatchTask, configured_ranges, sample_scenes
from physadv.patches.visibility import (
    VisibilityCurve,
    keeps_distances,
    limit_of,
    measure_visibility,
    visible_ranges,
)
from physadv.threat.patch_goals import PatchGoal
from physadv_cli.main import app

WIDTH_MM = 457.0
ONE_BIN = 1.5
"""Factor between the edges of a bin of size."""


class RedBox:
    """A detector that finds the red octagon exactly, where its box is at least ``least`` of the
    frame's width."""

    def __init__(self, least: float) -> None:
        self.least = least

    def __call__(self, images: Tensor) -> Detections:
        boxes = torch.zeros(len(images), 1, 4)
        scores = torch.zeros(len(images), 1, 1)
        for number, image in enumerate(images):
            ys, xs = torch.nonzero(image[0] - image[1] > 0.2, as_tuple=True)
            if len(xs):
                box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
                boxes[number, 0] = box
                scores[number] = float((box[2:] - box[:2]).max() / image.shape[-1] >= self.least)
        return Detections(boxes, scores)


def task_of(*least: float, ranges: EotRanges | None = None) -> PatchTask:
    """A sign on gray before detectors that read it from some size on."""
    gray = np.full((64, 64, 3), 128, np.uint8)
    scenes = DrawnScenes([sign_face(width_px=128)], [gray], WIDTH_MM)
    return PatchTask(
        models=[RedBox(value) for value in least],
        goal=PatchGoal("vanish", 0, score_threshold=0.5),
        scene_sources=SceneSources(scenes, scenes, scenes, "drawn"),
        mask=torch.ones(1, 1, 8, 10),
        placement=Placement(60, 50, (0.0, 95.0)),
        sign_width_mm=WIDTH_MM,
        scene_size=SceneSize(160, whole_frame=True),
        ranges=replace(NOTHING, frame_share=(0.12, 0.55), yaw_deg=(-40, 40))
        if ranges is None
        else ranges,
    )


FILMED = replace(
    NOTHING,
    distance_m=(1.5, 15.0),
    field_of_view_deg=(45.0, 90.0),
    sensor_px=(1280.0, 2560.0),
    yaw_deg=(-45.0, 45.0),
)


@given(st.floats(0.07, 0.4))
@settings(max_examples=3, deadline=None)
def test_the_limit_of_a_sharp_reader_is_found_within_a_bin(least: float) -> None:
    """A victim that reads the sign exactly from one size on has its limit there, and reads it in
    nearly every draw from there on."""
    task = task_of(least)
    (curve,) = measure_visibility(task)
    assert curve.limit is not None
    assert least / ONE_BIN < curve.limit < least * ONE_BIN
    narrowed = replace(task, ranges=visible_ranges(task, [curve]))
    assert narrowed.ranges.frame_share == (curve.limit, 0.55)
    assert measure_controls(narrowed, 64).clean_recognised.rate > 0.9


@pytest.mark.parametrize("least", [0.06, 0.2])
def test_cameras_draw_no_distance_at_which_nothing_is_read(least: float) -> None:
    """With a distance and any angle of view, draws that wasted half of their views waste hardly any
    and reach farther where the victim sees farther; every bin of size has its share of them."""
    task = task_of(least, ranges=FILMED)
    (curve,) = measure_visibility(task)
    narrowed = replace(task, ranges=visible_ranges(task, [curve]))
    assert measure_controls(narrowed, 64).clean_recognised.rate > 0.9
    if least == 0.2:
        assert measure_controls(task, 64).clean_recognised.rate < 0.6

    scenes = sample_scenes(narrowed, task.scene_sources.test, 300, "sizes")
    views = describe_objects(scenes, narrowed.ranges, WIDTH_MM, whole_frame=True)
    sizes = [view["size"] for view in views]
    counts = np.histogram(np.log(sizes), np.linspace(np.log(min(sizes)), np.log(0.4), 4))[0]
    assert counts.min() > 0.5 * counts.max()
    farthest = max(view["distance_m"] for view in views)
    assert farthest > 0.8 * WIDTH_MM / 1000 * 16 / 9 / (2 * math.tan(math.radians(22.5))) / least


def test_several_victims_are_drawn_to_the_limit_of_the_best() -> None:
    """Each victim has a curve of its own; the farthest reader decides, and one that reads nothing
    changes nothing."""
    task = task_of(0.3, 0.1, 2.0)
    curves = measure_visibility(task)
    limits = [curve.limit for curve in curves]
    assert limits[0] is not None
    assert limits[1] is not None
    assert limits[1] < 0.15 < limits[0]
    assert limits[2] is None
    assert visible_ranges(task, curves).frame_share[0] == limits[1]
    assert visible_ranges(task, curves[2:]) == task.ranges
    assert measure_visibility(task) == curves, "the same task gives the same curves"
    table = [json.loads(json.dumps(curve.as_dict())) for curve in curves]
    assert tuple(VisibilityCurve.from_dict(entry) for entry in table) == curves


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.booleans()), max_size=60), st.randoms())
def test_the_limit_is_a_size_that_was_shown(cases: list[tuple[float, bool]], order: object) -> None:
    """Whatever is answered: the limit is one of the sizes, the order of the draws does not matter,
    all read is the smallest size, none read is no limit; a clean step is found exactly."""
    sizes, answers = [size for size, _ in cases], [answer for _, answer in cases]
    limit = limit_of(sizes, answers)
    assert limit is None or limit in sizes
    assert (limit is None) <= (not all(answers) or not answers)
    mixed = list(dict(cases).items())
    once = limit_of([s for s, _ in mixed], [a for _, a in mixed])
    order.shuffle(mixed)  # type: ignore[attr-defined]
    assert limit_of([s for s, _ in mixed], [a for _, a in mixed]) == once
    if sizes:
        assert limit_of(sizes, [True] * len(sizes)) == min(sizes)
        assert limit_of(sizes, [False] * len(sizes)) is None
        assert limit_of(sizes, [size == max(sizes) for size in sizes], least=61) is None
        step = sorted(sizes)[len(sizes) // 2]
        assert limit_of(sizes, [size >= step for size in sizes]) == step


@given(st.integers(0, 999), st.floats(0.02, 0.8), st.floats(1.0, 4.0))
def test_a_camera_shows_the_sign_in_a_visible_size(seed: int, low: float, factor: float) -> None:
    """A narrowed camera shows the sign between the two sizes wherever its distances allow it, and
    never at another distance than the range; without them draws are what they were."""
    narrow = replace(FILMED, visible_share=(low, low * factor))
    framing = draw_framing(np.random.default_rng(seed), narrow, WIDTH_MM)
    plain = draw_framing(np.random.default_rng(seed), FILMED, WIDTH_MM)
    assert framing is not None
    assert plain is not None
    distance_m = framing.widths * WIDTH_MM / 1000
    assert 1.5 - 1e-9 <= distance_m <= 15 + 1e-9
    share, reach = framing.native_px / framing.frame_px, plain.native_px * plain.widths
    nearest, farthest = (
        reach / at * WIDTH_MM / 1000 / plain.frame_px for at in (low * factor, low)
    )
    if farthest >= 1.5 and nearest <= 15:
        assert low * (1 - 1e-9) <= share <= low * factor * (1 + 1e-9)
    own = np.random.default_rng(seed).spawn(1)[0]
    expected = float(np.exp(own.uniform(*np.log((1.5, 15.0)))))
    assert plain.widths * WIDTH_MM / 1000 == pytest.approx(expected, rel=1e-12)


@given(st.floats(1e-3, 900.0), st.floats(1.0, 60.0))
def test_bins_hold_what_they_shall(smallest: float, factor: float) -> None:
    """Edges rise by a factor of about 1.5, and reach from the smallest to the largest size, and
    hardly beyond."""
    edges = size_edges(smallest, smallest * factor)
    steps = [b / a for a, b in pairwise(edges)]
    assert min(steps) > 1.4
    assert max(steps) < 1.51
    assert edges[0] <= smallest * (1 + 1e-8)
    assert edges[-1] >= smallest * factor * (1 - 1e-8)
    assert edges[0] * 1.51 > smallest * (1 - 1e-8)


SEES = """
import torch
from physadv.models.load import as_model

class Red(torch.nn.Module):
    def forward(self, x):
        red = (x[:, 0] - x[:, 1:].mean(1)).mean((1, 2))
        return torch.stack([60 * red, 1.2 + 0 * red], 1)

def sees(): return as_model(Red(), classes=["stop", "other"], input_size=32)
"""
SMALL = PatchConfig(
    model="visibility_model:sees", steps=4, draws=2, test_draws=60, resolution=8, size_mm=(60, 60)
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model that reads red."""
    work_beside("visibility_model", SEES, tmp_path, monkeypatch)
    return tmp_path


def test_stated_distances_are_kept(place: Path) -> None:
    """What --eot-ranges or a paper states is drawn as it is; a file about something else leaves the
    distances to the victim."""
    file = place / "my.toml"
    file.write_text("size_px = [33, 34]\n")
    run = PatchRun(replace(SMALL, eot_ranges=str(file)), place / "out")
    assert run.task.ranges.size_px == (33.0, 34.0)
    assert run.curves, "the curve is measured all the same"

    file.write_text("yaw_deg = [-5, 5]\n")
    own = PatchRun(replace(SMALL, eot_ranges=str(file)), place / "out").task.ranges
    assert own.yaw_deg == (-5.0, 5.0)
    assert own.size_px[0] < 20
    assert own.size_px[1] == 110
    assert keeps_distances(replace(SMALL, eot="rp2"))
    assert not keeps_distances(replace(SMALL, eot="camera"))


def test_a_published_preset_without_distances_draws_none(place: Path) -> None:
    """Where a preset leaves a classifier's crop sharp, it stays sharp."""
    assert PatchRun(replace(SMALL, eot="athalye"), place / "out").task.ranges == eot_preset(
        "athalye"
    )


def test_a_resumed_run_does_not_measure_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curves are read from the folder of the run, and end on the card; another configuration in
    that folder measures its own."""
    run = PatchRun(SMALL, place / "out")
    for step in run.steps(validate_every=2):
        if step.step == 2:
            break

    def fail(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("physadv.patches.patch_run.measure_visibility", fail)
    again = PatchRun(SMALL, place / "out")
    assert again.task.ranges == run.task.ranges
    for _ in again.steps(validate_every=2):
        pass
    assert again.resumed_at == 2
    card = again.finish()[0].card
    assert card.eot["size_px"] == list(run.task.ranges.size_px)
    assert card.visibility["curves"] == [curve.as_dict() for curve in run.curves]
    with pytest.raises(AssertionError, match="measured again"):
        PatchRun(replace(SMALL, seed=1), place / "out", overwrite=True)


@pytest.mark.parametrize("name", ["toaster-universal-v1", "person-fastestdet-v1"])
def test_old_cards_are_measured_as_they_were(name: str) -> None:
    """The ranges on a card made before visibility was measured are those of its preset; its frames
    were square, with signs without posts up to their edges."""
    made = read_bundle(name)
    later = ("frame_aspect", "frame_place", "post_probability")
    ranges = {key: value for key, value in made.card.eot.items() if key not in later}
    bundle = replace(made, card=replace(made.card, eot=ranges))
    config = config_from_bundle(bundle)
    configured = configured_ranges(config)
    square = replace(configured, frame_aspect=(1.0, 1.0), frame_place=(0.0, 1.0))
    assert recorded_ranges(config, bundle) == replace(square, post_probability=(0.0, 0.0))
    assert recorded_ranges(replace(config, eot="camera"), bundle) is None


def test_the_commands_say_how_far_the_victim_sees(place: Path) -> None:
    """`patch visibility` prints a curve and its limit; `patch` says the limit, and its card and
    `--json` have success by distance and angle, which add up to the whole."""
    words = ["--model", "visibility_model:sees", "--json"]
    shown = physadv(place, "patch", "visibility", *words)
    assert shown.returncode == 0, shown.stderr
    (curve,) = json.loads(shown.stdout)["curves"]
    assert curve["limit"] == pytest.approx(15, rel=0.1)
    assert sum(entry["n"] for entry in curve["sizes"]) == curve["draws"]

    words += ["--size", "60x60", "--steps", "2", "--draws", "2", "--test-draws", "60"]
    made = physadv(place, "patch", *words, "--resolution", "8", "--out", "out")
    assert made.returncode == 0, made.stderr
    assert re.search(r"visibility_model:sees reads the clean sign down to 1\d px", made.stderr)
    result = json.loads(made.stdout)
    card = tomllib.loads((place / "out" / "card.toml").read_text())
    for name in ("by_distance", "by_angle"):
        assert result[name] == card["heldout"][name]
        bins = result[name]["bins"]
        assert sum(entry["clean_recognised"]["n"] for entry in bins) == 60
        assert sum(entry["success"]["n"] for entry in bins) == result["success"]["n"]
    assert result["visibility"]["curves"] == [curve]
    assert "By distance" in Path(place / result["report"]).read_text(encoding="utf-8")
    assert CliRunner().invoke(app, ["report", str(place / "out")]).exit_code == 0
