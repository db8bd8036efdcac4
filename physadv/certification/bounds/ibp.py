"""Interval bound propagation (Gowal et al. 2018): a box through every layer, at the cost of about
two passes."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.layers import (
    AddLayer,
    AffineLayer,
    Layer,
    NonnegativeMap,
    ReluLayer,
    ReshapeLayer,
    ScaleLayer,
)
from physadv.certification.bounds.linear_forms import Box, DenseForms
from physadv.core.errors import ModelError

Tighten = Callable[[int, Box], Box]
"""(number of a node, its box) -> a box at most as large; see crown.py."""


@dataclass(frozen=True)
class _Known:
    """What is known of a value: its box and, while it is an affine image of an l_2 ball with axes,
    center and axes."""

    box: Box
    center: Tensor | None = None
    axes: Tensor | None = None


def interval_boxes(
    graph: LayerGraph, ball: InputBall, keep: Container[int], tighten: Tighten | None = None
) -> dict[int, Box]:
    """(lower, upper) over ``ball`` of the values of the nodes in ``keep``; the others are let go
    when read.

    ``tighten`` may improve the box of each ReLU's input before it is used. Raises ModelError for a
    layer without a rule (fold the graph first).
    """
    axes = torch.full_like(ball.center, ball.eps) if ball.norm == "l2" else None
    values = {0: _Known(ball.box(), ball.center, axes)}
    last_readers = graph.last_readers()
    for number, node in enumerate(graph.nodes[1:], 1):
        source = node.inputs[0]
        if tighten is not None and isinstance(node.layer, ReluLayer):
            values[source] = _Known(tighten(source, values[source].box))
        done = [i for i in set(node.inputs) if last_readers[i] == number and i not in keep]
        values[number] = _through(node.layer, [values[i] for i in node.inputs])
        for i in done:
            del values[i]
    return {i: known.box for i, known in values.items()}


def ibp_margins(graph: LayerGraph, ball: InputBall, forms: Tensor) -> Tensor:
    """Lower bounds (b, k) of the forms (b, k, classes) on the logits, merged into the layers after
    the last ReLU."""
    if ball.center.ndim == 4 and ball.center.shape[1] > 1 and not torch.is_grad_enabled():
        # convolutions of more than one channel are faster so
        ball = replace(ball, center=ball.center.contiguous(memory_format=torch.channels_last))
    stops = interval_boxes(graph, ball, graph.last_relus())
    return backward_bounds(graph, ball, len(graph.nodes) - 1, DenseForms(forms), stops=stops)


def _through(layer: Layer, inputs: list[_Known]) -> _Known:
    """Return the box of ``layer`` over ``inputs``.

    Nothing is written in place: a slice, reshape or permute of the same memory may be read later.
    """
    lower, upper = inputs[0].box
    if isinstance(layer, ReluLayer):
        return _Known((lower.relu(), upper.relu()))
    if isinstance(layer, AddLayer):
        return _Known((lower + inputs[1].box[0], upper + inputs[1].box[1]))
    if not isinstance(layer, AffineLayer):
        raise ModelError(
            f"layer {type(layer).__name__}", "has no interval rule", "fold the graph first"
        )
    if isinstance(layer, NonnegativeMap | ReshapeLayer):
        return _ellipsoid(layer, (layer.value(lower), layer.value(upper)), inputs[0])
    return _ellipsoid(layer, layer.box(lower, upper), inputs[0])


def _ellipsoid(layer: AffineLayer, box: Box, source: _Known) -> _Known:
    """The first layers after an l_2 ball: there its image, and so the box, is known exactly."""
    if source.axes is None or source.center is None:
        return _Known(box)
    if isinstance(layer, ScaleLayer | ReshapeLayer):
        return _Known(box, layer.value(source.center), layer.spread(source.axes))
    radius = layer.squared_spread(source.axes)
    if radius is None:
        return _Known(box)
    middle = layer.value(source.center)
    return _Known((torch.maximum(box[0], middle - radius), torch.minimum(box[1], middle + radius)))
