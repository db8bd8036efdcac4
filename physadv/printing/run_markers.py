"""Markers on test signs that tell whose patch they show: the run's id as four ArUco markers.

They stand between the markers that locate the sign, nearly as large as those, so that a camera that
sees the sign can read them too; a QR code that small could not be read. They keep out of the margin
around the sign that a classifier sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from physadv.printing.aruco_markers import GAP, MARKER, Points, square_points

RUN_IDS = range(16, 50)
"""Ids of the dictionary that neither sheets nor signs use."""
RUN_MARKER = 0.1
"""Side of a run marker in sign widths."""
_LEFT, _RIGHT = 0.29, 0.61
_NEAR = 0.06
"""Distance in sign widths within which a marker is at its place."""

RunCode = tuple[int, int, int, int]
"""Marker ids of a run in the order of :func:`run_marker_layout`."""


def run_code(run_id: str) -> RunCode:
    """Return the four different markers that stand for ``run_id``.

    There are 34 * 33 * 32 * 31 = 1,113,024 of them; two runs agree by chance that rarely.

    Example:
        >>> run_code("91ea2b7c0d5f") == run_code("91ea2b7c0d5f"), len(set(run_code("1")))
        (True, 4)
    """
    number = int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8], "big")
    free, ids = list(RUN_IDS), []
    for _ in range(4):
        number, place = divmod(number, len(free))
        ids.append(free.pop(place))
    return ids[0], ids[1], ids[2], ids[3]


def code_in_words(code: RunCode) -> str:
    """Return ``code`` as it is printed on the page.

    Example:
        >>> code_in_words((16, 49, 30, 22))
        '16-49-30-22'
    """
    return "-".join(map(str, code))


def run_marker_layout() -> Points:
    """Return the corners (4 markers, 4 corners, 2) in sign widths: above the sign from left to
    right, then below it from left to right."""
    top = -GAP - MARKER
    bottom = 1 - top - RUN_MARKER
    places = ((_LEFT, top), (_RIGHT, top), (_LEFT, bottom), (_RIGHT, bottom))
    return np.stack([square_points(x, y, RUN_MARKER) for x, y in places])


def read_run_markers(seen: Mapping[int, Points]) -> dict[int, int]:
    """Return which run markers stand at which of the four places.

    Args:
        seen: Corners (4, 2) in sign widths of each marker by its id, as a homography gives them.

    Returns:
        Place (0 to 3) -> marker id, for the places where one was read.
    """
    centers = run_marker_layout().mean(1)
    found = {}
    for marker, corners in seen.items():
        if marker in RUN_IDS:
            distances = np.linalg.norm(centers - corners.mean(0), axis=1)
            if distances.min() < _NEAR:
                found[int(distances.argmin())] = marker
    return found
