"""A PDF page spoken to in millimeters from its top-left corner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase.pdfmetrics import stringWidth

from physadv.core.image_io import Array
from physadv.printing.aruco_markers import marker_modules, square_points
from physadv.printing.layout import PageRect


class PdfPage:
    """A canvas spoken to in millimeters from the top-left corner."""

    def __init__(self, canvas: Any, page: tuple[float, float]) -> None:
        self.canvas, self.width, self.height = canvas, page[0], page[1]
        canvas.setPageSize((page[0] * mm, page[1] * mm))

    def point(self, x: float, y: float) -> tuple[float, float]:
        """mm from the top-left -> points from the bottom-left."""
        return x * mm, (self.height - y) * mm

    def text(
        self, x: float, y: float, text: str, size: float, *, bold: bool = False, room: float = 1e9
    ) -> None:
        """Baseline at y; shrunk, then cut, to ``room`` mm; characters outside Latin-1 become '?'."""
        font = "Helvetica-Bold" if bold else "Helvetica"
        text = text.encode("latin-1", "replace").decode("latin-1")
        while stringWidth(text, font, size) > room * mm and size > 6:
            size -= 0.25
        while stringWidth(text, font, size) > room * mm and len(text) > 4:
            text = text[:-4] + "..."
        self.canvas.setFont(font, size)
        self.canvas.drawString(*self.point(x, y), text)

    def text_centered(
        self, x: float, y: float, text: str, size: float, *, bold: bool = False
    ) -> None:
        """Baseline at y, middle at x."""
        self.canvas.setFont("Helvetica-Bold" if bold else "Helvetica", size)
        self.canvas.drawCentredString(*self.point(x, y), text)

    def text_right(self, x: float, y: float, text: str, size: float) -> None:
        """Baseline at y, ending at x."""
        self.canvas.setFont("Helvetica", size)
        self.canvas.drawRightString(*self.point(x, y), text)

    def ring(self, x: float, y: float, radius: float) -> None:
        """A stroked circle."""
        self.canvas.circle(*self.point(x, y), radius * mm, stroke=1, fill=0)

    def line(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """A stroke between two points."""
        self.canvas.line(*self.point(x0, y0), *self.point(x1, y1))

    def box(self, r: PageRect) -> None:
        """A filled rectangle, exact to its outer edges."""
        self.canvas.rect(*self.point(r.x, r.y + r.h), r.w * mm, r.h * mm, stroke=0, fill=1)

    def image(self, picture: ImageReader, r: PageRect) -> None:
        """A picture filling the rectangle, its alpha as a soft mask."""
        self.canvas.drawImage(picture, *self.point(r.x, r.y + r.h), r.w * mm, r.h * mm, mask="auto")

    def polygons(self, polygons: list[npt.NDArray[np.float64]], *, stroke: int, fill: int) -> None:
        """One path of closed polygons given as (n, 2) mm, so that neighbors meet without a seam."""
        path = self.canvas.beginPath()
        for polygon in polygons:
            path.moveTo(*self.point(*polygon[0]))
            for x, y in polygon[1:]:
                path.lineTo(*self.point(x, y))
            path.close()
        self.canvas.drawPath(path, stroke=stroke, fill=fill)

    def marker(self, marker: int, r: PageRect) -> None:
        """An ArUco marker as one path: crisp at any size."""
        module = r.w / 6
        cells = np.argwhere(marker_modules(marker))
        self.modules(cells, r.x, r.y, module)

    def modules(self, cells: npt.NDArray[np.intp], x: float, y: float, side: float) -> None:
        """Black squares of ``side`` mm at the (row, column) ``cells`` (n, 2) of a grid at x, y, as
        one path."""
        self.canvas.setFillGray(0)
        self.polygons(
            [square_points(x + c * side, y + r * side, side) for r, c in cells], stroke=0, fill=1
        )

    @contextmanager
    def clipped(self, r: PageRect) -> Iterator[None]:
        """What is drawn inside shows within the rectangle only."""
        self.canvas.saveState()
        path = self.canvas.beginPath()
        path.rect(*self.point(r.x, r.y + r.h), r.w * mm, r.h * mm)
        self.canvas.clipPath(path, stroke=0, fill=0)
        yield
        self.canvas.restoreState()


def pdf_image(rgba: Array) -> ImageReader:
    """An (h, w, 4) picture for :meth:`Page.image`; alpha only where it is used."""
    opaque = bool((rgba[..., 3] == 255).all())
    return ImageReader(Image.fromarray(rgba[..., :3] if opaque else rgba))
