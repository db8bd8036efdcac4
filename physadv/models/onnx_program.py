"""Reading of an ONNX file as a program: its operations, constants and input, nothing run.

The few fields of the format that a classifier needs are read here, within the bounds of the file,
so that neither ``onnx`` nor the ``protobuf`` it asks for has to be installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import ModelError
from physadv.core.reading import FREE_BYTES, MAX_MODEL_BYTES, foreign_errors
from physadv.core.text import read_file
from physadv.models.onnx_external import ExternalData
from physadv.models.protobuf import (
    floats_in,
    message_in,
    messages_in,
    number_in,
    numbers_in,
    signed,
    text_in,
)

_MOST_NODES = 20_000
_TYPES = {
    1: "<f4",
    2: "u1",
    3: "i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "?",
    10: "<f2",
    11: "<f8",
    12: "<u4",
}
"""ONNX' numbers of types, and NumPy's names for them."""
HALF, BYTE = 10, 2
"""ONNX' numbers of the types float16 and uint8."""
_MOST_METADATA = 1 << 20
"""Most bytes of one entry of the metadata."""
_OWN_DOMAINS = ("", "ai.onnx")

# Numbers of the fields that are read, by the message that holds them.
_MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = 2, 7, 8, 14
_OPSET_DOMAIN, _OPSET_VERSION, _ENTRY_KEY, _ENTRY_VALUE = 1, 2, 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATION, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT = 1, 2, 3, 4
_ATTRIBUTE_TENSOR, _ATTRIBUTE_FLOATS, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 5, 7, 8, 20
_TYPE_FLOAT, _TYPE_INT, _TYPE_TEXT, _TYPE_TENSOR_VALUE, _TYPE_FLOATS, _TYPE_INTS = 1, 2, 3, 4, 6, 7
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INTS, _TENSOR_LONGS = 1, 2, 4, 5, 7
_TENSOR_NAME, _TENSOR_BYTES, _TENSOR_DOUBLES = 8, 9, 10
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE = 1, 2, 1, 2, 1, 1
_TENSOR_ELEMENT = 1

Attribute = int | float | str | list[int] | list[float] | Tensor


@dataclass(frozen=True)
class OnnxNode:
    """One operation.

    Attributes:
        operation: Its name, such as "Conv".
        inputs: Names of its inputs; "" where one is left out.
        outputs: Names of its outputs.
        attributes: Its settings by name.
    """

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]


@dataclass(frozen=True)
class OnnxProgram:
    """What an ONNX file computes.

    Attributes:
        nodes: Operations in the order in which they run.
        constants: Stored tensors by name; whole numbers and truth values are int64.
        input: Name of the input.
        input_shape: Its shape, batch included; None for a side that is free.
        outputs: Names of the outputs.
        opset: Version of the operations.
        input_type: ONNX' number of the input's type.
        output_shapes: Shapes of the outputs; None for a side that is free.
        producer: Program that wrote the file, as it says.
        metadata: Entries that its exporter left, by name.
        holds_half: Whether weights are stored in half precision.
    """

    nodes: tuple[OnnxNode, ...]
    constants: dict[str, Tensor]
    input: str
    input_shape: tuple[int | None, ...]
    outputs: tuple[str, ...]
    opset: int
    input_type: int = 1
    output_shapes: tuple[tuple[int | None, ...], ...] = ()
    producer: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    holds_half: bool = False


def read_onnx_program(path: str | Path) -> OnnxProgram:
    """Read an ONNX file.

    Args:
        path: The file.

    Returns:
        Its operations, constants, input and outputs.

    Raises:
        ModelError: The file is damaged or no ONNX file, keeps its weights in a file outside of its
            folder, takes more than one input, or has operations of other domains than ONNX' own.
    """
    data = read_file(path, most_bytes=MAX_MODEL_BYTES, error=ModelError)
    outside = ExternalData(Path(path).parent)
    with foreign_errors(f"{path}", ModelError, "not readable as an ONNX file", "Export it anew"):
        return _read_program(memoryview(data), outside)


def _read_program(model: memoryview, outside: ExternalData) -> OnnxProgram:
    graph = message_in(model, _MODEL_GRAPH)
    if messages_in(graph, _GRAPH_SPARSE):
        raise ValueError("it has sparse weights")
    opsets = {
        text_in(o, _OPSET_DOMAIN): number_in(o, _OPSET_VERSION, 1)
        for o in messages_in(model, _MODEL_OPSET)
    }
    stored = messages_in(graph, _GRAPH_INITIALIZER)
    constants = {text_in(t, _TENSOR_NAME): _read_tensor(t, outside) for t in stored}
    held = sum(t.numel() * t.element_size() for t in constants.values())
    if held > 8 * (len(model) + outside.size) + FREE_BYTES:
        raise ValueError("its tensors are larger than the file")
    given = [
        v for v in messages_in(graph, _GRAPH_INPUT) if text_in(v, _VALUE_NAME) not in constants
    ]
    if len(given) != 1:
        raise ValueError(f"it takes {len(given)} inputs, and one is needed")

    records = messages_in(graph, _GRAPH_NODE)
    if len(records) > _MOST_NODES:
        raise ValueError(f"it has more than {_MOST_NODES:,} operations")
    made = messages_in(graph, _GRAPH_OUTPUT)
    return OnnxProgram(
        tuple(_read_node(record, outside) for record in records),
        constants,
        text_in(given[0], _VALUE_NAME),
        _read_shape(given[0]),
        tuple(text_in(v, _VALUE_NAME) for v in made),
        max((v for d, v in opsets.items() if d in _OWN_DOMAINS), default=1),
        _read_element_type(given[0]),
        tuple(_read_shape(v) for v in made),
        text_in(model, _MODEL_PRODUCER)[:80],
        _read_metadata(model),
        any(HALF in numbers_in(t, _TENSOR_TYPE) for t in stored),
    )


