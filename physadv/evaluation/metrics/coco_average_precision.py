"""Average precision by the rules of COCO, over a whole data set and all of its classes.

After Lin et al. (2014) and its reference implementation: detections of a class are matched greedily
in the order of their scores, at ten overlaps from 0.5 to 0.95, with 101 points of recall. Objects
marked as crowds, and those outside the range of areas, neither count nor harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan

import numpy as np
import numpy.typing as npt

from physadv.core.errors import OptionError

OVERLAPS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""Overlaps at which a detection hits."""
AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 1024.0),
    "medium": (1024.0, 9216.0),
    "large": (9216.0, 1e10),
}
"""Ranges of areas in px^2, both ends included."""
_RECALLS = np.linspace(0, 1, 101)
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImageDetections:
    """What a detector found in one image, and what is in it.

    Args:
        boxes: Detected boxes (m, 4) x0, y0, x1, y1 in px.
        scores: Scores (m,).
        labels: Classes (m,).
        true_boxes: Boxes of the objects (k, 4).
        true_labels: Classes of the objects (k,).
        crowd: Whether (k,) each is a crowd, which may be hit any number of times; empty for none.
        areas: Areas (k,) of the objects in px^2; empty for those of their boxes.
    """

    boxes: _Floats
    scores: _Floats
    labels: npt.NDArray[np.int64]
    true_boxes: _Floats
    true_labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    areas: _Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class CocoAveragePrecision:
    """Average precision of a detector on a data set; NaN where there is no object.

    Attributes:
        ap: Mean over classes and the ten overlaps.
        ap50: Mean over classes at overlap 0.5.
        ap75: Mean over classes at overlap 0.75.
        by_class: Mean over the overlaps, by class.
        objects: Number of objects that count.
    """

    ap: float
    ap50: float
    ap75: float
    by_class: dict[int, float]
    objects: int


def coco_average_precision(
    images: Sequence[ImageDetections], *, area: str = "all", most: int = 100
) -> CocoAveragePrecision:
    """Compute the average precision of detections by the rules of COCO.

    Args:
        images: Detections and objects of each image.
        area: "all", "small" (up to 32^2 px), "medium" (up to 96^2 px) or "large".
        most: Largest number of detections of a class in an image that count, the best first.

    Returns:
        The figures that COCO calls AP, AP50 and AP75.

    Raises:
        OptionError: ``area`` is unknown.

    Example:
        >>> box = np.array([[0.0, 0.0, 10.0, 10.0]])
        >>> one = ImageDetections(box, np.array([0.9]), np.array([0]), box, np.array([0]))
        >>> coco_average_precision([one]).ap
        1.0
    """
    return CocoMatches(images, area=area, most=most).average_precision()


class CocoMatches:
    """Detections matched to objects once, for the average precision of any choice of images.

    Args:
        images: Detections and objects of each image.
        area: Range of areas that counts, a key of ``AREAS``.
        most: Largest number of detections of a class in an image that count, the best first.

    Raises:
        OptionError: ``area`` is unknown.

    Example:
        >>> box = np.array([[0.0, 0.0, 10.0, 10.0]])
        >>> one = ImageDetections(box, np.array([0.9]), np.array([0]), box, np.array([0]))
        >>> none = ImageDetections(box[:0], np.zeros(0), np.zeros(0, int), box, np.array([0]))
        >>> matches = CocoMatches([one, none])
        >>> matches.average_precision([0]).ap50, round(matches.average_precision().ap50, 2)
        (1.0, 0.5)
    """

    def __init__(
        self, images: Sequence[ImageDetections], *, area: str = "all", most: int = 100
    ) -> None:
        if area not in AREAS:
            raise OptionError(f"area {area!r}", f"One of {', '.join(AREAS)}", "Choose one of them")
        self.count = len(images)
        classes = sorted({int(c) for image in images for c in image.true_labels})
        self._matched = {
            number: [_match(image, number, AREAS[area], most) for image in images]
            for number in classes
        }

    def average_precision(self, chosen: Sequence[int] | None = None) -> CocoAveragePrecision:
        """Return the figures of the images ``chosen``, by their number; of all where it is None."""
        numbers = range(self.count) if chosen is None else chosen
        by_overlap, objects = {}, 0
        for number, every in self._matched.items():
            matched = [every[i] for i in numbers]
            count = sum(m.count for m in matched)
            if count:
                objects += count
                by_overlap[number] = _precision(matched, count)

        if not by_overlap:
            return CocoAveragePrecision(nan, nan, nan, {}, 0)
        table = np.stack(list(by_overlap.values()))
        return CocoAveragePrecision(
            float(table.mean()),
            float(table[:, OVERLAPS.index(0.5)].mean()),
            float(table[:, OVERLAPS.index(0.75)].mean()),
            {number: float(row.mean()) for number, row in by_overlap.items()},
            objects,
        )


