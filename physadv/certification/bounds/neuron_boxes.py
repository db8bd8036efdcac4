"""Boxes of neurons tightened by branch and bound, in place of the mixed-integer programs of single
neurons in alpha-beta-CROWN's refinement.

The ends of an undecided neuron's box are bounds of linear forms on the net up to it, and grow when
the region is split by the neurons before it. Done layer by layer, each over boxes tightened before,
this shrinks the boxes of a deep dense net many times over.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from physadv.certification.bounds.alpha_crown import STEPS, TightBoxes, optimized_boxes
from physadv.certification.bounds.graph import LayerGraph, relaxed_nodes
from physadv.certification.bounds.input_ball import flattened
from physadv.certification.bounds.layers import ReluLayer
from physadv.certification.bounds.neuron_splits import PartBounds, Parts, Problem
from physadv.certification.bounds.relaxations import Box

_ROUNDS = 32
"""Most rounds of splits for each layer."""
_SPLIT_PARTS = 2
"""Worst parts of each end of a box that a round splits."""
_PARTS_AT_ONCE = 128
_STAGES = (6,)
"""Gradient steps on a part's slopes and multipliers."""
_LEAST_GAIN = 0.001
"""Share of the undecided widths that a round must take away for another one to follow."""


@torch.no_grad()
def branched_boxes(problem: Problem, *, steps: int = STEPS, deadline: float) -> TightBoxes:
    """Return boxes over the whole region, tightened at every nonlinear layer by alpha-CROWN and
    then by branch and bound.

    Args:
        problem: The network and the region; the clauses play no part.
        steps: Gradient steps of alpha-CROWN.
        deadline: Time of :func:`time.monotonic` at which the splits end; what is left until then is
            divided evenly among the layers to come.
    """
    left = len({problem.exact.nodes[i].inputs[0] for i in relaxed_nodes(problem.exact)})

    def refine(number: int, box: Box, tight: TightBoxes) -> Box:
        nonlocal left
        share = (deadline - time.monotonic()) / left
        left -= 1
        return _branched(problem, number, box, tight, time.monotonic() + share)

    ball = problem.region.cast(torch.float64)
    return optimized_boxes(problem.exact, ball, steps=steps, deadline=deadline, refine=refine)


def _branched(problem: Problem, number: int, box: Box, tight: TightBoxes, deadline: float) -> Box:
    """Return the box (1, *shape) of a node, its undecided entries tightened."""
    nodes = problem.exact.nodes
    readers = [v for i, v in relaxed_nodes(problem.exact).items() if nodes[i].inputs[0] == number]
    undecided = flattened(torch.stack([layer.undecided(box) for layer in readers]).any(0))
    chosen = undecided[0].nonzero()[:, 0]
    before = {
        i: tight.relaxed[i] for i in sorted(_ancestors(problem.exact, number) & {*tight.relaxed})
    }
    bounds = PartBounds(
        # A ReLU is decided by the sign alone.
        _ends(problem, number, chosen, all(isinstance(layer, ReluLayer) for layer in readers)),
        TightBoxes({nodes[i].inputs[0]: tight.boxes[nodes[i].inputs[0]] for i in before}, before),
    )
    if not len(chosen) or not bounds.neurons:
        return box

    low, high = flattened(box[0]).clone(), flattened(box[1]).clone()
    least = _raised(bounds, torch.cat([low[0, chosen], -high[0, chosen]]), deadline)
    low[0, chosen], above = least.chunk(2)
    high[0, chosen] = -above
    return low.view_as(box[0]), high.view_as(box[1])


def _ancestors(graph: LayerGraph, number: int) -> set[int]:
    """Return a node and all that its value depends on."""
    found, pending = {number}, [number]
    while pending:
        new = set(graph.nodes[pending.pop()].inputs) - found
        found |= new
        pending.extend(new)
    return found


def _ends(problem: Problem, number: int, chosen: Tensor, by_sign: bool) -> Problem:
    """Return the problem whose clauses are the lower ends of some entries of a node, then those of
    their negatives, to be raised up to 0 (``by_sign``) or without end."""
    count = len(chosen)
    shape = problem.exact.nodes[number].shape
    rows = problem.rows.new_zeros((2 * count, 1, int(torch.Size(shape).numel())))
    rows[torch.arange(count), 0, chosen] = 1
    rows[torch.arange(count, 2 * count), 0, chosen] = -1
    nothing = problem.rows.new_zeros((2 * count, 1))
    exact, single = (LayerGraph(g.nodes[: number + 1]) for g in (problem.exact, problem.single))
    goal = nothing if by_sign else nothing + torch.inf
    return Problem(exact, single, problem.region, rows.view(2 * count, 1, *shape), nothing, goal)


def _raised(bounds: PartBounds, least: Tensor, deadline: float) -> Tensor:
    """Return lower bounds (c,) of all clauses' rows, at least those that are known: the least over
    parts, the worst of which are split round after round."""
    parts = bounds.optimized(bounds.whole(torch.arange(len(least), device=least.device)), (STEPS,))
    values = bounds.exact_bound(parts)[:, 0]
    for _ in range(_ROUNDS):
        worst = (_ranks(parts.clauses, values) < _SPLIT_PARTS) & (
            values <= bounds.problem.threshold[parts.clauses, 0]
        )
        pieces = torch.split(worst.nonzero()[:, 0], _PARTS_AT_ONCE)
        kept, found = parts.pick(~worst), [values[~worst]]
        for piece in pieces:
            late = time.monotonic() > deadline
            new, bound = (
                (parts.pick(piece), values[piece])
                if late
                else _halves(bounds, parts.pick(piece), values[piece])
            )
            kept, found = kept.joined(new), [*found, bound]
        parts, values = kept, torch.cat(found)

        before = least.sum()
        least = torch.maximum(least, _least_of_each(parts.clauses, values, least))
        if time.monotonic() > deadline or least.sum() - before < _LEAST_GAIN * before.abs():
            break
    return least


def _halves(bounds: PartBounds, parts: Parts, values: Tensor) -> tuple[Parts, Tensor]:
    """Return both halves of each part and their bounds; parts that cannot be split as they are."""
    scores = bounds.scores(parts)
    splits = scores.amax(1) >= 0
    if not bool(splits.any()):
        return parts, values
    whole = parts.pick(splits)
    halves = bounds.optimized(bounds.split(whole, bounds.chosen(whole, scores[splits])), _STAGES)
    bound = bounds.exact_bound(halves)[:, 0]
    bound = torch.maximum(bound, values[splits].repeat(2))  # a half is no worse than its whole
    return parts.pick(~splits).joined(halves), torch.cat([values[~splits], bound])


def _least_of_each(clauses: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """Return the least value (c,) of the parts of each clause; those ``known`` where one is no
    number."""
    least = torch.full_like(known, torch.inf).scatter_reduce(0, clauses, values, "amin")
    return torch.where(least.isfinite(), least, known)


def _ranks(clauses: Tensor, values: Tensor) -> Tensor:
    """Return the place (m,) of each part among those of its clause, the worst first."""
    order = values.argsort()
    order = order[clauses[order].argsort(stable=True)]
    ordered = clauses[order]
    first = torch.searchsorted(ordered, ordered)  # the first of the same clause
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - first
    return ranks
