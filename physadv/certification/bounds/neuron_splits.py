"""Parts of a region by values of neurons, and their bounds: alpha-beta-CROWN (Wang et al. 2021),
for splits at any value and for every nonlinear layer.

A part holds some neurons above or below values. Such a limit cuts the neuron's box, over which the
layers that read it are relaxed anew, and enters the bound by a Lagrange multiplier. Multipliers and
slopes are optimized in float32; what closes a part is its bound computed anew in float64.
"""

from __future__ import annotations

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
)
from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.ibp import interval_boxes
from physadv.certification.bounds.input_ball import InputBall, InputBox, flattened
from physadv.certification.bounds.layers import MaxLayer, RelaxedLayer, ReluLayer
from physadv.certification.bounds.linear_forms import DenseForms
from physadv.certification.bounds.relaxations import Box, Lines, MaxPlanes, Relaxation

_STAGES = (3, 9)
"""Gradient steps on slopes and multipliers, after each of which closed parts are left alone."""
_CANDIDATES = 6
"""Neurons of each part that are split on trial before one is chosen."""
_SLOPE_RATE, _MULTIPLIER_RATE, _DECAY = 0.1, 0.05, 0.95
_SAMPLES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Places in a neuron's box, as shares of it, at which relaxations are compared with functions."""
_EMPTY = 1e-6
"""Gap between a floor and a ceiling, as a share of their size plus one, above which nothing is
between them."""
_LEAST_WIDTH = 1e-4
"""Width of a neuron's box, as a share of its size plus one, below which it is not split."""


@dataclass(frozen=True)
class Problem:
    """Clauses on the outputs of a network that nothing in a region may reach.

    Attributes:
        exact: Graph in float64.
        single: Graph in float32.
        region: Inputs, one image's ball or box.
        rows: Coefficients (c, j, outputs) of the clauses, float64.
        shift: Constants (c, j), float64.
        threshold: What a bound (c, j) must exceed, float64.
    """

    exact: LayerGraph
    single: LayerGraph
    region: InputBall
    rows: Tensor
    shift: Tensor
    threshold: Tensor

    def closed(self, bound: Tensor, clauses: Tensor) -> Tensor:
        """Return (m,) by how much float64 bounds (m, j) of clauses numbered ``clauses`` (m,) exceed
        what rounding needs; positive closes a part."""
        return (bound + self.shift[clauses] - self.threshold[clauses]).amax(1)


@dataclass(frozen=True)
class Parts:
    """Parts of the region by limits of neurons; n numbers a node, those of its neurons that the
    whole region leaves undecided.

    Attributes:
        clauses: Number of each part's clause (m,).
        floors: Lower limits (m, n) by node number, float32; minus infinity where there is none.
        ceilings: Upper limits (m, n) by node number, float32.
        slopes: Lower slopes (m, j, n) by ReLU node.
        multipliers: Lagrange multipliers (m, j, n) by node number: positive ones of the ceiling,
            negative ones of the floor.
    """

    clauses: Tensor
    floors: dict[int, Tensor] = field(default_factory=dict)
    ceilings: dict[int, Tensor] = field(default_factory=dict)
    slopes: Slopes = field(default_factory=dict)
    multipliers: Slopes = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clauses)

    def pick(self, places: Tensor | slice) -> Parts:
        """Return some of the parts."""
        return Parts(
            self.clauses[places],
            *({i: v[places] for i, v in t.items()} for t in self._tables()),
        )

    def joined(self, other: Parts) -> Parts:
        """Return these parts and others."""
        pairs = zip(self._tables(), other._tables(), strict=True)
        return Parts(
            torch.cat([self.clauses, other.clauses]),
            *({i: torch.cat([a[i], b[i]]) for i in a} for a, b in pairs),
        )

    def has_limits(self, node: int) -> Tensor:
        """Return (m, n) which neurons of a node have a limit."""
        return is_limited(self.floors[node], self.ceilings[node])

    def _tables(self) -> tuple[Slopes, Slopes, Slopes, Slopes]:
        return self.floors, self.ceilings, self.slopes, self.multipliers


