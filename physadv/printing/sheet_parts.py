"""Common parts of a sheet's pages: header with icon and QR code, 100 mm bar, cut line, and the test
label."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from reportlab.lib.colors import CMYKColorSep
from reportlab.lib.utils import ImageReader

from physadv.core.image_io import Array
from physadv.core.sign_artwork import octagon_mm
from physadv.patches.bundle import PatchBundle
from physadv.printing.artwork import StickerArtwork, bleed_art, sticker_art, turned_bundle
from physadv.printing.cut_line import CutOptions, Polygon, cut_contour
from physadv.printing.layout import CUT_GAP, CUT_LENGTH, MARGIN, PageRect
from physadv.printing.pdf_document import CUT_LAYER, VISIBLE_LINE
from physadv.printing.pdf_page import PdfPage, pdf_image
from physadv.printing.qr_code import QUIET, qr_modules

BAR_LABEL = "100 mm - measure me"
SCALE_LINE = "print at 100 % (no fit to page)"
_ICON, _QR = 21.0, 17.0
_HAIR = 0.002  # mm; an edge that rounding puts just outside its dot would be a dot wider


@dataclass(frozen=True)
class PrintedSticker:
    """The sticker to print, with pictures prepared once for all pages.

    Attributes:
        bundle: Patch to print.
        cut: Options of the cut.
        turned: Whether it lies on the sheet turned by 90 degrees, its top on the left.
    """

    bundle: PatchBundle
    cut: CutOptions = field(default_factory=CutOptions)
    turned: bool = False

    @cached_property
    def laid(self) -> PatchBundle:
        """The patch as it lies on the sheet."""
        return turned_bundle(self.bundle) if self.turned else self.bundle

    @cached_property
    def plain(self) -> ImageReader:
        """The sticker without bleed, for test signs."""
        return pdf_image(sticker_art(self.bundle).rgba)

    @cached_property
    def blank(self) -> ImageReader:
        """The sticker's shape in white."""
        rgba: Array = sticker_art(self.bundle).rgba.copy()
        rgba[..., :3] = 255
        return pdf_image(rgba)

    @cached_property
    def _art(self) -> tuple[StickerArtwork, ImageReader]:
        art = bleed_art(self.laid, self.cut.bleed) if self.cut.bleed else sticker_art(self.laid)
        return art, pdf_image(art.rgba)

    def draw(self, page: PdfPage, rect: PageRect) -> None:
        """Draw the picture with its bleed, then the cut line, with the cut rectangle at ``rect``
        on ``page``."""
        art, reader = self._art
        with page.clipped(rect.grown(self.cut.bleed - _HAIR)):
            page.image(reader, art.around(rect))
        self.cut_line(page, self.contour(rect))

    def contour(self, rect: PageRect) -> list[Polygon]:
        """Return the polygons of the cut line when the cut rectangle is ``rect``."""
        return cut_contour(self.laid, rect, self.cut.corner_radius)

    def shape(
        self, page: PdfPage, x: float, y: float, scale: float, *, upright: bool = False
    ) -> None:
        """Fill the sticker's shape in gray, for drawings that show where it lies.

        Drawings are not to scale: the picture itself is on the sheet once, at its resolution.

        Args:
            page: Page to draw on.
            x: Left edge in mm.
            y: Top edge in mm.
            scale: Size of the drawing per size of the sticker.
            upright: Whether it is drawn as on the sign, not as on the sheet.
        """
        bundle = self.bundle if upright else self.laid
        size = bundle.card.size
        whole = PageRect(0, 0, size.width_mm, size.height_mm)
        outline = cut_contour(bundle, whole, self.cut.corner_radius)
        page.canvas.setFillGray(0.45)
        page.polygons([p * scale + np.array([x, y]) for p in outline], stroke=0, fill=1)
        page.canvas.setFillGray(0)

    @cached_property
    def picture_dpi(self) -> tuple[float, float]:
        """Resolution of the picture on the sheet, across and down, in dots per inch."""
        art, size = self._art[0], self.laid.card.size
        extent = art.around(PageRect(0, 0, size.width_mm, size.height_mm))
        h, w = art.rgba.shape[:2]
        return w / extent.w * 25.4, h / extent.h * 25.4

    def cut_line(self, page: PdfPage, contour: list[Polygon]) -> None:
        """Stroke ``contour`` on ``page`` in the spot color, overprinting, in a layer of its own."""
        page.canvas.saveState()
        page.canvas.addLiteral(f"/OC {CUT_LAYER} BDC")
        page.canvas.setStrokeColor(CMYKColorSep(0, 1, 0, 0, spotName=CUT_LAYER[1:]))
        page.canvas.setStrokeOverprint(True)
        page.canvas.setOverprintMask(1)
        page.canvas.setLineWidth(self.cut.points)

        page.polygons(contour, stroke=1, fill=0)
        page.canvas.addLiteral("EMC")
        page.canvas.restoreState()

    @property
    def turn(self) -> str:
        """What to say behind a size of a sticker that is turned; empty for another."""
        return ", turned: its top is on the left" if self.turned else ""

    @property
    def size(self) -> str:
        """Size in words."""
        return f"{self.bundle.card.size.width_mm:.1f} x {self.bundle.card.size.height_mm:.1f} mm"

    def on_sign(self, sign: PageRect, scale: float) -> PageRect:
        """Return the sticker's rectangle on the square ``sign`` drawn at ``scale``."""
        size, (cx, cy) = self.bundle.card.size, self.bundle.card.placement.center_mm
        w, h = size.width_mm * scale, size.height_mm * scale
        return PageRect(
            sign.x + sign.w / 2 + cx * scale - w / 2, sign.y + sign.h / 2 + cy * scale - h / 2, w, h
        )


