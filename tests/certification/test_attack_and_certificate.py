"""No attack breaks what is certified: on nets trained here (slow), and in the rows of the
benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from physadv.attacks._classifier_step import frozen_eval
from physadv.attacks.gradient import pgd
from physadv.certification.bounds.verify import METHODS, prepare_graph, verify_bounds
from physadv.certification.smoothing.certify import certify_image, predict_smoothed
from physadv.certification.smoothing.noise import GaussianNoise
from physadv.core.random_streams import generator
from physadv.core.rows import read_rows
from physadv.evaluation.ensemble import attack_ensemble
from physadv.training.classifier_recipe import ClassifierRecipe, train_defense
from physadv.training.data import TrainingData, load_training_data
from physadv.training.methods._inner_maximization import ascend_loss

ROWS = Path(__file__).resolve().parents[2] / "benchmarks" / "defenses.jsonl"


def trained(recipe: ClassifierRecipe, material: TrainingData) -> nn.Module:
    """The averaged net at the end of a run."""
    last = list(train_defense(recipe, material))[-1]
    assert isinstance(last.average, nn.Module)
    return last.average


@pytest.fixture(scope="module")
def material(shared_data: Path) -> TrainingData:
    return load_training_data(shared_data / "mnist", limit=2000)


@pytest.mark.slow
@pytest.mark.parametrize("defense", ["standard", "pgd", "ibp", "crown-ibp", "polytope"])
def test_no_attacked_accuracy_falls_below_a_certified_one(
    material: TrainingData, defense: str
) -> None:
    """Image by image: certified by any bound at this eps means that PGD and the ensemble fail, for
    every net."""
    norm = "-bn" if "ibp" in defense else ""
    net = trained(
        ClassifierRecipe(defense, epochs=6, batch=32, lr=4e-3, architecture=f"small-cnn{norm}"),
        material,
    )
    images, labels = material.validation.floats(slice(0, 40))
    graph = prepare_graph(net, (1, 28, 28))
    some = 0
    for eps in (0.02, 0.1):
        whole = ~attack_ensemble(net, images, labels, eps=eps).success
        whole &= ~pgd(net, images, labels, eps=eps, steps=40, restarts=2).success
        for method in METHODS:
            certified = verify_bounds(graph, images, labels, eps=eps, method=method).certified
            assert not bool((certified & ~whole).any()), (method, eps)
            some += int(certified.sum())
    assert some > 0 or defense == "standard"


@pytest.mark.slow
def test_no_attack_on_the_smoothed_classifier_goes_beyond_its_certificate(
    material: TrainingData,
) -> None:
    """Attacked within the certified l_2 radius, the vote stays or abstains; it never names another
    class."""
    net = trained(
        ClassifierRecipe("gaussian", epochs=6, batch=32, settings={"sigma": 0.25}), material
    )
    images, labels = material.validation.floats(slice(0, 20))
    noise = GaussianNoise(0.25)
    draws = 0.25 * torch.randn((8, 1, 1, 28, 28), generator=generator(0, "attack"))
    certified = 0
    for i, (image, label) in enumerate(zip(images[:, None], labels, strict=True)):
        found = certify_image(net, image, noise, n0=64, n=2000, index=i)
        if found.predicted < 0 or found.radius == 0:
            continue
        certified += 1

        def smoothed(x: Tensor, own: int = found.predicted) -> Tensor:
            return -net((x + draws).flatten(0, 1)).log_softmax(1)[:, own].logsumexp(0)

        with frozen_eval(net):
            moved = ascend_loss(
                smoothed, image, eps=found.radius, norm="l2", steps=20, step_size=found.radius / 5
            )
        assert predict_smoothed(net, moved, noise, n=2000, index=i) in (found.predicted, -1), int(
            label
        )
    assert certified > 10


def test_the_rows_of_the_benchmark_agree_with_themselves() -> None:
    """Every run: what a bound certifies no attack broke, what an attack spared was right, the
    ensemble is no weaker."""
    runs: dict[str, list[dict[str, int]]] = {}
    for row in read_rows(ROWS):
        if "index" in row:
            runs.setdefault(str(row["run"]), []).append(
                {k: v for k, v in row.items() if isinstance(v, int)}
            )
    assert runs
    for name, rows in runs.items():
        assert len(rows) >= 500, name
        for row in rows:
            certified, ensembled = row.get("certified", 0), row.get("ensemble", row["clean"])
            assert certified <= row["pgd"] <= row["clean"], (name, row)
            assert certified <= ensembled <= row["clean"], (name, row)
        both = [r for r in rows if "ensemble" in r]
        assert sum(r["ensemble"] for r in both) <= sum(r["pgd"] for r in both) + 2, name
