"""Three small paper signs for a webcam, one per page: clean, with a blank sticker and with the
patch."""

from __future__ import annotations

import numpy as np
from reportlab.lib.utils import ImageReader

from physadv.core.sign_artwork import SignFace, octagon_mm, sign_face
from physadv.printing.aruco_markers import FIDUCIALS
from physadv.printing.layout import MARGIN, PageRect, Paper, SignPageLayout, sign_page_layout
from physadv.printing.pdf_document import PdfCanvas
from physadv.printing.pdf_page import PdfPage, pdf_image
from physadv.printing.run_markers import RUN_MARKER, code_in_words, run_code, run_marker_layout
from physadv.printing.sheet_parts import PrintedSticker, draw_label

_PIECES = {
    "clean": "clean sign",
    "blank": "sign with a blank sticker",
    "patch": "sign with the patch",
}


def draw_test_signs(
    canvas: PdfCanvas, sticker: PrintedSticker, paper: Paper, sign: SignFace | None, dpi: int
) -> None:
    """Draw the three pages.

    Args:
        canvas: The document.
        sticker: Sticker to print.
        paper: Name or size, as for :func:`~physadv.printing.layout.paper_size`.
        sign: Picture of the sign; None draws it by code.
        dpi: Resolution of a sign drawn by code.
    """
    place = sticker.bundle.card.placement
    dots = sign_page_layout(paper, "clean").sign.w / 25.4 * dpi
    face = sign or sign_face(place.sign, round(dots), place.sign_width_mm)
    drawing = pdf_image(face.rgba)

    for block in FIDUCIALS:
        layout = sign_page_layout(paper, block)
        _sign_page(PdfPage(canvas, layout.page), sticker, face, drawing, layout, block)


def _sign_page(
    page: PdfPage,
    sticker: PrintedSticker,
    face: SignFace,
    drawing: ImageReader,
    layout: SignPageLayout,
    block: str,
) -> None:
    """Draw one test sign: the face, its sticker to scale, the markers, and its description."""
    card, sign = sticker.bundle.card, layout.sign
    scale = sign.w / card.placement.sign_width_mm
    shape = min(1.0, face.width_mm / face.height_mm)
    w, h = sign.w * shape, sign.w * shape * face.height_mm / face.width_mm
    page.image(drawing, PageRect(sign.x + (sign.w - w) / 2, sign.y + (sign.h - h) / 2, w, h))

    if face.name == "stop":
        page.canvas.setStrokeGray(0.6)
        page.canvas.setLineWidth(0.3)
        page.polygons([np.array(octagon_mm(sign.w)) + np.array([sign.x, sign.y])], stroke=1, fill=0)
    if block != "clean":
        page.image(
            sticker.blank if block == "blank" else sticker.plain, sticker.on_sign(sign, scale)
        )
    for marker, place in layout.markers.items():
        page.marker(marker, place)
    code = run_code(card.patch.run_id)
    for marker, corners in zip(code, run_marker_layout(), strict=True):
        x, y, side = (float(v) * sign.w for v in (*corners[0], RUN_MARKER))
        page.marker(marker, PageRect(sign.x + x, sign.y + y, side, side))

    title = f"{card.patch.name}: {_PIECES[block]} ({list(FIDUCIALS).index(block) + 1} of 3)"
    x, space = MARGIN + 1, page.width - 2 * MARGIN - 2
    page.text(x, MARGIN + 5, title, 13, bold=True, room=space)
    run = f"run {card.patch.run_id}, code {code_in_words(code)}"
    note = f"1 : {1 / scale:.1f} of the sign, {sign.w:.0f} mm wide, {run}"
    page.text(x, MARGIN + 10.5, f"{note}. Keep all markers in view.", 9, room=space)
    draw_label(page)
    page.canvas.showPage()
