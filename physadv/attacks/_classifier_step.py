"""Shared steps of attacks on classifiers: input gradients, success checks, and the best iterate.

A model is any callable from images (b, c, h, w) to logits (b, classes). Its parameters never
receive gradients, and its training modes and ``requires_grad`` flags are restored afterwards.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from physadv.attacks._image_groups import slices_of
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import ImageError, OptionError
from physadv.models.cards import require_gradient
from physadv.models.outputs import log_probabilities
from physadv.threat.criteria import Criterion, success_criterion
from physadv.threat.losses import Objective, objective_by_name

Classifier = Callable[[Tensor], Tensor]
_SAME_LOSSES, _BF16_LOSSES = 0.02, 0.3
"""Differences of losses, as shares of the largest, from which a copy computes another function."""


class LogProbabilities(nn.Module):
    """A model that returns log-probabilities in place of the probabilities ``model`` returns.

    Predictions stay the same, and the gradients are usable by attacks written for logits, also
    where probabilities round to 0 and 1.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return log-probabilities (b, classes) of ``images``, finite where a probability is 0."""
        return log_probabilities(self.model, images)


@contextmanager
def frozen_eval(*models: object) -> Iterator[None]:
    """Put all modules of ``models`` in eval mode with frozen parameters, and restore them on exit.

    Gradients are enabled within, so that inputs can be differentiated.
    """
    modules = [m for model in models for m in modules_of(model)]
    parts = [part for root in modules for part in root.modules()]
    modes = [(part, part.training) for part in parts if hasattr(part, "training")]
    flags = [(p, p.requires_grad) for root in modules for p in root.parameters()]

    try:
        # Assigning the flag keeps a module's own train() from running: some have side effects.
        for module, _ in modes:
            module.training = False
        for parameter, _ in flags:
            parameter.requires_grad_(False)

        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


def modules_of(model: object) -> list[nn.Module]:
    """Return the modules that ``model`` is made of.

    Looks through bound methods, partials, closures, and the attributes of small callables, so that
    ``lambda x: net(x)`` leads to ``net``.
    """
    modules: dict[nn.Module, None] = {}
    visited: set[int] = set()
    queue: list[object] = [model]

    while queue:
        item = queue.pop()
        if id(item) in visited:
            continue
        visited.add(id(item))

        if isinstance(item, nn.Module):
            modules[item] = None
        elif isinstance(item, list | tuple):
            queue += item
        elif isinstance(item, functools.partial):
            queue += [item.func, *item.args, *item.keywords.values()]
        elif inspect.ismethod(item):
            queue += [item.__self__, item.__func__]
        elif inspect.isfunction(item):
            captured = inspect.getclosurevars(item)
            queue += [*captured.nonlocals.values(), *captured.globals.values()]
        elif callable(item) and not isinstance(item, type):
            queue += list(getattr(item, "__dict__", {}).values())

    return list(modules)


def check_batch(images: Tensor, labels: Tensor, targets: Tensor | None = None) -> None:
    """Check that a batch can be attacked.

    Args:
        images: Floats (b, ...) in [0, 1].
        labels: True classes (b,), int64.
        targets: Target classes (b,), int64, for a targeted attack.

    Raises:
        ImageError: The images are not floats, or lie outside [0, 1].
        OptionError: Labels or targets have another shape or dtype, or are negative.
    """
    if not images.is_floating_point():
        raise ImageError(
            f"images of {images.dtype}", "floats in [0, 1]", "Divide 8-bit images by 255"
        )

    if images.ndim < 2:
        raise ImageError(
            f"images of shape {tuple(images.shape)}", "(b, ...) is needed", "Add a batch axis first"
        )
    if _channels_come_last(images.shape):
        raise ImageError(
            f"images of shape {tuple(images.shape)}",
            "look like (b, h, w, channels), and (b, channels, h, w) is needed",
            "Move the axis: images.movedim(-1, 1)",
        )

    low, high = (float(x) for x in images.detach().aminmax()) if images.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):
        remedy = "Pass images in [0, 1] and leave normalization to the model"
        if 1 < high <= 255 and low >= 0:
            remedy = "Divide them by 255 where they are in 0 to 255; the model owns normalization"
        raise ImageError(f"images in [{low:.3g}, {high:.3g}]", "[0, 1]", remedy)

    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is None:
            continue
        if classes.shape != images.shape[:1] or classes.dtype != torch.int64:
            one_hot = classes.ndim == 2 and len(classes) == len(images)
            raise OptionError(
                f"{name} of shape {tuple(classes.shape)} and {classes.dtype}",
                f"({len(images)},) and int64",
                "Give one class number for each image"
                + (f": {name}.argmax(1) where they are one-hot" if one_hot else ""),
            )
        if len(classes) and int(classes.min()) < 0:
            raise OptionError(
                f"{name} down to {int(classes.min())}", "classes are numbered from 0", "Number them"
            )


def _channels_come_last(shape: torch.Size) -> bool:
    """Return whether a batch of this shape can only be (b, h, w, channels)."""
    return len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1], shape[2]) > 4


@dataclass(frozen=True)
class AttackTask:
    """One batch under attack.

    ``model`` decides on success and ``gradient_model`` (the same or a faster copy) makes the steps
    down ``objective``, until ``criterion`` holds.
    """

    model: Classifier
    gradient_model: Classifier
    objective: Objective
    criterion: Criterion

    def pick(self, index: Tensor) -> AttackTask:
        """Return the task for the samples ``index`` (k,) of the batch."""
        return replace(
            self, objective=self.objective.pick(index), criterion=self.criterion.pick(index)
        )


def build_task(
    model: Classifier,
    gradient_model: Classifier,
    loss: str,
    labels: Tensor,
    targets: Tensor | None,
    *,
    exact: bool = False,
) -> AttackTask:
    """Build the task of an attack from the name of its loss.

    Args:
        model: Model that decides on success.
        gradient_model: Model that the gradients are taken of.
        loss: ``ce``, ``margin`` or ``dlr``. ``ce`` becomes ``log_odds``, which orders images
            alike, has the same gradient direction and does not vanish.
        labels: True classes (b,).
        targets: Target classes (b,), or None.
        exact: Keep ``ce`` itself, for attacks that add up losses of several samples.

    Returns:
        The task for the whole batch.
    """
    name = "log_odds" if loss == "ce" and not exact else loss

    # Clones are ordinary tensors even where the caller made the labels in inference mode.
    labels = labels.clone()
    targets = None if targets is None else targets.clone()
    objective = objective_by_name(name, labels, targets)
    return AttackTask(model, gradient_model, objective, success_criterion(labels, targets))


def loss_and_gradient(
    model: Classifier, x: Tensor, goal: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute logits, losses and input gradients in one forward and backward pass.

    A model made by :func:`physadv.attacks.obfuscated.expectation_model` runs once for each draw:
    losses and gradients are averaged, and the logits are the log of the mean probability.

    Args:
        model: Model to differentiate.
        x: Images (b, ...) to evaluate at.
        goal: Loss of each sample.

    Returns:
        Logits (b, classes), losses (b,), and the gradient (b, ...) of each sample's loss. Elements
        of the gradient that are not finite are 0.

    Raises:
        ModelError: The output does not depend on the input differentiably.
    """
    if not is_randomized(model):
        return _single_gradient(model, x, goal)

    draws = [_single_gradient(draw, x, goal) for draw in model.eot_draws()]
    probabilities = torch.stack([logits.double().softmax(1) for logits, _, _ in draws]).mean(0)
    losses = torch.stack([loss for _, loss, _ in draws]).mean(0)
    gradients = torch.stack([gradient for _, _, gradient in draws]).mean(0)
    return probabilities.log().to(draws[0][0].dtype), losses, gradients


