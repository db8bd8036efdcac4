"""Raw rows as JSON lines, one outcome a line, flushed as they come; tables are recomputed from
them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from physadv.core.errors import DataError, OptionError
from physadv.core.files import (
    atomic_path,
    force_folder_to_disk,
    make_folder,
    name_full_disk,
    refuse_unless_file,
    write_text,
)
from physadv.core.members import member_of
from physadv.core.parsing import parse_json
from physadv.core.text import MOST_TEXT_BYTES, read_text

Row = dict[str, Any]
_PIECE = 1 << 16


def append_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Append ``rows`` to the file at ``path`` and force them to disk, so that they survive a kill.

    A last line that an earlier kill left half-written is cut off first. Where the disk does not
    take all rows, it keeps none of them.

    Args:
        path: File of JSON lines, made where it is missing.
        rows: Rows to append.

    Raises:
        OptionError: Something that is no file stands at ``path``.
        OSError: The disk does not take them.
    """
    target = Path(path)
    data = "".join(json.dumps(row, default=float) + "\n" for row in rows).encode()
    is_new = refuse_unless_file(target) is None
    make_folder(target.parent)
    if not is_new:
        mend_last_row(target)
    with target.open("ab", buffering=0) as stream:
        length = stream.seek(0, os.SEEK_END)
        try:
            _write_all(stream, data)
            os.fsync(stream.fileno())
        except OSError as error:
            with suppress(OSError):
                stream.truncate(length)
            name_full_disk(error, path)
            raise
    if is_new:
        force_folder_to_disk(target.parent)


def _leave_other_names(path: Path) -> None:
    """Give the file at ``path`` bytes of its own where it is hard-linked.

    A copy of the folder made with hard links, as backups are, and a stranger's link to a file
    elsewhere stay as they are.
    """
    if path.stat().st_nlink > 1:
        with atomic_path(path) as copy:
            shutil.copyfile(path, copy)


def _write_all(stream: FileIO, data: bytes) -> None:
    """Write ``data``; a system call may take a part of it only."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]


def replace_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write ``rows`` in place of those in the file at ``path``, atomically: a kill leaves the old
    ones or the new ones."""
    write_text(path, "".join(json.dumps(row, default=float) + "\n" for row in rows))


def mend_last_row(path: str | Path) -> None:
    """Cut off the last line of the file at ``path`` where a kill left it half-written, or the next
    row would be glued to it; a whole line that only lacks its end gets it.

    Raises:
        OptionError: A link, a device or a pipe stands there; what it leads to stays as it is.
        DataError: Its last line is longer than any file of text may be.
    """
    member_of(Path(path).parent, Path(path).name, error=OptionError)
    _leave_other_names(Path(path))
    with Path(path).open("r+b") as stream:
        size = end = stream.seek(0, os.SEEK_END)
        while end:
            if size - end > MOST_TEXT_BYTES:
                raise DataError(f"'{path}'", "its last line has no end", "Remove it and run again")
            begin = max(0, end - _PIECE)
            stream.seek(begin)
            whole = stream.read(end - begin).rfind(b"\n") + 1
            if whole:
                end = begin + whole
                break
            end = begin
        if end == size:
            return

        stream.seek(end)
        if _is_row(stream.read()):
            stream.write(b"\n")
        else:
            stream.truncate(end)


def _is_row(line: bytes) -> bool:
    try:
        parse_json(line.decode(), "row", finite=False)
    except (DataError, UnicodeDecodeError):
        return False
    return True


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
