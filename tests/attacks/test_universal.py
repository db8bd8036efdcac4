"""Universal perturbation: one change within the ball that works on images it was not made on."""

from __future__ import annotations

import pytest
import torch
from linear import Linear, samples

from physadv.attacks.universal import apply_change, universal_perturbation
from physadv.threat.norms import NORMS, Norm, lp_distance

RADII = {"linf": 0.08, "l2": 0.8, "l1": 6.0}


@pytest.mark.parametrize("norm", NORMS)
def test_one_change_for_all(norm: Norm) -> None:
    """The images are the clean ones plus the change, clipped; the change is inside the ball."""
    model = Linear(3)
    x, y = samples(model, 20)
    result = universal_perturbation(model, x, y, eps=RADII[norm], norm=norm, batch=8)
    assert torch.equal(apply_change(x, result.change), result.images)
    assert (lp_distance(result.change, torch.zeros_like(result.change), norm) <= RADII[norm]).all()
    assert (lp_distance(result.images, x, norm) <= RADII[norm]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_reaches_the_optimum_for_one_class(norm: Norm) -> None:
    """On images of one class of a linear victim, all far from the ends of [0, 1], it is the best
    change there is."""
    model = Linear()
    x, y = samples(model, 30, middle=True)
    x, y = x[y == 0], y[y == 0]
    slope = (model.weight[0] - model.weight[1]).detach()
    eps = RADII[norm] / {"linf": 1, "l2": 1, "l1": 20}[norm]
    best = -eps * torch.linalg.vector_norm(slope, ord={"linf": 1, "l2": 2, "l1": torch.inf}[norm])
    change = universal_perturbation(model, x, y, eps=eps, norm=norm, epochs=40, clip=100.0).change
    reached = (slope * change.flatten()).sum()
    assert float(reached / best) > {"linf": 0.999, "l2": 0.999, "l1": 0.85}[norm]


def test_works_on_other_images() -> None:
    """A change made on one half of the images breaks images of the other half."""
    model = Linear(2)
    x, y = samples(model, 60)
    keep = y == 0
    x, y = x[keep], y[keep]
    half = len(x) // 2
    change = universal_perturbation(model, x[:half], y[:half], eps=0.08).change
    with torch.no_grad():
        assert (model(apply_change(x[half:], change)).argmax(1) != y[half:]).double().mean() > 0.5


def test_eight_bit_change() -> None:
    """With levels the change is whole steps of 1/255, the same for every image off the ends of [0,
    1]."""
    model = Linear()
    x, y = samples(model, 10)
    x = x.mul(255).round().div(255)
    result = universal_perturbation(model, x, y, eps=8 / 255, levels=255)
    torch.testing.assert_close(
        result.change * 255, (result.change * 255).round(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        result.images, apply_change(x, result.change), atol=1.01 / 255, rtol=0
    )
