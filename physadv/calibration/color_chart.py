"""The color chart: a page of known colors in known places, which a photo of it is measured against.

Every color lies on the page twice, at random, and bare paper lies between them everywhere: the
pairs show what is spoiled, the paper shows the light. Eight markers tell which set it is and where
each cell lies. All sets have the same grid in mm on every paper.
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
"""Side of a cell in mm: whole dots of 300 dpi, about 10.5 mm."""
MARKER = 6 * 30 / 300 * 25.4
"""Side of a marker in mm, centered in a block of 2 x 2 cells."""
BLOCKS = ((0, 0), (7, 0), (15, 0), (15, 10), (15, 20), (7, 20), (0, 20), (0, 10))
"""(column, row) of the top-left cell under each marker, clockwise from the top left."""
SETS = 4
FIRST_ID = 16
"""Marker ids 16 to 47 of the dictionary all pages use: eight for each set."""
LEVELS = (0, 64, 128, 191, 255)
GRAYS = (16, 32, 48, 80, 96, 112, 144, 160, 176, 208, 224)
COLORS = len(LEVELS) ** 3 + len(GRAYS)


@dataclass(frozen=True)
class ColorChart:
    """One set: ``colours`` (n, 3) uint8 sRGB; ``places`` (n, 2) cells of each; ``whites`` cells of
    bare paper.

    A cell is row * COLUMNS + column.
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
        """(rows, columns, 3) uint8: the color of every cell, white under the markers."""
        cells = np.full((ROWS * COLUMNS, 3), 255, np.uint8)
        for copy in (0, 1):
            cells[self.places[:, copy]] = self.colors
        return cells.reshape(ROWS, COLUMNS, 3)

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file: every cell's color, and where the markers are."""
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
    """Set 1: five levels of each channel and a gray ramp, to fit on. Sets 2 to 4: random colors, to
    test a fit on.

    Raises OptionError for another number.
    """
    if number not in range(1, SETS + 1):
        raise OptionError(
            f"chart set {number}", f"1 to {SETS}", "Take set 1 to fit, 2 to 4 to test the fit"
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
    taken = {(r + i) * COLUMNS + c + j for c, r in BLOCKS for i in (0, 1) for j in (0, 1)}
    return np.array([cell for cell in range(ROWS * COLUMNS) if cell not in taken], np.int64)


def _spread(
    cells: npt.NDArray[np.int64], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """``count`` cells spread evenly over the page, and the others: the lowest of a low-discrepancy
    dither."""
    order = np.argsort(
        (cells % COLUMNS * 0.7548776662 + cells // COLUMNS * 0.5698402910) % 1, kind="stable"
    )
    return np.sort(cells[order[:count]]), np.sort(cells[order[count:]])


def cell_centers(cells: npt.NDArray[np.int64]) -> Points:
    """(n, 2) mm from the grid's top-left corner."""
    return np.stack([(cells % COLUMNS + 0.5) * CELL, (cells // COLUMNS + 0.5) * CELL], -1).astype(
        np.float64
    )


def marker_corners() -> Points:
    """(8 markers, 4 corners, 2) mm from the grid's top-left corner, corners TL, TR, BR, BL."""
    inset = CELL - MARKER / 2
    return np.stack([square_points(c * CELL + inset, r * CELL + inset, MARKER) for c, r in BLOCKS])


@dataclass(frozen=True)
class ChartLayout:
    """Where things lie on the page, in mm: the page (w, h), the grid of cells, the 100 mm bar."""

    page: tuple[float, float]
    grid: PageRect
    bar: PageRect


def chart_origin(
    paper: Paper, width: float, height: float
) -> tuple[tuple[float, float], float, float]:
    """Upright page, and the top-left corner that centers ``width`` x ``height`` mm on it.
    GeometryError: too small."""
    page = (min(paper_size(paper)), max(paper_size(paper)))
    free = page[1] - HEAD - FOOT
    if width > page[0] - 14 or height > free:
        limit = f"at least {width + 14:.0f} x {height + HEAD + FOOT:.0f} mm are needed"
        raise GeometryError(
            f"paper {page[0]:g} x {page[1]:g} mm", limit, "Print it on a4 or letter"
        )
    return page, snap_to_dots((page[0] - width) / 2), snap_to_dots(HEAD + (free - height) / 2)


def write_chart(path: str | Path, number: int = 1, *, paper: Paper = "a4") -> ChartLayout:
    """Write set ``number`` as a PDF and return where things lie. Raises OptionError, GeometryError
    (paper too small).

    The colors are one picture, not drawn boxes: printer drivers may treat the two differently, and
    patches are pictures.
    """
    chart = color_chart(number)
    page, x, y = chart_origin(paper, COLUMNS * CELL, ROWS * CELL)
    grid = PageRect(x, y, COLUMNS * CELL, ROWS * CELL)
    title = f"Colour chart, set {number} of {SETS}: {COLORS} colors, each twice"
    bars: list[PageRect] = []

    def draw(on: PdfPage) -> None:
        lines = (
            "Print at 100 % with the printer, paper, quality and color settings of your stickers. "
            "Let it dry.",
            "Photograph it flat and whole, in even light, without flash or reflections, with "
            "nothing over-exposed.",
        )
        bars.append(draw_head_and_foot(on, title, lines))
        rgb = chart.picture().repeat(16, 0).repeat(16, 1)
        on.image(pdf_image(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])), grid)
        for marker, corners in zip(chart.marker_ids, marker_corners(), strict=True):
            on.marker(
                marker, PageRect(x + float(corners[0, 0]), y + float(corners[0, 1]), MARKER, MARKER)
            )

    write_one_page(path, page, title, draw)
    return ChartLayout(page, grid, bars[0])
