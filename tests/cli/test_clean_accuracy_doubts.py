"""A clean accuracy of zero or of guessing shows in attack, evaluate, certify and train: terminal,
JSON and page."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import physadv, write_colors
from typer.testing import CliRunner

from physadv_cli.main import app

MODEL = """
import torch
from torch import nn

class Colors(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = 20 * torch.eye(3)[order]

    def forward(self, x):
        return self.head(self.flat(self.pool(x)))

def right():  # blue, green, red: the folders' order
    return Colors([2, 1, 0])

def rotated():
    return Colors([1, 0, 2])
"""
RED = "self-checks failed: not a valid result"
COMMANDS = {
    "attack": ["attack", "--attack", "fgsm", "--threat", "linf:1/255"],
    "evaluate": ["evaluate", "--threat", "linf:1/255", "--curve", "none"],
    "bounds": ["certify", "--method", "crown-ibp", "--threat", "linf:1/255"],
    "smoothing": ["certify", "--threat", "l2", "--sigma", "0.02", "--n", "100", "--n0", "10"],
}


def run(*words: str) -> tuple[dict[str, Any], str]:
    """The JSON and the terminal's text of a command that ends well."""
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), " ".join(done.stderr.split())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the brightest channel, one of another order, and eight images of each class."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "color_order.py").write_text(MODEL)
    write_colors(tmp_path / "data", count=8, side=8, values=(90, 110), lead=3)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_right_is_red_and_ends_with_its_report(place: Path, command: str) -> None:
    """Eight images, none right: exit code 0, a red badge, "not valid" on the terminal, in JSON."""
    words = [*COMMANDS[command], "--model", "color_order:rotated", "--data", "data", "--limit", "8"]
    result, terminal = run(*words, "--out", "run")
    assert result["light"] == "red"
    assert "nothing-right" in [doubt["name"] for doubt in result["doubts"]]
    assert "not valid nothing-right: clean accuracy is zero: none of 8 images" in terminal
    page = (place / "run" / "report.html").read_text()
    assert RED in page
    assert "self-checks passed" not in page


@pytest.mark.parametrize("command", COMMANDS)
def test_few_images_are_amber_and_enough_are_green(place: Path, command: str) -> None:
    """Five of five right leave a doubt; 24 of 24 do not."""
    words = [*COMMANDS[command], "--model", "color_order:right", "--data", "data"]
    for extra, light in (["--limit", "5"], "amber"), ([], "green"):
        result, terminal = run(*words, *extra, "--out", f"run-{light}")
        assert result["light"] == light, result
        assert ("too-few-images" in terminal) == (light == "amber")
        page = (place / f"run-{light}" / "report.html").read_text()
        assert ("self-checks passed" in page) == (light == "green")


def test_training_on_noise_is_in_doubt(tmp_path: Path) -> None:
    """Labels that have nothing to do with the images give a network that guesses; its card says
    so."""
    source = np.random.default_rng(0)
    images = source.integers(0, 256, (300, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", train_images=images, train_labels=source.permutation(300) % 3)
    words = ["--defense", "pgd", "--threat", "linf:0.1", "--epochs", "1", "--batch", "30"]
    data, out = str(tmp_path / "noise.npz"), tmp_path / "run"
    result, terminal = run("train", "--data", data, *words, "--out", str(out))
    assert result["light"] in ("amber", "red")
    assert {doubt["name"] for doubt in result["doubts"]} <= {"at-chance", "nothing-right"}
    assert "clean accuracy is" in terminal
    card = tomllib.loads((out / "model.safetensors.toml").read_text())
    assert card["doubts"] == result["doubts"]


class Brightest(torch.nn.Module):
    """Logits blue, green, red: the mean of each channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * x.mean((2, 3)).flip(1)


@pytest.mark.parametrize(
    ("command", "model", "light", "finding"),
    [
        ("attack", "color_order:rotated", "red", "nothing-right"),
        ("bounds", "color_order:rotated", "red", "nothing-right"),
        ("evaluate", "color_order:swapped", "amber", "at-chance"),
        ("attack", "net.pt", "amber", "below-card"),
        ("smoothing", "net.pt", "amber", "below-card"),
    ],
)
def test_doubts_in_a_process_of_its_own(
    place: Path, command: str, model: str, light: str, finding: str
) -> None:
    """As a user types it: the light in JSON and on the page, the finding on the terminal."""
    with (place / "color_order.py").open("a") as file:
        file.write(
            "\ndef swapped():  # blue and green change places\n    return Colors([1, 2, 0])\n"
        )
    torch.jit.script(Brightest()).save(str(place / "net.pt"))
    sidecar = 'classes = ["blue", "green", "red"]\naccuracy = "99.0%"\n'
    (place / "net.pt.toml").write_text(sidecar)
    if model == "net.pt":  # 18 of 24 right: below the card, and no guess
        for i in range(6):
            source = place / "data" / "green" / f"{i}.png"
            (place / "data" / "red" / f"{i}.png").write_bytes(source.read_bytes())

    words = [*COMMANDS[command], "--model", model, "--data", "data", "--out", "run", "--json"]
    done = physadv(place, *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["light"], result["doubts"][0]["name"]) == (light, finding)
    word = "not valid" if light == "red" else "warning"
    assert f"{word} {finding}: clean accuracy is" in " ".join(done.stderr.split())
    page = (place / "run" / "report.html").read_text()
    assert "self-checks passed" not in page
    assert f"<b>{finding}</b>" in page
