"""Class names of data that are not the model's are refused or given, on every command that takes
them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import write_colors
from PIL import Image
from typer.testing import CliRunner

from physadv.core.errors import DataError, ModelError, OptionError
from physadv.evaluation.evaluate import evaluate
from physadv_cli.main import app

MODEL = """
import torch
from torch import nn
from physadv import as_model

class Brightest(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Linear(3, outputs, bias=False)
        self.head.weight.data = 20 * torch.eye(3)[[i % 3 for i in range(outputs)]]
        self.head.weight.data[3:] -= 40

    def forward(self, x):
        return self.head(self.flat(self.pool(x)))

def named():
    return as_model(Brightest(3), classes=["Red", "GREEN", "deep_blue"])

def misnamed():
    return as_model(Brightest(3), classes=["red", "green", "blue", "black"])

def turned():
    return as_model(Brightest(3), classes=["green", "blue", "red"])

def unnamed():
    return Brightest(3)

def four():
    return Brightest(4)
"""
NUMBERED_SIGNS = Path(__file__).parents[1] / "datasets" / "gtsrb-by-number.zip"
"""One 32x32 px image of each of GTSRB's classes 0 to 14, in folders of these numbers."""
COMMANDS = {
    "attack": ["attack", "--attack", "fgsm", "--threat", "linf:1/255"],
    "evaluate": ["evaluate", "--threat", "linf:1/255", "--curve", "none"],
    "certify": ["certify", "--method", "crown-ibp", "--threat", "linf:1/255"],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that tells red, green and blue apart, and eight images of each in folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "brightest.py").write_text(MODEL)
    write_colors(tmp_path / "data", count=8, side=8, values=(90, 110), lead=3)
    return tmp_path


def run(*words: str) -> tuple[dict[str, Any], str]:
    """The JSON and the terminal's text of a command that ends well."""
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), " ".join(done.stderr.split())


def refused(*words: str) -> str:
    """The one line of a command that is refused."""
    with pytest.raises(DataError) as error:
        CliRunner().invoke(app, [*words], catch_exceptions=False)
    return str(error.value)


def accuracy(result: dict[str, Any]) -> float:
    return float(result.get("clean_accuracy", result.get("accuracy"))["rate"])


