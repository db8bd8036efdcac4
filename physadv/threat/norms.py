"""Projections onto epsilon balls within [0, 1]: pure, out of place, for any memory format and float
dtype.

Inside means inside after rounding: the distance of the returned tensor, measured in float64, never
exceeds eps. All arithmetic is done in float64 and rounded towards the clean image. Points that are
inside already come back unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.threat.parsing import NORMS as NORMS
from physadv.threat.parsing import Norm as Norm
from physadv.threat.parsing import parse_norm as parse_norm

_SLACK = 1 - 1e-10  # a float64 sum over an image is exact to about this much


def lp_distance(x: Tensor, x0: Tensor, norm: Norm) -> Tensor:
    """Distance (b,) of each sample from its clean image, in float64."""
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[parse_norm(norm)]
    size: Tensor = torch.linalg.vector_norm((x.double() - x0.double()).flatten(1), ord=order, dim=1)
    return size


def project_onto_ball(x: Tensor, x0: Tensor, eps: float, norm: Norm) -> Tensor:
    """The point of the ball around ``x0`` within [0, 1] that is nearest to ``x`` (b, ...)."""
    return {"linf": project_linf, "l2": project_l2, "l1": project_l1}[parse_norm(norm)](x, x0, eps)


def project_linf(x: Tensor, x0: Tensor, eps: float) -> Tensor:
    """Nearest point with every pixel within ``eps`` of ``x0`` and in [0, 1]."""
    return torch.clamp(x, *linf_bounds(x0, eps))


def linf_bounds(x0: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest representable image of the l_inf ball within [0, 1]."""
    exact = x0.double()
    low = step_toward(x0, -exact.clamp(min=0, max=eps))
    high = step_toward(x0, (1 - exact).clamp(min=0, max=eps))
    return low.clamp_(0, 1), high.clamp_(0, 1)


def step_toward(x0: Tensor, change: Tensor) -> Tensor:
    """``x0 + change`` rounded to the dtype of ``x0`` so that no element ends farther from ``x0``
    than ``change``."""
    exact = x0.double()
    x = (exact + change.double()).to(x0.dtype)
    over = (x.double() - exact).abs() > change.double().abs()
    return torch.where(over, torch.nextafter(x, x0), x)


def project_l2(x: Tensor, x0: Tensor, eps: float) -> Tensor:
    """Nearest point of the l_2 ball within [0, 1]: the change is scaled and clipped, the scale
    found exactly."""
    boxed = x.clamp(0, 1)
    outside = lp_distance(boxed, x0, "l2") > eps
    if not outside.any():
        return boxed
    change = (x[outside].double() - x0[outside].double()).flatten(1)
    room = _room(change, x0[outside])
    scale = _clipped_scale(change.abs(), room, eps * _SLACK)
    return _replaced(boxed, outside, x0, torch.minimum(change.abs() * scale, room) * change.sign())


def project_l1(x: Tensor, x0: Tensor, eps: float) -> Tensor:
    """Nearest point of the l_1 ball within [0, 1] (sort of Duchi et al. 2008, with the box of Croce
    & Hein 2021)."""
    boxed = x.clamp(0, 1)
    outside = lp_distance(boxed, x0, "l1") > eps
    if not outside.any():
        return boxed
    change = (x[outside].double() - x0[outside].double()).flatten(1)
    room = _room(change, x0[outside])
    size = soft_threshold(change.abs(), room, eps * _SLACK)
    return _replaced(boxed, outside, x0, size * change.sign())


def soft_threshold(size: Tensor, room: Tensor, total: float) -> Tensor:
    """min(max(size - t, 0), room) with the smallest t >= 0 whose rows sum to ``total`` or less.

    ``size`` and ``room`` are (b, n), float64 and not negative. The sum falls piecewise linearly in
    t; Newton steps find the piece and solve it exactly, bisection steps in where they leave the
    bracket.
    """
    cut, low, high = (
        torch.zeros_like(size[:, :1]),
        torch.zeros_like(size[:, :1]),
        size.amax(1, keepdim=True),
    )
    for _ in range(100):
        left = size - cut
        kept = torch.minimum(left.clamp_min(0), room)
        excess = kept.sum(1, keepdim=True) - total
        low, high = torch.where(excess > 0, cut, low), torch.where(excess > 0, high, cut)
        done = (excess.abs() <= 1e-12 * total) | (excess <= 0) & (cut == 0)
        if bool((done | (high - low <= 1e-15 * high)).all()):
            break
        free = ((left > 0) & (left < room)).sum(1, keepdim=True)
        newton = cut + excess / free.clamp_min(1)
        inside = (free > 0) & (newton > low) & (newton < high)
        cut = torch.where(done, cut, torch.where(inside, newton, (low + high) / 2))
    return torch.minimum((size - torch.where(excess > 1e-12 * total, high, cut)).clamp_min(0), room)


def _clipped_scale(size: Tensor, room: Tensor, radius: float) -> Tensor:
    """The scale s (b, 1) with |min(s * size, room)|_2 = radius, for rows where |room|_2 is larger.

    Starts with nothing clipped and grows: each round solves for the elements still free, until no
    more reach their limit. A round clips at least one element more, and a handful of rounds are
    enough in practice.
    """
    squares, limits = size.square(), room.square()
    scale = radius / squares.sum(1, keepdim=True).sqrt().clamp_min(1e-300)
    for _ in range(size.shape[1]):
        free = scale * size <= room
        length = (radius**2 - torch.where(free, 0, limits).sum(1, keepdim=True)).clamp_min(0)
        larger = (
            length / torch.where(free, squares, 0).sum(1, keepdim=True).clamp_min(1e-300)
        ).sqrt()
        done = larger <= scale * (1 + 1e-12)
        if bool(done.all()):
            break
        scale = torch.where(done, scale, larger)
    return scale


