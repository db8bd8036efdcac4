"""Interval bound propagation (Gowal et al. 2018): a box through every layer, at the cost of about
two forward passes."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.layers import (
    AddLayer,
    AffineLayer,
    ConcatLayer,
    GatherLayer,
    Layer,
    NonnegativeMap,
    RelaxedLayer,
    ReshapeLayer,
    ScaleLayer,
)
from physadv.certification.bounds.linear_forms import DenseForms
from physadv.certification.bounds.relaxations import Box
from physadv.core.errors import ModelError

Tighten = Callable[[int, Box], Box]
"""Function of a node's number and box that returns a box at most as large; see crown.py."""


@dataclass(frozen=True)
class _ValueBounds:
    """Bounds of a value: its box and, while it is an affine image of an l_2 ball with axes, center
    and axes."""

    box: Box
    center: Tensor | None = None
    axes: Tensor | None = None


def interval_boxes(
    graph: LayerGraph, ball: InputBall, keep: Container[int], tighten: Tighten | None = None
) -> dict[int, Box]:
    """Propagate boxes through the network and return those of the nodes in ``keep``.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        keep: Numbers of the nodes whose boxes are returned; other boxes are dropped after their
            last use.
        tighten: Improves the box of each nonlinear layer's input before it is used, as CROWN does.

    Returns:
        (lower, upper) by node number, each (b, *shape of the node).

    Raises:
        ModelError: A layer has no interval rule; fold the graph first.

    Example:
        >>> import torch
        >>> from physadv.certification.bounds.ibp import interval_boxes
        >>> from physadv.certification.bounds.input_ball import InputBall
        >>> from physadv.certification.bounds.verify import prepare_graph
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> graph = prepare_graph(net, (3, 2, 2))
        >>> last = len(graph.nodes) - 1
        >>> ball = InputBall(torch.rand(2, 3, 2, 2), 0.1)
        >>> lower, upper = interval_boxes(graph, ball, {last})[last]
        >>> lower.shape, bool((lower <= upper).all())
        (torch.Size([2, 3]), True)
    """
    axes = torch.full_like(ball.center, ball.eps) if ball.norm == "l2" else None
    values = {0: _ValueBounds(ball.box(), ball.center, axes)}
    last_readers = graph.last_readers()
    for number, node in enumerate(graph.nodes[1:], 1):
        source = node.inputs[0]
        if tighten is not None and isinstance(node.layer, RelaxedLayer):
            values[source] = _ValueBounds(tighten(source, values[source].box))

        dropped = [i for i in set(node.inputs) if last_readers[i] == number and i not in keep]
        values[number] = _propagate(node.layer, [values[i] for i in node.inputs])
        for i in dropped:
            del values[i]

    return {i: bounds.box for i, bounds in values.items()}


def ibp_margins(graph: LayerGraph, ball: InputBall, forms: Tensor) -> Tensor:
    """Return interval lower bounds (b, k) of linear forms on the logits.

    The forms are merged into the layers after the last nonlinear one, which is tighter than the
    box of the logits.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        forms: Coefficients (b, k, classes) of the forms.
    """
    if ball.center.ndim == 4 and ball.center.shape[1] > 1 and not torch.is_grad_enabled():
        # Convolutions of more than one channel are faster in this memory format.
        ball = ball.channels_last()
    stops = interval_boxes(graph, ball, graph.last_nonlinear())
    return backward_bounds(graph, ball, len(graph.nodes) - 1, DenseForms(forms), stops=stops)


def _propagate(layer: Layer, inputs: list[_ValueBounds]) -> _ValueBounds:
    """Return the bounds of ``layer``'s value over ``inputs``.

    Nothing is written in place: a slice, reshape or permute of the same memory may be read later.
    """
    lower, upper = inputs[0].box
    if isinstance(layer, RelaxedLayer):
        return _ValueBounds(layer.value_range(lower, upper))
    if isinstance(layer, ConcatLayer):
        ends = zip(*(bounds.box for bounds in inputs), strict=True)
        below, above = (layer.value(*end) for end in ends)
        return _ValueBounds((below, above))
    if isinstance(layer, AddLayer):
        return _ValueBounds((lower + inputs[1].box[0], upper + inputs[1].box[1]))

    if not isinstance(layer, AffineLayer):
        raise ModelError(
            f"layer {type(layer).__name__}", "has no interval rule", "Fold the graph first"
        )

    if isinstance(layer, GatherLayer):
        return _ValueBounds(layer.box(lower, upper))  # copies are no axes of an ellipsoid
    if isinstance(layer, NonnegativeMap | ReshapeLayer):
        return _ellipsoid(layer, (layer.value(lower), layer.value(upper)), inputs[0])
    return _ellipsoid(layer, layer.box(lower, upper), inputs[0])


def _ellipsoid(layer: AffineLayer, box: Box, source: _ValueBounds) -> _ValueBounds:
    """Intersect ``box`` with the exact box of an ellipsoid, for the first layers after an l_2
    ball."""
    if source.axes is None or source.center is None:
        return _ValueBounds(box)
    if isinstance(layer, ScaleLayer | ReshapeLayer):
        return _ValueBounds(box, layer.value(source.center), layer.spread(source.axes))

    radius = layer.squared_spread(source.axes)
    if radius is None:
        return _ValueBounds(box)

    middle = layer.value(source.center)
    return _ValueBounds(
        (torch.maximum(box[0], middle - radius), torch.minimum(box[1], middle + radius))
    )
