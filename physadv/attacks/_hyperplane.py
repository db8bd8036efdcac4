"""Nearest points on a hyperplane within [0, 1], in each norm: the step of minimum-norm attacks
(Croce & Hein 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.threat.norms import Norm


def project_to_plane(x: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """The shortest change d (b, ...) in ``norm`` with value + <slope, d> = 0 and x + d in [0, 1];
    float64.

    ``value`` (b,) is the plane's function at ``x``. Where the plane does not meet [0, 1], the
    change that comes nearest to it.
    """
    way = (-slope.double() * value.sign().view(-1, *[1] * (x.ndim - 1))).flatten(1)
    start = x.double().flatten(1)
    room = torch.where(way > 0, 1 - start, start).clamp_min(0) * (way != 0)
    weight, need = way.abs(), value.double().abs()[:, None]
    if norm == "l1":
        size = _greedy(weight, room, need)
    else:
        size = _fill(weight, torch.ones_like(weight) if norm == "linf" else weight, room, need)
    return (size * way.sign()).view(x.shape)


def _fill(weight: Tensor, rate: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """min(t * rate, room) with the t at which sum(weight * it) = need: Newton on a concave
    function, from below."""
    reach = torch.zeros_like(need)
    for _ in range(64):
        free = reach * rate < room
        gained = (weight * torch.where(free, reach * rate, room)).sum(1, keepdim=True)
        steep = torch.where(free, weight * rate, 0).sum(1, keepdim=True)
        step = (need - gained).clamp_min(0) / steep.clamp_min(1e-300)
        step = torch.where(steep > 0, step, 0)
        reach = reach + step
        if bool((step <= 1e-12 * reach).all()):
            break
    return torch.minimum(reach * rate, room)


def _greedy(weight: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Elements of the largest weight first, each up to its room, until sum(weight * it) = need."""
    order = weight.argsort(1, descending=True)
    weights, rooms = weight.gather(1, order), room.gather(1, order)
    gains = weights * rooms
    missing = (need - (gains.cumsum(1) - gains)).clamp_min(0)
    sizes = torch.minimum(rooms, missing / weights.clamp_min(1e-300))
    return torch.zeros_like(room).scatter(1, order, sizes)