def _read_metadata(model: memoryview) -> dict[str, str]:
    """Entries of the metadata; the first of a name counts, and none that is very long."""
    entries: dict[str, str] = {}
    for record in messages_in(model, _MODEL_METADATA):
        if len(record) <= _MOST_METADATA:
            entries.setdefault(text_in(record, _ENTRY_KEY), text_in(record, _ENTRY_VALUE))
    return entries


def _read_node(node: memoryview, outside: ExternalData) -> OnnxNode:
    operation, domain = text_in(node, _NODE_OPERATION), text_in(node, _NODE_DOMAIN)
    if domain not in _OWN_DOMAINS:
        raise ValueError(f"operation {operation[:40]!r} is of the domain {domain[:40]!r}")
    records = messages_in(node, _NODE_ATTRIBUTE)
    return OnnxNode(
        operation,
        tuple(str(name, "utf-8") for name in messages_in(node, _NODE_INPUT)),
        tuple(str(name, "utf-8") for name in messages_in(node, _NODE_OUTPUT)),
        {text_in(r, _ATTRIBUTE_NAME): _read_attribute(r, outside) for r in records},
    )


def _read_attribute(attribute: memoryview, outside: ExternalData) -> Attribute:
    kind = number_in(attribute, _ATTRIBUTE_TYPE)
    if kind == _TYPE_INT:
        return signed(number_in(attribute, _ATTRIBUTE_INT))
    if kind == _TYPE_FLOAT:
        return next(reversed(floats_in(attribute, _ATTRIBUTE_FLOAT)), 0.0)
    if kind == _TYPE_TEXT:
        return text_in(attribute, _ATTRIBUTE_TEXT)
    if kind == _TYPE_INTS:
        return [signed(number) for number in numbers_in(attribute, _ATTRIBUTE_INTS)]
    if kind == _TYPE_FLOATS:
        return floats_in(attribute, _ATTRIBUTE_FLOATS)
    if kind == _TYPE_TENSOR_VALUE:
        return _read_tensor(message_in(attribute, _ATTRIBUTE_TENSOR), outside)
    raise ValueError(f"an attribute is of type {kind}, which is not read")


def _read_tensor(tensor: memoryview, outside: ExternalData) -> Tensor:
    """A stored tensor: floats in their own precision, at least float32, others as int64."""
    kind = number_in(tensor, _TENSOR_TYPE)
    if kind not in _TYPES:
        raise ValueError(f"a tensor is of type {kind}, which is not read")

    # Numbers are stored as bytes, or one by one in a field of their type.
    dtype = np.dtype(_TYPES[kind])
    content: bytes | memoryview | None = outside.content_of(tensor)
    if content is None:
        content = b"".join(messages_in(tensor, _TENSOR_BYTES))
    if len(content):
        values = np.frombuffer(content, dtype)
    elif kind == 1:
        values = np.frombuffer(b"".join(messages_in(tensor, _TENSOR_FLOATS)), "<f4")
    elif kind == 11:
        values = np.frombuffer(b"".join(messages_in(tensor, _TENSOR_DOUBLES)), "<f8")
    elif kind == HALF:
        values = np.array(numbers_in(tensor, _TENSOR_INTS), np.uint16).view(np.float16)
    elif kind in (2, 3, 4, 5, 6, 7, 9):
        numbers = numbers_in(tensor, _TENSOR_LONGS if kind == 7 else _TENSOR_INTS)
        values = np.array([signed(n) for n in numbers], np.int64)
    else:
        raise ValueError(f"a tensor of type {kind} is not stored as bytes")

    shape = tuple(signed(n) for n in numbers_in(tensor, _TENSOR_DIMS))
    if any(side < 0 for side in shape) or math.prod(shape) != values.size:
        raise ValueError(f"{values.size} numbers for a tensor of shape {shape[:8]}")
    if dtype.kind == "f":
        kept = values.astype(np.float64 if kind == 11 else np.float32)
    else:
        kept = values.astype(np.int64)
    return torch.from_numpy(kept.reshape(shape))


def _read_element_type(value: memoryview) -> int:
    kind = message_in(message_in(value, _VALUE_TYPE), _TYPE_TENSOR)
    return number_in(kind, _TENSOR_ELEMENT)


def _read_shape(value: memoryview) -> tuple[int | None, ...]:
    shape = message_in(message_in(message_in(value, _VALUE_TYPE), _TYPE_TENSOR), _TENSOR_SHAPE)
    sides = [numbers_in(dim, _DIM_VALUE) for dim in messages_in(shape, _SHAPE_DIM)]
    return tuple(signed(side[0]) if side and signed(side[0]) > 0 else None for side in sides)
