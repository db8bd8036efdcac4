"""A network as a graph of layers that bounds can be propagated through.

The parameters in the graph are the module's own tensors, so bounds are differentiable in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from physadv.certification.bounds.layers import (
    AddLayer,
    BatchNormLayer,
    ConvLayer,
    InputLayer,
    Layer,
    LinearLayer,
    NonnegativeMap,
    RelaxedLayer,
    ReluLayer,
    ReshapeLayer,
    ScaleLayer,
    merge_scale,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerNode:
    """A layer, the numbers of the nodes it reads, and the shape of its value without the batch."""

    layer: Layer
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True)
class LayerGraph:
    """Nodes in order of computation; node 0 is the input, the last one the logits.

    Attributes:
        nodes: The layers.
        traced: The same function as it was traced, before folding; None where it is unknown.
    """

    nodes: tuple[LayerNode, ...]
    traced: LayerGraph | None = field(default=None, compare=False, repr=False)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.nodes[-1].shape[0]

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of the graph's numbers; None where it has none."""
        values = (getattr(n.layer, f.name) for n in self.nodes for f in fields(n.layer))
        numbers = (v for v in values if isinstance(v, Tensor) and v.is_floating_point())
        return next((v.dtype for v in numbers), None)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (b, classes) of ``images`` (b, *input shape)."""
        values = {0: images}
        for number, node in enumerate(self.nodes[1:], 1):
            values[number] = node.layer.value(*(values[i] for i in node.inputs))

            # Values are dropped after their last use, which bounds the memory.
            for i in self.done_after[number]:
                del values[i]
        return values[len(self.nodes) - 1]

    def folded(self, dtype: torch.dtype | None = None) -> LayerGraph:
        """Return the same function with batch normalization merged into the layer before it.

        Differentiable in the parameters; fold again after they changed. ``dtype`` is the type of
        the new graph's numbers; None keeps each layer's own.
        """
        return self.cast(dtype)._without_identity_scales()._with_merged_scales()

    def cast(
        self, dtype: torch.dtype | None, device: torch.device | str | None = None
    ) -> LayerGraph:
        """Return the graph with all its numbers in ``dtype`` and on ``device``; None changes
        nothing."""
        if dtype is None and device is None:
            return self
        return LayerGraph(
            tuple(replace(node, layer=_cast(node.layer, dtype, device)) for node in self.nodes)
        )

    def detached(self, dtype: torch.dtype | None = None) -> LayerGraph:
        """Return the graph in ``dtype`` with numbers that gradients do not reach."""

        def detach(layer: Layer) -> Layer:
            values = {f.name: getattr(layer, f.name) for f in fields(layer)}
            if not any(isinstance(v, Tensor) and v.requires_grad for v in values.values()):
                return layer
            own = {k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()}
            return type(layer)(**own)

        cast = self.cast(dtype)
        return LayerGraph(tuple(replace(node, layer=detach(node.layer)) for node in cast.nodes))

    def _without_identity_scales(self) -> LayerGraph:
        """Turn batch normalization into scales, and drop scales that change nothing.

        Nodes that read a dropped scale read its source instead. This comes before merging, which
        counts how many nodes read each value.
        """
        nodes: list[LayerNode] = []
        renamed: dict[int, int] = {}
        for number, node in enumerate(self.nodes):
            layer = node.layer
            if isinstance(layer, BatchNormLayer):
                layer = layer.scale(len(node.shape) + 1)

            inputs = tuple(renamed[i] for i in node.inputs)
            if isinstance(layer, ScaleLayer) and layer.is_identity:
                renamed[number] = inputs[0]
                continue

            renamed[number] = len(nodes)
            nodes.append(LayerNode(layer, inputs, node.shape))

        return LayerGraph(tuple(nodes))

    def _with_merged_scales(self) -> LayerGraph:
        """Merge each scale that alone reads an affine layer into that layer."""
        nodes: list[LayerNode] = []
        renamed: dict[int, int] = {}
        readers = self._readers()
        for number, node in enumerate(self.nodes):
            inputs = tuple(renamed[i] for i in node.inputs)
            if isinstance(node.layer, ScaleLayer) and readers[node.inputs[0]] == 1:
                fused = merge_scale(nodes[inputs[0]].layer, node.layer)
                if fused is not None:
                    nodes[inputs[0]] = replace(nodes[inputs[0]], layer=fused)
                    renamed[number] = inputs[0]
                    continue

            renamed[number] = len(nodes)
            nodes.append(LayerNode(node.layer, inputs, node.shape))

        return LayerGraph(tuple(nodes))

    @cached_property
    def last_readers(self) -> list[int]:
        """For each node the last node that reads it, or itself where none does."""
        last = list(range(len(self.nodes)))
        for number, node in enumerate(self.nodes):
            for i in node.inputs:
                last[i] = number
        return last

    @cached_property
    def done_after(self) -> list[tuple[int, ...]]:
        """For each node the other nodes that nothing reads after it."""
        done: list[tuple[int, ...]] = [()] * len(self.nodes)
        for number, reader in enumerate(self.last_readers):
            if reader != number:
                done[reader] = (*done[reader], number)
        return done

    @cached_property
    def last_nonlinear(self) -> frozenset[int]:
        """The nodes at which interval margins end: nonlinear layers followed by affine ones
        and sums alone.

        Where a global pooling follows such a layer the pooling is returned in its place: its box is
        as tight, and smaller by the size of a feature map.
        """
        stops, pending = set[int](), [len(self.nodes) - 1]
        while pending:
            number = pending.pop()
            if isinstance(self.nodes[number].layer, RelaxedLayer) or self._pools(number):
                stops.add(number)
            else:
                pending.extend(self.nodes[number].inputs)

        return frozenset(stops)

    @cached_property
    def is_faster_channels_last(self) -> bool:
        """Whether convolutions are there that are faster on values whose channels lie side by side,
        as measured: those of maps with 4,096 numbers an image or more."""
        maps = [node.shape for node in self.nodes if isinstance(node.layer, ConvLayer)]
        return any(prod(shape) >= 4096 for shape in maps)

    @cached_property
    def unflattened(self) -> frozenset[int]:
        """The nodes that flatten a map (c, h, w) for linear layers alone, which can read the map
        itself."""
        readers = self._readers()
        linear = [n.inputs[0] for n in self.nodes if isinstance(n.layer, LinearLayer)]
        return frozenset(
            i
            for i in set(linear)
            if isinstance(self.nodes[i].layer, ReshapeLayer)
            and linear.count(i) == readers[i]
            and len(self.nodes[i].shape) == 1
            and len(self.nodes[self.nodes[i].inputs[0]].shape) == 3
        )

    @cached_property
    def read_once(self) -> frozenset[int]:
        """The boxes of the input and of convolutions, linear layers and sums, which share no memory
        with another, that one layer reads."""
        fresh = (AddLayer, ConvLayer, InputLayer, LinearLayer)
        readers = self._readers()
        nodes = enumerate(self.nodes)
        return frozenset(i for i, n in nodes if isinstance(n.layer, fresh) and readers[i] == 1)

    def _pools(self, number: int) -> bool:
        """Return whether the node is the mean of each channel of a nonlinear layer's map: no input
        reaches two outputs."""
        node = self.nodes[number]
        if not isinstance(node.layer, NonnegativeMap):
            return False
        source = self.nodes[node.inputs[0]]
        return (
            isinstance(source.layer, RelaxedLayer)
            and len(source.shape) == 3
            and prod(node.shape) == source.shape[0]
        )

    def _readers(self) -> list[int]:
        """Return for each node how many layers read it."""
        counts = [0] * len(self.nodes)
        for node in self.nodes:
            for i in node.inputs:
                counts[i] += 1
        return counts


def relu_nodes(graph: LayerGraph) -> Iterator[int]:
    """Return the numbers of the ReLU nodes of ``graph``, in order."""
    return (i for i, node in enumerate(graph.nodes) if isinstance(node.layer, ReluLayer))


def relaxed_nodes(graph: LayerGraph) -> dict[int, RelaxedLayer]:
    """Return the nonlinear layers of ``graph`` by node number, in order."""
    layers = ((i, node.layer) for i, node in enumerate(graph.nodes))
    return {i: layer for i, layer in layers if isinstance(layer, RelaxedLayer)}


def _cast(
    layer: Layer, dtype: torch.dtype | None, device: torch.device | str | None = None
) -> Layer:
    values: dict[str, Any] = {f.name: getattr(layer, f.name) for f in fields(layer)}

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

    return type(layer)(**{name: moved(value) for name, value in values.items()})
