"""Projections onto a hyperplane within [0, 1] in each norm (Croce & Hein 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.threat.norms import Norm


def project_to_plane(x: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """Find the shortest change that moves each image onto its hyperplane within [0, 1].

    Args:
        x: Images (b, ...) in [0, 1].
        slope: Normal vectors (b, ...) of the planes.
        value: The planes' linear functions (b,) at ``x``.
        norm: Norm in which the change is shortest.

    Returns:
        Changes d (b, ...), float64, with value + <slope, d> = 0 and x + d in [0, 1]. Where the
        plane does not meet [0, 1], the change that comes nearest to it.
    """
    signs = value.sign().view(-1, *[1] * (x.ndim - 1))
    direction = (-slope.double() * signs).flatten(1)
    start = x.double().flatten(1)
    room = torch.where(direction > 0, 1 - start, start).clamp_min(0) * (direction != 0)

    weight, need = direction.abs(), value.double().abs()[:, None]
    if norm == "l1":
        size = _greedy(weight, room, need)
    else:
        size = _fill(weight, torch.ones_like(weight) if norm == "linf" else weight, room, need)
    return (size * direction.sign()).view(x.shape)


def _fill(weight: Tensor, rate: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Return min(t * rate, room) with the t at which sum(weight * it) = need.

    The sum is concave in t, so Newton steps from below never overshoot.
    """
    reach = torch.zeros_like(need)
    for _ in range(64):
        free = reach * rate < room
        gained = (weight * torch.where(free, reach * rate, room)).sum(1, keepdim=True)
        slope = torch.where(free, weight * rate, 0).sum(1, keepdim=True)
        step = (need - gained).clamp_min(0) / slope.clamp_min(1e-300)
        step = torch.where(slope > 0, step, 0)
        reach = reach + step

        if bool((step <= 1e-12 * reach).all()):
            break
    return torch.minimum(reach * rate, room)


def _greedy(weight: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Return sizes with sum(weight * size) = need: largest weights first, each up to its room."""
    order = weight.argsort(1, descending=True)
    weights, rooms = weight.gather(1, order), room.gather(1, order)
    gains = weights * rooms
    missing = (need - (gains.cumsum(1) - gains)).clamp_min(0)
    sizes = torch.minimum(rooms, missing / weights.clamp_min(1e-300))
    return torch.zeros_like(room).scatter(1, order, sizes)
