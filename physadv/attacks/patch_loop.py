"""The loop of every optimized patch, a generator of steps: progress, stopping and checkpoints
belong to the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from physadv.attacks._optimizers import UpdateRule
from physadv.core.errors import ModelError
from physadv.core.types import Model, Prediction

Render = Callable[[Tensor, int], tuple[Tensor, Any]]
"""(patch, step) -> images (b, 3, h, w) with the patch in them, and the marks that are judged;
differentiable."""
Objective = Callable[[Prediction, Any], Tensor]
"""(prediction, marks) -> loss per marked object, (m,), lower is better for the attacker."""


@dataclass(frozen=True)
class PatchStep:
    """What one step did: its number from 1, the patch after it, the mean loss before it, and the
    optimizer's state."""

    index: int
    patch: Tensor
    loss: float
    state: Any


def descend_patch(
    patch: Tensor,
    *,
    render: Render,
    models: Sequence[Model],
    objective: Objective | Sequence[Objective],
    regularizer: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    update: UpdateRule,
    steps: int,
    start: int = 0,
    state: Any = None,
) -> Iterator[PatchStep]:
    """Descend the mean objective over the draws of ``render`` and over ``models`` (an ensemble
    counts each alike).

    ``objective`` is one for all models, or one for each of them.

    Starts after step ``start`` with ``state``, so that a saved run goes on as if it had never
    stopped. Only the patch receives gradients. Raises ModelError where the loss is not finite or
    no gradient reaches the patch.
    """
    current = patch.detach().clone()
    objectives = list(objective) if isinstance(objective, Sequence) else [objective] * len(models)
    state = update.init(current) if state is None else state
    for index in range(start, steps):
        current.requires_grad_()
        images, marks = render(current, index)
        losses = torch.stack(
            [loss(v(images), marks).mean() for v, loss in zip(models, objectives, strict=True)]
        )
        loss = losses.mean()
        (gradient,) = torch.autograd.grad(loss, current, allow_unused=True)
        _check(loss, gradient)
        (smoothing,) = torch.autograd.grad(regularizer(current), current)
        current = project(update.step(current.detach(), gradient + smoothing, state)).detach()
        yield PatchStep(index + 1, current, float(loss.detach()), state)


def _check(loss: Tensor, gradient: Tensor | None) -> None:
    if not bool(torch.isfinite(loss)):
        raise ModelError(
            f"loss {float(loss.detach())}", "must be finite", "check the victim's output for NaN"
        )
    if gradient is None or not bool(torch.isfinite(gradient).all()):
        raise ModelError(
            "gradient to the patch",
            "must exist and be finite",
            "wrap non-differentiable parts (BPDA)",
        )
