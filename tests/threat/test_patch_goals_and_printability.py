"""Goals of a patch, for classifiers and detectors, and what makes it printable."""

from __future__ import annotations

import pytest
import torch

from physadv.core.boxes import box_iou
from physadv.core.errors import ModelError, OptionError
from physadv.core.types import Detections
from physadv.threat.patch_goals import Annotations, PatchGoal
from physadv.threat.printability import (
    PatchAppearance,
    ink_palette,
    non_printability,
    total_variation,
)

NO_BOX = torch.zeros(3, 4)
LOGITS = torch.tensor([[5.0, 0.0, 1.0], [0.0, 5.0, 1.0], [1.0, 0.5, 5.0]])


def test_untargeted_loss_falls_as_the_truth_loses() -> None:
    """Lower is better for the attacker; success is that the true class is no longer the verdict."""
    goal = PatchGoal("untargeted", 0)
    loss = goal.loss(LOGITS, NO_BOX)
    assert loss[0] > loss[1]
    assert loss[0] > loss[2]
    assert goal.succeeded(LOGITS, NO_BOX).tolist() == [False, True, True]
    assert goal.recognized(LOGITS, NO_BOX).tolist() == [True, False, False]


def test_an_avoided_class_is_not_aimed_at_but_counts() -> None:
    """The loss pulls another class up, though a nearer one is avoided; its verdict still wins."""
    goal = PatchGoal("untargeted", 0, avoided_class=1)
    logits = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(goal.loss(logits, NO_BOX[:1]).sum(), logits)
    assert gradient[0, 1] == 0
    assert gradient[0, 2] < 0 < gradient[0, 0]
    assert goal.succeeded(torch.tensor([[0.0, 1.0, 0.0]]), NO_BOX[:1]).all()
    aimed = PatchGoal("targeted", 0, 1)
    shut = PatchGoal("targeted", 0, 1, avoided_class=1)
    assert shut.loss(LOGITS, NO_BOX).equal(aimed.loss(LOGITS, NO_BOX))


def test_targeted_success_needs_the_target() -> None:
    """Another wrong class is no success of a targeted patch, and its loss is not the lowest."""
    goal = PatchGoal("targeted", 0, 1)
    assert goal.succeeded(LOGITS, NO_BOX).tolist() == [False, True, False]
    assert int(goal.loss(LOGITS, NO_BOX).argmin()) == 1


def test_goals_without_sense_are_refused() -> None:
    """Unknown goals, missing targets and classes the victim lacks name the remedy."""
    with pytest.raises(OptionError, match="explode"):
        PatchGoal("explode", 0)
    with pytest.raises(OptionError, match="--target"):
        PatchGoal("targeted", 1)
    with pytest.raises(ModelError, match="class 7"):
        PatchGoal("untargeted", 7).loss(LOGITS, NO_BOX)
    with pytest.raises(ModelError, match="class 9"):
        PatchGoal("untargeted", 0, avoided_class=9).loss(LOGITS, NO_BOX)


def detections(score: float, shift: float = 0.0) -> Detections:
    boxes = torch.tensor([[[10.0 + shift, 10.0, 30.0 + shift, 30.0], [60.0, 60.0, 80.0, 80.0]]])
    scores = torch.tensor([[[score, 0.1], [0.9, 0.0]]])
    return Detections(boxes, scores)


def test_a_detector_sees_the_sign_only_where_it_stands() -> None:
    """A strong box elsewhere does not count as seeing this sign; a strong box on it does."""
    goal, box = PatchGoal("vanish", 0), torch.tensor([[10.0, 10.0, 30.0, 30.0]])
    assert bool(goal.recognized(detections(0.8), box))
    assert bool(goal.succeeded(detections(0.1), box))
    assert bool(goal.succeeded(detections(0.8, shift=25.0), box))
    assert float(goal.loss(detections(0.8), box)) > float(goal.loss(detections(0.1), box))


