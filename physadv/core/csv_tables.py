"""Tables of users' CSV files, whatever program wrote them: encoding, delimiter and names of columns
are recognized, and each row knows its line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from physadv.core.errors import DataError
from physadv.core.text import MOST_TEXT_BYTES, decode_text, read_file

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
    data = read_file(path)
    if data.startswith(b"PK\x03\x04"):
        raise DataError(f"'{path}'", "is a workbook, not CSV", "Save it as 'CSV UTF-8'")
    decoded = decode_text(data, path, guess=True, remedy="Save it as 'CSV UTF-8'")
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

    Equal cells are one text in memory.

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
    data = read_file(path, most_bytes=most_bytes)
    if data.startswith(b"PK\x03\x04"):
        raise DataError(f"'{path}'", "is a workbook, not CSV", "Save it as 'CSV UTF-8'")
    text = decode_text(data, path, guess=True, remedy="Save it as 'CSV UTF-8'").text
    del data
    first = next((line for line in text.splitlines()[:50] if line.strip()), "")
    if not first:
        raise DataError(f"'{path}' is empty", f"It needs the columns {', '.join(columns)}")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(row for row in reader if any(row))]
        rows: Iterable[list[str]] = reader
        if headerless is not None and headerless(header[0]):
            rows, header = chain([header], reader), list(columns)
        named = list(_named(str(path), header, columns))
        for name, others in (optional or {}).items():
            found = next((each for each in (name, *others) if each in named), None)
            if found is not None:
                named[named.index(found)] = name
        asked = [name for name in (*columns, *(optional or {})) if name in named]
        wanted = [(name, named.index(name)) for name in asked]
        return _columns_of(rows, wanted, len(named), f"{path}", reader)
    except (csv.Error, StopIteration, TypeError, ValueError) as error:
        raise DataError(f"'{path}'", f"it is no valid CSV ({error})", "Save it again") from error


def _columns_of(
    rows: Iterable[list[str]],
    wanted: Sequence[tuple[str, int]],
    width: int,
    path: str,
    reader: Any,
) -> dict[str, list[str]]:
    """The wanted cells of all rows, by column."""
    table: dict[str, list[str]] = {name: [] for name, _ in wanted}
    known: dict[str, str] = {}
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != width:
            counts = f"{len(cells)} cells under {width} columns"
            limit = "Quote cells that hold a delimiter"
            raise DataError(f"'{path}:{reader.line_num}'", counts, limit)
        for name, index in wanted:
            cell = cells[index].strip()
            table[name].append(known.setdefault(cell, cell) if name != wanted[0][0] else cell)
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
    lines = text.splitlines(keepends=True)
    first = 1
    delimiter = ""
    if lines and lines[0].lower().startswith("sep="):  # Excel's own first line
        delimiter, first = lines[0][4:5].strip("\r\n\"' ") or ",", 2
        lines = lines[1:]
    if not any(line.strip() for line in lines):
        raise DataError(f"'{path}' is empty", f"It needs the columns {', '.join(columns)}")
    delimiter = delimiter or max(_DELIMITERS, key=lines[0].count)

    reader = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter, strict=True)
    try:
        header = _named(path, next(reader), columns)
        rows = []
        for cells in reader:
            where = f"{path}:{reader.line_num + first - 1}"
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                counts = f"{len(cells)} cells under {len(header)} columns"
                raise DataError(f"'{where}'", counts, "Quote cells that hold a delimiter")
            if delimiter != ",":
                cells = [re.sub(r"^\s*([+-]?\d+),(\d+)\s*$", r"\1.\2", cell) for cell in cells]
            stripped = (cell.strip() for cell in cells)
            rows.append(CsvRow(where, dict(zip(header, stripped, strict=True))))
    except (csv.Error, StopIteration, TypeError, ValueError) as error:
        raise DataError(f"'{path}'", f"it is no valid CSV ({error})", "Save it again") from error
    return CsvTable(tuple(rows), notes)


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
                f"It needs the columns {', '.join(columns)}",
                "Add a header line",
            )
        plain[plain.index(found)] = name
    if twice := next((name for name in plain if plain.count(name) > 1), ""):
        raise DataError(f"'{path}' has the column {twice} twice", "Each counts once", "Rename one")
    return plain
