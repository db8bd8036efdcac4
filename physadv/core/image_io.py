"""Image input with EXIF orientation, ICC profiles, bit depth, alpha and SVG; atomic lossless
output."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from physadv.core.errors import ImageError
from physadv.core.files import write_bytes
from physadv.core.litter import is_litter
from physadv.core.svg import decode_svg, rasterize_svg

Array = npt.NDArray[np.uint8]
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
"""Suffixes of HEIF pictures, which the package pillow-heif reads where it is installed."""
IMAGE_SUFFIXES = HEIF_SUFFIXES | frozenset(
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
"""Suffixes of the files in a folder that are read as images; a file named alone may have any."""
MAX_PIXELS = 200_000_000
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
)
"""What Pillow raises on damaged files."""


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
        svg = decode_svg(file.read_bytes(), str(file))
        return rasterize_svg(svg, svg_px, name=str(file), most_px=MAX_PIXELS)
    return decode_rgba(file.read_bytes(), str(file))


def decode_rgba(data: bytes, name: str) -> Array:
    """Decode the bytes of an image file as :func:`read_rgba` does.

    Args:
        data: Content of the file.
        name: Name of the file in errors.

    Returns:
        Pixels (h, w, 4) uint8.

    Raises:
        ImageError: The data are empty, truncated, over 200 megapixels, or no image.
    """
    try:
        with open_picture(data, name) as opened:
            opened.load()
            return np.asarray(to_srgb(opened), dtype=np.uint8).copy()
    except ImageError as error:
        raise error if error.value == name else ImageError(name, f"{error}") from error
    except _UNREADABLE as error:
        raise _unreadable(data, name, error) from error


def open_picture(data: bytes, name: str) -> Image.Image:
    """Open the bytes of an image file; its pixels are not decoded yet.

    Args:
        data: Content of the file.
        name: Name of the file in errors.

    Returns:
        The image as stored, to be closed by the caller.

    Raises:
        ImageError: The data are empty, over 200 megapixels, no image, or a HEIC file where the
            package pillow-heif is missing.
    """
    if _is_heif(data) or Path(name).suffix.lower() in HEIF_SUFFIXES:
        register_heif(name)
    try:
        opened = Image.open(io.BytesIO(data))
    except _UNREADABLE as error:
        raise _unreadable(data, name, error) from error
    if opened.width * opened.height > MAX_PIXELS:
        size = f"{opened.width}x{opened.height}"
        opened.close()
        raise ImageError(name, f"{size} is over {MAX_PIXELS} px", "scale it down")
    if opened.format == "PNG":
        _match_key_to_depth(opened, bits=data[24])
    return opened


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
        width, height = opened.size
        sideways = opened.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
    return (height, width) if sideways else (width, height)


def picture_count(path: str | Path) -> int:
    """Return how many pictures the file at ``path`` holds, as :func:`pictures_in` counts them; what
    cannot be read counts as one."""
    try:
        return pictures_in(Path(path).read_bytes(), str(path))
    except (ImageError, OSError):
        return 1


def pictures_in(data: bytes, name: str) -> int:
    """Return how many pictures the bytes of an image file hold, such as the pages of a TIFF.

    Previews and second views that cameras store behind a JPEG are not counted.

    Args:
        data: Content of the file.
        name: Name of the file in errors.

    Raises:
        ImageError: The data are empty, truncated or no image.
    """
    try:
        with open_picture(data, name) as opened:
            return 1 if opened.format == "MPO" else int(getattr(opened, "n_frames", 1))
    except _UNREADABLE as error:
        raise _unreadable(data, name, error) from error


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
    return lay_on_white(read_rgba(path, svg_px=svg_px))


def lay_on_white(rgba: Array) -> Array:
    """Return pixels (h, w, 4) uint8 as (h, w, 3), laid on white where they are transparent.

    Example:
        >>> lay_on_white(np.array([[[0, 0, 0, 0], [9, 9, 9, 255]]], np.uint8)).tolist()
        [[[255, 255, 255], [9, 9, 9]]]
    """
    alpha = rgba[..., 3:]
    if bool((alpha == 255).all()):
        return np.ascontiguousarray(rgba[..., :3])
    share = alpha.astype(np.float32) / 255
    laid = rgba[..., :3] * share + 255 * (1 - share)
    return np.ascontiguousarray(laid.round().astype(np.uint8))


def read_image(path: str | Path, *, background: float = 1.0, svg_px: int = 512) -> Tensor:
    """Read an image file as a tensor.

    Args:
        path: File of a supported format, SVG among them.
        background: Gray in [0, 1] behind transparent parts.
        svg_px: Width in px that an SVG is rasterized to.

    Returns:
        Image (3, h, w) float32 in [0, 1].

    Raises:
        ImageError: The file is missing, truncated, empty or no image.
    """
    rgba = to_tensor(read_rgba(path, svg_px=svg_px))
    return rgba[:3] * rgba[3:] + background * (1 - rgba[3:])


def to_tensor(array: Array) -> Tensor:
    """Return the pixels ``array`` (h, w, c) uint8 as a tensor (c, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).float().div(255)


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


def to_srgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGBA in sRGB, upright.

    Its EXIF orientation, ICC profile, transparency and 16-bit depth are honored.

    Args:
        image: Image as Pillow opened it.

    Returns:
        Image of mode RGBA.

    Raises:
        ImageError: It has floating point or 32-bit pixels.
    """
    image = ImageOps.exif_transpose(image)
    alpha = _alpha_of(image)
    plain = _without_alpha(image)

    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            plain = plain if converted is None else converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile, or one of another color space: the pixels as they are

    rgba = plain.convert("RGB").convert("RGBA")
    if alpha is not None:
        rgba.putalpha(alpha)
    return rgba


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


def _match_key_to_depth(image: Image.Image, bits: int) -> None:
    """Bring the transparent color that a PNG names at its own depth to Pillow's 8 bits."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and bits == 16 and key is not None:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif image.mode == "L" and bits < 8 and key is not None:
        image.info["transparency"] = key * 255 // (2**bits - 1)


def _without_alpha(image: Image.Image) -> Image.Image:
    """Return the colors of an image at 8 bits a channel, of mode L, RGB or CMYK."""
    if image.mode in {"I;16", "I;16B", "I;16L", "I;16N", "I"}:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                "32-bit integer pixels", "8- or 16-bit images are read", "convert it to PNG first"
            )
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ImageError(
            "mode F (floating point)", "8- or 16-bit images are read", "convert it to PNG first"
        )
    if image.mode in {"LA", "La", "1"}:
        return image.convert("LA").convert("L") if image.mode == "La" else image.convert("L")
    if image.mode in {"L", "RGB", "CMYK"}:
        return image
    return (image.convert("RGBA") if image.mode == "RGBa" else image).convert("RGB")


def _is_heif(data: bytes) -> bool:
    """Return whether ``data`` begin as a HEIC file does, whatever its name."""
    return data[4:8] == b"ftyp" and data[8:12] in {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}


def _unreadable(data: bytes, name: str, error: Exception) -> ImageError:
    # Pillow names the object that it read an unknown format from, which tells a user nothing.
    unknown = isinstance(error, UnidentifiedImageError)
    reason = "not a readable image" + ("" if unknown else f" ({error})") if data else "empty file"
    return ImageError(name, reason, "replace or remove the file")