def test_overlap_of_known_boxes() -> None:
    """Half shifted squares overlap by one third; disjoint ones by nothing."""
    candidates = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]]])
    overlap = box_iou(torch.tensor([[[0.0, 0.0, 2.0, 2.0]]]), candidates)
    assert overlap[0, 0].tolist() == pytest.approx([1, 1 / 3, 0])


def test_total_variation_of_stripes() -> None:
    """A flat patch has none, stripes one jump a pixel along their axis; jumps over the mask's edge
    do not count."""
    flat, mask = torch.full((1, 3, 8, 8), 0.3), torch.ones(1, 1, 8, 8)
    stripes = (torch.arange(8) % 2).float().expand(1, 3, 8, 8)
    assert float(total_variation(flat, mask)) == 0
    assert float(total_variation(stripes, mask)) == pytest.approx(7 * 8 / 64)
    half = mask.clone()
    half[..., 4:] = 0
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    assert float(total_variation(edge, half)) == 0


def test_printable_colors_cost_nothing() -> None:
    """A patch of palette colors scores zero; a saturated primary does not."""
    palette, mask = ink_palette(), torch.ones(1, 1, 8, 8)
    printable = palette.T.reshape(1, 3, 8, 8)
    assert float(non_printability(printable, mask, palette)) == pytest.approx(0, abs=1e-3)
    pure = torch.zeros(1, 3, 8, 8)
    pure[:, 1] = 1
    assert float(non_printability(pure, mask, palette)) > 0.1


class Toy(torch.nn.Module):
    """Two fixed candidates, on the object and on an empty place; scores of three classes are
    sigmoids of one pixel."""

    def forward(self, images: torch.Tensor) -> Detections:
        boxes = torch.tensor([[10.0, 10.0, 30.0, 30.0], [60.0, 60.0, 80.0, 80.0]]).expand(
            len(images), 2, 4
        )
        x = images[
            :, :, 0, 0
        ]  # (b, 3): red is the score of class 0 on the object, green of class 1, blue elsewhere
        on = torch.stack([x[:, 0], x[:, 1], 0 * x[:, 0] + 0.05], 1)
        off = torch.stack([0 * x[:, 0] + 0.05, x[:, 2], 0 * x[:, 0]], 1)
        return Detections(boxes, torch.stack([on, off], 1))


def descended(
    goal: PatchGoal, box: list[float], start: tuple[float, float, float]
) -> tuple[list[float], bool]:
    image = torch.tensor(start).view(1, 3, 1, 1).clone()
    marks = torch.tensor([box])
    for _ in range(60):
        image.requires_grad_()
        (gradient,) = torch.autograd.grad(goal.loss(Toy()(image), marks).sum(), image)
        image = (image - 0.05 * gradient.sign()).clamp(0, 1).detach()
    return image.flatten().tolist(), bool(goal.succeeded(Toy()(image), marks))


ON, OFF = [10.0, 10.0, 30.0, 30.0], [58.0, 58.0, 84.0, 84.0]


@pytest.mark.parametrize(
    ("goal", "box", "optimum"),
    [
        (PatchGoal("vanish", 0), ON, (0.0, None, None)),
        (PatchGoal("misclassify", 0), ON, (0.0, 1.0, None)),
        (PatchGoal("misclassify", 0, 1), ON, (0.0, 1.0, None)),
        (PatchGoal("targeted", 0, 1), ON, (0.0, 1.0, None)),
        (PatchGoal("create", 0, 1), OFF, (None, None, 1.0)),
    ],
    ids=lambda value: value.kind if isinstance(value, PatchGoal) else None,
)
def test_each_goal_ends_at_its_closed_form(
    goal: PatchGoal, box: list[float], optimum: tuple[float | None, float | None, float | None]
) -> None:
    """On the toy every goal pushes exactly the scores it is about to 0 or 1, leaves the others, and
    then succeeds."""
    reached, success = descended(goal, box, (0.6, 0.3, 0.15))
    for value, wanted, began in zip(reached, optimum, (0.6, 0.3, 0.15), strict=True):
        assert value == pytest.approx(began if wanted is None else wanted, abs=1e-6)
    assert success


