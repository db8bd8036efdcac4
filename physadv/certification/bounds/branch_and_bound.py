"""Complete verification by branch and bound (Bunel et al. 2020) over alpha-beta-CROWN bounds (Wang
et al. 2021).

A region is split in two until the bound of every part is positive: by the sign of a ReLU's input,
or, where there are few inputs, by the middle of one of them. A sign is a constraint on the part,
and enters its bound by a Lagrange multiplier, which like the slopes is optimized in float32. What
closes a part is its bound computed anew in float64, with boxes from float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from physadv.certification.bounds.alpha_crown import (
    STEPS,
    Slopes,
    TightBoxes,
    cast_relaxation,
    is_unstable,
    keep_best,
    margins_over,
    optimized_boxes,
    with_slopes,
)
from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.counterexample_search import descend, find_counterexample
from physadv.certification.bounds.crown import tightened_boxes, tightened_margins
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.ibp import ibp_margins
from physadv.certification.bounds.input_ball import InputBall, InputBox, flattened
from physadv.certification.bounds.layers import ReluLayer
from physadv.certification.bounds.linear_forms import DenseForms
from physadv.certification.bounds.relaxations import Lines, Relaxation, relu_lines

VERIFIED, FALSIFIED, TIMEOUT = "verified", "falsified", "timeout"
_FEW_INPUTS = 16
"""Most inputs whose region is split rather than the ReLUs."""
_PARTS_AT_ONCE = 64
_BOXES_AT_ONCE = 512
_BRANCH_STEPS = 12
"""Gradient steps on the slopes and multipliers of each part."""
_ATTACKED_PARTS = 16
"""Open parts of each round from whose worst inputs an attack starts."""
_CANDIDATES = 6
"""ReLUs of each part that are split on trial before one is chosen."""
_SLOPE_RATE, _MULTIPLIER_RATE, _DECAY = 0.1, 0.05, 0.95

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
        self.exact = self.graph.detached(torch.float64)
        self.single = self.graph.detached(torch.float32)
        widest = max(len(clause.rows) for clause in self.clauses)
        padded = [_padded(clause, widest) for clause in self.clauses]
        self.rows = torch.stack([clause.rows for clause in padded]).double()
        self.shift = torch.stack([clause.shift for clause in padded]).double()

    def is_late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.deadline

    def closed(self, bound: Tensor, clauses: Tensor) -> Tensor:
        """Return (m,) by how much float64 bounds (m, j) of clauses numbered ``clauses`` (m,) exceed
        what rounding needs; positive closes a part."""
        return (bound + self.shift[clauses] - self.threshold[clauses]).amax(1)

    def broken_from(self, starts: Tensor, clauses: Tensor) -> Tensor | None:
        """Return a point that breaks its clause, by gradient steps from ``starts``; None where
        none was found."""
        region = self.region.cast(torch.float32)
        rows, shift = self.rows[clauses].float(), self.shift[clauses].float()
        points, _ = descend(self.single, region, rows, shift, starts, deadline=self.deadline)
        points = points.to(self.region.center)
        return self.broken(self.region.repeated(len(points)).nearest(points), clauses)

    def broken(self, points: Tensor, clauses: Tensor) -> Tensor | None:
        """Return the first of ``points`` (m, *shape) that breaks its clause, by the network's own
        word."""
        with torch.no_grad():
            logits = self.single(points.float()).double()
        values = torch.einsum("mjc,mc->mj", self.rows[clauses], logits) + self.shift[clauses]
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
        branch = _split_inputs if few else _split_relus
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
    bound = ibp_margins(search.exact, ball, search.rows.flatten(0, 1)[None])[0]
    everything = torch.arange(len(search.clauses), device=bound.device)
    return float(search.closed(bound.view(search.shift.shape), everything).min())


def _attacked(search: _Search, seed: int) -> Tensor | None:
    """Return an input that breaks a clause, found by gradient steps; None where none was found."""
    points, clauses = find_counterexample(
        search.single,
        search.region.cast(torch.float32),
        search.rows.float(),
        search.shift.float(),
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
        excess = search.closed(bound, now[2])
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
    graph, forms = search.exact, search.rows[clauses]
    boxes, relaxed = tightened_boxes(graph, box)
    last = len(graph.nodes) - 1
    by_boxes = backward_bounds(graph, box, last, DenseForms(forms), stops=boxes)

    # The bound is linear in the middles of the box, with the coefficients of the form as slopes.
    with torch.enable_grad():
        center = box.center.clone().requires_grad_()
        at = InputBox(center, reach=box.half)
        bound = backward_bounds(graph, at, last, DenseForms(forms), relaxed)
        best = (bound + search.shift[clauses]).amax(1)
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


@dataclass(frozen=True)
class _Parts:
    """Parts of the region by the signs of ReLU inputs.

    Attributes:
        clauses: Number of each part's clause (m,).
        signs: By ReLU node (m, *shape): 1 where the input is at least 0, -1 where at most 0, else
            0; int8.
        slopes: Lower slopes (m, j, *shape) by ReLU node.
        multipliers: Lagrange multipliers (m, j, *shape) by ReLU node, none negative.
    """

    clauses: Tensor
    signs: dict[int, Tensor] = field(default_factory=dict)
    slopes: Slopes = field(default_factory=dict)
    multipliers: Slopes = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clauses)

    def pick(self, places: Tensor | slice) -> _Parts:
        """Return some of the parts."""
        return _Parts(
            self.clauses[places],
            *({i: v[places] for i, v in t.items()} for t in self._tables()),
        )

    def joined(self, other: _Parts) -> _Parts:
        """Return these parts and others."""
        pairs = zip(self._tables(), other._tables(), strict=True)
        return _Parts(
            torch.cat([self.clauses, other.clauses]),
            *({i: torch.cat([a[i], b[i]]) for i in a} for a, b in pairs),
        )

    def _tables(self) -> tuple[Slopes, Slopes, Slopes]:
        return self.signs, self.slopes, self.multipliers


class _ReluBounds:
    """Bounds of parts by the signs of ReLU inputs, over the boxes of the whole region."""

    def __init__(self, search: _Search, tight: TightBoxes) -> None:
        self.search = search
        self.exact = tight.relaxed
        self.single = {i: cast_relaxation(r, torch.float32) for i, r in tight.relaxed.items()}
        self.boxes: dict[int, tuple[Tensor, Tensor]] = {}
        for i, lines in tight.relaxed.items():
            node = search.graph.nodes[i]
            is_relu = isinstance(node.layer, ReluLayer) and isinstance(lines, Lines)
            if is_relu and bool(is_unstable(lines).any()):  # type: ignore[arg-type]
                self.boxes[i] = tight.boxes[node.inputs[0]]
        self.ball = search.region.cast(torch.float64)
        self.last = len(search.graph.nodes) - 1

    def lines(self, parts: _Parts, dtype: torch.dtype) -> dict[int, Relaxation]:
        """Return relaxations over the boxes cut by the signs of the parts."""
        known = self.exact if dtype == torch.float64 else self.single
        result = {}
        for i, lines in known.items():
            if i not in self.boxes:
                result[i] = _expanded(lines, len(parts))
                continue
            low, high = (end.to(dtype) for end in self.boxes[i])
            signs, zero = parts.signs[i], torch.zeros((), dtype=dtype, device=low.device)
            cut = (
                torch.where(signs > 0, low.clamp_min(0), low),
                torch.where(signs < 0, high.clamp_max(0), high),
            )
            cut = (
                torch.where(signs < 0, torch.minimum(cut[0], zero), cut[0]),
                torch.where(signs > 0, torch.maximum(cut[1], zero), cut[1]),
            )
            result[i] = relu_lines(cut)
        return result

    def bound(
        self,
        parts: _Parts,
        lines: dict[int, Relaxation],
        slopes: Slopes,
        multipliers: Slopes,
        dtype: torch.dtype,
        ball: InputBall | None = None,
    ) -> Tensor:
        """Return bounds (m, j) of the parts' clauses, without their constants."""
        graph = self.search.exact if dtype == torch.float64 else self.search.single
        ball = ball or self.ball.cast(dtype).repeated(len(parts))
        signed = {i: -m.to(dtype) * parts.signs[i][:, None] for i, m in multipliers.items()}
        forms = DenseForms(self.search.rows[parts.clauses].to(dtype))
        return backward_bounds(graph, ball, self.last, forms, with_slopes(lines, slopes, signed))

    def exact_bound(self, parts: _Parts) -> Tensor:
        """Return bounds (m, j) in float64 with the parts' slopes and multipliers."""
        lines = self.lines(parts, torch.float64)
        return self.bound(parts, lines, parts.slopes, parts.multipliers, torch.float64)

    def worst_inputs(self, parts: _Parts) -> Tensor:
        """Return the inputs (m, *shape) of the region's box at which the parts' bounds are
        attained."""
        lower, upper = (end.expand(len(parts), *end.shape[1:]) for end in self.ball.box())
        center, half = ((lower + upper) / 2).float(), ((upper - lower) / 2).float()
        lines = self.lines(parts, torch.float32)
        with torch.enable_grad():
            # The bound is linear in the middle of the box, with its coefficients as slopes.
            at = InputBox(center.requires_grad_(), reach=half)
            bound = self.bound(
                parts, lines, parts.slopes, parts.multipliers, torch.float32, ball=at
            )
            best = (bound + self.search.shift[parts.clauses].float()).amax(1)
            (slopes,) = torch.autograd.grad(best.sum(), center)
        return center.detach() - half * slopes.sign()

    def optimized(self, parts: _Parts, steps: int) -> _Parts:
        """Return the parts with better slopes and multipliers, by gradient steps in float32."""
        lines = self.lines(parts, torch.float32)
        slopes = {i: s.clone().requires_grad_() for i, s in parts.slopes.items()}
        multipliers = {i: m.clone().requires_grad_() for i, m in parts.multipliers.items()}
        best = replace(
            parts,
            slopes={i: s.clone() for i, s in parts.slopes.items()},
            multipliers={i: m.clone() for i, m in parts.multipliers.items()},
        )
        shift = self.search.shift[parts.clauses].float()
        goal = self.search.threshold[parts.clauses].float()
        variables = [*slopes.values(), *multipliers.values()]
        if not variables:
            return best

        groups = [
            {"params": list(slopes.values()), "lr": _SLOPE_RATE},
            {"params": list(multipliers.values()), "lr": _MULTIPLIER_RATE},
        ]
        optimizer = torch.optim.Adam(groups)
        largest = torch.full(shift.shape, -torch.inf, device=shift.device)
        for step in range(steps + 1):
            with torch.enable_grad():
                bound = self.bound(parts, lines, slopes, multipliers, torch.float32)
                loss = -bound.sum()
            better = bound.detach() > largest
            keep_best(best.slopes, slopes, better)
            keep_best(best.multipliers, multipliers, better)
            largest = torch.maximum(largest, bound.detach())
            closed = (largest + shift > 2 * goal + 1e-4 * largest.abs()).any(1)
            if step == steps or bool(closed.all()):
                break
            grads = torch.autograd.grad(loss, variables, allow_unused=True)
            for variable, grad in zip(variables, grads, strict=True):
                variable.grad = grad
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= _DECAY
            for slope in slopes.values():
                slope.clamp_(0, 1)
            for multiplier in multipliers.values():
                multiplier.clamp_(min=0)
        return best

    def scores(self, parts: _Parts) -> tuple[list[int], Tensor]:
        """Return nodes and scores (m, n) of all ReLU inputs that could be split, end to end.

        A ReLU's score is what its relaxation costs the bound: the intercept of the upper line by
        the negative coefficients, and half the distance of the lower line by the positive ones.
        """
        lines = self.lines(parts, torch.float32)
        leaves: dict[int, tuple[Tensor, Tensor]] = {}
        with torch.enable_grad():
            for i in self.boxes:
                own = lines[i]
                assert isinstance(own, Lines)
                above = own.upper_shift.clone().requires_grad_()
                below = torch.zeros_like(above).requires_grad_()
                leaves[i] = above, below
                lines[i] = replace(own, upper_shift=above, lower_shift=below)
            bound = self.bound(parts, lines, parts.slopes, parts.multipliers, torch.float32)
            best = (bound + self.search.shift[parts.clauses].float()).amax(1)
            flat = [leaf for pair in leaves.values() for leaf in pair]
            grads = torch.autograd.grad(best.sum(), flat, allow_unused=True)

        pieces = []
        for place, (i, (above, _)) in enumerate(leaves.items()):
            negative, positive = (
                torch.zeros_like(above) if g is None else g
                for g in grads[2 * place : 2 * place + 2]
            )
            free = is_unstable(lines[i]) & (parts.signs[i] == 0)  # type: ignore[arg-type]
            cost = (positive / 2 - negative) * above.detach()
            pieces.append(flattened(torch.where(free, cost, torch.full_like(cost, -1.0))))
        return list(leaves), torch.cat(pieces, 1)

    def split(self, parts: _Parts, nodes: list[int], places: Tensor) -> _Parts:
        """Return both halves of each part, all first halves before the second ones.

        ``places`` (m,) are numbers among the ReLU inputs of ``nodes``, end to end.
        """
        positive = {i: flattened(s).clone() for i, s in parts.signs.items()}
        negative = {i: flattened(s).clone() for i, s in parts.signs.items()}
        first = 0
        for i in nodes:
            size = positive[i].shape[1]
            here = ((places >= first) & (places < first + size)).nonzero()[:, 0]
            positive[i][here, places[here] - first] = 1
            negative[i][here, places[here] - first] = -1
            first += size
        shapes = {i: s.shape for i, s in parts.signs.items()}
        halves = [
            replace(parts, signs={i: s.view(shapes[i]) for i, s in signs.items()})
            for signs in (positive, negative)
        ]
        return halves[0].joined(halves[1])

    def chosen(self, parts: _Parts, nodes: list[int], scores: Tensor) -> Tensor:
        """Return the places (m,) to split at: of the candidates with the highest scores the one
        whose worse half has the best bound as it is, without any optimization (FSB, De Palma et al.
        2021)."""
        count = min(_CANDIDATES, scores.shape[1])
        top = scores.topk(count, 1)
        if count == 1:
            return top.indices[:, 0]
        merits = []
        for k in range(count):
            halves = self.split(parts, nodes, top.indices[:, k])
            lines = self.lines(halves, torch.float32)
            bound = self.bound(halves, lines, halves.slopes, halves.multipliers, torch.float32)
            excess = (bound + self.search.shift[halves.clauses].float()).amax(1)
            first, second = excess.clamp_max(0.0).chunk(2)
            merits.append(torch.minimum(first, second) + 0.2 * torch.maximum(first, second))
        merit = torch.stack(merits, 1).masked_fill(top.values < 0, -torch.inf)
        return top.indices.gather(1, merit.argmax(1, keepdim=True))[:, 0]


