"""Reading and writing of photos with orientation, color profile, alpha, 16 bits and metadata.

A photo is processed as upright 8-bit RGB in its own color space (no conversion, so that untouched
pixels stay equal). The output carries the profile, the transparency and the full depth; GPS, serial
numbers, maker notes and embedded thumbnails (which would show the unchanged face) are removed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from physadv.core.errors import ImageError
from physadv.core.files import write_bytes
from physadv.core.image_io import Array, upright_pixels
from physadv.core.memory import release_memory
from physadv.core.picture_files import (
    frame_count,
    load_picture,
    open_picture,
    orientation_of,
    read_picture_file,
)
from physadv.core.reading import foreign_errors
from physadv.privacy.photo_io import metadata, sixteen_bit

_REFUSED = {
    "CMYK": "CMYK is for print; its way back to screen colors is not ours to choose",
    "LAB": "Lab is not a photo's color space",
    "F": "floating point pixels are not handled",
    "I": "32-bit integer pixels are not handled",
    "HSV": "HSV is not a photo's color space",
}
_QUALITY = 95
_JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
_MOST_OPTIMIZED_PIXELS = 120_000_000
_LARGE = 50_000_000
"""Pixels of a photo for which memory is made room first."""


@dataclass(frozen=True)
class LoadedPhoto:
    """One photo, upright.

    Attributes:
        path: File it was read from.
        rgb: Pixels (h, w, 3) uint8 in its own color space.
        alpha: Transparency (h, w) uint8, or None.
        full: 16-bit original (h, w, c) where there is one, else None.
        gray: Whether it is written with one channel again.
        suffix: Suffix of the output's name.
        lossless: Whether the output's format keeps every pixel.
        options: Pillow's options for the output.
        metadata: Metadata of the file.
        notes: Remarks for the owner.
    """

    path: Path
    rgb: Array
    alpha: Array | None
    full: npt.NDArray[np.uint16] | None
    gray: bool
    suffix: str
    lossless: bool
    options: dict[str, Any]
    metadata: metadata.PhotoMetadata
    notes: tuple[str, ...]


def read_photo(path: str | Path) -> LoadedPhoto:
    """Read the photo at ``path`` with everything that must survive.

    Raises:
        ImageError: The file is damaged or of a kind that is not supported; the message names which.
    """
    file = Path(path)
    data = read_picture_file(file)
    with open_picture(data, f"{file}") as opened:
        _check(opened, file)
        if opened.width * opened.height > _LARGE:
            release_memory()
        load_picture(opened, data, f"{file}")
        with foreign_errors(f"{file}", ImageError, "not a readable image"):
            return _photo(opened, file, data)


def encode_photo(
    photo: LoadedPhoto,
    rgb: Array,
    *,
    keep_metadata: bool = False,
    strip_dates: bool = False,
    made_with: Iterable[Mapping[str, str]] = (),
) -> bytes:
    """Encode new pixels as the photo's file, with its transparency and depth.

    Args:
        photo: Photo the pixels come from.
        rgb: New pixels (h, w, 3) uint8, of the photo's size.
        keep_metadata: Whether GPS, serial numbers, maker notes, XMP and comments are kept.
        strip_dates: Whether dates and times are left out.
        made_with: Name and sha256 of the embedders that the cloak was made with, to be named in a
            mark.

    Returns:
        The file's bytes.

    Raises:
        ImageError: The size is another, or one that the format cannot hold.
    """
    if rgb.shape != photo.rgb.shape:
        raise ImageError(f"{rgb.shape}", f"the photo is {photo.rgb.shape}", "Keep the size")
    carried = photo.metadata if keep_metadata else photo.metadata.stripped()
    if strip_dates:
        carried = carried.without_dates()
    carried = carried.marked(made_with)

    if rgb.size > 3 * _LARGE:
        release_memory()
    if photo.full is not None:
        return sixteen_bit.encode_16bit(photo.full, photo.rgb, rgb, carried)

    buffer, format_name = io.BytesIO(), photo.options["format"]
    # Closed at once: a saved image is part of a cycle, and would hold 4 bytes a pixel for a while.
    with closing(_picture(photo, rgb)) as image:
        try:
            image.save(buffer, **{**photo.options, **carried.for_pillow(format_name)})
        except (ValueError, OSError) as error:  # into memory, so that no disk is at fault
            height, width = rgb.shape[:2]
            raise ImageError(
                f"picture of {width}x{height} px",
                f"{format_name} takes none ({error})",
                "Make it smaller",
            ) from error
    return buffer.getvalue()


def _picture(photo: LoadedPhoto, rgb: Array) -> Image.Image:
    """New pixels with as many channels as the photo had."""
    image = Image.fromarray(rgb)
    if photo.gray:
        image = image.getchannel("G")
    if photo.alpha is not None:
        image.putalpha(Image.fromarray(photo.alpha))
    return image


def save_photo(
    path: str | Path, photo: LoadedPhoto, rgb: Array, *, keep_metadata: bool = False
) -> Path:
    """Write :func:`encode_photo` atomically.

    Args:
        path: Target file.
        photo: Photo the pixels come from.
        rgb: New pixels (h, w, 3) uint8.
        keep_metadata: Whether private metadata is kept.

    Returns:
        The target file.

    Raises:
        ImageError: The target is the original.
    """
    target = Path(path)
    if target.exists() and target.samefile(photo.path):
        raise ImageError(f"{target}", "is the original", "Name another folder")
    return write_bytes(target, encode_photo(photo, rgb, keep_metadata=keep_metadata))


def output_name(path: Path, suffix: str) -> str:
    """Return the output's file name for ``path``: the same, or with the new ``suffix`` added, so
    that a.gif and a.png do not collide."""
    same = suffix == path.suffix.lower() or {suffix, path.suffix.lower()} <= _JPEG_SUFFIXES
    return path.name if same else path.name + suffix


def _photo(opened: Image.Image, file: Path, data: bytes) -> LoadedPhoto:
    """Everything of an opened image, turned upright."""
    notes = _notes(opened, file, data)
    sixteen = sixteen_bit.is_deep(opened, data)
    full = sixteen_bit.decode_16bit(data, orientation_of(opened), file) if sixteen else None

    gray, has_alpha = _plan(opened)
    kind, suffix, options, lossless = _writer(opened, data)
    if kind == "other":
        notes += (f"{opened.format} is written as PNG",)

    if full is not None:
        kind, suffix, lossless = "PNG", ".png", True
        notes += ("16 bits are kept, as PNG",) if opened.format != "PNG" else ()
        rgb, alpha = sixteen_bit.eight_bits(full)
    else:
        pixels = upright_pixels(opened, "RGBA" if has_alpha else "RGB")
        rgb = np.ascontiguousarray(pixels[..., :3])
        alpha = pixels[..., 3].copy() if has_alpha else None

    carried = metadata.PhotoMetadata.of(opened)
    return LoadedPhoto(file, rgb, alpha, full, gray, suffix, lossless, options, carried, notes)


def _writer(opened: Image.Image, data: bytes) -> tuple[str, str, dict[str, Any], bool]:
    """Kind, suffix, Pillow's options and whether nothing is lost, for what goes back."""
    kind = opened.format or "PNG"
    if kind in {"JPEG", "MPO"}:
        subsampling = _subsampling(opened)
        return (
            "JPEG",
            ".jpg",
            {
                "format": "JPEG",
                "quality": _QUALITY,
                "subsampling": subsampling,
                # It takes 3 to 6 bytes of memory a pixel and saves about a percent of the file.
                "optimize": opened.width * opened.height <= _MOST_OPTIMIZED_PIXELS,
            },
            False,
        )

    # A WebP without loss stays without loss; its kind is not in Pillow's info.
    if kind == "WEBP":
        exact = _exact_webp(data)
        return (
            "WEBP",
            ".webp",
            {
                "format": "WEBP",
                "lossless": exact,
                "quality": 100 if exact else _QUALITY,
                "method": 4,
                "exact": exact,
            },
            exact,
        )

    if kind == "TIFF":
        return "TIFF", ".tif", {"format": "TIFF", "compression": None}, True
    if kind == "BMP":
        return "BMP", ".bmp", {"format": "BMP"}, True
    if kind in {"HEIF", "HEIC"}:
        return "HEIF", ".heic", {"format": "HEIF", "quality": _QUALITY}, False
    return ("PNG" if kind == "PNG" else "other"), ".png", {"format": "PNG"}, True