def test_misclassify_is_not_vanish_and_create_needs_an_empty_place() -> None:
    """A box that is gone was not misclassified; a true box beside the other class was not either;
    and so on."""
    box = torch.tensor([ON])
    gone, both, other = (
        Toy()(torch.tensor(v).view(1, 3, 1, 1)) for v in ((0, 0, 0), (0.9, 0.9, 0), (0, 0.9, 0))
    )
    goal = PatchGoal("misclassify", 0)
    assert [bool(goal.succeeded(p, box)) for p in (gone, both, other)] == [False, False, True]
    assert [bool(PatchGoal("targeted", 0, 1).succeeded(p, box)) for p in (gone, both, other)] == [
        False,
        True,
        True,
    ]
    create, empty = PatchGoal("create", 0, 1), torch.tensor([OFF])
    there = Toy()(torch.tensor((0, 0, 0.9)).view(1, 3, 1, 1))
    assert [bool(create.recognized(p, empty)) for p in (gone, there)] == [True, False]
    assert [bool(create.succeeded(p, empty)) for p in (gone, there)] == [False, True]
    for senseless in (lambda: PatchGoal("create", 0), lambda: PatchGoal("misclassify", 0, 0)):
        with pytest.raises(OptionError):
            senseless()
    with pytest.raises(OptionError, match="detectors"):
        create.loss(LOGITS, NO_BOX)


def test_several_objects_a_scene_and_a_class_each() -> None:
    """Marks name the scene of each object and its own class: one answer an object."""
    prediction = Toy()(torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1]]).view(2, 3, 1, 1))
    marks = Annotations(
        torch.tensor([ON, OFF, ON]), torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    )
    goal = PatchGoal("vanish", 0)
    assert goal.recognized(prediction, marks).tolist() == [True, False, True]
    assert goal.loss(prediction, marks).shape == (3,)
    labels = Annotations(NO_BOX, torch.tensor([0, 1, 0]))
    assert PatchGoal("untargeted", 2).recognized(LOGITS, labels).tolist() == [True, True, False]


def test_a_targeted_misclassification_leaves_nothing_of_the_true_class() -> None:
    """The target beside the true class on one box is no misclassification; alone it is one."""
    goal, box = PatchGoal("misclassify", 0, 1), torch.tensor([ON])
    both, target, other = (
        Toy()(torch.tensor(v).view(1, 3, 1, 1)) for v in ((0.9, 0.9, 0), (0, 0.9, 0), (0, 0, 0.9))
    )
    assert [bool(goal.succeeded(p, box)) for p in (both, target, other)] == [False, True, False]


def test_the_ink_palette_spans_black_to_white_and_shrinks_colors_toward_gray() -> None:
    """Its ends are the darkest and lightest value given, its primaries keep 0.85 of their
    chroma."""
    palette = ink_palette(2, black=0.2, white=0.9)
    assert palette.shape == (8, 3)
    assert palette[0].tolist() == pytest.approx([0.2, 0.2, 0.2])
    assert palette[-1].tolist() == pytest.approx([0.9, 0.9, 0.9])
    red = [0.2 + 0.7 * (1 / 3 + 0.85 * (value - 1 / 3)) for value in (1, 0, 0)]
    assert palette[4].tolist() == pytest.approx(red)
    assert [round(float(v), 2) for v in (ink_palette().min(), ink_palette().max())] == [0.16, 0.94]


def test_a_look_weighs_its_distance_and_snaps_to_its_colors() -> None:
    """The distance is the weighted mean square inside the mask; printed pixels are palette colors,
    whose gradient passes as if they were free."""
    mask = torch.ones(1, 1, 4, 4)
    mask[..., :2] = 0
    content, patch = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.7)
    near = PatchAppearance(content=content, weight=3.0)
    assert float(near.distance(patch, mask)) == pytest.approx(3 * 0.2**2)
    two = PatchAppearance(palette=torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    patch.requires_grad_()
    printed = two.printed(patch)
    assert set(printed.detach().flatten().tolist()) == {1.0}
    (gradient,) = torch.autograd.grad(printed.sum(), patch)
    assert set(gradient.flatten().tolist()) == {1.0}
