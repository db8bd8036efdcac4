"""Certificates of a published net: the published figure, and no attack beneath it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from physadv.attacks.gradient import pgd
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.verify import prepare_graph, verify_bounds
from physadv.defenses.load_model import load_model
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.models.cards import LoadedModel

EPS = 0.1
PUBLISHED = 0.058
Mnist = tuple[LoadedModel, LayerGraph, Tensor, Tensor]


@pytest.fixture(scope="module")
def mnist(shared_data: Path) -> Mnist:
    """The published net, its graph, and the MNIST test set."""
    folder = shared_data / "mnist"
    pixels = np.frombuffer(
        gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(
        gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    net = load_model(
        "wongkolter-mnist", weights=shared_data / "weights" / "wongkolter_mnist_eps01.pth"
    )
    images = torch.tensor(pixels).view(-1, 1, 28, 28).float() / 255
    return net, prepare_graph(net, (1, 28, 28)), images, torch.tensor(labels).long()


def test_a_part_of_mnist_agrees_with_the_published_certificate(mnist: Mnist) -> None:
    """On 100 images the interval of the certified error holds the published 5.8 %; cutting balls to
    [0, 1] helps."""
    _, graph, images, labels = mnist
    x, y = images[::100], labels[::100]
    whole = verify_bounds(graph, x, y, eps=EPS, method="polytope", limits=None)
    cut = verify_bounds(graph, x, y, eps=EPS, method="polytope")
    error = wilson_interval(int((~whole.certified).sum()), len(y))
    assert error.low <= PUBLISHED <= error.high
    assert cut.certified.sum() >= whole.certified.sum()


@pytest.mark.parametrize("method", ["polytope", "crown"])
def test_no_attack_breaks_what_is_certified(mnist: Mnist, method: str) -> None:
    """PGD at the certified radius leaves every certified image as it was, and does break others
    beyond it."""
    net, graph, images, labels = mnist
    x, y = images[:40], labels[:40]
    certified = verify_bounds(graph, x, y, eps=EPS, method=method).certified
    attacked = pgd(net, x, y, eps=EPS, steps=20)
    assert certified.float().mean() > 0.8
    assert not (attacked.success & certified).any()
    assert (
        pgd(net, x, y, eps=0.4, steps=20).success.float().mean() > 0.5
    )  # the attack can break this net


@pytest.mark.slow
def test_all_of_mnist_gives_the_published_certified_error(mnist: Mnist) -> None:
    """Published for these weights: 5.8 % certified error at 0.1 on the 10,000 test images, 1.80 %
    error."""
    _, graph, images, labels = mnist
    lost, wrong = 0, 0
    for x, y in zip(images.split(50), labels.split(50), strict=True):
        bounded = verify_bounds(graph, x, y, eps=EPS, method="polytope", limits=None)
        lost += int((~bounded.certified).sum())
        wrong += int((bounded.predicted != y).sum())
    assert wrong == 180
    assert 0.055 < lost / len(labels) <= 0.0585
