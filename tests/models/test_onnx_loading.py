"""ONNX files as models of every command: white boxes held to onnxruntime, and others asked."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import physadv as program
from test_onnx_model import longs, node, weights, written
from torch import nn

import physadv
from physadv.attacks import pgd
from physadv.core.errors import ModelError
from physadv.core.types import Detections
from physadv.models.architectures.signnet import SignNet
from physadv.models.black_box import black_box_within

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def exported(net: nn.Module, file: Path, size: int = 32, **options: Any) -> Path:
    """Write ``net`` as its users do, for one image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            (torch.rand(1, 3, size, size),),
            str(file),
            dynamo=False,
            opset_version=17,
            **options,
        )
    return file


def linear(outputs: int, last: str = "", **settings: Any) -> tuple[list[Any], dict[str, Any]]:
    """A linear classifier of images (3, 8, 8), with an operation behind it."""
    nodes = [
        node("Flatten", "x", "a"),
        node("Gemm", "a w b", "c" if last else "y"),
        *([node(last, "c", **settings)] if last else []),
    ]
    return nodes, {"w": weights(192, outputs), "b": weights(outputs)}


def asked(outputs: int) -> tuple[list[Any], dict[str, Any]]:
    """As :func:`linear`, with an operation that torch's conversion does not know."""
    nodes = [node("Flatten", "x", "a"), node("Gemm", "a w b", "c"), node("Hardmax", "c", "h")]
    return [*nodes, node("Add", "c h")], linear(outputs)[1]


def with_metadata(file: Path, **entries: str) -> Path:
    model = onnx.load(str(file))
    for key, value in entries.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, str(file))
    return file


def test_an_export_of_ours_is_the_same_model(tmp_path: Path) -> None:
    """Logits, input size and gradients of SignNet come through ONNX within 1e-4."""
    net = SignNet(5).eval()
    model = physadv.load_model(exported(net, tmp_path / "signs.onnx", 64))
    images = torch.rand(3, 3, 64, 64, requires_grad=True)
    logits = model(images)
    assert torch.allclose(logits, net(images), atol=1e-4)
    assert model.card.input_size == (64, 64)
    (ours,) = torch.autograd.grad(logits.sum(), images)
    (theirs,) = torch.autograd.grad(net(images).sum(), images)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert black_box_within(model) is None


class Tokens(nn.Module):
    """A transformer whose export reshapes for one image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 8, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.cut(images).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens).mean(1))


def test_a_transformer_takes_any_batch(tmp_path: Path) -> None:
    """Attention, layer norm and GELU, with the shapes of one image in the file."""
    net = Tokens().eval()
    model = physadv.load_model(exported(net, tmp_path / "vit.onnx"))
    images = torch.rand(3, 3, 32, 32, requires_grad=True)
    assert torch.allclose(model(images), net(images), atol=1e-4)
    assert torch.autograd.grad(model(images).sum(), images)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("outputs", "last", "settings", "card"),
    [
        (4, "Softmax", {"axis": 1}, "probabilities"),
        (4, "Sigmoid", {}, "probabilities"),
        (1, "Sigmoid", {}, "probability"),
        (1, "", {}, "logit"),
    ],
)
def test_what_it_returns_is_known_by_its_end(
    outputs: int, last: str, settings: dict[str, Any], card: str, tmp_path: Path
) -> None:
    """Heads with a softmax, a sigmoid or one value give logits without an option."""
    file = written(tmp_path, *linear(outputs, last, **settings))
    model = physadv.load_model(file)
    images = torch.rand(3, 3, 8, 8)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": i[None].numpy()})[0] for i in images])
    logits = model(images)
    assert model.net.outputs == card
    if card == "probabilities" and last == "Softmax":
        assert torch.allclose(logits.softmax(1), torch.from_numpy(wanted), atol=1e-5)
    if card == "probability":
        assert torch.allclose(logits.softmax(1)[:, 1:], torch.from_numpy(wanted), atol=1e-5)
    if card == "logit":
        assert torch.allclose(logits[:, 1:] - logits[:, :1], torch.from_numpy(wanted), atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "{0: 'stop', 1: \"children's crossing\", 2: 'yield', 3: 'x'}",
        '{"0": "stop", "1": "children\'s crossing", "2": "yield", "3": "x"}',
        '["stop", "children\'s crossing", "yield", "x"]',
        "stop, children's crossing, yield, x",
    ],
)
def test_names_of_classes_come_from_the_metadata(text: str, tmp_path: Path) -> None:
    """As Python's table, JSON, a list, or separated by commas."""
    file = with_metadata(written(tmp_path, *linear(4)), names=text)
    model = physadv.load_model(file)
    assert model.card.classes == ("stop", "children's crossing", "yield", "x")


