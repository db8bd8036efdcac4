"""Image input with EXIF orientation, ICC profiles, bit depth, alpha and SVG; atomic lossless
output."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms
from torch import Tensor

from physadv.core.errors import ImageError
from physadv.core.files import write_bytes
from physadv.core.litter import is_litter
from physadv.core.picture_files import (
    HEIF_SUFFIXES,
    JXL_SUFFIXES,
    SIDEWAYS,
    as_stored,
    load_picture,
    open_picture,
    orientation_of,
    read_picture_file,
    reduce_jpeg,
    shown_size_of,
)
from physadv.core.reading import MAX_DRAWING_BYTES, foreign_errors
from physadv.core.svg import decode_svg, rasterize_svg
from physadv.core.text import read_file

Array = npt.NDArray[np.uint8]
IMAGE_SUFFIXES = (
    HEIF_SUFFIXES
    | JXL_SUFFIXES
    | frozenset(
        {".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
        | {".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
    )
)
"""Suffixes of the files in a folder that are read as images; a file named alone may have any."""
_AMPLE_PX = 4096
"""Shorter side that a JPEG keeps where its full resolution is not needed."""
_TO_PNG = "Convert it to PNG first"
_BAND_PIXELS = 4_000_000
"""Pixels that are converted at once: temporary copies stay small beside the picture."""


def list_files(folder: Path) -> list[Path]:
    """Return the files under ``folder`` and its subfolders, sorted, without hidden ones and litter
    such as ``__MACOSX``."""

    own = (p for p in folder.rglob("*") if not is_litter(p.relative_to(folder).as_posix()))
    return sorted(p for p in own if p.is_file())


def list_images(folder: str | Path, *, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the image files under a folder, sorted, or the one file named.

    Args:
        folder: Folder, searched with its subfolders, or a file.
        suffixes: Suffixes of the files that count, in lower case with the dot.

    Returns:
        The files.

    Raises:
        ImageError: There is no such path, or no image under it.
    """
    root = Path(folder)
    if root.is_file():
        return [root]
    if not root.exists():
        raise ImageError(f"{root}", "no such file or folder", "check the path")

    found = [p for p in list_files(root) if p.suffix.lower() in suffixes]
    if not found:
        raise ImageError(
            f"{root}",
            f"holds no image ({', '.join(sorted(suffixes))})",
            "name a folder with images",
        )

    return found


def read_rgba(path: str | Path, *, svg_px: int = 512) -> Array:
    """Read an image file: upright, in sRGB, alpha not premultiplied.

    Args:
        path: File of a supported format, SVG among them.
        svg_px: Width in px that an SVG is rasterized to.

    Returns:
        Pixels (h, w, 4) uint8.

    Raises:
        ImageError: The file is missing, truncated, empty or no image.
    """
    file = Path(path)
    if not file.is_file():
        raise ImageError(f"{file}", "no such file", "check the path")
    if file.suffix.lower() == ".svg":
        svg = decode_svg(read_file(file, most_bytes=MAX_DRAWING_BYTES, error=ImageError), str(file))
        return rasterize_svg(svg, svg_px, name=str(file))
    return decode_rgba(read_picture_file(file), str(file))


def read_reduced(path: str | Path, *, svg_px: int = 512) -> tuple[Array, tuple[int, int]]:
    """Read an image file as :func:`read_rgba` does, the largest JPEGs at 1/2, 1/4 or 1/8 of their
    size: as long as the shorter side keeps 4096 px.

    Args:
        path: File of a supported format, SVG among them.
        svg_px: Width in px that an SVG is rasterized to.

    Returns:
        Pixels (h, w, 4) uint8, and width and height of the picture before it was reduced.

    Raises:
        ImageError: The file is missing, truncated, empty or no image.
    """
    file = Path(path)
    if not file.is_file() or file.suffix.lower() == ".svg":
        pixels = read_rgba(file, svg_px=svg_px)
        return pixels, (pixels.shape[1], pixels.shape[0])
    data = read_picture_file(file)
    with open_picture(data, str(file)) as opened:
        size = shown_size_of(opened)
        reduce_jpeg(opened, _AMPLE_PX)
        load_picture(opened, data, str(file))
        return srgb_pixels(opened, str(file)), size


def decode_rgba(data: bytes, name: str) -> Array:
    """Decode the bytes of an image file as :func:`read_rgba` does.

    Args:
        data: Content of the file.
        name: Name of the file in errors.

    Returns:
        Pixels (h, w, 4) uint8.

    Raises:
        ImageError: The data are empty, truncated, of too many pixels, or no image.
    """
    with _loaded(data, name) as opened:
        return srgb_pixels(opened, name)


