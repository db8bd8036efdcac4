"""Figures and tables of a report page as files: SVG, PNG and PDF; CSV, LaTeX and Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from markupsafe import Markup

from physadv.core.errors import OptionError
from physadv.core.files import make_folder, write_bytes, write_text
from physadv.core.visible_text import markdown_cell, spreadsheet_cell
from physadv.report.figure_files import rasterize_figure
from physadv.report.figure_pdf import figure_pdf
from physadv.report.plots import standalone_svg

FIGURE_FORMS = ("svg", "pdf", "png")
TABLE_FORMS = ("csv", "latex", "markdown")
_SUFFIXES = {"latex": "tex", "markdown": "md"}
_PDF_WIDTH_PT = 340.0
"""Width of a figure on its PDF page: 12 cm, the width of a column of text."""
_BLANK = re.compile(r"\s+")
_NUMBER = re.compile(r"[-+±–]?\s*[\d,.]*(\s|$)")
"""How a cell that is a number begins: also one with its unit or interval, or a dash."""


@dataclass(frozen=True)
class PageTable:
    """A table of a page.

    Attributes:
        name: Name for its file, made of the heading above it.
        rows: Its cells as text, headings first; all rows are equally long.
        headed: Whether the first row holds headings; lists of settings have none.
    """

    name: str
    rows: Sequence[Sequence[str]]
    headed: bool = True

    @property
    def numbers(self) -> list[bool]:
        """Whether each column holds numbers below its heading."""
        cells = self.rows[1:] if self.headed else self.rows
        return [
            bool(cells) and all(_NUMBER.match(row[k]) for row in cells)
            for k in range(len(self.rows[0]))
        ]


def parse_forms(text: str, known: Sequence[str], option: str) -> list[str]:
    """Return the file forms that ``text`` lists with commas.

    Args:
        text: As in ``svg,png``.
        known: Forms that there are.
        option: Name of the option, for the error.

    Raises:
        OptionError: A form is not known.
    """
    forms = [word.strip().lower() for word in text.split(",") if word.strip()]
    for form in forms:
        if form not in known:
            raise OptionError(f'{option} "{form}"', f"Forms are {', '.join(known)}", "Name these")
    return forms


def export_figures(page: str, folder: Path, forms: Iterable[str]) -> list[Path]:
    """Write each chart of ``page`` into ``folder``.

    Args:
        page: HTML of a report that this program made.
        folder: Folder to write into.
        forms: Of svg, pdf and png. A PDF holds the chart as lines and text, 12 cm wide.

    Returns:
        The files.
    """
    written = []
    for name, drawing in _charts(page):
        svg = standalone_svg(Markup(drawing))
        for form in forms:
            content = _FIGURE_WRITERS[form](svg)
            written.append(write_bytes(make_folder(folder) / f"{name}.{form}", content))
    return written


_FIGURE_WRITERS: dict[str, Callable[[str], bytes]] = {
    "svg": str.encode,
    "pdf": lambda svg: figure_pdf(svg, _PDF_WIDTH_PT),
    "png": rasterize_figure,
}


def export_tables(page: str, folder: Path, forms: Iterable[str]) -> list[Path]:
    """Write each table of ``page`` into ``folder``.

    Args:
        page: HTML of a report that this program made.
        folder: Folder to write into.
        forms: Of csv, latex and markdown.

    Returns:
        The files.
    """
    written = []
    for table in page_tables(page):
        for form in forms:
            file = make_folder(folder) / f"{table.name}.{_SUFFIXES.get(form, form)}"
            written.append(write_text(file, _TABLE_WRITERS[form](table)))
    return written


def page_tables(page: str) -> list[PageTable]:
    """Return the tables of ``page``, HTML of a report that this program made."""
    reader = _TableReader()
    reader.feed(page)
    names: dict[str, int] = {}
    return [
        PageTable(_unique(name, names), _even(rows), headed)
        for name, rows, headed in reader.tables
        if rows
    ]


def _charts(page: str) -> list[tuple[str, str]]:
    """Each chart's name, made of its description, and its markup."""
    names: dict[str, int] = {}
    found = []
    for match in re.finditer(r"<svg\b[^>]*?aria-label=\"([^\"]*)\".*?</svg>", page, re.DOTALL):
        found.append((_unique(_file_name(match[1]), names), match[0]))
    return found


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}-{taken[name]}"


def _file_name(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:60].strip("-") or "table"


def _even(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    width = max(map(len, rows))
    return [[*row, *[""] * (width - len(row))] for row in rows]


class _TableReader(HTMLParser):
    """Cells of every table as text, under the last heading before it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[tuple[str, list[list[str]], bool]] = []
        self._heading, self._words = "", [""]
        self._cell = self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a table, a row, a cell or a heading."""
        if tag == "table":
            listed = "facts" in (dict(attrs).get("class") or "").split()
            self.tables.append((_file_name(self._heading), [], not listed))
        elif tag == "tr" and self.tables:
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self._cell, self._words = True, []
        elif tag in ("h1", "h2", "h3"):
            self._in_heading, self._words = True, []
        elif tag in ("small", "br", "div") and self._cell:
            self._words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        """End a cell or a heading."""
        text = _BLANK.sub(" ", "".join(self._words)).strip()
        if tag in ("td", "th") and self._cell:
            self._cell = False
            self.tables[-1][1][-1].append(text)
        elif tag in ("h1", "h2", "h3"):
            self._in_heading, self._heading = False, text

    def handle_data(self, data: str) -> None:
        """Take text of a cell or a heading."""
        if self._cell or self._in_heading:
            self._words.append(data)


def _as_csv(table: PageTable) -> str:
    stream = io.StringIO()
    cells = [[spreadsheet_cell(cell) for cell in row] for row in table.rows]
    csv.writer(stream, lineterminator="\n").writerows(cells)
    return stream.getvalue()


def _as_markdown(table: PageTable) -> str:
    width = len(table.rows[0])
    rows = table.rows if table.headed else [[""] * width, *table.rows]
    lines = ["| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * width, *lines[1:]]) + "\n"


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
}


def _as_latex(table: PageTable) -> str:
    """A tabular; needs no package."""
    lines = [
        " & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in row) + r" \\"
        for row in table.rows
    ]
    columns = "".join("r" if number else "l" for number in table.numbers)
    if table.headed:
        lines.insert(1, r"\hline")
    head = [f"\\begin{{tabular}}{{{columns}}}", r"\hline"]
    return "\n".join([*head, *lines, r"\hline", r"\end{tabular}"]) + "\n"


_TABLE_WRITERS = {"csv": _as_csv, "latex": _as_latex, "markdown": _as_markdown}