def test_channels_last_gray_and_bytes(tmp_path: Path) -> None:
    """The layout, one channel and a scale of 255 are read from the input."""
    file = written(tmp_path, *linear(4), shape=(1, 8, 8, 3))
    last = physadv.load_model(file)
    assert (last.card.extra["layout"], last.card.input_size) == ("nhwc", (8, 8))
    assert last(torch.rand(2, 3, 8, 8)).shape == (2, 4)

    nodes, values = linear(4)
    values["w"] = weights(64, 4)
    gray = physadv.load_model(written(tmp_path, nodes, values, shape=(1, 1, 8, 8)))
    assert gray.card.extra["channels"] == 1
    assert gray(torch.rand(2, 1, 8, 8)).shape == (2, 4)


def test_weights_in_a_file_beside_it_are_read_and_no_others(tmp_path: Path) -> None:
    """As torch writes them by default; a path out of the folder or through a link is refused."""
    file = written(tmp_path, *linear(4))
    images = torch.rand(2, 3, 8, 8)
    wanted = physadv.load_model(file)(images)
    model = onnx.load(str(file))
    onnx.save(
        model,
        str(tmp_path / "out.onnx"),
        save_as_external_data=True,
        location="w.data",
        size_threshold=0,
    )
    assert torch.equal(physadv.load_model(tmp_path / "out.onnx")(images), wanted)

    content = (tmp_path / "out.onnx").read_bytes()
    (tmp_path / "sub").mkdir()
    moved = tmp_path / "sub" / "out.onnx"
    for location in (b"../w.d", b"/tmp/x"):
        moved.write_bytes(content.replace(b"w.data", location))
        with pytest.raises(ModelError, match="its own folder"):
            physadv.load_model(moved)
    moved.write_bytes(content)
    with pytest.raises(ModelError, match=r"no such file|missing"):
        physadv.load_model(moved)
    (tmp_path / "sub" / "w.data").symlink_to(tmp_path / "w.data")
    with pytest.raises(ModelError, match="its own folder"):
        physadv.load_model(moved)


def test_an_unknown_operation_is_asked_through_onnxruntime(tmp_path: Path) -> None:
    """Scores without a gradient; the card and the error say so, and queries are counted."""
    file = written(tmp_path, *asked(4))
    model = physadv.load_model(file)
    assert "'Hardmax' is not known" in model.card.extra["gradient"]
    assert model(torch.rand(3, 3, 8, 8)).shape == (3, 4)
    box = black_box_within(model)
    assert box is not None
    assert box.sent == 3
    with pytest.raises(ModelError, match=r"Hardmax.*black-box attack"):
        pgd(model, torch.rand(2, 3, 8, 8), torch.zeros(2).long(), eps=0.1)


def test_without_onnxruntime_the_remedy_is_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the operation and what to install."""
    from physadv.models import onnx_loading

    monkeypatch.setattr(onnx_loading, "has_onnxruntime", lambda: False)
    assert physadv.load_model(written(tmp_path, *linear(4))).card.task == "classify"
    with pytest.raises(ModelError, match=r"'Hardmax' is not known.*physadv\[onnx\]"):
        physadv.load_model(written(tmp_path, *linear(4, "Hardmax")))


def test_a_conversion_that_computes_something_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where torch and onnxruntime differ, onnxruntime is asked."""
    from physadv.models.onnx_operations import OPERATIONS

    monkeypatch.setitem(OPERATIONS, "Relu", lambda x, s: x)
    model = physadv.load_model(written(tmp_path, *linear(4, "Relu")))
    assert "differs from onnxruntime" in model.card.extra["gradient"]


