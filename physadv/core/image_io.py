"""Image input with EXIF orientation, ICC profiles, bit depth, alpha and SVG; atomic lossless
output."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from physadv.core.errors import ImageError
from physadv.core.files import atomic_path

Array = npt.NDArray[np.uint8]
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
)
MAX_PIXELS = 200_000_000


def list_images(folder: str | Path, *, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
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

    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
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
        return rasterize_svg(
            file.read_text(encoding="utf-8", errors="replace"), svg_px, name=str(file)
        )
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
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ImageError(
                    name, f"{opened.width}x{opened.height} is over {MAX_PIXELS} px", "scale it down"
                )
            opened.load()
            return np.asarray(_to_srgb(ImageOps.exif_transpose(opened)), dtype=np.uint8).copy()
    except ImageError:
        raise
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        reason = f"not a readable image ({error})" if data else "empty file"
        raise ImageError(name, reason, "replace or remove the file") from error


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


def rasterize_svg(svg: str, width_px: int, *, name: str = "SVG") -> Array:
    """Rasterize an SVG drawing.

    Args:
        svg: The drawing, as text.
        width_px: Width in px; the height follows the drawing's aspect.
        name: Name of the drawing in errors.

    Returns:
        Pixels (h, w, 4) uint8, transparent where nothing is drawn.

    Raises:
        ImageError: The text is no SVG.
    """
    import resvg_py

    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=int(width_px), dpi=96))
        with Image.open(io.BytesIO(png)) as opened:
            return np.asarray(opened.convert("RGBA"), dtype=np.uint8).copy()
    except (ValueError, OSError, UnidentifiedImageError) as error:
        raise ImageError(
            name, f"not a readable SVG ({error})", "replace or remove the file"
        ) from error


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
    array = to_uint8(image) if isinstance(image, Tensor) else image
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    with atomic_path(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG", optimize=True)
    return Path(path)


def png_bytes(image: Tensor | Array) -> bytes:
    """Return ``image``, a tensor (c, h, w) in [0, 1] or an array (h, w[, c]) uint8, as a PNG file's
    bytes."""
    array = to_uint8(image) if isinstance(image, Tensor) else image
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array).save(
        buffer, format="PNG"
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


def _to_srgb(image: Image.Image) -> Image.Image:
    """Any PIL mode -> RGBA in sRGB, honoring an embedded ICC profile and 16-bit grayscale."""
    if image.mode in {"I;16", "I;16B", "I;16L", "I"}:
        image = Image.fromarray(
            (np.asarray(image, dtype=np.float64) / 257.0).clip(0, 255).astype(np.uint8)
        )
    elif image.mode == "F":
        raise ImageError(
            "mode F (floating point)", "8- or 16-bit images are read", "convert it to PNG first"
        )
    profile = image.info.get("icc_profile")
    if profile and image.mode in {"RGB", "RGBA", "CMYK", "L"}:
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        plain = image.convert("RGB") if image.mode == "RGBA" else image
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            converted = plain.convert("RGB")
        image = converted if converted is not None else plain.convert("RGB")
        if alpha is not None:
            image.putalpha(alpha)

    return image.convert("RGBA")