@runtime_checkable
class RandomizedModel(Protocol):
    """A model with random parts that is evaluated over ``eot_count`` draws of its randomness.

    Made by :func:`physadv.attacks.obfuscated.expectation_model`.
    """

    eot_count: int

    def __call__(self, images: Tensor, /) -> Tensor:
        """Return the log of the mean probability (b, classes) of ``images``."""
        ...

    def eot_draws(self) -> Iterator[Classifier]:
        """Yield the model once for each draw."""
        ...


def forward_count(model: Classifier) -> int:
    """Return how many forward passes one call of ``model`` takes."""
    return model.eot_count if is_randomized(model) else 1


def is_randomized(model: Classifier) -> TypeGuard[RandomizedModel]:
    """Return whether ``model`` is a :class:`RandomizedModel`, without the long look of
    ``isinstance`` at the protocol in each step."""
    return hasattr(model, "eot_draws") and hasattr(model, "eot_count")


@runtime_checkable
class GroupedModel(Protocol):
    """A model whose gradients are taken ``at_once`` images at a time; 0 for all at once."""

    at_once: int

    def __call__(self, images: Tensor, /) -> Tensor:
        """Return logits (b, classes) of ``images``."""
        ...

    def noting_one_batch(self) -> AbstractContextManager[list[Tensor]]:
        """Note the gradients of groups, put into the list within, as those of one batch."""
        ...


