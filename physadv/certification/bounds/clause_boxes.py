"""Boxes of what breaks a clause: the clause as a constraint on the neurons before it (INVPROP,
Kotha et al. 2023).

Where rows y + shift <= 0 is to be shown impossible, only inputs that reach it matter. So any
neuron's value is no less than the least of value + w (rows y + shift) for any w >= 0, which is a
bound by one backward pass from the outputs. Tighter boxes raise the clause's own bound and one
another, round after round, until nothing is left or they no longer change.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from physadv.certification.bounds.alpha_crown import (
    Slopes,
    TightBoxes,
    cast_relaxation,
    is_unstable,
    keep_best,
    with_slopes,
)
from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.graph import relaxed_nodes
from physadv.certification.bounds.input_ball import flattened
from physadv.certification.bounds.linear_forms import DenseForms
from physadv.certification.bounds.neuron_splits import Problem, is_limited
from physadv.certification.bounds.relaxations import Box, Lines, Relaxation

SLACK = 1e-4
"""By how much what a domain holds may exceed the rounding and still count as breaking its clause;
what is shown to hold nothing exceeds it by more."""
_STEPS = 20
_RATES, _DECAY = (0.1, 0.05, 0.05), 0.97
"""Rates of slopes, weights and multipliers."""
_FIRST_WEIGHT = 0.02
"""Weight of the clause to begin with; at 0 it would have no gradient."""
_LEAST_UNIT = 1e-3
_LEAST_GAIN = 0.01
"""Share of the clause's bound that a round must gain for another one to follow."""
_GAP = 1e-9
"""Gap between a floor and a ceiling, as a share of their size plus one, above which nothing is
between them."""


@dataclass(frozen=True)
class Domain:
    """A part of the region, and boxes of the values that break a clause in it.

    Attributes:
        clause: Number of the clause.
        tight: Boxes and relaxations, float64.
        limits: Floors and ceilings (size of the value) by node number that make the part, within
            which the boxes are; infinite where there is none.
    """

    clause: int
    tight: TightBoxes
    limits: dict[int, Box] = field(default_factory=dict)

    def within(self, problem: Problem, limits: Mapping[int, Box]) -> Domain:
        """Return the part of the domain within more ``limits``."""
        boxes = {}
        for source, (floor, ceiling) in limits.items():
            low, high = self.tight.boxes[source]
            boxes[source] = (
                torch.maximum(low, floor.view_as(low)),
                torch.minimum(high, ceiling.view_as(high)),
            )
        return replace(self, limits=dict(limits)).with_boxes(problem, boxes)

    def with_boxes(self, problem: Problem, changed: Mapping[int, Box]) -> Domain:
        """Return the domain with other boxes of some nodes, and their readers relaxed anew."""
        nodes, layers = problem.exact.nodes, relaxed_nodes(problem.exact)
        anew = {
            i: layers[i].relax(changed[nodes[i].inputs[0]])
            for i in self.tight.relaxed
            if nodes[i].inputs[0] in changed
        }
        tight = TightBoxes({**self.tight.boxes, **changed}, {**self.tight.relaxed, **anew})
        return replace(self, tight=tight)


def costs_of_narrowing(problem: Problem, tight: TightBoxes) -> int:
    """Return how many coefficients the forms on all undecided neurons have."""
    neurons = sum(len(p) for p in _undecided(problem, Domain(0, tight)).values())
    return 2 * neurons * sum(int(torch.Size(node.shape).numel()) for node in problem.exact.nodes)


@torch.no_grad()
def narrowed(problem: Problem, domain: Domain, *, deadline: float) -> Domain | None:
    """Return the domain with boxes tightened as far as its clause and its limits do it; None where
    nothing in it breaks the clause.

    Args:
        problem: The network, the region and the clauses.
        domain: The domain.
        deadline: Time of :func:`time.monotonic` after which no round begins.
    """
    forms = _NeuronForms(problem, domain)
    variables, before = forms.start(domain), -torch.inf
    while time.monotonic() < deadline:
        variables = forms.ascended(domain, variables)
        bounds = forms.bounds(domain, variables)
        boxes, excess = forms.boxes(domain, bounds), float(bounds[-1])
        if boxes is None or 0 < excess < float("inf"):
            return None
        domain = domain.with_boxes(problem, boxes)
        if not excess - before > _LEAST_GAIN * abs(excess):
            break
        before = excess
    return domain


