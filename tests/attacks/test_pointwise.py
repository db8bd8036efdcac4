"""Pointwise: the pixels that decide and no others, by classes alone, each sample for itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from physadv.attacks import pointwise
from physadv.evaluation.ensemble import decision_stages, plan_record
from physadv.evaluation.stages import sample_verdicts
from physadv.threat.constraints import LpBall

DECIDING = ((0, 0), (2, 3), (5, 1))


class Corners:
    """Class 1 where ``count`` of the deciding pixels are bright in the first channel; the scores
    are one-hot, so that they say no more than the class. ``asked`` counts images."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        bright = torch.stack([images[:, 0, i, j] > 0.75 for i, j in DECIDING[: self.count]], 1)
        return 2 * torch.eye(2)[bright.all(1).long()]


def batch(count: int = 3) -> tuple[Tensor, Tensor]:
    images = 0.5 * torch.rand(count, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    return images, torch.zeros(count, dtype=torch.long)


def changed(images: Tensor, clean: Tensor) -> Tensor:
    return (images != clean).any(1).flatten(1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_leaves_the_deciding_pixels_and_never_claims_fewer(count: int) -> None:
    """A model that asks for certain pixels falls with just these, and not with one fewer."""
    images, labels = batch()
    white = torch.ones_like(images)
    broken = pointwise(Corners(count), images, labels, pixels=count, queries=1000, starts=white)
    assert broken.success.all()
    wanted = torch.zeros(36, dtype=torch.bool)
    wanted[[6 * i + j for i, j in DECIDING[:count]]] = True
    assert torch.equal(changed(broken.images, images), wanted.expand(3, -1))
    if count > 1:
        few = pointwise(Corners(count), images, labels, pixels=count - 1, queries=300, starts=white)
        assert not few.success.any()
        assert torch.equal(few.images, images)


def test_queries_are_kept_and_counted() -> None:
    """Each sample takes no more queries than it may, one more for the clean image."""
    images, labels = batch()
    model = Corners(2)
    white = torch.ones_like(images)
    result = pointwise(model, images, labels, pixels=1, queries=30, starts=white)
    assert result.queries is not None
    assert result.queries.tolist() == [31] * 3


def test_a_sample_does_not_depend_on_its_batch() -> None:
    """Alone each gets the very image that it gets among others."""
    images, labels = batch(4)
    together = pointwise(Corners(2), images, labels, pixels=4, queries=60)
    for row in range(4):
        alone = pointwise(
            Corners(2), images[row : row + 1], labels[row : row + 1], pixels=4, queries=60
        )
        assert torch.equal(alone.images[0], together.images[row])


def test_starts_lead_to_a_target() -> None:
    """An image of the target's class is where it begins, and few pixels of it are left."""
    images, labels = batch(1)
    targets, starts = torch.ones(1, dtype=torch.long), torch.ones_like(images)
    result = pointwise(
        Corners(3), images, labels, pixels=3, queries=500, targets=targets, starts=starts
    )
    assert result.success.all()
    assert set(result.images[images != result.images].tolist()) == {1.0}
    assert changed(result.images, images).sum() == 3


def test_an_evaluation_by_classes_alone_knows_l0() -> None:
    """The plan for a model of classes alone in l0 is this attack, and a run records it."""
    images, labels = batch()
    plan = decision_stages("l0")
    found = list(sample_verdicts(Corners(1), images, labels, ball=LpBall("l0", 1, None), plan=plan))
    assert [verdict.stage for verdict in found] == ["clean", "pointwise"]
    assert found[-1].broken.all()
    assert "classes pointwise" in plan_record("l0")