@pytest.mark.parametrize("command", COMMANDS)
def test_names_that_do_not_agree_are_refused_until_given(place: Path, command: str) -> None:
    """'blue' is not 'deep_blue': refused with the mapping; by a map all is right; in-order says
    what it does; terminal, JSON, environment.json and page say what the data were taken for."""
    words = [*COMMANDS[command], "--model", "brightest:named", "--data", "data", "--out"]
    text = refused(*words, "no")
    assert "'blue' = ? (is it 'deep_blue'?)" in text
    assert "these agree: 'green' = GREEN, 'red' = Red" in text
    assert not Path("no").exists()

    Path("map.toml").write_text('blue = "deep blue"\nred = 0\ngreen = "green"\n')
    result, terminal = run(*words, "mapped", "--labels", "map.toml")
    assert accuracy(result) > 0.9
    said = "class folders, no parts: all of it; 24 images of 3 classes: blue 8, green 8, red 8"
    assert said in terminal
    assert "classes by the label map: blue = deep_blue, green = GREEN, red = Red" in terminal
    assert result["data_summary"]["class_mapping"]["blue"] == "deep_blue"
    assert result["data_summary"]["images_by_class"] == {"blue": 8, "green": 8, "red": 8}
    recorded = json.loads((place / "mapped" / "environment.json").read_text())
    assert recorded["data_summary"] == result["data_summary"]
    page = (place / "mapped" / "report.html").read_text()
    assert "blue = deep_blue" in page
    assert "24 images of 3 classes" in page

    result, terminal = run(*words, "ordered", "--labels", "in-order")
    assert 0.3 < accuracy(result) < 0.4
    assert "in order, as asked for: blue = Red, green = GREEN, red = deep_blue" in terminal
    assert result["doubts"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_without_names_gets_no_guess(place: Path, command: str) -> None:
    """Three folders for four outputs are refused; for three the order is said; numbered folders are
    numbers."""
    words = [*COMMANDS[command], "--data", "data", "--model"]
    assert "has 4 classes without names" in refused(*words, "brightest:four", "--out", "no")
    result, terminal = run(*words, "brightest:unnamed", "--out", "ordered")
    assert "in order, since the model has no names: blue = 0, green = 1, red = 2" in terminal
    assert result["light"] == "amber"  # blue is not the first channel

    for number, name in enumerate(("red", "green", "blue")):
        (place / "data" / name).rename(place / "data" / f"{number:02d}")
    result, terminal = run(*words, "brightest:four", "--out", "numbered")
    assert accuracy(result) > 0.9
    assert "classes by number, 3 of the model's 4" in terminal


def test_folders_above_nine_are_sorted_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traffic signs in folders 0 to 14 are GTSRB's classes of these numbers: 10 does not come
    before 2."""
    monkeypatch.chdir(tmp_path)
    source = np.random.default_rng(0)
    for i in range(15):
        (tmp_path / "data" / str(i)).mkdir(parents=True)
        pixels = source.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / str(i) / "0.png")
    words = ["--data", "data", "--attack", "fgsm", "--eps", "1/255", "--out", "run"]
    result, terminal = run("attack", "--model", "signs", *words)
    assert result["data_summary"]["class_mapping"]["10"] == "no passing for trucks"
    assert result["data_summary"]["class_mapping"]["14"] == "stop"
    assert "by the numbers of GTSRB, 15 of the model's 44: 0 = speed limit 20" in terminal
    rows = [json.loads(line) for line in (tmp_path / "run" / "rows.jsonl").open()]
    assert {Path(row["image"]).parent.name: row["label"] for row in rows} == {
        str(i): i for i in range(15)
    }


def test_real_signs_in_numbered_folders_are_recognized() -> None:
    """GTSRB images in folders 0 to 14 are what `signs` reads in them; sorted as text, 10 before 2,
    only 0 and 1 would keep their places."""
    result = evaluate("signs", NUMBERED_SIGNS, "linf:1/255", attack="fgsm")
    assert result.clean_accuracy.rate >= 14 / 15
    assert not [finding for finding in result.findings if finding.light != "green"]


def test_another_map_is_another_run(place: Path) -> None:
    """A finished folder is not taken for the result under another map."""
    words = [*COMMANDS["attack"], "--model", "brightest:named", "--data", "data", "--out", "run"]
    Path("map.toml").write_text("blue = 2\nred = 0\ngreen = 1\n")
    run(*words, "--labels", "map.toml")
    Path("map.toml").write_text("blue = 0\nred = 2\ngreen = 1\n")
    done = CliRunner().invoke(app, [*words, "--labels", "map.toml"])
    assert done.exit_code != 0


def test_training_takes_the_names_it_is_given(place: Path) -> None:
    """--labels renames the classes of the training data; the card has the new names and what the
    data were taken for."""
    Path("map.toml").write_text('blue = "sky"\nred = "fire"\ngreen = "grass"\n')
    words = ["--data", "data", "--labels", "map.toml", "--epochs", "1", "--batch", "8"]
    result, terminal = run("train", "--defense", "standard", *words, "--out", "run")
    card = tomllib.loads((place / "run" / "model.safetensors.toml").read_text())
    assert card["classes"] == result["classes"] == ["sky", "grass", "fire"]
    assert card["data_summary"]["images_by_class"] == {"sky": 8, "grass": 8, "fire": 8}
    assert "24 images of 3 classes: sky 8, grass 8, fire 8" in terminal


@pytest.mark.parametrize("command", COMMANDS)
def test_a_card_of_other_classes_than_the_logits_is_refused(place: Path, command: str) -> None:
    """Four names for three logits: which name is which logit's cannot be told."""
    words = [*COMMANDS[command], "--model", "brightest:misnamed", "--data", "data"]
    with pytest.raises(ModelError, match="3 logits: its card names 4 classes"):
        CliRunner().invoke(app, [*words, "--out", "no"], catch_exceptions=False)


def test_a_surrogate_with_the_classes_in_another_order_is_refused(place: Path) -> None:
    """Its gradients towards class 0 would be those of another class."""
    Path("map.toml").write_text("blue = 2\nred = 0\ngreen = 1\n")
    words = [*COMMANDS["attack"], "--model", "brightest:named", "--data", "data", "--labels"]
    with pytest.raises(OptionError, match="class 0: 'green': the model's is 'Red'"):
        CliRunner().invoke(
            app,
            [*words, "map.toml", "--surrogate", "brightest:turned", "--out", "no"],
            catch_exceptions=False,
        )
