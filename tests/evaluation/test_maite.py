"""MAITE's protocols, with the package itself: its runner takes ours, and ours takes its own."""

# ruff: noqa: RUF012 - MAITE's components have their metadata as a class attribute

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import physadv
from physadv.core.errors import DataError, ModelError
from physadv.core.types import Detections
from physadv.datasets.base import ImageDataset, in_memory
from physadv.datasets.detection import DetectionDataset, detection_in_memory
from physadv.evaluation.detector_evaluation import evaluate_detector
from physadv.evaluation.maite import (
    BoxTarget,
    MaiteAttack,
    MaiteAveragePrecision,
    MaiteDataset,
    MaiteModel,
    from_maite_dataset,
    from_maite_model,
)
from physadv.models.cards import LoadedModel
from physadv.models.load import as_model

maite = pytest.importorskip("maite", reason="the extra dev brings maite")
from maite.protocols import image_classification as ic  # noqa: E402
from maite.protocols import object_detection as od  # noqa: E402
from maite.tasks import evaluate, predict  # noqa: E402


class Colors(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 20 * x.mean((2, 3))


class Bright(nn.Module):
    """One box that covers the image; its score follows the brightness."""

    def forward(self, x: Tensor) -> Detections:
        score = (30 * (x.mean((1, 2, 3)) - 0.4)).sigmoid()[:, None, None]
        return Detections(x.new_tensor([[[0.0, 0, 8, 8]]]).repeat(len(x), 1, 1), score)


def classifier() -> LoadedModel:
    return as_model(Colors(), name="colors", classes=["red", "green", "blue"])


def detector() -> LoadedModel:
    return as_model(Bright(), name="bright", task="detect", classes=["lamp"])


def pictures() -> ImageDataset:
    images = np.full((6, 8, 8, 3), 120, np.uint8)
    for i in range(6):
        images[i, ..., i % 3] += 6
    return in_memory(images, np.arange(6) % 3, ("red", "green", "blue"), "colors")


def scenes() -> DetectionDataset:
    images = [np.full((8, 8, 3), level, np.uint8) for level in (110, 130, 150)]
    boxes = [np.array([[0, 0, 8, 8]], np.float32)] * 3
    return detection_in_memory(images, boxes, [np.array([0])] * 3, ("lamp",))


class Accuracy:
    """A metric of MAITE's protocol."""

    metadata = {"id": "accuracy"}

    def __init__(self) -> None:
        self.hits: list[bool] = []

    def reset(self) -> None:
        self.hits = []

    def update(self, preds: Any, targets: Any, about: Any) -> None:
        self.hits += [
            int(np.argmax(p)) == int(np.argmax(t)) for p, t in zip(preds, targets, strict=True)
        ]

    def compute(self) -> dict[str, Any]:
        return {"accuracy": float(np.mean(self.hits))}


def test_ours_are_what_the_protocols_ask_for() -> None:
    """By MAITE's own runtime checks."""
    assert isinstance(MaiteModel(classifier()), ic.Model)
    assert isinstance(MaiteModel(detector()), od.Model)
    assert isinstance(MaiteDataset(pictures()), ic.Dataset)
    assert isinstance(MaiteDataset(scenes()), od.Dataset)
    assert isinstance(MaiteDataset(scenes())[0][1], od.ObjectDetectionTarget.__origin__)
    assert isinstance(MaiteAttack(classifier()), ic.Augmentation)
    assert isinstance(MaiteAveragePrecision(), od.Metric)


@pytest.mark.parametrize("scale", [1, 255])
def test_maite_evaluates_our_classifier_clean_and_attacked(scale: Any) -> None:
    """Accuracy 1 before and 0 behind the attack, which keeps the ball in either scale."""
    model, data = MaiteModel(classifier()), MaiteDataset(pictures(), scale=scale)
    clean, _, _ = evaluate(model=model, dataset=data, metric=Accuracy(), batch_size=4)
    assert clean["accuracy"] == 1.0
    attack = MaiteAttack(classifier(), "linf:8/255", steps=5)
    attacked, _, moved = evaluate(
        model=model,
        dataset=data,
        metric=Accuracy(),
        augmentation=attack,
        batch_size=4,
        return_augmented_data=True,
    )
    assert attacked["accuracy"] == 0.0
    own = [image for batch in moved for image in batch[0]]
    for image, (before, _, _) in zip(own, data, strict=True):
        assert image.dtype == before.dtype
        far = np.abs(image.astype(np.float64) - before.astype(np.float64)).max()
        assert far <= (8 if scale == 255 else 8 / 255) + 1e-6


def test_maite_evaluates_our_detector_clean_and_attacked() -> None:
    """AP50 by our metric, in MAITE's runner; hidden boxes are gone."""
    model, data = MaiteModel(detector()), MaiteDataset(scenes())
    clean, _, _ = evaluate(model=model, dataset=data, metric=MaiteAveragePrecision())
    assert clean["ap50"] == 1.0
    attack = MaiteAttack(detector(), "linf:0.4", steps=5, goal="hide")
    attacked, _, _ = evaluate(
        model=model, dataset=data, metric=MaiteAveragePrecision(), augmentation=attack
    )
    assert attacked["ap50"] == 0.0
    assert attacked["objects"] == 3


def test_our_evaluation_takes_maites_model_and_data() -> None:
    """Wrapped back, both give the rows of the originals; a model of NumPy is a black box."""
    data = from_maite_dataset(MaiteDataset(pictures()))
    assert isinstance(data, ImageDataset)
    assert [pixels.tolist() for pixels, _ in data] == [p.tolist() for p, _ in pictures()]

    class Torch:
        metadata = {"id": "torch", "index2label": {0: "red", 1: "green", 2: "blue"}}

        def __call__(self, batch: Any) -> Any:
            return list((20 * torch.stack(list(batch)).mean((2, 3))).softmax(1))

    whole = physadv.evaluate(from_maite_model(Torch()), data, "linf:8/255", attack="pgd")
    same = physadv.evaluate(classifier(), pictures(), "linf:8/255", attack="pgd")
    assert whole.robust_accuracy == same.robust_accuracy
    assert whole.clean_accuracy.rate == 1
    blind = physadv.evaluate(
        from_maite_model(MaiteModel(classifier())), data, "linf:8/255", attack="square", steps=200
    )
    assert blind.robust_accuracy.rate == 0
    assert any(finding.name == "no-gradient" for finding in blind.findings)


def test_our_detector_evaluation_takes_maites_model_and_data() -> None:
    """Scores a box or scores a class and box; boxes stay where they are."""
    data = from_maite_dataset(MaiteDataset(scenes()), task="detect")
    assert isinstance(data, DetectionDataset)

    class Wide:
        metadata = {"id": "wide", "index2label": {0: "lamp", 1: "other"}}

        def __call__(self, batch: Any) -> Any:
            score = [float(30 * (x.mean() - 0.4)) for x in batch]
            box = np.array([[0, 0, 8, 8]], np.float32)
            probability = [1 / (1 + np.exp(-s)) for s in score]
            return [BoxTarget(box, np.array([0]), np.array([[p, 0.0]])) for p in probability]

    for model in (Wide(), MaiteModel(detector())):
        wrapped = from_maite_model(model, task="detect")
        result = evaluate_detector(
            wrapped, data, "linf:0.55", goals=["hide"], attack="square", steps=600
        )
        assert result.clean.ap50.value == 1.0
        assert result.goals["hide"].recall.rate == 0.0


def test_predictions_go_through_maite_unchanged() -> None:
    """`predict` of MAITE on our data set gives what the model itself gives."""
    batches, _ = predict(model=MaiteModel(classifier()), dataset=MaiteDataset(pictures()))
    with torch.no_grad():
        images = torch.tensor(np.stack([p for p, _ in pictures()])).permute(0, 3, 1, 2) / 255
        expected = classifier()(images).softmax(1)
    found = np.stack([answer for batch in batches for answer in batch])
    assert np.allclose(found, expected.numpy(), atol=1e-6)


def test_what_is_wrong_is_named() -> None:
    """A detector without class names, a datum of another form, an image out of range."""

    class Nameless:
        metadata = {"id": "x"}

        def __call__(self, batch: Any) -> Any:
            return []

    with pytest.raises(ModelError, match="classes must be known"):
        from_maite_model(Nameless(), task="detect")
    with pytest.raises(ModelError, match="0 targets for 1 image: "):
        from_maite_model(Nameless(), classes=["a", "b"])(torch.rand(1, 3, 4, 4))
    with pytest.raises(DataError, match="datum 0"):
        from_maite_dataset([3])

    class Wrong:
        metadata = {"id": "w", "index2label": {0: "a", 1: "b"}}

        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> Any:
            return np.full((3, 2, 2), -4.0), np.array([1.0, 0.0]), {"id": 0}

    with pytest.raises(DataError, match="outside"):
        from_maite_dataset(Wrong()).read(0)
