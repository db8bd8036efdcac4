"""The chart and the board on paper: true to the millimeter, every color twice, whites
everywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pikepdf
import pytest
from PIL import Image

from physadv.calibration.charuco_board import COLUMNS as SQUARES
from physadv.calibration.charuco_board import SQUARE, charuco_board, write_board
from physadv.calibration.color_chart import (
    BLOCKS,
    CELL,
    COLUMNS,
    MARKER,
    ROWS,
    cell_centers,
    color_chart,
    marker_corners,
    write_chart,
)
from physadv.core.errors import GeometryError, OptionError
from physadv.core.package_data import calibration_dir
from physadv.printing.aruco_markers import marker_dictionary

DPI = 600
MM = 25.4 / DPI
poppler = pytest.mark.skipif(
    shutil.which("pdftoppm") is None, reason="pdftoppm (poppler) is not installed"
)


def pdftoppm(path: Path) -> np.ndarray:
    """The page at 600 dpi, (h, w, 3) uint8."""
    subprocess.run(
        ["pdftoppm", "-r", str(DPI), "-png", "-singlefile", str(path), str(path)], check=True
    )
    return np.asarray(Image.open(f"{path}.png").convert("RGB"))


def dark_span(line: np.ndarray) -> tuple[float, float]:
    """First and last edge in mm of what is dark along a row of pixels."""
    dark = np.nonzero(line < 128)[0]
    return dark[0] * MM, (dark[-1] + 1) * MM


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_set_holds_what_it_says(number: int) -> None:
    """A set has 136 colors in two cells each and 70 whites, none under a marker, some in every
    third of the page."""
    chart = color_chart(number)
    used = np.concatenate([chart.places.ravel(), chart.whites])
    assert len(chart.colors) == 136 >= 125
    assert len(np.unique(used)) == len(used) == 2 * 136 + len(chart.whites)
    under = {(r + i) * COLUMNS + c + j for c, r in BLOCKS for i in (0, 1) for j in (0, 1)}
    assert not under & set(used.tolist())
    where = cell_centers(chart.whites) / (np.array([COLUMNS, ROWS]) * CELL) * 3
    counts = np.histogram2d(*where.T, bins=3, range=[[0, 3], [0, 3]])[0]
    assert counts.min() >= 4
    apart = np.linalg.norm(
        np.diff(cell_centers(chart.places.ravel()).reshape(-1, 2, 2), axis=1), axis=2
    )
    assert float(np.median(apart)) > 5 * CELL  # copies lie at random, not side by side


def test_set_1_spans_the_cube_and_the_grays() -> None:
    """Set 1 has all 125 combinations of five levels, and eleven more grays; sets have different
    marker ids."""
    colors = {tuple(c) for c in color_chart(1).colors.tolist()}
    assert len(colors) == 136
    assert {(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)} <= colors
    assert sum(r == g == b for r, g, b in colors) == 16
    ids = [i for n in (1, 2, 3, 4) for i in color_chart(n).marker_ids]
    assert len(set(ids)) == 32
    assert min(ids) == 16
    with pytest.raises(OptionError, match="1 to 4"):
        color_chart(5)


@poppler
@pytest.mark.parametrize("paper", ["a4", "letter"])
def test_the_chart_measures_true(tmp_path: Path, paper: str) -> None:
    """Rasterized by poppler, bar, markers and cells are within 0.05 mm of their positions, with
    exact colors."""
    layout = write_chart(tmp_path / "c.pdf", paper=paper)
    image = pdftoppm(tmp_path / "c.pdf")
    assert image.shape[:2] == pytest.approx((layout.page[1] / MM, layout.page[0] / MM), abs=1)
    left, right = dark_span(image[round((layout.bar.y + layout.bar.h / 2) / MM), :, 0])
    assert right - left == pytest.approx(100, abs=0.05)
    first, corners = marker_corners()[0, 0], marker_corners()
    y = round((layout.grid.y + first[1] + 1) / MM)
    span = slice(round(layout.grid.x / MM), round((layout.grid.x + 2 * CELL) / MM))
    a, b = dark_span(image[y, span, 0])
    assert a + span.start * MM == pytest.approx(layout.grid.x + first[0], abs=0.05)
    assert b - a == pytest.approx(MARKER, abs=0.05)
    found, ids, _ = cv2.aruco.ArucoDetector(marker_dictionary()).detectMarkers(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    )
    order = {i: n for n, i in enumerate(color_chart(1).marker_ids)}
    assert set(order) <= set(ids.ravel().tolist())
    for marker, seen in zip(ids.ravel().tolist(), found, strict=True):
        said = corners[order[marker]] + np.array([layout.grid.x, layout.grid.y])
        assert (
            np.abs((seen.reshape(4, 2) + 0.5) * MM - said).max() < 0.15
        )  # the detector is good to some pixels
    chart = color_chart(1)
    at = (cell_centers(chart.places.ravel()) + np.array([layout.grid.x, layout.grid.y])) / MM
    seen = image[at[:, 1].astype(int), at[:, 0].astype(int)]
    assert np.abs(seen.astype(int) - np.repeat(chart.colors, 2, 0)).max() <= 1
    edge = round((layout.grid.x + 2 * CELL) / MM)
    row = image[round((layout.grid.y + 0.5 * CELL) / MM), edge - 40 : edge + 40].astype(int)
    steps = np.abs(np.diff(row, axis=0)).sum(1)
    assert abs((int(steps.argmax()) + 1 + edge - 40) * MM - (layout.grid.x + 2 * CELL)) < 0.05


@poppler
def test_the_board_measures_true(tmp_path: Path) -> None:
    """The first row of squares is SQUARE mm wide each, and OpenCV finds all 54 corners where they
    belong."""
    layout = write_board(tmp_path / "b.pdf")
    image = pdftoppm(tmp_path / "b.pdf")
    row = image[round((layout.grid.y + 1.5) / MM), :, 0] < 128
    edges = np.nonzero(np.diff(row.astype(int)))[0] + 1
    expected = layout.grid.x + SQUARE * np.arange(SQUARES + 1)
    np.testing.assert_allclose(edges * MM, expected, atol=0.05)
    small = cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
        None,
        fx=0.25,
        fy=0.25,
        interpolation=cv2.INTER_AREA,
    )
    corners, ids, _, _ = cv2.aruco.CharucoDetector(charuco_board()).detectBoard(small)
    assert len(ids) == 54
    plane, pixels = charuco_board().matchImagePoints(corners, ids)
    seen = (np.asarray(pixels).reshape(-1, 2) + 0.5) * 4 * MM - np.array(
        [layout.grid.x, layout.grid.y]
    )
    assert np.abs(seen - np.asarray(plane).reshape(-1, 3)[:, :2]).max() < 0.1


def test_same_bytes_no_scaling_and_a_label(tmp_path: Path) -> None:
    """Equal input gives an equal PDF, to be printed at 100 %; small paper is refused."""
    for name in ("a.pdf", "b.pdf"):
        write_chart(tmp_path / name, 2)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    with pikepdf.open(tmp_path / "a.pdf") as pdf:
        assert pdf.Root.ViewerPreferences.PrintScaling == "/None"
        assert "test print" in str(pdf.docinfo["/Subject"])
    with pytest.raises(GeometryError, match="a4 or letter"):
        write_chart(tmp_path / "x.pdf", paper="a5")


def test_the_ready_charts_are_those_of_the_code() -> None:
    """calibration/ holds the sets as data, and PDFs of set 1 and of the board for both papers."""
    folder = calibration_dir()
    for number in (1, 2, 3, 4):
        assert (
            json.loads((folder / f"chart-{number}.json").read_text())
            == color_chart(number).as_dict()
        )
    for name in (
        "chart-1-a4",
        "chart-1-letter",
        "chart-2-a4",
        "chart-2-letter",
        "board-a4",
        "board-letter",
    ):
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
