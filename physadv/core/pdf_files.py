"""Facts and pages of PDF files, read in a process of its own with limits on memory and time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from physadv.core import pdf_drawing
from physadv.core.drawing_process import drawn_elsewhere
from physadv.core.errors import ImageError, PhysadvError
from physadv.core.parsing import parse_json
from physadv.core.reading import MAX_PDF_BYTES, MAX_PIXELS
from physadv.core.text import read_file

Box = tuple[float, float, float, float]
"""Left, bottom, right and top in points from the bottom left corner."""
Window = tuple[float, float, float, float]
"""Left, top, right and bottom in points from the top left corner of a page."""


@dataclass(frozen=True)
class PdfPage:
    """A page of a PDF.

    Attributes:
        size: Width and height in points.
        media_box: Its paper.
        trim_box: What is left after cutting; None where the page names none.
    """

    size: tuple[float, float]
    media_box: Box
    trim_box: Box | None


@dataclass(frozen=True)
class PdfFacts:
    """What a PDF says of itself: its pages, the first 2000 at most, and its keywords."""

    pages: tuple[PdfPage, ...]
    keywords: str


@dataclass(frozen=True)
class PagePart:
    """A picture of a part of a page.

    Attributes:
        pixels: Pixels (h, w) or (h, w, 3) RGB, uint8.
        window: The part that was drawn.
    """

    pixels: npt.NDArray[np.uint8]
    window: Window


def read_trimmed(
    path: Path, *, dpi: float, error: type[PhysadvError] = ImageError, remedy: str = "Make it anew"
) -> tuple[PdfFacts, PagePart | None]:
    """Read what a PDF says of itself, and rasterize what the TrimBox of page 1 cuts out.

    Args:
        path: The file.
        dpi: Resolution.
        error: Class of the error.
        remedy: What to do about a file that makes its reader fail.

    Returns:
        The facts, and the picture with one or two points around the TrimBox; None where page 1 has
        no TrimBox within its paper.

    Raises:
        PhysadvError: The file is no readable PDF, has no page, or is too large at this resolution.
    """
    facts, parts = _drawn(path, [(0, "trim")], dpi, False, error, remedy)
    return facts, parts[0] if parts else None


def render_parts(
    path: Path,
    parts: Sequence[tuple[int, Window | None]],
    *,
    dpi: float,
    is_gray: bool = False,
    error: type[PhysadvError] = ImageError,
) -> tuple[PdfFacts, list[PagePart]]:
    """Rasterize parts of pages of a PDF, all in one process.

    Args:
        path: The file.
        parts: Index of the page and part of it that is drawn, None for the whole page, of each.
        dpi: Resolution.
        is_gray: Whether the pictures have one channel.
        error: Class of the error.

    Returns:
        What the PDF says of itself, and a picture for each part.

    Raises:
        PhysadvError: A page is too large for this resolution, or damaged.
    """
    return _drawn(path, parts, dpi, is_gray, error, "Make it anew")


def _drawn(
    path: Path,
    parts: Sequence[tuple[int, Window | str | None]],
    dpi: float,
    is_gray: bool,
    error: type[PhysadvError],
    remedy: str,
) -> tuple[PdfFacts, list[PagePart]]:
    data = read_file(path, most_bytes=MAX_PDF_BYTES, error=error)
    wanted = [{"index": index, "window": window} for index, window in parts]
    asked = {"parts": wanted, "dpi": dpi, "is_gray": is_gray, "most_px": MAX_PIXELS}
    package, request = "pypdfium2", json.dumps(asked)
    drawn = drawn_elsewhere(
        pdf_drawing, package, data, request, name=f"{path}", error=error, remedy=remedy
    )
    head, _, rows = drawn.partition(b"\n")
    about = parse_json(head.decode(), f"{path}", error=error)
    pages = [
        PdfPage(tuple(page["size"]), tuple(page["media"]), page["trim"] and tuple(page["trim"]))
        for page in about["pages"]
    ]

    pictures, start = [], 0
    for part in about["parts"]:
        size = part["shape"][0] * part["stride"]
        pixels = _pixels(rows[start : start + size], part, is_gray)
        pictures.append(PagePart(pixels, tuple(part["window"])))
        start += size
    return PdfFacts(tuple(pages), about["keywords"]), pictures


def _pixels(rows: bytes, about: Mapping[str, Any], is_gray: bool) -> npt.NDArray[np.uint8]:
    """Return rows of pixels, which may be padded, as an array."""
    height, width, channels = about["shape"]
    pixels = np.frombuffer(rows, np.uint8).reshape(height, about["stride"])[:, : width * channels]
    picture = pixels.reshape((height, width) if is_gray else (height, width, channels))
    return picture if is_gray else picture[..., :3]
