"""Every kind of model file and address from attack to check, as a user types it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Faults, shared_server
from PIL import Image
from reference_server import ReferenceBox, python_words, served
from small_commands import SMALL_COMMANDS
from torch import Tensor, nn

CLASSES = "stop,other"
BLACK = ("ONNX asked", "address", "command kept running")
"""Sources without a gradient."""


class Red(nn.Module):
    """Calls "stop" what is red in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 2, 1)
        weight = torch.tensor([[30.0, -15, -15], [0, 0, 0]])
        self.mix.weight.data = weight[:, :, None, None]
        self.mix.bias.data = torch.tensor([-2.0, 0])

    def forward(self, images: Tensor) -> Tensor:
        return self.mix(images)[..., 4:-4, 4:-4].mean((2, 3))


FACTORY = """
import torch
from torch import nn

class Red(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 2, 1)
    def forward(self, images):
        return self.mix(images)[..., 4:-4, 4:-4].mean((2, 3))

def make():
    return Red()

def known():
    net = Red()
    state = torch.load("wrapped.ckpt")["state_dict"]
    net.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    return net
"""

COMMAND = """
import json, sys
import numpy as np
from PIL import Image

def scores(name):
    red, green, blue = (np.asarray(Image.open(name).convert("RGB")) / 255)[4:-4, 4:-4].mean((0, 1))
    return [float(30 * red - 15 * green - 15 * blue - 2), 0.0]

for line in sys.stdin:
    print(json.dumps(scores(line.strip())), flush=True)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same net in every kind of file, and labeled pictures."""
    folder = tmp_path_factory.mktemp("sources")
    net = Red().eval()
    (folder / "red.py").write_text(FACTORY)
    (folder / "command.py").write_text(COMMAND)
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "wrapped.ckpt")
    example = (torch.rand(2, 3, 32, 32),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, example).save(str(folder / "red.ts"))
        batch = torch.export.Dim("batch")
        graph = torch.export.export(net, example, dynamic_shapes=({0: batch},))
        torch.export.save(graph, folder / "red.pt2")
        _write_onnx(net, folder, example)

    write_pictures(folder)
    return folder


def _write_onnx(net: nn.Module, folder: Path, example: tuple[Tensor, ...]) -> None:
    """``net`` as red.onnx, and as asked.onnx with an operation that torch's conversion lacks."""
    onnx = pytest.importorskip("onnx")
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    axes = {"x": {0: "n"}, "y": {0: "n"}}
    file = str(folder / "red.onnx")
    torch.onnx.export(
        net, example, file, dynamo=False, opset_version=17, dynamic_axes=axes, **names
    )
    model = onnx.load(file)
    model.graph.node[-1].output[0] = "scores"
    graph = model.graph
    for kind, inputs, output in (
        ("Hardmax", ["scores"], "best"),
        ("Sub", ["best", "best"], "nothing"),
        ("Add", ["scores", "nothing"], "y"),
    ):
        graph.node.append(onnx.helper.make_node(kind, inputs, [output]))
    onnx.save(model, str(folder / "asked.onnx"))


def write_pictures(folder: Path) -> None:
    """Red and gray pictures in folders, and frames of a red square."""
    source = np.random.default_rng(0)
    for name, color in (("stop", (150, 90, 90)), ("other", (110, 110, 110))):
        (folder / "d" / name).mkdir(parents=True)
        for number in range(3):
            noise = source.integers(-10, 10, (32, 32, 3))
            pixels = (np.array(color) + noise).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "d" / name / f"{number}.png")
    for block in ("patch", "blank", "clean"):
        (folder / "views" / block).mkdir(parents=True)
        for number in range(3):
            pixels = source.integers(0, 60, (64, 64, 3)).astype(np.uint8)
            pixels[8:56, 8:56, 0] += 120
            Image.fromarray(pixels).save(folder / "views" / block / f"{number}.png")


@pytest.fixture(
    params=[
        pytest.param("module", marks=pytest.mark.slow),
        pytest.param("checkpoint", marks=pytest.mark.slow),
        pytest.param("TorchScript", marks=pytest.mark.slow),
        pytest.param("torch.export", marks=pytest.mark.slow),
        "ONNX",
        "ONNX asked",
        "address",
        pytest.param("command kept running", marks=pytest.mark.slow),
    ]
)
def source(request: pytest.FixtureRequest, place: Path) -> Iterator[tuple[str, list[str]]]:
    """A kind of source, and the words that name it."""
    classes = ["--classes", CLASSES]
    program = f"command:{python_words()} command.py"
    scores = ["--outputs", "logits", "--input-size", "32"]
    words = {
        "module": ["red:known", *classes],
        "checkpoint": ["red:make", "--weights", "wrapped.ckpt", *classes],
        "TorchScript": ["red.ts", *classes],
        "torch.export": ["red.pt2", *classes],
        "ONNX": ["red.onnx", *classes],
        "ONNX asked": ["asked.onnx", *classes],
        "command kept running": [f"{program} {{lines}}", *scores, *classes],
    }
    if request.param == "address":
        about = {"classes": CLASSES.split(","), "outputs": "logits", "input_size": [32, 32]}
        with served(ReferenceBox(Red(), about)) as url:
            yield "address", ["--model", url, "--trust"]
    else:
        yield request.param, ["--model", *words[request.param], "--trust"]


def run(folder: Path, *words: str, code: str = "") -> dict[str, Any]:
    """The JSON that a command printed, which must succeed."""
    done = shared_server().run(folder, *words, "--json", faults=Faults(code=code))
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_source_goes_from_attack_to_check(
    place: Path, source: tuple[str, list[str]], tmp_path: Path
) -> None:
    """The same net is attacked, evaluated, given a sticker and checked, whatever it comes in: with
    its gradient where it has one, by its scores where not."""
    kind, model = source
    black, data = kind in BLACK, ["--data", "d"]
    attack = ["square", "--steps", "60"] if black else ["pgd", "--steps", "3"]
    attacked = run(place, "attack", *model, *data, "--attack", *attack, "--eps", "0.4")
    assert attacked["robust_accuracy"]["rate"] < 1

    words = ["--threat", "linf:0.002", "--limit", "2", "--curve", "none"]
    out = ["--out", str(tmp_path / "evaluated")]
    evaluated = run(place, "evaluate", *model, *data, *words, *out)
    assert evaluated["clean_accuracy"]["rate"] == 1

    sticker = str(tmp_path / "sticker")
    small = SMALL_COMMANDS["patch"]
    goal = ["--true-class", "stop", "--goal", "untargeted", "--out", sticker]
    made = run(place, *small.words, *model, *goal, code=small.code)
    assert made["bundle"] == sticker
    blocks = ["views", "--bundle", sticker, "--locate", "box", "--box", "8,8,56,56"]
    checked = run(place, "check", *blocks, *model, "--out", str(tmp_path / "checked"))
    assert checked["blocks"]["clean"]["frames"] == 3
