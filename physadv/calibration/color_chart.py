"""Color chart: a page of known colors in known positions, against which a photo of it is measured.

Every color is on the page twice, at random, with bare paper everywhere between: pairs reveal
spoiled cells, paper reveals the light. Eight markers identify the set and locate each cell. All
sets have the same grid in mm on every paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from physadv.core.errors import GeometryError, OptionError
from physadv.core.random_streams import numpy_generator
from physadv.printing.aruco_markers import Points, square_points
from physadv.printing.layout import PageRect, Paper, paper_size, snap_to_dots
from physadv.printing.pdf_page import PdfPage, pdf_image
from physadv.printing.single_page import FOOT, HEAD, draw_head_and_foot, write_one_page

COLUMNS, ROWS = 17, 22
CELL = 124 / 300 * 25.4
"""Side of a cell in mm: a whole number of 300 dpi dots, about 10.5 mm."""
MARKER = 6 * 30 / 300 * 25.4
"""Side of a marker in mm, centered in a block of 2 x 2 cells."""
BLOCKS = ((0, 0), (7, 0), (15, 0), (15, 10), (15, 20), (7, 20), (0, 20), (0, 10))
"""(column, row) of the top-left cell under each marker, clockwise from the top left."""
SETS = 4
FIRST_ID = 16
"""First of the marker ids 16 to 47 of the common dictionary: eight for each set."""
LEVELS = (0, 64, 128, 191, 255)
GRAYS = (16, 32, 48, 80, 96, 112, 144, 160, 176, 208, 224)
COLORS = len(LEVELS) ** 3 + len(GRAYS)


@dataclass(frozen=True)
class ColorChart:
    """One set of colors. A cell has the number ``row * COLUMNS + column``.

    Attributes:
        number: Number of the set, from 1.
        colors: Colors (n, 3) uint8 sRGB.
        places: The two cells (n, 2) of each color.
        whites: Cells of bare paper.
    """

    number: int
    colors: npt.NDArray[np.uint8]
    places: npt.NDArray[np.int64]
    whites: npt.NDArray[np.int64]

    @property
    def marker_ids(self) -> tuple[int, ...]:
        """Ids of the eight markers, in the order of BLOCKS."""
        first = FIRST_ID + (self.number - 1) * len(BLOCKS)
        return tuple(range(first, first + len(BLOCKS)))

    def picture(self) -> npt.NDArray[np.uint8]:
        """Return the color (rows, columns, 3) uint8 of every cell, white under the markers."""
        cells = np.full((ROWS * COLUMNS, 3), 255, np.uint8)
        for copy in (0, 1):
            cells[self.places[:, copy]] = self.colors
        return cells.reshape(ROWS, COLUMNS, 3)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: every cell's color, and the positions of the markers."""
        rows = [[f"#{r:02x}{g:02x}{b:02x}" for r, g, b in row] for row in self.picture().tolist()]
        blocks = {str(i): list(b) for i, b in zip(self.marker_ids, BLOCKS, strict=True)}
        return {
            "set": self.number,
            "cell_mm": CELL,
            "marker_mm": MARKER,
            "markers": blocks,
            "cells": rows,
        }


@lru_cache(maxsize=SETS)
def color_chart(number: int = 1) -> ColorChart:
    """Return a set of colors by its ``number``.

    Set 1, five levels of each channel and a gray ramp, is for fitting; sets 2 to 4, random colors,
    are for testing a fit.

    Raises:
        OptionError: There is no such set.

    Example:
        >>> chart = color_chart(1)
        >>> len(chart.colors), chart.marker_ids[0]
        (136, 16)
    """
    if number not in range(1, SETS + 1):
        raise OptionError(
            f"chart set {number}", f"1 to {SETS}", "Use set 1 to fit, 2 to 4 to test the fit"
        )

    rng = numpy_generator(2005, "colour chart", number)
    grid = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), -1).reshape(-1, 3)
    colors = np.concatenate([grid, np.repeat(np.array(GRAYS)[:, None], 3, 1)])
    if number > 1:
        colors = rng.integers(0, 256, colors.shape)

    whites, rest = _spread(_free_cells(), len(_free_cells()) - 2 * len(colors))
    places = rng.permutation(rest).reshape(len(colors), 2)
    return ColorChart(number, colors.astype(np.uint8), places, whites)


