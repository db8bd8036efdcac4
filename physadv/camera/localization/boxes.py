"""Plane geometry of a located sign: boxes, crops and overlaps."""

from __future__ import annotations

from math import ceil, floor

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Corners = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]


def box_of(corners: Corners) -> Box:
    """Return the upright box (x0, y0, x1, y1) around the points ``corners`` (n, 2)."""
    low, high = corners.min(0), corners.max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def corners_of(box: Box) -> Corners:
    """Return the corners (4, 2) of ``box``: top-left, top-right, bottom-right, bottom-left."""
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)


def square_around(box: Box, margin: float) -> tuple[int, int, int]:
    """Return (x, y, side) in whole pixels of the square around ``box``, wider by ``margin`` of its
    side on every edge.

    Example:
        >>> square_around((10, 10, 30, 20), margin=0.25)
        (5, 0, 30)
    """
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0) * (1 + 2 * margin)
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    return floor(left), floor(top), max(1, ceil(side))


def crop_square(image: Pixels, x: int, y: int, side: int) -> Pixels:
    """Cut a square out of a picture; outside the picture its edge is repeated.

    Args:
        image: Picture (h, w, 3) uint8.
        x: Left edge in pixels.
        y: Top edge in pixels.
        side: Side in pixels.

    Returns:
        The square (side, side, 3).

    Example:
        >>> crop_square(np.zeros((48, 64, 3), np.uint8), x=-4, y=0, side=20).shape
        (20, 20, 3)
    """
    h, w = image.shape[:2]
    left, top, right, bottom = max(0, -x), max(0, -y), max(0, x + side - w), max(0, y + side - h)
    if left or top or right or bottom:
        image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return image[y + top : y + top + side, x + left : x + left + side]


def resize_box(image: Pixels, width: int, height: int) -> Pixels:
    """Resize by area average where the picture shrinks (no aliasing), bilinearly where it grows.

    Args:
        image: Picture (h, w, 3) uint8.
        width: New width.
        height: New height.

    Returns:
        The resized picture.
    """
    shrinks = width <= image.shape[1] and height <= image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(
        cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8
    )


def overlaps_image(box: Box, image: Pixels) -> bool:
    """Return whether any part of ``box`` lies inside the picture ``image``."""
    x0, y0, x1, y1 = box
    return x1 > 0 and y1 > 0 and x0 < image.shape[1] and y0 < image.shape[0] and x1 > x0 and y1 > y0
