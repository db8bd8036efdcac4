"""Plane geometry of a located sign: boxes, crops, overlaps."""

from __future__ import annotations

from math import ceil, floor

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Corners = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]


def box_of(corners: Corners) -> Box:
    """The upright box (x0, y0, x1, y1) around (n, 2) points."""
    low, high = corners.min(0), corners.max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def corners_of(box: Box) -> Corners:
    """TL, TR, BR, BL of a box."""
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)


def square_around(box: Box, margin: float) -> tuple[int, int, int]:
    """(x, y, side) in whole pixels of the square around ``box``, wider by ``margin`` of its side on
    every edge."""
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0) * (1 + 2 * margin)
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    return floor(left), floor(top), max(1, ceil(side))


def crop_square(image: Pixels, x: int, y: int, side: int) -> Pixels:
    """Cut a square; what lies outside the picture repeats its edge."""
    h, w = image.shape[:2]
    left, top, right, bottom = max(0, -x), max(0, -y), max(0, x + side - w), max(0, y + side - h)
    if left or top or right or bottom:
        image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return image[y + top : y + top + side, x + left : x + left + side]


def resize_box(image: Pixels, width: int, height: int) -> Pixels:
    """Resize by area where it shrinks (no aliasing), bilinear where it grows."""
    shrinks = width <= image.shape[1] and height <= image.shape[0]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=way), dtype=np.uint8)


def overlaps_image(box: Box, image: Pixels) -> bool:
    """Whether any of ``box`` lies inside the picture."""
    x0, y0, x1, y1 = box
    return x1 > 0 and y1 > 0 and x0 < image.shape[1] and y0 < image.shape[0] and x1 > x0 and y1 > y0
