"""Examination of a model: what is found where images are read wrongly, and what is never said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import physadv as program
from PIL import Image
from torch import Tensor, nn

import physadv
from physadv.core.types import Detections
from physadv.datasets.base import in_memory
from physadv.evaluation.data import open_samples
from physadv.evaluation.model_check import (
    answer_pictures,
    examine_accuracy,
    model_facts,
    picture_findings,
)
from physadv.models.cards import ModelCard

COLORS = ("red", "green", "blue")


class ByChannel(nn.Module):
    """Ten times the mean of each channel."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2)) -> None:
        super().__init__()
        self.order = list(order)

    def forward(self, images: Tensor) -> Tensor:
        return 10 * images.mean((2, 3))[:, self.order]


class ByLight(nn.Module):
    """Light where the mean of what it is given is positive, else dark."""

    def forward(self, images: Tensor) -> Tensor:
        light = images.mean((1, 2, 3))
        return torch.stack([light, -light], 1)


def colored(n: int = 60) -> object:
    """Images in which the channel of their class leads."""
    source = np.random.default_rng(0)
    labels = np.arange(n) % 3
    images = source.integers(60, 120, (n, 8, 8, 3), np.uint8)
    images[np.arange(n), :, :, labels] += 60
    return in_memory(images, labels, COLORS, "colors")


