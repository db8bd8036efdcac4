"""The print sheet: a PDF in which the sticker measures on paper what its card says."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pikepdf
from reportlab.lib.colors import CMYKColorSep
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from physadv.core.files import atomic_path
from physadv.core.images import Array, to_uint8
from physadv.core.signfaces import SignFace, octagon_mm, sign_face
from physadv.printing.bundle import Bundle
from physadv.printing.fiducials import FIDUCIALS
from physadv.printing.layout import (
    CUT_GAP,
    CUT_LENGTH,
    MARGIN,
    Paper,
    Rect,
    SheetLayout,
    SignPageLayout,
    sheet_layout,
    sign_page_layout,
)
from physadv.printing.page import Page, picture

VISIBLE_LINE = "Robustness test print - for your own signs in a lab, never for public roads"
BAR_LABEL = "100 mm - measure me"
SCALE_LINE = "print at 100 % (no fit to page)"
MIN_DPI = 300
_PIECES = {"clean": "clean sign", "blank": "sign with a blank sticker", "patch": "sign with the patch"}


def write_sheet(
    bundle: Bundle,
    path: str | Path,
    *,
    paper: Paper = "a4",
    test_signs: bool = False,
    sign: SignFace | None = None,
    sign_dpi: int = 600,
) -> SheetLayout:
    """Write the PDF and return where the sticker lies on page 1 (its rectangle is also the page's TrimBox).

    ``paper`` is a name (a4, letter, a3 ...) or (width, height) in mm. ``test_signs`` adds three small paper signs,
    one a page (clean, blank sticker, patch), as wide as the paper, with markers that tell `check` which is which;
    ``sign`` is the sign's picture for them where it is not drawn by code. Raises GeometryError when the sticker does
    not fit, OptionError for a sign that cannot be drawn. The same bundle gives the same bytes.
    """
    card = bundle.card
    layout = sheet_layout(card.size.width_mm, card.size.height_mm, paper)
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(layout.page[0] * mm, layout.page[1] * mm), invariant=1, pageCompression=1)
    canvas.setTitle(f"{card.patch.name} - {_size(bundle)}")
    canvas.setSubject(VISIBLE_LINE)
    canvas.setAuthor("physadv")
    canvas.setCreator("physadv")
    canvas.setKeywords([f"run {card.patch.run_id}", f"sign {card.placement.sign}"])
    _sticker_page(Page(canvas, layout.page), bundle, layout)
    if test_signs:
        dots = sign_page_layout(paper, "clean").sign.w / 25.4 * sign_dpi
        face = sign or sign_face(card.placement.sign, round(dots), card.placement.sign_width_mm)
        drawing = picture(face.rgba)
        for block in FIDUCIALS:
            place = sign_page_layout(paper, block)
            _sign_page(Page(canvas, place.page), bundle, face, drawing, place, block)
    canvas.save()
    with atomic_path(path) as temporary:
        _finish(buffer.getvalue(), temporary, layout)
    return layout


def _sticker_page(page: Page, bundle: Bundle, layout: SheetLayout) -> None:
    _header(page, bundle)
    page.canvas.setStrokeColorRGB(0, 0, 0)
    page.canvas.setLineWidth(0.25)
    _cut_marks(page, layout.sticker)
    # The picture is laid over the cut line, so half of the line shows, outside, and no ink of it is on the sticker.
    page.canvas.setStrokeColor(CMYKColorSep(0, 1, 0, 0, spotName="CutContour"))
    page.canvas.setLineWidth(0.5)
    page.polygons(cut_contour(bundle, layout.sticker), stroke=1, fill=0)
    page.image(picture(_sticker_rgba(bundle)), layout.sticker)
    for marker, place in layout.markers.items():
        page.marker(marker, place)
    _bar(page, layout.bar)
    page.text(layout.bar.x, page.height - MARGIN, VISIBLE_LINE, 8.5, bold=True, room=page.width - 2 * MARGIN - 2)
    page.canvas.showPage()


def _header(page: Page, bundle: Bundle) -> None:
    card = bundle.card
    icon = Rect(page.width - MARGIN - 22, MARGIN + 1, 21, 21)
    _placement_icon(page, bundle, icon)
    x, space = MARGIN + 1, icon.x - MARGIN - 5
    (cx, cy), sign = card.placement.center_mm, card.placement
    aim = card.patch.target_class or card.patch.goal
    page.text(x, MARGIN + 6, card.patch.name, 15, bold=True, room=space)
    page.text(x, MARGIN + 12, f"Sticker {_size(bundle)}, run {card.patch.run_id}", 9, room=space)
    where = f"its centre {_off(cx, 'right', 'left')} and {_off(cy, 'below', 'above')} the sign's"
    page.text(x, MARGIN + 16.5, f"For a {sign.sign} sign {sign.sign_width_mm:g} mm wide: {where}", 9, room=space)
    page.text(x, MARGIN + 21, f"{card.patch.true_class} -> {aim}; model: {card.victim.name}", 9, room=space)


def _off(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.1f} mm {positive if value >= 0 else negative}"


def _placement_icon(page: Page, bundle: Bundle, r: Rect) -> None:
    """The sign's outline with the sticker where it belongs."""
    card = bundle.card
    scale = r.w / card.placement.sign_width_mm
    outline = octagon_mm(r.w) if card.placement.sign == "stop" else [(0, 0), (r.w, 0), (r.w, r.w), (0, r.w)]
    page.canvas.setStrokeColorRGB(0.3, 0.3, 0.3)
    page.canvas.setFillColorRGB(0.93, 0.93, 0.93)
    page.canvas.setLineWidth(0.5)
    page.polygons([np.array(outline) + np.array([r.x, r.y])], stroke=1, fill=1)
    page.image(picture(_sticker_rgba(bundle)), _on_sign(bundle, Rect(r.x, r.y, r.w, r.w), scale))
    page.canvas.setFillColorRGB(0, 0, 0)


def _on_sign(bundle: Bundle, sign: Rect, scale: float) -> Rect:
    """The sticker's rectangle on a sign drawn ``scale`` times its size."""
    size, (cx, cy) = bundle.card.size, bundle.card.placement.center_mm
    w, h = size.width_mm * scale, size.height_mm * scale
    return Rect(sign.x + sign.w / 2 + cx * scale - w / 2, sign.y + sign.h / 2 + cy * scale - h / 2, w, h)


def _cut_marks(page: Page, r: Rect) -> None:
    """Two short lines off every corner, outside the cut rectangle."""
    for x, dx in ((r.x, -1), (r.x + r.w, 1)):
        for y, dy in ((r.y, -1), (r.y + r.h, 1)):
            page.line(x + dx * CUT_GAP, y, x + dx * (CUT_GAP + CUT_LENGTH), y)
            page.line(x, y + dy * CUT_GAP, x, y + dy * (CUT_GAP + CUT_LENGTH))


def cut_contour(bundle: Bundle, place: Rect) -> list[npt.NDArray[np.float64]]:
    """Outlines of the mask as polygons (n, 2) in mm on the page, holes included, on the pixels' outer edges."""
    mask = to_uint8(bundle.mask)[:, :, 0]
    h, w = mask.shape
    if bool((mask >= 128).all()):
        return [np.array([(place.x, place.y), (place.x + place.w, place.y),
                          (place.x + place.w, place.y + place.h), (place.x, place.y + place.h)])]  # fmt: skip
    zoom = max(1, min(8, 6000 // max(h, w)))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    fine = cv2.resize(padded, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    found, _ = cv2.findContours(np.asarray(fine >= 128, np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    contours = [cv2.approxPolyDP(c, 0.6, True).reshape(-1, 2).astype(np.float64) for c in found]
    step = np.array([place.w / w, place.h / h])
    scaled = [((c + 0.5) / zoom - 1) * step + np.array([place.x, place.y]) for c in contours if len(c) >= 3]
    return [np.asarray(c, np.float64) for c in scaled]


def _bar(page: Page, bar: Rect) -> None:
    """100 mm from outer edge to outer edge, a tick every 10 mm inside that length."""
    page.canvas.setFillColorRGB(0, 0, 0)
    page.box(bar)
    for i in range(11):
        thick, high = 0.3, 3.0 if i % 5 == 0 else 1.8
        page.box(Rect(bar.x + (bar.w - thick) * i / 10, bar.y - high + bar.h, thick, high))
    page.text(bar.x, bar.y - 3.4, BAR_LABEL, 8.5, bold=True)
    page.text(bar.x + 36, bar.y - 3.4, SCALE_LINE, 8.5)


def _sign_page(
    page: Page, bundle: Bundle, face: SignFace, drawing: ImageReader, layout: SignPageLayout, block: str
) -> None:
    """One test sign: the face, its sticker in proportion, the markers, and what it is."""
    card, sign = bundle.card, layout.sign
    scale = sign.w / card.placement.sign_width_mm
    shape = min(1.0, face.width_mm / face.height_mm)
    w, h = sign.w * shape, sign.w * shape * face.height_mm / face.width_mm
    page.image(drawing, Rect(sign.x + (sign.w - w) / 2, sign.y + (sign.h - h) / 2, w, h))
    if face.name == "stop":
        page.canvas.setStrokeColorRGB(0.6, 0.6, 0.6)
        page.canvas.setLineWidth(0.3)
        page.polygons([np.array(octagon_mm(sign.w)) + np.array([sign.x, sign.y])], stroke=1, fill=0)
    if block != "clean":
        rgba = _sticker_rgba(bundle)
        if block == "blank":
            rgba[..., :3] = 255
        page.image(picture(rgba), _on_sign(bundle, sign, scale))
    for marker, place in layout.markers.items():
        page.marker(marker, place)
    title = f"{card.patch.name}: {_PIECES[block]} ({list(FIDUCIALS).index(block) + 1} of 3)"
    x, space = MARGIN + 1, page.width - 2 * MARGIN - 2
    page.text(x, MARGIN + 5, title, 13, bold=True, room=space)
    note = f"1 : {1 / scale:.1f} of the sign, {sign.w:.0f} mm wide, run {card.patch.run_id}"
    page.text(x, MARGIN + 10.5, f"{note}. Keep all four markers in view.", 9, room=space)
    page.text(x, page.height - MARGIN, VISIBLE_LINE, 8.5, bold=True, room=space)
    page.canvas.showPage()


def _sticker_rgba(bundle: Bundle) -> Array:
    """The sticker with its mask as alpha, pixels repeated (never smoothed) until no viewer has reason to smooth."""
    rgba = np.dstack([to_uint8(bundle.patch), to_uint8(bundle.mask)])
    size = bundle.card.size
    dpi = 25.4 * min(rgba.shape[1] / size.width_mm, rgba.shape[0] / size.height_mm)
    repeat = max(1, min(int(np.ceil(MIN_DPI / dpi)), 8000 // max(rgba.shape[:2])))
    return np.ascontiguousarray(rgba.repeat(repeat, 0).repeat(repeat, 1))


def _size(bundle: Bundle) -> str:
    return f"{bundle.card.size.width_mm:.1f} x {bundle.card.size.height_mm:.1f} mm"


def _finish(data: bytes, path: Path, layout: SheetLayout) -> None:
    """What reportlab cannot say: printed as is, on one side, where the sticker is; plain Flate streams."""
    with pikepdf.open(io.BytesIO(data)) as pdf:
        wanted = {"/PrintScaling": "/None", "/Duplex": "/Simplex"}
        preferences: dict[str, Any] = {k: pikepdf.Name(v) for k, v in wanted.items()}
        pdf.Root.ViewerPreferences = pikepdf.Dictionary({**preferences, "/PickTrayByPDFSize": True})
        s, height = layout.sticker, layout.page[1]
        box = [s.x, height - s.y - s.h, s.x + s.w, height - s.y]
        pdf.pages[0].obj["/TrimBox"] = pikepdf.Array([round(v * 72 / 25.4, 5) for v in box])
        _flate_images(pdf)
        pdf.save(path, deterministic_id=True, compress_streams=True)


def _flate_images(pdf: pikepdf.Pdf) -> None:
    """reportlab wraps Flate in ASCII85; keep the Flate alone."""
    for item in pdf.objects:
        if isinstance(item, pikepdf.Stream) and item.get("/Subtype") == "/Image":
            item.write(item.read_bytes())
