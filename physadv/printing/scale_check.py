"""Verification of the scale: the 100 mm bars of a written PDF, rasterized and measured."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from physadv.core.errors import GeometryError
from physadv.core.pdf_files import render_parts
from physadv.printing.layout import PageRect

TOLERANCE = 0.05
"""Largest deviation of the rasterized bar, in mm."""
_POINTS = 72 / 25.4


def measure_bars(pdf: str | Path, bar: PageRect, pages: Sequence[int], *, dpi: int = 600) -> float:
    """Rasterize the bar on pages of a sheet, all in one process, and measure its length, placing
    its ends by their coverage.

    Args:
        pdf: File of the sheet.
        bar: Rectangle of the bar in mm, the same on each page.
        pages: Indices of the pages.
        dpi: Resolution of the raster.

    Returns:
        The length in mm that deviates most.

    Raises:
        GeometryError: A length deviates by more than 0.05 mm.
    """
    columns = (floor(bar.x * _POINTS) - 6, floor((bar.x + bar.w) * _POINTS) + 6)
    rows = (floor((bar.y - 1) * _POINTS), floor((bar.y + bar.h + 1) * _POINTS))
    window = (columns[0], rows[0], columns[1], rows[1])
    facts, parts = render_parts(Path(pdf), [(i, window) for i in pages], dpi=dpi, is_gray=True)
    lengths = [
        _length_mm(part.pixels, bar, facts.pages[index].size[0], rows[0], dpi)
        for index, part in zip(pages, parts, strict=True)
    ]

    worst = max(range(len(lengths)), key=lambda k: abs(lengths[k] - bar.w))
    if abs(lengths[worst] - bar.w) > TOLERANCE:
        measured = f"the bar of page {pages[worst] + 1} measures {lengths[worst]:.3f} mm"
        raise GeometryError(f"{pdf}", f"{measured}, not {bar.w:g}", "Write the sheet again")
    return lengths[worst]


def _length_mm(
    drawn: npt.NDArray[np.uint8], bar: PageRect, width: float, top: float, dpi: int
) -> float:
    """Length of a bar in a picture that begins at ``top`` points of a page ``width`` wide."""
    scale = ceil(width * dpi / 72) / width  # the renderer rounds a page to whole pixels
    row = drawn[round((bar.y + bar.h / 2) * _POINTS * dpi / 72 - top * dpi / 72)]
    return float(np.sum(1 - row.astype(np.float64) / 255)) / float(scale) / _POINTS
