"""Evaluation of a sign classifier on data it was not trained on: tracks, background photos and
street photos.

Each function returns raw rows, one a prediction; :func:`accuracy_rates` computes rates from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from physadv.core.csv_tables import read_csv
from physadv.core.errors import DataError
from physadv.core.image_io import Array, list_images, read_rgb, to_tensor
from physadv.core.parsing import parse_number
from physadv.core.random_streams import generator, numpy_generator
from physadv.core.rows import Row
from physadv.core.sign_artwork import STOP_WIDTH_MM, SignFace
from physadv.datasets.base import ImageDataset
from physadv.eot.pipeline import Pipeline
from physadv.eot.presets import eot_preset
from physadv.eot.scenes.sign_faces import FaceDesign
from physadv.eot.scenes.signs import DrawnScenes, SceneSize
from physadv.evaluation.clean_accuracy import clean_accuracy_findings
from physadv.evaluation.masking_checks import Finding
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval, wilson_interval
from physadv.models.architectures.signnet import BACKGROUND, INPUT_PX, STOP

DRAWN_SETS = ("drawn faces, held out", "drawn faces, of training")
"""Sets of rows of :func:`judge_drawn_faces`: faces never trained on, and new draws of the others.
"""
FILLS = (0.6, 1.0)
"""Share of the crop's side that a sign spans in the jittered crops."""


@dataclass(frozen=True)
class SignBox:
    """A sign in a photo: file name and box in px."""

    file: str
    box: tuple[float, float, float, float]
    note: str = ""