@pytest.mark.parametrize("rows", [False, True])
def test_yolos_layouts_are_detectors(rows: bool, tmp_path: Path) -> None:
    """(b, 4 + classes, n), and (b, n, 5 + classes) of older exports, by shape and names."""
    columns = 4 + 3 + rows
    nodes = [
        node("Conv", "x w b", "a", strides=[1, 1]),
        node("Sigmoid", "a", "s"),
        node("Reshape", "s sh", "r" if rows else "y"),
        *([node("Transpose", "r", perm=[0, 2, 1])] if rows else []),
    ]
    values = {"w": weights(columns, 3, 1, 1), "b": weights(columns), "sh": longs(1, columns, -1)}
    file = with_metadata(
        written(tmp_path, nodes, values), names="{0: 'a', 1: 'b', 2: 'c'}", task="detect"
    )
    model = physadv.load_model(file)
    found = model(torch.rand(2, 3, 8, 8))
    assert isinstance(found, Detections)
    assert found.boxes.shape == (2, 64, 4)
    assert found.scores.shape == (2, 64, 3)


def test_the_program_attacks_and_checks_a_file(tmp_path: Path) -> None:
    """`models check`, `attack` and `evaluate` take the file as any other model."""
    file = written(tmp_path, *linear(3))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "d.npz", x=pixels, y=[0, 1, 2, 0])
    checked = program(tmp_path, "models", "check", file.name, "--json")
    assert json.loads(checked.stdout)["warnings"] == []
    words = ["--model", file.name, "--data", "d.npz", "--steps", "2", "--json"]
    done = program(tmp_path, "attack", *words, "--attack", "pgd", "--eps", "8/255")
    assert json.loads(done.stdout)["images"] == 4, done.stderr


def test_a_file_that_is_asked_is_evaluated_by_its_scores(tmp_path: Path) -> None:
    """`evaluate` plans attacks on scores, and counts the queries."""
    file = written(tmp_path, *asked(3))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "d.npz", x=pixels, y=[0, 1])
    words = ["--model", file.name, "--data", "d.npz", "--eps", "32/255", "--out", "run"]
    done = program(tmp_path, "evaluate", *words)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stderr.split())
    assert "model gives scores, no gradient (its operation 'Hardmax' is not known" in words
    assert words.index("no gradient") < words.index("attacking")
    assert "the figure holds for black-box attacks alone" in words
    assert "square" in done.stderr
    assert "queries sent" in done.stderr


def test_a_file_that_onnxruntime_quantized_is_asked(tmp_path: Path) -> None:
    """Eight-bit weights and activations have no slope: its scores are onnxruntime's own, and the
    reason is on its card."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        quantize_dynamic,
        quantize_static,
    )

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            source = np.random.default_rng(0)
            self.left = [source.random((1, 3, 8, 8), dtype=np.float32) for _ in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return {"x": self.left.pop()} if self.left else None

    file = written(tmp_path, *linear(4))
    for name in ("dynamic.onnx", "qdq.onnx", "operators.onnx"):
        small = tmp_path / name
        if name == "dynamic.onnx":
            quantize_dynamic(file, small)
        else:
            form = QuantFormat.QDQ if name == "qdq.onnx" else QuantFormat.QOperator
            quantize_static(file, small, Batches(), quant_format=form)
        model = physadv.load_model(small)
        images = torch.rand(3, 3, 8, 8)
        session = onnxruntime.InferenceSession(str(small))
        theirs = [session.run(None, {"x": one.numpy()})[0] for one in images[:, None]]
        assert np.allclose(model(images).numpy(), np.concatenate(theirs), atol=1e-4), name
        assert black_box_within(model) is not None, name
        assert "asked through onnxruntime" in model.card.extra["gradient"], name


class Head(nn.Module):
    """A linear classifier of four classes, and what an export does with its logits."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.end = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), end

    def forward(self, images: torch.Tensor) -> Any:
        return self.end(self.net(images))


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 1, 4)])
def test_probabilities_beside_their_best_class(shape: tuple[int, ...], tmp_path: Path) -> None:
    """A softmax is known beside the number of the best class, and with sides of one."""
    images = torch.rand(3, 3, 8, 8)
    for end in (
        lambda z: (z.softmax(1), z.argmax(1)),
        lambda z: z.softmax(1).reshape(-1, *shape[1:]),
    ):
        model = physadv.load_model(exported(Head(end), tmp_path / "h.onnx", 8))
        assert model.net.outputs == "probabilities"
        assert torch.allclose(model(images), Head(lambda z: z.log_softmax(1))(images), atol=1e-4)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda z: z.argmax(1), "returns one number an image"),
        (lambda z: tuple(z.topk(2)), "Scores of all classes"),
        (lambda z: (z, 2 * z + 1), "2 of its parts could be it"),
    ],
)
def test_what_is_no_row_of_logits_is_refused(end: Any, words: str, tmp_path: Path) -> None:
    """The number of a class is no logit, and what topk gives is no row of all classes."""
    model = physadv.load_model(exported(Head(end), tmp_path / "h.onnx", 8))
    with pytest.raises(ModelError, match=words):
        model(torch.rand(2, 3, 8, 8))


