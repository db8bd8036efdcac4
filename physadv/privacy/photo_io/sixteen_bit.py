"""16-bit photos: Pillow reads them at 8 bits, so pixels pass through OpenCV and the profile chunk
by chunk."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from physadv.core.errors import ImageError
from physadv.core.image_io import Array
from physadv.core.opencv_pictures import decode_deep
from physadv.core.picture_files import upright
from physadv.privacy.photo_io.metadata import PhotoMetadata

Deep = npt.NDArray[np.uint16]
_BITS_PER_SAMPLE = 258


def is_deep(opened: Image.Image, data: bytes) -> bool:
    """Return whether ``opened``, a PNG or TIFF with the file's bytes ``data``, holds 16 bits a
    channel."""
    if opened.format == "PNG":
        return len(data) > 24 and data[24] == 16
    if opened.format == "TIFF":
        bits = opened.tag_v2.get(_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return bool(max(bits) == 16)
    return False


def decode_16bit(data: bytes, orientation: int, name: Path) -> Deep:
    """Decode a 16-bit PNG or TIFF.

    Args:
        data: The file's bytes.
        orientation: EXIF orientation, 1 to 8.
        name: File that an error names.

    Returns:
        Pixels (h, w, c) uint16, upright, channels gray, RGB or RGBA.

    Raises:
        ImageError: OpenCV cannot read it.
    """
    pixels = decode_deep(data, f"{name}")
    if pixels is None or pixels.dtype != np.uint16:
        raise ImageError(
            f"{name}",
            "16-bit pixels of a kind that is not handled",
            "Save it as 16-bit PNG or 8-bit",
        )

    full = pixels[..., None] if pixels.ndim == 2 else pixels
    if full.shape[2] >= 3:
        full = full[..., [2, 1, 0, *range(3, full.shape[2])]]
    return np.ascontiguousarray(upright(np.asarray(full, np.uint16), orientation))


def eight_bits(full: Deep) -> tuple[Array, Array | None]:
    """Return ``full`` at 8 bits: (h, w, 3) uint8, and (h, w) alpha where there is one."""
    eight = np.empty(full.shape, np.uint8)
    for row, values in zip(eight, full, strict=True):  # in 32 bits, the whole would take much more
        row[:] = (values.astype(np.uint32) + 128) // 257
    rgb = np.ascontiguousarray(
        np.repeat(eight[..., :1], 3, 2) if full.shape[2] < 3 else eight[..., :3]
    )
    return rgb, (eight[..., 3].copy() if full.shape[2] == 4 else None)


def encode_16bit(full: Deep, before: Array, after: Array, metadata: PhotoMetadata) -> bytes:
    """Encode a 16-bit PNG: the original's values plus the change of the 8-bit picture.

    Args:
        full: Original pixels (h, w, c) uint16.
        before: Original pixels (h, w, 3) uint8.
        after: Changed pixels (h, w, 3) uint8.
        metadata: Profile, resolution and EXIF to write.

    Returns:
        The file's bytes.

    Raises:
        ImageError: OpenCV cannot encode it.
    """
    step = (after.astype(np.int32) - before) * 257
    colors = 3 if full.shape[2] >= 3 else 1
    out = full.copy()
    out[..., :colors] = (full[..., :colors].astype(np.int32) + step[..., :colors]).clip(0, 65535)

    bgr = out[..., [2, 1, 0, *range(3, out.shape[2])]] if out.shape[2] >= 3 else out
    done, data = cv2.imencode(".png", np.ascontiguousarray(bgr))
    if not done:
        raise ImageError(
            "16-bit PNG", "could not be encoded", "Report this photo's size and channels"
        )

    # OpenCV writes pixels alone; the profile and EXIF are put back as chunks of their own.
    chunks = b""
    if metadata.icc:
        chunks += _chunk(b"iCCP", b"profile\0\0" + zlib.compress(metadata.icc))
    if metadata.dpi:
        x, y = (round(v / 0.0254) for v in metadata.dpi)
        chunks += _chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    if exif := metadata.exif_bytes().removeprefix(b"Exif\0\0"):
        chunks += _chunk(b"eXIf", exif)

    png = data.tobytes()
    return png[:33] + chunks + png[33:]  # after the signature (8) and IHDR (25)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
