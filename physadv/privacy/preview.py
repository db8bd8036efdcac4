"""Preview of a cloak: a copy of a photo with a box around every face that was found."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from physadv.core.image_io import Array
from physadv.models.faces.face_detection import Box

CLOAKED, BARE = (0, 158, 115), (213, 94, 0)
"""Colors (R, G, B) of the boxes: of faces that are cloaked, and of those left bare."""
_LONGER_PX = 1600


def draw_faces(
    rgb: Array, cloaked: Mapping[int, Box], bare: Mapping[int, Box] | None = None
) -> Array:
    """Draw boxes around faces, on a copy of at most 1600 px.

    Args:
        rgb: Photo (h, w, 3) uint8.
        cloaked: Boxes (x0, y0, x1, y1) in px of faces to cloak by their number; drawn solid.
        bare: Boxes of faces that are left as they are, by their number; drawn in another color,
            with a cross.

    Returns:
        The picture (h, w, 3) uint8.

    Example:
        >>> import numpy as np
        >>> picture = draw_faces(np.zeros((40, 60, 3), np.uint8), {1: (10, 10, 30, 30)})
        >>> picture.shape, picture[20, 10].tolist()
        ((40, 60, 3), [0, 158, 115])
    """
    scale = min(1.0, _LONGER_PX / max(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    picture = rgb.copy() if scale == 1 else cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    thick = max(1, round(max(size) / 400))

    for boxes, color in ((cloaked, CLOAKED), (bare or {}, BARE)):
        for number, box in boxes.items():
            x0, y0, x1, y1 = (round(v * scale) for v in box)
            cv2.rectangle(picture, (x0, y0), (x1, y1), color, thick)
            if color == BARE:
                cv2.line(picture, (x0, y0), (x1, y1), color, thick)
                cv2.line(picture, (x0, y1), (x1, y0), color, thick)
            place = (x0 + thick, y1 - 2 * thick)
            height = max(0.3, (y1 - y0) / 120)
            cv2.putText(picture, f"{number}", place, cv2.FONT_HERSHEY_SIMPLEX, height, color, thick)
    return np.asarray(picture, np.uint8)
