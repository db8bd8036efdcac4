"""Study ``features``: the sets hold what they claim, and the page says what the rows say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row
from physadv.studies.brittle_features import STUDY, features_of
from physadv.studies.brittle_features_page import TRAININGS, _claims
from physadv.studies.feature_sets import inverted_set, mislabeled_set
from physadv.studies.learning_studies_config import FeaturesConfig
from physadv.studies.small_architectures import SmallResNet
from physadv.studies.small_classifiers import predict
from physadv.studies.study import run_study, study_rows
from physadv.training.data import ImageSubset

CLASSES = 3


def stripes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) of faint stripes in noise, three directions."""
    draws = numpy_generator(0, "stripes", n)
    line = np.sin(np.arange(32) * 1.5)
    waves = np.stack([np.tile(line, (32, 1)), np.tile(line[:, None], (1, 32)), np.zeros((32, 32))])
    labels = np.arange(n) % CLASSES
    images = 128 + 30 * waves[labels][..., None] + draws.normal(0, 25, (n, 32, 32, 3))
    return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


@pytest.fixture(scope="module")
def part() -> ImageSubset:
    images, labels = stripes(240)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return ImageSubset(pixels, torch.from_numpy(labels), tuple(map(str, range(240))))


def linear(outputs: int, seed: int) -> nn.Sequential:
    """A fixed random linear map of images, with rows of length about 1."""
    layer = nn.Linear(3 * 32 * 32, outputs).requires_grad_(False)
    draws = numpy_generator(seed).standard_normal((outputs, 3 * 32 * 32)) / 3072**0.5
    layer.weight.copy_(torch.from_numpy(draws.astype(np.float32)))
    layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def test_a_mislabeled_image_is_near_its_original_and_seen_as_its_label(part: ImageSubset) -> None:
    """No change is longer than eps, up to rounding, and a linear network sees the new labels."""
    net = linear(CLASSES, 1)
    targets = (part.labels + 1) % CLASSES
    changed = mislabeled_set(net, part, targets, eps=3.0, steps=8)
    before, after = (p.images.float() / 255 for p in (part, changed))
    rounding = 0.5 / 255 * before[0].numel() ** 0.5
    assert float((after - before).flatten(1).norm(dim=1).max()) <= 3.0 + rounding
    assert torch.equal(changed.labels, targets)
    agreed = [float((predict(net, x) == targets).float().mean()) for x in (before, after)]
    assert agreed[1] > 0.95 > 0.6 > agreed[0]


def test_an_inverted_image_has_the_features_of_its_original(part: ImageSubset) -> None:
    """The search brings features near, while the image stays nearer to where it began."""
    features = linear(4, 2)
    starts = torch.arange(len(part)).roll(1)
    found = inverted_set(features, part, starts, steps=30, path=4.0)
    original, begun, ended = (
        x.float() / 255 for x in (part.images, part.images[starts], found.images)
    )
    wanted = features(original)
    near, far = ((features(x) - wanted).norm(dim=1).mean() for x in (ended, begun))
    assert float(near) < 0.2 * float(far)
    ways = [(ended - x).flatten(1).norm(dim=1).mean() for x in (begun, original)]
    assert ways[0] < ways[1]
    assert torch.equal(found.labels, part.labels)


def test_features_are_what_the_last_layer_sees() -> None:
    """The head applied to the features gives the logits."""
    net = SmallResNet(3, CLASSES, 4).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(net.head(features_of(net, images)), net(images), atol=1e-6)


def test_a_quick_run_makes_a_page_that_follows_its_rows(tmp_path: Path) -> None:
    """The answer turns with the rows: generalizes or not, more robust or not."""
    images, labels = stripes(260)
    test_images, test_labels = stripes(60)
    file = tmp_path / "stripes.npz"
    np.savez(
        file,
        train_images=images,
        train_labels=labels,
        test_images=test_images,
        test_labels=test_labels,
    )
    config = FeaturesConfig(data=str(file), quick=True)
    list(run_study(STUDY, config, tmp_path / "run"))
    rows = study_rows(STUDY, config, tmp_path / "run")
    page = STUDY.page(config, rows)
    assert len(page.figures) == 5
    for figure in page.figures:
        for line in getattr(figure, "rows", ()):
            files = [picture.file for picture in line if hasattr(picture, "file")]
            assert all((tmp_path / "run" / name).is_file() for name in files)

    rows["objects-random-labels"][0] |= {"right": 600, "tested": 1000, "most_frequent": 340}
    rows["objects-standard"][0] |= {"withstood": [5, 1], "attacked": 100}
    rows["objects-robust-set"][0] |= {"withstood": [50, 20], "attacked": 100}
    changed = STUDY.page(config, rows)
    assert "mislabeled generalizes" in changed.answer
    assert "makes standard training more robust than the unchanged one (+45.0" in changed.answer
    rows["objects-random-labels"][0] |= {"right": 345}
    assert "does not measurably generalize" in STUDY.page(config, rows).answer


def test_each_claim_has_its_direction_and_a_reason_where_it_differs() -> None:
    """The paper's, the opposite, or not told apart, by the interval of the difference."""
    counts = {"right": 600, "tested": 1000, "most_frequent": 340, "next": 300, "train": 7000}

    def row() -> Row:
        return {**counts, "seen_as": [90, 100], "withstood": [5, 1], "attacked": 100}

    own = {training: row() for training in TRAININGS}
    own["next-labels"]["right"] = 250
    own["robust-set"]["withstood"] = [50, 20]
    own["brittle-set"]["withstood"] = [49, 20]
    claims = _claims(FeaturesConfig(data="cifar10.zip"), "objects", own)
    directions = [claim.reason.partition(". ")[0].removeprefix("Direction: ") for claim in claims]
    assert directions == [
        "the paper's",
        "the opposite",
        "the paper's",
        "not told apart from none",
    ]
    assert "named so" in claims[1].reason
