"""ONNX files as torch modules: white boxes with gradients, for any size of batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.reading import foreign_errors
from physadv.models.onnx_operations import OPERATIONS
from physadv.models.onnx_program import OnnxNode, OnnxProgram, read_onnx_program

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
    if len(sides) < 2 or (sides[0] or 1) > 1:
        raise ModelError(
            f"{path}",
            f"its input of shape {sides} has no batch as its first dimension",
            "Export it with inputs (1, ...)",
        )
    model = OnnxModel(program).eval()
    tried = [side or 32 for side in sides[1:]]
    with foreign_errors(f"{path}", ModelError, "does not run", "Export it anew"), torch.no_grad():
        model(torch.zeros(2, *tried))
    return model


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
        self._whole: dict[str, Tensor] = {}
        self._buffer_of: dict[str, str] = {}
        for name, value in program.constants.items():
            self._keep(name, value)
        self._nodes = [node for node in program.nodes if not self._fold(node)]
        self._last = {name: i for i, node in enumerate(self._nodes) for name in node.inputs}

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output for inputs ``x`` (b, *input_shape), in the type of the module."""
        values: dict[str, Any] = {self.program.input: x}
        for i, node in enumerate(self._nodes):
            results = self._run(node, [self._value(name, values) for name in node.inputs], len(x))
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