def test_suppression_inside_leaves_a_detector(tmp_path: Path) -> None:
    """Boxes, classes and scores that suppression leaves, another number for each image, are a
    detector's, in whatever order; the image without any has none."""
    helper, tensors = onnx.helper, onnx.TensorProto
    corners = np.array([[[1, 2, 9, 12], [1, 2, 10, 12], [20, 20, 30, 31]]], np.float32)
    constants = {
        "boxes0": corners,
        "gain": np.array([[[1.0, 0.9, 0.8]]], np.float32),
        "most": np.array([5]),
        "iou": np.array([0.5], np.float32),
        "least": np.array([0.1], np.float32),
        "last": np.array(2),
        "zero": np.array([0]),
        "one": np.array(1),
    }
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["light"], keepdims=0),
        helper.make_node("Mul", ["light", "gain"], ["all"]),
        helper.make_node("NonMaxSuppression", ["boxes0", "all", "most", "iou", "least"], ["kept"]),
        helper.make_node("Gather", ["kept", "last"], ["index"], axis=1),
        helper.make_node("Gather", ["kept", "one"], ["classes"], axis=1),
        helper.make_node("Squeeze", ["boxes0", "zero"], ["boxes1"]),
        helper.make_node("Gather", ["boxes1", "index"], ["out_a"], axis=0),
        helper.make_node("Add", ["classes", "one"], ["out_b"]),
        helper.make_node("Reshape", ["all", "flat"], ["scores1"]),
        helper.make_node("Gather", ["scores1", "index"], ["out_c"], axis=0),
    ]
    constants["flat"] = np.array([-1])
    outputs = [
        helper.make_tensor_value_info("out_a", tensors.FLOAT, ["n", 4]),
        helper.make_tensor_value_info("out_b", tensors.INT64, ["n"]),
        helper.make_tensor_value_info("out_c", tensors.FLOAT, ["n"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", tensors.FLOAT, [1, 3, 64, 64])],
        outputs,
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    file = tmp_path / "nms.onnx"
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(file))

    model = physadv.load_model(file, settings={"classes": ["a", "b"]})
    assert model.card.task == "detect"
    assert "NonMaxSuppression" in model.card.extra["gradient"]
    found = model(torch.cat([torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)]))
    assert isinstance(found, Detections)
    assert found.scores[0].abs().sum() == 0
    assert torch.equal(found.boxes[1], torch.from_numpy(corners[0, [0, 2]]))
    assert torch.allclose(found.scores[1], torch.tensor([[0, 1.0], [0, 0.8]]))
    with pytest.raises(ModelError, match="must be known"):
        physadv.load_model(file)(torch.ones(1, 3, 64, 64))


def test_names_of_classes_may_be_lines(tmp_path: Path) -> None:
    """As a text file of them has them."""
    file = with_metadata(written(tmp_path, *linear(3)), classes="stop\nyield\nother\n")
    assert physadv.load_model(file).card.classes == ("stop", "yield", "other")
