"""How a gradient becomes a step: torch's own optimizers behind a functional face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class UpdateRule(Protocol):
    """init(x) -> state; step(x, grad, state) -> the next x (detached). Descends."""

    def init(self, x: Tensor) -> Any:
        """Fresh state for ``x``."""
        ...

    def step(self, x: Tensor, grad: Tensor, state: Any) -> Tensor:
        """One step against ``grad``; ``state`` moves on."""
        ...


@dataclass
class _TorchState:
    leaf: Tensor
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler


@dataclass(frozen=True)
class CosineAdam:
    """Adam (Kingma 2015) with a cosine schedule from ``lr`` down to 5 % of it over ``steps``."""

    lr: float
    steps: int
    betas: tuple[float, float] = (0.9, 0.99)

    def init(self, x: Tensor) -> _TorchState:
        """Fresh moments for ``x``."""
        leaf = x.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([leaf], lr=self.lr, betas=self.betas)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, max(self.steps, 1), eta_min=self.lr / 20
        )
        return _TorchState(leaf, optimizer, schedule)

    def step(self, x: Tensor, grad: Tensor, state: _TorchState) -> Tensor:
        """One Adam step from ``x``, which may have been projected since the last."""
        with torch.no_grad():
            state.leaf.copy_(x)
        state.leaf.grad = grad.detach()
        state.optimizer.step()
        state.schedule.step()
        return state.leaf.detach().clone()
