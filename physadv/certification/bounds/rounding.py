"""Rounding of a network in floating point: by how much its logits may differ from exact ones.

A bound is about the network in exact arithmetic; what runs is the network in float32. Each layer's
value is changed by the size of its own rounding errors, up or down at random, and the change is
carried on to the logits in float64 (stochastic arithmetic, Vignes 1993). The size of a sum's error
grows with the root of its length (Higham and Mary 2019) and with the magnitudes that are added,
not with their sum: so cancellation of large numbers shows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physadv.certification.bounds.activations import SmoothLayer
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.layers import (
    AddLayer,
    BatchNormLayer,
    ConvLayer,
    Layer,
    LinearLayer,
    NonnegativeMap,
    ScaleLayer,
)
from physadv.core.random_streams import generator

_DRAWS = 3
"""Random patterns of rounding that are tried."""
_SAFETY = 8.0
"""Factor by which the largest change seen is enlarged."""
_TF32 = 2.0**-11
"""Relative rounding of a product on a GPU's tensor cores."""


@torch.no_grad()
def rounding_of_margins(graph: LayerGraph, images: Tensor, *, unit: float | None = None) -> Tensor:
    """Return (b,) sizes that the rounding of a margin, a difference of two logits, stays below.

    It is an estimate with a factor of safety, not a proof.

    Args:
        graph: Graph of the network, as traced or folded.
        images: Images (b, c, h, w), in the type the network runs in, which the result has too.
        unit: Relative rounding of one operation; None stands for :func:`rounding_unit` of them.
    """
    unit = rounding_unit(images) if unit is None else unit
    home = images.device
    if home.type == "mps":  # has no float64
        home = torch.device("cpu")
    exact = graph.cast(torch.float64, home)
    points = images.to(home).double()
    largest = torch.zeros(len(images), dtype=torch.float64, device=home)
    logits = exact(points)
    for number in range(_DRAWS):
        draw = generator(0, "bounds", "rounding", number)
        change = (_perturbed(exact, points, unit, draw) - logits).abs().amax(1)
        largest = torch.maximum(largest, torch.nan_to_num(change, nan=torch.inf))
    return (2 * _SAFETY * largest).to(images)


def rounding_unit(images: Tensor) -> float:
    """Return the relative rounding of one operation in the type and on the device of ``images``."""
    cuda = images.device.type == "cuda" and images.dtype == torch.float32
    if cuda and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32):
        return _TF32
    return torch.finfo(images.dtype).eps / 2


def _perturbed(graph: LayerGraph, images: Tensor, unit: float, draw: torch.Generator) -> Tensor:
    """Return the logits of ``graph`` where every layer's value is off by its rounding."""
    values = {0: images}
    for number, node in enumerate(graph.nodes[1:], 1):
        inputs = [values[i] for i in node.inputs]
        value = node.layer.value(*inputs)
        size = _error_size(node.layer, inputs)
        if size is not None:
            signs = torch.randint(0, 2, value.shape, generator=draw).to(value) * 2 - 1
            value = value + unit * signs * size
        values[number] = value
    return values[len(graph.nodes) - 1]


def _error_size(layer: Layer, inputs: list[Tensor]) -> Tensor | None:
    """Return the size of a layer's rounding errors, in units of the relative rounding; None where
    it does not round."""
    sizes = [x.abs() for x in inputs]
    if isinstance(layer, LinearLayer | ConvLayer):
        terms = layer.weight[0].numel() + 1
        added = layer.spread(sizes[0])
        if layer.bias is not None:
            trailing = added.ndim - 2 if isinstance(layer, ConvLayer) else 0
            added = added + layer.bias.abs().view(-1, *[1] * trailing)
        return added * math.sqrt(terms)
    if isinstance(layer, BatchNormLayer):
        layer, added = layer.scale(sizes[0].ndim), sizes[0]
        return 4 * (added * layer.factor.abs() + layer.shift.abs())
    if isinstance(layer, ScaleLayer):
        return 2 * (sizes[0] * layer.factor.abs() + layer.shift.abs())
    if isinstance(layer, NonnegativeMap):
        return 8 * layer.spread(sizes[0])
    if isinstance(layer, SmoothLayer):
        return 4 * (layer.value(inputs[0]).abs() + sizes[0] * max(map(abs, layer.slopes)))
    if isinstance(layer, AddLayer):
        return sizes[0] + sizes[1]
    return None
