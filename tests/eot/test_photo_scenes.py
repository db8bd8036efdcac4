"""Patches anywhere in photos and on the objects in them: where they lie, how large, and what is
judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from physadv.core.random_streams import generator, numpy_generator
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.photos import (
    OnObjects,
    PatchAnywhere,
    PatchPose,
    ScenePhoto,
    patch_boxes,
    shrink_photo,
)
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.signs import SceneSize

VIEW = SceneSize(96, False)
FLAT = EotRanges(yaw_deg=(0, 0), pitch_deg=(0, 0))


def gray(name: str, label: int = 0, boxes: list[list[float]] | None = None) -> ScenePhoto:
    image = np.full((120, 160, 3), 90, np.uint8)
    return ScenePhoto(image, name, label, None if boxes is None else np.array(boxes))


def alpha_of(scenes: SceneBatch, lie: PatchPose) -> Tensor:
    """(b, h, w): where the patch lies, found by rendering a white patch on black scenes without
    lens or sensor."""
    from physadv.eot.placement import place_patch

    black = torch.zeros_like(scenes.images)
    one, none = torch.ones(len(black), 3), torch.zeros(len(black), 3)
    mask = torch.ones(1, 1, 64, 64)
    light = torch.ones(1, 3, 64, 64)
    shown = black
    for matrix in (scenes.homography, *(() if scenes.others is None else scenes.others.unbind(1))):
        shown = place_patch(
            shown, light, mask, matrix, Placement(lie.width_mm, lie.height_mm), one, none
        )
    return shown[:, 0]


def test_anywhere_keeps_within_what_the_model_sees() -> None:
    """No patch is cut by the picture's edge or by the victim's own crop, and its area is what its
    share says."""
    lie = PatchPose(100, 100, share=(0.3, 0.4), roll_deg=(-45, 45))
    source = PatchAnywhere([gray("a", 3), gray("b", 5)], lie, inner=0.875)
    scenes = source.sample(40, VIEW, FLAT, numpy_generator(0, "t"))
    alpha = alpha_of(scenes, lie)
    edge = int(96 * (1 - 0.875) / 2) - 1
    assert float(alpha[:, :edge].max()) == 0
    assert float(alpha[:, -edge:].max()) == 0
    assert float(alpha[:, :, :edge].max()) == 0
    side = alpha.sum((1, 2)).sqrt() / (0.875 * 96)
    assert float(side.min()) > 0.29
    assert float(side.max()) < 0.41
    assert float(side.max() - side.min()) > 0.05
    assert scenes.marks is not None
    assert scenes.marks.labels is not None
    assert [3 if g == "a" else 5 for g in scenes.groups] == scenes.marks.labels.tolist()


def test_a_tilted_patch_keeps_its_area() -> None:
    """Perspective changes its shape, not how large it is seen; its box holds it."""
    lie = PatchPose(80, 40, share=(0.4, 0.4), tilt=1.0)
    scenes = PatchAnywhere([gray("a")], lie).sample(20, VIEW, EotRanges(), numpy_generator(1, "t"))
    area = alpha_of(scenes, lie).sum((1, 2))
    assert area.tolist() == pytest.approx([(0.4 * 96) ** 2 / 2] * 20, rel=0.06)
    boxes = patch_boxes(scenes.homography, lie, 96)
    assert bool(((boxes[:, 2:] - boxes[:, :2]).prod(1) > 0.95 * area).all())


def test_every_object_wears_the_patch() -> None:
    """Each marked object carries one patch of its share of the diagonal, about the torso; nothing
    else carries any."""
    boxes = [[20.0, 20.0, 60.0, 110.0], [90.0, 30.0, 120.0, 100.0]]
    lie = PatchPose(100, 100, share=(0.2, 0.2), roll_deg=(-20, 20), tilt=0.0)
    source = OnObjects(
        [gray("two", 0, boxes), gray("one", 0, boxes[:1])], lie, center=(0.5, 0.4), jitter=0.0
    )
    scenes = source.sample(30, SceneSize(96, True), FLAT, numpy_generator(2, "t"))
    marks = scenes.marks
    assert marks is not None
    assert marks.scene is not None
    alpha = alpha_of(scenes, lie)
    assert int((marks.scene.bincount() == 2).sum()) > 3
    for number in range(30):
        own = marks.boxes[marks.scene == number]
        sides = own[:, 2:] - own[:, :2]
        if bool((own <= 0).any() | (own >= 96).any()):
            continue  # the picture cuts it: its own diagonal is longer than what is marked
        wanted = float(((0.2 * sides.norm(dim=1)) ** 2).sum())
        assert float(alpha[number].sum()) == pytest.approx(wanted, rel=0.1)
        for box in own:
            x, y = (box[:2] + torch.tensor([0.5, 0.4]) * (box[2:] - box[:2])).int().tolist()
            assert float(alpha[number, min(y, 95), min(x, 95)]) > 0.9


def test_scenes_replay_and_reach_the_chain() -> None:
    """The same generator gives the same scenes; through the whole chain a patch on two objects gets
    their gradients."""
    boxes = [[20.0, 20.0, 60.0, 110.0], [90.0, 30.0, 120.0, 100.0]]
    lie = PatchPose(100, 100, share=(0.25, 0.25))
    source = OnObjects([gray("two", 0, boxes)], lie)
    first, again = (
        source.sample(3, SceneSize(64, True), EotRanges(), numpy_generator(3, "t"))
        for _ in range(2)
    )
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.homography, again.homography)
    patch = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    pipeline = Pipeline.from_ranges(EotRanges())
    draw = pipeline.sample(first, generator(0, "e"))
    picture = pipeline.apply(patch, torch.ones(1, 1, 8, 8), Placement(100, 100), first, draw)
    clean = pipeline.without_patch(first, draw)
    changed = ((picture - clean).abs().amax(1) > 0.02).float().mean((1, 2))
    assert first.others is not None
    assert float(changed.min()) > 0.02
    picture.sum().backward()  # type: ignore[no-untyped-call]
    assert patch.grad is not None
    assert float(patch.grad.abs().min()) > 0


def test_shrink_never_enlarges() -> None:
    """Large photos come down to the given shorter side; small ones stay."""
    assert shrink_photo(np.zeros((300, 600, 3), np.uint8), 100).shape == (100, 200, 3)
    assert shrink_photo(np.zeros((30, 60, 3), np.uint8), 100).shape == (30, 60, 3)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_patch_of_any_size_shows_in_the_picture(share: float) -> None:
    """However much of the picture it covers, and over its edges, what the chain renders changes by
    about that much."""
    lie = PatchPose(100, 100, share=(share, share))
    scenes = PatchAnywhere([gray("a")], lie).sample(
        4, SceneSize(64, False), EotRanges(), numpy_generator(0, "z")
    )
    pipeline = Pipeline.from_ranges(EotRanges())
    draw = pipeline.sample(scenes, generator(0, "e"))
    blue = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    shown = pipeline.apply(blue, torch.ones(1, 1, 8, 8), Placement(100, 100), scenes, draw)
    changed = (
        ((shown - pipeline.without_patch(scenes, draw)).abs().amax(1) > 0.05).float().mean((1, 2))
    )
    assert float(changed.min()) > 0.7 * share**2
