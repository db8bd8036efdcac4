"""Figures and tables of a study as markup for a page, and as files: SVG, PNG, GIF and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from markupsafe import Markup

from physadv.core import figure_drawing
from physadv.core.drawing_process import drawn_elsewhere
from physadv.core.errors import DataError
from physadv.core.files import write_bytes, write_text
from physadv.core.image_io import decode_rgba, lay_on_white, png_bytes, read_rgba
from physadv.core.members import member_of
from physadv.core.text import read_file
from physadv.core.visible_text import spreadsheet_cell
from physadv.report.design import data_uri, gif_uri
from physadv.report.plots import (
    chart_svg,
    matrix_svg,
    pictures_svg,
    plane_svg,
    standalone_svg,
)
from physadv.studies.page import Chart, Figure, Matrix, Pictures, Plane, Table

PNG_WIDTH = 1440
"""Width of a figure's PNG in px: 12 cm at 300 dpi."""
_LARGEST_PICTURE = 1 << 26


@dataclass(frozen=True)
class RunPictures:
    """Pictures of a run folder, read once.

    Args:
        folder: Folder of the run.
    """

    folder: Path

    def content(self, name: str) -> bytes:
        """Return the bytes of the picture file called ``name`` in the folder.

        Raises:
            DataError: It lies outside of the folder, is missing, or is no PNG or GIF file.
        """
        file = member_of(self.folder, name)
        data = read_file(file, most_bytes=_LARGEST_PICTURE, error=DataError)
        if not data.startswith((b"\x89PNG\r\n\x1a\n", b"GIF8")):
            raise DataError(f'"{file}"', "A report shows PNG and GIF files alone", "Remove it")
        return data

    def uri(self, name: str) -> str:
        """Return the picture called ``name`` as a data URI."""
        data = self.content(name)
        return gif_uri(data) if data.startswith(b"GIF8") else data_uri(data)

    def with_aspect(self, name: str) -> tuple[str, float]:
        """Return the picture called ``name`` as a data URI, and its height over its width."""
        height, width = read_rgba(member_of(self.folder, name)).shape[:2]
        return self.uri(name), height / width


def is_animated(figure: Figure) -> bool:
    """Return whether ``figure`` shows an animation."""
    return isinstance(figure, Pictures) and any(
        picture.file.endswith(".gif") for row in figure.rows for picture in row
    )


def first_frame(gif: bytes) -> bytes:
    """Return the first frame of the animation ``gif`` as PNG bytes, as print shows it."""
    return png_bytes(lay_on_white(decode_rgba(gif, "an animation")))


def figure_markup(figure: Figure, pictures: RunPictures) -> Markup | None:
    """Return ``figure`` as SVG; None for a table and for an animation.

    Args:
        figure: The figure.
        pictures: Pictures of the run.

    Raises:
        DataError: A picture is missing.
    """
    if isinstance(figure, Table) or is_animated(figure):
        return None
    if isinstance(figure, Chart):
        return chart_svg(figure)
    if isinstance(figure, Matrix):
        return matrix_svg(figure)
    if isinstance(figure, Plane):
        return plane_svg(figure, pictures.uri)
    return pictures_svg(figure, pictures.with_aspect)


def write_figure(figure: Figure, pictures: RunPictures, folder: Path) -> list[Path]:
    """Write the files of ``figure`` into ``folder``: SVG and PNG, the GIF of an animation, and CSV
    with its numbers.

    Args:
        figure: The figure.
        pictures: Pictures of the run.
        folder: Folder to write into.

    Returns:
        The files.

    Raises:
        DataError: A picture is missing.
        OSError: A file cannot be written.
    """
    written = []
    drawing = figure_markup(figure, pictures)
    if drawing is not None:
        svg = standalone_svg(drawing)
        written.append(write_text(folder / f"{figure.name}.svg", svg))
        written.append(write_bytes(folder / f"{figure.name}.png", rasterize_figure(svg)))
    elif isinstance(figure, Pictures):
        names = [picture.file for row in figure.rows for picture in row]
        written += [write_bytes(folder / Path(name).name, pictures.content(name)) for name in names]
    table = figure_csv(figure)
    if table:
        written.append(write_text(folder / f"{figure.name}.csv", table))
    return written


def rasterize_figure(svg: str, width_px: int = PNG_WIDTH) -> bytes:
    """Return the PNG of a figure that this program drew.

    Text is set in DejaVu Sans, whatever fonts the system has.

    Args:
        svg: The figure, as :func:`~physadv.report.plots.standalone_svg` returns it.
        width_px: Width in px.

    Raises:
        ImageError: Memory does not hold the drawing.
    """
    return drawn_elsewhere(
        figure_drawing,
        "resvg_py",
        svg.encode("utf-8", "replace"),
        str(int(width_px)),
        figure_font(),
        name="a figure",
    )


@cache
def figure_font() -> str:
    """Return the file of the font of figures, DejaVu Sans, which ziamath's package brings; it has
    Greek letters and mathematical signs."""
    with as_file(files("ziafont") / "fonts" / "DejaVuSans.ttf") as file:
        return str(file)


def figure_csv(figure: Figure) -> str:
    """Return the numbers of ``figure`` as CSV; empty where it has none.

    Args:
        figure: The figure.
    """
    writers: dict[type, Callable[[], list[list[object]]]] = {
        Chart: lambda: _chart_lines(figure),  # type: ignore[arg-type]
        Matrix: lambda: _matrix_lines(figure),  # type: ignore[arg-type]
        Plane: lambda: _plane_lines(figure),  # type: ignore[arg-type]
        Table: lambda: [list(figure.columns), *map(list, figure.rows)],  # type: ignore[union-attr]
    }
    if type(figure) not in writers:
        return ""
    stream = io.StringIO()
    cells = [[spreadsheet_cell(cell) for cell in row] for row in writers[type(figure)]()]
    csv.writer(stream, lineterminator="\n").writerows(cells)
    return stream.getvalue()


def _chart_lines(chart: Chart) -> list[list[object]]:
    heading: list[object] = ["series", "source", chart.x.label, chart.y.label, "low", "high"]
    return [
        heading,
        *(
            [series.label, series.source, point.x, point.y, _cell(point.low), _cell(point.high)]
            for series in chart.series
            for point in series.points
        ),
    ]


def _matrix_lines(matrix: Matrix) -> list[list[object]]:
    rows = zip(matrix.rows, matrix.values, strict=True)
    return [["", *matrix.columns], *([name, *map(_cell, values)] for name, values in rows)]


def _plane_lines(plane: Plane) -> list[list[object]]:
    heading: list[object] = ["shape", "source", plane.x.label, plane.y.label]
    return [
        heading,
        *([s.label, s.source, x, y] for s in plane.shapes for x, y in s.points),
    ]


def _cell(value: float | None) -> object:
    return "" if value is None else value