def read_sign_boxes(path: str | Path) -> list[SignBox]:
    """Read a table of columns ``file,x0,y0,x1,y1,note`` from ``path``.

    Raises:
        DataError: A line is no such box; it is named.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}", "no such file", "Check the path")

    boxes = []
    for row in read_csv(file, dict.fromkeys(("file", "x0", "y0", "x1", "y1"), ())).rows:
        x0, y0, x1, y1 = (
            parse_number(row.cells[key], key, row.where) for key in ("x0", "y0", "x1", "y1")
        )
        if not (x0 < x1 and y0 < y1):
            raise DataError(row.where, "the box is empty", "Give x0 < x1 and y0 < y1")
        boxes.append(SignBox(row.cells["file"], (x0, y0, x1, y1), row.cells.get("note", "")))
    return boxes


@torch.no_grad()
def predict_images(
    net: nn.Module, pictures: Iterable[Array], batch: int = 128
) -> list[tuple[int, float]]:
    """Return (class, confidence) of each image, resized to the network's input.

    Args:
        net: Classifier.
        pictures: Images (h, w, 3) uint8.
        batch: Images in one pass.
    """
    predictions: list[tuple[int, float]] = []
    waiting: list[Tensor] = []

    def flush() -> None:
        if waiting:
            confidence, label = net(torch.cat(waiting)).softmax(1).max(1)
            predictions.extend(zip(label.tolist(), confidence.tolist(), strict=True))
            waiting.clear()

    for picture in pictures:
        image = to_tensor(picture)[None]
        size = (INPUT_PX, INPUT_PX)
        waiting.append(nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True))
        if len(waiting) == batch:
            flush()
    flush()
    return predictions


def judge_tracks(net: nn.Module, dataset: ImageDataset) -> list[Row]:
    """Return one row for each frame of ``dataset`` with the prediction of ``net`` and the frame's
    track."""
    predictions = predict_images(net, (dataset.read(i) for i in range(len(dataset))))

    return [
        _row(
            "held-out tracks",
            dataset.names[i],
            dataset.groups[i],
            int(dataset.labels[i]),
            *predictions[i],
        )
        for i in range(len(dataset))
    ]


def judge_crops(
    net: nn.Module, name: str, pictures: Sequence[tuple[str, Array]], each: int, seed: int
) -> list[Row]:
    """Evaluate a network on random square crops, 24 px a side up to the whole, of photos without
    signs.

    Args:
        net: Classifier.
        name: Name of the set in the rows.
        pictures: Names and photos (h, w, 3) uint8.
        each: Number of crops of each photo.
        seed: Seed of the crops.
    """
    rows = []
    for photo, picture in pictures:
        rng = numpy_generator(seed, "judge", name, photo)
        predictions = predict_images(net, [_any_crop(picture, rng) for _ in range(each)])
        rows += [
            _row(name, f"{photo}#{i}", photo, BACKGROUND, *prediction)
            for i, prediction in enumerate(predictions)
        ]
    return rows


def judge_stop_photos(
    net: nn.Module, folder: str | Path, boxes: Sequence[SignBox], each: int, seed: int
) -> list[Row]:
    """Evaluate a network on crops about boxed stop signs, of random scale (``FILLS``) and shift.

    Args:
        net: Classifier.
        folder: Folder of the photos.
        boxes: Boxes of the signs; each is a group in the rows.
        each: Number of crops of each sign.
        seed: Seed of the crops.
    """
    rows = []

    for number, sign in enumerate(boxes):
        picture = read_rgb(Path(folder) / sign.file)
        rng = numpy_generator(seed, "judge", "stop-photos", number)
        predictions = predict_images(net, [sign_crop(picture, sign.box, rng) for _ in range(each)])

        group = f"{sign.file}@{sign.box[0]:g},{sign.box[1]:g}"
        rows += [
            _row("stop photos", f"{group}#{i}", group, STOP, *prediction)
            for i, prediction in enumerate(predictions)
        ]

    return rows


@torch.no_grad()
def judge_drawn_faces(
    net: nn.Module,
    name: str,
    faces: Sequence[SignFace | FaceDesign],
    backgrounds: Sequence[Array],
    each: int,
    seed: int,
) -> list[Row]:
    """Evaluate a network on drawn stop faces, as the clean control of a patch shows them to it.

    Args:
        net: Classifier.
        name: Name of the set in the rows.
        faces: Faces; each is a group in the rows.
        backgrounds: Photos (h, w, 3) uint8 that they stand before.
        each: Number of draws of each face, under the default ranges of EOT.
        seed: Seed of the draws.
    """
    ranges = eot_preset("default")
    pipeline = Pipeline.from_ranges(ranges)
    rows = []
    for face in faces:
        scenes = DrawnScenes([face], backgrounds, STOP_WIDTH_MM).sample(
            each,
            SceneSize(INPUT_PX, whole_frame=False),
            ranges,
            numpy_generator(seed, "judge", name, face.name),
        )
        draw = pipeline.sample(scenes, generator(seed, "judge", name, face.name))
        confidence, label = net(pipeline.without_patch(scenes, draw)).softmax(1).max(1)
        rows += [
            _row(name, f"{face.name}#{i}", face.name, STOP, int(label[i]), float(confidence[i]))
            for i in range(each)
        ]
    return rows


def sign_crop(picture: Array, box: Sequence[float], rng: np.random.Generator) -> Array:
    """Return a square crop about a box, with the photo's border repeated beyond its edge.

    The longer side of the box spans a random ``FILLS`` share of the crop, which is shifted by up to
    half the rest plus 4 %.

    Args:
        picture: Photo (h, w, 3) uint8.
        box: (x0, y0, x1, y1) in px.
        rng: Source of the draws.
    """
    x0, y0, x1, y1 = box
    fill = rng.uniform(*FILLS)
    side = max(x1 - x0, y1 - y0) / fill
    slack = side * ((1 - fill) / 4 + 0.04)
    cx, cy = (x0 + x1) / 2 + rng.uniform(-slack, slack), (y0 + y1) / 2 + rng.uniform(-slack, slack)
    left, top, px = round(cx - side / 2), round(cy - side / 2), max(1, round(side))

    pad = max(0, -left, -top, left + px - picture.shape[1], top + px - picture.shape[0])
    padded = (
        cv2.copyMakeBorder(picture, pad, pad, pad, pad, cv2.BORDER_REPLICATE) if pad else picture
    )
    return np.ascontiguousarray(padded[top + pad : top + pad + px, left + pad : left + pad + px])


def named_photos(folders: Sequence[Path], leave_out: Sequence[str] = ()) -> list[tuple[str, Array]]:
    """Return every photo of ``folders`` with its name, except those whose file name is in
    ``leave_out``."""
    files = [p for folder in folders for p in list_images(folder) if p.name not in leave_out]
    return [(f"{p.parent.name}/{p.name}", read_rgb(p)) for p in files]


def accuracy_rates(rows: Sequence[Row]) -> dict[str, dict[str, RateInterval | int]]:
    """Return the rates of each set of ``rows``.

    ``right`` is the share predicted as labeled, by Wilson over predictions; ``by_group`` the same
    with ``groups`` tracks, signs or photos as trials; ``called_stop`` the share predicted as
    stop.
    """
    rates: dict[str, dict[str, RateInterval | int]] = {}
    for name in dict.fromkeys(str(r["set"]) for r in rows):
        own = [r for r in rows if r["set"] == name]
        rates[name] = _summary(own)
        stops = [r for r in own if r["label"] == STOP]
        if stops and len(stops) < len(own):
            rates[f"{name}, stop"] = _summary(stops)
    return rates


def accuracy_findings(rows: Sequence[Row], *, classes: int) -> list[Finding]:
    """Return the reasons to doubt the network: sets of ``rows`` that it reads like a guess.

    ``classes`` is the number of the network's classes.
    """
    findings: list[Finding] = []
    for name in dict.fromkeys(str(r["set"]) for r in rows):
        own = [r for r in rows if r["set"] == name]
        right = sum(r["predicted"] == r["label"] for r in own)
        labels = [int(r["label"]) for r in own]
        findings += clean_accuracy_findings(
            right, len(own), classes=classes, labels=labels, subject=f"accuracy on {name}"
        )
    return findings


def stop_share_by_sign(rows: Sequence[Row]) -> dict[str, float]:
    """Return the share of crops predicted as stop for each boxed stop sign in ``rows``, by
    ``file@x0,y0``."""
    hits_by_sign: dict[str, list[bool]] = {}
    for row in rows:
        if row["set"] == "stop photos":
            hits_by_sign.setdefault(str(row["group"]), []).append(row["predicted"] == STOP)
    return {sign: round(sum(hits) / len(hits), 4) for sign, hits in hits_by_sign.items()}


def stop_rate_by_face(rows: Sequence[Row]) -> dict[str, RateInterval]:
    """Return the share of draws predicted as stop for each drawn face in ``rows``, by its name."""
    hits_of: dict[str, list[bool]] = {}
    for row in rows:
        if row["set"] in DRAWN_SETS:
            hits_of.setdefault(str(row["group"]), []).append(row["predicted"] == STOP)
    return {name: wilson_interval(sum(hits), len(hits)) for name, hits in hits_of.items()}


def _summary(rows: Sequence[Row]) -> dict[str, RateInterval | int]:
    hits = [r["predicted"] == r["label"] for r in rows]
    groups = [str(r["group"]) for r in rows]
    return {
        "right": wilson_interval(sum(hits), len(hits)),
        "by_group": clustered_interval(hits, groups),
        "groups": len(set(groups)),
        "called_stop": wilson_interval(sum(r["predicted"] == STOP for r in rows), len(rows)),
    }


def _any_crop(picture: Array, rng: np.random.Generator) -> Array:
    height, width = picture.shape[:2]
    low, high = min(24, height, width), min(height, width)
    side = int(np.exp(rng.uniform(np.log(low), np.log(high + 1e-6))))
    y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
    return np.ascontiguousarray(picture[y : y + side, x : x + side])


def _row(name: str, image: str, group: str, label: int, predicted: int, confidence: float) -> Row:
    return {
        "set": name,
        "image": image,
        "group": group,
        "label": label,
        "predicted": predicted,
        "confidence": round(confidence, 4),
    }
