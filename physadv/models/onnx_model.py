"""ONNX files as torch modules: white boxes with gradients, for any size of batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.random_streams import generator
from physadv.core.reading import foreign_errors
from physadv.models.loading import in_pieces
from physadv.models.onnx_operations import OPERATIONS
from physadv.models.onnx_program import OnnxNode, OnnxProgram, read_onnx_program

_TRIED_SIDES = (32, 224, 640)
"""Sides in px that a network of free size is tried with, in turn."""
_SHAPED = ("Reshape", "Expand")
"""Operations whose second input is a shape, which may begin with the size of the batch."""


def load_onnx_model(path: str | Path) -> OnnxModel:
    """Read an ONNX file as a module in eval mode, and run it once.

    Args:
        path: The file; its input's first dimension is the batch.

    Returns:
        Module that maps inputs (b, *input_shape) to the file's output, for any b; to a tuple where
        it has several.

    Raises:
        ModelError: The file is no readable ONNX file, has an operation that is not known (it is
            named), or does not run.

    Example:
        >>> def classify(file, images):  # a path, (b, c, h, w)
        ...     net = load_onnx_model(file)
        ...     return net(images).argmax(1)
    """
    program = read_onnx_program(path)
    unknown = sorted({n.operation for n in program.nodes} - OPERATIONS.keys() - {"Constant"})
    if unknown:
        raise ModelError(
            f"{path}",
            f"its operation {unknown[0][:40]!r} is not known",
            "Export it with fewer kinds of operations, or load the network in torch",
        )
    sides = program.input_shape
    if len(sides) < 2 or sides[0] == 0:
        raise ModelError(
            f"{path}",
            f"its input of shape {sides} has no batch as its first dimension",
            "Export it with inputs (1, ...)",
        )
    model = OnnxModel(program).eval()
    with foreign_errors(f"{path}", ModelError, "does not run", "Export it anew"), torch.no_grad():
        _settle_batch(model)
    return model


def trial_inputs(shape: tuple[int | None, ...], count: int) -> Iterator[Tensor]:
    """Yield random inputs for a network, of several sizes where its sides are free.

    Args:
        shape: Shape of an input without the batch; None for a side that is free.
        count: Size of the batch.
    """
    for side in _TRIED_SIDES if None in shape else (1,):
        sides = [s or side for s in shape]
        yield torch.rand(count, *sides, generator=generator(0, "onnx", side))


def _settle_batch(model: OnnxModel) -> None:
    """Find out how many inputs the network takes at a time, by running it; raise what it raises
    where it runs on none."""
    fixed = model.program.input_shape[0]
    failure: Exception | None = None
    for inputs in trial_inputs(model.input_shape, 2):
        model.at_a_time = None
        try:
            if fixed is None or fixed == 1:
                together = model(inputs)
                if _same_rows(together, [model(row[None]) for row in inputs]):
                    return
        except Exception as error:  # reshapes of one image fail on two in any way
            failure = error
        model.at_a_time = fixed or 1
        try:
            model(inputs)
        except Exception as error:
            failure = error
        else:
            return
    if failure is not None:
        raise failure


def _same_rows(together: Any, alone: list[Any]) -> bool:
    """Whether the outputs for a batch are those for its members."""
    whole = together if isinstance(together, tuple) else (together,)
    rows = [out if isinstance(out, tuple) else (out,) for out in alone]
    for i, output in enumerate(whole):
        joined = torch.cat([row[i] for row in rows])
        if output.shape != joined.shape:
            return False
        scale = max(1.0, float(joined.abs().max())) if joined.numel() else 1.0
        if not torch.allclose(output, joined, rtol=0, atol=1e-4 * scale, equal_nan=True):
            return False
    return True


class OnnxModel(nn.Module):
    """The operations of an ONNX file, run by torch; floating-point constants are buffers.

    Args:
        program: What the file computes.
    """

    def __init__(self, program: OnnxProgram) -> None:
        super().__init__()
        self.program = program
        self.input_shape = tuple(program.input_shape[1:])
        """Shape of an input without the batch; None for a side that is free."""
        self.at_a_time: int | None = None
        """Inputs that it takes at a time; None for any number."""
        self._whole: dict[str, Tensor] = {}
        self._buffer_of: dict[str, str] = {}
        for name, value in program.constants.items():
            self._keep(name, value)
        self._nodes = [node for node in program.nodes if not self._fold(node)]
        self._last = {name: i for i, node in enumerate(self._nodes) for name in node.inputs}

    def forward(self, x: Tensor) -> Any:
        """Return the output for inputs ``x`` (b, *input_shape), in the type of the module."""
        if self.at_a_time is None:
            return self._pass(x, len(x))
        return in_pieces(lambda piece: self._pass(piece, None), x, self.at_a_time)

    def _pass(self, x: Tensor, batch: int | None) -> Any:
        """The output for ``x``; shapes begin with ``batch``, or are the file's where it is None."""
        values: dict[str, Any] = {self.program.input: x}
        for i, node in enumerate(self._nodes):
            results = self._run(node, [self._value(name, values) for name in node.inputs], batch)
            values.update(zip(node.outputs, results, strict=False))
            for name in set(node.inputs):
                if self._last[name] == i and name not in self.program.outputs:
                    values.pop(name, None)
        outputs = tuple(self._value(name, values) for name in self.program.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _keep(self, name: str, value: Tensor) -> None:
        if value.is_floating_point():
            self._buffer_of[name] = f"constant_{len(self._buffer_of)}"
            self.register_buffer(self._buffer_of[name], value)
        else:
            self._whole[name] = value

    def _value(self, name: str, values: dict[str, Any]) -> Any:
        if not name:
            return None
        if name in values:
            return values[name]
        if name in self._buffer_of:
            return getattr(self, self._buffer_of[name])
        if name in self._whole:
            return self._whole[name]
        raise ModelError(
            f"value {name[:40]!r}", "no operation before makes it", "Export the file anew"
        )

    def _fold(self, node: OnnxNode) -> bool:
        """Compute a node that depends on constants alone; return whether it was one."""
        if node.operation == "Constant":
            settings = node.attributes
            for key in ("value", "value_float", "value_int", "value_floats", "value_ints"):
                if key in settings:
                    value = settings[key]
                    kept = value if isinstance(value, Tensor) else torch.tensor(value)
                    self._keep(node.outputs[0], kept)
                    return True
            raise ModelError("a constant of the file", "is of no known kind", "Export it anew")
        known = self._buffer_of.keys() | self._whole.keys()
        if not node.inputs or any(name and name not in known for name in node.inputs):
            return False
        with foreign_errors(node.operation, ModelError, "does not run", "Export it anew"):
            results = self._run(node, [self._value(name, {}) for name in node.inputs], None)
        for name, value in zip(node.outputs, results, strict=False):
            self._keep(name, value)
        return True

    def _run(self, node: OnnxNode, inputs: list[Any], batch: int | None) -> tuple[Any, ...]:
        """Return the results of a node. A shape that begins with the batch of the file begins with
        ``batch`` instead; None leaves it."""
        if node.operation in _SHAPED and batch is not None and len(inputs) == 2:
            sides = inputs[1].flatten().tolist()
            if len(sides) > 1 and sides[0] in (1, -1) and (sides[0] == 1 or -1 not in sides[1:]):
                inputs = [inputs[0], torch.tensor([batch, *sides[1:]])]
        result = OPERATIONS[node.operation](*inputs, s=node.attributes)
        return result if isinstance(result, tuple) else (result,)
