"""The optimization loop of every patch.

A generator of steps, so that progress, stopping and checkpoints belong to the caller.
"""

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
"""(patch, step) -> images (b, 3, h, w) with the patch rendered in, and their annotations.

Differentiable in the patch.
"""
Objective = Callable[[Prediction, Any], Tensor]
"""(prediction, annotations) -> loss (m,) per annotated object; lower is better for the attacker."""


@dataclass(frozen=True)
class PatchStep:
    """Result of one step.

    ``index`` counts from 1; ``patch`` is the patch after the step, ``loss`` the mean loss before
    it; ``state`` is the optimizer's.
    """

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
    """Descend the mean objective over rendered draws and over models.

    Only the patch receives gradients.

    Args:
        patch: First patch, of any shape that ``render`` accepts.
        render: Draws images with the patch at a step.
        models: Models under attack; they count alike.
        objective: One objective for all models, or one for each.
        regularizer: Patch to a scalar that is added to the loss.
        project: Patch to the nearest allowed patch.
        update: Optimizer.
        steps: Number of the last step.
        start: Steps already made: a saved run resumes to the same result.
        state: State of the optimizer after ``start`` steps; None for a fresh one.

    Yields:
        One result a step.

    Raises:
        ModelError: The loss is not finite, or no finite gradient reaches the patch.

    Example:
        >>> import torch
        >>> from physadv.attacks._optimizers import CosineAdam
        >>> from physadv.attacks.patch_loop import descend_patch
        >>> steps = descend_patch(
        ...     torch.full((3, 4, 4), 0.5),
        ...     render=lambda patch, step: (patch[None], None),
        ...     models=[lambda images: images.flatten(1)],
        ...     objective=lambda prediction, _: prediction.sum(1),
        ...     regularizer=lambda patch: 0 * patch.sum(),
        ...     project=lambda patch: patch.clamp(0, 1),
        ...     update=CosineAdam(lr=0.1, steps=5),
        ...     steps=5,
        ... )
        >>> [step.index for step in steps]
        [1, 2, 3, 4, 5]
    """
    current = patch.detach().clone()
    objectives = list(objective) if isinstance(objective, Sequence) else [objective] * len(models)
    state = update.init(current) if state is None else state

    for index in range(start, steps):
        current.requires_grad_()
        images, annotations = render(current, index)
        losses = [
            loss_of(model(images), annotations).mean()
            for model, loss_of in zip(models, objectives, strict=True)
        ]
        loss = torch.stack(losses).mean()
        (gradient,) = torch.autograd.grad(loss, current, allow_unused=True)
        _check(loss, gradient)

        # The regularizer does not depend on the draw: its gradient is exact.
        (smoothing,) = torch.autograd.grad(regularizer(current), current)
        current = project(update.step(current.detach(), gradient + smoothing, state)).detach()
        yield PatchStep(index + 1, current, float(loss.detach()), state)


def _check(loss: Tensor, gradient: Tensor | None) -> None:
    if not bool(torch.isfinite(loss)):
        raise ModelError(
            f"loss {float(loss.detach())}", "must be finite", "Check the model's output for NaN"
        )
    if gradient is None or not bool(torch.isfinite(gradient).all()):
        raise ModelError(
            "gradient of the patch",
            "must exist and be finite",
            "Wrap non-differentiable parts (BPDA)",
        )
