"""Short interval bound training (Shi et al. 2021): initial weights, batch statistics,
regularizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import pi, sqrt

import torch
from torch import Generator, Tensor, nn

from physadv.certification.bounds.graph import LayerGraph, LayerNode
from physadv.certification.bounds.layers import BatchNormLayer
from physadv.certification.bounds.relaxations import Box
from physadv.core.process_group import ProcessGroup
from physadv.training.batch_statistics import batch_moments, update_running_moments
from physadv.training.methods.base import TrainingPosition

MOMENTUM = 0.1


@torch.no_grad()
def initialize_for_ibp(net: nn.Module, generator: Generator) -> None:
    """Initialize ``net`` with weights N(0, 2 pi / n^2) for n inputs a neuron and zero biases, drawn
    from ``generator``.

    Then a layer with its ReLU keeps the mean width of boxes.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            inputs = module.weight[0].numel()
            nn.init.normal_(module.weight, std=sqrt(2 * pi) / inputs, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def set_batch_statistics(
    graph: LayerGraph, images: Tensor, processes: ProcessGroup
) -> tuple[LayerGraph, Tensor]:
    """Return ``graph`` folded with the batch statistics of the ``images`` of all ``processes``, as
    in training, and its logits.

    The stored statistics are updated as a forward pass in train mode updates them.
    """
    values: dict[int, Tensor] = {0: images}
    nodes: list[LayerNode] = [graph.nodes[0]]
    for number, node in enumerate(graph.nodes[1:], 1):
        if isinstance(node.layer, BatchNormLayer):
            node = replace(node, layer=_by_batch(node.layer, values[node.inputs[0]], processes))
        nodes.append(node)
        values[number] = node.layer.value(*(values[i] for i in node.inputs))
    return LayerGraph(tuple(nodes)).folded(), values[len(nodes) - 1]


def _by_batch(layer: BatchNormLayer, x: Tensor, processes: ProcessGroup) -> BatchNormLayer:
    mean, var, count = batch_moments(x, processes)
    update_running_moments(layer.mean, layer.var, mean, var, count, MOMENTUM)
    return replace(layer, mean=mean, var=var)


def tightness_loss(
    first: Box, relus: Sequence[Box], at: TrainingPosition, tolerance: float = 0.5
) -> Tensor:
    """Return how much wider than 1 / ``tolerance`` times the input's box ``first`` the boxes before
    the ReLUs (``relus``) are, in the mean over the batch at ``at``; 0 where none is."""
    ground = at.mean(first[1] - first[0])
    widths = [at.mean(high - low).clamp_min(1e-12) for low, high in relus]
    return torch.stack([(tolerance - ground / w).clamp_min(0) for w in widths]).sum() / (
        tolerance * len(widths)
    )


def balance_loss(relus: Sequence[Box], at: TrainingPosition, tolerance: float = 0.5) -> Tensor:
    """Return how uneven the box centers of ``relus`` are between surely active and surely inactive
    ReLUs, over the batch at ``at``.

    Mean and variance count where the smaller is below ``tolerance`` of the larger.
    """
    terms = []
    for low, high in relus:
        center = (low + high) / 2
        active, inactive = (low > 0).to(low), (high < 0).to(low)
        spread = (center - at.mean(center)).square()
        own = [
            (center * active).sum(),
            -(center * inactive).sum(),
            (spread * active).sum(),
            (spread * inactive).sum(),
        ]
        sums = at.processes.total(torch.stack(own))
        terms += [_evenness(a, b, tolerance) for a, b in (sums[:2], sums[2:])]
    return torch.stack(terms).sum() / (tolerance * len(relus))


def _evenness(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    """Return 0 where the smaller number is at least ``tolerance`` of the larger, or one of them is
    empty."""
    small, large = torch.minimum(a, b), torch.maximum(a, b)
    ratio = small / large.clamp_min(1e-12)
    return torch.where(small > 0, (tolerance - ratio).clamp_min(0), torch.zeros_like(ratio))
