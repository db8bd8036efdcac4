"""Training of the patch remover's segmenter, in scripts/: its loss, and stickers moved against
it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from physadv.core.random_streams import generator
from physadv.training.methods.base import TrainingPosition

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from train_patch_remover import (  # type: ignore[import-not-found]
    SegmentationTraining,
    segmentation_loss,
)


class Brightness(nn.Module):
    """Marks what is brighter than middle gray."""

    def forward(self, images: Tensor) -> Tensor:
        return 20 * (images.mean(1, keepdim=True) - 0.5)


class TwoClasses(nn.Module):
    """Two classes by mean brightness."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack((mean, 1 - mean), 1)


def scenes() -> tuple[Tensor, Tensor]:
    """Dark noise with a bright sticker, and its area."""
    images = 0.3 * torch.rand((4, 3, 32, 32), generator=generator(0, "scenes"))
    areas = torch.zeros(4, 1, 32, 32)
    areas[:, :, 8:20, 8:20] = 1
    return torch.where(areas > 0, 0.9, images), areas


def test_the_loss_is_least_where_the_areas_are_marked() -> None:
    """Right marks cost nearly nothing, wrong ones much; pixels without care cost nothing."""
    _, areas = scenes()
    care = torch.ones_like(areas)
    right = 40 * (areas - 0.5)
    assert float(segmentation_loss(right, areas, care)) < 1e-3
    assert float(segmentation_loss(-right, areas, care)) > 5
    care[:, :, :16] = 0
    halves = torch.where(care > 0, right, -right)
    assert float(segmentation_loss(halves, areas * care, care)) < 1e-3


def test_moved_stickers_hide_and_nothing_else_changes() -> None:
    """The attack lowers the segmenter's logits on the stickers and leaves other pixels alone."""
    images, areas = scenes()
    method = SegmentationTraining(TwoClasses(), attack_from=0.5, steps=8)
    moved = method._with_moved(Brightness(), images, areas, generator(0, "moved"))
    outside = (areas == 0).expand_as(images)
    assert torch.equal(moved[outside], images[outside])
    inside = areas > 0
    assert float(Brightness()(moved)[inside].mean()) < float(Brightness()(images)[inside].mean())


@pytest.mark.parametrize(("step", "attacked"), [(0, False), (8, True)])
def test_stickers_are_moved_in_the_last_part_of_the_run(
    step: int, attacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before ``attack_from`` of the run no sticker is moved."""
    images, areas = scenes()
    method = SegmentationTraining(TwoClasses(), attack_from=0.5)
    calls: list[int] = []
    monkeypatch.setattr(
        method, "_with_moved", lambda net, x, areas, draws: (calls.append(len(x)), x)[1]
    )
    labels = torch.cat((areas, torch.ones_like(areas)), 1)
    at = TrainingPosition(step, 10, generator(0, "step", step))
    loss, _ = method.loss(Brightness(), images, labels, at)
    assert bool(calls) is attacked
    assert torch.isfinite(loss)
