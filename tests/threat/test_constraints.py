"""Constraints: what is refused, what is measured, and masks."""

from __future__ import annotations

import pytest
import torch

from physadv.core.errors import ImageError, OptionError
from physadv.core.random_streams import generator
from physadv.threat.constraints import LpBall, MaskedConstraint
from physadv.threat.norms import NORMS, Norm


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
def test_bad_eps(eps: float) -> None:
    """An eps that is no finite, non-negative number is refused."""
    with pytest.raises(OptionError, match="eps"):
        LpBall("linf", eps)


@pytest.mark.parametrize("norm", NORMS)
def test_violation(norm: Norm) -> None:
    """Inside measures 0; outside measures how far."""
    x0 = torch.full((2, 1, 2, 2), 0.5)
    x = x0.clone()
    x[1, 0, 0, 0] += 0.25
    assert LpBall(norm, 0.1).violation(x, x0).tolist() == pytest.approx([0.0, 0.15])
    assert LpBall(norm, 1.0).violation(x0.double() + 0.75, x0).tolist() == pytest.approx(
        [max(0.25, {"linf": 0.75, "l2": 1.5, "l1": 3.0}[norm] - 1.0)] * 2
    )


def test_legal_refuses_an_empty_ball() -> None:
    """Off-grid clean images and a ball smaller than the grid: an error that says what to do."""
    x0 = torch.full((1, 1, 2, 2), 100.5 / 255)
    with pytest.raises(ImageError, match="Round the clean images"):
        LpBall("linf", 0.1 / 255, levels=255).quantized(x0, x0)


@pytest.mark.parametrize("norm", NORMS)
def test_masked(norm: Norm) -> None:
    """Nothing off the mask changes, the inner ball holds, and a change off the mask is measured."""
    source = generator(0, "masked")
    x0, x = torch.rand((2, 3, 4, 4), generator=source), torch.rand((2, 3, 4, 4), generator=source)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    constraint = MaskedConstraint(LpBall(norm, 0.3), mask)
    for y in (constraint.project(x, x0), constraint.random_start(x0, source)):
        assert torch.equal(y[..., 2:], x0[..., 2:])
        assert not torch.equal(y[..., :2], x0[..., :2])
        assert (constraint.violation(y, x0) == 0).all()
    assert (constraint.violation(x, x0) > 0).all()


def test_a_radius_may_be_written_as_people_write_it() -> None:
    """Text is the number; a count of 255ths without its /255 is refused."""
    assert LpBall("Linf", "8/255") == LpBall("linf", 8 / 255)  # type: ignore[arg-type]
    with pytest.raises(OptionError):
        LpBall("linf", "8")  # type: ignore[arg-type]
