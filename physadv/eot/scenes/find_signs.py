"""Signs located in photos: boxes from a file beside them, or red octagons in the picture."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from physadv.core.errors import DataError
from physadv.core.image_io import Array
from physadv.core.sign_artwork import octagon_mm

BOXES_FILE = "boxes.csv"
PERSPECTIVE_FROM_PX = 120
ROUND_FROM_PX = 40
Corners = npt.NDArray[np.float32]
_OCTAGON = np.array(octagon_mm(1.0), np.float32)
_SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


def box_corners(x0: float, y0: float, x1: float, y1: float) -> Corners:
    """Return (4, 2) corners TL, TR, BR, BL of a box in px.

    Args:
        x0: Left edge.
        y0: Upper edge.
        x1: Right edge.
        y1: Lower edge.
    """
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def read_boxes(path: Path) -> dict[str, list[Corners]]:
    """Return boxes by file name from a CSV at ``path`` with the columns file, x0, y0, x1, y1 (px).

    Raises:
        DataError: A missing column, or a line without numbers; the error names the line.
    """
    boxes: dict[str, list[Corners]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        needed = {"file", "x0", "y0", "x1", "y1"}
        if not needed <= set(reader.fieldnames or ()):
            raise DataError(
                f"{path}", f"needs the columns {', '.join(sorted(needed))}", "add a header line"
            )

        for number, row in enumerate(reader, 2):
            try:
                corners = box_corners(*(float(row[key]) for key in ("x0", "y0", "x1", "y1")))
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{path}:{number}", "x0, y0, x1, y1 must be numbers", "correct the line"
                ) from error
            boxes.setdefault(row["file"], []).append(corners)
    return boxes


def find_signs(image: Array, *, smallest_px: int = 20) -> list[Corners]:
    """Find red octagons in a picture.

    Red regions are closed, their hulls compared with a regular octagon seen in perspective; what is
    not nearly one is left out. A miss is likely on faded or shaded signs: give a boxes file there.

    Args:
        image: (h, w, 3) uint8.
        smallest_px: Least width and height of an octagon.

    Returns:
        (4, 2) corners of the bounding square of each, largest first.
    """
    found: list[tuple[float, Corners]] = []
    for mask in _red_masks(image):
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            fitted = _fit_octagon(contour, smallest_px)
            if fitted is not None and not _overlaps(fitted[1], [c for _, c in found]):
                found.append(fitted)
    found.sort(key=lambda item: -cv2.contourArea(item[1]))
    return [corners for _, corners in found]


def _red_masks(image: Array) -> list[npt.NDArray[np.uint8]]:
    """Return red at a strict and at lenient saturations, each closed."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    red_hue = (hue <= 8) | (hue >= 168)
    masks = []
    for least_saturation, least_value in ((140, 50), (90, 40), (60, 60)):
        red = (red_hue & (saturation >= least_saturation) & (value >= least_value)).astype(np.uint8)
        masks.append(cv2.morphologyEx(red, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)))
    return masks


def _fit_octagon(contour: npt.NDArray[np.int32], smallest_px: int) -> tuple[float, Corners] | None:
    """Fit an octagon under a homography to the contour's hull.

    Returns (intersection over union, square corners), or None where it is no octagon.
    """
    x, y, w, h = cv2.boundingRect(contour)
    if min(w, h) < smallest_px or not 0.45 <= w / h <= 1.6:
        return None
    hull = cv2.convexHull(contour)
    area = cv2.contourArea(hull)
    share = area / (w * h)
    if not 0.7 <= share <= 0.93 or cv2.contourArea(contour) < 0.3 * area:
        return None
    polygon = _reduce(hull[:, 0].astype(np.float32), 8)
    if polygon is None:
        return None

    # The corner nearest to the upper left begins, as in the model.
    start = int(np.argmin(np.linalg.norm(polygon - (_OCTAGON[0] * (w, h) + (x, y)), axis=1)))
    ordered = np.roll(polygon, -start, axis=0)
    matrix = _plane_to_px(ordered)
    model = cv2.perspectiveTransform(_OCTAGON[None], matrix)[0]

    fit = _agreement(model, hull[:, 0])
    if w >= ROUND_FROM_PX and _agreement(_ellipse_of(hull), hull[:, 0]) > fit:
        return None

    sides = np.linalg.norm(np.roll(ordered, -1, 0) - ordered, axis=1) / np.array(
        [w, min(w, h), h, min(w, h)] * 2
    )
    if fit < 0.9 or sides.min() < 0.14 or sides.max() > 0.75:
        return None
    corners = cv2.perspectiveTransform(_SQUARE[None], matrix)[0]
    return fit, np.asarray(corners, np.float32)


def _agreement(polygon: npt.NDArray[np.floating], hull: npt.NDArray[np.integer]) -> float:
    """Return the intersection over union of two convex polygons."""
    first, second = polygon.astype(np.float32), hull.astype(np.float32)
    shared, _ = cv2.intersectConvexConvex(first, second)
    union = cv2.contourArea(first) + cv2.contourArea(second) - shared
    return float(shared / union) if union > 0 else 0.0


def _ellipse_of(hull: npt.NDArray[np.int32]) -> Corners:
    """Return the fitted ellipse as a polygon: a disc is nearer to it than to any octagon."""
    (x, y), (a, b), turn = cv2.fitEllipse(hull) if len(hull) >= 5 else ((0, 0), (0, 0), 0)
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    u, v = a / 2 * np.cos(t), b / 2 * np.sin(t)
    return np.stack([x + u * c - v * s, y + u * s + v * c], 1).astype(np.float32)


def _plane_to_px(octagon: Corners) -> npt.NDArray[np.float64]:
    """Return unit square -> px.

    A homography where the sign is large enough to show perspective, else an affine map.
    """
    if np.ptp(octagon, axis=0).max() >= PERSPECTIVE_FROM_PX:
        homography, _ = cv2.findHomography(_OCTAGON, octagon)
        if homography is not None:
            return np.asarray(homography, np.float64)
    design = np.hstack([_OCTAGON, np.ones((8, 1), np.float32)])
    affine, *_ = np.linalg.lstsq(design, octagon, rcond=None)
    return np.vstack([affine.T, [0.0, 0.0, 1.0]]).astype(np.float64)


def _reduce(points: Corners, count: int) -> Corners | None:
    """Merge a clockwise convex polygon to ``count`` corners, each time dropping the one that
    changes the area least."""
    if len(points) < count:
        return None
    if cv2.contourArea(points, oriented=True) < 0:
        points = points[::-1].copy()
    while len(points) > count:
        before, after = np.roll(points, 1, 0), np.roll(points, -1, 0)
        (ax, ay), (bx, by) = (points - before).T, (after - before).T
        points = np.delete(points, int(np.argmin(np.abs(ax * by - ay * bx))), axis=0)
    return points


def _overlaps(corners: Corners, others: list[Corners]) -> bool:
    center = corners.mean(0)
    return any(
        cv2.pointPolygonTest(o, (float(center[0]), float(center[1])), False) >= 0 for o in others
    )
