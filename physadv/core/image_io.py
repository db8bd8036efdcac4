"""The only image I/O: EXIF orientation, ICC to sRGB, bit depth, alpha and SVG in; atomic lossless
files out."""

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
    """Image files under ``folder`` (recursive, sorted), or the one file named. Raises ImageError if
    there is none."""
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
    """Read any supported image as (h, w, 4) uint8 sRGB, upright, alpha not premultiplied.

    SVG files are rasterized ``svg_px`` wide. Raises ImageError for what is missing, truncated,
    empty or not an image.
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
    """The same from the bytes of one image file, say a member of a zip; ``name`` is what an
    ImageError calls it."""
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
    """Read an image as (3, h, w) float32 in [0, 1]; transparency is laid on a gray of
    ``background``."""
    rgba = to_tensor(read_rgba(path, svg_px=svg_px))
    return rgba[:3] * rgba[3:] + background * (1 - rgba[3:])


def rasterize_svg(svg: str, width_px: int, *, name: str = "SVG") -> Array:
    """Rasterise SVG text to (h, w, 4) uint8, ``width_px`` wide, aspect kept, transparent where
    nothing is drawn."""
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
    """(h, w, c) uint8 -> (c, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).float().div(255)


def to_uint8(image: Tensor) -> Array:
    """(c, h, w) or (1, c, h, w) in [0, 1] -> (h, w, c) uint8, rounded to nearest."""
    plane = image.detach().cpu().float()
    plane = plane[0] if plane.ndim == 4 else plane
    return plane.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def save_png(path: str | Path, image: Tensor | Array) -> Path:
    """Save a (c, h, w) tensor in [0, 1] or an (h, w[, c]) uint8 array as PNG, atomically."""
    array = to_uint8(image) if isinstance(image, Tensor) else image
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    with atomic_path(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG", optimize=True)
    return Path(path)


def png_bytes(image: Tensor | Array) -> bytes:
    """The same as bytes, for reports that carry their pictures."""
    array = to_uint8(image) if isinstance(image, Tensor) else image
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array).save(
        buffer, format="PNG"
    )
    return buffer.getvalue()


def stack(images: Sequence[Tensor]) -> Tensor:
    """Stack (c, h, w) images of one size; raises ImageError naming the sizes where they differ."""
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
