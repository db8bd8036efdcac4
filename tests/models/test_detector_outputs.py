"""What detectors return, in every layout that is read: boxes in px and scores of each class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import physadv
from physadv.core.errors import ModelError
from physadv.core.types import Detections
from physadv.models.detector_outputs import read_detections

SIZE = (100, 200)
CENTER = torch.tensor([[[60.0, 50, 40, 20], [100, 40, 20, 30]]])
CORNERS = torch.tensor([[[40.0, 40, 80, 60], [90, 25, 110, 55]]])
SCORES = torch.tensor([[[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]]])
SHARES = CENTER / torch.tensor([200.0, 100, 200, 100])


def best_only() -> Tensor:
    """The scores with only the best of each box."""
    best = SCORES.amax(2, keepdim=True)
    return torch.where(best == SCORES, SCORES, torch.zeros(()))


def filled(rows: Tensor, count: int = 40) -> Tensor:
    """Rows of candidates with more that score nothing, as grids have."""
    return torch.cat([rows, torch.zeros(1, count - rows.shape[1], rows.shape[2])], 1)


LAYOUTS: dict[str, tuple[Any, Tensor]] = {
    "pair": ((CORNERS, SCORES), SCORES),
    "mapping": ({"boxes": CORNERS, "scores": SCORES}, SCORES),
    "DETR with no object": (
        {"pred_boxes": SHARES, "pred_logits": torch.cat([SCORES, 0 * SCORES[..., :1]], 2).log()},
        SCORES,
    ),
    "DETR with sigmoids": ({"pred_boxes": SHARES, "logits": SCORES.logit()}, SCORES),
    "transformers": (SimpleNamespace(pred_boxes=SHARES, logits=SCORES.logit()), SCORES),
    "list of images": (
        [{"boxes": CORNERS[0], "scores": SCORES[0].amax(1), "labels": SCORES[0].argmax(1)}],
        best_only(),
    ),
    "list of images by other names": (
        [{"boxes": CORNERS[0], "scores": SCORES[0].amax(1), "classes": SCORES[0].argmax(1)}],
        best_only(),
    ),
    "list of images as arrays": (
        [
            {
                "boxes": CORNERS[0].numpy(),
                "scores": SCORES[0].amax(1).numpy(),
                "labels": SCORES[0].argmax(1).numpy(),
            }
        ],
        best_only(),
    ),
    "losses before a list of images": (
        (
            {},
            [{"boxes": CORNERS[0], "scores": SCORES[0].amax(1), "labels": SCORES[0].argmax(1)}],
        ),
        best_only(),
    ),
    "object of an image": (
        [
            SimpleNamespace(
                boxes=CORNERS[0], scores=SCORES[0].amax(1), pred_classes=SCORES[0].argmax(1)
            )
        ],
        best_only(),
    ),
    "boxes, scores and labels": ((CORNERS, SCORES.amax(2), SCORES.argmax(2)), best_only()),
    "boxes, labels and scores": ((CORNERS, SCORES.argmax(2), SCORES.amax(2)), best_only()),
    "mapping with labels": (
        {"boxes": CORNERS, "scores": SCORES.amax(2), "labels": SCORES.argmax(2)},
        best_only(),
    ),
    "scores before boxes": ((SCORES, CORNERS), SCORES),
    "rows after YOLO's suppression": (
        [torch.cat([CORNERS, SCORES.amax(2, keepdim=True), SCORES.argmax(2, keepdim=True)], 2)[0]],
        best_only(),
    ),
    "YOLO columns, transposed": (filled(torch.cat([CENTER, SCORES], 2)), SCORES),
    "boxes, labels and scores of one image": (
        {"boxes": CORNERS[0], "labels": SCORES[0].argmax(1), "scores": SCORES[0].amax(1)},
        best_only(),
    ),
    "YOLO columns": (filled(torch.cat([CENTER, SCORES], 2)).transpose(1, 2), SCORES),
    "YOLO columns with masks": (
        (filled(torch.cat([CENTER, SCORES, SCORES], 2)).transpose(1, 2), torch.zeros(1, 3, 9, 9)),
        SCORES,
    ),
    "YOLO rows with objects": (
        filled(torch.cat([CENTER, torch.full((1, 2, 1), 0.5), 2 * SCORES], 2)),
        SCORES,
    ),
    "shares and scores": (filled(torch.cat([SHARES, SCORES], 2)), SCORES),
    "YOLO without suppression": (
        filled(
            torch.cat([CORNERS, SCORES.amax(2, keepdim=True), SCORES.argmax(2, keepdim=True)], 2)
        ),
        best_only(),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_boxes(name: str) -> None:
    """The same two boxes of three classes, however they are written."""
    output, scores = LAYOUTS[name]
    found = read_detections(output, 1, SIZE, classes=3)
    assert torch.allclose(found.boxes[:, :2], CORNERS, atol=1e-3)
    assert torch.allclose(found.scores[:, :2], scores, atol=1e-4)


def test_images_with_fewer_boxes_are_padded_with_score_zero() -> None:
    """Lists of two images, one without any box."""
    one = {"boxes": CORNERS[0], "scores": SCORES[0].amax(1), "labels": SCORES[0].argmax(1)}
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}
    found = read_detections([none, one], 2, SIZE, classes=3)
    assert found.scores[0].abs().sum() == 0
    assert torch.equal(found.boxes[1], CORNERS[0])


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_boxes_without_suppression_are_no_scores_of_a_grid(classes: int) -> None:
    """(b, 300, 6) of corners, score and class, as YOLO26 exports it, is read so for a detector of
    one class or two also, whose grids and DETRs have as many columns."""
    labels = torch.tensor([[[0.0], [classes - 1]]])
    best = torch.tensor([[[0.9], [0.6]]])
    found = read_detections(
        filled(torch.cat([CORNERS, best, labels], 2), 300), 1, SIZE, classes=classes
    )
    assert torch.equal(found.boxes[:, :2], CORNERS)
    assert found.scores[0, 0, 0] == best[0, 0]
    assert found.scores[0, 1, classes - 1] == best[0, 1]


def test_a_grid_is_known_by_its_number_of_cells() -> None:
    """Without names of classes: YOLOv5's rows of 3 classes are candidates of 3, not of thousands,
    and so are YOLOv8's columns."""
    count = 13 * 25 + 7 * 13 + 4 * 7
    rows = torch.rand(2, 3 * count, 8)
    assert read_detections(rows, 2, SIZE).scores.shape == (2, 3 * count, 3)
    columns = torch.rand(2, 84, count)
    assert read_detections(columns, 2, SIZE).scores.shape == (2, count, 80)


