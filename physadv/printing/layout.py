"""Positions on a printed page, in mm from its top-left corner, x right, y down."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import floor

from physadv.core.errors import GeometryError
from physadv.printing.aruco_markers import FIDUCIALS, GAP, MARKER, SHEET_IDS, test_sign_layout

PAPERS = {
    "a5": (148.0, 210.0),
    "a4": (210.0, 297.0),
    "letter": (215.9, 279.4),
    "legal": (215.9, 355.6),
    "a3": (297.0, 420.0),
    "a2": (420.0, 594.0),
    "a1": (594.0, 841.0),
}
MARGIN, HEADER, FOOTER = 7.0, 24.0, 19.0
CUT_GAP, CUT_LENGTH = 1.5, 2.5
SHEET_MARKER, SHEET_GAP = 12.0, 3.5
BAR = 100.0
MIN_WIDTH = 120.0
MAX_BLEED = 5.0
Paper = str | tuple[float, float]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:mm)?\s*[x×,;]\s*(\d+(?:\.\d+)?)\s*(?:mm)?")


@dataclass(frozen=True)
class PageRect:
    """A rectangle on the page, in mm.

    Attributes:
        x: Left edge.
        y: Top edge.
        w: Width.
        h: Height.
    """

    x: float
    y: float
    w: float
    h: float

    def grown(self, by: float) -> PageRect:
        """Return the rectangle grown ``by`` mm on every side; a negative value shrinks it."""
        return PageRect(self.x - by, self.y - by, self.w + 2 * by, self.h + 2 * by)


@dataclass(frozen=True)
class SheetLayout:
    """Layout of the sticker sheet.

    Attributes:
        page: Width and height of the page.
        sticker: Cut rectangle.
        markers: Markers by id.
        bar: The 100 mm bar.
        turned: Whether the sticker lies on the page turned by 90 degrees, its top on the left.
    """

    page: tuple[float, float]
    sticker: PageRect
    markers: dict[int, PageRect]
    bar: PageRect
    turned: bool = False


@dataclass(frozen=True)
class SignPageLayout:
    """Layout of a test-sign page.

    Attributes:
        page: Width and height of the page.
        sign: Bounding square of the sign.
        markers: Its four markers by id.
    """

    page: tuple[float, float]
    sign: PageRect
    markers: dict[int, PageRect]


def paper_size(paper: Paper) -> tuple[float, float]:
    """Return the width and height of ``paper`` in mm, in the order given.

    ``paper`` is a name, a size as text (``300x400mm``) or a pair of numbers in mm. Raises
    GeometryError for an unknown name and for a size that cannot be used.

    Example:
        >>> paper_size("a4"), paper_size("300x400mm")
        ((210.0, 297.0), (300.0, 400.0))
    """
    size = _SIZE.fullmatch(paper.strip().lower()) if isinstance(paper, str) else None
    if size is not None:
        width, height = float(size[1]), float(size[2])
    elif isinstance(paper, str):
        if paper.strip().lower() not in PAPERS:
            raise GeometryError(
                f"paper {paper!r}",
                f"known: {', '.join(PAPERS)}",
                "Name one of them or give a size such as 300x400mm",
            )
        width, height = PAPERS[paper.strip().lower()]
    else:
        width, height = paper

    if min(width, height) < MIN_WIDTH or max(width, height) > 5000:
        limit = f"each side {MIN_WIDTH:g} to 5000 mm"
        raise GeometryError(f"paper {width:g} x {height:g} mm", limit, "Choose another paper")
    return float(width), float(height)


def max_sticker_size(page: tuple[float, float], bleed: float = 0.0) -> tuple[float, float]:
    """Return the largest sticker (width, height) in mm that a page takes in this orientation.

    ``page`` is its (width, height) in mm, ``bleed`` the print beyond the cut in mm.
    """
    # Cut marks may end a millimeter inside the margin.
    sides = 2 * (MARGIN - 1 + CUT_GAP + CUT_LENGTH)
    ends = 2 * (MARGIN + SHEET_GAP + SHEET_MARKER) + HEADER + FOOTER
    return page[0] - sides - 2 * bleed, page[1] - ends - 2 * bleed


def fits_paper(width: float, height: float, paper: Paper, bleed: float = 0.0) -> bool:
    """Return whether a sticker fits on one page, where page and sticker may each be turned.

    Args:
        width: Width of the sticker in mm.
        height: Height of the sticker in mm.
        paper: Name or size, as for :func:`paper_size`.
        bleed: Print beyond the cut in mm.

    Returns:
        True if it fits.

    Example:
        >>> fits_paper(201.8, 141.2, "a4"), fits_paper(300, 150, "a4")
        (True, False)
    """
    return _chosen_page(width, height, paper, bleed) is not None


def smallest_paper(width: float, height: float) -> str:
    """Return the smallest named paper that takes a sticker of ``width`` x ``height`` mm.

    Raises:
        GeometryError: No paper takes it.

    Example:
        >>> smallest_paper(150, 150), smallest_paper(201.8, 141.2), smallest_paper(350, 200)
        ('a4', 'a4', 'a3')
    """
    for name in PAPERS:
        if fits_paper(width, height, name):
            return name
    raise _too_large(width, height, "a1", 0.0, "")


def usual_paper(width: float, height: float, bleed: float = 0.0) -> str:
    """Return a4, or where a4 does not take a sticker, the smallest larger paper that does.

    Args:
        width: Width of the sticker in mm.
        height: Height of the sticker in mm.
        bleed: Print beyond the cut in mm.

    Returns:
        Its name; a4 where no paper takes the sticker.

    Example:
        >>> usual_paper(100, 100), usual_paper(201.8, 195), usual_paper(2000, 100)
        ('a4', 'a3', 'a4')
    """
    return next(iter(_common_papers(width, height, bleed)), "a4")


def sheet_layout(
    width: float, height: float, paper: Paper, bleed: float = 0.0, *, instead: str = ""
) -> SheetLayout:
    """Lay out a sticker on one page.

    The page is turned where the sticker fits only that way; where it fits on neither page upright,
    it is turned itself.

    Args:
        width: Width of the sticker in mm.
        height: Height of the sticker in mm.
        paper: Name or size, as for :func:`paper_size`.
        bleed: Print beyond the cut in mm.
        instead: Remedy to name first in the error.

    Returns:
        The layout.

    Raises:
        GeometryError: The sticker does not fit.

    Example:
        >>> layout = sheet_layout(100, 100, "a4")
        >>> layout.sticker.w, sorted(layout.markers)
        (100, [12, 13, 14, 15])
        >>> layout = sheet_layout(201.8, 141.2, "a4")
        >>> layout.turned, layout.sticker.w
        (True, 141.2)
    """
    chosen = _chosen_page(width, height, paper, bleed)
    if chosen is None:
        raise _too_large(width, height, paper, bleed, instead)

    page, turned = chosen
    if turned:
        width, height = height, width
    x = snap_to_dots((page[0] - width) / 2)
    top = MARGIN + HEADER + SHEET_GAP + SHEET_MARKER + bleed
    free = max_sticker_size(page, bleed)[1] - height
    sticker = PageRect(x, snap_to_dots(top + free / 2), width, height)
    markers = _sheet_markers(sticker, page, bleed)
    return SheetLayout(page, sticker, markers, bar_rect(page), turned)


def bar_rect(page: tuple[float, float]) -> PageRect:
    """Return the rectangle of the 100 mm bar on any ``page`` (width, height) that carries one."""
    return PageRect(snap_to_dots(MARGIN + 1), page[1] - MARGIN - 8.5, BAR, 0.8)


def sign_page_layout(paper: Paper, block: str) -> SignPageLayout:
    """Lay out a test sign on upright paper, as large as the width allows.

    Args:
        paper: Name or size, as for :func:`paper_size`.
        block: "clean", "blank" or "patch", which selects the markers.

    Returns:
        The layout.

    Example:
        >>> layout = sign_page_layout("a4", "patch")
        >>> round(layout.sign.w), sorted(layout.markers)
        (190, [8, 9, 10, 11])
    """
    width, height = sorted(paper_size(paper))
    header, footer, tall = 15.0, 9.0, 1 + 2 * (MARKER + GAP)
    side = min(width - 2 * (MARGIN + 1), (height - 2 * MARGIN - header - footer) / tall)
    x = (width - side) / 2
    y = MARGIN + header + (height - 2 * MARGIN - header - footer - side) / 2

    markers = {
        marker: PageRect(
            x + float(corners[0, 0]) * side,
            y + float(corners[0, 1]) * side,
            MARKER * side,
            MARKER * side,
        )
        for marker, corners in zip(FIDUCIALS[block], test_sign_layout(), strict=True)
    }
    return SignPageLayout((width, height), PageRect(x, y, side, side), markers)


def snap_to_dots(value: float) -> float:
    """Round ``value`` in mm to dots of 300 dpi: printers paint every dot that a picture touches, so
    an edge off the grid grows by one."""
    return round(value / 25.4 * 300) / 300 * 25.4


def _chosen_page(
    width: float, height: float, paper: Paper, bleed: float
) -> tuple[tuple[float, float], bool] | None:
    """Return the page, and whether the sticker is turned on it; None where it does not fit.

    Paper as it is comes before turned paper, and an upright sticker before a turned one.
    """
    size = paper_size(paper)
    for sides, turned in (((width, height), False), ((height, width), True)):
        for page in (size, (size[1], size[0])):
            if _fits(*sides, page, bleed):
                return page, turned
    return None


def _fits(width: float, height: float, page: tuple[float, float], bleed: float) -> bool:
    wide, high = max_sticker_size(page, bleed)
    return width <= wide + 1e-6 and height <= high + 1e-6


def _sheet_markers(
    sticker: PageRect, page: tuple[float, float], bleed: float
) -> dict[int, PageRect]:
    """Place markers diagonally off the corners where the page is wide enough, else above and below
    the sticker."""
    gap = SHEET_GAP + bleed

    outside = sticker.x - gap - SHEET_MARKER
    left_x = outside if outside >= MARGIN else sticker.x + SHEET_GAP
    right_x = page[0] - left_x - SHEET_MARKER
    top, bottom = sticker.y - gap - SHEET_MARKER, sticker.y + sticker.h + gap
    positions = ((left_x, top), (right_x, top), (right_x, bottom), (left_x, bottom))

    return {
        m: PageRect(x, y, SHEET_MARKER, SHEET_MARKER)
        for m, (x, y) in zip(SHEET_IDS, positions, strict=True)
    }


def _common_papers(width: float, height: float, bleed: float) -> list[str]:
    """The common papers that take a sticker, the smallest first; only these are suggested."""
    return [p for p in ("a4", "a3", "a2", "a1") if fits_paper(width, height, p, bleed)]


def _too_large(
    width: float, height: float, paper: Paper, bleed: float, instead: str
) -> GeometryError:
    size = paper_size(paper)
    name = paper.lower() if isinstance(paper, str) else f"{size[0]:g} x {size[1]:g} mm"
    rooms = [max_sticker_size(size, bleed), max_sticker_size((size[1], size[0]), bleed)]
    rooms = [(floor(10 * w) / 10, floor(10 * h) / 10) for w, h in rooms]
    limit = " or ".join(f"{w:g} x {h:g} mm" for w, h in rooms if min(w, h) > 0) or "no sticker"

    common = _common_papers(width, height, bleed)
    remedies = [
        instead,
        f"print with --paper {common[0]}" if common else "",
        "make the sticker smaller",
    ]

    around = f" with {bleed:g} mm bleed" if bleed else ""
    remedy = ", or ".join(r for r in remedies if r)
    remedy = remedy[0].upper() + remedy[1:]
    return GeometryError(
        f"sticker {width:g} x {height:g} mm{around}", f"{name} takes at most {limit}", remedy
    )
