"""The printed sheet in the simulation: rasterized from the PDF, then cut out along TrimBox and
mask."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from physadv.core.errors import BundleError, GeometryError
from physadv.core.image_io import read_rgba
from physadv.core.members import member_of
from physadv.core.pdf_files import read_trimmed
from physadv.core.tables import convert_value, read_table
from physadv.twin.linear_light import F32, U8

MM_PER_POINT = 25.4 / 72
_TURNED = "turned left"
"""Keyword of a sheet on which the sticker is turned by 90 degrees, its top on the left."""


@dataclass(frozen=True)
class CutSticker:
    """A sticker cut from its sheet.

    Attributes:
        rgb: Colors (h, w, 3) uint8 as sent to the printer.
        alpha: Shape (h, w) in [0, 1].
        width_mm: Width of the cut rectangle.
        height_mm: Height of the cut rectangle.
        center_mm: Center of the sticker relative to the sign's.
        sign: Name of the sign.
        sign_width_mm: Width of the sign.
        px_per_mm: Resolution of the raster.
        run_id: Run that made the patch.
        sha256: Hash of card, patch and mask.
    """

    rgb: U8
    alpha: F32
    width_mm: float
    height_mm: float
    center_mm: tuple[float, float]
    sign: str
    sign_width_mm: float
    px_per_mm: float
    run_id: str
    sha256: str


def read_sticker(
    bundle_folder: str | Path, sheet_pdf: str | Path, *, dpi: float = 150
) -> CutSticker:
    """Rasterize page 1 of the sheet and cut the sticker out.

    Args:
        bundle_folder: Folder of the bundle.
        sheet_pdf: Printed sheet of the bundle.
        dpi: Resolution of the raster.

    Returns:
        The sticker.

    Raises:
        BundleError: A file or a key of the card is missing.
        BundleError: The sheet is of another run.
        GeometryError: The sheet has no TrimBox or one of another size than the card's, or the mask
            has no pixels.
    """
    folder = Path(bundle_folder)
    card, digest = _read_card(folder)
    width, height = card.size.width_mm, card.size.height_mm
    if not member_of(folder, "mask.png", error=BundleError).is_file():
        raise BundleError(
            f"{folder}", "mask.png is missing", "Name a folder made by `physadv patch`"
        )

    scale = dpi / 25.4
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    rgb = _cut(Path(sheet_pdf), width, height, shape, dpi, card.patch.run_id)

    mask = read_rgba(folder / "mask.png")[:, :, 0].astype(np.float32) / 255
    if not bool((mask > 0.5).any()):
        raise GeometryError(
            f"{folder / 'mask.png'}",
            "the mask has no pixels",
            "Mark the sticker's shape white in it",
        )

    interpolation = cv2.INTER_AREA if mask.shape[1] > shape[0] else cv2.INTER_NEAREST
    alpha = np.asarray(cv2.resize(mask, shape, interpolation=interpolation), np.float32)
    return CutSticker(
        rgb,
        alpha,
        width,
        height,
        card.placement.center_mm,
        card.placement.sign,
        card.placement.sign_width_mm,
        scale,
        card.patch.run_id,
        digest,
    )


@dataclass(frozen=True)
class _StickerSize:
    width_mm: float
    height_mm: float


@dataclass(frozen=True)
class _StickerPlacement:
    sign: str
    sign_width_mm: float
    center_mm: tuple[float, float]


@dataclass(frozen=True)
class _StickerRun:
    run_id: str = ""


@dataclass(frozen=True)
class _StickerCard:
    """The part of a bundle's card.toml that a cut sticker needs."""

    size: _StickerSize
    placement: _StickerPlacement
    patch: _StickerRun


def _read_card(folder: Path) -> tuple[_StickerCard, str]:
    """Return the part of the card that is needed, and the SHA-256 of card, patch and mask."""
    path, remedy = member_of(folder, "card.toml", error=BundleError), "Restore the card"
    if not path.is_file():
        raise BundleError(
            f"{folder}", "card.toml is missing", "Name a folder made by `physadv patch`"
        )

    table = read_table(path, error=BundleError, remedy=remedy, finite=False)
    card = convert_value(table, _StickerCard, name=str(path), error=BundleError, remedy=remedy)

    digest = hashlib.sha256(path.read_bytes())
    for part in ("patch.png", "mask.png"):
        file = member_of(folder, part, error=BundleError)
        digest.update(file.read_bytes() if file.is_file() else b"")
    return card, digest.hexdigest()


def _refuse_foreign_sheet(keywords: str, pdf: Path, run_id: str) -> None:
    """Raise BundleError where the sheet names another run than the bundle; one that names none, of
    another program, is accepted."""
    named = re.search(r"\brun ([0-9A-Za-z_-]+)", keywords)
    if run_id and named and named[1] != run_id:
        raise BundleError(
            f"{pdf} is the sheet of run {named[1]}",
            f"the bundle is of run {run_id}",
            "Print the sheet again from this bundle",
        )


def _cut(
    pdf: Path, width_mm: float, height_mm: float, shape: tuple[int, int], dpi: float, run_id: str
) -> U8:
    """Return the TrimBox of page 1 as pixels (h, w, 3) of ``shape`` (w, h), placed to a fraction of
    a pixel, upright however the sticker lies on the sheet."""
    if not pdf.is_file():
        raise BundleError(f"{pdf}", "no such sheet", "Make it with `physadv print`")
    remedy = "Make it with `physadv print`"
    facts, part = read_trimmed(pdf, dpi=dpi, error=BundleError, remedy=remedy)
    _refuse_foreign_sheet(facts.keywords, pdf, run_id)
    page = facts.pages[0]
    box = page.trim_box
    if box is None or part is None or np.allclose(box, page.media_box, rtol=0, atol=0.01):
        raise GeometryError(
            f"{pdf}",
            "page 1 has no TrimBox around a sticker to cut along",
            "Make it with `physadv print`, on one page",
        )

    x0_points, y0_points, x1_points, y1_points = box
    is_turned = _TURNED in facts.keywords
    sides = ((x1_points - x0_points) * MM_PER_POINT, (y1_points - y0_points) * MM_PER_POINT)
    sheet_mm = sides[::-1] if is_turned else sides
    if abs(sheet_mm[0] - width_mm) > 0.2 or abs(sheet_mm[1] - height_mm) > 0.2:
        sizes = (
            f"sticker {sheet_mm[0]:.1f} x {sheet_mm[1]:.1f} mm, card {width_mm:.1f} x "
            f"{height_mm:.1f} mm"
        )
        raise GeometryError(f"{pdf}", sizes, "Print the sheet again from this bundle")

    # The picture is a whole number of points around the sticker, so that the cut is known to a
    # fraction of a pixel.
    left, top, right, bottom = part.window
    laid = shape[::-1] if is_turned else shape
    per_x = part.pixels.shape[1] / (right - left)
    per_y = part.pixels.shape[0] / (bottom - top)
    x0, y0 = (x0_points - left) * per_x, (page.size[1] - y1_points - top) * per_y
    sx, sy = (x1_points - x0_points) * per_x / laid[0], (y1_points - y0_points) * per_y / laid[1]

    to_source = np.array([[sx, 0, x0 + 0.5 * sx - 0.5], [0, sy, y0 + 0.5 * sy - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(part.pixels, to_source, laid, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    upright = np.rot90(cut, -1) if is_turned else cut
    return np.ascontiguousarray(upright, np.uint8)