def _exact_webp(data: bytes) -> bool:
    """Whether a WebP's picture is coded without loss: its chunks are walked, for EXIF may come
    first."""
    at = 12
    while at + 8 <= len(data):
        if data[at : at + 4] in (b"VP8L", b"VP8 "):
            return data[at : at + 4] == b"VP8L"
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return False


def _subsampling(opened: Image.Image) -> int:
    """4:4:4, 4:2:2 or 4:2:0 as the original has it; 4:2:0 where it has something rarer."""
    from PIL import JpegImagePlugin

    sampling = JpegImagePlugin.get_sampling(opened)
    return sampling if sampling in (0, 1, 2) else 2


def _plan(opened: Image.Image) -> tuple[bool, bool]:
    """Whether the photo has one channel, and whether it has transparency."""
    has_alpha = (
        "A" in opened.getbands()
        or "transparency" in opened.info
        or opened.mode in {"PA", "La", "RGBa"}
    )
    return opened.mode in {"L", "LA", "La", "1", "I;16", "I;16B", "I;16L"}, has_alpha


def _notes(opened: Image.Image, file: Path, data: bytes) -> tuple[str, ...]:
    frames = frame_count(opened, data, f"{file}")
    if frames <= 1:
        return ()
    return (f"first of {frames} pictures in the file; the others are left out",)


def _check(opened: Image.Image, file: Path) -> None:
    if opened.mode in _REFUSED:
        raise ImageError(
            f"{file}", f"{opened.mode}: {_REFUSED[opened.mode]}", "Convert it to RGB first"
        )
