"""Judging a sign classifier on what it was not trained on: held-out tracks, held-out photos, and
street photos.

Each function returns raw rows, one prediction a row; the rates are computed from the rows by
``rates``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from physadv.core.errors import DataError
from physadv.core.image_io import Array, list_images, read_rgba, to_tensor
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row
from physadv.datasets.base import ImageDataset
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval, wilson_interval
from physadv.models.architectures.signnet import BACKGROUND, INPUT_PX, STOP

FILLS = (0.6, 1.0)
"""Share of the crop's side that a sign spans in the jittered crops."""


@dataclass(frozen=True)
class SignBox:
    """A sign in a photo: file name and box in pixels."""

    file: str
    box: tuple[float, float, float, float]
    note: str = ""


def read_sign_boxes(path: str | Path) -> list[SignBox]:
    """Read ``file,x0,y0,x1,y1,note``. Raises DataError naming the line that is not such a box."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}", "no such file", "check the path")
    found = []
    for line, row in enumerate(csv.DictReader(file.read_text(encoding="utf-8").splitlines()), 2):
        try:
            x0, y0, x1, y1 = (float(row[key]) for key in ("x0", "y0", "x1", "y1"))
            name = row["file"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{file}:{line}", f"not a box ({error})", "columns: file,x0,y0,x1,y1,note"
            ) from error
        if not (x0 < x1 and y0 < y1):
            raise DataError(f"{file}:{line}", "the box is empty", "x0 < x1 and y0 < y1 are needed")
        found.append(SignBox(name, (x0, y0, x1, y1), row.get("note") or ""))
    return found


@torch.no_grad()
def predict_images(
    net: nn.Module, pictures: Iterable[Array], batch: int = 128
) -> list[tuple[int, float]]:
    """(class, confidence) of each (h, w, 3) uint8 picture, each resized by the net itself."""
    found: list[tuple[int, float]] = []
    waiting: list[Tensor] = []

    def flush() -> None:
        if waiting:
            confidence, label = net(torch.cat(waiting)).softmax(1).max(1)
            found.extend(zip(label.tolist(), confidence.tolist(), strict=True))
            waiting.clear()

    for picture in pictures:
        image = to_tensor(picture)[None]
        size = (INPUT_PX, INPUT_PX)
        waiting.append(nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True))
        if len(waiting) == batch:
            flush()
    flush()
    return found


def judge_tracks(net: nn.Module, dataset: ImageDataset) -> list[Row]:
    """Every frame of a data set as it is, one row each, with its track."""
    answers = predict_images(net, (dataset.read(i) for i in range(len(dataset))))
    return [
        _row(
            "held-out tracks",
            dataset.names[i],
            dataset.groups[i],
            int(dataset.labels[i]),
            *answers[i],
        )
        for i in range(len(dataset))
    ]


def judge_crops(
    net: nn.Module, name: str, pictures: Sequence[tuple[str, Array]], each: int, seed: int
) -> list[Row]:
    """``each`` random square crops, 24 px a side up to the whole, of photos without any of the
    signs."""
    rows = []
    for photo, picture in pictures:
        rng = numpy_generator(seed, "judge", name, photo)
        answers = predict_images(net, [_any_crop(picture, rng) for _ in range(each)])
        rows += [
            _row(name, f"{photo}#{i}", photo, BACKGROUND, *answer)
            for i, answer in enumerate(answers)
        ]
    return rows


def judge_stop_photos(
    net: nn.Module, folder: str | Path, boxes: Sequence[SignBox], each: int, seed: int
) -> list[Row]:
    """``each`` crops about every boxed stop sign, of random scale (``FILLS``) and shift; the group
    is the sign."""
    rows = []
    for number, sign in enumerate(boxes):
        picture = np.ascontiguousarray(read_rgba(Path(folder) / sign.file)[..., :3])
        rng = numpy_generator(seed, "judge", "stop-photos", number)
        answers = predict_images(net, [sign_crop(picture, sign.box, rng) for _ in range(each)])
        group = f"{sign.file}@{sign.box[0]:g},{sign.box[1]:g}"
        rows += [
            _row("stop photos", f"{group}#{i}", group, STOP, *answer)
            for i, answer in enumerate(answers)
        ]
    return rows


def sign_crop(picture: Array, box: Sequence[float], rng: np.random.Generator) -> Array:
    """A square crop about a box: the longer side spans a random ``FILLS`` share of it, shifted by
    up to half the rest plus 4 %. Beyond the photo's edge its border is repeated.
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
    """Every photo of some folders by name, without those whose file name is in ``leave_out``."""
    files = [p for folder in folders for p in list_images(folder) if p.name not in leave_out]
    return [
        (f"{p.parent.name}/{p.name}", np.ascontiguousarray(read_rgba(p)[..., :3])) for p in files
    ]


def accuracy_rates(rows: Sequence[Row]) -> dict[str, dict[str, RateInterval | int]]:
    """Of each set: ``right`` (the share predicted as labeled) by Wilson over predictions and, as
    ``by_group``, by bootstrap over tracks, signs or photos; ``groups``, their number; ``stop`` the
    share of frames called stop.
    """
    found: dict[str, dict[str, RateInterval | int]] = {}
    for name in dict.fromkeys(str(r["set"]) for r in rows):
        mine = [r for r in rows if r["set"] == name]
        found[name] = _summary(mine)
        stops = [r for r in mine if r["label"] == STOP]
        if stops and len(stops) < len(mine):
            found[f"{name}, stop"] = _summary(stops)
    return found


def stop_share_by_sign(rows: Sequence[Row]) -> dict[str, float]:
    """Share of the crops of each boxed stop sign that are called stop, by ``file@x0,y0``."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        if row["set"] == "stop photos":
            found.setdefault(str(row["group"]), []).append(row["predicted"] == STOP)
    return {sign: round(sum(hits) / len(hits), 4) for sign, hits in found.items()}


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
