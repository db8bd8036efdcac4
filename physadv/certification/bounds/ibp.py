"""Interval bound propagation (Gowal et al. 2018): a box through every layer, at the cost of about
two forward passes."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.input_ball import InputBall, form_values
from physadv.certification.bounds.layers import (
    AddLayer,
    AffineLayer,
    ConcatLayer,
    Layer,
    LinearLayer,
    RelaxedLayer,
    ScaleLayer,
    is_channels_last,
)
from physadv.certification.bounds.linear_forms import DenseForms
from physadv.certification.bounds.relaxations import Box
from physadv.core.errors import ModelError

Tighten = Callable[[int, Box], Box]
"""Function of a node's number and box that returns a box at most as large; see crown.py."""


@dataclass(slots=True)
class _ValueBounds:
    """Bounds of a value: a box by its ends or by its middle and radius, whichever was computed; and
    center and axes while the value is an affine image of an l_2 ball with axes.

    Affine layers and ReLUs pass middle and radius on, which saves passes over the values.
    """

    ends: Box | None = None
    middle: Box | None = None
    center: Tensor | None = None
    axes: Tensor | None = None
    is_map: bool = False
    """Whether a flattened map has kept its shape, for :meth:`LinearLayer.map_range`."""

    @property
    def is_channels_last(self) -> bool:
        """Whether no gradient is wanted and channels lie side by side in memory."""
        numbers = self.ends or self.middle
        return (
            numbers is not None
            and self.axes is None
            and not torch.is_grad_enabled()
            and is_channels_last(numbers[0])
        )

    @property
    def box(self) -> Box:
        """Lower and upper end."""
        if self.ends is not None:
            return self.ends
        middle, radius = self.middle_and_radius
        return middle - radius, middle + radius

    @property
    def middle_and_radius(self) -> Box:
        """Middle of the box, and half its width."""
        if self.middle is not None:
            return self.middle
        lower, upper = self.box
        middle = torch.lerp(lower, upper, 0.5)
        return middle, upper - middle


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
    kept = _interval_values(graph, ball, keep, tighten)
    return {i: bounds.box for i, bounds in kept.items()}


def ibp_margins(graph: LayerGraph, ball: InputBall, forms: Tensor) -> Tensor:
    """Return interval lower bounds (b, k) of linear forms on the logits.

    The forms are merged into the layers after the last nonlinear one, which is tighter than the
    box of the logits.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        forms: Coefficients (b, k, classes) of the forms.
    """
    if ball.center.ndim == 4 and not torch.is_grad_enabled() and graph.is_faster_channels_last:
        ball = ball.channels_last()
    values = _interval_values(graph, ball, graph.last_nonlinear)
    last = graph.nodes[-1]
    # What a pooling or an activation returned for the last layer alone is bounded in one step.
    is_flat = len(graph.nodes[last.inputs[0]].shape) == 1
    if isinstance(last.layer, LinearLayer) and is_flat and last.inputs[0] in values:
        return _margins_of_linear(last.layer, values[last.inputs[0]], forms)

    stops = {i: bounds.box for i, bounds in values.items()}
    return backward_bounds(graph, ball, len(graph.nodes) - 1, DenseForms(forms), stops=stops)


def _margins_of_linear(layer: LinearLayer, bounds: _ValueBounds, forms: Tensor) -> Tensor:
    """Return the least values (b, k) of ``forms`` on the logits, which ``layer`` computes from
    numbers within ``bounds``."""
    middle, radius = bounds.middle_and_radius
    rows = forms @ layer.weight
    rows = rows.abs() if torch.is_grad_enabled() else rows.abs_()
    return form_values(forms, layer.value(middle)) - form_values(rows, radius)


def _interval_values(
    graph: LayerGraph, ball: InputBall, keep: Container[int], tighten: Tighten | None = None
) -> dict[int, _ValueBounds]:
    """Return the bounds of the nodes in ``keep``; see :func:`interval_boxes`."""
    axes = torch.full_like(ball.center, ball.eps) if ball.norm == "l2" else None
    values = {0: _ValueBounds(middle=ball.middle_and_radius(), center=ball.center, axes=axes)}
    overwritten = set[int]()
    if not torch.is_grad_enabled():
        overwritten = {i for i in graph.read_once if i not in keep}
    for number, node in enumerate(graph.nodes[1:], 1):
        source = node.inputs[0]
        if tighten is not None and isinstance(node.layer, RelaxedLayer):
            values[source] = _ValueBounds(tighten(source, values[source].box))

        inputs = [values[i] for i in node.inputs]
        if number in graph.unflattened and number not in keep and inputs[0].is_channels_last:
            values[number] = _ValueBounds(inputs[0].ends, inputs[0].middle, is_map=True)
        else:
            own = source in overwritten and node.shape == graph.nodes[source].shape
            values[number] = _propagate(node.layer, inputs, own=own)
        for i in graph.done_after[number]:
            if i not in keep:
                del values[i]

    return values


def _propagate(layer: Layer, inputs: list[_ValueBounds], *, own: bool = False) -> _ValueBounds:
    """Return the bounds of ``layer``'s value over ``inputs``.

    Nothing is written in place but with ``own``, where nothing else reads the memory of the input:
    else a slice, reshape or permute of it may be read later.
    """
    source = inputs[0]
    if isinstance(layer, RelaxedLayer):
        middle = None if source.middle is None else layer.middle_range(*source.middle, own=own)
        if middle is not None:
            return _ValueBounds(middle=middle)
        return _ValueBounds(layer.value_range(*source.box))
    if isinstance(layer, AddLayer | ConcatLayer):
        pairs = zip(*(bounds.middle_and_radius for bounds in inputs), strict=True)
        center, radius = (layer.value(*parts) for parts in pairs)
        return _ValueBounds(middle=(center, radius))

    if not isinstance(layer, AffineLayer):
        raise ModelError(
            f"layer {type(layer).__name__}", "has no interval rule", "Fold the graph first"
        )
    center, radius = source.middle_and_radius
    if source.is_map and isinstance(layer, LinearLayer):
        return _ValueBounds(middle=layer.map_range(center, radius))
    if own and isinstance(layer, ScaleLayer):
        bounds = _ValueBounds(middle=layer.overwritten(center, radius))
    else:
        bounds = _ValueBounds(middle=(layer.value(center), layer.spread(radius)))
    return _ellipsoid(layer, bounds, source)


def _ellipsoid(layer: AffineLayer, bounds: _ValueBounds, source: _ValueBounds) -> _ValueBounds:
    """Intersect ``bounds`` with the exact box of an ellipsoid, for the first layers after an l_2
    ball."""
    if source.axes is None or source.center is None:
        return bounds
    if layer.keeps_axes:
        center, axes = layer.value(source.center), layer.spread(source.axes)
        return replace(bounds, center=center, axes=axes)

    radius = layer.squared_spread(source.axes)
    if radius is None:
        return bounds

    center, (lower, upper) = layer.value(source.center), bounds.box
    return _ValueBounds(
        (torch.maximum(lower, center - radius), torch.minimum(upper, center + radius))
    )
