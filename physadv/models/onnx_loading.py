"""ONNX files as models: converted to torch where that computes the same, else asked."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.parsing import parse_json
from physadv.models.architectures.yolox import YoloX
from physadv.models.checks import looks_like_probabilities
from physadv.models.onnx_file import read_onnx
from physadv.models.onnx_model import OnnxModel, load_onnx_model, trial_inputs
from physadv.models.onnx_program import BYTE, HALF, OnnxProgram
from physadv.models.onnx_runtime import REMEDY, OnnxRuntimeModel, has_onnxruntime
from physadv.models.yolox_weights import load_yolox
from physadv.models.zoo import COCO_CLASSES, YOLOX_PREPROCESSING

TOLERANCE = 1e-4
"""Largest difference from onnxruntime, in units of the largest output."""
_SMALLEST = 1e-6
"""Outputs below this are not told apart."""
HALF_TOLERANCE = 2e-2
"""The same for a file in half precision, which is computed in float32 here."""
_NAME_KEYS = ("names", "classes", "class_names", "labels", "id2label")
_PYTHON_ENTRY = re.compile(r"(\d{1,7})\s*:\s*(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")")
_PYTHON_ITEM = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_SIZE = re.compile(r"\[\s*(\d{1,5})\s*,\s*(\d{1,5})\s*\]")


def open_onnx(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Open an ONNX file as a network.

    It is converted to torch, and held to onnxruntime on random inputs where that is installed. What
    cannot be converted, or computes something else, is asked through onnxruntime, without a
    gradient.

    Args:
        path: The file.

    Returns:
        The network, and entries for its card: input size, layout, classes, what it returns, and
        ``gradient`` with the reason where it has none.

    Raises:
        ModelError: The file cannot be read, or neither converted nor run.
    """
    yolox = _open_yolox(path)
    if yolox is not None:
        return yolox
    try:
        white = load_onnx_model(path)
        _hold_to_onnxruntime(white, path)
    except ModelError as failure:
        if not has_onnxruntime():
            said = f"it cannot be converted to torch ({failure.value}: {failure.limit})"
            raise ModelError(
                f"{path}", said, f"To ask it without a gradient: {REMEDY}"
            ) from failure
        try:
            black = OnnxRuntimeModel(path)
        except ModelError:
            raise failure from None
        why = f"none: {failure.limit or failure.value}; asked through onnxruntime"
        return _named(black, black.output_names), {
            **_table_of(_facts_asked(black)),
            "gradient": why,
        }
    return _named(white, white.program.outputs), _table_of(_facts_converted(white))


class NamedOutputs(nn.Module):
    """A network whose several outputs are given by name.

    Args:
        net: Network that returns a tuple, or a list with the boxes, scores and classes of each
            image as a tuple in any order.
        names: Names of its members.
    """

    def __init__(self, net: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, images: Tensor) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the outputs for ``images`` by their names; of each where they are boxes."""
        output = self.net(images)
        if isinstance(output, list):
            return [_named_boxes(parts) for parts in output]
        return dict(zip(self.names, output, strict=True))


def _named_boxes(parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Boxes (n, 4), scores and whole numbers of classes by the names of what they are."""
    kinds = [
        "boxes" if p.ndim == 2 else "scores" if p.is_floating_point() else "labels" for p in parts
    ]
    return dict(zip(kinds, parts, strict=True))


@dataclass(frozen=True)
class _Facts:
    """What a file says of itself, and what it returned for one random input."""

    shape: tuple[int | None, ...]
    input_type: int
    metadata: Mapping[str, str]
    last_operations: tuple[str, ...]
    output: Any


def _open_yolox(path: Path) -> tuple[nn.Module, dict[str, Any]] | None:
    """A YOLOX of ours with the weights of the file; None where it is another network."""
    try:
        shapes = [tuple(c.weight.shape) for c in read_onnx(path).convolutions]
    except ModelError:
        return None
    if YoloX.from_shapes(shapes) is None:
        return None
    net, size = load_yolox(path)
    names = {"classes": COCO_CLASSES} if net.classes == len(COCO_CLASSES) else {}
    table = {"task": "detect", "input_size": size, "score_threshold": 0.3, "preprocessing": "YOLOX"}
    return net, {**table, **names, **YOLOX_PREPROCESSING}


@torch.no_grad()
def _hold_to_onnxruntime(net: OnnxModel, path: Path) -> None:
    """Raise ModelError where ``net`` computes something else than onnxruntime does; nothing where
    that is not installed, or takes no images."""
    if not has_onnxruntime():
        return
    try:
        reference = OnnxRuntimeModel(path)
    except ModelError:
        return
    if reference.input_type is np.uint8:
        scale, tolerance = 255.0, TOLERANCE
    else:
        scale, tolerance = 1.0, HALF_TOLERANCE if _is_half(net.program) else TOLERANCE
    for inputs in _first_that_runs(net, 2):
        given = (inputs * scale).round() if scale > 1 else inputs
        found, wanted = (_as_tuple(run(given)) for run in (net, reference))
        for ours, theirs in zip(found, wanted, strict=True):
            largest = float(theirs.abs().max()) if theirs.numel() else 0.0
            if ours.shape != theirs.shape or not torch.allclose(
                ours.float(), theirs.float(), rtol=0, atol=tolerance * max(_SMALLEST, largest)
            ):
                raise ModelError(
                    f"{path}", "converted to torch, it differs from onnxruntime", "Export it anew"
                )