@pytest.mark.parametrize(
    "output",
    [
        (CORNERS, SCORES[:, :1]),
        (CORNERS, SCORES.amax(2), SCORES),
        {"boxes": CORNERS, "scores": SCORES.amax(2)},
        {"boxes": CORNERS, "scores": "?"},
        [{"boxes": CORNERS[0], "scores": SCORES[0].amax(1), "labels": torch.zeros(3)}],
        CORNERS,
    ],
)
def test_what_does_not_belong_together_is_refused(output: Any) -> None:
    """Boxes and scores of other numbers, and scores that have no class."""
    with pytest.raises(ModelError, match="the detector"):
        read_detections(output, 1, SIZE, classes=3)


@pytest.mark.parametrize(
    ("classes", "words"), [(None, "must be known"), (2, "returned the class 2")]
)
def test_classes_of_a_list_must_be_known(classes: int | None, words: str) -> None:
    """Names that are missing or too few are one error."""
    one = {"boxes": CORNERS[0], "scores": SCORES[0].amax(1), "labels": SCORES[0].argmax(1)}
    with pytest.raises(ModelError, match=words):
        read_detections([one], 1, SIZE, classes=classes)


class Detr(nn.Module):
    """A DETR of one query that follows the brightness of its image."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        light = images.mean((1, 2, 3))[:, None, None]
        boxes = torch.tensor([0.5, 0.5, 0.2, 0.4]).expand(len(images), 1, 4)
        return {"pred_boxes": boxes, "pred_logits": torch.cat([light, 0 * light, -light], 2)}


def test_a_detr_is_a_model_on_images_of_any_size() -> None:
    """Its boxes come back in px of a wide image, and a gradient reaches the image."""
    model = physadv.as_model(
        Detr(), task="detect", classes=["a", "b"], input_size=64, resize="stretch"
    )
    image = torch.rand(2, 3, 50, 100, requires_grad=True)
    found = model(image)
    assert isinstance(found, Detections)
    assert torch.allclose(found.boxes[1, 0], torch.tensor([40.0, 15, 60, 35]))
    found.scores.sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
