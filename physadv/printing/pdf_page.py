"""A PDF page addressed in millimeters from its top-left corner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase.pdfmetrics import stringWidth

from physadv.core.image_io import Array
from physadv.printing.aruco_markers import marker_modules, square_points
from physadv.printing.fonts import base_font, clusters, printable, writes_plainly
from physadv.printing.glyph_fonts import EM
from physadv.printing.layout import PageRect

if TYPE_CHECKING:
    from physadv.printing.lettering import ShapedLine


class PdfPage:
    """A canvas addressed in millimeters from the top-left corner.

    Args:
        canvas: reportlab canvas, whose current page gets the size of ``page``.
        page: Width and height in mm.
    """

    def __init__(self, canvas: Any, page: tuple[float, float]) -> None:
        self.canvas, self.width, self.height = canvas, page[0], page[1]
        canvas.setPageSize((page[0] * mm, page[1] * mm))

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Convert ``x`` and ``y`` in mm from the top-left corner to points from the bottom-left
        one."""
        return x * mm, (self.height - y) * mm

    def text(
        self, x: float, y: float, text: str, size: float, *, bold: bool = False, room: float = 1e9
    ) -> None:
        """Write one line in any script.

        Args:
            x: Left end in mm.
            y: Baseline in mm.
            text: The line.
            size: Font size in points.
            bold: Whether the font is bold.
            room: Width in mm to which the line is shrunk, then cut.
        """
        text, size = self._fitted(text, size, bold, room)
        self._write(x, y, text, size, bold)

    def lines(
        self, x: float, y: float, lines: Sequence[str], size: float, *, step: float, room: float
    ) -> None:
        """Write lines below each other, all in the size in which the longest fits.

        Args:
            x: Left end in mm.
            y: Baseline of the first in mm.
            lines: The lines.
            size: Largest font size in points.
            step: Distance of two baselines in mm.
            room: Width in mm.
        """
        size = min(self._fitted(line, size, bold=False, room=room)[1] for line in lines)
        for i, line in enumerate(lines):
            self.text(x, y + i * step, line, size, room=room)

    def text_wrapped(
        self, x: float, y: float, text: str, size: float, *, bold: bool = False, room: float
    ) -> None:
        """Write a heading: one line where it fits at two thirds of the size or more, else two
        smaller ones in the same height.

        Args:
            x: Left end in mm.
            y: Baseline in mm of a single line.
            text: The heading.
            size: Font size in points of a single line.
            bold: Whether the font is bold.
            room: Width in mm.
        """
        small = size * 0.56
        if self.width_of(text, size * 2 / 3, bold=bold) <= room:
            self.text(x, y, text, size, bold=bold, room=room)
            return
        first = self._first_line(text, small, bold, room)
        self.text(x, y - size * 0.24, text[:first].strip(), small, bold=bold)
        self.text(x, y - size * 0.01, text[first:].strip(), small, bold=bold, room=room)

    def text_centered(
        self, x: float, y: float, text: str, size: float, *, bold: bool = False
    ) -> None:
        """Write one line with its middle at ``x`` and its baseline at ``y`` in mm.

        Args:
            x: Middle in mm.
            y: Baseline in mm.
            text: The line.
            size: Font size in points.
            bold: Whether the font is bold.
        """
        self._write(x - self.width_of(text, size, bold=bold) / 2, y, text, size, bold)

    def text_right(self, x: float, y: float, text: str, size: float) -> None:
        """Write one line that ends at ``x``.

        Args:
            x: Right end in mm.
            y: Baseline in mm.
            text: The line.
            size: Font size in points.
        """
        self._write(x - self.width_of(text, size), y, text, size, bold=False)

    def width_of(self, text: str, size: float, *, bold: bool = False) -> float:
        """Return the width in mm of one line.

        Args:
            text: The line.
            size: Font size in points.
            bold: Whether the font is bold.
        """
        text = printable(text)
        if writes_plainly(text):
            return float(stringWidth(text, base_font(bold=bold), size) / mm)
        return float(_shaped(text, bold).width / EM * size / mm)

    def _fitted(self, text: str, size: float, bold: bool, room: float) -> tuple[str, float]:
        """Shrink a line to ``room`` mm, down to 6 pt, then cut it."""
        while self.width_of(text, size, bold=bold) > room and size > 6:
            size -= 0.25
        if self.width_of(text, size, bold=bold) <= room:
            return text, size

        parts = clusters(text)
        while len(parts) > 1 and self.width_of("".join(parts) + "\u2026", size, bold=bold) > room:
            parts.pop()
        return "".join(parts) + "\u2026", size

    def _first_line(self, text: str, size: float, bold: bool, room: float) -> int:
        """Return how many characters go on the first of two lines: whole words if possible."""
        parts = clusters(text)
        while len(parts) > 1 and self.width_of("".join(parts), size, bold=bold) > room:
            parts.pop()
        most = len("".join(parts))
        ends = [i + 1 for i, c in enumerate(text[:most]) if c in " -_/"]
        return ends[-1] if ends and ends[-1] > most / 2 else most

    def _write(self, x: float, y: float, text: str, size: float, bold: bool) -> None:
        text = printable(text)
        if writes_plainly(text):
            self.canvas.setFont(base_font(bold=bold), size)
            self.canvas.drawString(*self.point(x, y), text)
            return

        line, (left, base) = _shaped(text, bold), self.point(x, y)
        self.canvas.glyphs.lacking.update(line.lacking)
        steps, last = ["BT"], ""
        for glyph in line.glyphs:
            font, code = self.canvas.glyphs.code(glyph)
            steps += [f"{font} {size:g} Tf"] if font != last else []
            steps.append(f"1 0 0 1 {left:.3f} {base:.3f} Tm <{code:02X}> Tj")
            left, last = left + glyph.advance / EM * size, font
        self.canvas.addLiteral("\n".join([*steps, "ET"]))

    def ring(self, x: float, y: float, radius: float) -> None:
        """Stroke a circle.

        Args:
            x: Center in mm.
            y: Center in mm.
            radius: Radius in mm.
        """
        self.canvas.circle(*self.point(x, y), radius * mm, stroke=1, fill=0)

    def line(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Stroke a line.

        Args:
            x0: Start in mm.
            y0: Start in mm.
            x1: End in mm.
            y1: End in mm.
        """
        self.canvas.line(*self.point(x0, y0), *self.point(x1, y1))

    def box(self, r: PageRect) -> None:
        """Fill the rectangle ``r``, exact to its outer edges."""
        self.canvas.rect(*self.point(r.x, r.y + r.h), r.w * mm, r.h * mm, stroke=0, fill=1)

    def image(self, picture: ImageReader, r: PageRect) -> None:
        """Draw ``picture`` so that it fills the rectangle ``r``, with its alpha as a soft mask."""
        self.canvas.drawImage(picture, *self.point(r.x, r.y + r.h), r.w * mm, r.h * mm, mask="auto")

    def polygons(self, polygons: list[npt.NDArray[np.float64]], *, stroke: int, fill: int) -> None:
        """Draw closed polygons as one path, so that neighbors meet without a seam.

        Args:
            polygons: Vertices (n, 2) of each in mm.
            stroke: 1 to stroke the path.
            fill: 1 to fill the path.
        """
        path = self.canvas.beginPath()
        for polygon in polygons:
            path.moveTo(*self.point(*polygon[0]))
            for x, y in polygon[1:]:
                path.lineTo(*self.point(x, y))
            path.close()
        self.canvas.drawPath(path, stroke=stroke, fill=fill)

    def marker(self, marker: int, r: PageRect) -> None:
        """Draw the ArUco marker with id ``marker`` in the rectangle ``r``, as one path that is
        crisp at any size."""
        module = r.w / 6
        cells = np.argwhere(marker_modules(marker))
        self.modules(cells, r.x, r.y, module)

    def modules(self, cells: npt.NDArray[np.intp], x: float, y: float, side: float) -> None:
        """Fill the black squares of a grid as one path.

        Args:
            cells: Row and column (n, 2) of each square.
            x: Left edge of the grid in mm.
            y: Top edge of the grid in mm.
            side: Side of a square in mm.
        """
        self.canvas.setFillGray(0)
        self.polygons(
            [square_points(x + c * side, y + r * side, side) for r, c in cells], stroke=0, fill=1
        )

    @contextmanager
    def clipped(self, r: PageRect) -> Iterator[None]:
        """Clip what is drawn inside the context to the rectangle ``r``."""
        self.canvas.saveState()
        path = self.canvas.beginPath()
        path.rect(*self.point(r.x, r.y + r.h), r.w * mm, r.h * mm)
        self.canvas.clipPath(path, stroke=0, fill=0)
        yield
        self.canvas.restoreState()


def _shaped(text: str, bold: bool) -> ShapedLine:
    # HarfBuzz and the machine's fonts are loaded only for what the plain font lacks.
    from physadv.printing.lettering import shaped_line

    return shaped_line(text, bold=bold)


def pdf_image(rgba: Array) -> ImageReader:
    """Convert ``rgba`` (h, w, 4) uint8 for :meth:`PdfPage.image`; an opaque picture loses its
    alpha."""
    opaque = bool((rgba[..., 3] == 255).all())
    return ImageReader(Image.fromarray(rgba[..., :3] if opaque else rgba))
