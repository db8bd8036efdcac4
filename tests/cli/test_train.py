"""`physadv train --defense`: a toy set to a victim that the other commands take, through a kill as
well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from physadv.core.errors import DataError, ModelError, OptionError
from physadv.core.files import sha256_of
from physadv.core.process_group import ProcessGroup
from physadv.core.random_streams import numpy_generator
from physadv.defenses.load_model import load_model
from physadv.training.classifier_recipe import ClassifierRecipe, train_defense
from physadv.training.classifier_task import ClassifierTask
from physadv.training.config import DEFENSE_NAMES, TrainConfig
from physadv.training.data import ShuffledBatches, load_training_data
from physadv.training.methods.by_name import DEFENSES
from physadv_cli.main import app

FAST = ["--epochs", "2", "--batch", "32", "--eps", "0.1"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 12x12 gray images: a bright third of each, with noise."""
    rng = numpy_generator(0, "toy")
    path = tmp_path_factory.mktemp("toy") / "toy.npz"
    parts = {}
    for part, n in (("train", 240), ("test", 60)):
        labels = np.arange(n) % 3
        images = rng.integers(0, 60, (n, 12, 12))
        for image, label in zip(images, labels, strict=True):
            image[:, 4 * label : 4 * label + 4] += 180
        parts |= {
            f"{part}_images": images.astype(np.uint8),
            f"{part}_labels": labels.astype(np.int64),
        }
    np.savez(path, **parts)
    return path


def invoke(*arguments: object) -> str:
    found = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.mark.parametrize("defense", list(DEFENSES))
def test_every_defense_makes_a_model(toy: Path, tmp_path: Path, defense: str) -> None:
    """Weights and a card true of them; the registry loads it, frozen, with the classes of the
    data."""
    out = tmp_path / defense
    result = json.loads(
        invoke("train", "--defense", defense, "--data", toy, *FAST, "--out", out, "--json")
    )
    assert result["finished"] is True
    assert result["sha256"] == sha256_of(out / "model.safetensors")
    model = load_model(result["victim"])
    assert model.card.classes == ("0", "1", "2")
    assert model.card.input_size == (12, 12)
    assert model.card.extra["channels"] == 1
    assert model(torch.rand(2, 3, 20, 20)).shape == (2, 3)
    assert not any(p.requires_grad for p in model.parameters())
    score = {
        "gaussian": "noisy",
        "smoothadv": "noisy",
        "ibp": "certified",
        "crown-ibp": "certified",
        "polytope": "certified",
        "masked": "masked",
    }.get(defense, "robust")
    assert set(result["measured"]) == {"clean", "robust"} | {score}
    assert result["measured"]["robust"]["rate"] <= result["measured"]["clean"]["rate"]


def test_the_other_commands_take_it(toy: Path, tmp_path: Path) -> None:
    """evaluate, attack and certify load the file as any victim, and no attack falls below the
    certificate."""
    out = tmp_path / "ibp"
    invoke(
        "train",
        "--defense",
        "ibp",
        "--arch",
        "small-cnn-bn",
        "--data",
        toy,
        "--epochs",
        12,
        "--batch",
        32,
        "--lr",
        0.01,
        "--eps",
        0.1,
        "--out",
        out,
    )
    model = ["--victim", out / "model.safetensors", "--data", toy]
    robust = json.loads(
        invoke(
            "evaluate",
            *model,
            "--threat",
            "linf:0.1",
            "--curve",
            "none",
            "--out",
            tmp_path / "e",
            "--json",
        )
    )
    bound = json.loads(
        invoke(
            "certify", *model, "--method", "ibp", "--eps", "0.1", "--out", tmp_path / "c", "--json"
        )
    )
    assert bound["certified_accuracy"]["rate"] > 0.5
    assert bound["certified_accuracy"]["rate"] <= robust["robust_accuracy"]["rate"]


def test_a_second_call_goes_on_and_another_run_is_refused(toy: Path, tmp_path: Path) -> None:
    """A finished run is only judged again: same weights; other options with the same folder are an
    error."""
    arguments = ["train", "--defense", "fast", "--data", toy, *FAST, "--out", tmp_path, "--json"]
    first, second = json.loads(invoke(*arguments)), json.loads(invoke(*arguments))
    assert first["sha256"] == second["sha256"]
    with pytest.raises((DataError, OptionError)):
        invoke(*[a if a != "fast" else "pgd" for a in arguments])
    assert TrainConfig.from_toml(tmp_path / "config.toml").defense == "fast"


