"""Universal perturbations by mini-batch descent: one change for all images."""

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
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import Loss, to_memory_format
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.constraints import LpBall
from physadv.threat.losses import LossFunction, Objective
from physadv.threat.norms import Norm, soft_threshold, step_toward


@dataclass(frozen=True)
class UniversalResult(AttackResult):
    """Result of a universal perturbation.

    Attributes:
        images: Images (b, c, h, w) that it was optimized on, with the change added and clipped.
        success: Whether (b,) the criterion holds on exactly these images.
        loss: The attack's objective (b,).
        queries: Forward passes (b,) of the model.
        findings: Reasons not to believe the success.
        change: Perturbation (1, c, h, w) within the ball.

    Example:
        >>> import torch
        >>> from physadv import attacks
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images = torch.rand(2, 3, 4, 4)
        >>> result = attacks.universal_perturbation(net, images, [0, 1], eps=0.1, epochs=2)
        >>> attacks.apply_change(images, result.change).shape
        torch.Size([2, 3, 4, 4])
    """

    change: Tensor = None  # type: ignore[assignment]


@open_inputs
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
    """Optimize one perturbation for all images (Shafahi et al. 2020).

    Runs stochastic projected descent on the mean loss, clipped so that few samples do not dominate.
    Takes epochs + 1 forward passes a sample. Apply the change to other images with
    :func:`apply_change`.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius of the ball, at least 0, in units of [0, 1].
        norm: "linf", "l2" or "l1".
        epochs: Passes over the images, at least 1.
        batch: Images a step, at least 1.
        step_size: Length of the first step, eps / 4 by default; it falls linearly to 0.
        loss: "ce", "margin" or "dlr".
        clip: Largest loss of a sample that still adds to the gradient, in units of ``loss``.
        targets: Target classes (b,) for a targeted attack.
        levels: Round the change towards zero to the grid k / levels (255 for 8 bits), so that
            images on the grid stay on it.
        speed: "plain", "fold", "bf16", "auto", "timed", or a copy of the model, for gradients.
        seed: Seed of the order of the images.

    Returns:
        The images with the change applied, success on them, and the change.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range, or there are no images.

    Example:
        >>> import torch
        >>> from physadv.attacks import universal_perturbation
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = universal_perturbation(net, images, labels, eps=8 / 255, epochs=2)
        >>> result.change.shape
        torch.Size([1, 3, 4, 4])
    """
    check_batch(images, labels, targets)
    if epochs < 1 or batch < 1 or not len(images):
        raise OptionError(
            f"{epochs} epochs, batch {batch}, {len(images)} images",
            "at least 1 of each",
            "Raise them",
        )

    ball = LpBall(norm, eps, levels)
    with frozen_eval(model):
        gradient_model = gradient_model_for(model, speed, images)
        x0 = to_memory_format(images, gradient_model)
        task = build_task(model, gradient_model, loss, labels, targets, exact=True)
        goal = Objective(_clipped(task.objective.loss, clip), labels, targets)
        batches = [
            rows for epoch in range(epochs) for rows in _batches(len(x0), batch, seed, epoch)
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

    forwards = epochs * forward_count(gradient_model) + forward_count(model)
    used = torch.full((len(x0),), forwards, device=x0.device)
    out = torch.empty_like(images).copy_(x)
    return UniversalResult(out, success, value.float(), used, change=change.contiguous())


def apply_change(images: Tensor, change: Tensor) -> Tensor:
    """Return images with a universal change added and clipped to [0, 1].

    Args:
        images: Images (b, ...), floats in [0, 1].
        change: Perturbation (1, ...), of the images' shape otherwise.

    Returns:
        Images nowhere farther from the given ones than ``change``, rounding included.

    Example:
        >>> import torch
        >>> float(apply_change(torch.full((1, 1), 0.9), torch.full((1, 1), 0.5)))
        1.0
    """
    moved = (images + change).clamp(0, 1)
    too_far = (moved.double() - images.double()).abs() > change.double().abs()
    return torch.where(too_far, torch.nextafter(moved, images), moved)


def _clipped(loss: LossFunction, clip: float) -> LossFunction:
    def clipped(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        return loss(logits, labels, targets).clamp(min=-clip)

    return clipped


def _batches(n: int, batch: int, seed: int, epoch: int) -> list[Tensor]:
    order = torch.randperm(n, generator=generator(seed, "universal", epoch))
    return [order[start : start + batch] for start in range(0, n, batch)]


def _step(change: Tensor, grad: Tensor, size: float, ball: LpBall) -> Tensor:
    """Step down the gradient and project onto the ball around zero.

    The change itself need not lie in [0, 1].
    """
    if ball.norm == "l1":
        direction = _directions.sparse_direction(grad, torch.full_like(grad, 0.5), 0.05)
    else:
        direction = _directions.unit_direction(grad, ball.norm)
    return _within((change - size * direction).double(), ball).to(change.dtype)


def _within(change: Tensor, ball: LpBall) -> Tensor:
    """Return the nearest change in the ball around zero, float64."""
    if ball.norm == "linf":
        return change.clamp(-ball.eps, ball.eps)
    if ball.norm == "l2":
        return change * min(1.0, ball.eps / max(float(change.square().sum().sqrt()), 1e-300))

    size = change.abs().flatten(1)
    shrunk = soft_threshold(size, torch.full_like(size, torch.inf), ball.eps)
    return shrunk.view(change.shape) * change.sign()


def _rounded(change: Tensor, ball: LpBall) -> Tensor:
    """Round towards zero: to floats that the ball still contains, or to the grid of levels."""
    if ball.levels is None:
        return step_toward(torch.zeros_like(change), _within(change.double(), ball) * (1 - 1e-9))
    return (change * ball.levels + change.sign() * 1e-4).trunc() / ball.levels
