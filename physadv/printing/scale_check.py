"""Verification of the scale: the 100 mm bar of a written PDF, rasterized and measured."""

from __future__ import annotations

from math import ceil, floor
from pathlib import Path

import numpy as np

from physadv.core.errors import GeometryError
from physadv.core.pdf_files import render_page
from physadv.printing.layout import PageRect

TOLERANCE = 0.05
"""Largest deviation of the rasterized bar, in mm."""


def measure_bar(pdf: str | Path, bar: PageRect, *, page: int = 0, dpi: int = 600) -> float:
    """Rasterize the bar of a sheet and measure its length, placing its ends by their coverage.

    Args:
        pdf: File of the sheet.
        bar: Rectangle of the bar in mm.
        page: Index of the page.
        dpi: Resolution of the raster.

    Returns:
        The length in mm.

    Raises:
        GeometryError: The length deviates by more than 0.05 mm.
    """
    points = 72 / 25.4
    columns = (floor(bar.x * points) - 6, floor((bar.x + bar.w) * points) + 6)
    rows = (floor((bar.y - 1) * points), floor((bar.y + bar.h + 1) * points))
    window = (columns[0], rows[0], columns[1], rows[1])
    drawn, (width, _) = render_page(Path(pdf), page, dpi=dpi, window=window, is_gray=True)
    scale = ceil(width * dpi / 72) / width  # the renderer rounds a page to whole pixels
    image = drawn.astype(np.float64)

    row = image[round((bar.y + bar.h / 2) * points * dpi / 72 - rows[0] * dpi / 72)]
    length_mm = float(np.sum(1 - row / 255)) / float(scale) / points
    if abs(length_mm - bar.w) > TOLERANCE:
        raise GeometryError(
            f"{pdf}", f"the bar measures {length_mm:.3f} mm, not {bar.w:g}", "Write the sheet again"
        )
    return length_mm