@dataclass(frozen=True)
class _Variables:
    """What is optimized.

    Attributes:
        slopes: Lower slopes (1, k, *shape) of the ReLUs by node number.
        weights: Weights (1, k, j) of the clause's rows, in units of each form.
        multipliers: Multipliers (1, k, n) of limits by node number, positive ones of the ceiling,
            negative ones of the floor.
    """

    slopes: Slopes
    weights: Tensor
    multipliers: Slopes

    def tables(self) -> tuple[Slopes, Slopes, Slopes]:
        """Return them as tables: slopes, weights, multipliers."""
        return self.slopes, {0: self.weights}, self.multipliers

    def tensors(self) -> list[Tensor]:
        """Return all of them."""
        return [value for table in self.tables() for value in table.values()]

    def copied(self) -> _Variables:
        """Return detached copies."""
        slopes, weights, multipliers = (
            {i: v.detach().clone() for i, v in table.items()} for table in self.tables()
        )
        return _Variables(slopes, weights[0], multipliers)


class _NeuronForms:
    """The forms that are bounded over a domain, k = 2 u + 1 of them: the u undecided neurons, their
    negatives, and the clause alone.

    Args:
        problem: The network, the region and the clauses.
        domain: The domain as it is at first.
    """

    def __init__(self, problem: Problem, domain: Domain) -> None:
        self.problem = problem
        self._last = len(problem.exact.nodes) - 1
        self._rows = problem.rows[domain.clause]
        self._goal = problem.shift[domain.clause] - problem.threshold[domain.clause] - SLACK
        self._neurons = _undecided(problem, domain)
        self.count = 2 * sum(len(p) for p in self._neurons.values()) + 1
        self._marks, self._numbers, first = dict[int, Tensor](), dict[int, Tensor](), 0
        widths = []
        for source, places in self._neurons.items():
            low, high = (flattened(end)[0, places] for end in domain.tight.boxes[source])
            numbers = torch.arange(first, first + len(places), device=places.device)
            self._numbers[source], first = numbers, first + len(places)
            widths.append(high - low)
            marks = self._rows.new_zeros((1, self.count, len(places)))
            marks[0, numbers, numbers - numbers[:1]] = 1
            marks[0, numbers + self.count // 2, numbers - numbers[:1]] = -1
            self._marks[source] = marks
        one = self._rows.new_ones(1)
        self._units = torch.cat([*widths, *widths, one])[None, :, None]
        bound = self.bounds(domain, self.start(domain))[-1].abs().clamp_min(_LEAST_UNIT)
        self._units[:, :-1] /= bound

    def start(self, domain: Domain) -> _Variables:
        """Return variables to begin with."""
        slopes = {
            i: lines.lower[:, None].expand(1, self.count, *lines.lower.shape[1:]).float().clone()
            for i, lines in domain.tight.relaxed.items()
            if isinstance(lines, Lines) and lines.lower_shift is None and is_unstable(lines).any()
        }
        weights = torch.full((1, self.count, len(self._rows)), _FIRST_WEIGHT).to(self._rows)
        weights[:, -1] = 1 / len(self._rows)
        multipliers = {
            source: self._rows.new_zeros((1, self.count, int(is_limited(*limits).sum()))).float()
            for source, limits in domain.limits.items()
        }
        return _Variables(slopes, weights.float(), multipliers)

    def ascended(self, domain: Domain, variables: _Variables) -> _Variables:
        """Return variables with better bounds, by gradient steps in float32."""
        for variable in variables.tensors():
            variable.requires_grad_()
        best = variables.copied()
        largest = torch.full((1, self.count), -torch.inf, device=self._rows.device)
        lines = {i: cast_relaxation(r, torch.float32) for i, r in domain.tight.relaxed.items()}
        groups = [
            {"params": list(table.values()), "lr": rate}
            for table, rate in zip(variables.tables(), _RATES, strict=True)
            if table
        ]
        optimizer = torch.optim.Adam(groups)
        for step in range(_STEPS + 1):
            with torch.enable_grad():
                bound = self._bound(domain, lines, variables, torch.float32)
                loss = -bound.sum()
            better = bound.detach() > largest
            largest = torch.maximum(largest, bound.detach())
            for old, new in zip(best.tables(), variables.tables(), strict=True):
                keep_best(old, new, better)
            if step == _STEPS:
                break
            grads = torch.autograd.grad(loss, variables.tensors(), allow_unused=True)
            for variable, grad in zip(variables.tensors(), grads, strict=True):
                variable.grad = grad
            optimizer.step()
            self._project(domain, variables)
            for group in optimizer.param_groups:
                group["lr"] *= _DECAY
        return best

    def bounds(self, domain: Domain, variables: _Variables) -> Tensor:
        """Return lower bounds (k,) of the forms where the clause is broken, in float64."""
        return self._bound(domain, domain.tight.relaxed, variables, torch.float64)[0]

    def boxes(self, domain: Domain, bounds: Tensor) -> dict[int, Box] | None:
        """Return the domain's boxes cut by ``bounds`` (k,); None where one of them is empty."""
        result = {}
        for source, places in self._neurons.items():
            low, high = (flattened(end).clone() for end in domain.tight.boxes[source])
            numbers = self._numbers[source]
            below, above = bounds[numbers], -bounds[numbers + self.count // 2]
            # Where a bound is no finite number, the box stays.
            raised = (below > low[0, places]) & below.isfinite()
            lowered = (above < high[0, places]) & above.isfinite()
            low[0, places] = torch.where(raised, below, low[0, places])
            high[0, places] = torch.where(lowered, above, high[0, places])
            gap = _GAP * (1 + torch.maximum(low.abs(), high.abs()))
            if bool((low > high + gap).any()):
                return None
            low, high = torch.minimum(low, high), torch.maximum(low, high)
            shape = domain.tight.boxes[source][0].shape
            result[source] = low.view(shape), high.view(shape)
        return result

    def _bound(
        self,
        domain: Domain,
        lines: Mapping[int, Relaxation],
        variables: _Variables,
        dtype: torch.dtype,
    ) -> Tensor:
        """Return lower bounds (1, k) of the forms: each form's value, and what the clause and the
        limits forbid to be positive, weighted."""
        exact = dtype == torch.float64
        graph = self.problem.exact if exact else self.problem.single
        weights = (variables.weights.to(self._rows) * self._units).to(dtype)
        added = {s: (p, self._marks[s].to(dtype)) for s, p in self._neurons.items()}
        constant = weights @ self._goal.to(dtype)
        for source, multiplier in variables.multipliers.items():
            above, below, floor, ceiling, places = _limits(domain, source, multiplier.to(dtype))
            constant = constant - above @ ceiling - below @ floor
            own, marks = added[source]
            added[source] = torch.cat([own, places]), torch.cat([marks, above + below], 2)
        forms = DenseForms(weights @ self._rows.to(dtype))
        relaxed = with_slopes(lines, variables.slopes)
        ball = self.problem.region.cast(dtype)
        return constant + backward_bounds(graph, ball, self._last, forms, relaxed, added=added)

    @torch.no_grad()
    def _project(self, domain: Domain, variables: _Variables) -> None:
        """Move the variables, in place, to the nearest that are allowed."""
        for slope in variables.slopes.values():
            slope.clamp_(0, 1)
        variables.weights.clamp_(min=0)
        # The clause alone is a mean of its rows.
        whole = variables.weights[:, -1]
        variables.weights[:, -1] = whole / whole.sum(-1, keepdim=True).clamp_min(1e-6)
        for source, multiplier in variables.multipliers.items():
            above, below, *_ = _limits(domain, source, multiplier)
            multiplier.copy_(above + below)


def _undecided(problem: Problem, domain: Domain) -> dict[int, Tensor]:
    """Return the places (n,) of the undecided entries by number of the nodes that nonlinear layers
    read."""
    layers, places = relaxed_nodes(problem.exact), dict[int, Tensor]()
    readers: dict[int, list[int]] = {}
    for i in domain.tight.relaxed:
        readers.setdefault(problem.exact.nodes[i].inputs[0], []).append(i)
    for source, numbers in readers.items():
        box = domain.tight.boxes[source]
        open_ = torch.stack([layers[i].undecided(box) for i in numbers]).any(0)
        places[source] = flattened(open_)[0].nonzero()[:, 0]
    return places


def _limits(
    domain: Domain, source: int, multiplier: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return of the limited neurons of a node the multipliers (1, k, n) of ceilings, none negative,
    and of floors, none positive; floors and ceilings (n,), 0 where there is none; and places."""
    places = is_limited(*domain.limits[source]).nonzero()[:, 0]
    floor, ceiling = (end[places].to(multiplier.dtype) for end in domain.limits[source])
    above = multiplier.clamp_min(0) * ceiling.isfinite()
    below = multiplier.clamp_max(0) * floor.isfinite()
    floor, ceiling = (torch.nan_to_num(end, posinf=0.0, neginf=0.0) for end in (floor, ceiling))
    return above, below, floor, ceiling, places
