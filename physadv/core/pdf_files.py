"""Pages of PDF files as pictures, within the budgets of :mod:`physadv.core.reading`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pypdfium2

from physadv.core.errors import ImageError, PhysadvError
from physadv.core.reading import assert_pixels, foreign_errors
from physadv.core.utf8_paths import utf8_path

Margins = tuple[float, float, float, float]


def open_pdf(
    path: Path, *, error: type[PhysadvError] = ImageError, remedy: str = "Make it anew"
) -> pypdfium2.PdfDocument:
    """Open a PDF file; the caller closes it.

    Args:
        path: The file.
        error: Class of the error.
        remedy: What the reader of that error should do.

    Raises:
        PhysadvError: The file is no readable PDF, or has no page.
    """
    with foreign_errors(f"{path}", error, "not a readable PDF", remedy):
        with utf8_path(path) as name_of_utf8:
            document = pypdfium2.PdfDocument(str(name_of_utf8))
        if len(document) == 0:
            raise error(f"{path}", "a PDF without pages", remedy)
    return document


def render_page(
    page: Any, name: str, *, dpi: float, margins: Margins = (0, 0, 0, 0), is_gray: bool = False
) -> npt.NDArray[np.uint8]:
    """Rasterize a page of an open PDF.

    Args:
        page: The page, of pypdfium2.
        name: Name of the file in errors.
        dpi: Resolution.
        margins: Points cut off at the left, bottom, right and top.
        is_gray: Whether the picture has one channel.

    Returns:
        Pixels (h, w) or (h, w, 3) RGB.

    Raises:
        ImageError: The page is too large for this resolution, or damaged.
    """
    with foreign_errors(name, ImageError, "its page cannot be drawn", "Make it anew"):
        width, height = page.get_size()
        left, bottom, right, top = margins
        columns = round((width - left - right) * dpi / 72)
        assert_pixels(columns, round((height - bottom - top) * dpi / 72), name)
        picture = page.render(scale=dpi / 72, crop=margins, grayscale=is_gray).to_pil()
        return np.asarray(picture.convert("L" if is_gray else "RGB"), np.uint8)
