"""Localization by the printed markers around a test sign: exact corners, the block, and refusal of
markers that are too small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from physadv.camera.frames import CameraFrame
from physadv.camera.localization.location import Locator, PointMatches, Points, SignLocation
from physadv.printing.aruco_markers import (
    FIDUCIALS,
    SIGN_SQUARE,
    marker_dictionary,
    test_sign_layout,
    visible_blocks,
)
from physadv.printing.run_markers import RUN_IDS, read_run_markers

LEAST_PX = 20.0
"""Least side of a marker; corners of smaller ones are too coarse for an angle."""
TOO_SMALL = f"markers under {LEAST_PX:g} px"
MOST_MISFIT = 0.25
"""Most that markers' corners may lie beside one page's on average, in sides of a marker. Pages bent
by 30 mm, before lenses that shift their edges by a tenth, stay under it (0.22); markers that are
pasted, repeated or of several pages lie whole sides off."""
NOT_ONE_PAGE = "markers that lie on no one page"
_FEWEST = 2


def by_fiducials(*, least_px: float = LEAST_PX) -> Locator:
    """Build a locator by the printed markers, which also tell the block, since each page carries
    its own.

    A page with fewer than two markers in view is not found; with markers smaller than ``least_px``,
    or such that lie elsewhere than on one page (``MOST_MISFIT``), it is refused.

    Example:
        >>> locate = by_fiducials()
        >>> locate(CameraFrame(np.full((48, 64, 3), 255, np.uint8), 0.0, "clip", None, 0)) is None
        True
    """
    detector = _detector()

    def locate(frame: CameraFrame) -> SignLocation | None:
        quads, ids, _ = detector.detectMarkers(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY))
        if ids is None:
            return None

        names = [int(i) for i in ids.ravel()]
        blocks = visible_blocks(names)
        block = frame.block if frame.block in blocks else next(iter(blocks), None)
        if block is None:
            return None

        # OpenCV counts from the center of the first pixel, this package from its outer corner.
        corners = {
            n: np.asarray(c, np.float64).reshape(4, 2) + 0.5
            for n, c in zip(names, quads, strict=True)
        }
        return _location(block, corners, least_px)

    return locate


def _side_px(corners: Sequence[Points]) -> float:
    """Return the side of a square as large as the smallest of the quadrilaterals (4, 2), in px."""
    return float(min(np.sqrt(abs(cv2.contourArea(c.astype(np.float32)))) for c in corners))


def _location(block: str, seen: dict[int, Points], least_px: float) -> SignLocation | None:
    """The sign of ``block`` by the corners in px of all markers ``seen``; None with too few."""
    markers = {n: c for n, c in seen.items() if n in FIDUCIALS[block]}
    if len(markers) < _FEWEST:
        return None

    layout, members = test_sign_layout(), FIDUCIALS[block]
    plane = np.concatenate([layout[members.index(m)] for m in markers])
    pixels = np.concatenate(list(markers.values()))
    homography, _ = cv2.findHomography(plane, pixels, 0)
    if homography is None:
        return None

    square = np.asarray(cv2.perspectiveTransform(SIGN_SQUARE[None], homography)[0], np.float64)
    side = _side_px(list(markers.values()))
    misfit = cv2.perspectiveTransform(plane[None], homography)[0] - pixels
    refused = TOO_SMALL if side < least_px else None
    if refused is None and not np.sqrt((misfit**2).sum(1).mean()) <= MOST_MISFIT * side:
        refused = NOT_ONE_PAGE
    return SignLocation(
        square,
        "fiducials",
        block,
        marker_px=side,
        refused=refused,
        matches=PointMatches(plane - 0.5, pixels),
        run_markers=_run_markers(seen, homography),
    )


def _run_markers(seen: dict[int, Points], homography: Points) -> dict[int, int]:
    """The markers of the page's run by their places, through the ``homography`` from sign to
    picture."""
    inverse = np.linalg.pinv(homography)
    others = {n: c for n, c in seen.items() if n in RUN_IDS}
    return read_run_markers(
        {
            n: np.asarray(cv2.perspectiveTransform(c[None], inverse)[0], np.float64)
            for n, c in others.items()
        }
    )


def _detector() -> Any:
    settings = cv2.aruco.DetectorParameters()
    settings.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    return cv2.aruco.ArucoDetector(marker_dictionary(), settings)