def _single_gradient(
    model: Classifier, x: Tensor, goal: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, losses and gradient of a deterministic model."""
    size = getattr(model, "at_once", 0)
    if not 0 < size < len(x) or not isinstance(model, GroupedModel):
        return _gradient_at_once(model, x, goal)

    rows = torch.arange(len(x), device=x.device)
    with model.noting_one_batch() as gradients:
        groups = []
        for part in slices_of(len(x), size):
            groups.append(_gradient_at_once(model, x[part], goal.pick(rows[part])))
            gradients.append(groups[-1][2])
    logits, losses, slopes = (torch.cat(parts) for parts in zip(*groups, strict=True))
    return logits, losses, slopes


def _gradient_at_once(
    model: Classifier, x: Tensor, goal: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    x = x.detach().requires_grad_()
    logits = model(x)
    loss = goal(logits)
    if not loss.requires_grad:  # to look for the modules takes as long as a small net
        require_gradient(loss, modules_of(model))

    # allow_unused: the output of a constant model does not depend on x at all.
    grad = torch.autograd.grad(loss.sum(), x, allow_unused=True, materialize_grads=True)[0]
    return logits.detach(), loss.detach(), torch.nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)


@torch.no_grad()
def loss_and_success(
    model: Classifier, x: Tensor, goal: Objective, criterion: Criterion
) -> tuple[Tensor, Tensor]:
    """Return losses and success, each (b,), of ``model`` on the images ``x``.

    ``goal`` gives the losses and ``criterion`` the success; no gradient is taken.
    """
    logits = model(x)
    return goal(logits), criterion(logits)


class BestIterates:
    """The best iterate of each sample so far, by the criterion and then by the objective.

    Where a faster copy makes the steps and broken samples drop out, a success of the copy counts
    only after the model itself has confirmed it. :meth:`result` evaluates the model on all other
    samples, so that every reported success is the model's own.

    Args:
        x0: Clean images (b, ...), returned where nothing better is offered.
        task: The attack's task.
        by_loss: Compare iterates by the objective alone.
        drop: The attack stops searching for samples that are broken.
    """

    def __init__(
        self, x0: Tensor, task: AttackTask, *, by_loss: bool = False, drop: bool = False
    ) -> None:
        self.task, self.by_loss, self.drop = task, by_loss, drop
        self.images = x0.clone()
        self.success = torch.zeros(len(x0), dtype=torch.bool, device=x0.device)
        self.loss = torch.full((len(x0),), torch.inf, device=x0.device, dtype=torch.float64)
        self.queries = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        self.confirmed = torch.zeros_like(self.success)
        self.indirect = task.model is not task.gradient_model

    def update_best(self, index: Tensor, x: Tensor, loss: Tensor, success: Tensor) -> Tensor:
        """Keep the iterates that are better than those before.

        Args:
            index: Rows (k,) of the samples in the batch.
            x: Their iterates (k, ...), each after one forward pass.
            loss: Their losses (k,).
            success: Whether the gradient model is fooled (k,).

        Returns:
            Which of the samples are broken (k,).
        """
        self.queries[index] += forward_count(self.task.gradient_model)
        loss = loss.double()
        old_success, old_loss = self.success[index], self.loss[index]
        lower = (loss < old_loss) & loss.isfinite()
        better = lower if self.by_loss else torch.where(success == old_success, lower, success)

        # A success of the faster copy ends a sample's search, so the model confirms it first.
        confirmed = torch.zeros_like(success)
        unconfirmed = success & better
        if self.indirect and self.drop and bool(unconfirmed.any()):
            loss, success, confirmed = self._confirm(index, x, loss, success, unconfirmed)
            lower = (loss < old_loss) & loss.isfinite()
            better = torch.where(success == old_success, lower, success)

        rows = index[better]
        self.images[rows] = x[better]
        self.success[rows] = success[better]
        self.loss[rows] = loss[better]
        self.confirmed[rows] = confirmed[better]
        return self.success[index] if not self.by_loss else success

    def _confirm(
        self, index: Tensor, x: Tensor, loss: Tensor, success: Tensor, unconfirmed: Tensor
    ) -> tuple[Tensor, ...]:
        """Replace loss and success of the unconfirmed samples by those of the model itself."""
        part = self.task.pick(index[unconfirmed])
        true_loss, true_success = loss_and_success(
            self.task.model, x[unconfirmed], part.objective, part.criterion
        )
        self.queries[index[unconfirmed]] += forward_count(self.task.model)
        loss, success = loss.clone(), success.clone()
        loss[unconfirmed], success[unconfirmed] = true_loss.double(), true_success
        return loss, success, unconfirmed.clone()

    def _compare_copy(self, own: Tensor, of_copy: Tensor) -> None:
        """Note where the faster copy's losses (b,) of the best iterates are not the model's own."""
        observations = getattr(self.task.model, "observations", None)
        copy = self.task.gradient_model
        if observations is not None and isinstance(copy, GroupedModel):  # no surrogate
            reduced = getattr(copy, "bf16", False)
            observations.note_losses(own, of_copy, _BF16_LOSSES if reduced else _SAME_LOSSES)

    def result(self, like: Tensor) -> AttackResult:
        """Return the best iterates in the memory format of ``like``.

        Samples that only a faster copy has evaluated are evaluated by the model.
        """
        unconfirmed = (~self.confirmed & self.indirect).nonzero()[:, 0]
        if len(unconfirmed):
            part = self.task.pick(unconfirmed)
            loss, self.success[unconfirmed] = loss_and_success(
                self.task.model, self.images[unconfirmed], part.objective, part.criterion
            )
            self._compare_copy(loss.double(), self.loss[unconfirmed])
            self.loss[unconfirmed] = loss.double()
            self.queries[unconfirmed] += forward_count(self.task.model)

        images = torch.empty_like(like).copy_(self.images)
        return AttackResult(
            images.detach(), self.success, self.loss.to(torch.float32), self.queries
        )
