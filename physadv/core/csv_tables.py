"""Tables of users' CSV files, whatever program wrote them: encoding, delimiter and names of columns
are recognized, and each row knows its line."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from physadv.core.errors import DataError

_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_DELIMITERS = ",;\t|"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


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
    text, notes = _decode(path)
    lines = text.splitlines(keepends=True)
    first = 1
    delimiter = ""
    if lines and lines[0].lower().startswith("sep="):  # Excel's own first line
        delimiter, first = lines[0][4:5], 2
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
    except csv.Error as error:
        raise DataError(f"'{path}'", f"it is no valid CSV ({error})", "Save it again") from error
    return CsvTable(tuple(rows), notes)


def parse_number(text: str, name: str, where: str) -> float:
    """Return the finite number that a cell holds.

    Args:
        text: The cell.
        name: Its column.
        where: Its place in errors.

    Raises:
        DataError: It holds no number, NaN, or an infinite one.

    Example:
        >>> parse_number(" 12.5", "x0", "boxes.csv:2")
        12.5
    """
    value = float(text) if _NUMBER.fullmatch(text.strip()) else math.nan
    if not math.isfinite(value):
        raise DataError(
            f"'{where}': {name} is {text.strip()[:40]!r}",
            "A finite number is needed",
            "Correct the line",
        )
    return value


def _decode(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the text of a file, and a note where its encoding had to be guessed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"'{path}'", f"cannot be read ({error.strerror})", "Check it") from error
    if data.startswith(b"PK\x03\x04"):
        raise DataError(f"'{path}'", "is a workbook, not CSV", "Save it as 'CSV UTF-8'")

    encodings = [name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)]
    for encoding in encodings or ["utf-8", "cp1252"]:
        try:
            text = data.decode(encoding)
        except UnicodeError:
            continue
        if "\0" not in text:
            guessed = encoding == "cp1252"
            return text, (f"{path.name} is no UTF-8: read as Windows-1252",) if guessed else ()
    raise DataError(
        f"'{path}'", "neither UTF-8 nor Windows-1252 (cp1252) text", "Save it as 'CSV UTF-8'"
    )


def _named(
    path: Path, header: Sequence[str], columns: Mapping[str, Sequence[str]]
) -> Sequence[str]:
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
