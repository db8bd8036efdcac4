"""Optimizers of torch behind a functional interface, for steps followed by a projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class UpdateRule(Protocol):
    """An optimizer as pure functions of the iterate and a state; it descends."""

    def init(self, x: Tensor) -> Any:
        """Return a fresh state for the iterate ``x``."""
        ...

    def step(self, x: Tensor, grad: Tensor, state: Any) -> Tensor:
        """Return the next iterate (detached) from ``x`` against ``grad``; advances ``state``."""
        ...


@dataclass
class _TorchState:
    leaf: Tensor
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler


@dataclass(frozen=True)
class CosineAdam:
    """Adam (Kingma & Ba 2015) with a cosine schedule of the learning rate.

    The rate falls from ``lr`` to 5 % of it over ``steps`` steps; ``betas`` are Adam's decay rates.
    """

    lr: float
    steps: int
    betas: tuple[float, float] = (0.9, 0.99)

    def init(self, x: Tensor) -> _TorchState:
        """Return fresh moments for the iterate ``x``."""
        leaf = x.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([leaf], lr=self.lr, betas=self.betas)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, max(self.steps, 1), eta_min=self.lr / 20
        )
        return _TorchState(leaf, optimizer, schedule)

    def step(self, x: Tensor, grad: Tensor, state: _TorchState) -> Tensor:
        """Return ``x`` after one step against ``grad``; advances ``state``."""
        # The caller may have projected x since the last step: the optimizer's own copy follows.
        with torch.no_grad():
            state.leaf.copy_(x)
        state.leaf.grad = grad.detach()

        state.optimizer.step()
        state.schedule.step()
        return state.leaf.detach().clone()