@dataclass(frozen=True)
class _Neurons:
    """The neurons of one node that may be split.

    Attributes:
        readers: Numbers of the nonlinear layers that read the node.
        places: Places (n,) of the neurons in its flattened value.
        box: Box (1, *shape) of the node over the whole region, float64.
    """

    readers: tuple[int, ...]
    places: Tensor
    box: Box


class PartBounds:
    """Bounds of parts, over the boxes of the whole region cut by the limits of each part.

    Args:
        problem: What is to be proven.
        tight: Boxes and relaxations over the whole region, float64.
        limits: Floors and ceilings (size of the value) that hold in the whole region by node
            number, within which the boxes are; infinite where there is none.
    """

    def __init__(
        self, problem: Problem, tight: TightBoxes, limits: Mapping[int, Box] | None = None
    ) -> None:
        self.problem = problem
        self._limits = dict(limits or {})
        self.ball = problem.region.cast(torch.float64)
        self._exact = tight.relaxed
        self._single = {i: cast_relaxation(r, torch.float32) for i, r in tight.relaxed.items()}
        self._last = len(problem.exact.nodes) - 1
        self._layers: dict[int, RelaxedLayer] = {}
        readers: dict[int, list[int]] = {}
        for i in tight.relaxed:
            node = problem.exact.nodes[i]
            assert isinstance(node.layer, RelaxedLayer)
            self._layers[i] = node.layer
            readers.setdefault(node.inputs[0], []).append(i)

        self.neurons: dict[int, _Neurons] = {}
        for source, numbers in readers.items():
            box = tight.boxes[source]
            open_ = flattened(self._splittable(numbers, box))[0]
            if source in self._limits:
                open_ = open_ | is_limited(*self._limits[source])
            places = open_.nonzero()[:, 0]
            if len(places):
                self.neurons[source] = _Neurons(tuple(numbers), places, box)
        self._carries_on = not all(isinstance(v, ReluLayer) for v in self._layers.values())

    def whole(self, clauses: Tensor) -> Parts:
        """Return the whole region as one part for each of ``clauses`` (m,)."""
        size = len(clauses), self.problem.rows.shape[1]
        parts = Parts(clauses)
        for source, neurons in self.neurons.items():
            count = len(neurons.places)
            none = torch.full((size[0], count), torch.inf, device=clauses.device)
            parts.floors[source], parts.ceilings[source] = -none, none
            if source in self._limits:
                floor, ceiling = (end[neurons.places].float() for end in self._limits[source])
                parts.floors[source], parts.ceilings[source] = (
                    floor.expand(none.shape),
                    ceiling.expand(none.shape),
                )
            parts.multipliers[source] = torch.zeros((*size, count), device=clauses.device)
            for i in neurons.readers:
                lines = self._single[i]
                if isinstance(self._layers[i], ReluLayer) and isinstance(lines, Lines):
                    lower = flattened(lines.lower)[:, None, neurons.places]
                    parts.slopes[i] = lower.expand(*size, count).clone()
        return parts

    def exact_bound(self, parts: Parts) -> Tensor:
        """Return bounds (m, j) in float64 with the parts' slopes and multipliers, or by intervals
        where these are better; infinite for parts that hold nothing."""
        lines, boxes, empty = self._lines(parts, torch.float64)
        bound = self._bound(parts, lines, parts.slopes, parts.multipliers, torch.float64)
        if self._carries_on:
            forms = DenseForms(self.problem.rows[parts.clauses])
            ball = self.ball.repeated(len(parts))
            by_boxes = backward_bounds(self.problem.exact, ball, self._last, forms, stops=boxes)
            bound = torch.maximum(bound, by_boxes)
        return bound.masked_fill(empty[:, None], torch.inf)

    def worst_inputs(self, parts: Parts) -> Tensor:
        """Return the inputs (m, *shape) of the region's box at which the parts' bounds are
        attained."""
        lower, upper = (end.expand(len(parts), *end.shape[1:]) for end in self.ball.box())
        center, half = ((lower + upper) / 2).float(), ((upper - lower) / 2).float()
        lines, _, _ = self._lines(parts, torch.float32)
        with torch.enable_grad():
            # The bound is linear in the middle of the box, with its coefficients as slopes.
            at = InputBox(center.requires_grad_(), reach=half)
            best = self._excess(parts, lines, ball=at)
            (slopes,) = torch.autograd.grad(best.sum(), center)
        return center.detach() - half * slopes.sign()

    def optimized(self, parts: Parts, stages: tuple[int, ...] = _STAGES) -> Parts:
        """Return the parts with better slopes and multipliers, by gradient steps in float32; parts
        that are closed after a stage are not improved in the next one."""
        if not self.neurons:
            return parts
        is_open = torch.ones(len(parts), dtype=torch.bool, device=parts.clauses.device)
        for steps in stages:
            better, closed = self._ascended(parts.pick(is_open), steps)
            for mine, theirs in zip(parts._tables()[2:], better._tables()[2:], strict=True):
                for i in mine:
                    mine[i][is_open] = theirs[i]
            is_open = is_open.masked_scatter(is_open, ~closed)
            if not bool(is_open.any()):
                break
        return parts

    def split(self, parts: Parts, places: Tensor) -> Parts:
        """Return both halves of each part, all upper halves before the lower ones.

        Args:
            parts: Parts to split.
            places: Which neuron of each (m,), numbers among those of all nodes, end to end.
        """
        boxes = self._split_boxes(parts)
        floors = {i: v.clone() for i, v in parts.floors.items()}
        ceilings = {i: v.clone() for i, v in parts.ceilings.items()}
        first = 0
        for source, neurons in self.neurons.items():
            size = len(neurons.places)
            here = ((places >= first) & (places < first + size)).nonzero()[:, 0]
            column = places[here] - first
            low, high = (flattened(end)[here, neurons.places[column]] for end in boxes[source])
            at = (low + high) / 2
            if any(isinstance(self._layers[i], ReluLayer) for i in neurons.readers):
                at = torch.where((low < 0) & (high > 0), torch.zeros_like(at), at)
            floors[source][here, column] = at
            ceilings[source][here, column] = at
            first += size
        return replace(parts, floors=floors).joined(replace(parts, ceilings=ceilings))

    def limits(self, parts: Parts, number: int) -> dict[int, Box]:
        """Return the floors and ceilings (size of the value), float64, of one part by node
        number."""
        result = {}
        for source, neurons in self.neurons.items():
            if not bool(parts.has_limits(source)[number].any()):
                continue
            none = torch.full_like(flattened(neurons.box[0])[0], torch.inf)
            tables = (parts.floors[source][number], parts.ceilings[source][number])
            floor, ceiling = (
                end.index_copy(0, neurons.places, table.to(end))
                for end, table in zip((-none, none), tables, strict=True)
            )
            result[source] = floor, ceiling
        return result

    def chosen(self, parts: Parts, scores: Tensor) -> Tensor:
        """Return the neurons (m,) to split: of the candidates with the highest ``scores`` the one
        whose worse half has the best bound as it is, without any optimization (FSB, De Palma et al.
        2021); among other layers than ReLUs, whose lines over a half are new ones, the first."""
        count = min(_CANDIDATES, scores.shape[1])
        top = scores.topk(count, 1)
        if count == 1 or self._carries_on:
            return top.indices[:, 0]
        merits = []
        for k in range(count):
            halves = self.split(parts, top.indices[:, k])
            excess = self._excess(halves, self._lines(halves, torch.float32)[0])
            first, second = excess.clamp_max(0.0).chunk(2)
            merits.append(torch.minimum(first, second) + 0.2 * torch.maximum(first, second))
        merit = torch.stack(merits, 1).masked_fill(top.values < 0, -torch.inf)
        return top.indices.gather(1, merit.argmax(1, keepdim=True))[:, 0]

    def scores(self, parts: Parts) -> Tensor:
        """Return scores (m, n) of all neurons, those of all nodes end to end: what their
        relaxations cost the bound; -1 where a neuron cannot be split.

        Lines and planes cost their distance from the function, times the coefficients that rest on
        them.
        """
        lines, _, _ = self._lines(parts, torch.float32)
        boxes = self._split_boxes(parts)
        leaves: dict[int, tuple[Tensor, Tensor]] = {}
        with torch.enable_grad():
            for i in (i for neurons in self.neurons.values() for i in neurons.readers):
                own = lines[i]
                shift = own.shift if isinstance(own, MaxPlanes) else own.upper_shift
                given = torch.zeros_like(shift) if own.lower_shift is None else own.lower_shift
                above, below = shift.clone().requires_grad_(), given.clone().requires_grad_()
                leaves[i] = above, below
                lines[i] = (
                    replace(own, shift=above, lower_shift=below)
                    if isinstance(own, MaxPlanes)
                    else replace(own, upper_shift=above, lower_shift=below)
                )
            best = self._excess(parts, lines)
            flat = [leaf for pair in leaves.values() for leaf in pair]
            grads = torch.autograd.grad(best.sum(), flat, allow_unused=True)

        pairs = dict(zip(leaves, zip(grads[::2], grads[1::2], strict=True), strict=True))
        pieces = []
        for source, neurons in self.neurons.items():
            low, high = boxes[source]
            cost = torch.zeros_like(flattened(low))
            for i in neurons.readers:
                weights = [
                    torch.zeros_like(leaf) if grad is None else grad
                    for grad, leaf in zip(pairs[i], leaves[i], strict=True)
                ]
                cost += self._cost(i, lines[i], (low, high), weights[0], weights[1])
            free = flattened(self._splittable(neurons.readers, (low, high)))
            own_cost, own_free = cost[:, neurons.places], free[:, neurons.places]
            pieces.append(torch.where(own_free, own_cost, torch.full_like(own_cost, -1.0)))
        return torch.cat(pieces, 1)

    def _split_boxes(self, parts: Parts) -> dict[int, Box]:
        """Return boxes (m, *shape) of all nodes with neurons that may be split, in float32."""
        boxes = self._boxes(parts, torch.float32)[0]
        for source, neurons in self.neurons.items():
            low, high = _cast_box(neurons.box, torch.float32)
            size = (len(parts), *low.shape[1:])
            boxes.setdefault(source, (low.expand(size), high.expand(size)))
        return boxes

    def _cost(
        self, number: int, own: Relaxation, box: Box, negative: Tensor, positive: Tensor
    ) -> Tensor:
        """Return (m, size of the input) what a relaxation costs the bound, by the coefficients on
        its upper and lower lines, of which none is positive or negative respectively."""
        layer = self._layers[number]
        if isinstance(own, MaxPlanes) and isinstance(layer, MaxLayer):
            return _cost_of_maxima(layer, own, box, negative, positive)
        assert isinstance(own, Lines)
        if isinstance(layer, ReluLayer):
            # The intercept of the chord, and half of it for the lower line.
            unstable = is_unstable(own)
            cost = (positive / 2 - negative) * own.upper_shift.detach()
            return flattened(torch.where(unstable, cost, torch.zeros_like(cost)))

        assert own.lower_shift is not None
        above, below = torch.zeros_like(own.upper), torch.zeros_like(own.upper)
        for share in _SAMPLES:
            x = torch.lerp(*box, share)
            value = layer.value(x)
            above = torch.maximum(above, own.upper * x + own.upper_shift - value)
            below = torch.maximum(below, value - own.lower * x - own.lower_shift)
        return flattened((positive * below - negative * above).detach())

    def _splittable(self, readers: tuple[int, ...] | list[int], box: Box) -> Tensor:
        """Return (m, *shape) which neurons can be split: what reads them is undecided over their
        ``box``, which is wide enough."""
        low, high = box
        wide = high - low > _LEAST_WIDTH * (1 + torch.maximum(low.abs(), high.abs()))
        free = torch.zeros_like(wide)
        for i in readers:
            layer = self._layers[i]
            undecided = layer.undecided(box)
            free |= undecided if isinstance(layer, ReluLayer) else undecided & wide
        return free

    def _limited(self, parts: Parts, source: int, box: Box) -> Box:
        """Return ``box`` (m or 1, *shape) of a node's value within the limits of the parts."""
        neurons = self.neurons[source]
        ends = []
        for end, table, choose in (
            (box[0], parts.floors, torch.maximum),
            (box[1], parts.ceilings, torch.minimum),
        ):
            flat = flattened(end).expand(len(parts), -1)
            own = choose(flat[:, neurons.places], table[source].to(flat))
            cut = flat.index_copy(1, neurons.places, own)
            ends.append(cut.view(len(parts), *end.shape[1:]))
        return ends[0], ends[1]

    def _boxes(self, parts: Parts, dtype: torch.dtype) -> tuple[dict[int, Box], Tensor]:
        """Return boxes (m, *shape) of the nodes' values by node number within the limits of the
        parts, and which parts (m,) hold nothing.

        Where there are other nonlinear layers than ReLUs limits are carried on by intervals, which
        shrinks the boxes behind them; then also boxes at which interval margins end are returned.
        """
        empty = torch.zeros(len(parts), dtype=torch.bool, device=parts.clauses.device)
        whole = {s: _cast_box(n.box, dtype) for s, n in self.neurons.items()}
        if not self._carries_on:
            limited = {s: box for s, box in whole.items() if bool(parts.has_limits(s).any())}
            return {s: self._limited(parts, s, box) for s, box in limited.items()}, empty

        def narrowed(source: int, box: Box) -> Box:
            nonlocal empty
            if source not in whole:
                return box
            low, high = self._limited(parts, source, whole[source])
            low, high = torch.maximum(low, box[0]), torch.minimum(high, box[1])
            gap = _EMPTY * (1 + torch.maximum(low.abs(), high.abs()))
            empty = empty | flattened(low > high + gap).any(1)
            return torch.minimum(low, high), torch.maximum(low, high)

        graph = self.problem.exact if dtype == torch.float64 else self.problem.single
        ball = self.ball.cast(dtype).repeated(len(parts))
        return interval_boxes(graph, ball, set(whole) | graph.last_nonlinear, narrowed), empty

    def _lines(
        self, parts: Parts, dtype: torch.dtype
    ) -> tuple[dict[int, Relaxation], dict[int, Box], Tensor]:
        """Return relaxations over the boxes within the limits of the parts, these boxes, and which
        parts (m,) hold nothing."""
        known = self._exact if dtype == torch.float64 else self._single
        result = {i: _expanded(lines, len(parts)) for i, lines in known.items()}
        boxes, empty = self._boxes(parts, dtype)
        for source, box in boxes.items():
            if source not in self.neurons:
                continue
            low, high = (flattened(end) for end in box)
            first, last = (flattened(end) for end in _cast_box(self.neurons[source].box, dtype))
            changed = (low > first) | (high < last)
            if not bool(changed.any()):
                continue
            for i in self.neurons[source].readers:
                own, layer = result[i], self._layers[i]
                if isinstance(own, Lines):
                    anew = layer.relax((low[changed], high[changed]))
                    assert isinstance(anew, Lines)
                    result[i] = _replaced(own, anew, changed)
                else:
                    result[i] = layer.relax(box)
        return result, boxes, empty

    def _with_slopes(self, lines: dict[int, Relaxation], slopes: Slopes) -> dict[int, Relaxation]:
        """Return the relaxations with lower slopes of unstable ReLUs."""
        result = dict(lines)
        for neurons in self.neurons.values():
            for i in neurons.readers:
                own = result[i]
                if i not in slopes or not isinstance(own, Lines):
                    continue
                unstable = flattened(is_unstable(own))[:, None, neurons.places]
                whole = flattened(own.lower)[:, None]
                chosen = slopes[i].to(whole).clamp(0, 1)
                chosen = torch.where(unstable, chosen, whole[..., neurons.places])
                size = (*chosen.shape[:2], whole.shape[2])
                lower = whole.expand(size).index_copy(2, neurons.places, chosen)
                lower = lower.view(*size[:2], *own.lower.shape[1:])
                result[i] = replace(own, lower=lower, per_form=True)
        return result

    def _bound(
        self,
        parts: Parts,
        lines: dict[int, Relaxation],
        slopes: Slopes,
        multipliers: Slopes,
        dtype: torch.dtype,
        ball: InputBall | None = None,
    ) -> Tensor:
        """Return bounds (m, j) of the parts' clauses, without their constants.

        Where x <= c, m (x - c) is not positive for any m >= 0: added to a value it leaves a lower
        bound. So is m (x - c) for m <= 0 where x >= c.
        """
        problem = self.problem
        graph = problem.exact if dtype == torch.float64 else problem.single
        ball = ball or self.ball.cast(dtype).repeated(len(parts))
        added: dict[int, tuple[Tensor, Tensor]] = {}
        constant = torch.zeros((), dtype=dtype, device=parts.clauses.device)
        for source, multiplier in multipliers.items():
            limited = parts.has_limits(source)
            if not bool(limited.any()):
                continue
            above, below = _by_side(multiplier.to(dtype), parts, source)
            added[source] = self.neurons[source].places, above + below
            ceiling, floor = (
                torch.nan_to_num(end.to(dtype), posinf=0.0, neginf=0.0)[:, None]
                for end in (parts.ceilings[source], parts.floors[source])
            )
            constant = constant - (above * ceiling + below * floor).sum(2)
        forms = DenseForms(problem.rows[parts.clauses].to(dtype))
        relaxed = self._with_slopes(lines, slopes)
        return constant + backward_bounds(graph, ball, self._last, forms, relaxed, added=added)

    def _excess(
        self, parts: Parts, lines: dict[int, Relaxation], ball: InputBall | None = None
    ) -> Tensor:
        """Return (m,) the bound of each part's best row, in float32."""
        bound = self._bound(parts, lines, parts.slopes, parts.multipliers, torch.float32, ball=ball)
        return (bound + self.problem.shift[parts.clauses].float()).amax(1)

    def _ascended(self, parts: Parts, steps: int) -> tuple[Parts, Tensor]:
        """Return the parts with better slopes and multipliers, and which (m,) are closed as far as
        float32 tells."""
        lines, _, empty = self._lines(parts, torch.float32)
        slopes = {i: s.clone().requires_grad_() for i, s in parts.slopes.items()}
        multipliers = {
            i: m.clone().requires_grad_()
            for i, m in parts.multipliers.items()
            if bool(parts.has_limits(i).any())
        }
        best = replace(
            parts,
            slopes={i: s.clone() for i, s in parts.slopes.items()},
            multipliers={i: m.clone() for i, m in parts.multipliers.items()},
        )
        largest = torch.full(
            (len(parts), self.problem.rows.shape[1]), -torch.inf, device=parts.clauses.device
        )
        if self._carries_on and multipliers:
            # Multipliers may fit the new lines worse than none.
            none = {i: torch.zeros_like(m) for i, m in multipliers.items()}
            largest = self._bound(parts, lines, parts.slopes, none, torch.float32)
            keep_best(best.multipliers, none, torch.ones_like(largest, dtype=torch.bool))
        shift = self.problem.shift[parts.clauses].float()
        goal = self.problem.threshold[parts.clauses].float()
        groups = [
            {"params": list(values.values()), "lr": rate}
            for values, rate in ((slopes, _SLOPE_RATE), (multipliers, _MULTIPLIER_RATE))
            if values
        ]
        variables = [*slopes.values(), *multipliers.values()]
        optimizer = torch.optim.Adam(groups) if groups else None
        for step in range(steps + 1):
            with torch.enable_grad():
                bound = self._bound(parts, lines, slopes, multipliers, torch.float32)
                loss = -bound.sum()
            better = bound.detach() > largest
            keep_best(best.slopes, slopes, better)
            keep_best(best.multipliers, multipliers, better)
            largest = torch.maximum(largest, bound.detach())
            closed = (largest + shift > 2 * goal + 1e-4 * largest.abs()).any(1) | empty
            if optimizer is None or step == steps or bool(closed.all()):
                break
            grads = torch.autograd.grad(loss, variables, allow_unused=True)
            for variable, grad in zip(variables, grads, strict=True):
                variable.grad = grad
            optimizer.step()
            self._projected(parts, slopes, multipliers)
            for group in optimizer.param_groups:
                group["lr"] *= _DECAY
        return best, closed

    @torch.no_grad()
    def _projected(self, parts: Parts, slopes: Slopes, multipliers: Slopes) -> None:
        """Move slopes and multipliers, in place, to the nearest that are allowed."""
        for slope in slopes.values():
            slope.clamp_(0, 1)
        for source, multiplier in multipliers.items():
            above, below = _by_side(multiplier, parts, source)
            multiplier.copy_(above + below)


