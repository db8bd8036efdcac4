"""CROWN (Zhang et al. 2018) and CROWN-IBP (Zhang et al. 2020): nonlinear layers relaxed to lines,
bounds by one backward pass.

CROWN-IBP takes the boxes of their inputs from intervals. Full CROWN tightens every input
that intervals leave undecided by a backward pass of its own, and propagates the tighter boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.graph import LayerGraph, relaxed_nodes
from physadv.certification.bounds.ibp import interval_boxes
from physadv.certification.bounds.input_ball import InputBall, flattened
from physadv.certification.bounds.layers import ConvLayer
from physadv.certification.bounds.linear_forms import (
    DenseForms,
    WindowForms,
    keeps_windows,
)
from physadv.certification.bounds.relaxations import Box, Relaxation

NUMBERS_AT_ONCE = 1 << 23
"""Largest number of coefficients of one layer's forms in a backward pass (32 MiB in float32)."""


def crown_ibp_margins(graph: LayerGraph, ball: InputBall, forms: Tensor) -> Tensor:
    """Return CROWN-IBP lower bounds (b, k) of linear forms on the logits, with interval boxes at
    the nonlinear layers.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        forms: Coefficients (b, k, classes) of the forms.
    """
    layers = relaxed_nodes(graph)
    sources = {i: graph.nodes[i].inputs[0] for i in layers}
    boxes = interval_boxes(graph, ball, set(sources.values()))
    relaxed = {i: layer.relax(boxes[sources[i]]) for i, layer in layers.items()}
    return backward_bounds(graph, ball, len(graph.nodes) - 1, DenseForms(forms), relaxed)


def crown_margins(graph: LayerGraph, ball: InputBall, forms: Tensor) -> Tensor:
    """Return full CROWN lower bounds (b, k) of linear forms on the logits.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        forms: Coefficients (b, k, classes) of the forms.
    """
    return tightened_margins(graph, ball, forms)


def tightened_margins(
    graph: LayerGraph, ball: InputBall, forms: Tensor, *, parallel: bool = False
) -> Tensor:
    """Return lower bounds (b, k) by backward passes at every layer; never looser than intervals
    alone.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        forms: Coefficients (b, k, classes) of the forms.
        parallel: Whether both lines of a ReLU have one slope.
    """
    boxes, relaxed = tightened_boxes(graph, ball, parallel=parallel)

    # Either bound is valid; keep the larger one for each form.
    last = len(graph.nodes) - 1
    by_lines = backward_bounds(graph, ball, last, DenseForms(forms), relaxed)
    return torch.maximum(
        by_lines, backward_bounds(graph, ball, last, DenseForms(forms), stops=boxes)
    )


def tightened_boxes(
    graph: LayerGraph, ball: InputBall, *, parallel: bool = False
) -> tuple[dict[int, Box], dict[int, Relaxation]]:
    """Return boxes of values by node number, and the relaxations over them, by backward passes at
    every layer.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        parallel: Whether both lines of a ReLU have one slope.

    Returns:
        Boxes of the inputs of nonlinear layers and of the nodes at which interval margins end; and
        the relaxations by node number.
    """
    relaxed: dict[int, Relaxation] = {}
    layers, readers = relaxed_nodes(graph), dict[int, list[int]]()
    for i in layers:
        readers.setdefault(graph.nodes[i].inputs[0], []).append(i)
    kept: dict[int, Box] = {}

    def tighten(number: int, box: Box) -> Box:
        if number in kept:  # read by another nonlinear layer before
            return kept[number]
        open_ = torch.stack([layers[i].undecided(box) for i in readers[number]]).any(0)
        kept[number] = tighten_entries(graph, ball, number, box, relaxed, open_) if relaxed else box
        relaxed.update(
            {i: layers[i].relax(kept[number], parallel=parallel) for i in readers[number]}
        )
        return kept[number]

    boxes = interval_boxes(graph, ball, graph.last_nonlinear, tighten)
    return {**boxes, **kept}, relaxed


