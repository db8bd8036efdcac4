"""What the attacks on classifiers share: a quiet victim, losses with their input gradients, and the
best iterate.

A victim is any callable images -> logits (b, classes). Its parameters never receive gradients, and
its modes and flags are put back as they were found.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import ImageError, ModelError, OptionError
from physadv.threat.criteria import Criterion, success_criterion
from physadv.threat.losses import Objective, objective_by_name

Classifier = Callable[[Tensor], Tensor]


class LogProbabilities(nn.Module):
    """A victim that returns probabilities, as one that returns their logarithm: the same verdicts,
    usable gradients."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (b, classes), finite where a probability is 0."""
        probabilities = self.model(images)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


@contextmanager
def frozen_eval(*models: Classifier) -> Iterator[None]:
    """Within: every module of the victims in eval mode, parameters frozen, gradients on. After: all
    as it was."""
    modules = [m for model in models for m in modules_of(model)]
    modes = [(m, m.training) for root in modules for m in root.modules()]
    flags = [(p, p.requires_grad) for root in modules for p in root.parameters()]
    try:
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
        for parameter, needed in flags:
            parameter.requires_grad_(needed)


def modules_of(model: object) -> list[nn.Module]:
    """The modules a victim is made of: itself, or what a bound method, partial, function or small
    object refers to."""
    found: dict[nn.Module, None] = {}
    seen: set[int] = set()
    queue: list[object] = [model]
    while queue:
        part = queue.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, nn.Module):
            found[part] = None
        elif isinstance(part, list | tuple):
            queue += part
        elif isinstance(part, functools.partial):
            queue += [part.func, *part.args, *part.keywords.values()]
        elif inspect.ismethod(part):
            queue += [part.__self__, part.__func__]
        elif inspect.isfunction(part):
            held = inspect.getclosurevars(part)
            queue += [*held.nonlocals.values(), *held.globals.values()]
        elif callable(part) and not isinstance(part, type):
            queue += list(getattr(part, "__dict__", {}).values())
    return list(found)


def check_batch(images: Tensor, labels: Tensor, targets: Tensor | None = None) -> None:
    """Raises ImageError for images that are no floats in [0, 1], OptionError for labels or targets
    that do not fit."""
    if not images.is_floating_point():
        raise ImageError(
            f"images of {images.dtype}", "floats in [0, 1]", "divide 8-bit images by 255"
        )
    if len(images) and not (float(images.min()) >= 0 and float(images.max()) <= 1):
        low, high = float(images.min()), float(images.max())
        remedy = "hand over images in [0, 1] and let the victim own its normalization"
        raise ImageError(f"images in [{low:.3g}, {high:.3g}]", "[0, 1]", remedy)
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is not None and (
            classes.shape != images.shape[:1] or classes.dtype != torch.int64
        ):
            raise OptionError(
                f"{name} of shape {tuple(classes.shape)} and {classes.dtype}",
                f"({len(images)},) and int64",
                "give one class number an image",
            )


@dataclass(frozen=True)
class AttackTask:
    """One batch under attack: whose verdict counts, who makes the steps, and what is wanted."""

    model: Classifier
    gradient_model: Classifier
    objective: Objective
    criterion: Criterion

    def pick(self, index: Tensor) -> AttackTask:
        """The same for a part of the samples."""
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
    """A task by its loss's name; ``ce`` becomes ``log_odds`` (same order, direction; no vanishing)
    unless ``exact``."""
    name = "log_odds" if loss == "ce" and not exact else loss
    labels, targets = (
        labels.clone(),
        None if targets is None else targets.clone(),
    )  # no inference tensors within
    return AttackTask(
        model,
        gradient_model,
        objective_by_name(name, labels, targets),
        success_criterion(labels, targets),
    )


