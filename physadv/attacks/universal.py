"""Universal perturbations: one change for all images, by mini-batch descent (Shafahi et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.attacks import _directions
from physadv.attacks._classifier_step import (
    Classifier,
    build_task,
    check_batch,
    forward_count,
    frozen_eval,
    loss_and_gradient,
    loss_and_success,
)
from physadv.attacks._fused_model import FusedModel, Speed, gradient_model_for
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import Loss, to_memory_format
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.constraints import LpBall
from physadv.threat.losses import LossFunction, Objective
from physadv.threat.norms import Norm, soft_threshold, step_toward


@dataclass(frozen=True)
class UniversalResult(AttackResult):
    """``change`` (1, ...) within the ball, and the images it was made on with the change applied
    and clipped."""

    change: Tensor = None  # type: ignore[assignment]


def universal_perturbation(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    epochs: int = 10,
    batch: int = 64,
    step_size: float | None = None,
    loss: Loss = "ce",
    clip: float = 9.0,
    targets: Tensor | None = None,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
    seed: int = 0,
) -> UniversalResult:
    """One perturbation for all ``images`` (b, ...), stochastic projected descent on the mean
    clipped loss.

    A sample whose loss has gained ``clip`` counts no more (the clipped loss of the paper), so that
    few samples do not take all. ``step_size`` falls along a cosine from eps / 4. With
    ``levels=255`` the change is rounded towards zero to the grid, so that images on the grid stay
    on it. ``change`` is for use on other images, see :func:`apply_change`; ``success`` is on those
    it was made on. epochs + 1 forwards a sample.
    """
    check_batch(images, labels, targets)
    if epochs < 1 or batch < 1 or not len(images):
        raise OptionError(
            f"{epochs} epochs, batch {batch}, {len(images)} images",
            "at least 1 of each",
            "raise them",
        )
    ball = LpBall(norm, eps, levels)
    with frozen_eval(model):
        gradient_model = gradient_model_for(model, speed, images)
        x0 = to_memory_format(images, gradient_model)
        task = build_task(model, gradient_model, loss, labels, targets, exact=True)
        goal = Objective(_clipped(task.objective.loss, clip), labels, targets)
        batches = [
            part for epoch in range(epochs) for part in _batches(len(x0), batch, seed, epoch)
        ]
        change = torch.zeros_like(x0[:1])
        for step, rows in enumerate(batches):
            rows = rows.to(x0.device)
            x = apply_change(x0[rows], change)
            _, _, grad = loss_and_gradient(gradient_model, x, goal.pick(rows))
            size = (eps / 4 if step_size is None else step_size) * (1 - step / len(batches))
            change = _step(change, grad.sum(0, keepdim=True), size, ball)
        change = _rounded(change, ball)
        x = ball.quantized(apply_change(x0, change), x0)
        value, success = loss_and_success(model, x, task.objective, task.criterion)
    used = torch.full(
        (len(x0),), epochs * forward_count(gradient_model) + forward_count(model), device=x0.device
    )
    out = torch.empty_like(images).copy_(x)
    return UniversalResult(out, success, value.float(), used, change.contiguous())


def apply_change(images: Tensor, change: Tensor) -> Tensor:
    """Images (b, ...) with a universal ``change`` (1, ...) added and clipped to [0, 1]; never
    farther than it."""
    moved = (images + change).clamp(0, 1)
    over = (moved.double() - images.double()).abs() > change.double().abs()
    return torch.where(over, torch.nextafter(moved, images), moved)


def _clipped(loss: LossFunction, clip: float) -> LossFunction:
    def clipped(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        return loss(logits, labels, targets).clamp(min=-clip)

    return clipped


def _batches(n: int, batch: int, seed: int, epoch: int) -> list[Tensor]:
    order = torch.randperm(n, generator=generator(seed, "universal", epoch))
    return [order[start : start + batch] for start in range(0, n, batch)]


def _step(change: Tensor, grad: Tensor, size: float, ball: LpBall) -> Tensor:
    """Down the gradient and back into the ball around zero; [0, 1] is no limit for the change
    itself."""
    if ball.norm == "l1":
        way = _directions.sparse_direction(grad, torch.full_like(grad, 0.5), 0.05)
    else:
        way = _directions.unit_direction(grad, ball.norm)
    return _within((change - size * way).double(), ball).to(change.dtype)


def _within(change: Tensor, ball: LpBall) -> Tensor:
    """The nearest change in the ball around zero, float64."""
    if ball.norm == "linf":
        return change.clamp(-ball.eps, ball.eps)
    if ball.norm == "l2":
        return change * min(1.0, ball.eps / max(float(change.square().sum().sqrt()), 1e-300))
    size = change.abs().flatten(1)
    return (
        soft_threshold(size, torch.full_like(size, torch.inf), ball.eps).view(change.shape)
        * change.sign()
    )


def _rounded(change: Tensor, ball: LpBall) -> Tensor:
    """Rounded towards zero: to the floats, so that the ball still holds, or to the grid."""
    if ball.levels is None:
        return step_toward(torch.zeros_like(change), _within(change.double(), ball) * (1 - 1e-9))
    return (change * ball.levels + change.sign() * 1e-4).trunc() / ball.levels