def tighten_entries(
    graph: LayerGraph,
    ball: InputBall,
    number: int,
    box: Box,
    relaxed: Mapping[int, Relaxation],
    entries: Tensor,
) -> Box:
    """Return a node's box, tightened by backward passes at some of its entries.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        number: The node.
        box: Its box so far, ends (b, *shape).
        relaxed: Relaxations of the nonlinear layers before it.
        entries: Entries (b, *shape) to tighten, bool.
    """
    unstable = flattened(entries)
    most = int(unstable.sum(1).max())
    if most == 0:
        return box

    # Windows of all neurons can cost less than dense forms of the unstable ones alone.
    shape = graph.nodes[number].shape
    dense = max(_size(node.shape) for node in graph.nodes[: number + 1])
    windowed = _widest_window(graph, number) if len(shape) == 3 else dense
    if _size(shape) * windowed < most * dense:
        step = max(1, NUMBERS_AT_ONCE // (2 * len(unstable) * shape[1] * shape[2] * windowed))
        return _tighten_feature_map(graph, ball, number, box, relaxed, step)

    step = max(1, NUMBERS_AT_ONCE // (2 * len(unstable) * dense))
    return _tighten_selected(graph, ball, number, box, relaxed, unstable, most, step)


def _tighten_feature_map(
    graph: LayerGraph,
    ball: InputBall,
    number: int,
    box: Box,
    relaxed: Mapping[int, Relaxation],
    step: int,
) -> Box:
    """Tighten all neurons of a feature map, ``step`` channels at a time, by window forms."""
    shape = graph.nodes[number].shape
    lows, highs = [], []
    for first in range(0, shape[0], step):
        channels = torch.arange(first, min(first + step, shape[0]), device=box[0].device)
        neurons = WindowForms.neurons(channels, shape, box[0])
        both = replace(neurons, cut=torch.cat([neurons.cut, -neurons.cut], 2))

        bound = backward_bounds(graph, ball, number, both, relaxed)
        bound = bound.view(len(bound), shape[1], shape[2], -1).permute(0, 3, 1, 2)
        lows.append(bound[:, : len(channels)])
        highs.append(-bound[:, len(channels) :])

    return torch.maximum(box[0], torch.cat(lows, 1)), torch.minimum(box[1], torch.cat(highs, 1))


def _tighten_selected(
    graph: LayerGraph,
    ball: InputBall,
    number: int,
    box: Box,
    relaxed: Mapping[int, Relaxation],
    unstable: Tensor,
    most: int,
    step: int,
) -> Box:
    """Tighten each image's own unstable neurons (b, n), ``step`` at a time, by dense forms."""
    low, high = flattened(box[0]), flattened(box[1])
    # Images with fewer unstable neurons than the most are filled up with stable ones.
    neurons = torch.topk(unstable.to(torch.int8), most, dim=1, sorted=False).indices

    for first in range(0, most, step):
        piece = neurons[:, first : first + step]
        forms = torch.zeros((*piece.shape, low.shape[1]), dtype=low.dtype, device=low.device)
        forms = forms.scatter(2, piece[..., None], 1.0).view(
            *piece.shape, *graph.nodes[number].shape
        )

        bound = backward_bounds(
            graph, ball, number, DenseForms(torch.cat([forms, -forms], 1)), relaxed
        )
        below, above = bound[:, : piece.shape[1]], -bound[:, piece.shape[1] :]
        low = low.scatter(1, piece, torch.maximum(low.gather(1, piece), below))
        high = high.scatter(1, piece, torch.minimum(high.gather(1, piece), above))

    return low.view_as(box[0]), high.view_as(box[1])


def _widest_window(graph: LayerGraph, number: int) -> int:
    """Return the largest number of coefficients in one neuron's window between node ``number`` and
    the input."""
    sizes = {number: 1}
    widest = 1
    for i in range(number, -1, -1):
        size = sizes.pop(i, None)
        if size is None:
            continue

        node = graph.nodes[i]
        area = _size(node.shape[1:]) if len(node.shape) == 3 else 1
        widest = max(widest, node.shape[0] * min(size * size, area))

        if isinstance(node.layer, ConvLayer) and keeps_windows(node.layer):
            size = (size - 1) * node.layer.stride[0] + node.layer.weight.shape[2]
        elif not keeps_windows(node.layer):
            size = 1 << 15  # dense from here on

        for source in node.inputs:
            sizes[source] = max(sizes.get(source, 0), size)
    return widest


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
