"""Facts and pages of PDF files, read in a process of its own with limits on memory and time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

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


def read_pdf(
    path: Path, *, error: type[PhysadvError] = ImageError, remedy: str = "Make it anew"
) -> PdfFacts:
    """Read what a PDF says of itself.

    Args:
        path: The file.
        error: Class of the error.
        remedy: What to do about a file that makes its reader fail.

    Raises:
        PhysadvError: The file is no readable PDF, or has no page.
    """
    drawn = _drawn(path, "facts", "{}", error, remedy)
    facts = parse_json(drawn.decode(), f"{path}", error=error)
    pages = [
        PdfPage(tuple(page["size"]), tuple(page["media"]), page["trim"] and tuple(page["trim"]))
        for page in facts["pages"]
    ]
    return PdfFacts(tuple(pages), facts["keywords"])


def render_page(
    path: Path,
    index: int,
    *,
    dpi: float,
    window: Window | None = None,
    is_gray: bool = False,
    error: type[PhysadvError] = ImageError,
) -> tuple[npt.NDArray[np.uint8], tuple[float, float]]:
    """Rasterize a page of a PDF.

    Args:
        path: The file.
        index: Index of the page.
        dpi: Resolution.
        window: Part of the page that is drawn; None for the whole page.
        is_gray: Whether the picture has one channel.
        error: Class of the error.

    Returns:
        Pixels (h, w) or (h, w, 3) RGB, and the width and height of the whole page in points.

    Raises:
        PhysadvError: The page is too large for this resolution, or damaged.
    """
    asked = {"index": index, "dpi": dpi, "window": window, "is_gray": is_gray}
    drawn = _drawn(
        path, "page", json.dumps({**asked, "most_px": MAX_PIXELS}), error, "Make it anew"
    )
    head, _, rows = drawn.partition(b"\n")
    about = parse_json(head.decode(), f"{path}", error=error)
    height, width, channels = about["shape"]
    pixels = np.frombuffer(rows, np.uint8)[: height * about["stride"]]
    pixels = pixels.reshape(height, about["stride"])[:, : width * channels]
    shape = (height, width) if is_gray else (height, width, channels)
    picture = pixels.reshape(shape)
    return picture if is_gray else picture[..., :3], tuple(about["size"])


def _drawn(path: Path, what: str, asked: str, error: type[PhysadvError], remedy: str) -> bytes:
    data = read_file(path, most_bytes=MAX_PDF_BYTES, error=error)
    return drawn_elsewhere(
        pdf_drawing, "pypdfium2", data, what, asked, name=f"{path}", error=error, remedy=remedy
    )