def is_limited(floor: Tensor, ceiling: Tensor) -> Tensor:
    """Return which floors and ceilings, of one shape, are any."""
    return (floor > -torch.inf) | (ceiling < torch.inf)


def _by_side(multiplier: Tensor, parts: Parts, source: int) -> tuple[Tensor, Tensor]:
    """Return the multipliers (m, j, n) of ceilings, none negative, and of floors, none positive; 0
    where there is no such limit."""
    nothing = torch.zeros((), dtype=multiplier.dtype, device=multiplier.device)
    has_ceiling = (parts.ceilings[source] < torch.inf)[:, None]
    has_floor = (parts.floors[source] > -torch.inf)[:, None]
    return (
        torch.where(has_ceiling, multiplier.clamp_min(0), nothing),
        torch.where(has_floor, multiplier.clamp_max(0), nothing),
    )


def _cost_of_maxima(
    layer: MaxLayer, planes: MaxPlanes, box: Box, negative: Tensor, positive: Tensor
) -> Tensor:
    """Return (m, size of the input) what the planes of maxima cost, each group's cost divided
    among its members by the widths of their boxes."""
    low, high = (flattened(end) for end in box)
    above, below = torch.zeros_like(planes.shift), torch.zeros_like(planes.shift)
    for share in _SAMPLES:
        x = torch.lerp(low, high, share)
        members = x[:, layer.index]
        value = members.amax(-1)
        above = torch.maximum(above, (planes.slopes * members).sum(-1) + planes.shift - value)
        below = torch.maximum(below, value - x.gather(1, planes.chosen))
    cost = (positive * below - negative * above).detach()

    open_ = flattened(layer.undecided(box))
    width = ((high - low) * open_)[:, layer.index]
    part = width / width.sum(-1, keepdim=True).clamp_min(1e-12)
    places = layer.index.flatten().expand(len(low), -1)
    return torch.zeros_like(low).scatter_add(1, places, (cost[..., None] * part).flatten(1))


def _expanded(relaxation: Relaxation, count: int) -> Relaxation:
    """Return the relaxation of one image for ``count`` parts."""
    own = {
        name: value.expand(count, *value.shape[1:])
        for name, value in vars(relaxation).items()
        if isinstance(value, Tensor) and name != "index"
    }
    return replace(relaxation, **own)  # type: ignore[arg-type]


def _cast_box(box: Box, dtype: torch.dtype) -> Box:
    return box[0].to(dtype), box[1].to(dtype)


def _replaced(lines: Lines, anew: Lines, changed: Tensor) -> Lines:
    """Return lines (m, *shape) with others (n,) where they ``changed`` (m, size of shape)."""

    def mixed(old: Tensor, new: Tensor) -> Tensor:
        flat = flattened(old).clone()
        flat[changed] = new
        return flat.view(old.shape)

    changes: Mapping[str, Tensor] = {
        name: mixed(old, getattr(anew, name))
        for name, old in vars(lines).items()
        if isinstance(old, Tensor)
    }
    return replace(lines, **changes)  # type: ignore[arg-type]
