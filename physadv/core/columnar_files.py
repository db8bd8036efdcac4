"""Arrow and Parquet files of others, read by pyarrow within budgets: a column whole, a row alone.

Arrow files may be IPC files or streams. A part of rows is checked in full before anything of it is
used: Arrow trusts offsets that a damaged file may state.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
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
_MARK = b"ARROW1"
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
"""Kinds of messages in Arrow's flatbuffers."""
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
            self._assert_rows(self._ends[-1] if groups else 0, metadata.num_rows)
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
        # pyarrow gives what a damaged chunk holds: fewer labels would fall to other images.
        self._assert_rows(len(column), self._ends[part] - (self._ends[part - 1] if part else 0))
        return column

    def _assert_rows(self, found: int, stated: int) -> None:
        """Refuse a part, or a file, that holds another number of rows than it states."""
        if found != stated:
            raise DataError(self.name, f"holds {found} of {stated} rows", "Copy it anew")


def _arrow_batches(pyarrow: ModuleType, mapped: Any) -> tuple[list[Any], Any]:
    """Record batches of an Arrow file or stream, which stay on disk until they are used; those
    whose buffers are compressed are unpacked here."""
    from pyarrow import ipc

    # A file is a stream between a mark and a footer, which may point anywhere.
    start = len(_MARK) + 2 if mapped.read(len(_MARK)) == _MARK else 0
    mapped.seek(start)
    announced = 0
    for count, message in enumerate(ipc.MessageReader.open_stream(mapped)):
        announced += unpacked_bytes(message.metadata.to_pybytes(), memoryview(message.body or b""))
        assert_bytes(announced, "Arrow file", most=1 << 44, packed=mapped.size(), error=DataError)
        if count >= _MOST_PARTS:
            raise DataError("Arrow file", f"over {_MOST_PARTS} record batches", "Write it anew")
    mapped.seek(start)
    reader = ipc.open_stream(mapped)
    batches = list(reader)
    _assert_ended(mapped)
    return batches, reader.schema


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


def unpacked_bytes(metadata: bytes, body: memoryview) -> int:
    """Return the bytes that the buffers of an Arrow message take in memory, as they announce.

    Args:
        metadata: The message's flatbuffer.
        body: The message's body, in which a compressed buffer begins with its length unpacked.

    Returns:
        Number of bytes; 0 for a message without buffers.

    Raises:
        struct.error: The message is damaged.
    """
    message = _FlatTable(metadata, struct.unpack_from("<I", metadata)[0])
    kind = message.number(1, "<B")
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return 0
    batch = message.table(2)
    if kind == _DICTIONARY_BATCH and batch is not None:
        batch = batch.table(1)
    if batch is None:
        return 0
    is_compressed, total = batch.table(3) is not None, 0
    for offset, length in batch.pairs(2):
        size = struct.unpack_from("<q", body, offset)[0] if is_compressed and length else -1
        total += max(0, length if size < 0 else size)
    return total


@dataclass(frozen=True)
class _FlatTable:
    """A table at a place of a flatbuffer."""

    data: bytes
    place: int

    def _field(self, number: int) -> int:
        """The place of a field; 0 where the table has none."""
        description = self.place - int(struct.unpack_from("<i", self.data, self.place)[0])
        size = struct.unpack_from("<H", self.data, description)[0]
        at = 4 + 2 * number
        inside = struct.unpack_from("<H", self.data, description + at)[0] if at < size else 0
        return self.place + inside if inside else 0

    def number(self, field: int, form: str) -> int:
        """The number in a field; 0 where there is none."""
        at = self._field(field)
        return int(struct.unpack_from(form, self.data, at)[0]) if at else 0

    def table(self, field: int) -> _FlatTable | None:
        """The table in a field."""
        at = self._field(field)
        if not at:
            return None
        return _FlatTable(self.data, at + int(struct.unpack_from("<I", self.data, at)[0]))

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """The pairs of numbers in a field's vector."""
        vector = self.table(field)
        if vector is not None:
            count = struct.unpack_from("<I", self.data, vector.place)[0]
            for i in range(count):
                yield struct.unpack_from("<qq", self.data, vector.place + 4 + 16 * i)