def decode_rgb(data: bytes, name: str) -> Array:
    """Decode the bytes of an image file as :func:`read_rgb` does.

    Args:
        data: Content of the file.
        name: Name of the file in errors.

    Returns:
        Pixels (h, w, 3) uint8.

    Raises:
        ImageError: The data are empty, truncated, of too many pixels, or no image.
    """
    with _loaded(data, name) as opened:
        if _is_plain(opened):  # most photos of a data set: no detour by transparency
            return np.array(opened.convert("RGB"))
        return lay_on_white(srgb_pixels(opened, name))


@contextmanager
def _loaded(data: bytes, name: str) -> Iterator[Image.Image]:
    """A picture with its pixels."""
    with open_picture(data, name) as opened:
        load_picture(opened, data, name)
        yield opened


def _is_plain(image: Image.Image) -> bool:
    """Whether the stored pixels of a decoded image of one band are those that are shown."""
    return (
        image.mode in {"RGB", "L"}
        and image.width * image.height <= _BAND_PIXELS
        and not image.info.get("icc_profile")
        and image.info.get("transparency") is None
        and orientation_of(image) == 1
    )


def read_rgb(path: str | Path, *, svg_px: int = 512) -> Array:
    """Read an image file as :func:`read_rgba` does, and lay it on white where it is transparent.

    Args:
        path: File of a supported format, SVG among them.
        svg_px: Width in px that an SVG is rasterized to.

    Returns:
        Pixels (h, w, 3) uint8.

    Raises:
        ImageError: The file is missing, truncated, empty or no image.
    """
    file = Path(path)
    if not file.is_file() or file.suffix.lower() == ".svg":
        return lay_on_white(read_rgba(file, svg_px=svg_px))
    return decode_rgb(read_picture_file(file), str(file))


def lay_on_white(rgba: Array) -> Array:
    """Return pixels (h, w, 4) uint8 as (h, w, 3), laid on white where they are transparent.

    Pixels (h, w, 3) have no transparent ones.

    Example:
        >>> lay_on_white(np.array([[[0, 0, 0, 0], [9, 9, 9, 255]]], np.uint8)).tolist()
        [[[255, 255, 255], [9, 9, 9]]]
    """
    if rgba.shape[-1] == 3 or bool((rgba[..., 3] == 255).all()):
        return np.ascontiguousarray(rgba[..., :3])
    laid = np.empty((*rgba.shape[:2], 3), np.uint8)
    for rows in _bands(*rgba.shape[:2]):
        share = rgba[rows, :, 3:].astype(np.float32) / 255
        laid[rows] = (rgba[rows, :, :3] * share + 255 * (1 - share)).round()
    return laid


def read_image(path: str | Path, *, background: float = 1.0, svg_px: int = 512) -> Tensor:
    """Read an image file as a tensor; the largest JPEGs, which would take gigabytes as floats, are
    reduced as by :func:`read_reduced`.

    Args:
        path: File of a supported format, SVG among them.
        background: Gray in [0, 1] behind transparent parts.
        svg_px: Width in px that an SVG is rasterized to.

    Returns:
        Image (3, h, w) float32 in [0, 1].

    Raises:
        ImageError: The file is missing, truncated, empty or no image.
    """
    pixels, _ = read_reduced(path, svg_px=svg_px)
    image = torch.empty(3, *pixels.shape[:2])
    for rows in _bands(*pixels.shape[:2]):
        rgba = to_tensor(pixels[rows])
        image[:, rows] = rgba[:3] * rgba[3:] + background * (1 - rgba[3:])
    return image


