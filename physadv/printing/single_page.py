"""One-page PDF that printers must not scale, for color charts and calibration boards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from physadv.printing.layout import BAR, MARGIN, PageRect, snap_to_dots
from physadv.printing.pdf_document import DocumentInfo, PdfCanvas, finish_document
from physadv.printing.pdf_page import PdfPage
from physadv.printing.sheet_parts import draw_footer

HEAD, FOOT = 20.0, 22.0
"""Height in mm of the lines above, and of the bar and the line below."""


def write_one_page(
    path: str | Path, size: tuple[float, float], title: str, draw: Callable[[PdfPage], None]
) -> None:
    """Draw one page and save it, to be printed at 100 %; equal input gives equal bytes.

    Args:
        path: File to write.
        size: Width and height in mm.
        title: Title of the document.
        draw: Function that draws on the page.
    """
    canvas = PdfCanvas(size)
    draw(PdfPage(canvas, size))
    canvas.showPage()
    finish_document(canvas, path, DocumentInfo(title))


def draw_head_and_foot(page: PdfPage, title: str, lines: tuple[str, str]) -> PageRect:
    """Draw title and two lines above, 100 mm bar and test label below.

    Args:
        page: Page to draw on.
        title: Title of the page.
        lines: Two lines below the title.

    Returns:
        The rectangle of the bar.
    """
    room = page.width - 2 * MARGIN - 2
    page.text(MARGIN + 1, MARGIN + 4, title, 12, bold=True, room=room)
    page.text(MARGIN + 1, MARGIN + 8.4, lines[0], 8.5, room=room)
    page.text(MARGIN + 1, MARGIN + 12, lines[1], 8.5, room=room)
    bar = PageRect(snap_to_dots(MARGIN + 1), snap_to_dots(page.height - MARGIN - 8.5), BAR, 0.8)
    draw_footer(page, bar)
    return bar
