"""Inner maximization: short ascents within a ball, for a whole batch, as training needs them.

The attacks of :mod:`physadv.attacks` keep the best iterate of every sample; here every forward pass
counts and the last iterate suffices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from physadv.attacks._classifier_step import frozen_eval
from physadv.attacks._directions import sparse_direction, unit_direction
from physadv.threat.norms import Norm, parse_norm, project_onto_ball, unit_noise
from physadv.training.methods.base import TrainingPosition

Objective = Callable[[Tensor], Tensor]
"""Function of images that returns a scalar to maximize, the sum over the batch."""


def random_start(images: Tensor, eps: float, norm: Norm, at: TrainingPosition) -> Tensor:
    """Draw a point of each image's ball, uniformly on the CPU, and bring it into [0, 1].

    Args:
        images: Images (b, ...) in [0, 1].
        eps: Radius of the ball.
        norm: Norm of the ball.
        at: Source of the draws.
    """
    if norm == "linf":
        noise = at.draw(torch.rand, images.shape) * 2 - 1
        return (images + eps * noise.to(images)).clamp(0, 1)

    def points(shape: tuple[int, ...], generator: Generator) -> Tensor:
        one = torch.Size(shape[1:])
        return torch.stack([unit_noise(one, norm, generator) for _ in range(shape[0])])

    noise = at.draw(points, images.shape)
    return project_onto_ball(images + eps * noise.to(images), images, eps, norm)


def input_gradient(objective: Objective, x: Tensor) -> Tensor:
    """Return the gradient of ``objective`` at ``x``."""
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(leaf), leaf)
    return gradient


def ascend_loss(
    objective: Objective,
    images: Tensor,
    *,
    eps: float,
    norm: Norm,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
) -> Tensor:
    """Maximize an objective within balls by normalized gradient steps, and return the last iterate.

    Args:
        objective: Function of images that returns the sum over the batch.
        images: Centers (b, ...) of the balls, in [0, 1].
        eps: Radius of the balls.
        norm: Norm of the balls.
        steps: Number of steps.
        step_size: Length of a step in ``norm``.
        start: First iterate; the images by default.
    """
    limits = ((images - eps).clamp_min(0), (images + eps).clamp_max(1)) if norm == "linf" else None
    x = images if start is None else start
    for _ in range(steps):
        gradient = input_gradient(objective, x)
        x = x + step_size * (
            -sparse_direction(-gradient, x, 0.05)
            if norm == "l1"
            else unit_direction(gradient, norm)
        )

        x = (
            torch.clamp(x, *limits)
            if limits is not None
            else project_onto_ball(x, images, eps, norm)
        )
    return x.detach()


def class_cross_entropy(net: nn.Module, labels: Tensor) -> Objective:
    """Return the summed cross-entropy of ``net`` with ``labels`` as an objective."""
    return lambda x: F.cross_entropy(net(x).float(), labels, reduction="sum")


def frozen_attack(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str,
    steps: int,
    at: TrainingPosition,
    step_size: float | None = None,
) -> Tensor:
    """Attack by PGD from a random start, with the network in eval mode meanwhile.

    Args:
        net: Network to attack.
        images: Images (b, ...) in [0, 1].
        labels: True classes (b,).
        eps: Radius of the ball.
        norm: Norm of the ball.
        steps: Number of steps.
        at: Source of the random start.
        step_size: Length of a step; 2.5 eps / ``steps`` by default.
    """
    kind = parse_norm(norm)
    size = 2.5 * eps / max(1, steps) if step_size is None else step_size

    with frozen_eval(net):
        start = random_start(images, eps, kind, at)
        return ascend_loss(
            class_cross_entropy(net, labels),
            images,
            eps=eps,
            norm=kind,
            steps=steps,
            step_size=size,
            start=start,
        )
