"""Reading of the convolutions of an ONNX file: names and numbers, never an operation.

A file is a Protocol Buffers message whose layout has been fixed since ONNX 1.0. Only the weights of
convolutions and the shape of the input are needed of it, so these few fields are read here, within
the bounds of the file, and neither ``onnx`` nor the ``protobuf`` that it asks for is installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import ModelError
from physadv.core.reading import MAX_MODEL_BYTES, foreign_errors
from physadv.core.text import read_file
from physadv.models.protobuf import message_in, messages_in, number_in, numbers_in, text_in

_ANEW = "Fetch or export it anew"
_FLOAT_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
"""ONNX' numbers of the floating-point types, and NumPy's names for them."""
_IN_ANOTHER_FILE = 1
"""Value of a tensor's data_location that puts its numbers outside the file."""

# Numbers of the fields that are read, by the message that holds them.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATION, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_TENSOR = 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_NAME = 1, 2, 4, 8
_TENSOR_BYTES, _TENSOR_LOCATION = 9, 14
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE = 1, 2, 1, 2, 1, 1


@dataclass(frozen=True)
class OnnxConvolution:
    """One convolution of a graph.

    Attributes:
        weight: Weight (outputs, inputs / groups, h, w), float32.
        bias: Bias (outputs,), float32; zeros where the graph has none.
    """

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class OnnxGraph:
    """The part of an ONNX file that is read.

    Attributes:
        convolutions: The convolutions in the order in which they run.
        input_size: Height and width in px of the images that it takes; None where they are free.
    """

    convolutions: tuple[OnnxConvolution, ...]
    input_size: tuple[int, int] | None


def read_onnx(path: Path) -> OnnxGraph:
    """Read the convolutions and the input size of the ONNX file ``path``.

    Raises:
        ModelError: The file is damaged or no ONNX file, keeps its weights in another file, or has
            convolutions whose weights are computed, quantized or of another shape than (outputs,
            inputs / groups, h, w).
    """
    data = read_file(path, most_bytes=MAX_MODEL_BYTES, error=ModelError)
    with foreign_errors(f"{path}", ModelError, "not readable as an ONNX file", _ANEW):
        return _read_graph(message_in(memoryview(data), _MODEL_GRAPH))


def _read_graph(graph: memoryview) -> OnnxGraph:
    tensors = {text_in(t, _TENSOR_NAME): t for t in messages_in(graph, _GRAPH_INITIALIZER)}
    given = [v for v in messages_in(graph, _GRAPH_INPUT) if text_in(v, _VALUE_NAME) not in tensors]

    # Exporters write nodes in the order in which they run: each after those it depends on.
    convolutions = []
    numbers = 0
    for node in messages_in(graph, _GRAPH_NODE):
        operation = text_in(node, _NODE_OPERATION)
        inputs = [str(name, "utf-8") for name in messages_in(node, _NODE_INPUT)]
        if operation == "Conv":
            convolutions.append(_read_convolution(inputs, tensors))
            numbers += convolutions[-1].weight.numel()
            if numbers > len(graph):  # a number takes two bytes or more
                raise ValueError("its convolutions share their weights without end")
        elif operation == "Constant":
            value = message_in(message_in(node, _NODE_ATTRIBUTE), _ATTRIBUTE_TENSOR)
            tensors[text_in(node, _NODE_OUTPUT)] = value
        elif operation == "Identity" and inputs[:1] and inputs[0] in tensors:
            tensors[text_in(node, _NODE_OUTPUT)] = tensors[inputs[0]]
    return OnnxGraph(tuple(convolutions), _read_input_size(given))


def _read_convolution(inputs: Sequence[str], tensors: Mapping[str, memoryview]) -> OnnxConvolution:
    """The convolution of the node with these ``inputs``: image, weight and, if any, bias."""
    stored = []
    for name in inputs[1:]:
        if name not in tensors:
            raise ValueError(f"the weight {name[:40]!r} is not stored in it")
        stored.append(_read_tensor(tensors[name]))
    if not stored or stored[0].ndim != 4:
        raise ValueError("a convolution has no weight of four dimensions")

    weight = stored[0]
    bias = stored[1] if len(stored) > 1 else torch.zeros(len(weight))
    if bias.shape != weight.shape[:1]:
        raise ValueError("a bias does not fit its weight")
    return OnnxConvolution(weight, bias)


def _read_tensor(tensor: memoryview) -> Tensor:
    """A stored tensor of floating-point numbers, as float32."""
    if _IN_ANOTHER_FILE in numbers_in(tensor, _TENSOR_LOCATION):
        raise ValueError("its weights are in another file; save them inside")
    kind = number_in(tensor, _TENSOR_TYPE)
    if kind not in _FLOAT_TYPES:
        raise ValueError("its weights are quantized or whole numbers")

    # Numbers are stored as bytes, or one by one as float32.
    content = b"".join(messages_in(tensor, _TENSOR_BYTES))
    dtype = np.dtype(_FLOAT_TYPES[kind])
    if not content:
        content, dtype = b"".join(messages_in(tensor, _TENSOR_FLOATS)), np.dtype("<f4")

    shape = tuple(numbers_in(tensor, _TENSOR_DIMS))
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes for a tensor of shape {shape}")
    values = np.frombuffer(content, dtype).astype(np.float32).reshape(shape)
    return torch.from_numpy(values)


def _read_input_size(given: Sequence[memoryview]) -> tuple[int, int] | None:
    """Height and width of the first of the ``given`` values; None where a side is free."""
    if not given:
        return None
    shape = message_in(message_in(message_in(given[0], _VALUE_TYPE), _TYPE_TENSOR), _TENSOR_SHAPE)
    sides = [sum(numbers_in(dim, _DIM_VALUE)) for dim in messages_in(shape, _SHAPE_DIM)]
    return (sides[2], sides[3]) if len(sides) == 4 and min(sides[2:]) > 0 else None
