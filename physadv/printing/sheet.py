"""The print sheet: a PDF on which the sticker measures what its card states, on one page or on
tiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from physadv.core.files import beside, write_text
from physadv.core.sign_artwork import SignFace
from physadv.patches.bundle import PatchBundle
from physadv.printing.cut_line import CutOptions, cut_svg, safe_contour, safe_mask
from physadv.printing.icc import PressProfile, SoftProof
from physadv.printing.layout import (
    CUT_GAP,
    CUT_LENGTH,
    PageRect,
    Paper,
    SheetLayout,
    fits_paper,
    sheet_layout,
)
from physadv.printing.pdf_document import PDFX, DocumentInfo, PdfCanvas, finish_document
from physadv.printing.pdf_document import VISIBLE_LINE as VISIBLE_LINE
from physadv.printing.pdf_page import PdfPage
from physadv.printing.scale_check import measure_bars
from physadv.printing.sheet_parts import BAR_LABEL as BAR_LABEL
from physadv.printing.sheet_parts import SCALE_LINE as SCALE_LINE
from physadv.printing.sheet_parts import PrintedSticker, draw_cut_marks, draw_footer, draw_header
from physadv.printing.soft_proof import write_proof
from physadv.printing.tile_pages import draw_tiles
from physadv.printing.tiling import TileLayout, tile_layout, tiles_needed
from physadv.printing.webcam_test_signs import draw_test_signs

TURNED = "turned left"
"""Keyword of a PDF whose sticker is turned by 90 degrees, its top on the left."""


@dataclass(frozen=True)
class PrintedSheet:
    """Files of a written sheet, with its layout.

    Attributes:
        pdf: The sheet.
        svg: The cut line.
        pages: Number of pages.
        page_mm: Width and height of a page.
        bar_mm: Length of the 100 mm bar, measured in the PDF, the worst of several.
        safe_share: Share of the sticker's area inside the safe area.
        single: Layout of a sticker on one page.
        tiled: Layout of a sticker on tiles.
        proof_png: Soft proof, for a press profile.
        proof: Figures of the soft proof.
        lacking: Characters that no font on this machine has; a frame with its code stands for each.
        picture_dpi: Resolution of the sticker's picture, across and down, in dots per inch.
        turned: Whether the sticker is turned by 90 degrees on the sheet, its top on the left.
        standard: Standard that the PDF conforms to: "PDF/X-4" with a press profile, else none.
    """

    pdf: Path
    svg: Path
    pages: int
    page_mm: tuple[float, float]
    bar_mm: float
    safe_share: float
    single: SheetLayout | None = None
    tiled: TileLayout | None = None
    proof_png: Path | None = None
    proof: SoftProof | None = None
    lacking: str = ""
    picture_dpi: tuple[float, float] = (0.0, 0.0)
    standard: str | None = None
    turned: bool = False

    @property
    def layout(self) -> SheetLayout:
        """Layout of the one page.

        Raises:
            ValueError: The sheet is tiled.
        """
        if self.single is None:
            raise ValueError("a tiled sheet has no single page")
        return self.single


def write_sheet(
    bundle: PatchBundle,
    path: str | Path,
    *,
    paper: Paper = "a4",
    tile: bool = False,
    overlap: float = 10.0,
    cut: CutOptions | None = None,
    press: PressProfile | None = None,
    test_signs: bool = False,
    sign: SignFace | None = None,
    sign_dpi: int = 600,
) -> PrintedSheet:
    """Write the sheet as PDF, the cut line as SVG beside it and, with ``press``, a soft proof.

    The TrimBox of a whole sticker is the cut rectangle, its BleedBox adds the bleed. On one of
    several tiles both are its window, overlap included; on other pages, the whole page. With
    ``press`` the PDF is PDF/X-4. Equal input gives equal bytes.

    Args:
        bundle: Patch to print.
        path: PDF to write.
        paper: Name (a4, letter, a3 ...) or (width, height) in mm.
        tile: Whether a sticker that does not fit is laid over several pages, of which the first
            shows how to assemble them, or over one that leaves the markers out.
        overlap: Common strip of neighboring tiles in mm.
        cut: Options of the cut.
        press: Output profile of the print shop.
        test_signs: Whether three small paper signs are added, one per page, with markers by which
            ``check`` tells the blocks apart.
        sign: Picture of the sign for them; None draws it by code.
        sign_dpi: Resolution of a sign drawn by code.

    Returns:
        The files and the layout.

    Raises:
        GeometryError: The sticker does not fit the paper.
        OptionError: An option is out of range.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from physadv.core.package_data import bundle_folder
        >>> from physadv.patches.bundle import read_bundle
        >>> bundle = read_bundle(bundle_folder(Path("stop-sticker-signs-v1")))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sheet = write_sheet(bundle, f"{folder}/sheet.pdf", paper="a3")
        >>> sheet.pages, round(sheet.bar_mm, 1)
        (1, 100.0)
    """
    pdf, size, cut = Path(path), bundle.card.size, cut or CutOptions()

    single: SheetLayout | None = None
    tiled: TileLayout | None = None
    if tile and not fits_paper(size.width_mm, size.height_mm, paper, cut.bleed):
        tiled = tile_layout(size.width_mm, size.height_mm, paper, overlap=overlap, bleed=cut.bleed)
    else:
        instead = tiles_needed(
            size.width_mm, size.height_mm, paper, overlap=overlap, bleed=cut.bleed
        )
        single = sheet_layout(size.width_mm, size.height_mm, paper, cut.bleed, instead=instead)
    turned = bool(single and single.turned) or bool(tiled and tiled.turned)
    sticker = PrintedSticker(bundle, cut, turned)
    page_mm = single.page if single else tiled.page if tiled else (0.0, 0.0)

    canvas = PdfCanvas(page_mm)
    boxes: dict[int, tuple[PageRect, PageRect]] = {}
    if tiled:
        draw_tiles(canvas, sticker, tiled)
        boxes = _tile_boxes(tiled, sticker)
    if single:
        _sticker_page(PdfPage(canvas, single.page), sticker, single)
        boxes = {0: (single.sticker, single.sticker.grown(cut.bleed))}

    if test_signs:
        draw_test_signs(canvas, sticker, paper, sign, sign_dpi)
    pages = canvas.getPageNumber() - 1
    finish_document(canvas, pdf, _info(sticker), boxes=boxes, cut_name=cut.name, press=press)

    bar = single.bar if single else tiled.bar if tiled else PageRect(0, 0, 0, 0)
    proof_png, proof = write_proof(bundle, press, pdf) if press else (None, None)
    safe_share = float(safe_mask(bundle, cut.safe).sum()) / float((bundle.mask >= 0.5).sum())
    svg = _write_svg(sticker, beside(pdf, "-cut.svg"), single)
    return PrintedSheet(
        pdf,
        svg,
        pages,
        page_mm,
        measure_bars(pdf, bar, range(tiled.sheets if tiled else 1)),
        safe_share,
        single,
        tiled,
        proof_png,
        proof,
        "".join(sorted(canvas.glyphs.lacking)),
        sticker.picture_dpi,
        PDFX if press else None,
        sticker.turned,
    )


def _tile_boxes(
    layout: TileLayout, sticker: PrintedSticker
) -> dict[int, tuple[PageRect, PageRect]]:
    """Return TrimBox and BleedBox by page index: each tile's window, or the sticker's own where one
    tile holds all of it."""
    if layout.assembled:
        return {i + 1: (tile.window, tile.window) for i, tile in enumerate(layout.tiles)}
    size = sticker.laid.card.size
    cut_rect = PageRect(*layout.tiles[0].on_page(0, 0), size.width_mm, size.height_mm)
    return {0: (cut_rect, cut_rect.grown(sticker.cut.bleed))}


def _info(sticker: PrintedSticker) -> DocumentInfo:
    card = sticker.bundle.card
    keywords: tuple[str, ...] = (f"run {card.patch.run_id}", f"sign {card.placement.sign}")
    if sticker.turned:
        keywords += (TURNED,)
    return DocumentInfo(f"{card.patch.name} - {sticker.size}", keywords, card.patch.created)


def _sticker_page(page: PdfPage, sticker: PrintedSticker, layout: SheetLayout) -> None:
    draw_header(page, sticker)
    draw_cut_marks(page, layout.sticker, sticker.cut.bleed)
    sticker.draw(page, layout.sticker)
    if sticker.turned:
        _mark_top(page, layout.sticker, sticker.cut.bleed)
    for marker, place in layout.markers.items():
        page.marker(marker, place)
    draw_footer(page, layout.bar)
    page.canvas.showPage()


def _mark_top(page: PdfPage, r: PageRect, bleed: float) -> None:
    """Draw an arrow beside the cut rectangle ``r`` towards the turned sticker's top, on the
    left."""
    x, y = r.x - bleed - CUT_GAP - CUT_LENGTH, r.y + r.h / 2
    page.canvas.setStrokeGray(0)
    page.canvas.setLineWidth(0.35)
    page.line(x, y, x + CUT_LENGTH, y)
    for side in (-1, 1):
        page.line(x, y, x + 0.9, y + 0.9 * side)


def _write_svg(sticker: PrintedSticker, path: Path, layout: SheetLayout | None) -> Path:
    """Write the cut line in the page's coordinates for a single sheet, or the sticker alone with
    its bleed for tiles."""
    bundle, cut = sticker.laid, sticker.cut
    size = bundle.card.size
    cut_rect = layout.sticker if layout else PageRect(0, 0, size.width_mm, size.height_mm)
    view = PageRect(0, 0, *layout.page) if layout else cut_rect.grown(cut.bleed + 1)

    safe = safe_contour(bundle, cut_rect, cut.safe) if cut.safe else []
    title = f"{bundle.card.patch.name} {sticker.size}, run {bundle.card.patch.run_id}{sticker.turn}"
    return write_text(path, cut_svg(sticker.contour(cut_rect), safe, view, cut, title=title))
