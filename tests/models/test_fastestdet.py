"""FastestDet: the published weights fit, real photos are detected, gradients are finite and reach
the image only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from physadv.core.image_io import list_images, read_image
from physadv.core.types import Detections
from physadv.defenses.load_model import load_model
from physadv.models.architectures.fastestdet import FastestDet, decode_boxes, decode_scores
from physadv.models.cards import LoadedModel
from physadv.models.detectors import best_of_class, non_maximum_suppression

STOP = 11


@pytest.fixture(scope="module")
def detector(shared_data: Path) -> LoadedModel:
    return load_model("fastestdet", weights=shared_data / "weights" / "fastestdet_coco.pth")


def predict(model: LoadedModel, images: torch.Tensor) -> Detections:
    found = model(images)
    assert isinstance(found, Detections)
    return found


def test_candidates_are_dense_and_in_pixels_of_the_image_given() -> None:
    """A 200x300 image has 484 candidates whose centers lie within a cell of the image; scores lie
    in [0, 1]."""
    found = FastestDet().eval()(torch.rand(2, 3, 200, 300))
    assert found.boxes.shape == (2, 484, 4)
    assert found.scores.shape == (2, 484, 80)
    center = (found.boxes[..., :2] + found.boxes[..., 2:]) / 2
    limit = torch.tensor([300.0, 200.0])
    assert bool((center > -limit / 22).all())
    assert bool((center < limit * 23 / 22).all())
    assert bool(((found.scores >= 0) & (found.scores <= 1)).all())


def test_boxes_decode_by_hand() -> None:
    """Raw zeros in cell (row 1, column 2) of a 4x4 grid are a box of half the image around that
    cell's corner."""
    boxes = decode_boxes(torch.zeros(1, 4, 4, 4), height=80, width=160)
    assert boxes[0, 1 * 4 + 2].tolist() == pytest.approx([80 - 40, 20 - 20, 80 + 40, 20 + 20])


def test_scores_are_the_weighted_product_of_object_and_class() -> None:
    """The logarithmic form equals sigmoid(obj)^0.6 * softmax(class)^0.4."""
    objectness, kind = torch.randn(2, 1, 3, 3), torch.randn(2, 5, 3, 3)
    expected = objectness.sigmoid() ** 0.6 * kind.softmax(1) ** 0.4
    found = decode_scores(objectness, kind)
    assert torch.allclose(found, expected.flatten(2).transpose(1, 2), atol=1e-6)


def test_gradients_stay_finite_where_scores_underflow() -> None:
    """A class of probability 0 in float32 still has a finite gradient (p^0.4 itself has none)."""
    objectness = torch.full((1, 1, 1, 1), -200.0, requires_grad=True)
    kind = torch.tensor([300.0, -300.0]).view(1, 2, 1, 1).requires_grad_()
    decode_scores(objectness, kind).sum().backward()
    assert objectness.grad is not None
    assert kind.grad is not None
    assert bool(objectness.grad.isfinite().all() and kind.grad.isfinite().all())


def test_every_stop_sign_of_the_street_photos_is_found_and_none_is_invented(
    detector: LoadedModel, shared_data: Path
) -> None:
    """At the card's threshold: at least 11 of 12 photos with a stop sign, none of the 12
    without."""
    threshold = detector.card.extra["score_threshold"]
    hits = {}
    for folder in ("stop", "other"):
        files = list_images(shared_data / "stop-photos" / folder)
        with torch.no_grad():
            found = [
                non_maximum_suppression(predict(detector, read_image(f)[None]), threshold)[0]
                for f in files
            ]
        hits[folder] = sum(len(f.of_class(STOP)) > 0 for f in found)
    assert hits["stop"] >= 11
    assert hits["other"] == 0


def test_the_box_lies_on_the_sign(detector: LoadedModel, shared_data: Path) -> None:
    """Photo 018: the sign fills the right of the middle; the best box overlaps its hand-read place
    by over 0.7."""
    image = read_image(shared_data / "stop-photos" / "stop" / "018.jpg")[None]
    with torch.no_grad():
        found = predict(detector, image)
    here = best_of_class(found, STOP, torch.tensor([505.0, 150.0, 1085.0, 705.0]), min_iou=0.7)
    elsewhere = best_of_class(found, STOP, torch.tensor([0.0, 150.0, 400.0, 705.0]), min_iou=0.5)
    assert float(here) > 0.9
    assert float(elsewhere) < 0.3


@pytest.mark.parametrize(
    ("file", "kind", "place"),
    [
        ("000000000025.jpg", "giraffe", [383.0, 72, 601, 357]),
        ("000000000064.jpg", "clock", [106.0, 39, 281, 203]),
        ("000000000036.jpg", "person", [185.0, 156, 432, 640]),
    ],
)
def test_other_classes_have_their_names(
    detector: LoadedModel, shared_data: Path, file: str, kind: str, place: list[float]
) -> None:
    """A giraffe, a clock and a person are found under their own class, where they are."""
    with torch.no_grad():
        found = predict(detector, read_image(shared_data / "coco128" / "images" / file)[None])
    label = detector.card.class_index(kind)
    assert float(best_of_class(found, label, torch.tensor(place), min_iou=0.7)) > 0.8
    assert int(non_maximum_suppression(found, 0.65)[0].labels[0]) == label


def test_gradient_reaches_the_image_and_not_the_parameters(
    detector: LoadedModel, shared_data: Path
) -> None:
    """Backward from a stop score fills the image's gradient, finite, and leaves every parameter
    without one."""
    image = read_image(shared_data / "stop-photos" / "stop" / "004.jpg")[None].requires_grad_()
    best_of_class(predict(detector, image), STOP).sum().backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())
    assert float(image.grad.abs().sum()) > 0
    assert all(p.grad is None and not p.requires_grad for p in detector.parameters())
