"""Decoding of pictures by OpenCV, for what Pillow does not give: 16 bits a channel, and speed."""

from __future__ import annotations

import zlib
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
_STILL = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
"""Chunks of a PNG that its pixels are made of."""


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
        _assert_known(opened, name, _QUICK)
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
        _assert_known(opened, name, _DEEP)
        assert_pixels(*opened.size, name, packed=len(data), pixel_bytes=8)
        data = _still_png(data, name) if opened.format == "PNG" else data
    return _decoded(data, name, cv2.IMREAD_UNCHANGED)


def _assert_known(opened: Image.Image, name: str, formats: frozenset[str | None]) -> None:
    """Refuse formats that are not needed here."""
    if opened.format not in formats:
        raise ImageError(name, f"{opened.format} is not read here", "Save it as PNG or JPEG")


def _still_png(data: bytes, name: str) -> bytes:
    """Return a PNG with the chunks of its still picture alone, each checked by its sum: OpenCV
    takes memory for what a chunk announces, and crashes on some animations."""
    kept, at = [data[:8]], 8
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            raise ImageError(name, "not a readable image (it is cut off or damaged)", "Replace it")
        if kind in _STILL:
            kept.append(data[at:end])
        at = end
        if kind == b"IEND":
            break
    return b"".join(kept)


def _decoded(data: bytes, name: str, flags: int) -> npt.NDArray[Any] | None:
    with foreign_errors(name, ImageError, "not a readable image"):
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
