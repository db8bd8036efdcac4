"""Tracing of a network into a graph that has been compared with it."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from physadv.certification.bounds.graph import LayerGraph, Shape
from physadv.certification.bounds.graph_check import (
    check_graph,
    copied_in_double,
    evaluated,
    images_in_ball,
    number_of,
    probe_images,
)
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.operation_recorder import record_layers
from physadv.certification.bounds.rounding import rounding_of_margins
from physadv.core.errors import ModelError
from physadv.core.random_streams import generator
from physadv.core.tensors import device_of, has_float64

_BATCH = 7
"""Batch size of the traced pass; no layer has this first size by accident."""
_PROBES = 78
"""Number of test images on which a graph is compared with its network."""
_SINGLE, _DOUBLE = 1e-4, 1e-9
"""Largest differences of logits in float32 and in float64, as shares of the largest logit."""


def trace_graph(net: nn.Module, shape: Shape, *, least_outputs: int = 2) -> LayerGraph:
    """Return the graph of a network in eval mode, not folded yet.

    Modes, buffers, gradients and random generators of the caller stay as they are.

    Args:
        net: Module that maps images in [0, 1] to logits (b, classes).
        shape: Shape (c, h, w) of an image.
        least_outputs: Fewest logits that are accepted.

    Raises:
        ModelError: Bounds cannot pass an operation (the first one is named), the output is no
            logits, the network is random, keeps a state or fails on such images, or a branch
            depends on the values of the input.
    """
    own = number_of(net, torch.zeros(()))
    _refuse_low_precision(net, own.dtype, own.device.type)
    graph = _recorded(net, shape)
    if len(graph.nodes[-1].shape) != 1:
        raise ModelError(
            f"output of shape {(_BATCH, *graph.nodes[-1].shape)} for {_BATCH} images",
            "bounds need logits (b, classes)",
            "Wrap the model so that it returns these",
        )
    if graph.classes < least_outputs:
        raise ModelError(
            "a single logit",
            "bounds need one a class, at least two",
            "Return torch.cat([-logit, logit], 1) for a classifier of two classes",
        )
    check_graph(graph, net, probe_images(shape, count=14), tolerance=_SINGLE)
    return graph


def folded_graph(
    net: nn.Module,
    shape: Shape,
    dtype: torch.dtype | None = None,
    *,
    ball: InputBall | None = None,
    least_outputs: int = 2,
) -> LayerGraph:
    """Trace a network, fold the graph, and compare the result with the network itself.

    Args:
        net: Module that maps images to logits (b, classes); it is not changed.
        shape: Shape (c, h, w) of an image, values in [0, 1].
        dtype: Type of the graph's numbers; None keeps the network's own.
        ball: Inputs that will be bounded over, whose points are compared too.
        least_outputs: Fewest logits that are accepted; classifiers have two.

    Returns:
        The graph that bounds are computed on. It has been compared with the network on 78 images
        within and far outside [0, 1] and on points of ``ball``, after its last transformation:
        once folded in float64 beside a float64 copy of the network (where the network runs in
        float64), and once as it is returned.

    Raises:
        ModelError: Bounds cannot pass an operation, or the graph differs from the network.

    Example:
        >>> import torch
        >>> from physadv.certification.bounds.tracing import folded_graph
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2),
        ...                           torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 5))
        >>> [type(node.layer).__name__ for node in folded_graph(net, (3, 4, 4)).nodes]
        ['InputLayer', 'ConvLayer', 'ReluLayer', 'ReshapeLayer', 'LinearLayer']
    """
    net = _where_float64_is(net)
    graph = trace_graph(net, shape, least_outputs=least_outputs)
    folded = graph.folded(dtype)
    probes = probe_images(shape, _PROBES)
    if ball is not None:
        probes = torch.cat([probes, images_in_ball(ball).to(probes)])

    check_graph(folded, net, probes, tolerance=_SINGLE)
    _check_in_double(graph, net, probes)
    return replace(folded, traced=graph)


def _where_float64_is(net: nn.Module) -> nn.Module:
    """``net``, or a copy on the CPU where its own device has no float64."""
    home = device_of(net)
    return net if home is None or has_float64(home) else copy.deepcopy(net).cpu()


def _check_in_double(graph: LayerGraph, net: nn.Module, probes: Tensor) -> None:
    """Compare a traced graph, folded, with its network in float64.

    A network that fixes its own type is compared as it is, up to its rounding.
    """
    double = copied_in_double(net, probes[:1])
    again = None if double is None else _recorded_or_none(double, graph.nodes[0].shape)
    if double is None or again is None:
        rounding = rounding_of_margins(graph, probes.to(number_of(net, probes)))
        check_graph(graph.folded(torch.float64), net, probes, tolerance=rounding)
        return

    if _structure(again) != _structure(graph):
        raise ModelError(
            f"{type(net).__name__} takes other steps in float64 than in float32",
            "a certificate holds for a fixed network",
            "Remove what depends on the type or on a state, or use --method smoothing",
        )
    check_graph(again.folded(), double, probes.double(), tolerance=_DOUBLE)


def _recorded_or_none(net: nn.Module, shape: Shape) -> LayerGraph | None:
    """Return the graph of one pass; None where ``net``, a copy in float64, casts to other types."""
    try:
        return _recorded(net, shape)
    except ModelError:
        return None


def _recorded(net: nn.Module, shape: Shape) -> LayerGraph:
    """Return the graph of one pass of ``net`` in eval mode, compared with nothing."""
    images = torch.rand((_BATCH, *shape), generator=generator(0, "bounds", "trace"))
    images = images.to(number_of(net, images))
    with evaluated(net), torch.no_grad():
        return record_layers(net, images)


def _structure(graph: LayerGraph) -> list[tuple[type, tuple[int, ...], Shape]]:
    """Return kind, inputs and shape of every node, without its numbers."""
    return [(type(node.layer), node.inputs, node.shape) for node in graph.nodes]


def _refuse_low_precision(net: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Raise ModelError where the network's rounding is that of a type shorter than float32."""
    if dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"{type(net).__name__} computes in {dtype}",
            "its rounding exceeds the tolerance of a bound; float32 and float64 are supported",
            "Convert it with .float(), or use --method smoothing",
        )
    if torch.is_autocast_enabled(device):
        raise ModelError(
            "automatic mixed precision (torch.autocast) is on",
            "it rounds to a shorter type; bounds need float32 or float64",
            "Call this outside of autocast",
        )
