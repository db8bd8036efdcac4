"""Detectors find the boxes that their own deployment finds: resizing, bars, threshold, NMS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import physadv
from physadv.core.boxes import box_iou
from physadv.core.errors import ModelError
from physadv.core.image_io import list_images, read_rgb, to_tensor
from physadv.core.types import Detections
from physadv.models.detectors import PredictSettings, predict_boxes
from physadv.models.load import as_model
from physadv.models.resizing import InputResizing

SIDE, SCORE, OVERLAP = 416, 0.3, 0.45
Box = tuple[list[float], float, int]
"""Corners, score and class."""


def reference_boxes(session: Any, image: np.ndarray[Any, Any]) -> list[Box]:
    """Boxes as YOLOX's own demo makes them: OpenCV, onnxruntime, decoding and NMS by class in
    NumPy."""
    height, width = image.shape[:2]
    ratio = min(SIDE / height, SIDE / width)
    padded = np.full((SIDE, SIDE, 3), 114, np.uint8)
    size = (int(width * ratio), int(height * ratio))
    resized = cv2.resize(image[..., ::-1], size, interpolation=cv2.INTER_LINEAR)
    padded[: size[1], : size[0]] = resized
    blob = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)
    (output,) = session.run(None, {session.get_inputs()[0].name: blob})

    grids, strides = [], []
    for stride in (8, 16, 32):
        count = SIDE // stride
        xv, yv = np.meshgrid(np.arange(count), np.arange(count))
        grids.append(np.stack((xv, yv), 2).reshape(-1, 2))
        strides.append(np.full((count * count, 1), stride))
    grid, stride = np.concatenate(grids), np.concatenate(strides)
    center = (output[0, :, :2] + grid) * stride
    half = np.exp(output[0, :, 2:4]) * stride / 2
    boxes = np.concatenate((center - half, center + half), 1) / ratio
    scores = output[0, :, 4:5] * output[0, :, 5:]

    found = []
    for label in range(scores.shape[1]):
        chosen = np.flatnonzero((scores[:, label] >= SCORE) & (scores.argmax(1) == label))
        order = chosen[np.argsort(-scores[chosen, label])].tolist()
        while order:
            best = order.pop(0)
            found.append((boxes[best].tolist(), float(scores[best, label]), label))
            pair = torch.tensor(boxes[[best]]), torch.tensor(boxes[order])
            kept = (box_iou(*pair)[0] <= OVERLAP).tolist() if order else []
            order = [i for i, keep in zip(order, kept, strict=True) if keep]
    return found


def assert_found(boxes: list[Box], others: list[Box], where: str) -> int:
    """Every box over the threshold by 0.02 is among the others; the number of those."""
    clear = [box for box in boxes if box[1] >= SCORE + 0.02]
    for corners, score, label in clear:
        same = [other for other in others if other[2] == label]
        assert same, (where, label, score)
        pairs = box_iou(
            torch.tensor(corners)[None].float(), torch.tensor([o[0] for o in same]).float()
        )[0]
        best = int(pairs.argmax())
        assert float(pairs[best]) > 0.95, (where, label, score, float(pairs[best]))
        assert abs(same[best][1] - score) < 0.02, (where, label, score, same[best][1])
    return len(clear)


def test_yolox_finds_the_boxes_of_its_own_demo(shared_data: Path) -> None:
    """On street photos and COCO's, every clear box of the reference is found with its class, its
    score within 0.02 and an overlap of 0.95; and none is found that the reference lacks."""
    runtime = pytest.importorskip("onnxruntime", reason="the extra dev brings onnxruntime")
    file = shared_data / "weights" / "yolox_nano_coco.onnx"
    session = runtime.InferenceSession(str(file))
    model = physadv.load_model("yolox-nano", weights=file)
    photos = list_images(shared_data / "stop-photos" / "stop")[:4]
    photos += list_images(shared_data / "coco128" / "images")[:8]
    compared = 0
    for photo in photos:
        pixels = read_rgb(photo)
        found = predict_boxes(model, to_tensor(pixels)[None])[0]
        own = list(
            zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        )
        reference = reference_boxes(session, pixels)
        compared += assert_found(reference, own, f"{photo.name}, of the reference")
        assert_found(own, reference, f"{photo.name}, of ours")
    assert compared > 15


class Two(nn.Module):
    """Two boxes that overlap by 0.6, of scores .9 and .5; the second also has .45 as class 1."""

    def forward(self, x: Tensor) -> Detections:
        boxes = x.new_tensor([[[0.0, 0, 8, 8], [2.0, 0, 10, 8]]]).repeat(len(x), 1, 1)
        scores = x.new_tensor([[[0.9, 0.0], [0.5, 0.45]]]).repeat(len(x), 1, 1)
        return Detections(boxes, scores)


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({}, [0]),
        ({"nms_iou": 0.7}, [0, 0]),
        ({"multi_label": True}, [0, 1]),
        ({"nms_iou": 0.7, "multi_label": True, "max_boxes": 2}, [0, 0]),
        ({"score_threshold": 0.95}, []),
    ],
)
def test_the_card_decides_how_boxes_are_made(settings: dict[str, Any], labels: list[int]) -> None:
    """Overlap, classes of a candidate, number and threshold, as a card states them."""
    model = as_model(Two(), task="detect", classes=["a", "b"])
    model.card.extra.update(settings)
    found = predict_boxes(model, torch.rand(1, 3, 16, 16))[0]
    assert found.labels.tolist() == labels


@pytest.mark.parametrize("wrong", [{"nms_iou": 0}, {"multi_label": 1}, {"max_boxes": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(wrong))):
        PredictSettings.of(wrong)


def test_bars_have_the_color_that_the_card_states() -> None:
    """One gray or three colors; the default is YOLO's 114, and words name another."""
    images = torch.rand(1, 3, 20, 40)
    for color, expected in ((114, (114,) * 3), (0, (0,) * 3), ((124, 116, 104), (124, 116, 104))):
        resizing = InputResizing((40, 40), "letterbox", pad_color=color)
        shown = resizing(images)
        assert torch.allclose(shown[0, :, 0, 0] * 255, torch.tensor(expected).float(), atol=1e-3)
        assert torch.allclose(shown[0, :, 10:30], images[0], atol=1e-6)
        assert ("bars of" in resizing.in_words()) == (color != 114)
    for wrong in (256, -1, (1, 2), "black", True):
        with pytest.raises(ModelError, match="pad_color"):
            InputResizing((40, 40), "letterbox", pad_color=wrong)  # type: ignore[arg-type]


def test_area_is_the_mean_of_what_a_pixel_covers() -> None:
    """As OpenCV's INTER_AREA, within a rounding."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    own = InputResizing((20, 30), "stretch", interpolation="area")(to_tensor(pixels)[None])[0]
    other = cv2.resize(pixels, (30, 20), interpolation=cv2.INTER_AREA)
    assert float((own * 255 - torch.from_numpy(other).permute(2, 0, 1)).abs().max()) <= 0.51
