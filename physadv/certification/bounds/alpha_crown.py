"""alpha-CROWN (Xu et al. 2021): CROWN whose lower lines are optimized, for every form its own.

Any slope in [0, 1] gives a sound lower line of a ReLU, so gradient steps on the slopes can only be
useless, never wrong. Slopes are found in float32; what they prove is computed anew, in the type of
the ball.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.crown import tighten_entries
from physadv.certification.bounds.graph import LayerGraph, relaxed_nodes
from physadv.certification.bounds.ibp import interval_boxes
from physadv.certification.bounds.input_ball import InputBall, flattened
from physadv.certification.bounds.linear_forms import DenseForms
from physadv.certification.bounds.relaxations import Box, Lines, Relaxation

STEPS = 20
"""Gradient steps on the slopes of each group of forms."""
_RATE, _DECAY = 0.1, 0.97
_SLOPES_AT_ONCE = 1 << 22
"""Most slopes that are optimized together (16 MiB in float32, some of them many times)."""

Slopes = dict[int, Tensor]


@dataclass(frozen=True)
class TightBoxes:
    """Boxes of an image's values and the relaxations over them.

    Attributes:
        boxes: Boxes (1, *shape) by node number: of the inputs of nonlinear layers, and of the nodes
            at which interval margins end.
        relaxed: Relaxations by node number.
    """

    boxes: dict[int, Box] = field(default_factory=dict)
    relaxed: dict[int, Relaxation] = field(default_factory=dict)


Refine = Callable[[int, Box, TightBoxes], Box]
"""Returns a tighter box of a node, by its number, its box and what is known of nodes before it."""


def alpha_crown_margins(
    graph: LayerGraph, ball: InputBall, forms: Tensor, *, steps: int | None = None
) -> Tensor:
    """Return alpha-CROWN lower bounds (b, k) of linear forms on the logits; never looser than
    CROWN's.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        forms: Coefficients (b, k, classes) of the forms.
        steps: Gradient steps on the slopes of each group of forms, None for :data:`STEPS`; 0 gives
            CROWN.
    """
    steps = STEPS if steps is None else steps
    bounds = []
    for i in range(len(forms)):
        one, rows = ball.select(i), forms[i : i + 1]
        tight = optimized_boxes(graph, one, steps=steps)
        bounds.append(margins_over(graph, one, rows, tight, steps=steps)[0])
    return torch.cat(bounds)


def margins_over(
    graph: LayerGraph, ball: InputBall, forms: Tensor, tight: TightBoxes, *, steps: int
) -> tuple[Tensor, Slopes]:
    """Return lower bounds (1, k) of forms on the logits over known boxes, and the slopes that give
    them.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, one image.
        forms: Coefficients (1, k, classes) of the forms.
        tight: Boxes and relaxations of the image.
        steps: Gradient steps on the slopes.
    """
    last, rows = len(graph.nodes) - 1, DenseForms(forms)
    slopes = optimized_slopes(graph, ball, last, forms, tight.relaxed, steps=steps)
    by_slopes = backward_bounds(graph, ball, last, rows, with_slopes(tight.relaxed, slopes))
    by_lines = backward_bounds(graph, ball, last, rows, tight.relaxed)
    by_boxes = backward_bounds(graph, ball, last, rows, stops=tight.boxes)
    return torch.maximum(torch.maximum(by_slopes, by_lines), by_boxes), slopes


def optimized_boxes(
    graph: LayerGraph,
    ball: InputBall,
    *,
    steps: int = STEPS,
    deadline: float | None = None,
    refine: Refine | None = None,
) -> TightBoxes:
    """Return boxes of one image's values, tightened by alpha-CROWN at every nonlinear layer.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, one image.
        steps: Gradient steps on the slopes of each group of forms.
        deadline: Time of :func:`time.monotonic` from which on no slope is optimized.
        refine: Tightens the box of each nonlinear layer's input further; None leaves it.
    """
    tight = TightBoxes()
    layers, readers = relaxed_nodes(graph), dict[int, list[int]]()
    for i in layers:
        readers.setdefault(graph.nodes[i].inputs[0], []).append(i)

    def undecided(number: int, box: Box) -> Tensor:
        return torch.stack([layers[i].undecided(box) for i in readers[number]]).any(0)

    def tighten(number: int, box: Box) -> Box:
        if number in tight.boxes:  # read by another nonlinear layer before
            return tight.boxes[number]
        if tight.relaxed:
            known = tight.relaxed
            box = tighten_entries(graph, ball, number, box, known, undecided(number, box))
            late = deadline is not None and time.monotonic() > deadline
            if steps > 0 and not late:
                rest = undecided(number, box)
                box = _optimized_entries(graph, ball, number, box, known, rest, steps)
            box = box if refine is None else refine(number, box, tight)
        tight.boxes[number] = box
        tight.relaxed.update({i: layers[i].relax(box) for i in readers[number]})
        return box

    stops = interval_boxes(graph, ball, graph.last_nonlinear, tighten)
    return replace(tight, boxes={**stops, **tight.boxes})


def _optimized_entries(
    graph: LayerGraph,
    ball: InputBall,
    number: int,
    box: Box,
    relaxed: Mapping[int, Relaxation],
    entries: Tensor,
    steps: int,
) -> Box:
    """Return the box (1, *shape) of a node, some ``entries`` of it tightened with slopes of their
    own."""
    chosen = entries.flatten().nonzero()[:, 0]
    sizes = [relaxed[i].lower[0].numel() for i in _free(relaxed, number)]  # type: ignore[union-attr]
    if not len(chosen) or not sizes:
        return box

    low, high = flattened(box[0]), flattened(box[1])
    step = max(1, _SLOPES_AT_ONCE // (2 * sum(sizes)))
    for first in range(0, len(chosen), step):
        piece = chosen[first : first + step]
        forms = torch.zeros((len(piece), low.shape[1]), dtype=low.dtype, device=low.device)
        forms[torch.arange(len(piece)), piece] = 1
        rows = torch.cat([forms, -forms])[None].view(1, -1, *graph.nodes[number].shape)
        slopes = optimized_slopes(graph, ball, number, rows, relaxed, steps=steps)
        bound = backward_bounds(graph, ball, number, DenseForms(rows), with_slopes(relaxed, slopes))
        below, above = bound[:, : len(piece)], -bound[:, len(piece) :]
        low = low.index_copy(1, piece, torch.maximum(low[:, piece], below))
        high = high.index_copy(1, piece, torch.minimum(high[:, piece], above))
    return low.view_as(box[0]), high.view_as(box[1])


def optimized_slopes(
    graph: LayerGraph,
    ball: InputBall,
    start: int,
    rows: Tensor,
    relaxed: Mapping[int, Relaxation],
    *,
    steps: int,
) -> Slopes:
    """Return lower slopes (b, k, *shape) of the ReLUs before a node that make lower bounds of forms
    on it large.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        start: Number of the node.
        rows: Coefficients (b, k, *shape of the node) of the forms.
        relaxed: Relaxations of the nonlinear layers before the node.
        steps: Gradient steps.

    Returns:
        Slopes by node number, in float32; empty where there is nothing to optimize.
    """
    free = _free(relaxed, start)
    if not free or steps < 1:
        return {}
    single, at = graph.detached(torch.float32), ball.cast(torch.float32)
    forms = DenseForms(rows.detach().float())
    lines = {i: cast_relaxation(r, torch.float32) for i, r in relaxed.items() if i <= start}
    shape = rows.shape[:2]
    slopes = {i: lines[i].lower[:, None].expand(*shape, *lines[i].lower.shape[1:]) for i in free}  # type: ignore[union-attr]
    slopes = {i: s.clone().requires_grad_() for i, s in slopes.items()}
    best = {i: s.detach().clone() for i, s in slopes.items()}
    largest = torch.full(shape, -torch.inf, device=rows.device)

    optimizer = torch.optim.Adam(list(slopes.values()), lr=_RATE)
    for _ in range(steps):
        with torch.enable_grad():
            bound = backward_bounds(single, at, start, forms, with_slopes(lines, slopes))
            loss = -bound.sum()
        if not loss.requires_grad:  # no such ReLU is before the node
            return {}
        keep_best(best, slopes, bound.detach() > largest)
        largest = torch.maximum(largest, bound.detach())
        grads = torch.autograd.grad(loss, list(slopes.values()), allow_unused=True)
        for slope, grad in zip(slopes.values(), grads, strict=True):
            slope.grad = grad
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= _DECAY
        with torch.no_grad():
            for slope in slopes.values():
                slope.clamp_(0, 1)
    return best


def keep_best(best: Slopes, now: Mapping[int, Tensor], better: Tensor) -> None:
    """Copy the numbers of the forms that are ``better`` (b, k) from ``now`` to ``best``."""
    for i, value in now.items():
        mask = better.view(*better.shape, *[1] * (value.ndim - 2))
        torch.where(mask, value.detach(), best[i], out=best[i])


def with_slopes(
    relaxed: Mapping[int, Relaxation], slopes: Mapping[int, Tensor]
) -> dict[int, Relaxation]:
    """Return relaxations whose unstable ReLUs have given lower slopes.

    Args:
        relaxed: Relaxations by node number.
        slopes: Slopes (b, k, *shape) by node number; they are cut to [0, 1].
    """
    result = dict(relaxed)
    for i, slope in slopes.items():
        lines = result[i]
        assert isinstance(lines, Lines)
        unstable = is_unstable(lines)[:, None]
        chosen = slope.to(lines.lower).clamp(0, 1)
        lower = torch.where(unstable, chosen, lines.lower[:, None])
        result[i] = replace(lines, lower=lower, per_form=True)
    return result


def is_unstable(lines: Lines) -> Tensor:
    """Return (b, *shape) bool: the ReLUs whose lower line may have any slope from 0 to 1."""
    return (lines.upper > 0) & (lines.upper < 1)


def cast_relaxation(relaxation: Relaxation, dtype: torch.dtype) -> Relaxation:
    """Return a relaxation with detached numbers of another type."""
    values = {
        name: value.detach().to(dtype)
        for name, value in vars(relaxation).items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return replace(relaxation, **values)  # type: ignore[arg-type]


def _free(relaxed: Mapping[int, Relaxation], start: int) -> list[int]:
    """Return the nodes up to ``start`` that have a ReLU whose slope can be chosen."""
    return [
        i
        for i, lines in relaxed.items()
        if i <= start
        and isinstance(lines, Lines)
        and lines.lower_shift is None
        and bool(is_unstable(lines).any())
    ]