def _split_relus(search: _Search, steps: int) -> tuple[str, Tensor | None]:
    """Search by the signs of ReLU inputs."""
    open_clauses, tight = _first_bounds(search, steps)
    if not len(open_clauses):
        return VERIFIED, None
    if search.is_late():
        return TIMEOUT, None
    bounds = _ReluBounds(search, tight)
    stack = _root(bounds, search, open_clauses, tight)
    if not bounds.boxes:  # nothing to split
        return TIMEOUT, None

    stack = bounds.optimized(stack, steps)
    while len(stack):
        if search.is_late():
            return TIMEOUT, None
        size = min(len(stack), _PARTS_AT_ONCE)
        parts, stack = (
            stack.pick(slice(len(stack) - size, None)),
            stack.pick(slice(0, len(stack) - size)),
        )
        nodes, scores = bounds.scores(parts)
        stuck = scores.amax(1) < 0
        if bool(stuck.any()):
            solved = bounds.optimized(parts.pick(stuck), 40 * _BRANCH_STEPS)
            if not bool((search.closed(bounds.exact_bound(solved), solved.clauses) > 0).all()):
                return TIMEOUT, None  # all signs are fixed, and the bound is still not positive
            parts, scores = parts.pick(~stuck), scores[~stuck]
            if not len(parts):
                continue

        halves = bounds.split(parts, nodes, bounds.chosen(parts, nodes, scores))
        halves = bounds.optimized(halves, _BRANCH_STEPS)
        search.parts += len(halves)
        excess = search.closed(bounds.exact_bound(halves), halves.clauses)
        search.worst = min([search.worst, *excess[excess > 0].tolist()])
        is_open = ~(excess > 0)  # also where it is no number
        rest = halves.pick(is_open).pick(excess[is_open].argsort(descending=True))
        worst = rest.pick(slice(max(len(rest) - _ATTACKED_PARTS, 0), None))
        if len(worst):
            point = search.broken_from(bounds.worst_inputs(worst), worst.clauses)
            if point is not None:
                return FALSIFIED, point
        stack = stack.joined(rest)
    return VERIFIED, None


