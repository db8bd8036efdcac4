"""A race finds the place where the victim looks, and is kept by a run that is stopped."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from own_model import work_beside

from physadv.core.errors import OptionError
from physadv.eot.mask_shapes import bar_layout, make_mask
from physadv.patches import config as config_module
from physadv.patches import patch_run, race
from physadv.patches.config import PatchConfig
from physadv.patches.patch_run import PatchRun, checkpoint_key
from physadv.patches.reverify import config_from_bundle, verify_bundle

CORNER = """
import torch
from physadv.models.load import as_model

class UpperLeft(torch.nn.Module):
    # Sees a stop sign unless the upper left of the picture is green.
    def forward(self, x):
        part = x[:, :, 4:14, 4:14]
        green = (part[:, 1] - part[:, ::2].mean(1)).mean((1, 2))
        return torch.stack([2 + 0 * green, 60 * green], 1)

class BlindedByWhite(UpperLeft):
    # No stop sign any more where the lower right has something white.
    def forward(self, x):
        white = (x[:, :, 18:28, 18:28].amin(1) > 0.6).float().mean((1, 2))
        return super().forward(x) + torch.stack([0 * white, 1e4 * (white > 0.3)], 1)

class Trap(UpperLeft):
    # A third class stands close behind the stop sign, and nothing moves it nearer than that. What
    # the loss aims at at first is that one, and its gradient leads away from green.
    def forward(self, x):
        stop, green = super().forward(x).unbind(1)
        pale = x[:, :, 4:14, 4:14].mean((1, 2, 3))
        return torch.stack([stop, green - 4, 1.2 + 0.5 * torch.tanh(pale)], 1)

class FarApart(UpperLeft):
    # Green is needed above and below the middle, farther apart than a square sticker is tall.
    def forward(self, x):
        green = x[:, 1] - x[:, ::2].mean(1)
        least = torch.minimum(
            green[:, 8:11, 11:21].mean((1, 2)), green[:, 21:24, 11:21].mean((1, 2))
        )
        return torch.stack([2 + 0 * least, 60 * least], 1)

def far_apart():
    return as_model(FarApart(), classes=["stop", "other"], input_size=32)

def trap():
    return as_model(Trap(), classes=["stop", "green", "near"], input_size=32)

def corner():
    return as_model(UpperLeft(), classes=["stop", "other"], input_size=32)

def blinded():
    return as_model(BlindedByWhite(), classes=["stop", "other"], input_size=32)
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PatchConfig:
    work_beside("corner_models", CORNER, tmp_path, monkeypatch)
    monkeypatch.setattr(patch_run, "measure_visibility", lambda task: ())
    monkeypatch.setattr(race, "_ROUND_STEPS", 3)
    monkeypatch.setattr(race, "_VALIDATION_DRAWS", 32)
    narrow = "yaw_deg = 0\npitch_deg = 0\nroll_deg = 0\nmargin = 0.02\nsize_px = [40, 60]\n"
    (tmp_path / "narrow.toml").write_text(narrow)
    return PatchConfig(
        model="corner_models:corner",
        search="place",
        restarts=6,
        size_mm=(140, 140),
        steps=2,
        draws=4,
        resolution=8,
        test_draws=8,
        eot_ranges=str(tmp_path / "narrow.toml"),
        faces="plain",
    )


def test_the_place_where_the_victim_looks_wins(settings: PatchConfig, tmp_path: Path) -> None:
    """From below the center the sticker comes to the upper left. The card records the place and the
    race, verifies, and the same command finds its own bundle again."""
    run = PatchRun(settings, tmp_path / "out", force=True)
    list(run.steps())
    bundle, _ = run.finish()
    x, y = bundle.card.placement.center_mm
    assert x < -20
    assert y < -20
    assert tuple(bundle.card.optimisation["center_mm"]) == (x, y)
    assert bundle.card.optimisation["race"]["starts"] == 6
    assert bundle.card.optimisation["race"]["draws"] > 0
    own = config_from_bundle(bundle)
    assert own.center_mm == (x, y)
    given = {"model": settings.model}
    assert verify_bundle(bundle, given=given).agrees
    PatchRun(settings, tmp_path / "out")  # refuses the bundle of another configuration
    with pytest.raises(OptionError, match="search"):
        PatchRun(replace(settings, search="none"), tmp_path / "out")


