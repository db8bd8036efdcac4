"""Pages of a tiled sticker: an assembly drawing, then one page per tile."""

from __future__ import annotations

from physadv.core.wording import count_noun
from physadv.printing.layout import HEADER, MARGIN, PageRect
from physadv.printing.pdf_document import PdfCanvas
from physadv.printing.pdf_page import PdfPage
from physadv.printing.sheet_parts import PrintedSticker, draw_footer, draw_header
from physadv.printing.tiling import StickerTile, TileLayout

_STEPS = (
    "1. Print all pages at 100 % and measure the bar on each: 100 mm.",
    "2. Row by row, from the left: cut each tile but the first along its left ticks (cut), lay it",
    "    on its neighbor so that the cut edge meets the ticks marked with its name and the round",
    "    marks meet; glue it down.",
    "3. From the top: cut each row but the first along its upper ticks and lay it on the row",
    "    above in the same way.",
    "4. Cut the sticker out along the thin line. The strips that overlap are printed alike.",
)
_LINE = 4.2
_TICK = (1.0, 5.0)
_RING = 1.8


def draw_tiles(canvas: PdfCanvas, sticker: PrintedSticker, layout: TileLayout) -> None:
    """Draw the assembly page, unless there is only one tile, then the tiles, row by row.

    Args:
        canvas: The document.
        sticker: Sticker to print.
        layout: Layout of the tiles.
    """
    if layout.assembled:
        _assembly_page(PdfPage(canvas, layout.page), sticker, layout)
    for tile in layout.tiles:
        _tile_page(PdfPage(canvas, layout.page), sticker, layout, tile)


def _assembly_page(page: PdfPage, sticker: PrintedSticker, layout: TileLayout) -> None:
    draw_header(page, sticker)
    y = MARGIN + HEADER + 6
    counts = f"{layout.columns} across, {layout.rows} down, {layout.overlap:.1f} mm overlap"
    room = page.width - 2 * MARGIN - 2
    page.text(
        MARGIN + 1,
        y,
        f"To assemble from {count_noun(len(layout.tiles), 'tile')}: {counts}",
        11,
        bold=True,
        room=room,
    )

    page.lines(MARGIN + 1, y + 5.5, _STEPS, 8.5, step=_LINE, room=room)
    top = y + 5.5 + _LINE * len(_STEPS) + 2
    _drawing(page, sticker, layout, PageRect(MARGIN + 1, top, room, layout.bar.y - 9 - top))

    draw_footer(page, layout.bar)
    page.canvas.showPage()


def _drawing(page: PdfPage, sticker: PrintedSticker, layout: TileLayout, space: PageRect) -> None:
    """Draw the whole sticker, scaled into ``space``, with every tile's edges and name."""
    last, first = layout.tiles[-1].region, layout.tiles[0].region
    whole = PageRect(first.x, first.y, last.x + last.w - first.x, last.y + last.h - first.y)
    scale = min(space.w / whole.w, space.h / whole.h)
    x0 = space.x + (space.w - whole.w * scale) / 2 - whole.x * scale
    y0 = space.y + (space.h - whole.h * scale) / 2 - whole.y * scale

    sticker.shape(page, x0, y0, scale)
    page.canvas.setStrokeGray(0)

    tile_rects = [
        PageRect(x0 + r.x * scale, y0 + r.y * scale, r.w * scale, r.h * scale)
        for r in (t.region for t in layout.tiles)
    ]
    for tile_rect in tile_rects:
        _outline(page, tile_rect)
    for tile, tile_rect in zip(layout.tiles, tile_rects, strict=True):
        _name_plate(page, tile.label, tile_rect)


def _outline(page: PdfPage, r: PageRect) -> None:
    """Draw a dashed black outline on white, so that it shows on any picture."""
    corners = ((r.x, r.y), (r.x + r.w, r.y), (r.x + r.w, r.y + r.h), (r.x, r.y + r.h))
    for gray, width, dash in ((1.0, 0.9, []), (0.0, 0.45, [3, 2])):
        page.canvas.setStrokeGray(gray)
        page.canvas.setLineWidth(width)
        page.canvas.setDash(dash)
        for a, b in zip(corners, (*corners[1:], corners[0]), strict=True):
            page.line(*a, *b)
    page.canvas.setDash()


