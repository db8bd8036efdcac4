"""Tables of users' CSV files, whatever program wrote them: encoding, delimiter and names of columns
are recognized, and each row knows its line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from physadv.core.errors import DataError
from physadv.core.text import MOST_TEXT_BYTES, DecodedText, decode_text, read_file

_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class CsvRow:
    """One row of a CSV file: where it stands, as "FILE:LINE", and its cells by column."""

    where: str
    cells: Mapping[str, str]


@dataclass(frozen=True)
class CsvTable:
    """The rows of a CSV file, and notes on how they were read."""

    rows: tuple[CsvRow, ...]
    notes: tuple[str, ...] = ()


def read_csv(path: Path, columns: Mapping[str, Sequence[str]]) -> CsvTable:
    """Read a CSV file of UTF-8, UTF-16 or Windows-1252, with commas, semicolons, tabs or bars.

    Args:
        path: The file.
        columns: The needed columns, each with the other names that it may have in the file. Case
            and spaces in the header do not count; further columns keep their own names.

    Returns:
        The rows that are not empty. A comma as decimal sign is a point in them.

    Raises:
        DataError: The file cannot be read, is no CSV, lacks a column, or has a row whose cells are
            more or fewer than the header's; the error names the line.
    """
    decoded = _decoded(path, MOST_TEXT_BYTES)
    guessed = f"{path.name} is no UTF-8: read as Windows-1252"
    return parse_csv(decoded.text, str(path), columns, notes=(guessed,) if decoded.is_guess else ())


def read_csv_columns(
    path: Path,
    columns: Mapping[str, Sequence[str]],
    *,
    optional: Mapping[str, Sequence[str]] | None = None,
    headerless: Callable[[str], bool] | None = None,
    most_bytes: int = MOST_TEXT_BYTES,
) -> dict[str, list[str]]:
    """Read some columns of a CSV file of millions of rows, in any dialect of :func:`read_csv`.

    Equal cells are one text in memory, but for the first column, which names the row.

    Args:
        path: The file.
        columns: The needed columns, each with the other names that it may have in the file.
        optional: Columns that are read where they are there.
        headerless: Whether the first cell of the file is one of data: the needed columns then stand
            in their order.
        most_bytes: Largest size of the file.

    Returns:
        Cells by column, stripped.

    Raises:
        DataError: The file cannot be read, is no CSV, lacks a column, or has a row whose cells are
            more or fewer than the header's; the error names the line.
    """
    reader = _Reader(_decoded(path, most_bytes).text, str(path), columns)
    with reader.errors():
        header = [cell.strip() for cell in next(row for row in reader.rows if any(row))]
        rows: Iterable[list[str]] = reader.rows
        if headerless is not None and headerless(header[0]):
            rows, header = chain([header], reader.rows), list(columns)
        named = list(_named(str(path), header, columns))
        for name, others in (optional or {}).items():
            found = next((each for each in (name, *others) if each in named), None)
            if found is not None:
                named[named.index(found)] = name

        asked = [name for name in (*columns, *(optional or {})) if name in named]
        table: dict[str, list[str]] = {name: [] for name in asked}
        places = [(table[name], named.index(name)) for name in asked]
        known: dict[str, str] = {}
        for row in rows:
            if cells := reader.fitted(row, len(named)):
                for number, (column, place) in enumerate(places):
                    cell = cells[place].strip()
                    column.append(known.setdefault(cell, cell) if number else cell)
        return table


def parse_csv(
    text: str, path: str, columns: Mapping[str, Sequence[str]], *, notes: tuple[str, ...] = ()
) -> CsvTable:
    """Parse the text of a CSV file, as :func:`read_csv` does.

    Args:
        text: The text.
        path: Name of the file, for errors.
        columns: The needed columns, each with the other names that it may have in the file.
        notes: Notes on how the file was read so far.

    Returns:
        The rows that are not empty.

    Raises:
        DataError: The text is no CSV, lacks a column, or has a row whose cells are more or fewer
            than the header's.

    Example:
        >>> parse_csv("file;x0\\na.png;1,5", "boxes.csv", {"file": (), "x0": ()}).rows[0].cells
        {'file': 'a.png', 'x0': '1.5'}
    """
    reader = _Reader(text, path, columns)
    with reader.errors():
        header = _named(path, next(reader.rows), columns)
        rows = []
        for row in reader.rows:
            cells = reader.fitted(row, len(header))
            if not cells:
                continue
            if reader.delimiter != ",":
                cells = [re.sub(r"^\s*([+-]?\d+),(\d+)\s*$", r"\1.\2", cell) for cell in cells]
            stripped = (cell.strip() for cell in cells)
            rows.append(CsvRow(reader.where, dict(zip(header, stripped, strict=True))))
        return CsvTable(tuple(rows), notes)


def _decoded(path: Path, most_bytes: int) -> DecodedText:
    """The text of a CSV file, refused where it is a workbook."""
    data = read_file(path, most_bytes=most_bytes)
    if data.startswith(b"PK\x03\x04"):
        raise DataError(f"'{path}'", "is a workbook, not CSV", "Save it as 'CSV UTF-8'")
    return decode_text(data, path, guess=True, remedy="Save it as 'CSV UTF-8'")


class _Reader:
    """Rows of a CSV text in the dialect that its first lines show.

    Args:
        text: The text.
        path: Name of the file, for errors.
        columns: Names of the needed columns, for errors.

    Attributes:
        rows: The rows, header included.
        delimiter: What stands between two cells.
    """

    def __init__(self, text: str, path: str, columns: Iterable[str]) -> None:
        stream = io.StringIO(text, newline="")
        first = stream.readline()
        self._path, self._above = path, 0
        self.delimiter = ""
        if first.lower().startswith("sep="):  # Excel's own first line
            self.delimiter, self._above = first[4:5].strip("\r\n\"' ") or ",", 1
        else:
            stream.seek(0)
        begin = stream.tell()
        first = next((line for line in stream if line.strip()), "")
        stream.seek(begin)
        if not first:
            raise DataError(f"'{path}' is empty", f"It needs the columns {', '.join(columns)}")
        self.delimiter = self.delimiter or max(_DELIMITERS, key=first.count)
        self.rows = csv.reader(stream, delimiter=self.delimiter, strict=True)

    @property
    def where(self) -> str:
        """File and line of the row that was read last."""
        return f"{self._path}:{self.rows.line_num + self._above}"

    def fitted(self, cells: list[str], width: int) -> list[str]:
        """Return a row of ``width`` cells, without empty ones beyond them; none for an empty
        row."""
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        if not any(cell.strip() for cell in cells):
            return []
        if len(cells) != width:
            counts = f"{len(cells)} cells under {width} columns"
            raise DataError(f"'{self.where}'", counts, "Quote cells that hold a delimiter")
        return cells

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise DataError for what the reader raises within."""
        try:
            yield
        except (csv.Error, StopIteration, TypeError, ValueError) as error:
            limit = f"it is no valid CSV ({error})"
            raise DataError(f"'{self._path}'", limit, "Save it again") from error


def _shown(header: Sequence[str]) -> str:
    """The first columns of a file, for errors."""
    return ", ".join(cell.strip()[:30] for cell in header[:6] if cell.strip()) or "none"


def _named(path: str, header: Sequence[str], columns: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return the header with the needed columns under their own names."""
    plain = [cell.strip().lower() for cell in header]
    while plain and not plain[-1]:
        plain.pop()

    for name, others in columns.items():
        found = next((each for each in (name, *others) if each in plain), None)
        if found is None:
            raise DataError(
                f"'{path}' lacks the column {name}",
                f"It needs the columns {', '.join(columns)}, and has {_shown(header)}",
                "Add a header line, or rename one",
            )
        plain[plain.index(found)] = name
    if twice := next((name for name in plain if plain.count(name) > 1), ""):
        raise DataError(f"'{path}' has the column {twice} twice", "Each counts once", "Rename one")
    return plain
