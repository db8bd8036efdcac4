"""Search for inputs that break a property, by projected gradient steps on its linear forms."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.input_ball import InputBall
from physadv.core.random_streams import generator

_STARTS, _STEPS = 8, 40
_STARTS_AT_ONCE = 256
_FIRST_STEP = 0.3
"""First step, as a share of the region's half width."""


def find_counterexample(
    graph: LayerGraph,
    region: InputBall,
    rows: Tensor,
    shift: Tensor,
    *,
    seed: int = 0,
    deadline: float = float("inf"),
) -> tuple[Tensor, Tensor]:
    """Return points of a region at which clauses are nearest to being broken, and their clauses.

    Args:
        graph: Graph of the network, its numbers detached.
        region: Inputs, one image's ball or box, of the type of the graph.
        rows: Coefficients (c, j, outputs) of the clauses; broken is where all rows are at most 0.
        shift: Constants (c, j).
        seed: Seed of the starts.
        deadline: Time of :func:`time.monotonic` at which the search ends.

    Returns:
        Points (n, *shape), one of every start that came near, and the numbers (n,) of their
        clauses; those that the graph itself counts as broken first.
    """
    draw = generator(seed, "bounds", "counterexample")
    clauses = torch.arange(len(rows), device=rows.device).repeat(_STARTS)
    points, numbers, worst = [], [], []
    lower, upper = region.box()
    for group in torch.split(clauses, _STARTS_AT_ONCE):
        size = (len(group), *lower.shape[1:])
        noise = torch.rand(size, generator=draw, dtype=torch.float64).to(lower)
        starts = lower + (upper - lower) * noise
        found, value = descend(graph, region, rows[group], shift[group], starts, deadline=deadline)
        points.append(found)
        numbers.append(group)
        worst.append(value)
        if bool((value <= 0).any()) or time.monotonic() > deadline:
            break
    order = torch.cat(worst).argsort()
    return torch.cat(points)[order], torch.cat(numbers)[order]


def descend(
    graph: LayerGraph,
    region: InputBall,
    rows: Tensor,
    shift: Tensor,
    starts: Tensor,
    *,
    deadline: float = float("inf"),
) -> tuple[Tensor, Tensor]:
    """Return the best points of projected gradient steps, and the largest row's value there.

    Args:
        graph: Graph of the network, its numbers detached.
        region: Inputs, one image's ball or box, of the type of the graph.
        rows: Coefficients (n, j, outputs) of the clause of each start.
        shift: Constants (n, j).
        starts: Where to begin (n, *shape).
        deadline: Time of :func:`time.monotonic` at which the search ends.

    Returns:
        Points (n, *shape) of the region and values (n,).
    """
    ball = region.repeated(len(rows))
    lower, upper = ball.box()
    x = ball.nearest(starts)
    best, least = x, torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)

    for step in range(_STEPS):
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            value = (torch.einsum("njc,nc->nj", rows, graph(at)) + shift).amax(1)
            (grad,) = torch.autograd.grad(value.sum(), at)
        better = value.detach() < least
        best = torch.where(better.view(-1, *[1] * (x.ndim - 1)), x, best)
        least = torch.minimum(least, value.detach())
        if bool((least <= 0).any()) or time.monotonic() > deadline:
            break
        rate = _FIRST_STEP * (1 - step / _STEPS)
        x = ball.nearest(x - rate * (upper - lower) * grad.sign())
    return best, least
