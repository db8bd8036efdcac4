"""Gradient attacks in an epsilon ball: input-gradient ascent, FGSM, PGD, momentum and diverse
input.

Each is a function whose signature is its configuration. ``images`` (b, ...) are floats in [0, 1],
``labels`` (b,) the true classes; with ``targets`` (b,) the attack wants exactly these.
``levels=255`` makes every evaluated image 8-bit legal. ``index`` (b,) numbers the samples (0, 1,
... without it): random starts derive from ``seed`` and that number, so that neither the batch nor
its size changes them. Raises ImageError for images outside [0, 1], OptionError for options outside
their range, ModelError for a victim whose output is no differentiable logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
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
    forward_count,
    frozen_eval,
    loss_and_gradient,
    loss_and_success,
)
from physadv.attacks._fused_model import FusedModel, Speed, full_precision, gradient_model_for
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.constraints import LpBall
from physadv.threat.norms import Norm, linf_bounds, steepest_point

Loss = Literal["ce", "margin", "dlr"]
Schedule = Literal["constant", "linear", "cosine"]


ROUGH = 0.75
"""Share of the steps that a bfloat16 copy may make; the rest are made in full precision."""
_PATH = {
    "constant": 5.0,
    "linear": 10.0,
    "cosine": 10.0,
}  # default length of all steps together, in eps; twice in l_1


def fgsm(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    loss: Loss = "ce",
    targets: Tensor | None = None,
    levels: int | None = None,
) -> AttackResult:
    """Fast gradient method (Goodfellow et al. 2015): the best single step on the linearized loss,
    in any norm.

    In l_inf that is eps times the sign of the gradient; in l_2 and l_1 the optimum over the ball
    within [0, 1].
    """
    check_batch(images, labels, targets)
    ball = LpBall(norm, eps, levels)
    with frozen_eval(model):
        task = build_task(model, model, loss, labels, targets)
        x0 = images.detach().clone()
        _, _, grad = loss_and_gradient(model, x0, task.objective)
        x = ball.quantized(steepest_point(grad, x0, eps, norm), x0)
        value, success = loss_and_success(model, x, task.objective, task.criterion)
    used = torch.full((len(x0),), 2 * forward_count(model), device=x0.device)
    return AttackResult(torch.empty_like(images).copy_(x), success, value.float(), used)


def pgd(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    steps: int = 40,
    step_size: float | None = None,
    schedule: Schedule = "cosine",
    loss: Loss = "ce",
    targets: Tensor | None = None,
    restarts: int = 1,
    random_start: bool = True,
    keep: Literal["success", "loss"] = "success",
    drop_broken: bool = True,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
    seed: int = 0,
    index: Tensor | None = None,
) -> AttackResult:
    """Projected gradient descent (Madry et al. 2018), with the best iterate of each sample kept.

    ``keep="success"`` judges iterates by the criterion and then by the loss, and drops samples
    already broken unless ``drop_broken`` is off. ``keep="loss"`` looks for the highest loss
    (adversarial training) and never drops any. ``step_size`` is the first one; by default all steps
    together cover 10 eps (5 in a constant schedule), in l_1 twice that. Takes at most restarts *
    (steps + 1) forwards a sample with ``speed="plain"``; with a faster copy, one more by the victim
    itself, whose verdict it is.
    """
    return _descend(
        model,
        images,
        labels,
        targets,
        LpBall(norm, eps, levels),
        _sizes(eps, norm, steps, step_size, schedule),
        loss=loss,
        restarts=restarts,
        random_start=random_start,
        by_loss=keep == "loss",
        drop=drop_broken and keep == "success",
        speed=speed,
        seed=seed,
        index=index,
    )


def gradient_ascent(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "l2",
    steps: int = 20,
    step_size: float | None = None,
    loss: Loss = "ce",
    targets: Tensor | None = None,
    keep: Literal["success", "loss"] = "success",
    drop_broken: bool = True,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Plain input-gradient ascent from the clean image, up the loss or, with ``targets``, towards
    them.

    The oldest of the white-box attacks (Szegedy et al. 2013 minimize the same loss by L-BFGS): the
    step follows the gradient itself, not its sign. Each is scaled so that the pixel with the
    largest slope moves by ``step_size`` (2 eps / steps in l_inf; in l_2 and l_1 the whole step has
    that length). steps + 1 forwards a sample.
    """
    sizes = [step_size if step_size is not None else 2 * eps / max(1, steps)] * steps
    if steps < 1:
        raise OptionError(f"{steps} steps", "at least 1", "raise steps")
    return _descend(
        model,
        images,
        labels,
        targets,
        LpBall(norm, eps, levels),
        sizes,
        loss=loss,
        by_loss=keep == "loss",
        drop=drop_broken and keep == "success",
        speed=speed,
        raw=True,
    )


def _sizes(
    eps: float, norm: Norm, steps: int, step_size: float | None, schedule: Schedule
) -> list[float]:
    """The length of every step."""
    if steps < 1:
        raise OptionError(f"{steps} steps", "at least 1", "raise steps")
    at = [step / steps for step in range(steps)]
    shapes = {
        "constant": [1.0 for _ in at],
        "linear": [1 - t for t in at],
        "cosine": [(1 + math.cos(math.pi * t)) / 2 for t in at],
    }
    if schedule not in shapes:
        raise OptionError(
            f"schedule {schedule!r}", f"one of {', '.join(shapes)}", "choose one of these"
        )
    shape = shapes[schedule]
    path = _PATH[schedule] * eps * (2 if norm == "l1" else 1)
    first = step_size if step_size is not None else path / sum(shape)
    return [first * s for s in shape]


