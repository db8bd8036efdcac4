"""Alignment of a sign in a frame with its drawing, to a fraction of a pixel.

A rough homography is corrected by the optical flow from the drawing to the frame, seen from the
front (Lucas and Kanade 1981; Bouguet 2001), of points that come back to their start when they are
tracked backward (Kalal, Mikolajczyk and Matas 2010). The frame has to look like the drawing there,
or there is no alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.camera.localization.boxes import Pixels
from physadv.camera.localization.location import Points
from physadv.printing.aruco_markers import SIGN_SQUARE

Gray = npt.NDArray[np.uint8]
Cells = npt.NDArray[np.float64]

FEWEST_POINTS, LEAST_SHARE = 12, 0.35
"""Fewest points of the drawing that must be found in the frame, and their least share."""
LEAST_CORRELATION = 0.75
"""Least correlation of the frame with the drawing, both at ``_COARSE_PX``."""
_SIDES = (64, 96, 128, 192, 256)
"""Sides in px at which a sign is compared with its drawing."""
_COARSE_PX, _LEAST_IN_FRAME = 32, 0.5
"""Cells along a side of the coarse picture, and the least share of the sign's in the frame."""
_MARGIN = 0.06
"""Surroundings of the sign in a view, in sign widths, so that it may move a little."""
_MOST_POINTS, _WINDOW, _LEVELS = 100, 15, 2
_RETURN_PX = 0.7
"""Farthest from its start that a point may end which is tracked forward and backward."""
_AGREE_PX = 1.0
"""Farthest from its place that a point may be which agrees on a homography, in px of the view."""
_STEPS, _SETTLED_PX = 3, 0.3
"""Most corrections of a homography, and the correction in px of the view that is the last one."""


@dataclass(frozen=True)
class AlignedSign:
    """A sign in a frame, aligned with its drawing.

    Attributes:
        homography: Homography (3, 3) from the sign's unit square (y down) to the frame in px.
        plane: Points (n, 2) of the drawing that were found, in the unit square.
        seen: The same points (n, 2) in the frame in px.
    """

    homography: Points
    plane: Points
    seen: Points


@dataclass(frozen=True)
class _DrawnView:
    """The drawing at one size, and the points by which a frame is aligned with it.

    ``from_plane`` leads from the unit square to the view; points are in px from its outer corner.
    """

    side: int
    gray: Gray
    from_plane: Points
    points: npt.NDArray[np.float32]
    coarse: Cells
    coarse_inside: npt.NDArray[np.bool_]


class SignDrawing:
    """A sign's drawing, with which frames are aligned.

    Args:
        picture: Square picture (s, s, 3) uint8 RGB of the sign. A plain color that reaches the
            picture's corners is taken for its surroundings.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
        >>> picture = cv2.resize(noise, (200, 200), interpolation=cv2.INTER_CUBIC)
        >>> frame = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        >>> rough = np.array([[196.0, 0, 3], [0, 203, -2], [0, 0, 1]])
        >>> SignDrawing(picture).align(frame, rough).homography.round(0) + 0.0
        array([[200.,   0.,   0.],
               [  0., 200.,   0.],
               [  0.,   0.,   1.]])
    """

    def __init__(self, picture: Pixels) -> None:
        self._picture = picture

    def align(self, gray: Gray, homography: Points) -> AlignedSign | None:
        """Align the sign near ``homography``, from its unit square to the frame ``gray`` (h, w) in
        px, with the drawing; None where it does not look like it, or is seen from behind."""
        side = side_px(homography)
        if not _SIDES[0] / 4 < side < 4 * max(gray.shape):
            return None
        view = self._views[int(np.searchsorted(_SIDES, side, side="right").clip(1)) - 1]

        for _ in range(_STEPS):
            found = _corrected(gray, homography, view)
            if found is None:
                return None
            moved = map_points(_inverse(homography), map_points(found.homography, SIGN_SQUARE))
            homography = found.homography
            if np.abs(moved - SIGN_SQUARE).max() * view.side < _SETTLED_PX:
                break

        cells = _cells_in_frame(gray, homography, view)
        if cells.sum() < _LEAST_IN_FRAME * view.coarse_inside.sum():
            return None
        filmed = _coarse(_from_the_front(gray, homography, view))[cells]
        return found if _correlation(filmed, view.coarse[cells]) >= LEAST_CORRELATION else None

    @cached_property
    def _views(self) -> list[_DrawnView]:
        return [_drawn_view(self._picture, side) for side in _SIDES]