def draw_header(page: PdfPage, sticker: PrintedSticker) -> None:
    """Draw on ``page`` name, size, run and placement of ``sticker``, the sign with it, and the run
    as QR code."""
    card = sticker.bundle.card
    icon = PageRect(page.width - MARGIN - _ICON - 1, MARGIN + 1, _ICON, _ICON)
    _placement_icon(page, sticker, icon)

    modules = qr_modules(f"physadv run {card.patch.run_id}")
    module = _QR / len(modules)
    quiet = QUIET * module
    code_x = icon.x - quiet - _QR
    page.modules(np.argwhere(modules), code_x, icon.y + (_ICON - _QR) / 2, module)

    x, space = MARGIN + 1, code_x - quiet - MARGIN - 1
    (cx, cy), sign = card.placement.center_mm, card.placement
    goal = card.patch.target_class or card.patch.goal

    page.text_wrapped(x, MARGIN + 6, card.patch.name, 15, bold=True, room=space)
    lines = (
        f"Sticker {sticker.size}, run {card.patch.run_id}{sticker.turn}",
        f"{card.patch.true_class} -> {goal}; model: {card.victim.name}",
        f"For a {sign.sign} sign {sign.sign_width_mm:g} mm wide; from its center to the",
        f"sticker's: {_off(cx, 'right', 'left')}, {_off(cy, 'down', 'up')}",
    )
    page.lines(x, MARGIN + 11.2, lines, 8.5, step=4.0, room=space)


def _off(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.1f} mm {positive if value >= 0 else negative}"


def _placement_icon(page: PdfPage, sticker: PrintedSticker, r: PageRect) -> None:
    """Draw the sign's outline with the sticker in its position."""
    placement = sticker.bundle.card.placement
    outline = (
        octagon_mm(r.w) if placement.sign == "stop" else [(0, 0), (r.w, 0), (r.w, r.w), (0, r.w)]
    )

    page.canvas.setStrokeGray(0.3)
    page.canvas.setFillGray(0.93)
    page.canvas.setLineWidth(0.5)
    page.polygons([np.array(outline) + np.array([r.x, r.y])], stroke=1, fill=1)

    scale = r.w / placement.sign_width_mm
    place = sticker.on_sign(r, scale)
    with page.clipped(r):
        sticker.shape(page, place.x, place.y, scale, upright=True)


def draw_cut_marks(page: PdfPage, r: PageRect, bleed: float = 0.0) -> None:
    """Draw two short lines off every corner of the cut rectangle, outside the bleed.

    Args:
        page: Page to draw on.
        r: Cut rectangle in mm.
        bleed: Print beyond the cut in mm.
    """
    page.canvas.setStrokeGray(0)
    page.canvas.setLineWidth(0.25)

    near = bleed + CUT_GAP
    for x, dx in ((r.x, -1), (r.x + r.w, 1)):
        for y, dy in ((r.y, -1), (r.y + r.h, 1)):
            page.line(x + dx * near, y, x + dx * (near + CUT_LENGTH), y)
            page.line(x, y + dy * near, x, y + dy * (near + CUT_LENGTH))


def draw_footer(page: PdfPage, bar: PageRect) -> None:
    """Draw the 100 mm ``bar`` on ``page`` and, below it, the label of every page."""
    page.canvas.setFillGray(0)
    page.box(bar)

    # The bar is 100 mm from outer edge to outer edge, with a tick every 10 mm inside that length.
    for i in range(11):
        thick, high = 0.3, 3.0 if i % 5 == 0 else 1.8
        page.box(PageRect(bar.x + (bar.w - thick) * i / 10, bar.y - high + bar.h, thick, high))

    page.text(bar.x, bar.y - 3.4, BAR_LABEL, 8.5, bold=True)
    beside = bar.x + page.width_of(BAR_LABEL, 8.5, bold=True) + 3
    page.text(beside, bar.y - 3.4, SCALE_LINE, 8.5, room=page.width - MARGIN - 1 - beside)
    draw_label(page)


def draw_label(page: PdfPage) -> None:
    """Draw the purpose of the print at the foot of ``page``."""
    page.canvas.setFillGray(0)
    room = page.width - 2 * MARGIN - 2
    page.text(MARGIN + 1, page.height - MARGIN, VISIBLE_LINE, 8.5, bold=True, room=room)
