"""Archives that lie about sizes through zip64's fields are judged by the bytes that there are."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from zip64_files import Zip64Member, zip64

from physadv.core.array_files import read_npz
from physadv.core.errors import DataError, ModelError
from physadv.datasets.read import read_dataset
from physadv.models.exported_archive import vetted_archive


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def sizes(*numbers: int) -> bytes:
    """An extra field of zip64."""
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


PAIR = (Zip64Member("a/0.png", png(10)), Zip64Member("b/0.png", png(20)))
NAME, CONTENT = "b/1.png", png(30)
LIES = {
    "size of 2^63": Zip64Member(NAME, CONTENT, stated=2**63),
    "size of 2^64 - 1": Zip64Member(NAME, CONTENT, stated=2**64 - 1),
    "300 MB of a packed terabyte": Zip64Member(NAME, CONTENT, stated=300 << 20, packed=10**12),
    "300 MB of packed 10 MB": Zip64Member(NAME, CONTENT, stated=300 << 20, packed=10 << 20),
    "fewer than there are": Zip64Member(NAME, bytes(1 << 20), stated=100),
    "begins at 2^62": Zip64Member(NAME, CONTENT, offset=2**62),
    "begins at 2^64 - 1": Zip64Member(NAME, CONTENT, offset=2**64 - 1),
    "begins where another does": Zip64Member(NAME, CONTENT, offset=0),
    "extra field cut off": Zip64Member(NAME, CONTENT, extra=sizes(30, 30, 0)[:-5]),
    "no extra field": Zip64Member(NAME, CONTENT, extra=b""),
    "two extra fields": Zip64Member(NAME, CONTENT, extra=sizes(80, 80, 0) + sizes(2**40, 2**40, 0)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_member_that_lies_by_zip64_is_one_error(tmp_path: Path, lie: str) -> None:
    """Before memory is taken: what it states to take in the archive is no more than there is."""
    (tmp_path / "set.zip").write_bytes(zip64(*PAIR, LIES[lie]))
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            list(read_dataset(tmp_path / "set.zip"))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


ENDS = {
    "count": 2**63,
    "size": 2**62,
    "start": 2**63,
    "end": 2**40,
    "disks": 7,
}


@pytest.mark.parametrize("what", ENDS)
def test_an_archive_whose_end_lies_by_zip64_is_read_or_one_error(tmp_path: Path, what: str) -> None:
    """A count or a place that is not needed may be anything; the images are those that are there,
    or there is an error."""
    (tmp_path / "set.zip").write_bytes(zip64(*PAIR, **{what: ENDS[what]}))
    try:
        levels = [int(image[0, 0, 0]) for image, _ in read_dataset(tmp_path / "set.zip")]
    except DataError:
        return
    assert levels == [10, 20]


def array(values: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def test_zip64_as_large_archives_have_it_is_read(tmp_path: Path) -> None:
    """Images and arrays."""
    (tmp_path / "set.zip").write_bytes(zip64(*PAIR))
    assert [int(image[0, 0, 0]) for image, _ in read_dataset(tmp_path / "set.zip")] == [10, 20]
    data = zip64(Zip64Member("a.npy", array([1, 2])))
    assert read_npz(data, "a.npz")["a"].tolist() == [1, 2]


@pytest.mark.parametrize("count", [1, 40])
def test_arrays_that_lie_by_zip64_are_a_bomb(count: int) -> None:
    """One of 10 GB, or forty of 260 MB, each within its share, in a few hundred bytes."""
    each = (10 << 30) if count == 1 else 260_000_000
    members = [
        Zip64Member(f"{i}.npy", array([i]), stated=each, packed=1 << 30) for i in range(count)
    ]
    with pytest.raises(DataError, match="a bomb"):
        read_npz(zip64(*members), "a.npz")


def test_a_model_that_states_fewer_bytes_takes_no_more(tmp_path: Path) -> None:
    """100 MB of zeros that call themselves 1000 bytes are not unpacked to see that they lie."""
    lying = Zip64Member("m/archive_format", bytes(100 << 20), stated=1000)
    (tmp_path / "model.pt2").write_bytes(zip64(lying))
    tracemalloc.start()
    try:
        with pytest.raises(ModelError):
            vetted_archive(tmp_path / "model.pt2")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
