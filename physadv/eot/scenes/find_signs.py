"""Signs located in photos: boxes from a file beside them, or red octagons in the picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from physadv.core.image_io import Array
from physadv.core.sign_artwork import octagon_mm
from physadv.datasets.box_annotations import Corners
from physadv.eot.scenes.boxes import read_boxes

__all__ = ["find_signs", "read_boxes"]


_PERSPECTIVE_FROM_PX = 120
"""Width of a sign from which its perspective can be measured."""
_ROUND_FROM_PX = 40
"""Width of a sign from which a disc can be told from an octagon."""
_OCTAGON = np.array(octagon_mm(1.0), np.float32)
_SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


def find_signs(image: Array, *, smallest_px: int = 20) -> list[Corners]:
    """Find stop signs: red regions whose convex hull is nearly a regular octagon in perspective.

    Faded or shaded signs are likely to be missed; name their boxes in a file instead.

    Args:
        image: (h, w, 3) uint8.
        smallest_px: Least width and height of a sign.

    Returns:
        (4, 2) corners of the square around each sign, clockwise from the upper left, the largest
        sign first.

    Example:
        >>> picture = np.full((120, 160, 3), 128, np.uint8)
        >>> octagon = (np.array(octagon_mm(60)) + 30).astype(np.int32)
        >>> picture = cv2.fillPoly(picture, [octagon], (190, 20, 30))
        >>> [corners.round(-1).astype(int).tolist() for corners in find_signs(picture)]
        [[[30, 30], [90, 30], [90, 90], [30, 90]]]
    """
    signs: list[Corners] = []
    for mask in _red_masks(image):
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            corners = _fit_octagon(contour, smallest_px)
            if corners is not None and not _overlaps(corners, signs):
                signs.append(corners)
    return sorted(signs, key=lambda corners: -cv2.contourArea(corners))


def _red_masks(image: Array) -> list[npt.NDArray[np.uint8]]:
    """Return masks of red at one strict and two lenient saturations, their gaps closed."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    red_hue = (hue <= 8) | (hue >= 168)

    masks = []
    for least_saturation, least_value in ((140, 50), (90, 40), (60, 60)):
        red = (red_hue & (saturation >= least_saturation) & (value >= least_value)).astype(np.uint8)
        masks.append(cv2.morphologyEx(red, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)))
    return masks


def _fit_octagon(contour: npt.NDArray[np.int32], smallest_px: int) -> Corners | None:
    """Fit an octagon in perspective to the contour's hull.

    Returns the corners of its square, or None where the hull is no octagon.
    """
    x, y, w, h = cv2.boundingRect(contour)
    if min(w, h) < smallest_px or not 0.45 <= w / h <= 1.6:
        return None

    hull = cv2.convexHull(contour)
    area = cv2.contourArea(hull)
    share = area / (w * h)
    if not 0.7 <= share <= 0.93 or cv2.contourArea(contour) < 0.3 * area:
        return None

    polygon = _simplify(hull[:, 0].astype(np.float32), 8)
    if polygon is None:
        return None

    # The corner nearest to the first one of an upright octagon comes first.
    start = int(np.argmin(np.linalg.norm(polygon - (_OCTAGON[0] * (w, h) + (x, y)), axis=1)))
    ordered = np.roll(polygon, -start, axis=0)
    matrix = _plane_to_px(ordered)

    fit = _polygon_iou(cv2.perspectiveTransform(_OCTAGON[None], matrix)[0], hull[:, 0])
    if w >= _ROUND_FROM_PX and _polygon_iou(_ellipse_of(hull), hull[:, 0]) > fit:
        return None

    sides = np.linalg.norm(np.roll(ordered, -1, 0) - ordered, axis=1) / np.array(
        [w, min(w, h), h, min(w, h)] * 2
    )
    if fit < 0.9 or sides.min() < 0.14 or sides.max() > 0.75:
        return None
    return np.asarray(cv2.perspectiveTransform(_SQUARE[None], matrix)[0], np.float32)


def _polygon_iou(polygon: npt.NDArray[np.floating], hull: npt.NDArray[np.integer]) -> float:
    """Return the intersection over union of two convex polygons."""
    first, second = polygon.astype(np.float32), hull.astype(np.float32)
    shared, _ = cv2.intersectConvexConvex(first, second)
    union = cv2.contourArea(first) + cv2.contourArea(second) - shared
    return float(shared / union) if union > 0 else 0.0


def _ellipse_of(hull: npt.NDArray[np.int32]) -> Corners:
    """Fit an ellipse and return it as a polygon; a disc is nearer to it than to any octagon."""
    (x, y), (a, b), turn = cv2.fitEllipse(hull) if len(hull) >= 5 else ((0, 0), (0, 0), 0)
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    u, v = a / 2 * np.cos(t), b / 2 * np.sin(t)
    return np.stack([x + u * c - v * s, y + u * s + v * c], 1).astype(np.float32)


def _plane_to_px(octagon: Corners) -> npt.NDArray[np.float64]:
    """Fit the map from the unit square to px to the eight corners of a sign.

    It is a homography where the sign is large enough to show perspective, else affine.
    """
    if np.ptp(octagon, axis=0).max() >= _PERSPECTIVE_FROM_PX:
        homography, _ = cv2.findHomography(_OCTAGON, octagon)
        if homography is not None:
            return np.asarray(homography, np.float64)

    design = np.hstack([_OCTAGON, np.ones((8, 1), np.float32)])
    affine, *_ = np.linalg.lstsq(design, octagon, rcond=None)
    return np.vstack([affine.T, [0.0, 0.0, 1.0]]).astype(np.float64)


def _simplify(points: Corners, count: int) -> Corners | None:
    """Reduce a convex polygon to ``count`` corners, dropping those that change its area least.

    Returns it clockwise, or None where it has fewer corners.
    """
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
    """Return whether the middle of a square lies in any other one."""
    x, y = map(float, corners.mean(0))
    return any(cv2.pointPolygonTest(other, (x, y), False) >= 0 for other in others)
