"""Inner maximization: quick ascents within a ball, for a whole batch, as training needs them.

The attacks of :mod:`physadv.attacks` keep the best iterate of every sample and check all they meet;
here every forward counts and the last iterate will do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from physadv.attacks._classifier_step import frozen_eval
from physadv.attacks._directions import sparse_direction, unit_direction
from physadv.threat.norms import Norm, parse_norm, project_onto_ball, unit_noise

Aim = Callable[[Tensor], Tensor]
"""Images -> a scalar to be made large, the sum over the batch."""


def random_start(images: Tensor, eps: float, norm: Norm, generator: Generator) -> Tensor:
    """A point of each image's ball, drawn evenly on the CPU and brought into [0, 1]."""
    if norm == "linf":
        noise = torch.rand(images.shape, generator=generator) * 2 - 1
        return (images + eps * noise.to(images)).clamp(0, 1)
    noise = torch.stack([unit_noise(images.shape[1:], norm, generator) for _ in range(len(images))])
    return project_onto_ball(images + eps * noise.to(images), images, eps, norm)


def input_gradient(aim: Aim, x: Tensor) -> Tensor:
    """The gradient of ``aim`` at ``x``."""
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(aim(leaf), leaf)
    return gradient


def ascend_loss(
    aim: Aim,
    images: Tensor,
    *,
    eps: float,
    norm: Norm,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
) -> Tensor:
    """``steps`` normalized gradient steps up ``aim`` from ``start`` (else the images), each back
    into the ball."""
    limits = ((images - eps).clamp_min(0), (images + eps).clamp_max(1)) if norm == "linf" else None
    x = images if start is None else start
    for _ in range(steps):
        gradient = input_gradient(aim, x)
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


def class_cross_entropy(net: nn.Module, labels: Tensor) -> Aim:
    """The summed cross-entropy as an aim."""
    return lambda x: F.cross_entropy(net(x).float(), labels, reduction="sum")


def frozen_attack(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str,
    steps: int,
    generator: Generator,
    step_size: float | None = None,
) -> Tensor:
    """PGD from a random start on the cross-entropy, the net in eval mode meanwhile; steps of 2.5
    eps / ``steps``."""
    kind = parse_norm(norm)
    size = 2.5 * eps / max(1, steps) if step_size is None else step_size
    with frozen_eval(net):
        start = random_start(images, eps, kind, generator)
        return ascend_loss(
            class_cross_entropy(net, labels),
            images,
            eps=eps,
            norm=kind,
            steps=steps,
            step_size=size,
            start=start,
        )
