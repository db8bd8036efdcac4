"""Tiling of a sticker larger than the paper: where each tile is cut, glued and aligned.

Sticker coordinates are mm from the top-left corner of the cut rectangle. All tiles have one size,
and every offset is a whole number of 300 dpi dots, so that two tiles print their common strip
identically.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil, inf

from physadv.core.errors import GeometryError, OptionError
from physadv.core.wording import count_noun
from physadv.printing.layout import BAR, MARGIN, PageRect, Paper, bar_rect, paper_size, snap_to_dots

OVERLAP = (5.0, 50.0)
"""Least and most overlap in mm."""
MARKS, HEAD, FOOT = 7.0, 12.0, 14.0
"""Space in mm for alignment marks on every side, for the lines above, and for bar and line
below."""
MARK_OFF = 4.0
"""Distance of the round marks' centers from the tile, in mm."""
MOST = 400
_RIM = 1.0  # beyond the bleed, so that the whole width of the cut line is printed
_DOT = 25.4 / 300


@dataclass(frozen=True)
class StickerTile:
    """One page of a tiled sticker.

    Attributes:
        label: Name of the tile, such as "B2".
        row: Row, from 0.
        column: Column, from 0.
        region: Part of the sticker on this page, in sticker coordinates.
        window: Rectangle of that part on the page.
    """

    label: str
    row: int
    column: int
    region: PageRect
    window: PageRect

    def on_page(self, x: float, y: float) -> tuple[float, float]:
        """Convert the point ``x``, ``y`` from sticker coordinates to mm on this tile's page."""
        return x - self.region.x + self.window.x, y - self.region.y + self.window.y


@dataclass(frozen=True)
class TileLayout:
    """All tiles of a sticker, row by row.

    Attributes:
        page: Width and height of every page in mm.
        rows: Number of rows.
        columns: Number of columns.
        overlap: Common strip of neighbors in mm.
        tiles: The tiles.
        bar: The 100 mm bar of every page.
        turned: Whether the sticker is turned by 90 degrees, its top on the left.
    """

    page: tuple[float, float]
    rows: int
    columns: int
    overlap: float
    tiles: tuple[StickerTile, ...]
    bar: PageRect
    turned: bool = False

    @property
    def assembled(self) -> bool:
        """Whether there is something to assemble: more than one tile."""
        return len(self.tiles) > 1

    @property
    def sheets(self) -> int:
        """Sheets of paper: one for each tile and, to assemble by, one more."""
        return len(self.tiles) + self.assembled

    def tile(self, row: int, column: int) -> StickerTile:
        """Return the tile at ``row`` and ``column``."""
        return self.tiles[row * self.columns + column]

    def marks(self, tile: StickerTile) -> list[tuple[float, float]]:
        """Return the centers of a ``tile``'s round marks in sticker coordinates; neighbors share
        them.

        Marks of side-by-side tiles lie above and below their common strip, marks of rows at the
        rows' outer ends.
        """
        region, centers = tile.region, []

        for seam in (tile.column, tile.column + 1):
            if 0 < seam < self.columns:
                x = self.tile(0, seam).region.x + self.overlap / 2
                centers += [(x, region.y - MARK_OFF), (x, region.y + region.h + MARK_OFF)]

        for seam in (tile.row, tile.row + 1):
            if 0 < seam < self.rows:
                y = self.tile(seam, 0).region.y + self.overlap / 2
                centers += [(region.x - MARK_OFF, y)] if tile.column == 0 else []
                centers += (
                    [(region.x + region.w + MARK_OFF, y)] if tile.column == self.columns - 1 else []
                )
        return centers


