"""Fuzzed readers of pictures, of the color profiles of printers and of print sheets."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import mutations
from fuzz.reader_kit import BUNDLE, files_of, registered, written
from PIL import Image, ImageCms


def noise_picture(side: int = 12) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or noise_picture()).save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def png_bytes() -> bytes:
    return encoded("PNG", noise_picture(16))


@cache
def jpeg_bytes() -> bytes:
    return encoded("JPEG", noise_picture(16))


def png_seeds() -> Sequence[bytes]:
    deep = Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12) * 400)
    palette = noise_picture().quantize(8)
    frames = [noise_picture(), noise_picture().transpose(Image.Transpose.ROTATE_90)]
    return [
        png_bytes(),
        encoded("PNG", deep),
        encoded("PNG", palette, transparency=3),
        encoded("PNG", noise_picture().convert("RGBA")),
        encoded("PNG", noise_picture().convert("LA")),
        encoded("PNG", frames[0], save_all=True, append_images=frames[1:], duration=40),
        encoded("PNG", exif=exif_block(), icc_profile=srgb_profile()),
    ]


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "Maker", {0x829A: (1, 60), 0x8827: 100}
    return exif.tobytes()


def srgb_profile() -> bytes:
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def picture_seeds() -> Sequence[bytes]:
    frames = [noise_picture(), noise_picture().transpose(Image.Transpose.ROTATE_90)]
    return [
        encoded("JPEG", exif=exif_block(), icc_profile=srgb_profile(), dpi=(72, 72), comment=b"x"),
        encoded("JPEG", progressive=True),
        encoded("JPEG", noise_picture().convert("CMYK")),
        encoded("GIF", frames[0], save_all=True, append_images=frames[1:], duration=40),
        encoded("BMP"),
        encoded("WEBP", exif=exif_block()),
        encoded("WEBP", frames[0], save_all=True, append_images=frames[1:], lossless=True),
        encoded("TIFF", compression="tiff_lzw"),
        encoded("TIFF", compression="tiff_adobe_deflate"),
        encoded("PPM"),
        encoded("TGA"),
        encoded("ICO"),
        encoded("AVIF") if "AVIF" in Image.SAVE else encoded("PCX"),
    ]


def decode_picture(folder: Path, data: bytes) -> object:
    from physadv.core.image_io import decode_rgba
    from physadv.core.picture_files import pictures_in

    pictures_in(data, "picture")
    return decode_rgba(data, "picture")


registered("png", png_seeds, mutations.mutate_png, 1)(decode_picture)
registered("pictures", picture_seeds, mutations.mutate_bytes, 1)(decode_picture)


def read_photo_of(folder: Path, data: bytes) -> object:
    from physadv.privacy.photo_io.photo import encode_photo, read_photo

    photo = read_photo(written(folder, "photo.jpg", data))
    return encode_photo(photo, photo.rgb, keep_metadata=bool(len(data) % 2))


registered("photo png", png_seeds, mutations.mutate_png, 0.5)(read_photo_of)
registered("photo jpeg and others", picture_seeds, mutations.mutate_bytes, 0.5)(read_photo_of)


@registered("mask", files_of("patches/stop-sticker-signs-v1/mask.png"), mutations.mutate_png, 0.5)
def _mask(folder: Path, data: bytes) -> object:
    from physadv.patches.bundle import read_bundle

    for name in ("patch.png", "card.toml"):
        shutil.copy(BUNDLE / name, folder / name)
    written(folder, "mask.png", data)
    return read_bundle(folder)


_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30" viewBox="0 0 40 30">'
    '<style>.a{fill:#f00}</style><rect class="a" x="1" y="2" width="30" height="20"/>'
    '<g transform="rotate(12 3 4)"><path d="M0 0L9 9Z" stroke="blue"/></g></svg>'
)


@registered(
    "svg",
    lambda: [_SVG.encode(), (BUNDLE / "sheet-cut.svg").read_bytes()],
    mutations.mutate_text,
    0.05,
)
def _svg(folder: Path, data: bytes) -> object:
    from physadv.core.image_io import read_rgba

    return read_rgba(written(folder, "a.svg", data), svg_px=64)


def _icc_seeds() -> Sequence[bytes]:
    from press_profiles import cmyk_profile, gray_profile, rgb_profile

    with tempfile.TemporaryDirectory() as folder:
        makers = (cmyk_profile, gray_profile, rgb_profile)
        return [make(Path(folder) / "p.icc").read_bytes() for make in makers] + [srgb_profile()]


@registered("icc", _icc_seeds, mutations.mutate_bytes, 0.3)
def _icc(folder: Path, data: bytes) -> object:
    from physadv.printing.icc import PressProfile

    return PressProfile(written(folder, "p.icc", data))


def _sheet_seeds() -> Sequence[bytes]:
    """The sheet of a bundle as it is, and with its streams unpacked for mutations to reach."""
    import pikepdf

    file, plain = BUNDLE / "sheet.pdf", io.BytesIO()
    with pikepdf.open(file) as pdf:
        pdf.save(plain, compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.all)
    return [file.read_bytes(), plain.getvalue()]


@registered("sheet pdf", _sheet_seeds, mutations.mutate_pdf, 0.1)
def _sheet(folder: Path, data: bytes) -> object:
    from physadv.twin.printed_sheet import read_sticker

    return read_sticker(BUNDLE, written(folder, "sheet.pdf", data), dpi=20)