def _name_plate(page: PdfPage, name: str, r: PageRect) -> None:
    """Write a tile's name in the middle of its rectangle, on white."""
    points = max(5.0, min(16.0, r.w * 0.8, r.h * 1.2))
    high, wide = points * 0.35, page.width_of(name, points, bold=True)
    page.canvas.setFillGray(1)
    page.box(
        PageRect(r.x + (r.w - wide) / 2 - 0.8, r.y + (r.h - high) / 2 - 0.6, wide + 1.6, high + 1.2)
    )
    page.canvas.setFillGray(0)
    page.text_centered(r.x + r.w / 2, r.y + r.h / 2 + points * 0.125, name, points, bold=True)


def _tile_page(
    page: PdfPage, sticker: PrintedSticker, layout: TileLayout, tile: StickerTile
) -> None:
    card = sticker.bundle.card
    x, room = MARGIN + 1, page.width - 2 * MARGIN - 2
    title, note = card.patch.name, f"Sticker {sticker.size}, run {card.patch.run_id}{sticker.turn}"
    if layout.assembled:
        place = f"row {tile.row + 1} of {layout.rows}, column {tile.column + 1} of {layout.columns}"
        title, note = f"{title}: tile {tile.label}, {place}", f"{note}; assemble by page 1"
        page.text(x, MARGIN + 5.5, tile.label, 15, bold=True)
        x, room = x + 14, room - 14
    page.text(x, MARGIN + 2.5, title, 8.5 if layout.assembled else 12, bold=True, room=room)
    page.text(x, MARGIN + 6.5, note, 8.5, room=room)

    size = sticker.laid.card.size
    with page.clipped(tile.window):
        sticker.draw(page, PageRect(*tile.on_page(0, 0), size.width_mm, size.height_mm))

    _ticks(page, layout, tile)
    for mark in layout.marks(tile):
        _round_mark(page, *tile.on_page(*mark))
    draw_footer(page, layout.bar)
    page.canvas.showPage()


def _ticks(page: PdfPage, layout: TileLayout, tile: StickerTile) -> None:
    """Draw where this tile is cut, and where the edge of the tile laid on it comes to lie."""
    w, near, far = tile.window, *_TICK
    page.canvas.setStrokeGray(0)
    page.canvas.setLineWidth(0.35)

    upright = [(w.x, "cut")] if tile.column else []
    if tile.column + 1 < layout.columns:
        upright.append((w.x + w.w - layout.overlap, layout.tile(tile.row, tile.column + 1).label))
    for x, name in upright:
        page.line(x, w.y - near, x, w.y - far)
        page.line(x, w.y + w.h + near, x, w.y + w.h + far)
        page.text_right(x - 0.8, w.y - far + 2, name, 6.5)
        page.text_right(x - 0.8, w.y + w.h + far, name, 6.5)

    level = [(w.y, "cut")] if tile.row else []
    if tile.row + 1 < layout.rows:
        level.append((w.y + w.h - layout.overlap, layout.tile(tile.row + 1, tile.column).label))
    for y, name in level:
        page.line(w.x - near, y, w.x - far, y)
        page.line(w.x + w.w + near, y, w.x + w.w + far, y)
        # Text stays clear of the tick at the corner and of the round mark.
        beside = y + 2.6 if name == "cut" else y - 0.8
        page.text_right(w.x - near, beside, name, 6.5)
        page.text(w.x + w.w + near, beside, name, 6.5)


def _round_mark(page: PdfPage, x: float, y: float) -> None:
    """Draw a ring with a cross through it."""
    page.canvas.setStrokeGray(0)
    page.canvas.setLineWidth(0.35)
    page.ring(x, y, _RING * 0.6)
    page.line(x - _RING, y, x + _RING, y)
    page.line(x, y - _RING, x, y + _RING)
