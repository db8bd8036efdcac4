"""Average precision by COCO's rules, held to its reference implementation."""

from __future__ import annotations

import contextlib
import io
from math import isnan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physadv.core.errors import OptionError
from physadv.evaluation.metrics.coco_average_precision import (
    AREAS,
    ImageDetections,
    coco_average_precision,
)


def drawn_images(seed: int, count: int = 5, classes: int = 3) -> list[ImageDetections]:
    """Images with objects, detections near some of them and elsewhere, crowds, equal scores."""
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> Any:
        corner, sides = rng.uniform(0, 200, (n, 2)), rng.uniform(4, 150, (n, 2))
        return np.concatenate([corner, corner + sides], 1)

    images = []
    for _ in range(count):
        k = int(rng.integers(0, 6))
        truth, labels = boxes(k), rng.integers(0, classes, k)
        near = truth + rng.normal(0, 6, truth.shape) if k else truth
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        extra = boxes(int(rng.integers(0, 5)))
        found = np.concatenate([near, near[: k // 2] + 0.5, extra])
        found_labels = np.concatenate(
            [labels, labels[: k // 2], rng.integers(0, classes, len(extra))]
        )
        scores = rng.integers(1, 9, len(found)) / 10  # with ties
        images.append(
            ImageDetections(found, scores, found_labels, truth, labels, rng.random(k) < 0.2)
        )
    return images


def reference(images: list[ImageDetections]) -> list[float]:
    """AP, AP50, AP75, and AP of small, medium and large objects, by pycocotools."""
    coco = pytest.importorskip("pycocotools.coco", reason="the extra dev brings pycocotools")
    from pycocotools.cocoeval import COCOeval

    def xywh(box: Any) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    truth, found = [], []
    for number, image in enumerate(images, 1):
        for box, label, crowd in zip(image.true_boxes, image.true_labels, image.crowd, strict=True):
            x, y, w, h = xywh(box)
            truth.append(
                {
                    **{"id": len(truth) + 1, "image_id": number, "category_id": int(label)},
                    **{"bbox": [x, y, w, h], "area": w * h, "iscrowd": int(crowd)},
                }
            )
        for box, label, score in zip(image.boxes, image.labels, image.scores, strict=True):
            found.append(
                {
                    **{"image_id": number, "category_id": int(label)},
                    **{"bbox": xywh(box), "score": float(score)},
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO()
        data.dataset = {
            "images": [{"id": n} for n in range(1, len(images) + 1)],
            "categories": [{"id": c, "name": str(c)} for c in range(3)],
            "annotations": truth,
        }
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats[:6]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_every_figure_is_that_of_the_reference(seed: int) -> None:
    """AP, AP50, AP75 and those by area agree with pycocotools to 1e-9, crowds and ties included."""
    images = drawn_images(seed)
    if not any(len(image.boxes) for image in images):
        return
    own = coco_average_precision(images)
    by_area = [coco_average_precision(images, area=a).ap for a in ("small", "medium", "large")]
    for ours, theirs in zip((own.ap, own.ap50, own.ap75, *by_area), reference(images), strict=True):
        assert (isnan(ours) and theirs == -1) or abs(ours - theirs) < 1e-9


def test_closed_forms() -> None:
    """One of two objects found: precision 1 up to recall 1/2, which are 51 of the 101 points."""
    box = np.array([[0.0, 0.0, 40.0, 40.0], [60.0, 0.0, 100.0, 40.0]])
    half = ImageDetections(
        box[:1], np.array([0.9]), np.zeros(1, np.int64), box, np.zeros(2, np.int64)
    )
    assert coco_average_precision([half]).ap == pytest.approx(51 / 101)
    assert coco_average_precision([half]).objects == 2


def test_no_object_is_no_figure() -> None:
    """NaN rather than zero or one, and an unknown range of areas is refused."""
    empty = ImageDetections(
        *(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)),
        *(np.zeros((0, 4)), np.zeros(0, np.int64)),
    )
    assert isnan(coco_average_precision([empty]).ap)
    with pytest.raises(OptionError, match=", ".join(AREAS)):
        coco_average_precision([empty], area="huge")