def tile_layout(
    width: float, height: float, paper: Paper, *, overlap: float = 10.0, bleed: float = 0.0
) -> TileLayout:
    """Lay a sticker over as few pages as possible; paper and sticker may each be turned for that.

    Args:
        width: Width of the sticker in mm.
        height: Height of the sticker in mm.
        paper: Name or size, as for :func:`~physadv.printing.layout.paper_size`.
        overlap: Common strip of neighboring tiles in mm, 5 to 50.
        bleed: Print beyond the cut in mm.

    Returns:
        The layout.

    Raises:
        OptionError: The overlap is out of range.
        GeometryError: The paper has no room for tiles, or more than 400 pages are needed.

    Example:
        >>> layout = tile_layout(300, 300, "a4")
        >>> layout.columns, layout.rows, layout.tiles[-1].label
        (2, 2, 'B2')
    """
    if not OVERLAP[0] <= overlap <= OVERLAP[1]:
        raise OptionError(
            f"overlap {overlap:g} mm",
            f"{OVERLAP[0]:g} to {OVERLAP[1]:g} mm",
            "Give a value in this range",
        )

    size = paper_size(paper)
    overlap = _up(overlap)
    upright = tuple(side + 2 * _up(bleed + _RIM) for side in (width, height))
    layouts = [
        (_counts(spans, page, overlap), page, spans)
        for spans in (upright, upright[::-1])
        for page in (size, (size[1], size[0]))
    ]
    counts, page, spans = min(layouts, key=lambda option: option[0][0] * option[0][1])

    if counts[0] * counts[1] > MOST:
        outcome = (
            f"on {counts[0] * counts[1]:.0f} sheets"
            if counts[0] * counts[1] < inf
            else "has no room for tiles"
        )
        name = paper if isinstance(paper, str) else f"{paper[0]:g} x {paper[1]:g} mm"
        value = f"sticker {width:g} x {height:g} mm, paper {name}, overlap {overlap:.0f} mm"
        raise GeometryError(
            value, f"{outcome}; at most {MOST}", "Choose a larger paper or a smaller overlap"
        )

    columns, rows = int(counts[0]), int(counts[1])
    steps = [
        _up((span - overlap) / n) if n > 1 else 0.0
        for span, n in zip(spans, (columns, rows), strict=True)
    ]
    tile_w, tile_h = (
        s + overlap if n > 1 else span
        for s, n, span in zip(steps, (columns, rows), spans, strict=True)
    )

    room = _room(page)
    x = snap_to_dots((page[0] - tile_w) / 2)
    y = snap_to_dots(MARGIN + HEAD + MARKS + (room[1] - tile_h) / 2)
    start = -_up(bleed + _RIM)

    tiles = tuple(
        StickerTile(
            f"{_letters(r)}{c + 1}",
            r,
            c,
            PageRect(start + c * steps[0], start + r * steps[1], tile_w, tile_h),
            PageRect(x, y, tile_w, tile_h),
        )
        for r, c in product(range(rows), range(columns))
    )
    return TileLayout(page, rows, columns, overlap, tiles, bar_rect(page), spans is not upright)


def tiles_needed(
    width: float, height: float, paper: Paper, *, overlap: float = 10.0, bleed: float = 0.0
) -> str:
    """Return a remedy that names the sheets of paper ``--tile`` takes.

    Args:
        width: Width of the sticker in mm.
        height: Height of the sticker in mm.
        paper: Name or size, as for :func:`~physadv.printing.layout.paper_size`.
        overlap: Common strip of neighboring tiles in mm.
        bleed: Print beyond the cut in mm.

    Returns:
        The remedy; empty where tiles cannot help.
    """
    try:
        layout = tile_layout(width, height, paper, overlap=overlap, bleed=bleed)
    except GeometryError:
        return ""

    if not layout.assembled:
        return "print with --tile on 1 sheet, which leaves the markers around it out"
    tiles = f"{count_noun(len(layout.tiles), 'tile')}, {layout.columns} x {layout.rows}"
    return f"print with --tile on {layout.sheets} sheets ({tiles}, and one to assemble by)"


def _room(page: tuple[float, float]) -> tuple[float, float]:
    return page[0] - 2 * (MARGIN + MARKS), page[1] - 2 * (MARGIN + MARKS) - HEAD - FOOT


def _counts(
    spans: tuple[float, ...], page: tuple[float, float], overlap: float
) -> tuple[float, float]:
    """Return the tiles across and down; infinite where the overlap leaves no room or the bar does
    not fit."""
    across, down = (
        _count(span, room, overlap) for span, room in zip(spans, _room(page), strict=True)
    )
    return (across, down) if page[0] >= BAR + 2 * MARGIN + 2 else (inf, inf)


def _count(span: float, room: float, overlap: float) -> float:
    # What fits but for the rounding up to dots is one tile; margins have that much to spare.
    if span <= room + _DOT:
        return 1
    step = int((room - overlap) / _DOT + 1e-6) * _DOT
    return ceil((span - overlap) / step - 1e-9) if step > overlap else inf


def _up(value: float) -> float:
    """Round up to whole dots of 300 dpi."""
    return ceil(value / _DOT - 1e-6) * _DOT


def _letters(row: int) -> str:
    """Return the letters of a row: A, B ... Z, AA, AB ..."""
    return (_letters(row // 26 - 1) if row >= 26 else "") + chr(ord("A") + row % 26)