def test_a_race_is_run_once(settings: PatchConfig, tmp_path: Path) -> None:
    """A run that is killed after the race goes on from its winner, which the seed alone decides."""
    first = PatchRun(settings, tmp_path / "a", force=True)
    states = list(first.race())
    assert states[-1].is_over
    assert [state.steps for state in states] == sorted(state.steps for state in states)
    again = PatchRun(settings, tmp_path / "a", force=True)
    assert list(again.race()) == []
    other = PatchRun(settings, tmp_path / "b", force=True)
    list(other.race())
    winners = [
        race.load_start(tmp_path / name, checkpoint_key(settings, first.weight_hashes))
        for name in "ab"
    ]
    for run in (first, again, other):
        assert run.config.center_mm == run.task.placement.center_mm == states[-1].best.center_mm
    for won in winners:
        assert won is not None
        assert won.patch.equal(states[-1].patch)
    assert race.load_start(tmp_path / "a", key=1) is None


def test_a_race_that_is_stopped_keeps_what_leads(settings: PatchConfig, tmp_path: Path) -> None:
    """The start that leads becomes the bundle, of no steps; the same run then begins anew."""
    run = PatchRun(settings, tmp_path / "out", force=True)
    *_, leading = itertools.islice(run.race(), 4)
    bundle, _ = run.finish()
    assert bundle.card.placement.center_mm == leading.best.center_mm
    assert bundle.card.optimisation["steps_done"] == 0
    assert bundle.patch.sub(leading.patch).abs().max() <= 0.5 / 255 + 1e-6
    again = PatchRun(settings, tmp_path / "out", force=True)
    assert len(list(again.race())) > 4


def test_proportions_keep_the_area(settings: PatchConfig) -> None:
    """Every start lies on the sign, and its sticker is as large as the one given."""
    searched = replace(settings, search="proportions", size_mm=(190, 100))
    starts = [start for start, _ in zip(race._random_starts(searched), range(40), strict=False)]
    assert len({start.size_mm for start in starts}) > 3
    for start in starts:
        width, height = start.size_mm
        assert width * height == pytest.approx(190 * 100, rel=0.01)
        x, y = abs(start.center_mm[0]) + width / 2, abs(start.center_mm[1]) + height / 2
        assert max(x, y) <= 457 / 2
        assert x + y <= 457 / 2**0.5


def test_the_middle_of_the_sign_races_in_every_proportion(settings: PatchConfig) -> None:
    """Places spread evenly may leave it out, and against detectors it is often the best one."""
    searched = replace(settings, search="proportions", size_mm=(190, 100))
    starts = list(race._central_starts(searched))
    assert {start.center_mm for start in starts} == {(0.0, 0.0)}
    assert len({start.size_mm for start in starts}) == len(race._PROPORTIONS)
    assert [s.size_mm for s in race._central_starts(replace(searched, search="place"))] == [
        (190.0, 100.0)
    ]


def test_bars_keep_the_area(settings: PatchConfig) -> None:
    """Bars that race, and their neighbors, cover as much as the rectangle given, on the sign. They
    race with `shape` and a rectangle only."""
    searched = replace(settings, search="shape", size_mm=(137, 105))
    starts = [start for start, _ in zip(race._bar_starts(searched), range(20), strict=False)]
    others = [other for start in starts for other in race._other_bars(start, 1.2)]
    counts = {layout[0] for start in starts if (layout := bar_layout(start.mask)) is not None}
    assert counts == {2, 3, 4, 5, 6}
    assert len({(start.mask, start.size_mm) for start in others}) > 60
    for start in (*starts, *others):
        layout = bar_layout(start.mask)
        assert layout is not None
        assert layout[1] * start.size_mm[0] * start.size_mm[1] == pytest.approx(137 * 105, rel=0.01)
        mask = make_mask(start.mask, *start.size_mm, longest_px=64)
        assert float(mask.mean()) == pytest.approx(layout[1], abs=1e-4)
    assert all(race._is_on_sign(start, 457) for start in starts)
    assert searched.searches_bars
    assert not replace(searched, search="proportions").searches_bars
    assert not replace(searched, mask="circle").searches_bars


