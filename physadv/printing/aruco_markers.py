"""The ArUco markers on printed pages: which ids stand for what, and where they sit beside the sign.

Units are sign widths, origin at the top-left corner of the sign's bounding square, x right, y down;
the layout is the same on every paper, so a camera needs no paper size. Dictionary: DICT_4X4_50
(Garrido-Jurado et al. 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.core.errors import GeometryError

Points = npt.NDArray[np.float64]

FIDUCIALS: dict[str, tuple[int, int, int, int]] = {
    "clean": (0, 1, 2, 3),
    "blank": (4, 5, 6, 7),
    "patch": (8, 9, 10, 11),
}
"""Block -> marker ids, in the order top-left, top-right, bottom-right, bottom-left of the sign."""
SHEET_IDS = (12, 13, 14, 15)
"""Ids around the sticker on the sticker sheet, in the same order."""
MARKER, GAP = 0.13, 0.05
"""Side of a marker and its distance from the sign, above and below it, in sign widths."""
SIGN_SQUARE: Points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def marker_dictionary() -> Any:
    """The marker dictionary all pages use."""
    return cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)


def marker_modules(marker_id: int) -> npt.NDArray[np.bool_]:
    """The marker as 6x6 modules, black border included; True is black."""
    return np.asarray(cv2.aruco.generateImageMarker(marker_dictionary(), int(marker_id), 6)) < 128


def square_points(x: float, y: float, side: float) -> Points:
    """Corners (4, 2) of a square: top-left, top-right, bottom-right, bottom-left."""
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])


def test_sign_layout() -> Points:
    """Corners (4 markers, 4 corners, 2) of the markers of one test sign, in sign widths."""
    top, bottom, right = -GAP - MARKER, 1 + GAP, 1 - MARKER
    return np.stack(
        [
            square_points(x, y, MARKER)
            for x, y in ((0, top), (right, top), (right, bottom), (0, bottom))
        ]
    )


test_sign_layout.__test__ = False  # type: ignore[attr-defined]  # its name must not make it a test


def visible_blocks(ids: Sequence[int]) -> list[str]:
    """Blocks of which a marker is among ``ids``, the one with most markers first."""
    counts = {block: len(set(members) & set(map(int, ids))) for block, members in FIDUCIALS.items()}
    return sorted((b for b, n in counts.items() if n), key=lambda b: -counts[b])


def corners_from_markers(
    ids: Sequence[int],
    marker_corners: Sequence[npt.NDArray[Any]],
    *,
    block: str | None = None,
    min_markers: int = 2,
) -> Points | None:
    """The sign's bounding square (4, 2) in pixels (TL, TR, BR, BL), from markers as
    ``ArucoDetector`` returns them.

    ``ids`` n marker ids, ``marker_corners`` n arrays of 4 corners in pixels; markers of other
    blocks are left out. ``block=None`` takes the block most seen. None when fewer than
    ``min_markers`` (1 to 4) of the block are there. Pixel coordinates come back in the convention
    they were given in. Raises GeometryError for an unknown block.
    """
    if block is not None and block not in FIDUCIALS:
        raise GeometryError(
            f"block {block!r}", f"one of {', '.join(FIDUCIALS)}", "Correct the name"
        )
    names = [int(i) for i in np.asarray(ids).ravel()]
    seen = visible_blocks(names)
    chosen = block if block is not None else (seen[0] if seen else None)
    if chosen is None:
        return None
    layout, members = test_sign_layout(), FIDUCIALS[chosen]
    pairs = {
        m: np.asarray(c, float).reshape(4, 2)
        for m, c in zip(names, marker_corners, strict=True)
        if m in members
    }
    if len(pairs) < max(min_markers, 1):
        return None
    plane = np.concatenate([layout[members.index(m)] for m in pairs])
    homography, _ = cv2.findHomography(plane, np.concatenate(list(pairs.values())), 0)
    if homography is None:
        return None
    return np.asarray(cv2.perspectiveTransform(SIGN_SQUARE[None], homography)[0], np.float64)
