"""Raw rows as JSON lines, one outcome a line, flushed as they come; tables are recomputed from
them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from physadv.core.errors import DataError
from physadv.core.files import write_text
from physadv.core.parsing import parse_json
from physadv.core.text import read_text

Row = dict[str, Any]


def append_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Append ``rows`` to the file at ``path`` and force them to disk, so that they survive a
    kill."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, default=float) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def replace_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write ``rows`` in place of those in the file at ``path``, atomically: a kill leaves the old
    ones or the new ones."""
    write_text(path, "".join(json.dumps(row, default=float) + "\n" for row in rows))


def drop_torn_row(path: str | Path) -> None:
    """Cut off the last line of the file at ``path`` where it was written in part, or the next row
    would be glued to it."""
    with Path(path).open("r+b") as stream:
        written = stream.read()
        stream.truncate(written.rfind(b"\n") + 1)


def read_rows(path: str | Path) -> Iterator[Row]:
    """Yield the rows of the file at ``path``.

    A half-written last line, left by a kill, is skipped. Raises DataError for a missing file and
    any other line that is no JSON object.
    """
    lines = read_text(path, remedy="Remove it and run again").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line, where, finite=False, remedy="Remove the line")
        except DataError:
            if number == len(lines):
                return
            raise
        if not isinstance(row, dict):
            raise DataError(f"'{where}' is no row", "A JSON object is needed", "Remove the line")
        yield row
