"""APGD: the closed-form optimum in every norm, its checkpoints, and its losses."""

from __future__ import annotations

import pytest
import torch
from linear import Linear, samples
from test_gradient import RADII, shortfall

from physadv.attacks._guarded_model import guarded
from physadv.attacks.auto_pgd import _checkpoints, _move, _State, apgd
from physadv.attacks.gradient import pgd
from physadv.threat.constraints import LpBall
from physadv.threat.norms import NORMS, Norm


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_reaches_the_optimum(norm: Norm, loss: str, scale: float) -> None:
    """APGD ends at the lowest margin a linear victim has within the ball (l_1: within 2 %), at any
    logit scale."""
    model = Linear(scale=scale)
    x, y = samples(model)
    found = apgd(model, x, y, eps=RADII[norm], norm=norm, loss=loss, steps=100, keep="loss")  # type: ignore[arg-type]
    assert (
        shortfall(model, x, y, found.images, norm).max()
        < {"linf": 1e-6, "l2": 1e-4, "l1": 0.02}[norm]
    )


def test_checkpoints_follow_the_paper() -> None:
    """The first windows are 22, 19, 16 ... percent of the steps, never below 6."""
    assert list(_checkpoints(100))[:5] == [22, 41, 57, 70, 80]
    assert all(at <= 10 and window >= 1 for at, window in _checkpoints(10).items())
    assert _checkpoints(1) == {1: 1}


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_few_steps(steps: int) -> None:
    """Any number of steps works and takes one forward more than that."""
    model = Linear(4)
    x, y = samples(model)
    before = model.calls
    result = apgd(guarded(model), x, y, eps=0.001, steps=steps, speed="plain")
    assert model.calls - before == steps + 1
    assert result.images.shape == x.shape


def test_targeted_dlr() -> None:
    """Towards a target with the targeted DLR every success is the target."""
    model = Linear(6)
    x, y = samples(model)
    targets = (y + 1) % 6
    result = apgd(model, x, y, eps=0.3, loss="dlr", targets=targets, steps=30)
    with torch.no_grad():
        assert torch.equal(model(result.images).argmax(1) == targets, result.success)
    assert result.success.all()


def test_not_below_pgd() -> None:
    """At equal steps on a net that is not linear, APGD's loss is no worse than textbook PGD's."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(108, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)
        ).double()
    x, _ = samples(Linear(), 16)
    y = model(x).argmax(1)
    plain = pgd(model, x, y, eps=0.1, steps=50, keep="loss", schedule="constant")
    auto = apgd(model, x, y, eps=0.1, steps=50, keep="loss")
    assert plain.loss is not None
    assert auto.loss is not None
    assert auto.loss.mean() <= plain.loss.mean() + 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_momentum_goes_on_in_the_direction_of_the_last_step(norm: Norm) -> None:
    """Where the gradient vanishes the next point keeps a quarter of the last step (Croce & Hein
    2020, equation 1 with alpha 0.75)."""
    x0 = torch.full((1, 3, 4, 4), 0.5)
    one = torch.zeros(1)
    state = _State(
        rows=torch.zeros(1, dtype=torch.long),
        x0=x0,
        low=x0 - 0.4,
        high=x0 + 0.4,
        x=x0 + 0.02,
        before=x0,
        grad=torch.zeros_like(x0),
        loss=one,
        size=one,
        share=one,
        used=one,
        best_x=x0,
        best_grad=x0,
        best_loss=one,
        lowered=one,
        mark_loss=one,
        mark_kept=one,
    )
    moved = _move(state, LpBall(norm, 1.0), False)
    torch.testing.assert_close(moved, x0 + 0.02 * 1.25)


def test_starts_where_it_is_told_within_the_ball() -> None:
    """Images to start from are the first that are tried, after projection onto the ball: one that
    is broken already ends the search at once."""
    model = Linear(4)
    x, y = samples(model)
    broken = apgd(guarded(model), x, y, eps=0.3, steps=50, speed="plain")
    assert broken.success.all()
    before = model.calls
    again = apgd(guarded(model), x, y, eps=0.3, steps=50, speed="plain", starts=broken.images)
    assert model.calls - before == 1
    assert torch.equal(again.images, broken.images)

    far = apgd(guarded(model), x, y, eps=0.01, steps=1, speed="plain", starts=broken.images)
    assert float((far.images - x).abs().max()) <= 0.01
