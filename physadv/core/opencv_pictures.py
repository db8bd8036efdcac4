"""Decoding of pictures by OpenCV, for what Pillow does not give: 16 bits a channel, and speed."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from physadv.core.errors import ImageError
from physadv.core.picture_files import open_picture
from physadv.core.reading import assert_pixels, foreign_errors

_QUICK: frozenset[str | None] = frozenset({"JPEG", "MPO", "WEBP"})
_DEEP: frozenset[str | None] = frozenset({"PNG", "TIFF"})


def decode_bgr(data: bytes, name: str, *, most_pixels: int | None = None) -> npt.NDArray[np.uint8]:
    """Decode the bytes of a picture as OpenCV does, at 8 bits.

    Args:
        data: Content of the file.
        name: Name of the file in errors.
        most_pixels: Most pixels that it may announce; None as
            :func:`~physadv.core.picture_files.open_picture` has it.

    Returns:
        Pixels (h, w, 3) BGR.

    Raises:
        ImageError: The data are no picture, are damaged, or announce too many pixels.
    """
    with open_picture(data, name, most_pixels=most_pixels) as opened:
        _assert_known(opened, data, name, _QUICK)
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
        _assert_known(opened, data, name, _DEEP)
        assert_pixels(*opened.size, name, packed=len(data), pixel_bytes=8)
    return _decoded(data, name, cv2.IMREAD_UNCHANGED)


def _assert_known(
    opened: Image.Image, data: bytes, name: str, formats: frozenset[str | None]
) -> None:
    """Refuse formats that are not needed here, and a PNG whose chunks reach beyond its file:
    OpenCV takes memory for what a chunk announces."""
    if opened.format not in formats:
        raise ImageError(name, f"{opened.format} is not read here", "Save it as PNG or JPEG")
    at = 8
    while opened.format == "PNG" and at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            raise ImageError(name, "not a readable image (it is cut off)", "Replace it")
        at += 12 + length


def _decoded(data: bytes, name: str, flags: int) -> npt.NDArray[Any] | None:
    with foreign_errors(name, ImageError, "not a readable image"):
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