def test_a_run_is_of_the_images_that_it_began_with(toy: Path, tmp_path: Path) -> None:
    """One pixel of the data set changed under its name is another run; put back, it goes on."""
    data = tmp_path / "toy.npz"
    data.write_bytes(toy.read_bytes())
    arguments = ["train", "--defense", "fast", "--data", data, *FAST, "--out", tmp_path / "run"]
    invoke(*arguments)
    parts = dict(np.load(toy))
    parts["train_images"][7, 0, 0] ^= 1
    np.savez(data, **parts)
    with pytest.raises(OptionError, match="contents of the data"):
        invoke(*arguments)
    data.write_bytes(toy.read_bytes())
    invoke(*arguments)


def test_processes_that_read_other_images_do_not_train_together(toy: Path, tmp_path: Path) -> None:
    """Each machine may have a copy of its own, which has to be the same."""

    class TwoCopies(ProcessGroup):
        def gather(self, value: Any) -> list[Any]:
            return [value, "another"]

    task = ClassifierTask.from_config(TrainConfig(defense="fast", data=str(toy), epochs=1))
    with pytest.raises(OptionError, match="read other images or labels"):
        next(task.run(tmp_path, TwoCopies(0, 2)))


def test_killed_and_resumed_it_is_the_uninterrupted_run(toy: Path, tmp_path: Path) -> None:
    """A real process, killed after its first checkpoint and gone on with, ends with the bytes of a
    run left alone."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = [
        "train",
        "--defense",
        "free",
        "--data",
        str(toy),
        "--epochs",
        "20",
        "--batch",
        "16",
        "--arch",
        "small-cnn-bn",
        "--out",
    ]
    invoke(*arguments, whole)
    with subprocess.Popen(
        [sys.executable, "-m", "physadv_cli.main", *arguments, str(cut)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until = time.monotonic() + 240
        while not (cut / "checkpoint.safetensors").is_file() and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (cut / "model.safetensors").exists()
    invoke(*arguments, cut)
    assert sha256_of(cut / "model.safetensors") == sha256_of(whole / "model.safetensors")


RESUMED = [
    ("free", "sgd"),
    ("fast", "sgd"),
    ("fast", "adamw"),
    ("ibp", "adamw"),
    ("polytope", "adamw"),
    ("smoothadv", "sgd"),
    ("patch", "adamw"),
]


@pytest.mark.parametrize(("defense", "optimizer"), RESUMED)
def test_resumed_in_the_library_to_the_bit(
    toy: Path, tmp_path: Path, defense: str, optimizer: str
) -> None:
    """Stopped in the middle of an epoch: net and average end as if nothing had been, whatever state
    it keeps."""
    material = load_training_data(toy)
    settings = {"every": 3} if defense == "fast" else {}
    recipe = ClassifierRecipe(
        defense, epochs=3, batch=64, judged=12, optimizer=optimizer, lr=0.01, settings=settings
    )
    whole = list(train_defense(recipe, material))[-1]
    for step in train_defense(recipe, material, tmp_path):
        if step.number == whole.total // 2:
            break
    resumed = list(train_defense(recipe, material, tmp_path))
    assert resumed[0].number == whole.total // 3 + 1
    assert resumed[-1].metrics == whole.metrics
    for a, b in zip(
        resumed[-1].average.state_dict().values(), whole.average.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def test_material_never_shares_a_group_and_batches_repeat_themselves(toy: Path) -> None:
    """Held-out images are none of the training ones; a batch's number alone decides it; gray sets
    have one channel."""
    material = load_training_data(toy, validation=0.1)
    assert (material.channels, material.image_size) == (1, 12)
    assert not set(material.train.groups) & set(material.validation.groups)
    assert len(material.train) + len(material.validation) == 240
    batches = ShuffledBatches(material.train, size=50, seed=1, shift=2)
    again = ShuffledBatches(material.train, size=50, seed=1, shift=2)
    again(0)
    assert torch.equal(batches(7)[0], again(7)[0])
    epoch = torch.cat([ShuffledBatches(material.train, size=50, seed=1)(i)[0] for i in range(4)])
    assert len({tuple(x.flatten().tolist()) for x in epoch}) == 200


def test_what_does_not_fit_is_refused(toy: Path, tmp_path: Path) -> None:
    """Batches, shares, sides, architectures and settings: an error that names value, limit and
    remedy."""
    material = load_training_data(toy)
    for wrong in (
        lambda: ClassifierRecipe("pgd", norm="l7"),
        lambda: ClassifierRecipe("pgd", patience=0),
        lambda: ClassifierRecipe("pgd", settings={"sigma": 1.0}),
        lambda: load_training_data(toy, validation=1.5),
        lambda: load_training_data(toy, limit=0),
        lambda: next(train_defense(ClassifierRecipe("pgd", batch=4000), material)),
        lambda: next(
            train_defense(ClassifierRecipe("pgd", batch=32, architecture="resnet"), material)
        ),
        lambda: next(
            train_defense(ClassifierRecipe("pgd", batch=32, architecture="signnet"), material)
        ),
        lambda: next(
            train_defense(ClassifierRecipe("pgd", batch=32), load_training_data(toy, image_size=13))
        ),
    ):
        with pytest.raises(OptionError):
            wrong()


def test_a_weights_file_whose_card_is_wrong_is_refused(toy: Path, tmp_path: Path) -> None:
    """Another architecture on the card, a broken one, and none at all: a ModelError each."""
    invoke("train", "--defense", "standard", "--data", toy, *FAST, "--out", tmp_path)
    file, card = tmp_path / "model.safetensors", tmp_path / "model.safetensors.toml"
    text = card.read_text()
    assert tomllib.loads(text)["architecture"] == "small-cnn"
    for old, new in (
        ('"small-cnn"', '"wide-cnn"'),
        ('"small-cnn"', '"resnet"'),
        ("input_size = 12", "input_size = []"),
    ):
        card.write_text(text.replace(old, new))
        with pytest.raises(ModelError):
            load_model(str(file))
    card.unlink()
    with pytest.raises(ModelError, match="without a model"):
        load_model(str(file))


def test_help_and_usage() -> None:
    """The help has an example; no options, or half of them, are a usage error; `train signs` has a
    help of its own."""
    runner = CliRunner(env={"COLUMNS": "120"})
    assert "physadv train --defense pgd" in runner.invoke(app, ["train", "--help"]).output
    assert runner.invoke(app, ["train"]).exit_code == 2
    assert runner.invoke(app, ["train", "--defense", "pgd"]).exit_code == 2
    assert "physadv train signs" in runner.invoke(app, ["train", "signs", "--help"]).output


def test_a_run_is_recorded_and_repeated(toy: Path, tmp_path: Path) -> None:
    """Older spellings are recorded under their present names; --config trains the same weights."""
    words = ["--held", "0.1", "--steps", "2", "--grow", "0.1", "0.5", "--stretch", "1.5"]
    old = ["train", "--defense", "ibp", "--data", toy, *FAST, "--arch", "small-cnn-bn", *words[:2]]
    first = json.loads(invoke(*old, *words[4:], "--out", tmp_path / "one", "--json"))
    recorded = tomllib.loads((tmp_path / "one" / "config.toml").read_text())
    assert recorded["command"] == "train"
    assert recorded["threat"] == "linf:0.1"
    assert recorded["validation"] == 0.1
    assert recorded["architecture"] == "small-cnn-bn"
    assert (recorded["batch_size"], recorded["grow"]) == (32, [0.1, 0.5])
    assert recorded == TrainConfig.from_toml(tmp_path / "one" / "config.toml").as_table()

    config = tmp_path / "one" / "config.toml"
    again = json.loads(invoke("train", "--config", config, "--out", tmp_path / "two", "--json"))
    assert again["sha256"] == first["sha256"]
    with pytest.raises(OptionError, match="steps for ibp"):
        invoke(*old, *words, "--out", tmp_path / "three")


def test_the_help_names_every_training_method() -> None:
    """The configuration, which must not import torch, has the names of the methods."""
    assert tuple(DEFENSES) == DEFENSE_NAMES