def _first_that_runs(net: OnnxModel, count: int) -> list[Tensor]:
    """Random inputs that the network takes."""
    for inputs in trial_inputs(net.input_shape, count):
        with contextlib.suppress(Exception):  # a size that is too small fails in any way
            net(inputs)
            return [inputs]
    return []


def _is_half(program: OnnxProgram) -> bool:
    return program.input_type == HALF or program.holds_half


def _as_tuple(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


@torch.no_grad()
def _facts_converted(net: OnnxModel) -> _Facts:
    program = net.program
    inputs = _first_that_runs(net, 1)
    made_by = {name: n.operation for n in program.nodes for name in n.outputs}
    return _Facts(
        program.input_shape,
        program.input_type,
        program.metadata,
        tuple(made_by.get(name, "") for name in program.outputs),
        net(inputs[0]) if inputs else None,
    )


def _facts_asked(net: OnnxRuntimeModel) -> _Facts:
    output = None
    for inputs in trial_inputs(net.input_shape, 1):
        with contextlib.suppress(ModelError):
            output = net(inputs * (255 if net.input_type is np.uint8 else 1))
            break
    net.sent = 0
    kind = BYTE if net.input_type is np.uint8 else 1
    metadata = dict(net.session.get_modelmeta().custom_metadata_map)
    return _Facts((net.batch, *net.input_shape), kind, metadata, (), output)


def _table_of(facts: _Facts) -> dict[str, Any]:
    """Entries for the card of a file."""
    table: dict[str, Any] = {"preprocessing": "the ONNX file, which knows no mean and std"}
    sides = facts.shape[1:]
    last = len(sides) == 3 and sides[2] in (1, 3) and sides[0] not in (1, 3)
    if last:
        table["layout"] = "nhwc"
    height, width = (sides[0], sides[1]) if last else (sides[1:3] if len(sides) == 3 else (0, 0))
    if height and width:
        table["input_size"] = (height, width)
    elif found := _SIZE.fullmatch(facts.metadata.get("imgsz", "").strip()):
        table["input_size"] = (int(found[1]), int(found[2]))
    if len(sides) == 3 and sides[2 if last else 0] == 1:
        table["channels"] = 1
    if facts.input_type == BYTE:
        table["scale"] = 255
    names = _names_in(facts.metadata)
    if names:
        table["classes"] = names
    return {**table, **_outputs_of(facts)}


def _outputs_of(facts: _Facts) -> dict[str, Any]:
    """What the outputs are, by their shape, the last operation and the exporter's word."""
    if isinstance(facts.output, list):
        return {"task": "detect", "score_threshold": 0.25}
    outputs = _as_tuple(facts.output) if facts.output is not None else ()
    task = facts.metadata.get("task", "")
    if task == "detect" or any(_is_grid(o) for o in outputs):
        yolo = {"resize": "letterbox", "antialias": False} if "stride" in facts.metadata else {}
        return {"task": "detect", "score_threshold": 0.25, **yolo}
    able = [i for i, o in enumerate(outputs) if o.is_floating_point() and o.numel() == max(o.shape)]
    if len(able) != 1:
        return {}
    output = outputs[able[0]]
    last = facts.last_operations[able[0]] if facts.last_operations else ""
    if output.numel() == 1:
        return {"outputs": "probability" if last == "Sigmoid" else "logit"}
    sums_to_one = looks_like_probabilities(output.reshape(1, -1).float())
    probabilities = last in ("Softmax", "Sigmoid") or sums_to_one
    return {"outputs": "probabilities"} if probabilities else {}


def _is_grid(output: Tensor) -> bool:
    """Whether an output for one image has candidates; one of (1, 1, c) has classes alone."""
    return output.ndim == 3 and output.shape[0] == 1 and 1 not in output.shape[1:]


def _names_in(metadata: Mapping[str, str]) -> list[str]:
    """Names of the classes that an exporter left, as JSON or as Python writes a table or a list."""
    text = next((metadata[key] for key in _NAME_KEYS if metadata.get(key)), "")
    with contextlib.suppress(ModelError):
        value = parse_json(text, "metadata", error=ModelError)
        if isinstance(value, Mapping) and all(str(i) in value for i in range(len(value))):
            return [str(value[str(i)]) for i in range(len(value))]
        return [str(name) for name in value] if isinstance(value, list) else []
    numbered = {int(i): a or b for i, a, b in _PYTHON_ENTRY.findall(text)}
    if numbered and sorted(numbered) == list(range(len(numbered))):
        return [numbered[i] for i in range(len(numbered))]
    if text.lstrip().startswith("["):
        return [a or b for a, b in _PYTHON_ITEM.findall(text)]
    parts = [part.strip() for part in re.split(r"[,\n]", text)]
    return [part for part in parts if part] if "{" not in text else []


def _named(net: nn.Module, names: tuple[str, ...]) -> nn.Module:
    return NamedOutputs(net, names) if len(names) > 1 else net
