"""ONNX files as modules: outputs of onnxruntime for any batch, gradients, and errors in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from physadv.certification.bounds.verify import prepare_graph
from physadv.core.errors import ModelError
from physadv.models.onnx_model import load_onnx_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

DRAW = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    return DRAW.standard_normal(shape).astype(np.float32) / 3


def written(
    folder: Path,
    nodes: list[Any],
    constants: dict[str, Any],
    *,
    shape: tuple[Any, ...] = (1, 3, 8, 8),
    opset: int = 13,
) -> Path:
    """An ONNX file of nodes from "x" to "y"."""
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def node(kind: str, inputs: str, outputs: str = "y", **settings: Any) -> Any:
    return onnx.helper.make_node(kind, inputs.split(), outputs.split(), **settings)


def longs(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "dense": (
        [
            node("Flatten", "x", "a"),
            node("Gemm", "a w b", "c", transB=1, alpha=0.5, beta=2.0),
            node("Relu", "c", "d"),
            node("MatMul", "d v", "e"),
            node("Add", "e u"),
        ],
        {"w": weights(7, 192), "b": weights(7), "v": weights(7, 4), "u": weights(4)},
    ),
    "conv": (
        [
            node("Conv", "x w b", "a", strides=[2, 1], pads=[1, 0, 0, 1], group=1),
            node("BatchNormalization", "a s t m v", "c", epsilon=1e-3),
            node("LeakyRelu", "c", "d", alpha=0.2),
            node("MaxPool", "d", "e", kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1]),
            node("AveragePool", "e", "f", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("GlobalAveragePool", "f", "g"),
            node("Flatten", "g"),
        ],
        {
            "w": weights(4, 3, 3, 3),
            "b": weights(4),
            "s": weights(4),
            "t": weights(4),
            "m": weights(4),
            "v": np.abs(weights(4)) + 0.1,
        },
    ),
    "same padding": (
        [
            node("Conv", "x w", "a", auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[3, 3]),
            node("Conv", "a v", "b", auto_pad="SAME_LOWER", kernel_shape=[2, 2]),
            node("Sigmoid", "b"),
        ],
        {"w": weights(4, 3, 3, 3), "v": weights(4, 4, 2, 2)},
    ),
    "activations": (
        [
            node("Mul", "x k", "z"),
            node("Tanh", "z", "a"),
            node("Softplus", "a", "b"),
            node("Elu", "b", "c"),
            node("HardSigmoid", "c", "d"),
            node("PRelu", "d p", "e"),
            node("Clip", "e lo hi", "f"),
            node("Abs", "f", "g"),
            node("Neg", "g", "h"),
            node("Max", "h z", "i"),
            node("Min", "i x", "j"),
            node("Sum", "j x z"),
        ],
        {
            "k": weights(3, 1, 1),
            "p": weights(3, 1, 1),
            "lo": np.float32(0.1),
            "hi": np.float32(0.6),
        },
    ),
    "views": (
        [
            node("Transpose", "x", "a", perm=[0, 2, 1, 3]),
            node("Slice", "a s e ax st", "b"),
            node("Concat", "b b", "c", axis=1),
            node("Split", "c n", "d f", axis=2),
            node("Slice", "d back front last minus", "dd"),
            node("Pad", "dd p", "g", mode="reflect"),
            node("Unsqueeze", "g one", "h"),
            node("Squeeze", "h one", "i"),
            node("Gather", "i ix", "j", axis=3),
            node("ReduceMean", "j", "k", axes=[2], keepdims=0),
            node("Reshape", "k sh"),
        ],
        {
            "s": longs(1, 0),
            "e": longs(7, 2**62),
            "ax": longs(1, 3),
            "st": longs(2, 1),
            "n": longs(2, 1),
            "p": longs(0, 0, 1, 1, 0, 0, 0, 1),
            "one": longs(1),
            "back": longs(-1),
            "front": longs(-(2**62)),
            "last": longs(3),
            "minus": longs(-2),
            "ix": longs(0, -1, 1),
            "sh": longs(1, -1),
        },
    ),
    "computed shape": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n ax", "m"),
            node("Concat", "m rest", "t", axis=0),
            node("Reshape", "x t", "f"),
            node("Softmax", "f", axis=1),
        ],
        {"zero": np.array(0, np.int64), "ax": longs(0), "rest": longs(-1)},
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_outputs_are_those_of_onnxruntime(name: str, tmp_path: Path) -> None:
    """To 1e-4 one image at a time, and the same in a batch of five."""
    path = written(tmp_path, *CASES[name])
    net = load_onnx_model(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.rand((5, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    wanted = [session.run(["y"], {"x": image[None].numpy()})[0] for image in images]
    assert torch.allclose(net(images), torch.from_numpy(np.concatenate(wanted)), atol=1e-4)


def test_files_are_white_boxes_that_bounds_pass(tmp_path: Path) -> None:
    """Gradients reach the input, and the graph of bounds is traced."""
    net = load_onnx_model(written(tmp_path, *CASES["dense"]))
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    net(image).sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0
    assert prepare_graph(net, (3, 8, 8)).classes == 4


@pytest.mark.parametrize(
    ("nodes", "shape", "words"),
    [
        ([("LSTM", "x")], (1, 3, 8, 8), "'LSTM' is not known"),
        ([("Relu", "x")], (7,), "no batch"),
        ([("Gemm", "x w")], (1, 3, 8, 8), "does not run"),
        ([("Add", "x nothing")], (1, 3, 8, 8), "no operation before"),
    ],
)
def test_what_is_not_run_is_refused_in_words(
    nodes: list[tuple[str, str]], shape: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    """Unknown operations, inputs without a batch, shapes and names that do not fit."""
    path = written(tmp_path, [node(*n) for n in nodes], {"w": weights(2, 2)}, shape=shape)
    with pytest.raises(ModelError, match=words):
        load_onnx_model(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Half of a file, and bytes that are none."""
    data = written(tmp_path, *CASES["conv"]).read_bytes()
    for bad in (data[: len(data) // 2], b"\x08\x09" + bytes(40)):
        file = tmp_path / "bad.onnx"
        file.write_bytes(bad)
        with pytest.raises(ModelError):
            load_onnx_model(file)
