"""Arrow and Parquet files of others, read by pyarrow within budgets: a column whole, a row alone.

Arrow files may be IPC files or streams. A part of rows is checked in full before anything of it is
used: Arrow trusts offsets that a damaged file may state.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from physadv.core.errors import DataError
from physadv.core.reading import assert_bytes, foreign_errors

_DAMAGED = "no readable Arrow or Parquet file"
_MOST_PART_BYTES = 4 << 30
"""Most bytes of a row group or record batch, unpacked, of which one is held in memory."""
_MOST_PARTS = 1_000_000
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
"""What every writer of an Arrow stream ends it with."""


def import_pyarrow(name: str) -> ModuleType:
    """Return pyarrow. Raises DataError, for the file ``name``, where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"{name}", "Arrow and Parquet need the package pyarrow", "pip install 'physadv[arrow]'"
        ) from error
    return pyarrow  # type: ignore[no-any-return]


class ColumnarFile:
    """One Arrow or Parquet file: columns are read whole, and rows one part of the file at a time.

    Args:
        path: The file.

    Raises:
        DataError: It cannot be read, or pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._pyarrow = import_pyarrow(self.name)
        self._lock = Lock()  # images are decoded by several threads
        self._held: tuple[int, str, Any] | None = None
        with foreign_errors(self.name, DataError, _DAMAGED):
            self._open()
            self.names = [str(n) for n in self.schema.names]  # damaged ones fail here
        self.rows = self._ends[-1] if self._ends else 0

    def _open(self) -> None:
        if self.path.suffix.lower() == ".parquet":
            from pyarrow import parquet

            self._file = parquet.ParquetFile(self.path)
            metadata = self._file.metadata
            if metadata.num_row_groups > _MOST_PARTS:
                raise DataError(self.name, f"over {_MOST_PARTS} row groups", "Write it anew")
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            self._ends = list(accumulate(group.num_rows for group in groups))
            self._sizes = [group.total_byte_size for group in groups]
            self.schema = self._file.schema_arrow
            self._batches: list[Any] | None = None
            return
        mapped = self._pyarrow.memory_map(self.name)
        self._batches, self.schema = _arrow_batches(self._pyarrow, mapped)
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))
        self._sizes = [batch.nbytes for batch in self._batches]

    def column(self, name: str) -> list[Any]:
        """Return the values of the column ``name``, such as labels. Raises DataError where it
        cannot be read."""
        with foreign_errors(self.name, DataError, _DAMAGED):
            values: list[Any] = []
            for part in range(len(self._ends)):
                values += self._part(part, name).to_pylist()
            return values

    def value(self, row: int, name: str) -> Any:
        """Return one value of the column ``name``; its part of the file stays in memory. Raises
        DataError where it cannot be read."""
        part = bisect_right(self._ends, row)
        with self._lock, foreign_errors(self.name, DataError, _DAMAGED):
            if self._held is None or self._held[:2] != (part, name):
                self._held = (part, name, self._part(part, name))
            first = self._ends[part - 1] if part else 0
            return self._held[2][row - first].as_py()

    def _part(self, part: int, name: str) -> Any:
        """A column of one part of the file, checked in full."""
        packed = self.path.stat().st_size
        size = self._sizes[part]
        assert_bytes(size, self.name, most=_MOST_PART_BYTES, packed=packed, error=DataError)
        if self._batches is not None:
            column = self._batches[part].column(self.schema.get_field_index(name))
        else:
            table = self._file.read_row_group(part, columns=[name])
            column = table.column(table.schema.get_field_index(name))
        column.validate(full=True)
        return column


def _arrow_batches(pyarrow: ModuleType, mapped: Any) -> tuple[list[Any], Any]:
    """Record batches of an Arrow file or stream, which stay on disk until they are used."""
    from pyarrow import ipc

    packed, is_stream = mapped.size(), False
    try:
        reader = ipc.open_file(mapped)
        count = reader.num_record_batches
        batches = (reader.get_batch(i) for i in range(count))
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        reader = ipc.open_stream(mapped)
        batches, is_stream = iter(reader), True
    found, total = [], 0
    for batch in batches:
        found.append(batch)
        total += batch.nbytes  # more than the file holds where its buffers are compressed
        assert_bytes(total, "Arrow file", most=1 << 44, packed=packed, error=DataError)
        if len(found) > _MOST_PARTS:
            raise DataError("Arrow file", f"over {_MOST_PARTS} record batches", "Write it anew")
    if is_stream:
        _assert_ended(mapped)
    return found, reader.schema


def _assert_ended(mapped: Any) -> None:
    """Refuse a stream that was read up to here and has no end mark: what was cut off is missed by
    nobody else."""
    end = mapped.tell()
    mapped.seek(max(0, end - len(_STREAM_END)))
    if mapped.read(len(_STREAM_END)) != _STREAM_END:
        raise DataError(
            "Arrow stream",
            "ends without its end mark, so that a part may be missing",
            "Copy it anew",
        )
