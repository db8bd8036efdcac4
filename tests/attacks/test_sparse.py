"""Attacks on a few pixels: never more of them, corners only, and the best on a linear victim."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from physadv.attacks.sparse import saliency_attack, sparse_search
from physadv.core.errors import OptionError


class Weighted(nn.Module):
    """Class 0 where the weighted sum of pixels is positive: each pixel's worth is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 25).view(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        value = (x * self.weight).sum((1, 2, 3))
        return torch.stack((value, -value), 1)


def images(n: int = 12) -> Tensor:
    return torch.rand(n, 2, 5, 5, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25


def changed(x: Tensor, x0: Tensor) -> Tensor:
    return (x != x0).any(1).flatten(1).sum(1)


@pytest.mark.parametrize("pixels", [1, 3, 25])
def test_no_more_pixels_than_asked_and_all_at_corners(pixels: int) -> None:
    """Both attacks change at most so many pixels, and only to 0 or 1; success is the victim's own
    verdict."""
    model, x = Weighted(), images()
    labels = model(x).argmax(1)
    for found in (
        saliency_attack(model, x, labels, pixels=pixels),
        sparse_search(model, x, labels, pixels=pixels, queries=60),
    ):
        assert (changed(found.images, x) <= pixels).all()
        moved = found.images[found.images != x]
        assert set(moved.tolist()) <= {0.0, 1.0}
        assert torch.equal(found.success, model(found.images).argmax(1) != labels)
    assert model.weight.grad is None
    assert model.weight.requires_grad


def test_saliency_takes_the_best_pixels_of_a_linear_model() -> None:
    """Where every pixel's worth is known, the greedy choice is the best there is."""
    model, x = Weighted(), images()
    labels = model(x).argmax(1)
    sign = 1.0 - 2.0 * labels.float()
    worth = sign[:, None, None, None] * model.weight.detach()
    gain = torch.maximum(worth * x, -worth * (1 - x)).sum(1).flatten(1).sort(descending=True).values
    need = (model(x)[:, 0].detach() * sign)[:, None]
    fewest = (gain.cumsum(1) < need).sum(1) + 1
    found = saliency_attack(model, x, labels, pixels=25)
    assert torch.equal(changed(found.images, x), fewest)
    assert found.success.all()
    assert torch.equal(found.queries, fewest + 1)


def test_search_finds_what_a_few_pixels_allow_and_repeats() -> None:
    """Random search breaks most of what the gradient breaks, and the same seed gives the same
    images."""
    model, x = Weighted(), images(40)
    labels = model(x).argmax(1)
    best, found = (
        saliency_attack(model, x, labels, pixels=3),
        sparse_search(model, x, labels, pixels=3, queries=300, seed=1),
    )
    assert found.success.sum() >= 0.8 * best.success.sum()
    again = sparse_search(model, x, labels, pixels=3, queries=300, seed=1)
    assert torch.equal(found.images, again.images)
    assert int(found.queries.max()) <= 301


@pytest.mark.parametrize("pixels", [0, 26])
def test_pixels_out_of_range_are_refused(pixels: int) -> None:
    """None, or more than the image has, is an error."""
    with pytest.raises(OptionError):
        saliency_attack(Weighted(), images(), torch.zeros(12, dtype=torch.long), pixels=pixels)
    with pytest.raises(OptionError):
        sparse_search(Weighted(), images(), torch.zeros(12, dtype=torch.long), pixels=pixels)
