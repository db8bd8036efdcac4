"""Arrow files are judged by what their compressed buffers announce, before they are unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from physadv.core.errors import DataError
from physadv.datasets.read import read_dataset

pyarrow = pytest.importorskip("pyarrow")


def written(folder: Path, table: Any, kind: str, compression: str | None) -> Path:
    """A folder with a table as an Arrow file or stream."""
    folder.mkdir()
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    new = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    with (
        pyarrow.OSFile(str(folder / "a.arrow"), "wb") as sink,
        new(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table)
    return folder


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_buffers_of_arrow_are_no_bomb(
    tmp_path: Path, kind: str, compression: str
) -> None:
    """Zeros of 300 MB in some kilobytes are refused, and nothing is allocated for them."""
    column = pyarrow.array([bytes(300 << 20)], pyarrow.large_binary())
    table = pyarrow.table({"image": column, "label": [0]})
    folder = written(tmp_path / "set", table, kind, compression)
    del column, table
    before = pyarrow.default_memory_pool().max_memory()
    with pytest.raises(DataError, match="a bomb"):
        read_dataset(folder)
    assert pyarrow.default_memory_pool().max_memory() <= before
    assert pyarrow.default_memory_pool().bytes_allocated() < 50 << 20


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("compression", ["zstd", "lz4", None])
def test_compressed_tables_are_read(tmp_path: Path, kind: str, compression: str | None) -> None:
    """With names as a dictionary, over several batches."""
    words = pyarrow.array(["a", "b", "a"] * 5).dictionary_encode()
    table = pyarrow.table({"image": [b"x" * 90] * 15, "label": words})
    data = read_dataset(written(tmp_path / "set", table, kind, compression))
    assert data.classes == ("a", "b")
    assert data.labels.tolist() == [0, 1, 0] * 5
