"""Opening of picture files: the one place that hands foreign bytes to Pillow, within the budgets of
:mod:`physadv.core.reading`."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, JpegImagePlugin

from physadv.core.errors import ImageError
from physadv.core.reading import (
    MAX_JPEG_PIXELS,
    MAX_PICTURE_BYTES,
    MAX_PICTURES,
    MAX_PIXELS,
    assert_pixels,
    foreign_errors,
)
from physadv.core.text import read_file

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
"""Suffixes of HEIF pictures, which the package pillow-heif reads where it is installed."""
JXL_SUFFIXES = frozenset({".jxl"})
"""Suffix of JPEG XL pictures, which the package pillow-jxl-plugin reads where it is installed."""
_FORMATS = (
    *("PNG", "JPEG", "MPO", "TIFF", "WEBP", "GIF", "BMP", "DIB", "ICO", "PPM", "TGA", "AVIF"),
    *("JPEG2000", "PSD", "HEIF", "JXL"),
)
"""Formats that are read. Pillow knows more, of which some start programs (EPS) or decode so slowly
that a small file takes minutes."""
_JPEG = ("JPEG", "MPO")
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_MOST_SCAN_PIXELS = 2_000_000_000
"""Most pixels times scans of a progressive JPEG; cameras' and editors' have up to a dozen scans."""
_MOST_RUN_LENGTH_PIXELS = 16_000_000
"""Most pixels of a BMP in run lengths, which Pillow decodes byte by byte."""
_MOST_PAGES = 5000
"""Most pages of a TIFF, each of which Pillow compares with all before it."""
_UNREADABLE = "not a readable image"
_TOO_LARGE = "Scale it down"
_JXL_SIGNATURES = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_TILE_WIDTH, _TILE_HEIGHT = 322, 323


def read_picture_file(path: str | Path) -> bytes:
    """Return the content of an image file.

    Raises:
        ImageError: There is no such file, it is a folder, pipe or device, too large, or unreadable.
    """
    return read_file(path, most_bytes=MAX_PICTURE_BYTES, error=ImageError)


def open_picture(data: bytes, name: str, *, most_pixels: int | None = None) -> Image.Image:
    """Open the bytes of an image file; its pixels are not decoded yet.

    Args:
        data: Content of the file.
        name: Name of the file in errors.
        most_pixels: Most pixels that it may announce; None for 205 million of a JPEG, except of a
            progressive one, and 120 million of any other format.

    Returns:
        The image as stored, to be closed by the caller.

    Raises:
        ImageError: The data are empty, announce too many pixels, are no image, or a HEIC file where
            the package pillow-heif is missing.
    """
    if not data:
        raise ImageError(name, "empty file", "Replace or remove the file")
    if _is_heif(data) or Path(name).suffix.lower() in HEIF_SUFFIXES:
        register_heif(name)
    if data.startswith(_JXL_SIGNATURES):
        register_jxl(name)

    with foreign_errors(name, ImageError, _UNREADABLE), _without_warnings():
        Image.init()
        formats = [known for known in _FORMATS if known in Image.OPEN]
        try:
            opened = Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError as error:
            if not data.startswith(_JPEG_SIGNATURE):
                most = most_pixels or MAX_PIXELS
                raise ImageError(name, f"over {most} px", _TOO_LARGE) from error
            # Pillow's own limit lies below what phones make, and is one for the whole process.
            opened = JpegImagePlugin.jpeg_factory(io.BytesIO(data))
        try:
            _assert_sizes(opened, data, name, most_pixels or _most_pixels(opened))
        except BaseException:
            opened.close()
            raise
        if opened.format == "PNG":
            _match_key_to_depth(opened, bits=data[24])
    return opened


def reduce_jpeg(opened: Image.Image, shorter_px: int) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size, as long as its shorter side keeps
    ``shorter_px`` px; every other picture stays as it is.

    Args:
        opened: The image, not decoded yet.
        shorter_px: Least length of the shorter side.
    """
    if opened.format in _JPEG:
        factor = max(min(opened.size) // shorter_px, 1)
        opened.draft(None, (opened.width // factor, opened.height // factor))


def load_picture(
    opened: Image.Image, data: bytes, name: str, *, most_pixels: int | None = None
) -> None:
    """Decode the pixels of an image that :func:`open_picture` opened.

    Args:
        opened: The image.
        data: Content of its file.
        name: Name of the file in errors.
        most_pixels: Most pixels of the decoded picture, which in an icon is not the announced one;
            None as :func:`open_picture` has it.

    Raises:
        ImageError: It is truncated or damaged.
    """
    most = most_pixels or _most_pixels(opened)
    with foreign_errors(name, ImageError, _UNREADABLE), _without_warnings():
        try:
            opened.load()
        except Image.DecompressionBombError as error:
            raise ImageError(name, f"over {most} px", _TOO_LARGE) from error
    assert_pixels(opened.width, opened.height, name, most=most)
    with foreign_errors(name, ImageError, _UNREADABLE):
        is_whole = opened.format != "PNG" or _has_all_rows(opened, data)
    if not is_whole:
        limit = f"{_UNREADABLE} (it ends before its {opened.height} rows do)"
        raise ImageError(name, limit, "Replace or remove the file")


def register_heif(name: str) -> None:
    """Enable reading of HEIC files.

    Args:
        name: Name of the file in errors.

    Raises:
        ImageError: The package pillow-heif is missing.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ImageError(
            name, "HEIC needs the package pillow-heif", "pip install pillow-heif"
        ) from error
    register_heif_opener()


def register_jxl(name: str) -> None:
    """Enable reading of JPEG XL files.

    Args:
        name: Name of the file in errors.

    Raises:
        ImageError: The package pillow-jxl-plugin is missing.
    """
    try:
        import pillow_jxl  # noqa: F401 - its import registers the format
    except ImportError as error:
        raise ImageError(
            name, "JPEG XL needs the package pillow-jxl-plugin", "pip install pillow-jxl-plugin"
        ) from error


def shown_size(data: bytes, name: str) -> tuple[int, int]:
    """Return width and height of an image file as it is shown, from its header.

    Args:
        data: Content of the file.
        name: Name of the file in errors.

    Returns:
        Width and height in px, with the EXIF orientation applied.

    Raises:
        ImageError: The data are no image.
    """
    with open_picture(data, name) as opened:
        return shown_size_of(opened)


def shown_size_of(opened: Image.Image) -> tuple[int, int]:
    """Return width and height in px of an open image as it is shown: turned by its EXIF
    orientation.

    Example:
        >>> shown_size_of(Image.new("RGB", (2, 1)))
        (2, 1)
    """
    width, height = opened.size
    return (height, width) if orientation_of(opened) in SIDEWAYS else (width, height)


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 where it has none, or damaged EXIF data.

    Example:
        >>> orientation_of(Image.new("RGB", (2, 1)))
        1
    """
    try:
        with _without_warnings():
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises a dozen kinds for EXIF data that are cut off or lie
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Return ``pixels`` (h, w, c) turned upright by their EXIF ``orientation``, 1 to 8; a view.

    Example:
        >>> upright(np.zeros((2, 1, 3)), 6).shape
        (1, 2, 3)
    """
    turned = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }.get(orientation)
    return pixels if turned is None else turned(pixels)


def as_stored(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Return upright ``pixels`` (h, w, c) as a file of EXIF ``orientation``, 1 to 8, stores them: a
    view, so that what is written to it stands upright.

    Example:
        >>> picture = np.zeros((1, 2, 3))
        >>> as_stored(picture, 6)[0] = 1
        >>> picture[0, :, 0].tolist()
        [0.0, 1.0]
    """
    return upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def picture_count(path: str | Path) -> int:
    """Return how many pictures the file at ``path`` holds, as :func:`pictures_in` counts them; what
    cannot be read counts as one."""
    try:
        return pictures_in(read_picture_file(path), str(path))
    except ImageError:
        return 1


def pictures_in(data: bytes, name: str) -> int:
    """Return how many pictures the bytes of an image file hold, such as the pages of a TIFF.

    Previews and second views that cameras store behind a JPEG are not counted.

    Args:
        data: Content of the file.
        name: Name of the file in errors.

    Raises:
        ImageError: The data are empty, truncated or no image, or hold too many pictures.
    """
    with open_picture(data, name) as opened, foreign_errors(name, ImageError, _UNREADABLE):
        return frame_count(opened, data, name)


def frame_count(opened: Image.Image, data: bytes, name: str) -> int:
    """Return how many pictures play or lie in an open image; a JPEG's further views do not count.

    Args:
        opened: The image.
        data: Content of its file.
        name: Name of the file in errors.

    Raises:
        ImageError: It holds more pictures than are read.
    """
    if opened.format == "MPO":
        return 1
    if opened.format == "GIF":
        count = _walk_gif(data)[0]
    elif opened.format == "TIFF":
        count = _count_pages(opened, name)
    else:
        count = int(getattr(opened, "n_frames", 1))
    if count > MAX_PICTURES:
        raise ImageError(name, f"{count} pictures, over {MAX_PICTURES}", "Use a shorter one")
    return count


def _without_warnings() -> warnings.catch_warnings[None]:
    """Silence Pillow's warnings: sizes are judged by a budget, damage that matters is an error."""
    return warnings.catch_warnings(action="ignore")


def _most_pixels(opened: Image.Image) -> int:
    """Most pixels of a picture of this format: a plain JPEG is decoded line by line."""
    is_plain = opened.format in _JPEG and "progressive" not in opened.info
    return MAX_JPEG_PIXELS if is_plain else MAX_PIXELS


def _assert_sizes(opened: Image.Image, data: bytes, name: str, most_pixels: int) -> None:
    """Refuse a picture that would take too much memory or time, by what its header announces."""
    width, height = opened.size
    if opened.format == "GIF":  # frames may reach beyond the canvas, which then grows
        _, right, bottom = _walk_gif(data)
        width, height = max(width, right), max(height, bottom)
    assert_pixels(width, height, name, packed=len(data), most=most_pixels)

    if opened.format == "TIFF":
        tags = opened.tag_v2  # type: ignore[attr-defined]
        tile = (int(tags.get(_TILE_WIDTH, 1)), int(tags.get(_TILE_HEIGHT, 1)))
        assert_pixels(*tile, name, packed=len(data), most=most_pixels)
    elif opened.format in _JPEG and "progressive" in opened.info:
        scans = data.count(b"\xff\xda")
        if width * height * scans > _MOST_SCAN_PIXELS:
            limit = f"{scans} scans of {width}x{height} px would take minutes"
            raise ImageError(name, limit, "Save it anew")
    elif opened.format in {"BMP", "DIB"}:
        packed = any(tile[0] == "bmp_rle" for tile in opened.tile)  # type: ignore[attr-defined]
        if packed and width * height > _MOST_RUN_LENGTH_PIXELS:
            limit = f"{width}x{height} px in run lengths would take minutes"
            raise ImageError(name, limit, "Save it as PNG")


def _count_pages(opened: Image.Image, name: str) -> int:
    """Number of pages of a TIFF."""
    try:
        for page in range(1, _MOST_PAGES + 1):
            opened.seek(page)
    except EOFError:
        opened.seek(0)
        return page
    raise ImageError(name, f"over {_MOST_PAGES} pages", "Split it")


def _walk_gif(data: bytes) -> tuple[int, int, int]:
    """Number of frames of a GIF, and how far they reach to the right and down, in px.

    Pillow counts by decoding; this reads the lengths of the blocks alone.
    """

    def table_bytes(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    count = right = bottom = 0
    try:
        at = 13 + table_bytes(data[10])
        while count <= MAX_PICTURES and data[at] in b"\x21\x2c":
            if data[at] == 0x2C:
                x, y, width, height, flags = struct.unpack_from("<4HB", data, at + 1)
                count, right, bottom = count + 1, max(right, x + width), max(bottom, y + height)
                at += 9 + table_bytes(flags)
            at += 2
            while data[at]:
                at += 1 + data[at]
            at += 1
    except (IndexError, struct.error):  # it ends too early; what is there counts
        pass
    return max(count, 1), right, bottom


def _has_all_rows(opened: Image.Image, data: bytes) -> bool:
    """Whether a decoded PNG holds as many rows as it announces; Pillow leaves the others black.

    Only a picture whose last row is black is unpacked again to see.
    """
    last = opened.crop((0, opened.height - 1, opened.width, opened.height))
    if last.getbbox(alpha_only=False) or data[28] or getattr(opened, "is_animated", False):
        return True  # interlaced and animated ones have rows of other lengths

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[data[25]]
    needed = opened.height * (1 + (opened.width * channels * data[24] + 7) // 8)
    unpacker, at = zlib.decompressobj(), 8
    while needed > 0 and at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        packed = data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        while packed and needed > 0:
            needed -= len(unpacker.decompress(packed, 1 << 20))
            packed = unpacker.unconsumed_tail
        at += 12 + length
    return needed - len(unpacker.flush()) <= 0 if needed > 0 else True


def _match_key_to_depth(image: Image.Image, bits: int) -> None:
    """Bring the transparent color that a PNG names at its own depth to Pillow's 8 bits."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and bits == 16 and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif image.mode == "L" and bits < 8 and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2**bits - 1)


def _is_heif(data: bytes) -> bool:
    """Return whether ``data`` begin as a HEIC file does, whatever its name."""
    return data[4:8] == b"ftyp" and data[8:12] in {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}
