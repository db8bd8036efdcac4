"""The optimization loop on a victim whose optimum is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from physadv.attacks._optimizers import CosineAdam
from physadv.attacks.patch_loop import descend_patch
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


def run(
    model: torch.nn.Module,
    steps: int,
    start: int = 0,
    state: object = None,
    patch: Tensor | None = None,
):  # type: ignore[no-untyped-def]
    return descend_patch(
        torch.full((1, 3, 4, 4), 0.5) if patch is None else patch,
        render=lambda p, i: (p, BOX),
        models=[model],
        objective=lambda logits, boxes: logits[:, 0],
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
