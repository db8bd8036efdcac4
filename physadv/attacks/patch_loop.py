"""The optimization loop of every patch.

A generator of steps, so that progress, stopping and checkpoints belong to the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from physadv.attacks._optimizers import UpdateRule
from physadv.core.errors import ModelError
from physadv.core.memory_limit import MemoryLimit
from physadv.core.process_group import ALONE, ProcessGroup
from physadv.core.types import Model, Prediction

Render = Callable[..., tuple[Tensor, Any]]
"""(patch, step) -> images (b, 3, h, w) with the patch rendered in, and their annotations.

Differentiable in the patch. Where a view names its ``draws``, it also takes ``rows``, a slice of
them to render alone.
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
    """Images of one kind, such as whole frames or crops, and the victims that are shown them.

    Args:
        render: Makes the images.
        victims: The models.
        draws: Number of draws a step, of which ``render`` can make some alone; None: only all.
    """

    render: Render
    victims: Sequence[Victim]
    draws: int | None = None


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
    processes: ProcessGroup = ALONE,
    memory: MemoryLimit | None = None,
) -> Iterator[PatchStep]:
    """Descend the mean objective over rendered draws, balanced over the victims.

    Of several victims each has a gradient of length 1, times the share of this step's objects on
    which its goal is not reached yet: one that is easy, or has steep scores, does not decide the
    patch. Only the patch receives gradients.

    Draws are divided among processes, and into parts where memory does not hold them at once; the
    gradient is that of all of them, up to rounding.

    Args:
        patch: First patch, of any shape that the views render.
        views: Images that are drawn at each step, and the victims that judge them.
        regularizer: Patch to a scalar that is added to the loss.
        project: Patch to the nearest allowed patch.
        update: Optimizer.
        steps: Number of the last step.
        start: Steps already made: a saved run resumes to the same result.
        state: State of the optimizer after ``start`` steps; None for a fresh one.
        processes: Processes that share the draws of each step and take the same steps.
        memory: How many draws memory holds at once, which the steps learn; None: a fresh one.

    Yields:
        One result a step.

    Raises:
        ModelError: The loss is not finite, or no finite gradient reaches the patch.
        OptionError: There are several processes, and a view cannot be divided.

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
    if any(view.draws is None for view in views):
        processes.refuse_several("a pipeline with stages that need all draws at once")
    limit = MemoryLimit() if memory is None else memory

    for index in range(start, steps):
        current.requires_grad_()
        loss, gradient = _balanced_gradient(views, current, index, processes, limit)

        # The regularizer does not depend on the draw: its gradient is exact.
        (smoothing,) = torch.autograd.grad(regularizer(current), current)
        current = project(update.step(current.detach(), gradient + smoothing, state)).detach()
        yield PatchStep(index + 1, current, loss, state)


@dataclass
class _Part:
    """One victim on some of a step's draws: means over their ``objects``, and the gradient of the
    mean loss."""

    objects: int
    loss: float
    gradient: Tensor
    unreached: float = 0.0


def _balanced_gradient(
    views: Sequence[View],
    patch: Tensor,
    index: int,
    processes: ProcessGroup,
    memory: MemoryLimit,
) -> tuple[float, Tensor]:
    """The mean loss of all victims, and the balanced sum of their gradients in ``patch``."""
    several = sum(len(view.victims) for view in views) > 1
    wholes: list[_Part] = []
    for view in views:
        wholes += _over_all(_own_parts(view, patch, index, processes, memory, several), processes)
    for whole in wholes:
        _check(whole.loss, whole.gradient)

    losses = [whole.loss for whole in wholes]
    gradients = [whole.gradient for whole in wholes]
    if not several:
        return losses[0], gradients[0]
    weights = torch.tensor([whole.unreached for whole in wholes]).to(patch) + _LEAST_WEIGHT
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


def _own_parts(
    view: View,
    patch: Tensor,
    index: int,
    processes: ProcessGroup,
    memory: MemoryLimit,
    several: bool,
) -> list[list[_Part]]:
    """What the draws of this process say, in parts that memory holds: by part and victim."""
    if view.draws is None:
        return [_parts(view, view.render(patch, index), patch, several)]
    own = processes.share(view.draws)

    def part(first: int, last: int) -> list[_Part]:
        rows = slice(own.start + first, own.start + last)
        return _parts(view, view.render(patch, index, rows), patch, several)

    parts = memory.run(own.stop - own.start, part)
    return parts or [[_Part(0, math.nan, torch.zeros_like(patch)) for _ in view.victims]]


def _parts(view: View, rendered: tuple[Tensor, Any], patch: Tensor, several: bool) -> list[_Part]:
    """Loss and gradient of each victim on some draws."""
    parts: list[_Part] = []
    images, annotations = rendered
    for number, victim in enumerate(view.victims, 1):
        prediction = victim.model(images)
        losses = victim.objective(prediction, annotations)
        if not len(losses):  # no object in these draws
            parts.append(_Part(0, math.nan, torch.zeros_like(patch)))
            continue
        loss = losses.mean()
        (gradient,) = torch.autograd.grad(
            loss, patch, allow_unused=True, retain_graph=number < len(view.victims)
        )
        _check(float(loss.detach()), gradient)
        part = _Part(len(losses), float(loss.detach()), gradient)
        if several:
            with torch.no_grad():
                reached = victim.criterion(prediction, annotations)
            part.unreached = 1 - float(reached.float().mean())
        parts.append(part)
    return parts


def _over_all(parts: list[list[_Part]], processes: ProcessGroup) -> list[_Part]:
    """The means of each victim over all parts, of every process."""
    if len(parts) == 1 and processes.count == 1:
        return parts[0]
    wholes: list[_Part] = []
    for of_victim in zip(*parts, strict=True):
        # In double precision on the CPU, so that the order of the parts leaves hardly a trace.
        like = of_victim[0].gradient
        table = torch.zeros(3 + like.numel(), dtype=torch.float64)
        for part in of_victim:
            if part.objects:
                numbers = torch.tensor([1.0, part.loss, part.unreached], dtype=torch.float64)
                slopes = part.gradient.flatten().cpu().double()
                table += part.objects * torch.cat([numbers, slopes])

        table = processes.sum(table)
        objects = int(table[0])
        means = table[1:] / objects if objects else torch.full_like(table[1:], math.nan)
        gradient = means[2:].to(like.dtype).to(like.device).view_as(like)
        wholes.append(_Part(objects, float(means[0]), gradient, float(means[1])))
    return wholes


def _check(loss: float, gradient: Tensor | None) -> None:
    if not math.isfinite(loss):
        raise ModelError(f"loss {loss}", "must be finite", "Check the model's output for NaN")
    if gradient is None or not bool(torch.isfinite(gradient).all()):
        raise ModelError(
            "gradient of the patch",
            "must exist and be finite",
            "Wrap non-differentiable parts (BPDA)",
        )
