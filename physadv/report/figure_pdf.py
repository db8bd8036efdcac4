"""Figures as vector drawings for PDF: lines, curves and text that stay sharp at any size."""

from __future__ import annotations

import io
import math
from functools import cache
from typing import Any

from physadv.report.figure_files import figure_font

FONT = "DejaVu Sans"


def figure_drawing(svg: str, width_pt: float, tallest_pt: float = math.inf) -> Any:
    """Return a figure of this program as a drawing that reportlab can place.

    Pictures within the figure, such as decision regions, stay pictures.

    Args:
        svg: The figure, as :func:`~physadv.report.plots.standalone_svg` or
            :func:`~physadv.report.formulas.formula_svg` returns it.
        width_pt: Width of the drawing in pt (1/72 in); its height follows.
        tallest_pt: Largest height in pt, for which the drawing becomes narrower.
    """
    from svglib.svglib import svg2rlg

    _register_font()
    drawing = svg2rlg(io.StringIO(svg))
    scale = min(width_pt / drawing.width, tallest_pt / drawing.height)
    drawing.scale(scale, scale)
    drawing.width, drawing.height = drawing.width * scale, drawing.height * scale
    return drawing


def figure_pdf(svg: str, width_pt: float) -> bytes:
    """Return a PDF whose only page is a figure; the same figure gives the same bytes.

    Args:
        svg: The figure, as :func:`~physadv.report.plots.standalone_svg` returns it.
        width_pt: Width of the page in pt.
    """
    from reportlab.graphics import renderPDF
    from reportlab.pdfgen.canvas import Canvas

    drawing = figure_drawing(svg, width_pt)
    stream = io.BytesIO()
    canvas = Canvas(stream, pagesize=(drawing.width, drawing.height), invariant=1)
    renderPDF.draw(drawing, canvas, 0, 0)
    canvas.save()
    return stream.getvalue()


@cache
def _register_font() -> None:
    """Set text in this program's font, whatever fonts the system has."""
    from svglib.svglib import register_font

    for weight in ("normal", "600"):  # those of this program's figures
        register_font(FONT, figure_font(), weight=weight, rlgFontName="physadv-figure")
