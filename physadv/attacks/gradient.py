"""Gradient attacks in an epsilon ball: FGSM, PGD and plain input-gradient ascent.

Each attack is a function whose signature is its configuration. With ``levels=255`` every evaluated
image is a valid 8-bit image. Random starts derive from ``seed`` and the sample's number, so that
neither the batch nor its size changes them.
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
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.constraints import LpBall
from physadv.threat.norms import Norm, linf_bounds, steepest_point

Loss = Literal["ce", "margin", "dlr", "pm"]
Schedule = Literal["constant", "linear", "cosine"]


ROUGH = 0.75
"""Share of the steps that a bfloat16 copy may make; the rest are made in full precision."""
# Default length of all steps together, in eps; twice that in l_1.
_PATH_LENGTH = {"constant": 5.0, "linear": 10.0, "cosine": 10.0}
_SPARSE_STEP = 1.5
"""Mean change of an element in a step in l_0. Pixels are chosen before they are clipped to [0, 1],
so that a step of this length lets new ones replace those already at an end."""


@open_inputs
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
    """Attack with a single gradient step, the fast gradient method (Goodfellow et al. 2015).

    The step is optimal for the linearized loss in any norm: eps times the sign of the gradient in
    l_inf, the optimum over the ball within [0, 1] in the others. Takes 2 forward passes a sample.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, ...), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: Radius of the ball, at least 0, in units of [0, 1]; in l_0 a number of pixels.
        norm: "linf", "l2", "l1" or "l0".
        loss: "ce", "margin", "dlr" or "pm", the margin of probabilities.
        targets: Target classes (b,) for a targeted attack.
        levels: Round the images to k / levels (255 for 8 bits).

    Returns:
        The adversarial images with success and loss.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range.
        ModelError: The output is no differentiable logits.

    Example:
        >>> import torch
        >>> from physadv.attacks.gradient import fgsm
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images, labels = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
        >>> result = fgsm(net, images, labels, eps=8 / 255)
        >>> bool((result.images - images).abs().max() <= 8 / 255)
        True
    """
    check_batch(images, labels, targets)
    ball = LpBall(norm, eps, levels)
    with frozen_eval(model):
        task = build_task(model, model, loss, labels, targets)
        x0 = images.detach().clone()
        _, _, grad = loss_and_gradient(model, x0, task.objective)
        x = ball.quantized(steepest_point(grad, x0, eps, norm), x0)
        value, success = loss_and_success(model, x, task.objective, task.criterion)

    # One forward pass for the gradient, one to evaluate the result.
    used = torch.full((len(x0),), 2 * forward_count(model), device=x0.device)
    return AttackResult(torch.empty_like(images).copy_(x), success, value.float(), used)


@open_inputs
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
    """Attack with projected gradient descent (Madry et al. 2018), keeping the best iterates.

    In l_0 it is PGD_0 (Croce & Hein 2019): steps along the gradient, then all but ``eps`` pixels
    are set back to the clean image.

    Takes at most restarts * (steps + 1) forward passes a sample with ``speed="plain"``; a faster
    copy needs one more pass of the model itself, which decides on success.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, ...), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: Radius of the ball, at least 0, in units of [0, 1]; in l_0 a number of pixels.
        norm: "linf", "l2", "l1" or "l0".
        steps: Steps from each start, at least 1.
        step_size: Length of the first step, in l_0 the mean change of an element in units of
            [0, 1]. By default all steps together cover 10 eps (5 eps in a constant schedule), twice
            that in l_1; in l_0 a step's mean length is 1.5.
        schedule: Step size over time: "constant", "linear" or "cosine".
        loss: "ce", "margin", "dlr" or "pm", the margin of probabilities.
        targets: Target classes (b,) for a targeted attack.
        restarts: Number of starts, at least 1.
        random_start: Start at a random point of the ball, else at the clean image.
        keep: "success" keeps iterates by success and then by loss; "loss" keeps the highest loss,
            as adversarial training needs it, and never drops samples.
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
        >>> from physadv.attacks.gradient import pgd
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images, labels = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
        >>> result = pgd(net, images, labels, eps=8 / 255, steps=10)
        >>> bool((result.images - images).abs().max() <= 8 / 255)
        True
    """
    return _descend(
        model,
        images,
        labels,
        targets,
        LpBall(norm, eps, levels),
        _step_sizes(eps, norm, steps, step_size, schedule),
        loss=loss,
        restarts=restarts,
        random_start=random_start,
        by_loss=keep == "loss",
        drop=drop_broken and keep == "success",
        speed=speed,
        seed=seed,
        index=index,
    )


@open_inputs
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
    """Attack with plain input-gradient ascent from the clean image.

    The oldest of the white-box attacks (Szegedy et al. 2013 minimize the same loss by L-BFGS).
    Steps follow the gradient itself, not its sign. Takes steps + 1 forward passes a sample.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, ...), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: Radius of the ball, at least 0, in units of [0, 1].
        norm: "linf", "l2" or "l1".
        steps: Number of steps, at least 1.
        step_size: Change of the pixel with the largest gradient in l_inf, length of the whole step
            in l_2 and l_1; 2 eps / steps by default.
        loss: "ce", "margin", "dlr" or "pm", the margin of probabilities.
        targets: Target classes (b,) for a targeted attack.
        keep: "success" or "loss", as in :func:`pgd`.
        drop_broken: With ``keep="success"``, stop searching for samples that are broken.
        levels: Round the images to k / levels (255 for 8 bits).
        speed: "plain", "fold", "bf16", "auto", "timed", or a copy of the model, for gradients.

    Returns:
        The best iterates with success, loss and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range.
        ModelError: The output is no differentiable logits.

    Example:
        >>> import torch
        >>> from physadv.attacks.gradient import gradient_ascent
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images, labels = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
        >>> gradient_ascent(net, images, labels, eps=0.5, steps=5).success.shape
        torch.Size([2])
    """
    sizes = [step_size if step_size is not None else 2 * eps / max(1, steps)] * steps
    if steps < 1:
        raise OptionError(f"{steps} steps", "at least 1", "Raise steps")
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


def _step_sizes(
    eps: float, norm: Norm, steps: int, step_size: float | None, schedule: Schedule
) -> list[float]:
    """The length of every step."""
    if steps < 1:
        raise OptionError(f"{steps} steps", "at least 1", "Raise steps")

    times = [step / steps for step in range(steps)]
    shapes = {
        "constant": [1.0 for _ in times],
        "linear": [1 - t for t in times],
        "cosine": [(1 + math.cos(math.pi * t)) / 2 for t in times],
    }
    if schedule not in shapes:
        raise OptionError(
            f"schedule {schedule!r}", f"one of {', '.join(shapes)}", "Choose one of these"
        )

    shape = shapes[schedule]
    path = _PATH_LENGTH[schedule] * eps * (2 if norm == "l1" else 1)
    if norm == "l0":
        path = _SPARSE_STEP * steps
    first = step_size if step_size is not None else path / sum(shape)
    return [first * s for s in shape]


class ProjectedStep:
    """A descent step followed by projection into the ball, for a batch that may shrink.

    Args:
        x0: Clean images (b, ...), the centers of the balls.
        ball: The constraint.
        sizes: Length of every step.
        decay: Weight of the past in a running sum of gradients; 0 for no momentum.
        raw: Follow the gradient itself in place of the norm's steepest direction.
        damping: Factor of an element's step for each time that the sum's sign flips there; needs a
            ``decay``. None for steps of one length.
    """

    def __init__(
        self,
        x0: Tensor,
        ball: LpBall,
        sizes: Sequence[float],
        *,
        decay: float = 0.0,
        raw: bool = False,
        damping: float | None = None,
    ) -> None:
        self.x0, self.ball, self.sizes, self.decay, self.raw = x0, ball, sizes, decay, raw
        self.damping = damping
        # The first step is no flip, though its sign differs from that of no velocity.
        self.share = None if damping is None else torch.full_like(x0, 1 / damping)
        self.limits = linf_bounds(x0, ball.eps) if ball.norm == "linf" else None
        self.velocity = torch.zeros_like(x0) if decay else None

    def pick(self, rows: Tensor) -> None:
        """Go on with the samples ``rows`` (k,) only."""
        self.x0 = self.x0[rows]
        self.limits = self.limits and (self.limits[0][rows], self.limits[1][rows])
        self.velocity = None if self.velocity is None else self.velocity[rows]
        self.share = None if self.share is None else self.share[rows]

    def __call__(self, x: Tensor, grad: Tensor, step: int) -> Tensor:
        """Return the iterate after ``x``, down ``grad``, with the size of step number ``step``."""
        if self.velocity is not None:
            # Each gradient is divided by its mean magnitude, so that none dominates the sum.
            scaled = _directions.scale_by_largest(grad)
            mean = scaled.abs().flatten(1).mean(1).clamp_min(1e-12)
            before = self.velocity
            self.velocity = self.decay * before + scaled / _directions.per_sample(mean, grad)
            grad = self.velocity
            if self.share is not None and self.damping is not None:
                flipped = grad.sign() != before.sign()
                self.share = torch.where(flipped, self.share * self.damping, self.share)

        direction = self._direction(x, grad, step)
        x = x - self.sizes[step] * (direction if self.share is None else direction * self.share)
        if self.limits is not None:
            return torch.clamp(x, *self.limits)
        return self.ball.project(x, self.x0)

    def _direction(self, x: Tensor, grad: Tensor, step: int) -> Tensor:
        """The direction of length 1 of a step."""
        if self.raw and self.ball.norm == "linf":
            return _directions.scale_by_largest(grad)
        if self.ball.norm == "l1" and not self.raw:
            # From 20 % of the elements down to 0.2 %: wide steps first, sparse refinements last.
            share = 0.2 * 0.01 ** (step / max(1, len(self.sizes) - 1))
            return _directions.sparse_direction(grad, x, share)
        if self.ball.norm == "l0":
            return _directions.unit_direction(grad, "l1") * grad.shape[1:].numel()
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
    """Run all restarts, each on the samples that none before has broken.

    Without ``drop`` every restart runs on all samples.
    """
    check_batch(images, labels, targets)
    if restarts < 1:
        raise OptionError(f"{restarts} restarts", "at least 1", "Raise restarts")
    with frozen_eval(model):
        count = restarts * len(sizes) * len(images)
        gradient_model = gradient_model_for(
            model, speed if len(sizes) > 2 else "plain", images, count
        )
        x0 = to_memory_format(images, gradient_model)
        task = build_task(model, gradient_model, loss, labels, targets)
        best = BestIterates(x0, task, by_loss=by_loss, drop=drop)

        # A start depends on the sample's number alone, so that batching does not change it.
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
    """Descend from one start in k steps and k + 1 forward passes; ``best`` keeps every iterate."""
    for step in range(len(mover.sizes)):
        if not len(rows):
            return
        if step == math.ceil(ROUGH * len(mover.sizes)):
            task = replace(task, gradient_model=full_precision(task.gradient_model))

        point = mover.ball.quantized(x, mover.x0)
        logits, value, grad = loss_and_gradient(task.gradient_model, point, task.objective)
        broken = best.update_best(rows, point, value, task.criterion(logits))
        if drop and bool(broken.any()):
            unbroken = (~broken).nonzero()[:, 0]
            task, rows = task.pick(unbroken), rows[unbroken]
            x, grad = x[unbroken], grad[unbroken]
            mover.pick(unbroken)
        x = mover(x, grad, step)

    # The last iterate needs no gradient.
    if len(rows):
        point = mover.ball.quantized(x, mover.x0)
        value, success = loss_and_success(
            task.gradient_model, point, task.objective, task.criterion
        )
        best.update_best(rows, point, value, success)


def to_memory_format(images: Tensor, gradient_model: Classifier) -> Tensor:
    """Return a detached copy of ``images`` in the memory format of ``gradient_model``."""
    if isinstance(gradient_model, FusedModel) and gradient_model.channels_last:
        return images.detach().clone(memory_format=torch.channels_last)
    return images.detach().clone()