def loss_and_gradient(
    model: Classifier, x: Tensor, goal: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, losses (b,) and the gradient of each sample's loss with respect to ``x``, from one
    forward pass.

    A model made by :func:`physadv.attacks.obfuscated.expectation_model` is asked once a draw: losses and
    gradients are averaged over the draws, the logits are the log of the mean probability. Elements
    of the gradient that are not finite count as 0. Raises ModelError where the output does not
    depend on the input differentiably.
    """
    if not isinstance(model, RandomizedModel):
        return _once(model, x, goal)
    parts = [_once(draw, x, goal) for draw in model.eot_draws()]
    chances = torch.stack([logits.double().softmax(1) for logits, _, _ in parts]).mean(0)
    losses, grads = (
        torch.stack([p[1] for p in parts]).mean(0),
        torch.stack([p[2] for p in parts]).mean(0),
    )
    return chances.log().to(parts[0][0].dtype), losses, grads


@runtime_checkable
class RandomizedModel(Protocol):
    """A victim with random parts, as several callables, one a draw; see
    :func:`physadv.attacks.obfuscated.expectation_model`."""

    eot_count: int

    def __call__(self, images: Tensor, /) -> Tensor:
        """Log of the mean probability (b, classes)."""
        ...

    def eot_draws(self) -> Iterator[Classifier]:
        """The victim once a draw."""
        ...


def forward_count(model: Classifier) -> int:
    """Forward passes behind one call."""
    return model.eot_count if isinstance(model, RandomizedModel) else 1


def _once(model: Classifier, x: Tensor, goal: Objective) -> tuple[Tensor, Tensor, Tensor]:
    x = x.detach().requires_grad_()
    logits = model(x)
    loss = goal(logits)
    if not loss.requires_grad:
        raise ModelError(
            "victim's output",
            "does not depend on its input differentiably",
            "wrap the part that blocks gradients with bpda, or use a black-box attack such as "
            "square",
        )
    grad = torch.autograd.grad(loss.sum(), x, allow_unused=True, materialize_grads=True)[0]
    return logits.detach(), loss.detach(), torch.nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)


@torch.no_grad()
def loss_and_success(
    model: Classifier, x: Tensor, goal: Objective, criterion: Criterion
) -> tuple[Tensor, Tensor]:
    """Losses and success (b,) of images as they are."""
    logits = model(x)
    return goal(logits), criterion(logits)


class BestIterates:
    """The best iterate of each sample so far, judged by the criterion and then by the objective (or
    by it alone).

    Where a faster copy makes the steps and samples drop out once won, its successes count only once
    the victim itself has confirmed them. :meth:`result` asks the victim about all other samples, so
    that every verdict is its own.
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
        """Show iterates ``x`` of the samples ``index`` after one forward pass each; returns which
        have won (b,)."""
        self.queries[index] += forward_count(self.task.gradient_model)
        loss = loss.double()
        old, old_loss = self.success[index], self.loss[index]
        lower = loss < old_loss
        better = lower if self.by_loss else torch.where(success == old, lower, success)
        confirmed = torch.zeros_like(success)
        if self.indirect and self.drop and bool((ask := success & better).any()):
            loss, success, confirmed = self._confirm(index, x, loss, success, ask)
            better = torch.where(success == old, loss < old_loss, success)
        rows = index[better]
        self.images[rows] = x[better]
        self.success[rows], self.loss[rows], self.confirmed[rows] = (
            success[better],
            loss[better],
            confirmed[better],
        )
        return self.success[index] if not self.by_loss else success

    def _confirm(
        self, index: Tensor, x: Tensor, loss: Tensor, success: Tensor, ask: Tensor
    ) -> tuple[Tensor, ...]:
        part = self.task.pick(index[ask])
        true_loss, true_success = loss_and_success(
            self.task.model, x[ask], part.objective, part.criterion
        )
        self.queries[index[ask]] += forward_count(self.task.model)
        loss, success = loss.clone(), success.clone()
        loss[ask], success[ask] = true_loss.double(), true_success
        return loss, success, ask.clone()

    def result(self, like: Tensor) -> AttackResult:
        """What was kept, in the memory format of ``like``; the victim judges what only its faster
        copy has seen."""
        open_ = (
            (~self.confirmed).nonzero()[:, 0] if self.indirect else self.confirmed.nonzero()[:0, 0]
        )
        if len(open_):
            part = self.task.pick(open_)
            loss, self.success[open_] = loss_and_success(
                self.task.model, self.images[open_], part.objective, part.criterion
            )
            self.loss[open_] = loss.double()
            self.queries[open_] += forward_count(self.task.model)
        images = torch.empty_like(like).copy_(self.images)
        return AttackResult(
            images.detach(), self.success, self.loss.to(torch.float32), self.queries
        )
