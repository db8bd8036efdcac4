"""ChArUco board: a chessboard with a marker in every white square, which measures a camera's lens
(Garrido-Jurado et al. 2014)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.calibration.color_chart import ChartLayout, chart_origin
from physadv.printing.aruco_markers import square_points
from physadv.printing.layout import PageRect, Paper
from physadv.printing.pdf_page import PdfPage
from physadv.printing.single_page import draw_head_and_foot, write_one_page

COLUMNS, ROWS = 7, 10
SQUARE = 272 / 300 * 25.4
"""Side of a square in mm: a whole number of 300 dpi dots, about 23 mm."""
MODULES = 7
MARKER = MODULES * 28 / 300 * 25.4


def _board_dictionary() -> Any:
    """Return a dictionary that the other pages do not use, so that a board is never taken for a
    sign."""
    return cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_100)


def charuco_board() -> Any:
    """Return the board as OpenCV's ``CharucoBoard``, in mm.

    Example:
        >>> charuco_board().getChessboardSize()
        (7, 10)
    """
    return cv2.aruco.CharucoBoard((COLUMNS, ROWS), SQUARE, MARKER, _board_dictionary())


def _black_polygons() -> list[npt.NDArray[np.float64]]:
    """Return all black areas as squares (4, 2) in mm from the board's top-left corner."""
    board = charuco_board()
    markers = [np.asarray(p, np.float64)[0, :2] for p in board.getObjPoints()]
    holders = {(int(x // SQUARE), int(y // SQUARE)) for x, y in markers}

    squares = [
        square_points(column * SQUARE, row * SQUARE, SQUARE)
        for row in range(ROWS)
        for column in range(COLUMNS)
        if (column, row) not in holders
    ]

    module = MARKER / MODULES
    for number, (x, y) in zip(np.asarray(board.getIds()).ravel(), markers, strict=True):
        cells = (
            np.asarray(cv2.aruco.generateImageMarker(_board_dictionary(), int(number), MODULES))
            < 128
        )
        squares += [
            square_points(x + j * module, y + i * module, module) for i, j in np.argwhere(cells)
        ]
    return squares


def write_board(path: str | Path, *, paper: Paper = "a4") -> ChartLayout:
    """Write the board as a PDF.

    Args:
        path: File to write.
        paper: Name or size, as for :func:`~physadv.printing.layout.paper_size`.

    Returns:
        The layout of the page.

    Raises:
        GeometryError: The paper is too small.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     layout = write_board(f"{folder}/board.pdf")
        >>> layout.page
        (210.0, 297.0)
    """
    page, x, y = chart_origin(paper, COLUMNS * SQUARE, ROWS * SQUARE)
    title = f"Camera board: {COLUMNS} x {ROWS} squares of {SQUARE:.2f} mm"
    bars: list[PageRect] = []

    def draw(pdf_page: PdfPage) -> None:
        lines = (
            "Print at 100 % and tape it flat on something stiff: a bent board gives a wrong lens.",
            "Take 10 to 20 pictures: near and far, in all corners, tilted left, right, up and "
            "down by 20 to 45 deg.",
        )
        bars.append(draw_head_and_foot(pdf_page, title, lines))
        pdf_page.canvas.setFillColorRGB(0, 0, 0)
        pdf_page.polygons([p + np.array([x, y]) for p in _black_polygons()], stroke=0, fill=1)

    write_one_page(path, page, title, draw)
    return ChartLayout(page, PageRect(x, y, COLUMNS * SQUARE, ROWS * SQUARE), bars[0])