def lit(n: int = 60) -> object:
    """Dark and light images."""
    source = np.random.default_rng(0)
    labels = np.arange(n) % 2
    images = source.integers(150, 200, (n, 8, 8, 3), np.uint8)
    images[labels == 1] -= 120
    return in_memory(images, labels, ("light", "dark"), "light")


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, object], Callable[[], object], set[str]]]
CASES = {
    "as it should be": (ByChannel, {"classes": COLORS}, colored, set()),
    "blue first": (
        lambda: ByChannel((2, 1, 0)),
        {"classes": COLORS},
        colored,
        {"at-chance", "read-otherwise: Give --bgr", "class-order"},
    ),
    "another order": (
        lambda: ByChannel((1, 2, 0)),
        {"classes": COLORS},
        colored,
        {"nothing-right", "class-order"},
    ),
    "not normalized": (
        ByLight,
        {"classes": ("light", "dark")},
        lit,
        {"at-chance", "read-otherwise: Give --mean"},
    ),
    "normalized in vain": (
        ByLight,
        {"classes": ("light", "dark"), "mean": 0.02},
        lit,
        {"at-chance"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_wrongly_is_found_by_labeled_images(name: str) -> None:
    """Swapped colors, a missing normalization and another order of classes, and nothing else."""
    make, settings, data, expected = CASES[name]
    model = physadv.as_model(make(), **settings)  # type: ignore[arg-type]
    accuracy, findings = examine_accuracy(model, open_samples(data(), model.card))
    texts = [f"{f.name}: {f.remedy}" for f in findings]
    assert len(texts) == len(expected)
    assert all(any(text.startswith(wanted) for text in texts) for wanted in expected), texts
    assert accuracy.rate.n == 60


def pictures(n: int = 5) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(0)
    return {f"{i}.png": torch.rand(3, 20, 30 + i, generator=source) for i in range(n)}


def names_of(model: physadv.LoadedModel) -> set[str]:
    return {f.name for f in picture_findings(model, answer_pictures(model, pictures()))}


def test_an_untrained_net_is_doubted() -> None:
    """Statistics of a new network, one answer to everything, and no preference for any class."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 20),
    )
    model = physadv.as_model(net, classes=[f"c{i}" for i in range(20)])
    assert names_of(model) == {"untrained-statistics", "one-answer", "no-preference"}
    assert names_of(physadv.load_model("signs")) <= {"one-answer"}


class Elsewhere(nn.Module):
    """A classifier of another device than the CPU, whose answers it gives there."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))

    def forward(self, images: Tensor) -> Tensor:
        assert images.device == self.weight.device
        return torch.eye(3)[:1].expand(len(images), 3)


def test_images_are_read_otherwise_on_the_models_device() -> None:
    """A network without preprocessing of ours is asked with its colors swapped where it lies."""
    model = physadv.LoadedModel(Elsewhere(), ModelCard("elsewhere", classes=COLORS))
    accuracy, _ = examine_accuracy(model, open_samples(colored(), model.card))
    assert list(accuracy.variants) == ["with red and blue swapped"]
    assert accuracy.variants["with red and blue swapped"] == accuracy.rate


class TwoBoxes(nn.Module):
    """A detector of two boxes of one class that overlap by 0.6."""

    def forward(self, images: Tensor) -> Detections:
        boxes = torch.tensor([[[0.0, 0, 16, 16], [4, 0, 20, 16]]])
        return Detections(boxes, torch.tensor([[[0.9], [0.8]]]))


@pytest.mark.parametrize(("overlap", "boxes"), [(0.5, 1), (0.7, 2)])
def test_boxes_are_those_of_the_detectors_own_settings(overlap: float, boxes: int) -> None:
    """The overlap over which a box is dropped is that of its card, as everywhere else."""
    card = ModelCard("two", "detect", ("sign",), extra={"nms_iou": overlap})
    (answer,) = answer_pictures(physadv.LoadedModel(TwoBoxes(), card), pictures(1))
    assert len(answer.boxes) == boxes


class Declaring(ByChannel):
    """A net with a mean of its own, which it uses or not."""

    mean: Tensor

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.used = used
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - self.mean if self.used else images)


def test_a_declared_normalization_that_nobody_uses_is_found() -> None:
    """A buffer that changes nothing, or the configuration of timm; one in use is none."""
    assert "unused-normalization" in names_of(physadv.as_model(Declaring(used=False)))
    assert "unused-normalization" not in names_of(physadv.as_model(Declaring(used=True)))
    net = ByChannel()
    net.default_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}  # type: ignore[assignment]
    (found,) = picture_findings(physadv.as_model(net), [])
    assert "--mean 0.5,0.5,0.5 --std 0.2,0.2,0.2" in found.remedy
    assert "unused-normalization" not in names_of(physadv.as_model(net, mean=0.5, std=0.2))


def test_facts_say_how_images_are_read() -> None:
    """Size, normalization, order of the colors, classes and parameters."""
    model = physadv.as_model(ByChannel(), classes=COLORS, mean=0.5, bgr=True, input_size=16)
    facts = model_facts(model, torch.rand(1, 3, 20, 20))
    assert "16x16" in facts["input"]
    assert facts["normalization"] == "minus 0.5, divided by 1; blue, green, red"
    assert facts["classes"] == "3: red, green, blue"
    assert facts["speed"].endswith("ms an image, one at a time")


def test_the_program_writes_a_page_and_calls_nothing_sound_untested(tmp_path: Path) -> None:
    """Without labels it says that nothing was tested; with them, the accuracy; the page has both
    and the pictures."""
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom physadv import as_model\nclass Net(torch.nn.Module):\n"
        "    def forward(self, x):\n        return 10 * x.mean((2, 3))\n"
        "def make():\n    return as_model(Net(), classes=['red', 'green', 'blue'])\n"
    )
    data = colored(30)
    for i in range(30):
        pixels, label = data[i]  # type: ignore[index]
        folder = tmp_path / "data" / COLORS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    first = program(tmp_path, "models", "check", "mine:make", "--json")
    assert "not tested" in first.stderr
    assert "sound" not in first.stderr
    words = ["--photos", "data/red", "--data", "data", "--html", "page.html", "--json"]
    done = program(tmp_path, "models", "check", "mine:make", *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["accuracy"]["rate"] == 1
    assert [d["name"] for d in result["doubts"]] == ["one-answer"]
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 10
    assert "as it is read now" in page
    assert "red" in page


def test_photos_are_taken_from_every_folder_and_a_better_way_is_told(tmp_path: Path) -> None:
    """A dozen of many photos, some of each folder, under names that tell them apart; another way
    to read images that is right more often, though few images do not prove it, stands beside the
    accuracy."""
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom physadv import as_model\nclass Net(torch.nn.Module):\n"
        "    def forward(self, x):\n        return 10 * x.flip(1).mean((2, 3))\n"
        "def make():\n    return as_model(Net(), classes=['red', 'green', 'blue'])\n"
    )
    for number, name in enumerate(("red", "green")):
        for i in range(20):
            pixels = np.full((8, 8, 3), 10 * number, np.uint8)
            pixels[..., number] = 100 + i
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    words = ["--photos", "data", "--data", "data", "--limit", "4", "--json"]
    done = program(tmp_path, "models", "check", "mine:make", *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    shown = [name.partition("/")[0] for name in result["answers"]]
    assert shown.count("red") == shown.count("green") == 6
    assert result["accuracy"]["rate"] < 1
    assert "do not tell apart" in " ".join(done.stderr.split())