class ProjectedStep:
    """One step of descent and back into the ball, for a batch that shrinks as samples are broken."""

    def __init__(
        self,
        x0: Tensor,
        ball: LpBall,
        sizes: Sequence[float],
        *,
        decay: float = 0.0,
        raw: bool = False,
    ) -> None:
        self.x0, self.ball, self.sizes, self.decay, self.raw = x0, ball, sizes, decay, raw
        self.limits = linf_bounds(x0, ball.eps) if ball.norm == "linf" else None
        self.velocity = torch.zeros_like(x0) if decay else None

    def pick(self, rows: Tensor) -> None:
        """Go on with these samples only."""
        self.x0 = self.x0[rows]
        self.limits = self.limits and (self.limits[0][rows], self.limits[1][rows])
        self.velocity = None if self.velocity is None else self.velocity[rows]

    def __call__(self, x: Tensor, grad: Tensor, step: int) -> Tensor:
        """The next iterate."""
        if self.velocity is not None:
            mean = _directions.scale_by_largest(grad).abs().flatten(1).mean(1).clamp_min(1e-12)
            self.velocity = self.decay * self.velocity + _directions.scale_by_largest(
                grad
            ) / _directions.per_sample(mean, grad)
            grad = self.velocity
        x = x - self.sizes[step] * self._direction(x, grad, step)
        if self.limits is not None:
            return torch.clamp(x, *self.limits)
        return self.ball.project(x, self.x0)

    def _direction(self, x: Tensor, grad: Tensor, step: int) -> Tensor:
        if self.raw:
            return (
                _directions.scale_by_largest(grad)
                if self.ball.norm == "linf"
                else _directions.unit_direction(grad, self.ball.norm)
            )
        if self.ball.norm == "l1":
            return _directions.sparse_direction(
                grad, x, 0.2 * 0.01 ** (step / max(1, len(self.sizes) - 1))
            )
        return _directions.unit_direction(grad, self.ball.norm)


def _descend(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    ball: LpBall,
    sizes: Sequence[float],
    *,
    loss: Loss,
    restarts: int = 1,
    random_start: bool = False,
    by_loss: bool = False,
    drop: bool = True,
    speed: Speed | FusedModel = "fold",
    seed: int = 0,
    index: Tensor | None = None,
    decay: float = 0.0,
    raw: bool = False,
) -> AttackResult:
    """All restarts, each on the samples that none before has broken (all samples where the loss is
    asked)."""
    check_batch(images, labels, targets)
    if restarts < 1:
        raise OptionError(f"{restarts} restarts", "at least 1", "raise restarts")
    with frozen_eval(model):
        gradient_model = gradient_model_for(model, speed if len(sizes) > 2 else "plain", images)
        x0 = to_memory_format(images, gradient_model)
        task = build_task(model, gradient_model, loss, labels, targets)
        best = BestIterates(x0, task, by_loss=by_loss, drop=drop)
        numbers = range(len(x0)) if index is None else index.tolist()
        for restart in range(restarts):
            rows = (
                (~best.success).nonzero()[:, 0] if drop else torch.arange(len(x0), device=x0.device)
            )
            start = x0[rows]
            if random_start:
                start = ball.random_starts(
                    start, [generator(seed, "start", restart, numbers[i]) for i in rows.tolist()]
                )
            mover = ProjectedStep(x0[rows], ball, sizes, decay=decay, raw=raw)
            _one_start(task.pick(rows), rows, start, mover, best, drop)
        return best.result(images)


def _one_start(
    task: AttackTask, rows: Tensor, x: Tensor, mover: ProjectedStep, best: BestIterates, drop: bool
) -> None:
    """k steps and k + 1 forwards from one start, every iterate offered to ``best``."""
    for step in range(len(mover.sizes)):
        if not len(rows):
            return
        if step == math.ceil(ROUGH * len(mover.sizes)):
            task = replace(task, gradient_model=full_precision(task.gradient_model))
        point = mover.ball.quantized(x, mover.x0)
        logits, value, grad = loss_and_gradient(task.gradient_model, point, task.objective)
        is_adversarial = best.update_best(rows, point, value, task.criterion(logits))
        if drop and bool(is_adversarial.any()):
            left = (~is_adversarial).nonzero()[:, 0]
            task, rows, x, grad = task.pick(left), rows[left], x[left], grad[left]
            mover.pick(left)
        x = mover(x, grad, step)
    if len(rows):
        point = mover.ball.quantized(x, mover.x0)
        best.update_best(
            rows,
            point,
            *loss_and_success(task.gradient_model, point, task.objective, task.criterion),
        )


def to_memory_format(images: Tensor, gradient_model: Classifier) -> Tensor:
    """A detached copy of the images in the memory format the stepper is fastest with."""
    if isinstance(gradient_model, FusedModel) and gradient_model.channels_last:
        return images.detach().clone(memory_format=torch.channels_last)
    return images.detach().clone()