def _free_cells() -> npt.NDArray[np.int64]:
    covered = {(r + i) * COLUMNS + c + j for c, r in BLOCKS for i in (0, 1) for j in (0, 1)}
    return np.array([cell for cell in range(ROWS * COLUMNS) if cell not in covered], np.int64)


def _spread(
    cells: npt.NDArray[np.int64], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return ``count`` cells spread evenly over the page, and the others, by a low-discrepancy
    dither."""
    order = np.argsort(
        (cells % COLUMNS * 0.7548776662 + cells // COLUMNS * 0.5698402910) % 1, kind="stable"
    )
    return np.sort(cells[order[:count]]), np.sort(cells[order[count:]])


def cell_centers(cells: npt.NDArray[np.int64]) -> Points:
    """Return the centers (n, 2) of ``cells`` in mm from the grid's top-left corner."""
    return np.stack([(cells % COLUMNS + 0.5) * CELL, (cells // COLUMNS + 0.5) * CELL], -1).astype(
        np.float64
    )


def marker_corners() -> Points:
    """Return the corners (8 markers, 4 corners, 2) in mm from the grid's top-left corner, top-left
    first, clockwise."""
    inset = CELL - MARKER / 2
    return np.stack([square_points(c * CELL + inset, r * CELL + inset, MARKER) for c, r in BLOCKS])


@dataclass(frozen=True)
class ChartLayout:
    """Layout of a page, in mm.

    Attributes:
        page: Width and height of the page.
        grid: Rectangle of the cells or of the board.
        bar: The 100 mm bar.
    """

    page: tuple[float, float]
    grid: PageRect
    bar: PageRect


def chart_origin(
    paper: Paper, width: float, height: float
) -> tuple[tuple[float, float], float, float]:
    """Center a grid on an upright page.

    Args:
        paper: Name or size, as for :func:`~physadv.printing.layout.paper_size`.
        width: Width of the grid in mm.
        height: Height of the grid in mm.

    Returns:
        The page (width, height) and the grid's left and top edges in mm.

    Raises:
        GeometryError: The paper is too small.
    """
    page = (min(paper_size(paper)), max(paper_size(paper)))
    free = page[1] - HEAD - FOOT
    if width > page[0] - 14 or height > free:
        limit = f"at least {width + 14:.0f} x {height + HEAD + FOOT:.0f} mm are needed"
        raise GeometryError(
            f"paper {page[0]:g} x {page[1]:g} mm", limit, "Print it on a4 or letter"
        )
    return page, snap_to_dots((page[0] - width) / 2), snap_to_dots(HEAD + (free - height) / 2)


def write_chart(path: str | Path, number: int = 1, *, paper: Paper = "a4") -> ChartLayout:
    """Write a set of colors as a PDF.

    The colors are one picture, not drawn boxes: printer drivers may treat the two differently, and
    patches are pictures.

    Args:
        path: File to write.
        number: Number of the set.
        paper: Name or size, as for :func:`~physadv.printing.layout.paper_size`.

    Returns:
        The layout of the page.

    Raises:
        OptionError: There is no such set.
        GeometryError: The paper is too small.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     layout = write_chart(f"{folder}/chart.pdf", paper="letter")
        >>> layout.page, layout.bar.w
        ((215.9, 279.4), 100.0)
    """
    chart = color_chart(number)
    page, x, y = chart_origin(paper, COLUMNS * CELL, ROWS * CELL)
    grid = PageRect(x, y, COLUMNS * CELL, ROWS * CELL)
    title = f"Color chart, set {number} of {SETS}: {COLORS} colors, each twice"
    bars: list[PageRect] = []

    def draw(pdf_page: PdfPage) -> None:
        lines = (
            "Print at 100 % with the printer, paper, quality and color settings of your stickers. "
            "Let it dry.",
            "Photograph it flat and whole, in even light, without flash or reflections, with "
            "nothing over-exposed.",
        )
        bars.append(draw_head_and_foot(pdf_page, title, lines))

        rgb = chart.picture().repeat(16, 0).repeat(16, 1)
        pdf_page.image(pdf_image(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])), grid)
        for marker, corners in zip(chart.marker_ids, marker_corners(), strict=True):
            pdf_page.marker(
                marker, PageRect(x + float(corners[0, 0]), y + float(corners[0, 1]), MARKER, MARKER)
            )

    write_one_page(path, page, title, draw)
    return ChartLayout(page, grid, bars[0])