def _room(change: Tensor, x0: Tensor) -> Tensor:
    """How far each element (b, n) may move in the direction of its change before it leaves [0, 1]."""
    exact = x0.double().flatten(1)
    return torch.where(change > 0, 1 - exact, exact).clamp_min(0)


def _replaced(x: Tensor, rows: Tensor, x0: Tensor, change: Tensor) -> Tensor:
    """``x`` with ``rows`` set to ``x0 + change``, rounded towards ``x0``, and in the memory format
    of ``x0``."""
    out = x.clone()
    out[rows] = step_toward(x0[rows], change.view(x0[rows].shape)).clamp_(0, 1)
    return out


def steepest_point(slope: Tensor, x0: Tensor, eps: float, norm: Norm) -> Tensor:
    """The point of the ball within [0, 1] where the linear function ``slope`` (b, ...) is least:
    the optimum of a linear victim, and the best single step on any other. Elements without slope
    stay."""
    way = -slope.double().flatten(1)
    room = _room(way, x0) * (way != 0)
    if parse_norm(norm) == "linf":
        size = room.clamp(max=eps)
    elif norm == "l2":
        unit = way.abs() / way.abs().amax(1, keepdim=True).clamp_min(1e-300)
        fits = room.square().sum(1, keepdim=True) <= eps**2
        scale = _clipped_scale(unit, room, eps * _SLACK)
        size = torch.where(fits, room, torch.minimum(unit * torch.where(fits, 0, scale), room))
    else:
        order = way.abs().argsort(1, descending=True)
        ordered = room.gather(1, order)
        left = (eps * _SLACK - (ordered.cumsum(1) - ordered)).clamp_min(0)
        size = torch.zeros_like(room).scatter(1, order, torch.minimum(ordered, left))
    return step_toward(x0, (size * way.sign()).view(x0.shape)).clamp_(0, 1)


def quantize_in_ball(x: Tensor, x0: Tensor, eps: float, norm: Norm, levels: int = 255) -> Tensor:
    """The nearest image on the grid k / ``levels`` that is still within ``eps``: legal after a PNG
    round trip.

    Where the float value of k / levels lies beyond eps by rounding alone, that level is given up: a
    checker that measures in float64 without tolerance agrees. Elements whose nearest grid value is
    farther from ``x0`` than ``x`` take the next one towards ``x0`` unless the ball has room left. A
    sample without any grid point within reach (an ``x0`` off the grid and a small ball) comes back
    as the grid point nearest to ``x0``, outside the ball.
    """
    grid = torch.arange(levels + 1, dtype=torch.float64, device=x.device).div(levels).to(x.dtype)
    near = (x.double() * levels).round().long().clamp(0, levels)
    if parse_norm(norm) == "linf":
        low, high = linf_bounds(x0, eps)
        near = near + (grid[near] < low).long() - (grid[near] > high).long()
        stranded = (grid[near.clamp(0, levels)] < low) | (grid[near.clamp(0, levels)] > high)
        near = torch.where(stranded, (x0.double() * levels).round().long(), near)
        return torch.empty_like(x).copy_(grid[near.clamp(0, levels)])
    return _quantize_within_budget(x, x0, near, grid, eps, 2 if norm == "l2" else 1)


def _quantize_within_budget(
    x: Tensor, x0: Tensor, near: Tensor, grid: Tensor, eps: float, power: int
) -> Tensor:
    """Round every element towards ``x0``, then spend what is left of the ball on nearest rounding,
    cheapest first."""
    home = (x0.double() * (len(grid) - 1)).round().long()
    step = torch.sign(home - near)
    beyond = (grid[near].double() - x0.double()).abs() > (x.double() - x0.double()).abs()
    inner = torch.where(beyond, near + step, near)
    cost = (grid[near].double() - x0.double()).abs() ** power - (
        grid[inner].double() - x0.double()
    ).abs() ** power
    spent = ((grid[inner].double() - x0.double()).abs() ** power).flatten(1).sum(1, keepdim=True)
    ordered, order = cost.flatten(1).sort(1)
    fits = spent + ordered.cumsum(1) <= (eps * _SLACK) ** power
    chosen = torch.zeros_like(fits).scatter(1, order, fits).view(x.shape)
    return torch.empty_like(x).copy_(grid[torch.where(chosen, near, inner)])


def unit_noise(shape: torch.Size, norm: Norm, generator: torch.Generator) -> Tensor:
    """One float64 point drawn evenly from the unit ball of ``norm`` in as many dimensions as
    ``shape`` has elements."""
    n = shape.numel()
    if parse_norm(norm) == "linf":
        return torch.rand(shape, dtype=torch.float64, generator=generator) * 2 - 1
    radius = torch.rand((), dtype=torch.float64, generator=generator) ** (1 / n)
    if norm == "l2":
        way = torch.randn(shape, dtype=torch.float64, generator=generator)
        return way / way.square().sum().sqrt() * radius
    size = -torch.log1p(-torch.rand(shape, dtype=torch.float64, generator=generator))
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return size / size.sum() * sign * radius
