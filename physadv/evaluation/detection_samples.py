"""Samples of a detector's evaluation: chosen images with objects in the model's class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from physadv.core.errors import DataError
from physadv.core.files import digest_of
from physadv.core.image_io import to_tensor
from physadv.core.random_streams import drawn_positions
from physadv.core.tensors import as_float_images, channels_come_last
from physadv.core.wording import count_noun
from physadv.datasets.class_matching import LabelMap, match_classes
from physadv.datasets.detection import (
    DetectionDataset,
    ObjectBoxes,
    detection_in_memory,
)
from physadv.datasets.read import read_detection_dataset
from physadv.datasets.summary import DatasetSummary
from physadv.evaluation.metrics.coco_average_precision import ImageDetections
from physadv.models.cards import ModelCard
from physadv.models.detectors import DetectedBoxes

LONGEST_SIDE = 1280
"""Longer side in px of the images that are attacked; larger ones are reduced first."""
DetectionData = Any
"""A path, a DetectionDataset, or a sequence of (image, {"boxes": ..., "labels": ...})."""


@dataclass(frozen=True)
class DetectionSamples:
    """Chosen images of a detection data set.

    Args:
        dataset: Data set of the images.
        indices: Number of each chosen image in it.
        numbers: The model's class by class number of the data; None for a class it has not.
        summary: What the data were taken for.
    """

    dataset: DetectionDataset
    indices: tuple[int, ...]
    numbers: tuple[int | None, ...]
    summary: DatasetSummary

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, position: int) -> str:
        """Return the name of the image at ``position`` of the choice."""
        return self.dataset.names[self.indices[position]]

    def label(self, position: int) -> None:
        """Return None: an image has objects, no class of its own."""

    def digest(self, position: int) -> str:
        """Return a hash of the image at ``position`` and its objects."""
        own = self.dataset.content_digest(self.indices[position])
        return digest_of(f"{own} {self.numbers}".encode())

    def sample(self, position: int) -> tuple[Tensor, ObjectBoxes]:
        """Return the image (1, 3, h, w) in [0, 1] at ``position``, in 8-bit steps, and its objects.

        Images whose longer side exceeds :data:`LONGEST_SIDE` are reduced to it.
        """
        array, objects = self.dataset[self.indices[position]]
        image = to_tensor(array)[None]
        labels = np.asarray([self.numbers[k] for k in objects.labels.tolist()], np.int64)
        objects = replace(objects, labels=labels)
        scale = LONGEST_SIDE / max(image.shape[-2:])
        if scale >= 1:
            return image, objects

        size = (max(1, round(image.shape[-2] * scale)), max(1, round(image.shape[-1] * scale)))
        image = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
        image = image.clamp(0, 1).mul(255).round().div(255)
        boxes, areas = (objects.boxes * scale).astype(np.float32), objects.areas * scale**2
        return image, replace(objects, boxes=boxes, areas=areas.astype(np.float32))


def open_detection_samples(
    data: DetectionData,
    card: ModelCard,
    *,
    split: str | None = "test",
    limit: int | None = None,
    seed: int = 0,
    labels: LabelMap = None,
    count: int | None = None,
) -> DetectionSamples:
    """Choose the images of a detector's evaluation.

    Args:
        data: A path to a YOLO, COCO or Pascal VOC set, a DetectionDataset, or a sequence such as a
            torch Dataset of (image, {"boxes": (k, 4) in px, "labels": (k,)}).
        card: The model's card, whose class names the data's are matched with.
        split: Part of a data set of files.
        limit: Number of images drawn at random; None for all.
        seed: Seed of the draw.
        labels: The model's classes by class of the data, "in-order", or None to match them by name.
        count: Number of the model's classes, for a model without names.

    Returns:
        The chosen images.

    Raises:
        DataError: The data are of another form, or of classes that the model does not have.
    """
    dataset = _opened(data, split, card)
    indices = drawn_positions(len(dataset), limit, seed).tolist()
    match = match_classes(
        dataset.classes,
        card.classes,
        count=count,
        model=card.name,
        labels=labels,
        needed=dataset.present,
    )
    summary = replace(
        dataset.summary,
        matched=match.rule,
        mapping={dataset.classes[i]: match.names[i] for i in dataset.present},
        notes=(f"{len(indices)} of {count_noun(len(dataset), 'image')}", *dataset.summary.notes),
    )
    return DetectionSamples(dataset, tuple(indices), match.numbers, summary)


def _opened(data: DetectionData, split: str | None, card: ModelCard) -> DetectionDataset:
    if isinstance(data, str | Path):
        return read_detection_dataset(data, split=split)
    if isinstance(data, DetectionDataset):
        return data
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise DataError(
            f"data of type {type(data).__name__}",
            "A path, a DetectionDataset or a sequence of (image, boxes and labels) is needed",
            "Wrap it as one of these",
        )
    items = [_item(data[i], i) for i in range(len(data))]
    highest = max((int(own.max()) for _, _, own in items if len(own)), default=-1)
    classes = card.classes or tuple(str(i) for i in range(highest + 1))
    return detection_in_memory(
        [image for image, _, _ in items],
        [boxes for _, boxes, _ in items],
        [labels for _, _, labels in items],
        classes,
    )


def _item(item: Any, number: int) -> tuple[Any, Any, Any]:
    """Image (h, w, 3) uint8, boxes and labels of one item as torchvision's detectors take them."""
    try:
        image, target = item[0], item[1]
        boxes, labels = target["boxes"], target["labels"]
    except (KeyError, IndexError, TypeError) as fault:
        raise DataError(
            f"item {number}",
            'It is no (image, {"boxes": ..., "labels": ...})',
            "Return both, boxes as x0, y0, x1, y1 in px",
        ) from fault
    picture = _picture(image, number)
    pixels = picture.expand(3, -1, -1).movedim(0, -1).contiguous().cpu().numpy()
    return pixels, _as_array(boxes, np.float32), _as_array(labels, np.int64)


