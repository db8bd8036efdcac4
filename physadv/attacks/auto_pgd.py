"""Auto-PGD: projected gradient descent that sets its own step size (Croce & Hein 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from physadv.attacks import _directions
from physadv.attacks._classifier_step import (
    AttackTask,
    BestIterates,
    Classifier,
    build_task,
    check_batch,
    frozen_eval,
    loss_and_gradient,
    loss_and_success,
)
from physadv.attacks._fused_model import FusedModel, Speed, full_precision, gradient_model_for
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import ROUGH, Loss, to_memory_format
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.constraints import LpBall
from physadv.threat.criteria import Misclassification
from physadv.threat.norms import Norm, linf_bounds

_MOMENTUM = 0.75
_SUFFICIENT_SHARE = 0.75  # of the steps must have lowered the loss for the step size to stay


@open_inputs
def apgd(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    steps: int = 100,
    loss: Loss = "ce",
    targets: Tensor | None = None,
    any_class: bool = False,
    restarts: int = 1,
    random_start: bool = True,
    starts: Tensor | None = None,
    keep: Literal["success", "loss"] = "success",
    drop_broken: bool = True,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
    seed: int = 0,
    index: Tensor | None = None,
) -> AttackResult:
    """Attack with Auto-PGD (Croce & Hein 2020; in l_1 Croce & Hein 2021).

    The step starts at 2 eps (in l_1: eps, on a shrinking share of the elements) and is halved at
    checkpoints where the loss has stopped falling, going on from the best point. Takes at most
    restarts * (steps + 1) forward passes a sample with ``speed="plain"``.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, ...), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: Radius of the ball, at least 0, in units of [0, 1].
        norm: "linf", "l2" or "l1".
        steps: Steps from each start, at least 1.
        loss: "ce", "margin" or "dlr".
        targets: Target classes (b,) for a targeted attack.
        any_class: With targets, count every class but the true one as success; the targets only
            lead the way.
        restarts: Number of starts, at least 1.
        random_start: Start at a random point of the ball, else at the clean image.
        starts: Images (b, ...) to start from the first time, projected onto the ball; None starts
            as ``random_start`` says.
        keep: "success" or "loss", as in :func:`physadv.attacks.gradient.pgd`.
        drop_broken: With ``keep="success"``, stop searching for samples that are broken.
        levels: Round the images to k / levels (255 for 8 bits).
        speed: "plain", "fold", "bf16", "auto", "timed", or a copy of the model, for gradients.
        seed: Seed of the random starts.
        index: Numbers (b,) of the samples; 0, 1, ... without it.

    Returns:
        The best iterates with success, loss and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range.
        ModelError: The output is no differentiable logits.

    Example:
        >>> import torch
        >>> from physadv.attacks.auto_pgd import apgd
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images, labels = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
        >>> result = apgd(net, images, labels, eps=8 / 255, steps=10)
        >>> bool((result.images - images).abs().max() <= 8 / 255)
        True
    """
    check_batch(images, labels, targets)
    if steps < 1 or restarts < 1:
        raise OptionError(f"{steps} steps, {restarts} restarts", "at least 1 of each", "Raise them")
    ball = LpBall(norm, eps, levels)
    drop = drop_broken and keep == "success"
    with frozen_eval(model):
        count = restarts * steps * len(images)
        gradient_model = gradient_model_for(model, speed if steps > 2 else "plain", images, count)
        x0 = to_memory_format(images, gradient_model)
        task = build_task(model, gradient_model, loss, labels, targets)
        task = replace(task, criterion=Misclassification(labels)) if any_class else task
        best = BestIterates(x0, task, by_loss=keep == "loss", drop=drop)

        # A start depends on the sample's number alone, so that batching does not change it.
        numbers = range(len(x0)) if index is None else index.tolist()
        for restart in range(restarts):
            rows = (
                (~best.success).nonzero()[:, 0] if drop else torch.arange(len(x0), device=x0.device)
            )
            start = x0[rows]
            if starts is not None and not restart:
                start = ball.project(starts.to(start)[rows], start)
            elif random_start:
                start = ball.random_starts(
                    start, [generator(seed, "apgd", restart, numbers[i]) for i in rows.tolist()]
                )
            _one_start(best.task.pick(rows), rows, x0[rows], start, ball, steps, best, drop)
        return best.result(images)


@dataclass
class _State:
    """The search of every sample; each field has one entry a sample."""

    rows: Tensor
    x0: Tensor
    low: Tensor
    high: Tensor
    x: Tensor
    before: Tensor
    grad: Tensor
    loss: Tensor
    size: Tensor
    share: Tensor
    used: Tensor
    best_x: Tensor
    best_grad: Tensor
    best_loss: Tensor
    lowered: Tensor
    mark_loss: Tensor
    mark_kept: Tensor

    def pick(self, unbroken: Tensor) -> _State:
        """Return the state of the samples ``unbroken``."""
        return _State(**{f.name: getattr(self, f.name)[unbroken] for f in fields(self)})


def _one_start(
    task: AttackTask,
    rows: Tensor,
    x0: Tensor,
    x: Tensor,
    ball: LpBall,
    steps: int,
    best: BestIterates,
    drop: bool,
) -> None:
    """Descend from one start in k steps and k + 1 forward passes; ``best`` keeps every iterate."""
    if not len(rows):
        return

    point = ball.quantized(x, x0)
    logits, loss, grad = loss_and_gradient(task.gradient_model, point, task.objective)
    broken = best.update_best(rows, point, loss, task.criterion(logits))
    state = _begin(rows, x0, x, grad, loss, ball)
    checkpoints = _sparse_checkpoints(steps) if ball.norm == "l1" else _checkpoints(steps)
    adapt = _adapt_sparse if ball.norm == "l1" else _adapt

    for step in range(1, steps + 1):
        if step == math.ceil(ROUGH * steps):
            task = replace(task, gradient_model=full_precision(task.gradient_model))
        if drop and bool(broken.any()):
            unbroken = (~broken).nonzero()[:, 0]
            task, state = task.pick(unbroken), state.pick(unbroken)
            if not len(unbroken):
                return

        x = _move(state, ball, first=step == 1)
        point = ball.quantized(x, state.x0)
        if step == steps:  # the last iterate needs no gradient
            loss, success = loss_and_success(
                task.gradient_model, point, task.objective, task.criterion
            )
            best.update_best(state.rows, point, loss, success)
            return

        logits, loss, grad = loss_and_gradient(task.gradient_model, point, task.objective)
        broken = best.update_best(state.rows, point, loss, task.criterion(logits))
        _record(state, x, loss, grad)
        if step in checkpoints:
            adapt(state, ball, checkpoints[step])


def _begin(rows: Tensor, x0: Tensor, x: Tensor, grad: Tensor, loss: Tensor, ball: LpBall) -> _State:
    """The state at a start, where one forward and backward pass has been made."""
    first = 1.0 if ball.norm == "l1" else 2.0
    ones = torch.ones(len(rows), device=x.device, dtype=x.dtype)
    low, high = linf_bounds(x0, ball.eps) if ball.norm == "linf" else (x0, x0)

    return _State(
        rows=rows,
        x0=x0,
        low=low,
        high=high,
        x=x,
        before=x,
        grad=grad,
        loss=loss,
        size=first * ball.eps * ones,
        share=0.2 * ones,
        used=ones,
        best_x=x,
        best_grad=grad,
        best_loss=loss,
        lowered=torch.zeros_like(rows),
        mark_loss=loss,
        mark_kept=torch.zeros_like(rows, dtype=torch.bool),
    )


def _checkpoints(steps: int) -> dict[int, int]:
    """Steps at which the step size may change, with the number of steps since the one before.

    The intervals are those of the paper: 22 % of the steps at first, 3 % less each time, at least
    6 %.
    """
    checkpoints, last, share, gap = {}, 0, 0.22, 0.22
    while share <= 1:
        step = math.ceil(share * steps - 1e-9)
        if step > last:
            checkpoints[step], last = step - last, step
        gap = max(gap - 0.03, 0.06)
        share += gap
    return checkpoints


def _sparse_checkpoints(steps: int) -> dict[int, int]:
    every = max(1, int(0.04 * steps))
    return dict.fromkeys(range(every, steps + 1, every), every)


def _move(state: _State, ball: LpBall, first: bool) -> Tensor:
    """A step down the gradient with momentum, which the first step and l_1 do without."""
    if ball.norm == "l1":
        direction = _directions.sparse_direction(state.grad, state.x, state.share)
    else:
        direction = _directions.unit_direction(state.grad, ball.norm)
    x = _inside(state, ball, state.x - _directions.per_sample(state.size, state.x) * direction)
    if first or ball.norm == "l1":
        return x

    step = _MOMENTUM * (x - state.x) + (1 - _MOMENTUM) * (state.x - state.before)
    return _inside(state, ball, state.x + step)


def _inside(state: _State, ball: LpBall, x: Tensor) -> Tensor:
    return (
        torch.clamp(x, state.low, state.high) if ball.norm == "linf" else ball.project(x, state.x0)
    )


def _record(state: _State, x: Tensor, loss: Tensor, grad: Tensor) -> None:
    """Take the new point, and count whether it is better than the last and than the best."""
    state.lowered = state.lowered + (loss < state.loss)
    state.before, state.x, state.loss, state.grad = state.x, x, loss, grad
    _keep(state, loss < state.best_loss)


def _keep(state: _State, better: Tensor) -> None:
    pixels = _directions.per_sample(better, state.x)
    state.best_x = torch.where(pixels, state.x, state.best_x)
    state.best_grad = torch.where(pixels, state.grad, state.best_grad)
    state.best_loss = torch.where(better, state.loss, state.best_loss)


def _adapt(state: _State, ball: LpBall, window: int) -> None:
    """Halve the step size and return to the best point, where the search has stalled.

    The search has stalled where too few steps lowered the loss, or none did for two windows.
    """
    too_few = state.lowered < _SUFFICIENT_SHARE * window
    stuck = state.mark_kept & (state.best_loss >= state.mark_loss)
    halve = too_few | stuck
    state.size = torch.where(halve, state.size / 2, state.size)
    state.mark_kept, state.mark_loss = ~halve, state.best_loss
    state.lowered = torch.zeros_like(state.lowered)
    _return_to_best(state, halve)


def _adapt_sparse(state: _State, ball: LpBall, window: int) -> None:
    """Match the share of elements moved to the sparsity of the best point; once settled, shorten
    steps.
    """
    n = state.x0[0].numel()
    used = ((state.best_x != state.x0).flatten(1).sum(1) / n).to(state.used)

    # The sparser the best point has become, the fewer elements a step should move.
    sparser = used < 0.95 * state.used
    state.used = used
    state.share = torch.where(sparser, (used / 1.5).clamp_min(1 / n), state.share)
    shorter = (state.size / 1.5).clamp_min(ball.eps / 10)
    state.size = torch.where(sparser, torch.full_like(state.size, ball.eps), shorter)
    _return_to_best(state, sparser)


def _return_to_best(state: _State, rows: Tensor) -> None:
    pixels = _directions.per_sample(rows, state.x)
    state.x = torch.where(pixels, state.best_x, state.x)
    state.before = torch.where(pixels, state.best_x, state.before)
    state.grad = torch.where(pixels, state.best_grad, state.grad)
    state.loss = torch.where(rows, state.best_loss, state.loss)
