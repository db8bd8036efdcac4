"""A PDF of one page that no printer may scale: what charts and boards have in common."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pikepdf
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

from physadv.core.files import atomic_path
from physadv.printing.layout import BAR, MARGIN, Rect
from physadv.printing.page import Page
from physadv.printing.sheet import BAR_LABEL, SCALE_LINE, VISIBLE_LINE

HEAD, FOOT = 20.0, 22.0
"""mm taken by the lines above and by the bar and the line below."""


def dots(value: float) -> float:
    """mm to whole dots of 300 dpi: a printer paints every dot a picture touches, so an edge off the grid grows it."""
    return round(value / 25.4 * 300) / 300 * 25.4


def write_one_page(path: str | Path, size: tuple[float, float], title: str, draw: Callable[[Page], None]) -> None:
    """Draw one page of ``size`` (width, height) mm and save it: 100 % scale asked for, same input, same bytes."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(size[0] * mm, size[1] * mm), invariant=1, pageCompression=1)
    canvas.setTitle(title)
    canvas.setSubject(VISIBLE_LINE)
    canvas.setAuthor("physadv")
    canvas.setCreator("physadv")
    page = Page(canvas, size)
    draw(page)
    canvas.showPage()
    canvas.save()
    with atomic_path(path) as temporary, pikepdf.open(io.BytesIO(buffer.getvalue())) as pdf:
        scaling = {"/PrintScaling": pikepdf.Name("/None"), "/Duplex": pikepdf.Name("/Simplex")}
        pdf.Root.ViewerPreferences = pikepdf.Dictionary({**scaling, "/PickTrayByPDFSize": True})
        for item in pdf.objects:
            if isinstance(item, pikepdf.Stream) and item.get("/Subtype") == "/Image":
                item.write(item.read_bytes())  # reportlab wraps Flate in ASCII85; the Flate alone is kept
        pdf.save(temporary, deterministic_id=True, compress_streams=True)


def head_and_foot(page: Page, title: str, lines: tuple[str, str]) -> Rect:
    """Title and two lines above, 100 mm bar and test label below; returns the bar's rectangle."""
    room = page.width - 2 * MARGIN - 2
    page.text(MARGIN + 1, MARGIN + 4, title, 12, bold=True, room=room)
    page.text(MARGIN + 1, MARGIN + 8.4, lines[0], 8.5, room=room)
    page.text(MARGIN + 1, MARGIN + 12, lines[1], 8.5, room=room)
    bar = Rect(dots(MARGIN + 1), dots(page.height - MARGIN - 8.5), BAR, 0.8)
    page.canvas.setFillColorRGB(0, 0, 0)
    page.box(bar)
    for i in range(11):
        thick, high = 0.3, 3.0 if i % 5 == 0 else 1.8
        page.box(Rect(bar.x + (bar.w - thick) * i / 10, bar.y - high + bar.h, thick, high))
    page.text(bar.x, bar.y - 3.4, BAR_LABEL, 8.5, bold=True)
    page.text(bar.x + 36, bar.y - 3.4, SCALE_LINE, 8.5)
    page.text(bar.x, page.height - MARGIN, VISIBLE_LINE, 8.5, bold=True, room=room)
    return bar
