"""The written PDF put to the ruler: its 100 mm bar, rasterized."""

from __future__ import annotations

from math import ceil, floor
from pathlib import Path

import numpy as np
import pypdfium2

from physadv.core.errors import GeometryError
from physadv.printing.layout import PageRect

TOLERANCE = 0.05
"""mm by which the rasterized bar may be off."""


def measure_bar(pdf: str | Path, bar: PageRect, *, page: int = 0, dpi: int = 600) -> float:
    """Length in mm of the dark line found where the bar should be, its ends placed by their
    coverage.

    Raises GeometryError where it is more than 0.05 mm off, which no sheet of this toolkit should
    be.
    """
    points = 72 / 25.4
    with pypdfium2.PdfDocument(str(pdf)) as document:
        sheet = document[page]
        width, height = sheet.get_size()
        scale = ceil(width * dpi / 72) / width  # what the renderer makes of it: whole pixels a page
        columns = (floor(bar.x * points) - 6, floor((bar.x + bar.w) * points) + 6)
        rows = (floor((bar.y - 1) * points), floor((bar.y + bar.h + 1) * points))
        crop = (columns[0], height - rows[1], width - columns[1], rows[0])
        image = np.asarray(
            sheet.render(scale=dpi / 72, crop=crop, grayscale=True).to_pil().convert("L"),
            np.float64,
        )
    row = image[round((bar.y + bar.h / 2) * points * dpi / 72 - rows[0] * dpi / 72)]
    found = float(np.sum(1 - row / 255)) / float(scale) / points
    if abs(found - bar.w) > TOLERANCE:
        raise GeometryError(
            f"{pdf}", f"the bar measures {found:.3f} mm, not {bar.w:g}", "Write the sheet again"
        )
    return found
