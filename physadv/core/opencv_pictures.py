"""Decoding of pictures by OpenCV, for what Pillow does not give: 16 bits a channel, and speed."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.core.errors import ImageError
from physadv.core.picture_files import open_picture
from physadv.core.reading import MAX_PIXELS, assert_pixels, foreign_errors


def decode_bgr(data: bytes, name: str, *, most_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode the bytes of a picture as OpenCV does, at 8 bits.

    Args:
        data: Content of the file.
        name: Name of the file in errors.
        most_pixels: Most pixels that it may announce.

    Returns:
        Pixels (h, w, 3) BGR.

    Raises:
        ImageError: The data are no picture, are damaged, or announce too many pixels.
    """
    open_picture(data, name, most_pixels=most_pixels).close()
    pixels = _decoded(data, name, cv2.IMREAD_COLOR)
    if pixels is None:
        raise ImageError(name, "not a readable image", "Replace or remove the file")
    return np.asarray(pixels, np.uint8)


def decode_deep(data: bytes, name: str) -> npt.NDArray[Any] | None:
    """Decode the bytes of a picture at the depth and with the channels that it is stored with.

    Args:
        data: Content of the file.
        name: Name of the file in errors.

    Returns:
        Pixels (h, w) or (h, w, c), channels in the order BGRA, or None where OpenCV cannot read it.

    Raises:
        ImageError: The data are no picture, or announce too many pixels for 16 bits a channel.
    """
    with open_picture(data, name) as opened:
        assert_pixels(*opened.size, name, packed=len(data), pixel_bytes=8)
    return _decoded(data, name, cv2.IMREAD_UNCHANGED)


def _decoded(data: bytes, name: str, flags: int) -> npt.NDArray[Any] | None:
    with foreign_errors(name, ImageError, "not a readable image"):
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
