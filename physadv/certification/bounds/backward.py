"""Backward bound propagation: linear functionals carried from a node back to the input ball (Zhang
et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.layers import (
    AddLayer,
    AffineLayer,
    ConcatLayer,
    InputLayer,
    NonnegativeMap,
    RelaxedLayer,
)
from physadv.certification.bounds.linear_forms import LinearForms
from physadv.certification.bounds.relaxations import Box, Relaxation
from physadv.core.errors import ModelError


def backward_bounds(
    graph: LayerGraph,
    ball: InputBall,
    start: int,
    forms: LinearForms,
    relaxed: Mapping[int, Relaxation] | None = None,
    *,
    stops: Mapping[int, Box] | None = None,
    added: Mapping[int, tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Return lower bounds (b, k) over ``ball`` of linear forms on the value of one node.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        start: Number of the node that ``forms`` act on.
        forms: k linear forms an image on the value of that node.
        relaxed: Relaxations of the nonlinear layers by node number, which forms pass them by.
        stops: Boxes by node number, in place of ``relaxed``. Each form ends at the first of these
            nonlinear or pooling nodes on its way, at that node's box.
        added: By node number, places (n,) in the flattened value, and numbers (b, k, n) that are
            added there to the coefficients of the forms on that node.

    Returns:
        Lower bounds (b, k).

    Raises:
        ModelError: A layer has no backward rule.
    """
    bound = torch.zeros((), dtype=ball.center.dtype, device=ball.center.device)
    pending = {start: forms}

    for number in range(start, -1, -1):
        form = pending.pop(number, None)
        if form is None:
            continue
        if added is not None and number in added:
            form = form.dense().with_added(*added[number])

        node = graph.nodes[number]
        layer = node.layer
        if isinstance(layer, InputLayer):
            bound = bound + form.minimum(ball)
        elif (
            stops is not None
            and number in stops
            and isinstance(layer, RelaxedLayer | NonnegativeMap)
        ):
            bound = bound + form.box_minimum(stops[number])
        elif isinstance(layer, RelaxedLayer) and relaxed is not None:
            form, constant = form.past(relaxed[number])
            bound = bound + constant
            _add(pending, node.inputs[0], form)
        elif isinstance(layer, AddLayer):
            for source in node.inputs:
                _add(pending, source, form)
        elif isinstance(layer, ConcatLayer):
            begin = 0
            for source in node.inputs:
                shape = graph.nodes[source].shape
                _add(pending, source, form.part(layer.dim, begin, shape))
                begin += shape[layer.dim]
        elif isinstance(layer, AffineLayer):
            shape = graph.nodes[node.inputs[0]].shape
            bound = bound + form.dot(layer.constant(ball.center, shape))
            _add(pending, node.inputs[0], form.back(layer, shape))
        else:
            raise ModelError(
                f"layer {type(layer).__name__}", "has no backward rule", "Fold the graph first"
            )

    return bound


def _add(pending: dict[int, LinearForms], number: int, form: LinearForms) -> None:
    pending[number] = pending[number].plus(form) if number in pending else form