@dataclass(frozen=True)
class _Matched:
    """Detections of one class in one image: scores (m,), hits and ignored (overlaps, m), and the
    number of objects that count."""

    scores: _Floats
    hits: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    count: int


def _match(image: ImageDetections, label: int, area: tuple[float, float], most: int) -> _Matched:
    """Match the detections of a class to its objects, the best detection first."""
    own = image.true_labels == label
    truth = image.true_boxes[own].reshape(-1, 4)
    crowd = image.crowd[own] if len(image.crowd) else np.zeros(len(truth), bool)
    areas = image.areas[own] if len(image.areas) else _areas(truth)
    ignore = crowd | (areas < area[0]) | (areas > area[1])
    # What counts comes first, as the greedy rule prefers it.
    order = np.argsort(ignore, kind="stable")
    truth, crowd, ignore = truth[order], crowd[order], ignore[order]

    found = np.flatnonzero(image.labels == label)
    found = found[np.argsort(-image.scores[found], kind="stable")][:most]
    boxes = image.boxes[found].reshape(-1, 4)
    overlaps = _overlaps(boxes, truth, crowd)

    shape = (len(OVERLAPS), len(found))
    hits, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    for t, least in enumerate(OVERLAPS):
        taken = np.zeros(len(truth), bool)
        for d in range(len(found)):
            chosen = _best_object(overlaps[d], taken, crowd, ignore, least)
            if chosen is not None:
                hits[t, d], ignored[t, d] = True, ignore[chosen]
                taken[chosen] = True
    outside = (_areas(boxes) < area[0]) | (_areas(boxes) > area[1])
    ignored |= ~hits & outside
    return _Matched(image.scores[found], hits, ignored, int((~ignore).sum()))


def _best_object(
    overlaps: _Floats,
    taken: npt.NDArray[np.bool_],
    crowd: npt.NDArray[np.bool_],
    ignore: npt.NDArray[np.bool_],
    least: float,
) -> int | None:
    """The object that a detection hits: the one of the largest overlap among those that count, else
    among the ignored ones; of equals the last, as the reference has it."""
    least = min(least, 1 - 1e-10)
    able = (~taken | crowd) & (overlaps >= least)
    for group in (able & ~ignore, able & ignore):
        numbers = np.flatnonzero(group)
        if len(numbers):
            best = overlaps[numbers].max()
            return int(numbers[overlaps[numbers] == best][-1])
    return None


def _precision(matched: Sequence[_Matched], count: int) -> _Floats:
    """Average precision (overlaps,) of a class with ``count`` objects."""
    scores = np.concatenate([m.scores for m in matched])
    order = np.argsort(-scores, kind="stable")
    hits = np.concatenate([m.hits for m in matched], 1)[:, order]
    counted = ~np.concatenate([m.ignored for m in matched], 1)[:, order]

    areas = np.zeros(len(OVERLAPS))
    for t in range(len(OVERLAPS)):
        true = np.cumsum(hits[t] & counted[t])
        false = np.cumsum(~hits[t] & counted[t])
        recall = true / count
        precision = true / np.maximum(true + false, np.finfo(float).eps)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(recall, _RECALLS, side="left")
        areas[t] = np.append(precision, 0.0)[np.minimum(places, len(precision))].mean()
    return areas


def _areas(boxes: _Floats) -> _Floats:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def _overlaps(boxes: _Floats, truth: _Floats, crowd: npt.NDArray[np.bool_]) -> _Floats:
    """Overlaps (m, k); over a crowd the shared part of the detection."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    own, other = _areas(boxes)[:, None], _areas(truth)[None]
    whole = np.where(crowd[None], own, own + other - shared)
    return np.asarray(np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0))