def to_tensor(array: Array) -> Tensor:
    """Return the pixels ``array`` (h, w, c) uint8 as a tensor (c, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).float().div_(255)


def to_uint8(image: Tensor) -> Array:
    """Return ``image`` (c, h, w) or (1, c, h, w) in [0, 1] as pixels (h, w, c) uint8, rounded to
    nearest."""
    plane = image.detach().cpu().float()
    plane = plane[0] if plane.ndim == 4 else plane
    return plane.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def save_png(path: str | Path, image: Tensor | Array) -> Path:
    """Save ``image``, a tensor (c, h, w) in [0, 1] or an array (h, w[, c]) uint8, to ``path`` as
    PNG, atomically."""
    return write_bytes(path, png_bytes(image, optimize=True))


def png_bytes(image: Tensor | Array, *, optimize: bool = False) -> bytes:
    """Return ``image``, a tensor (c, h, w) in [0, 1] or an array (h, w[, c]) uint8, as a PNG file's
    bytes, as few as can be where ``optimize``."""
    array = to_uint8(image) if isinstance(image, Tensor) else image
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array).save(
        buffer, format="PNG", optimize=optimize
    )
    return buffer.getvalue()


def stack(images: Sequence[Tensor]) -> Tensor:
    """Stack ``images`` (c, h, w) of one size to (b, c, h, w). Raises ImageError where sizes
    differ."""
    sizes = {tuple(i.shape[-2:]) for i in images}
    if len(sizes) != 1:
        raise ImageError(
            f"sizes {sorted(sizes)}", "one size is needed in a batch", "resize the images first"
        )
    return torch.stack(list(images))


def upright_pixels(image: Image.Image, mode: Literal["RGB", "RGBA"]) -> Array:
    """Return the pixels of a decoded image upright, in its own color space.

    Args:
        image: Image as Pillow opened it.
        mode: Channels of the result.

    Returns:
        Pixels (h, w, 3 or 4) uint8.

    Example:
        >>> upright_pixels(Image.new("L", (1, 1), 7), "RGB").tolist()
        [[[7, 7, 7]]]
    """
    result, stored = _upright_canvas(image, len(mode))
    for rows, band in _banded(image):
        stored[rows] = np.asarray(band.convert(mode))
    return result


def srgb_pixels(image: Image.Image, name: str = "image") -> Array:
    """Return the pixels of a decoded image of any mode in sRGB, upright.

    Its EXIF orientation, ICC profile, transparency and 16-bit depth are honored.

    Args:
        image: Image as Pillow opened it.
        name: Name of the file in errors.

    Returns:
        Pixels (h, w, 4) uint8, alpha not premultiplied.

    Raises:
        ImageError: It has floating point or 32-bit pixels.

    Example:
        >>> srgb_pixels(Image.new("L", (1, 1), 7)).tolist()
        [[[7, 7, 7, 255]]]
    """
    result, pixels = _upright_canvas(image, 4)
    with foreign_errors(name, ImageError, "not a readable image"):
        to_srgb = _profile_transform(image, name)
        for rows, band in _banded(image):
            alpha, plain = _alpha_of(band), without_alpha(band, name)
            if to_srgb is not None:
                plain = to_srgb.apply(plain)
            pixels[rows, :, :3] = np.asarray(plain.convert("RGB"))
            pixels[rows, :, 3] = 255 if alpha is None else np.asarray(alpha)
    return result


def _upright_canvas(image: Image.Image, channels: int) -> tuple[Array, Array]:
    """Return room for the upright pixels of an image (h, w, channels), and the view of it that has
    the image's own orientation."""
    turn = orientation_of(image)
    sides = (image.width, image.height) if turn in SIDEWAYS else (image.height, image.width)
    result = np.empty((*sides, channels), np.uint8)
    return result, as_stored(result, turn)


def _banded(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Yield the rows of a decoded image in bands, each with its part of the picture."""
    for rows in _bands(image.height, image.width):
        yield rows, image.crop((0, rows.start, image.width, min(rows.stop, image.height)))


def _bands(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of a picture in bands of a few megapixels."""
    step = max(1, _BAND_PIXELS // max(width, 1))
    yield from (slice(top, top + step) for top in range(0, height, step))


def _profile_transform(image: Image.Image, name: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion from an image's ICC profile to sRGB; None where there is none, or a
    damaged profile, or one of another color space: the pixels are then taken as they are."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    mode = without_alpha(image.crop((0, 0, 1, 1)), name).mode
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _alpha_of(image: Image.Image) -> Image.Image | None:
    """Return the opacity of an image as mode L, or None where it is opaque."""
    if image.mode in {"RGBA", "RGBa", "LA", "La", "PA"}:
        return image.getchannel("A")
    key = image.info.get("transparency")
    if key is None:
        return None
    if image.mode.startswith("I"):
        return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
    return image.convert("RGBA").getchannel("A")


def without_alpha(image: Image.Image, name: str) -> Image.Image:
    """Return the colors of an image at 8 bits a channel, of mode L, RGB or CMYK.

    Pillow's own conversion takes 16 bits for white from 255 on.

    Args:
        image: Image of any mode.
        name: Name of the image in errors.

    Raises:
        ImageError: It has floating point or 32-bit pixels.

    Example:
        >>> without_alpha(Image.new("I;16", (1, 1), 257 * 7), "image").getpixel((0, 0))
        7
    """
    if image.mode in {"I;16", "I;16B", "I;16L", "I;16N", "I"}:
        values = np.asarray(image).astype(np.int32)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(name, "32-bit integer pixels; 8 or 16 bits are read", _TO_PNG)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ImageError(name, "floating point pixels; 8 or 16 bits are read", _TO_PNG)
    if image.mode in {"LA", "La", "1"}:
        return image.convert("LA").convert("L") if image.mode == "La" else image.convert("L")
    if image.mode in {"L", "RGB", "CMYK"}:
        return image
    return (image.convert("RGBA") if image.mode == "RGBa" else image).convert("RGB")