def test_bars_win_where_one_piece_cannot(
    settings: PatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The victim looks at two places farther apart than a square reaches. The card has the bars,
    the bundle verifies, and the same command goes on from the race and finds its bundle again."""
    monkeypatch.setattr(race, "_PROPORTIONS", (1.0,))
    far = replace(
        settings, model="corner_models:far_apart", search="shape", restarts=4, resolution=16
    )
    run = PatchRun(far, tmp_path / "out", force=True)
    *_, last = run.steps()
    assert last.best_success > 0.6
    bundle, _ = run.finish()
    layout = bar_layout(bundle.card.optimisation["mask"])
    assert layout is not None
    assert float(bundle.mask.mean()) == pytest.approx(layout[1], abs=0.06)
    assert bundle.card.patch.name.endswith("-bars")
    assert bundle.card.optimisation["race"]["starts"] == 4
    assert verify_bundle(bundle, given={"model": far.model}).agrees
    again = PatchRun(far, tmp_path / "out")
    assert list(again.race()) == []
    assert again.task.mask.equal(run.task.mask)
    assert again.config == run.config


def test_no_place_that_a_blank_sticker_wins(settings: PatchConfig, tmp_path: Path) -> None:
    """At the lower right covering alone does it: none of the starts there races."""
    run = PatchRun(replace(settings, model="corner_models:blinded"), tmp_path / "out", force=True)
    entered = race.Race(run.config, run.task)
    lower_right = race.Start((90.0, 90.0), (140.0, 140.0))
    assert entered._blank_success(lower_right) > 0.5
    assert entered._blank_success(replace(lower_right, center_mm=(90.0, -90.0))) == 0
    assert all(start.center_mm[0] < 60 or start.center_mm[1] < 60 for start in entered._starts())


def test_a_class_that_is_near_but_out_of_reach_is_avoided(
    settings: PatchConfig, tmp_path: Path
) -> None:
    """The loss would aim at the nearest class, which never wins; the race finds the other one, and
    the steps after it, a resumed run and the card keep to that."""
    stuck = replace(settings, model="corner_models:trap", center_mm=(-80, -80), search="none")
    alone = PatchRun(replace(stuck, restarts=1, steps=12), tmp_path / "alone", force=True)
    assert race.nearest_classes(alone.task) == (2,)
    *_, last = alone.steps()
    assert last.best_success < 0.5

    run = PatchRun(replace(stuck, restarts=2, steps=12), tmp_path / "out", force=True)
    *_, last = run.steps()
    assert last.best_success > 0.9
    assert run.task.goal.avoided_class == 2
    bundle, _ = run.finish()
    assert bundle.card.optimisation["race"]["avoided"] == ["near"]
    again = PatchRun(replace(stuck, restarts=2, steps=12), tmp_path / "out")
    assert list(again.race()) == []
    assert again.task.goal.avoided_class == 2


def test_textures_race_where_the_place_is_given(settings: PatchConfig, tmp_path: Path) -> None:
    """With restarts alone the sticker stays where it is told to be."""
    given = replace(settings, search="none", restarts=3, center_mm=(-80, -80))
    run = PatchRun(given, tmp_path / "out", force=True)
    *_, last = run.race()
    assert last.best.center_mm == run.config.center_mm == (-80, -80)
    assert len({start.texture for start in race.Race(given, run.task)._starts()}) == 3


def test_a_plain_sticker_of_a_long_run_is_searched_for(
    settings: PatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a center and a search of one's own the place is searched, and the card says so.

    The same command finds its bundle again; one with a center, or of another size, is another
    configuration.
    """
    monkeypatch.setattr(config_module, "_LEAST_SEARCHED_STEPS", 2)
    monkeypatch.setattr(config_module, "_LEAST_SEARCHED_DRAWS", 4)
    left_open = replace(settings, search="auto")
    run = PatchRun(left_open, tmp_path / "out", force=True)
    list(run.steps())
    bundle, _ = run.finish()
    assert bundle.card.optimisation["search"] == "place"
    assert bundle.card.placement.center_mm != (0, 0)
    PatchRun(left_open, tmp_path / "out")
    for other in ({"center_mm": (0.0, 0.0)}, {"size_mm": (120, 120)}, {"search": "none"}):
        with pytest.raises(OptionError, match="another configuration"):
            PatchRun(replace(left_open, **other), tmp_path / "out")
    assert checkpoint_key(left_open, ()) != checkpoint_key(
        replace(left_open, center_mm=(0.0, 0.0)), ()
    )


@pytest.mark.parametrize(
    ("change", "classifiers", "searched"),
    [
        ({}, True, "proportions"),
        ({"size_mm": (120, 120)}, True, "place"),
        ({}, False, "none"),
        ({"center_mm": (0, 0)}, True, "none"),
        ({"mask": "circle"}, True, "none"),
        ({"steps": 199}, True, "none"),
        ({"steps": 3000, "draws": 15}, True, "none"),
        ({"true_class": "yield"}, True, "none"),
        ({"object": "person"}, True, "none"),
        ({"search": "shape", "steps": 1}, False, "shape"),
    ],
)
def test_what_is_searched_where_it_is_left_open(
    change: dict[str, Any], classifiers: bool, searched: str
) -> None:
    """A rectangle on a stop sign, against classifiers, in a run that is long enough for a race."""
    config = PatchConfig(**change)
    found = config.search_on(class_name=config.true_class, classifiers=classifiers)
    assert found == searched


@pytest.mark.parametrize(
    ("change", "said"), [({"search": "anywhere"}, "--search"), ({"object": "person"}, "sign")]
)
def test_a_search_without_sense_is_refused(
    change: dict[str, str], said: str, settings: PatchConfig
) -> None:
    """An unknown search, and one where the patch has no one place."""
    with pytest.raises(OptionError, match=said):
        replace(settings, **change)  # type: ignore[arg-type]
