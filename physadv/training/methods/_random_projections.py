"""Boxes of a relaxed network from few random projections (Wong et al. 2018), at the cost of a few
passes.

With the chord's slope on both sides of every ReLU the network's value is a center plus terms that
each range over [-1, 1]: one for every input number and every unstable ReLU. A neuron's largest
change is the l_1 norm of its coefficients. With Cauchy numbers in place of the terms a neuron's
value is Cauchy distributed with that norm as scale, so the median of a few such runs estimates it,
for all neurons at once. Estimates are no bounds: certify without them.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.layers import AddLayer, AffineLayer, ReluLayer
from physadv.certification.bounds.relaxations import Box, Lines, Relaxation, relu_lines
from physadv.core.errors import ModelError

LARGEST = 1e4
"""Cauchy draws are clipped here, so that a float sum keeps its small terms."""


def sketched_lines(
    graph: LayerGraph, ball: InputBall, projections: int, generator: Generator
) -> dict[int, Relaxation]:
    """Return parallel lines of every ReLU from estimated boxes of its input; differentiable.

    Args:
        graph: Folded graph of the network.
        ball: Inputs, an l_inf ball.
        projections: Number of runs; more give a better estimate.
        generator: Source of the Cauchy draws.

    Raises:
        ModelError: A layer cannot be relaxed.
    """
    low, high = ball.box()
    centers = {0: (low + high) / 2}
    runs = {0: _noise((high - low) / 2, projections, generator)}
    lines: dict[int, Relaxation] = {}
    for number, node in enumerate(graph.nodes[1:], 1):
        source = node.inputs[0]
        if isinstance(node.layer, ReluLayer):
            relaxed: Lines = relu_lines(_box(centers[source], runs[source]), parallel=True)
            lines[number] = relaxed
            half = relaxed.upper_shift / 2
            centers[number] = relaxed.upper * centers[source] + half
            runs[number] = relaxed.upper[:, None] * runs[source] + _noise(
                half, projections, generator
            )
        elif isinstance(node.layer, AddLayer):
            centers[number] = centers[source] + centers[node.inputs[1]]
            runs[number] = runs[source] + runs[node.inputs[1]]
        elif isinstance(node.layer, AffineLayer):
            centers[number] = node.layer.value(centers[source])
            flat = node.layer.value(runs[source].flatten(0, 1)) - node.layer.constant(
                low, graph.nodes[source].shape
            )
            runs[number] = flat.view(*runs[source].shape[:2], *flat.shape[1:])
        else:
            raise ModelError(
                f"layer {type(node.layer).__name__}", "cannot be relaxed", "Fold the graph first"
            )

    return lines


def _noise(radius: Tensor, projections: int, generator: Generator) -> Tensor:
    """Return (b, projections, *shape): Cauchy numbers, the same for every image, times ``radius``
    (b, *shape)."""
    draws = torch.empty((1, projections, *radius.shape[1:])).cauchy_(generator=generator)
    return radius[:, None] * draws.clamp_(-LARGEST, LARGEST).to(radius)


def _box(center: Tensor, runs: Tensor) -> Box:
    reach = runs.abs().median(1).values
    return center - reach, center + reach