def side_px(homography: Points) -> float:
    """Return the side in px of a square as large as the unit square's image by ``homography``."""
    corners = map_points(homography, SIGN_SQUARE)
    return float(np.sqrt(abs(cv2.contourArea(corners.astype(np.float32)))))


def map_points(homography: Points, points: Any) -> Points:
    """Return the ``points`` (n, 2) mapped by ``homography`` (3, 3)."""
    batch = np.asarray(points, np.float64)[None]
    return np.asarray(cv2.perspectiveTransform(batch, homography)[0], np.float64)


def track_points(
    before: Gray, after: Gray, points: Any, *, window: int, levels: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return where points of one picture are in another, and which of them were surely found.

    Args:
        before: Picture (h, w).
        after: Picture of the same size.
        points: Points (n, 2) of ``before`` in px.
        window: Side in px of the window that is compared around each point.
        levels: Levels of the pyramid above the picture itself.

    Returns:
        The points (n, 2) in ``after``, and a mask (n,) of those that return to their start when
        tracked backward.
    """
    options: dict[str, Any] = {"winSize": (window, window), "maxLevel": levels}
    start = np.ascontiguousarray(points, np.float32)[:, None]
    there, forward, _ = cv2.calcOpticalFlowPyrLK(before, after, start, start.copy(), **options)
    back, backward, _ = cv2.calcOpticalFlowPyrLK(after, before, there, there.copy(), **options)
    returned = np.linalg.norm(back - start, axis=2)[:, 0] < _RETURN_PX
    return there[:, 0], returned & (forward[:, 0] == 1) & (backward[:, 0] == 1)


def _corrected(gray: Gray, homography: Points, view: _DrawnView) -> AlignedSign | None:
    """Return the sign after one correction of ``homography``; None where too few points agree."""
    to_plane = _inverse(view.from_plane)
    visible = _in_frame(gray, map_points(homography @ to_plane, view.points))
    points = view.points[visible]
    needed = max(FEWEST_POINTS, LEAST_SHARE * len(points))
    cells = _cells_in_frame(gray, homography, view)
    if len(points) < needed or not cells.any():
        return None

    now = _from_the_front(gray, homography, view)
    now = _as_bright_as(view.coarse[cells], _coarse(now)[cells], now)
    there, found = track_points(view.gray, now, points - 0.5, window=_WINDOW, levels=_LEVELS)
    there = there + 0.5
    if found.sum() < needed:
        return None

    shift, agree = cv2.findHomography(points[found], there[found], cv2.RANSAC, _AGREE_PX)
    if shift is None or agree.sum() < needed:
        return None
    chosen = np.flatnonzero(found)[agree.ravel().astype(bool)]

    corrected = homography @ to_plane @ shift @ view.from_plane
    return AlignedSign(
        corrected / corrected[2, 2],
        map_points(to_plane, points[chosen]),
        map_points(homography @ to_plane, there[chosen]),
    )


def _from_the_front(gray: Gray, homography: Points, view: _DrawnView) -> Gray:
    """Return the part of ``gray`` that shows the sign as ``view`` shows its drawing."""
    # OpenCV counts from the center of the first pixel, homographies here from its outer corner.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    turn = _inverse(half) @ homography @ _inverse(view.from_plane) @ half
    size = view.gray.shape[1], view.gray.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpPerspective(gray, turn, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(seen, np.uint8)


def _as_bright_as(drawn: Cells, filmed: Cells, seen: Gray) -> Gray:
    """Return ``seen`` with the mean and the contrast of the drawing, as optical flow needs it, by
    the brightness of the cells that the drawing and the frame share."""
    gain = np.float32(drawn.std() / max(filmed.std(), 1.0))
    offset = np.float32(drawn.mean() - gain * filmed.mean())
    return np.asarray(np.clip(seen * gain + offset, 0, 255), np.uint8)


def _correlation(first: Cells, second: Cells) -> float:
    flat = first.std() == 0 or second.std() == 0
    return 0.0 if flat else float(np.corrcoef(first, second)[0, 1])


def _in_frame(gray: Gray, points: Points) -> npt.NDArray[np.bool_]:
    """Return which ``points`` (n, 2) lie in the picture ``gray``."""
    height, width = gray.shape
    return np.asarray(((points > 0) & (points < [width, height])).all(1), np.bool_)


def _cells_in_frame(gray: Gray, homography: Points, view: _DrawnView) -> npt.NDArray[np.bool_]:
    """Return the coarse cells (n, n) of the sign that lie in the picture ``gray``."""
    size = len(view.gray)
    centers = (np.arange(_COARSE_PX) + 0.5) * size / _COARSE_PX
    grid = np.stack(np.meshgrid(centers, centers), -1).reshape(-1, 2)
    seen = map_points(homography @ _inverse(view.from_plane), grid)
    return view.coarse_inside & _in_frame(gray, seen).reshape(view.coarse_inside.shape)


def _inverse(homography: Points) -> Points:
    return np.asarray(np.linalg.inv(homography), np.float64)


def _coarse(view: Gray) -> Cells:
    size = (_COARSE_PX, _COARSE_PX)
    return np.asarray(cv2.resize(view, size, interpolation=cv2.INTER_AREA), np.float64)


def _drawn_view(picture: Pixels, side: int) -> _DrawnView:
    """Return the square ``picture`` with surroundings, the sign ``side`` px wide."""
    drawn = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    px = round(_MARGIN * len(drawn))
    drawn = cv2.copyMakeBorder(drawn, px, px, px, px, cv2.BORDER_REPLICATE)
    inside = cv2.copyMakeBorder(_inside(picture), px, px, px, px, cv2.BORDER_CONSTANT, value=0)

    width = round(side * (1 + 2 * px / len(picture)))
    drawn = np.asarray(cv2.resize(drawn, (width, width), interpolation=cv2.INTER_AREA), np.uint8)
    inside = np.asarray(cv2.resize(inside, (width, width), interpolation=cv2.INTER_AREA), np.uint8)
    # What lies around the sign in a frame is not known, so no window may reach beyond its edge.
    reach = np.ones((_WINDOW // 2, _WINDOW // 2), np.uint8)
    inner = np.asarray(cv2.erode((inside == 255).astype(np.uint8), reach), np.uint8)
    found = cv2.goodFeaturesToTrack(drawn, _MOST_POINTS, 0.01, max(3, side // 24), mask=inner)
    points = np.empty((0, 2), np.float32) if found is None else found[:, 0] + np.float32(0.5)
    scale, offset = (n * width / (len(picture) + 2 * px) for n in (len(picture), px))
    from_plane = np.array([[scale, 0, offset], [0, scale, offset], [0, 0, 1]], np.float64)
    coarse, coarse_inside = _coarse(drawn), _coarse(inside) == 255
    return _DrawnView(side, drawn, from_plane, points, coarse, coarse_inside)


def _inside(picture: Pixels) -> Gray:
    """Return 255 where ``picture`` (s, s, 3) shows the sign, 0 where it shows what is around it: a
    plain color that reaches the corners."""
    height, width = picture.shape[:2]
    outside = np.zeros((height + 2, width + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | 255 << 8
    for corner in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)):
        cv2.floodFill(picture.copy(), outside, corner, 0, flags=flags)
    return np.asarray(255 - outside[1:-1, 1:-1], np.uint8)
