"""Attacks in l_0 on a linear model, where the fewest pixels that suffice are known exactly."""

from __future__ import annotations

import pytest
import torch
from linear import Linear, samples
from torch import Tensor

import physadv
from physadv import attacks
from physadv.attacks.fewest_pixels import sigma_zero
from physadv.core.errors import OptionError
from physadv.threat.norms import lp_distance


def fewest(model: Linear, x: Tensor, labels: Tensor, rivals: Tensor | None = None) -> Tensor:
    """Least number (b,) of pixels that make another class, or the rivals, win: of a linear model
    each pixel lowers the margin by what its corner is worth, the best first."""
    weight, pixels = model.weight.detach(), x.flatten(1)
    counts = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for rival in range(len(weight)):
        slope = weight[labels] - weight[rival]
        worth = torch.maximum(slope * pixels, -slope * (1 - pixels)).view(len(x), x.shape[1], -1)
        reached = worth.sum(1).sort(1, descending=True).values.cumsum(1)
        needed = (reached <= (slope * pixels).sum(1, keepdim=True)).sum(1) + 1.0
        allowed = labels != rival if rivals is None else rivals == rival
        counts = torch.where(allowed, counts.minimum(needed.double()), counts)
    return counts


def test_sigma_zero_finds_the_fewest_pixels_of_a_linear_model() -> None:
    """Of two classes the closed-form minimum is reached on every sample, and is the loss."""
    model = Linear(2)
    x, y = samples(model, 32)
    found = sigma_zero(model, x, y, steps=60)
    assert found.success.all()
    assert found.loss is not None
    assert torch.equal(found.loss.double(), fewest(model, x, y))
    assert torch.equal(found.loss.double(), lp_distance(found.images, x, "l0"))


@pytest.mark.parametrize("targeted", [False, True])
def test_sigma_zero_comes_near_the_fewest_where_classes_compete(targeted: bool) -> None:
    """Of three classes nearly all reach the minimum, to any class or to a target; none is below it,
    and none is more than a pixel above."""
    model = Linear(3)
    x, y = samples(model, 64)
    targets = (y + 1) % 3 if targeted else None
    found = sigma_zero(model, x, y, steps=100, targets=targets)
    assert found.success.all()
    assert found.loss is not None
    above = found.loss.double() - fewest(model, x, y, targets)
    assert above.min() >= 0
    assert above.max() <= 1
    assert int((above == 0).sum()) >= 58


@pytest.mark.parametrize("pixels", [1, 2])
def test_a_budget_decides_who_breaks(pixels: int) -> None:
    """Within a budget only samples break whose fewest pixels it holds: nearly all of them by
    sigma-zero, most by PGD_0."""
    model = Linear(3)
    x, y = samples(model, 24)
    breakable = fewest(model, x, y) <= pixels
    found = sigma_zero(model, x, y, eps=pixels, steps=60)
    assert not (found.success & ~breakable).any()
    assert int(found.success.sum()) >= int(breakable.sum()) - 1
    projected = attacks.pgd(model, x, y, eps=pixels, norm="l0", steps=20, loss="margin")
    assert not (projected.success & ~breakable).any()
    assert int(projected.success.sum()) >= 0.8 * int(breakable.sum())


def test_one_step_in_l0_is_the_optimum_of_two_classes() -> None:
    """Of two classes the linear model is the linearized one, so that FGSM breaks all it can."""
    model = Linear(2)
    x, y = samples(model, 24)
    for pixels in (1, 2, 3):
        found = attacks.fgsm(model, x, y, eps=pixels, norm="l0", loss="margin")
        assert torch.equal(found.success, fewest(model, x, y) <= pixels)


def test_options_out_of_range_are_refused() -> None:
    """A share of a pixel, more pixels than there are, and norms of attacks that have no l_0."""
    model = Linear(2)
    x, y = samples(model, 4)
    for wrong in ({"eps": 2.5}, {"eps": 37}, {"refine": 1}, {"steps": 16}, {"tolerance": 1.0}):
        with pytest.raises(OptionError):
            sigma_zero(model, x, y, **wrong)
    for attack in (attacks.apgd, attacks.fmn, attacks.mi_fgsm, attacks.square_attack):
        with pytest.raises(OptionError, match="l0"):
            attack(model, x, y, eps=3, norm="l0")


def test_an_evaluation_in_l0_is_the_closed_form() -> None:
    """The ensemble breaks just the samples whose fewest pixels the threat allows, also over the
    curve, in 8 bits and where the model only answers."""
    model = Linear(2)
    x, y = samples(model, 24)
    x = x.mul(255).round().div(255)
    y = model(x).argmax(1)
    counts = fewest(model, x, y)
    found = physadv.evaluate(model, (x, y), "l0:2", curve="1,3,4", eight_bit=True)
    for pixels, rate in found.curve.items():
        assert rate.rate == float((counts > pixels).double().mean())

    class Answers(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return model(images).detach()

    blind = physadv.evaluate(Answers(), (x, y), "l0:2")
    assert set(blind.broken_by) == {"sparse-rs"}
    assert blind.robust_accuracy.rate >= found.robust_accuracy.rate


def test_every_attack_in_l0_is_within_its_pixels_by_name() -> None:
    """Attacks by name change at most so many pixels, and one without l_0 is refused."""
    model = Linear(2)
    x, y = samples(model, 12)
    for name in ("fgsm", "pgd", "sigma-zero", "jsma", "sparse-rs"):
        found = physadv.evaluate(model, (x, y), ("L0", 2), attack=name)
        assert max(row["distance"] for row in found.rows) <= 2
        assert found.broken_by[name] > 0
    with pytest.raises(OptionError, match="l0"):
        physadv.evaluate(model, (x, y), "l0:2", attack="apgd")
