"""ArUco markers of printed pages (Garrido-Jurado et al. 2014): their ids and their positions around
the sign.

Units are sign widths, origin at the top-left corner of the sign's bounding square, x right, y down.
The layout is the same on every paper, so locating needs no paper size. Dictionary: DICT_4X4_50.
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
    """Return the marker dictionary of all pages."""
    return cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)


def marker_modules(marker_id: int) -> npt.NDArray[np.bool_]:
    """Return the marker ``marker_id`` as 6x6 modules, black border included; True is black."""
    return np.asarray(cv2.aruco.generateImageMarker(marker_dictionary(), int(marker_id), 6)) < 128


def square_points(x: float, y: float, side: float) -> Points:
    """Return the corners of a square.

    Args:
        x: Left edge.
        y: Top edge.
        side: Length of a side.

    Returns:
        Corners (4, 2): top-left, top-right, bottom-right, bottom-left.
    """
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])


def test_sign_layout() -> Points:
    """Return the corners (4 markers, 4 corners, 2) of the markers of a test sign, in sign
    widths."""
    top, bottom, right = -GAP - MARKER, 1 + GAP, 1 - MARKER
    return np.stack(
        [
            square_points(x, y, MARKER)
            for x, y in ((0, top), (right, top), (right, bottom), (0, bottom))
        ]
    )


test_sign_layout.__test__ = False  # type: ignore[attr-defined]  # its name must not make it a test


def visible_blocks(ids: Sequence[int]) -> list[str]:
    """Return the blocks with a marker among ``ids``, the one with most markers first."""
    counts = {block: len(set(members) & set(map(int, ids))) for block, members in FIDUCIALS.items()}
    return sorted((b for b, n in counts.items() if n), key=lambda b: -counts[b])


def corners_from_markers(
    ids: Sequence[int],
    marker_corners: Sequence[npt.NDArray[Any]],
    *,
    block: str | None = None,
    min_markers: int = 2,
) -> Points | None:
    """Return the sign's bounding square, from markers as OpenCV's ``ArucoDetector`` returns them.

    Args:
        ids: Ids (n,) of the markers; those of other blocks are ignored.
        marker_corners: Corners of each marker, n arrays (4, 2) in pixels.
        block: "clean", "blank" or "patch"; None takes the block with most markers.
        min_markers: Least number of markers, 1 to 4.

    Returns:
        Corners (4, 2) in pixels, top-left first, clockwise, in the pixel convention of
        ``marker_corners``; None with fewer markers.

    Raises:
        GeometryError: The block is unknown.

    Example:
        >>> plane = 100 + 200 * test_sign_layout()
        >>> corners_from_markers([8, 9, 10, 11], plane).round().tolist()
        [[100.0, 100.0], [300.0, 100.0], [300.0, 300.0], [100.0, 300.0]]
    """
    if block is not None and block not in FIDUCIALS:
        raise GeometryError(
            f"block {block!r}", f"one of {', '.join(FIDUCIALS)}", "Correct the name"
        )

    names = [int(i) for i in np.asarray(ids).ravel()]
    blocks = visible_blocks(names)
    chosen = block if block is not None else (blocks[0] if blocks else None)
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
