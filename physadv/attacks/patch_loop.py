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
Criterion = Callable[[Prediction, Any], Tensor]
"""(prediction, annotations) -> whether the goal is reached (m,) per annotated object."""
_LEAST_WEIGHT = 0.05
"""Weight, before they are made to add up to 1, of a model on which every draw has succeeded."""


@dataclass(frozen=True)
class Victim:
    """One of the models under attack.

    Args:
        model: The model.
        objective: Loss of its answers.
        criterion: Whether they are what the attacker wants; weighs the victims of an ensemble.
    """

    model: Model
    objective: Objective
    criterion: Criterion


@dataclass(frozen=True)
class View:
    """Images of one kind, such as whole frames or crops, and the victims that are shown them."""

    render: Render
    victims: Sequence[Victim]


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
    views: Sequence[View],
    regularizer: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    update: UpdateRule,
    steps: int,
    start: int = 0,
    state: Any = None,
) -> Iterator[PatchStep]:
    """Descend the mean objective over rendered draws, balanced over the victims.

    Of several victims each has a gradient of length 1, times the share of this step's objects on
    which its goal is not reached yet: one that is easy, or has steep scores, does not decide the
    patch. Only the patch receives gradients.

    Args:
        patch: First patch, of any shape that the views render.
        views: Images that are drawn at each step, and the victims that judge them.
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
        >>> from physadv.attacks.patch_loop import Victim, View, descend_patch
        >>> bright = Victim(
        ...     model=lambda images: images.flatten(1),
        ...     objective=lambda prediction, _: prediction.sum(1),
        ...     criterion=lambda prediction, _: prediction.sum(1) < 1,
        ... )
        >>> steps = descend_patch(
        ...     torch.full((3, 4, 4), 0.5),
        ...     views=[View(lambda patch, step: (patch[None], None), [bright])],
        ...     regularizer=lambda patch: 0 * patch.sum(),
        ...     project=lambda patch: patch.clamp(0, 1),
        ...     update=CosineAdam(lr=0.1, steps=5),
        ...     steps=5,
        ... )
        >>> [step.index for step in steps]
        [1, 2, 3, 4, 5]
    """
    current = patch.detach().clone()
    state = update.init(current) if state is None else state

    for index in range(start, steps):
        current.requires_grad_()
        loss, gradient = _balanced_gradient(views, current, index)

        # The regularizer does not depend on the draw: its gradient is exact.
        (smoothing,) = torch.autograd.grad(regularizer(current), current)
        current = project(update.step(current.detach(), gradient + smoothing, state)).detach()
        yield PatchStep(index + 1, current, loss, state)


def _balanced_gradient(views: Sequence[View], patch: Tensor, index: int) -> tuple[float, Tensor]:
    """The mean loss of all victims, and the balanced sum of their gradients in ``patch``."""
    losses, gradients, unreached = [], [], []
    several = sum(len(view.victims) for view in views) > 1
    for view in views:
        images, annotations = view.render(patch, index)
        for number, victim in enumerate(view.victims, 1):
            prediction = victim.model(images)
            loss = victim.objective(prediction, annotations).mean()
            (gradient,) = torch.autograd.grad(
                loss, patch, allow_unused=True, retain_graph=number < len(view.victims)
            )
            _check(loss, gradient)
            losses.append(float(loss.detach()))
            gradients.append(gradient)
            if several:
                with torch.no_grad():
                    reached = victim.criterion(prediction, annotations)
                unreached.append(1 - float(reached.float().mean()))

    if not several:
        return losses[0], gradients[0]
    weights = torch.tensor(unreached).to(patch) + _LEAST_WEIGHT
    weights = weights / weights.sum()
    lengths = torch.stack([gradient.norm() for gradient in gradients])
    directions = torch.stack(
        [
            weight * gradient / length.clamp(min=torch.finfo(length.dtype).tiny)
            for weight, gradient, length in zip(weights, gradients, lengths, strict=True)
        ]
    )
    # As long as theirs are on average, for the regularizer's weights are for such a length.
    return sum(losses) / len(losses), directions.sum(0) * (weights * lengths).sum()


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