def _first_bounds(search: _Search, steps: int) -> tuple[Tensor, TightBoxes]:
    """Return the clauses that bounds of the whole region leave open, and its boxes: by CROWN, then
    by alpha-CROWN."""
    ball = search.region.cast(torch.float64)
    forms = search.rows.flatten(0, 1)[None]
    everything = torch.arange(len(search.clauses), device=ball.center.device)
    bound = tightened_margins(search.exact, ball, forms)[0].view(search.shift.shape)
    excess = search.closed(bound, everything)
    search.parts += len(everything)
    if bool((excess > 0).all()):
        search.worst = float(excess.min())
        return everything[:0], TightBoxes()

    tight = optimized_boxes(search.exact, ball, steps=steps, deadline=search.deadline)
    bound, _ = margins_over(search.exact, ball, forms, tight, steps=steps)
    better = search.closed(bound[0].view(search.shift.shape), everything)
    excess = torch.maximum(excess, better)
    search.root = float(excess.min())
    closed = excess[excess > 0]
    search.worst = float(closed.min()) if len(closed) else search.worst
    return everything[~(excess > 0)], tight


def _root(bounds: _ReluBounds, search: _Search, clauses: Tensor, tight: TightBoxes) -> _Parts:
    """Return the whole region as one part a clause."""
    count, rows = len(clauses), search.rows.shape[1]
    signs, slopes, multipliers = {}, {}, {}
    for i in bounds.boxes:
        lines = bounds.single[i]
        assert isinstance(lines, Lines)
        shape = lines.lower.shape[1:]
        signs[i] = torch.zeros((count, *shape), dtype=torch.int8, device=clauses.device)
        slopes[i] = lines.lower[:, None].expand(count, rows, *shape).clone()
        multipliers[i] = torch.zeros((count, rows, *shape), device=clauses.device)
    return _Parts(clauses, signs, slopes, multipliers)


def _expanded(relaxation: Relaxation, count: int) -> Relaxation:
    """Return the relaxation of one image for ``count`` parts."""
    own = {
        name: value.expand(count, *value.shape[1:])
        for name, value in vars(relaxation).items()
        if isinstance(value, Tensor) and name != "index"
    }
    return replace(relaxation, **own)  # type: ignore[arg-type]


def _padded(clause: Clause, rows: int) -> Clause:
    """Return the clause with its rows repeated up to ``rows`` of them."""
    places = _repeats(len(clause.rows), rows)
    return Clause(clause.rows[places], clause.shift[places])


def _repeats(count: int, most: int) -> Tensor:
    return torch.arange(most) % count
