"""The optimization loop on a victim whose optimum is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from physadv.attacks._optimizers import CosineAdam
from physadv.attacks.patch_loop import Victim, View, descend_patch
from physadv.core.errors import ModelError
from physadv.threat.printability import project_printable

WEIGHT = torch.linspace(-1, 1, 48).view(1, 3, 4, 4)
BOX = torch.zeros(1, 4)


class Linear(torch.nn.Module):
    """One logit: the inner product with WEIGHT."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(WEIGHT.clone())

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight).sum((1, 2, 3))[:, None]


def low_logit(logits: Tensor, boxes: Tensor) -> Tensor:
    return logits[:, 0]


def is_negative(logits: Tensor, boxes: Tensor) -> Tensor:
    return logits[:, 0] < 0


def run(
    model: torch.nn.Module,
    steps: int,
    start: int = 0,
    state: object = None,
    patch: Tensor | None = None,
):  # type: ignore[no-untyped-def]
    return descend_patch(
        torch.full((1, 3, 4, 4), 0.5) if patch is None else patch,
        views=[View(lambda p, i: (p, BOX), [Victim(model, low_logit, is_negative)])],
        regularizer=lambda p: p.sum() * 0,
        project=project_printable,
        update=CosineAdam(0.1, 60),
        steps=steps,
        start=start,
        state=state,
    )


def test_the_closed_form_optimum_is_reached() -> None:
    """Minimising a linear logit over the box ends at 0 where the weight is positive and at 1 where
    it is negative."""
    last = list(run(Linear(), 60))[-1]
    torch.testing.assert_close(last.patch, (WEIGHT < 0).float(), atol=1e-3, rtol=0)


def test_only_the_patch_receives_gradients() -> None:
    """The victim's parameters, flags and mode are as they were."""
    model = Linear().train()
    list(run(model, 3))
    assert model.weight.grad is None
    assert model.weight.requires_grad
    assert model.training


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    """Stopping after 20 steps and going on with the state gives the same patch, bit for bit."""
    whole = list(run(Linear(), 40))[-1].patch
    first = list(run(Linear(), 20))[-1]
    again = list(run(Linear(), 40, start=20, state=first.state, patch=first.patch))[-1].patch
    assert torch.equal(whole, again)


class Broken(torch.nn.Module):
    """Returns NaN."""

    def forward(self, images: Tensor) -> Tensor:
        return images.sum((1, 2, 3))[:, None] * float("nan")


class Blocked(torch.nn.Module):
    """Returns logits without a gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return images.detach().sum((1, 2, 3))[:, None] + torch.zeros(1, requires_grad=True)


def test_models_that_cannot_be_attacked_are_named() -> None:
    """NaN and a missing gradient end the run with a ModelError, not with a silent patch."""
    with pytest.raises(ModelError, match="finite"):
        next(run(Broken(), 1))
    with pytest.raises(ModelError, match="gradient"):
        next(run(Blocked(), 1))


def one_step(*views: View) -> Tensor:
    """Way of the patch in one step of plain descent."""
    start = torch.full((1, 3, 4, 4), 0.5)
    (step,) = descend_patch(
        start,
        views=views,
        regularizer=lambda p: p.sum() * 0,
        project=lambda p: p,
        update=Descent(),
        steps=1,
    )
    return start - step.patch


class Descent:
    """The gradient itself as the step."""

    def init(self, x: Tensor) -> None:
        return None

    def step(self, x: Tensor, grad: Tensor, state: None) -> Tensor:
        return x - grad


def judged(scale: float, row: int, *, reached: float) -> Victim:
    """A victim whose loss is ``scale`` times the sum of one row of the patch, with a share of
    ``reached`` among its two objects."""
    return Victim(
        model=lambda images: scale * images[..., row, :].sum((1, 2))[:, None].expand(2, 1),
        objective=lambda prediction, _: prediction[:, 0],
        criterion=lambda prediction, _: torch.tensor([reached > 0, reached > 0.5]),
    )


@pytest.mark.parametrize("together", [True, False])
def test_a_steep_victim_does_not_decide_the_step(together: bool) -> None:
    """Two victims whose losses differ by 1000 move their rows alike, in one view or in two."""
    victims = [judged(1000, 0, reached=0), judged(1, 1, reached=0)]
    views = [victims] if together else [[victim] for victim in victims]
    way = one_step(*(View(lambda p, i: (p, None), each) for each in views))
    torch.testing.assert_close(way[..., 0, :], way[..., 1, :])
    assert bool((way[..., :2, :] > 0).all())
    assert not bool(way[..., 2:, :].any())


def test_a_broken_victim_leaves_the_step_to_the_others() -> None:
    """With half of its objects reached a victim has about half the weight, with all nearly none."""
    half = one_step(
        View(lambda p, i: (p, None), [judged(1, 0, reached=0), judged(1, 1, reached=0.5)])
    )
    assert float((half[..., 1, :] / half[..., 0, :]).mean()) == pytest.approx(0.55 / 1.05)
    broken = one_step(
        View(lambda p, i: (p, None), [judged(1, 0, reached=0), judged(1, 1, reached=1)])
    )
    assert float((broken[..., 1, :] / broken[..., 0, :]).mean()) < 0.05
