"""Complete verification by branch and bound (Bunel et al. 2020) over alpha-beta-CROWN bounds (Wang
et al. 2021).

A region is split in two until the bound of every part is positive: where there are few inputs by
the middle of one of them, else by the value of a neuron before a nonlinear layer (see
neuron_splits.py), at 0 for a ReLU and at the middle of its box for the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.certification.bounds.alpha_crown import (
    STEPS,
    TightBoxes,
    margins_over,
    optimized_boxes,
)
from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.clause_boxes import (
    SLACK,
    Domain,
    costs_of_narrowing,
    narrowed,
)
from physadv.certification.bounds.counterexample_search import descend, find_counterexample
from physadv.certification.bounds.crown import tightened_boxes, tightened_margins
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.ibp import ibp_margins
from physadv.certification.bounds.input_ball import InputBall, InputBox
from physadv.certification.bounds.linear_forms import DenseForms
from physadv.certification.bounds.neuron_boxes import branched_boxes
from physadv.certification.bounds.neuron_splits import PartBounds, Parts, Problem

VERIFIED, FALSIFIED, TIMEOUT = "verified", "falsified", "timeout"
_FEW_INPUTS = 16
"""Most inputs whose region is split rather than the ReLUs."""
_PARTS_AT_ONCE = 64
_BOXES_AT_ONCE = 512
_FIRST_PARTS = 512
"""Parts over the boxes of the whole region after which boxes are tightened first."""
_DOMAIN_PARTS = 256
"""Parts of a domain after which it is halved instead."""
_BOXES_SHARE = 0.4
"""Most of the time left that the boxes of the whole region may take."""
_LARGEST_NARROWED = 3 << 22
"""Coefficients of the forms on all undecided neurons up to which boxes are tightened; in larger
nets that takes longer than the splits that it saves."""
_LAST_STEPS = 480
"""Gradient steps on the slopes and multipliers of a part that cannot be split."""
_ATTACKED_PARTS = 16
"""Open parts of each round from whose worst inputs an attack starts."""

Check = Callable[[Tensor, int], bool]
"""Tells whether the network itself, at an input (1, *shape), breaks the clause of a number."""


@dataclass(frozen=True)
class Clause:
    """A set of outputs that none of the inputs may reach: all of ``rows`` y + ``shift`` <= 0.

    Attributes:
        rows: Coefficients (j, outputs).
        shift: Constants (j,).
    """

    rows: Tensor
    shift: Tensor


@dataclass(frozen=True)
class SearchResult:
    """Outcome of a search.

    Attributes:
        verdict: "verified", "falsified" or "timeout".
        bound: Lower bound, over the region, of what the largest row of a clause exceeds its
            rounding by, least of all clauses; positive if and only if verified.
        counterexample: Input (*shape) that breaks a clause in the network itself, where falsified.
        parts: Number of parts that were bounded.
        seconds: Time it took.
    """

    verdict: str
    bound: float
    counterexample: Tensor | None
    parts: int
    seconds: float


@dataclass
class _Search:
    """One search: what is sought, until when, and what has been seen."""

    graph: LayerGraph
    region: InputBall
    clauses: Sequence[Clause]
    threshold: Tensor
    deadline: float
    check: Check
    parts: int = 0
    worst: float = float("inf")
    root: float | None = None

    def __post_init__(self) -> None:
        widest = max(len(clause.rows) for clause in self.clauses)
        padded = [_padded(clause, widest) for clause in self.clauses]
        self.problem = Problem(
            self.graph.detached(torch.float64),
            self.graph.detached(torch.float32),
            self.region,
            torch.stack([clause.rows for clause in padded]).double(),
            torch.stack([clause.shift for clause in padded]).double(),
            self.threshold,
        )

    def is_late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.deadline

    def broken_from(self, starts: Tensor, clauses: Tensor) -> Tensor | None:
        """Return a point that breaks its clause, by gradient steps from ``starts``; None where
        none was found."""
        region = self.region.cast(torch.float32)
        rows, shift = self.problem.rows[clauses].float(), self.problem.shift[clauses].float()
        points, _ = descend(
            self.problem.single, region, rows, shift, starts, deadline=self.deadline
        )
        points = points.to(self.region.center)
        return self.broken(self.region.repeated(len(points)).nearest(points), clauses)

    def broken(self, points: Tensor, clauses: Tensor) -> Tensor | None:
        """Return the first of ``points`` (m, *shape) that breaks its clause, by the network's own
        word."""
        with torch.no_grad():
            logits = self.problem.single(points.float()).double()
        values = (
            torch.einsum("mjc,mc->mj", self.problem.rows[clauses], logits)
            + self.problem.shift[clauses]
        )
        for i in (values.amax(1) <= 0).nonzero()[:, 0].tolist():
            if self.check(points[i : i + 1], int(clauses[i])):
                return points[i]
        return None


@torch.no_grad()
def verify_clauses(
    graph: LayerGraph,
    region: InputBall,
    clauses: Sequence[Clause],
    *,
    check: Check,
    rounding: float = 0.0,
    time_limit: float = 60.0,
    steps: int = STEPS,
    seed: int = 0,
) -> SearchResult:
    """Prove that no input of a region breaks a clause, or find one that does.

    Args:
        graph: Folded graph of the network.
        region: Inputs, one image's ball or box.
        clauses: Sets of outputs that no input may reach, at least one.
        check: Tells by the network itself whether an input (1, *shape) breaks the clause of a
            number; counterexamples that it does not confirm are dropped.
        rounding: What the network's rounding may change in the difference of two logits.
        time_limit: Seconds after which the search gives up, above 0.
        steps: Gradient steps on the slopes of the first bounds.
        seed: Seed of the attack that comes first.

    Returns:
        The verdict, and a counterexample where there is one.

    Example:
        >>> import torch
        >>> from physadv.certification.bounds.branch_and_bound import Clause, verify_clauses
        >>> from physadv.certification.bounds.input_ball import InputBox
        >>> from physadv.certification.bounds.verify import prepare_graph
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
        >>> region = InputBox.between(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        >>> clause = Clause(torch.tensor([[1.0, 0.0]]), torch.tensor([9.0]))  # logit 0 <= -9
        >>> graph = prepare_graph(net, (1, 2, 2))
        >>> verify_clauses(graph, region, [clause], check=lambda x, i: True).verdict
        'verified'
    """
    start = time.monotonic()
    sizes = [clause.rows.abs().sum(1) / 2 * rounding for clause in clauses]
    widest = max(len(clause.rows) for clause in clauses)
    threshold = torch.stack([size[_repeats(len(size), widest)] for size in sizes]).double()
    search = _Search(graph, region, clauses, threshold, start + time_limit, check)

    point = _attacked(search, seed)
    if point is None:
        inputs = int(torch.Size(graph.nodes[0].shape).numel())
        few = inputs <= _FEW_INPUTS and region.norm == "linf"
        branch = _split_inputs if few else _split_neurons
        verdict, point = branch(search, steps)
    else:
        verdict = FALSIFIED

    bound = search.worst if verdict == VERIFIED else min(_whole_bound(search), 0.0)
    return SearchResult(verdict, bound, point, search.parts, time.monotonic() - start)


def _whole_bound(search: _Search) -> float:
    """Return a lower bound over the whole region: the first one of the search, else an interval
    bound."""
    if search.root is not None:
        return search.root
    ball = search.region.cast(torch.float64)
    bound = ibp_margins(search.problem.exact, ball, search.problem.rows.flatten(0, 1)[None])[0]
    everything = torch.arange(len(search.clauses), device=bound.device)
    return float(search.problem.closed(bound.view(search.problem.shift.shape), everything).min())


def _attacked(search: _Search, seed: int) -> Tensor | None:
    """Return an input that breaks a clause, found by gradient steps; None where none was found."""
    points, clauses = find_counterexample(
        search.problem.single,
        search.region.cast(torch.float32),
        search.problem.rows.float(),
        search.problem.shift.float(),
        seed=seed,
        deadline=search.deadline,
    )
    points = points.to(search.region.center)
    places = torch.arange(len(search.clauses), device=points.device)[clauses]
    return search.broken(search.region.repeated(len(points)).nearest(points), places)


def _split_inputs(search: _Search, steps: int) -> tuple[str, Tensor | None]:
    """Search by halves of the region along one input at a time; an l_2 ball is kept as it is."""
    lower, upper = search.region.cast(torch.float64).box()
    count = len(search.clauses)
    lower, upper = (end.expand(count, *end.shape[1:]) for end in (lower, upper))
    clauses = torch.arange(count, device=lower.device)
    while len(clauses):
        if search.is_late():
            return TIMEOUT, None
        size = min(len(clauses), _BOXES_AT_ONCE)
        now = (lower[-size:], upper[-size:], clauses[-size:])
        lower, upper, clauses = lower[:-size], upper[:-size], clauses[:-size]

        box = InputBox.between(now[0], now[1])
        bound, slopes = _bound_and_slopes(search, box, now[2])
        search.parts += size
        excess = search.problem.closed(bound, now[2])
        search.root = float(excess.min()) if search.root is None else search.root
        is_open = ~(excess > 0)  # also where it is no number
        search.worst = min([search.worst, *excess[~is_open].tolist()])
        if not bool(is_open.any()):
            continue

        corners = box.center - box.half * slopes.sign()
        tried = search.region.repeated(len(box.center)).nearest(corners.to(search.region.center))
        point = search.broken(tried[is_open], now[2][is_open])
        if point is not None:
            return FALSIFIED, point
        score = (slopes.abs() * box.half).flatten(1)[is_open]
        halves = _halved(now[0][is_open], now[1][is_open], score)
        if halves is None:  # no longer splits in floating point
            return TIMEOUT, None
        lower, upper = torch.cat([lower, halves[0]]), torch.cat([upper, halves[1]])
        clauses = torch.cat([clauses, now[2][is_open].repeat(2)])
    return VERIFIED, None


def _bound_and_slopes(search: _Search, box: InputBox, clauses: Tensor) -> tuple[Tensor, Tensor]:
    """Return CROWN bounds (m, j) of each part's clause, and the coefficients (m, *shape) of the
    best row's form on the inputs."""
    graph, forms = search.problem.exact, search.problem.rows[clauses]
    boxes, relaxed = tightened_boxes(graph, box)
    last = len(graph.nodes) - 1
    by_boxes = backward_bounds(graph, box, last, DenseForms(forms), stops=boxes)

    # The bound is linear in the middles of the box, with the coefficients of the form as slopes.
    with torch.enable_grad():
        center = box.center.clone().requires_grad_()
        at = InputBox(center, reach=box.half)
        bound = backward_bounds(graph, at, last, DenseForms(forms), relaxed)
        best = (bound + search.problem.shift[clauses]).amax(1)
        (slopes,) = torch.autograd.grad(best.sum(), center)
    return torch.maximum(bound.detach(), by_boxes), slopes


def _halved(lower: Tensor, upper: Tensor, score: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the ends of both halves of each box, cut where the ``score`` (m, n) is largest; None
    where a box is too small to be cut."""
    low, high = lower.flatten(1), upper.flatten(1)
    wide = high - low > 1e-12 * (1 + low.abs())
    if not bool(wide.any(1).all()):
        return None
    score = torch.where(wide, score + 1e-12 * (high - low), torch.full_like(score, -1.0))
    place = score.argmax(1, keepdim=True)
    middle = (low.gather(1, place) + high.gather(1, place)) / 2
    ends = (
        torch.cat([low, low.scatter(1, place, middle)]),
        torch.cat([high.scatter(1, place, middle), high]),
    )
    return ends[0].view(-1, *lower.shape[1:]), ends[1].view(-1, *upper.shape[1:])


def _split_neurons(search: _Search, steps: int) -> tuple[str, Tensor | None]:
    """Search by values of neurons: by parts over the boxes of the whole region, and where these are
    many over boxes of what breaks each clause."""
    open_clauses, tight = _first_bounds(search, steps)
    if not len(open_clauses):
        return VERIFIED, None
    if search.is_late():
        return TIMEOUT, None
    bounds = PartBounds(search.problem, tight)
    if not bounds.neurons:  # nothing to split
        return TIMEOUT, None

    stack = bounds.optimized(bounds.whole(open_clauses), (steps,))
    narrows = costs_of_narrowing(search.problem, tight) <= _LARGEST_NARROWED
    verdict, rest = _split_parts(search, bounds, stack, _FIRST_PARTS if narrows else None)
    if verdict is not None:
        return verdict
    return _split_domains(search, torch.unique(rest.clauses), steps)


def _split_domains(search: _Search, clauses: Tensor, steps: int) -> tuple[str, Tensor | None]:
    """Search over boxes that neurons' own splits tighten, then each clause's: by parts, and where
    these are many in halves of its domain with boxes of their own."""
    problem = search.problem
    now = time.monotonic()
    tight = branched_boxes(
        problem, steps=steps, deadline=now + _BOXES_SHARE * (search.deadline - now)
    )
    ball = search.region.cast(torch.float64)
    forms = problem.rows[clauses].flatten(0, 1)[None]
    bound, _ = margins_over(problem.exact, ball, forms, tight, steps=steps)
    excess = problem.closed(bound[0].view(len(clauses), -1), clauses)
    search.worst = min([search.worst, *excess[excess > 0].tolist()])
    order = excess.argsort()
    domains = [Domain(int(clauses[i]), tight) for i in order if not excess[i] > 0]
    while domains:
        if search.is_late():
            return TIMEOUT, None
        domain = narrowed(problem, domains.pop(), deadline=search.deadline)
        search.parts += 1
        search.worst = min(search.worst, SLACK)
        if domain is None:
            continue
        bounds = PartBounds(problem, domain.tight, domain.limits)
        if not bounds.neurons:
            return TIMEOUT, None
        whole = bounds.optimized(bounds.whole(torch.tensor([domain.clause]).to(clauses)), (steps,))
        verdict, _ = _split_parts(search, bounds, whole, _DOMAIN_PARTS)
        if verdict is None:
            halves = bounds.split(whole, bounds.chosen(whole, bounds.scores(whole)))
            domains += [domain.within(problem, bounds.limits(halves, i)) for i in range(2)]
        elif verdict[0] != VERIFIED:
            return verdict
    return VERIFIED, None


def _split_parts(
    search: _Search, bounds: PartBounds, stack: Parts, most: int | None
) -> tuple[tuple[str, Tensor | None] | None, Parts]:
    """Return the outcome of a search of all parts of a stack, or None after ``most`` parts, and the
    parts that are left open."""
    first = search.parts
    while len(stack):
        if search.is_late():
            return (TIMEOUT, None), stack
        if most is not None and search.parts - first >= most:
            return None, stack
        size = min(len(stack), _PARTS_AT_ONCE)
        parts, stack = (
            stack.pick(slice(len(stack) - size, None)),
            stack.pick(slice(0, len(stack) - size)),
        )
        scores = bounds.scores(parts)
        stuck = scores.amax(1) < 0
        if bool(stuck.any()):
            solved = bounds.optimized(parts.pick(stuck), (_LAST_STEPS,))
            excess = search.problem.closed(bounds.exact_bound(solved), solved.clauses)
            if not bool((excess > 0).all()):
                return (TIMEOUT, None), stack  # nothing is left to split, and it is not closed
            parts, scores = parts.pick(~stuck), scores[~stuck]
            if not len(parts):
                continue

        rest = _open_halves(search, bounds, parts, scores)
        worst = rest.pick(slice(max(len(rest) - _ATTACKED_PARTS, 0), None))
        if len(worst):
            point = search.broken_from(bounds.worst_inputs(worst), worst.clauses)
            if point is not None:
                return (FALSIFIED, point), stack
        stack = stack.joined(rest)
    return (VERIFIED, None), stack


def _open_halves(search: _Search, bounds: PartBounds, parts: Parts, scores: Tensor) -> Parts:
    """Return the halves of parts, split by their ``scores``, that their bounds leave open, the
    worst last."""
    halves = bounds.optimized(bounds.split(parts, bounds.chosen(parts, scores)))
    search.parts += len(halves)
    excess = search.problem.closed(bounds.exact_bound(halves), halves.clauses)
    search.worst = min([search.worst, *excess[excess > 0].tolist()])
    is_open = ~(excess > 0)  # also where it is no number
    return halves.pick(is_open).pick(excess[is_open].argsort(descending=True))


def _first_bounds(search: _Search, steps: int) -> tuple[Tensor, TightBoxes]:
    """Return the clauses that bounds of the whole region leave open, and its boxes: by CROWN, then
    by alpha-CROWN."""
    ball = search.region.cast(torch.float64)
    forms = search.problem.rows.flatten(0, 1)[None]
    everything = torch.arange(len(search.clauses), device=ball.center.device)
    bound = tightened_margins(search.problem.exact, ball, forms)[0].view(search.problem.shift.shape)
    excess = search.problem.closed(bound, everything)
    search.parts += len(everything)
    if bool((excess > 0).all()):
        search.worst = float(excess.min())
        return everything[:0], TightBoxes()

    tight = optimized_boxes(search.problem.exact, ball, steps=steps, deadline=search.deadline)
    bound, _ = margins_over(search.problem.exact, ball, forms, tight, steps=steps)
    better = search.problem.closed(bound[0].view(search.problem.shift.shape), everything)
    excess = torch.maximum(excess, better)
    search.root = float(excess.min())
    closed = excess[excess > 0]
    search.worst = float(closed.min()) if len(closed) else search.worst
    return everything[~(excess > 0)], tight


def _padded(clause: Clause, rows: int) -> Clause:
    """Return the clause with its rows repeated up to ``rows`` of them."""
    places = _repeats(len(clause.rows), rows)
    return Clause(clause.rows[places], clause.shift[places])


def _repeats(count: int, most: int) -> Tensor:
    return torch.arange(most) % count