def _picture(image: Any, number: int) -> Tensor:
    """The image of an item as (1 or 3, h, w) uint8."""
    if isinstance(image, Image.Image):
        picture = as_float_images(image)[0]
    else:
        picture = image.detach() if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if picture.ndim == 2:
        picture = picture[None]
    if channels_come_last(picture.shape, is_tensor=isinstance(image, Tensor | Image.Image)):
        picture = picture.movedim(-1, 0)
    if picture.ndim != 3 or picture.shape[0] not in (1, 3):
        shape = tuple(picture.shape)
        raise DataError(f"item {number}: image {shape}", "3 channels are needed", "Convert it")
    if picture.dtype == torch.uint8:
        return picture
    if not picture.is_floating_point():
        kind = f"item {number}: image of {picture.dtype}"
        raise DataError(kind, "Floats in [0, 1] or uint8 are needed", "Convert it")
    if not (picture.min() >= 0 and picture.max() <= 1):  # false for NaN as well
        raise DataError(f"item {number}", "Its image lies outside of [0, 1]", "Divide by 255")
    return picture.mul(255).round().to(torch.uint8)


def _as_array(values: Any, kind: Any) -> Any:
    plain = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return np.asarray(plain, kind)


def image_detections(found: Sequence[Sequence[float]], objects: Any) -> ImageDetections:
    """Return the detections of a row beside its objects, for COCO's average precision.

    Args:
        found: x0, y0, x1, y1, score, class of each detection.
        objects: x0, y0, x1, y1, class, crowd, area of each object.

    Returns:
        Both as arrays.
    """
    boxes = np.asarray(found, np.float64).reshape(-1, 6)
    truth = np.asarray(objects, np.float64).reshape(-1, 7)
    return ImageDetections(
        boxes[:, :4],
        boxes[:, 4],
        boxes[:, 5].astype(np.int64),
        truth[:, :4],
        truth[:, 4].astype(np.int64),
        truth[:, 5] > 0,
        truth[:, 6],
    )


def boxes_in_row(found: DetectedBoxes) -> list[list[float]]:
    """Return detections as a row holds them: x0, y0, x1, y1 in px, score, class."""
    return [
        [*(round(v, 2) for v in box), round(score, 5), label]
        for box, score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]


def objects_in_row(objects: ObjectBoxes) -> list[list[float]]:
    """Return objects as a row holds them: x0, y0, x1, y1 in px, class, crowd, area in px^2."""
    return [
        [*(round(v, 2) for v in box), label, int(crowd), round(area, 2)]
        for box, label, crowd, area in zip(
            objects.boxes.tolist(),
            objects.labels.tolist(),
            objects.crowd.tolist(),
            objects.areas.tolist(),
            strict=True,
        )
    ]
