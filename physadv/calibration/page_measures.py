"""Measurements of a printed page in one camera frame: exposure, light, sharpness, size, angle and
motion.

All take the page's corners in the picture, so that they hold for the color chart and the board
alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from physadv.calibration.photo_limits import CLIPPED
from physadv.core.color import srgb_to_linear

F64 = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
FOCAL = 0.9
"""Assumed focal length in longer picture sides, for angles before a lens is measured."""
_SIDE = 160
_PAPER = 90
"""Percentile of the pixels of a page that is bare paper: at least a fifth of a page is."""


@dataclass(frozen=True)
class PageExposure:
    """Exposure of the paper of a page.

    Attributes:
        paper: Level of bare paper in its brightest channel, 0 to 255.
        clipped: Share of the page's pixels that are over-exposed in some channel.
        right_to_left: Ratio of the light on the right half, as the camera sees it, to the left.
        bottom_to_top: Ratio of the light on the lower half to the upper.
    """

    paper: float
    clipped: float
    right_to_left: float
    bottom_to_top: float


@dataclass(frozen=True)
class PageMeasures:
    """Measurements of a page in one frame.

    Attributes:
        corners: Corners (4, 2) of the page in px: its top left, then clockwise as printed.
        size: Width and height of the picture.
        exposure: Exposure of its paper.
        edge_px: Spread of the sharpest edges in px, as of a Gaussian's standard deviation.
        cell_px: Side of the smallest cell or square in px.
        yaw_deg: Angle of the page about the vertical; positive where its right side is farther.
        pitch_deg: Angle about the horizontal; positive where its lower side is farther.
        roll_deg: Angle in the picture, clockwise, of the page's top edge.
        motion: Movement since the frame before, in picture widths per second; None for the first.
        reached: Cells (column, row) of a 4 x 4 grid over the picture that the page's points reach.
    """

    corners: F64
    size: tuple[int, int]
    exposure: PageExposure
    edge_px: float
    cell_px: float
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    motion: float | None = None
    reached: frozenset[tuple[int, int]] = frozenset()

    @property
    def share(self) -> float:
        """Larger of the page's width and height as shares of the picture's."""
        extent = (self.corners.max(0) - self.corners.min(0)) / np.array(self.size)
        return float(extent.max())


def page_exposure(image: Pixels, corners: F64) -> PageExposure:
    """Measure the exposure inside a page's outline.

    Args:
        image: Picture (h, w, 3) uint8 sRGB.
        corners: Corners (4, 2) in px, in order round the page.

    Returns:
        The exposure; halves are as the camera sees them, however the page is turned.

    Example:
        >>> picture = np.full((90, 120, 3), 200, np.uint8)
        >>> picture[:, 60:] = 100
        >>> square = np.array([[20.0, 10], [100, 10], [100, 80], [20, 80]])
        >>> seen = page_exposure(picture, square)
        >>> seen.paper, seen.clipped, round(seen.right_to_left, 2)
        (200.0, 0.0, 0.22)
    """
    upright = _as_seen(corners)
    target = np.array([[0, 0], [_SIDE, 0], [_SIDE, _SIDE], [0, _SIDE]], np.float32)
    matrix = cv2.getPerspectiveTransform(upright.astype(np.float32), target)
    patch = cv2.warpPerspective(image, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR)

    brightest = patch.max(2)
    half = _SIDE // 2
    halves = [brightest[:, :half], brightest[:, half:], brightest[:half], brightest[half:]]
    left, right, top, bottom = (
        float(srgb_to_linear(np.percentile(part, _PAPER) / 255)) + 1e-4 for part in halves
    )
    return PageExposure(
        paper=float(np.percentile(brightest, _PAPER)),
        clipped=float((brightest >= CLIPPED).mean()),
        right_to_left=right / left,
        bottom_to_top=bottom / top,
    )


def _as_seen(corners: F64) -> F64:
    """Return the corners (4, 2) in order from the top left of the picture, clockwise."""
    offset = corners - corners.mean(0)
    order = np.argsort(np.arctan2(offset[:, 1], offset[:, 0]))  # y is down: clockwise
    ordered = corners[order]
    first = int(np.argmin(ordered.sum(1)))
    return np.asarray(np.roll(ordered, -first, axis=0))


def edge_spread_px(image: Pixels, corners: F64) -> float:
    """Measure how sharp a page of black and white edges is.

    A step of height h, blurred by a Gaussian of standard deviation s, has a largest slope of
    h / (s sqrt(2 pi)). Pixels and their differences add a variance of a half, which is taken off.

    Args:
        image: Picture (h, w, 3) uint8.
        corners: Corners (4, 2) of the page in px.

    Returns:
        The standard deviation in px; infinity where the page has no contrast.
    """
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    height, width = image.shape[:2]
    box = image[
        max(0, int(top)) : min(height, int(bottom) + 1),
        max(0, int(left)) : min(width, int(right) + 1),
    ]
    if min(box.shape[:2], default=0) < 3:
        return float("inf")

    gray = cv2.cvtColor(box, cv2.COLOR_RGB2GRAY).astype(np.float32)
    contrast = float(np.subtract(*np.percentile(gray, [98, 2])))
    slope = np.hypot((gray[1:-1, 2:] - gray[1:-1, :-2]) / 2, (gray[2:, 1:-1] - gray[:-2, 1:-1]) / 2)
    steepest = float(np.percentile(slope, 99.7))
    if contrast < 8 or steepest <= 0:
        return float("inf")
    variance = (contrast / steepest) ** 2 / (2 * np.pi) - 0.5
    return float(np.sqrt(max(variance, 0.0)))


def page_motion(corners: F64, before: F64, width: int, seconds: float) -> float:
    """Return the largest movement of a corner in picture widths per second.

    Args:
        corners: Corners (4, 2) in px.
        before: The same in the frame before.
        width: Width of the picture in px.
        seconds: Time between the frames; under a thousandth counts as that.

    Example:
        >>> square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
        >>> page_motion(square + [3, 4], square, width=100, seconds=0.5)
        0.1
    """
    moved = np.linalg.norm(corners - before, axis=1).max()
    return float(moved / width / max(seconds, 1e-3))


def page_angles(
    corners: F64, page: tuple[float, float], size: tuple[int, int]
) -> tuple[float, float, float]:
    """Return yaw, pitch and roll of a page in degrees, for a lens without distortion.

    Args:
        corners: Corners (4, 2) in px: the page's top left, then clockwise as printed.
        page: Width and height of the page in any unit.
        size: Width and height of the picture in px.

    Returns:
        Yaw (positive where the side to the right in the picture is farther), pitch (positive where
        the lower side in the picture is farther) and roll (clockwise in the picture).
    """
    plane = np.array([[0, 0], [page[0], 0], page, [0, page[1]]], np.float32)
    homography = cv2.getPerspectiveTransform(plane, corners.astype(np.float32))
    focal = FOCAL * max(size)
    inverse = np.linalg.inv(np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]]))

    across, down, _ = (inverse @ homography).T
    normal = np.cross(across / np.linalg.norm(across), down / np.linalg.norm(down))
    normal *= -np.sign(normal[2])  # towards the camera
    yaw = np.degrees(np.arctan2(normal[0], -normal[2]))
    pitch = np.degrees(np.arctan2(normal[1], -normal[2]))

    top_edge = corners[1] - corners[0]
    roll = np.degrees(np.arctan2(top_edge[1], top_edge[0]))
    return float(yaw), float(pitch), float(roll)


def reached_cells(points: F64, size: tuple[int, int]) -> frozenset[tuple[int, int]]:
    """Return the cells (column, row) of a 4 x 4 grid over a picture of ``size`` that ``points`` (n,
    2) in px reach.

    Example:
        >>> sorted(reached_cells(np.array([[5.0, 5], [95, 5]]), (100, 100)))
        [(0, 0), (3, 0)]
    """
    cells = (points / np.array(size) * 4).astype(int)
    inside = ((cells >= 0) & (cells <= 3)).all(1)
    return frozenset((int(column), int(row)) for column, row in cells[inside])
