"""Archives, arrays, tensors and graphs that lie about their size are refused before it is taken."""

from __future__ import annotations

import gzip
import io
import json
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from physadv.core.archive_files import gunzip, open_zip, read_member
from physadv.core.array_files import parse_npy, read_npz
from physadv.core.errors import DataError, ModelError, OptionError, PhysadvError
from physadv.core.reading import MAX_ARRAY_BYTES, foreign_errors
from physadv.core.tensor_files import read_tensors, write_tensors
from physadv.datasets.arrays import parse_idx
from physadv.datasets.file_access import open_file_source
from physadv.models.architectures.dlib_resnet import _tensors
from physadv.models.onnx_file import read_onnx
from physadv.printing.icc import PressProfile

ZEROS = bytes(1 << 20)


def zipped(
    members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED, repeat: int = 1
) -> bytes:
    """A zip archive; each member holds its content ``repeat`` times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in members.items():
            with archive.open(name, "w", force_zip64=True) as stream:
                for _ in range(repeat):
                    stream.write(content)
    return buffer.getvalue()


def npy(header: str, content: bytes = b"", version: bytes = b"\1\0") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + content


def head(shape: str, dtype: str = "|u1") -> str:
    return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"


def tensors(header: object, content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def field(number: int, content: bytes) -> bytes:
    """A field with a length of a Protocol Buffers message."""
    length, size = bytearray(), len(content)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes([*length, size]) + content


def patched_sizes(data: bytes, old: int, new: int) -> bytes:
    return data.replace(struct.pack("<I", old), struct.pack("<I", new))


GIGABYTE = zipped({"a.npy": ZEROS}, repeat=1024)
ENCRYPTED = zipped({"a.png": b"x"}).replace(b"PK\1\2\x2d\x00\x2d\x00\x00", b"PK\1\2\x2d\0\x2d\0\1")
TWICE = zipped({"a.npy": b"1", "b.npy": b"2"}).replace(b"b.npy", b"a.npy")
WEIGHT = field(
    5, b"\x08\x01" * 3 + b"\x08\x40" + b"\x10\x01" + field(8, b"w") + field(9, bytes(256))
)
CONV = field(1, field(4, b"Conv") + field(1, b"x") + field(1, b"w"))
NEGATIVE = {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}
FAR = {"a": {"dtype": "F32", "shape": [2**61], "data_offsets": [0, 2**63]}}
DLIB = b"\x01\x07affine_" + b"\x01\x02" + b"\x04\xff\xff\xff\x7f" * 4


def write(folder: Path, data: bytes) -> Path:
    (folder / "a.safetensors").write_bytes(data)
    return folder / "a.safetensors"


def images_in(data: bytes, folder: Path) -> object:
    (folder / "set.zip").write_bytes(data)
    source = open_file_source(folder / "set.zip")
    return [source.image(name) for name in source.names]


Read = Callable[[bytes, Path], object]
NPZ: Read = lambda data, _: read_npz(data, "a.npz")  # noqa: E731
NPY: Read = lambda data, _: parse_npy(data, "a.npy")  # noqa: E731
IDX: Read = lambda data, _: parse_idx(data, "a.idx", 3)  # noqa: E731
TENSORS: Read = lambda data, folder: read_tensors(write(folder, data))  # noqa: E731
ONNX: Read = lambda data, folder: read_onnx(write(folder, data))  # noqa: E731
DLIB_FILE: Read = lambda data, folder: _tensors(write(folder, data))  # noqa: E731
PROFILE: Read = lambda data, folder: PressProfile(write(folder, data))  # noqa: E731

BOMBS: dict[str, tuple[Read, bytes, str]] = {
    "a zip of a gigabyte of zeros": (NPZ, GIGABYTE, "would unpack to 1.07 GB: a bomb"),
    "an image of a gigabyte in a zip": (
        images_in,
        GIGABYTE.replace(b"a.npy", b"a.png"),
        "it holds 1.07 GB|a bomb",
    ),
    "a member that states fewer bytes": (
        NPZ,
        patched_sizes(zipped({"a.npy": ZEROS}), len(ZEROS), 100),
        "cannot be unpacked|not a readable",
    ),
    "a member that states more bytes": (
        NPZ,
        patched_sizes(zipped({"a.npy": ZEROS}), len(ZEROS), 2**32 - 2),
        "a bomb|cannot be unpacked",
    ),
    "two members of one name": (NPZ, TWICE, "1 names occur twice"),
    "a member packed by bzip2": (NPZ, zipped({"a.npy": ZEROS}, zipfile.ZIP_BZIP2), "is not read"),
    "a member packed by LZMA": (NPZ, zipped({"a.npy": ZEROS}, zipfile.ZIP_LZMA), "is not read"),
    "an encrypted member": (images_in, ENCRYPTED, "encrypted|not a readable"),
    "a zip in a zip": (NPZ, zipped({"a.npz": GIGABYTE}), "not a readable array"),
    "a torn zip": (NPZ, GIGABYTE[:-10], "not a readable zip"),
    "no zip": (NPZ, b"junk", "not a readable zip"),
    "an array of 10^18 numbers": (NPY, npy(head("(1000000000, 1000000000)")), "10{18} bytes"),
    "a shape that overflows": (NPY, npy(head("(9223372036854775807, 4)")), "it holds 0"),
    "a negative shape": (NPY, npy(head("(-1, -1)"), b"1"), "announces shape"),
    "a shape of nothing, without end": (NPY, npy(head(f"(0, {'9' * 30})")), "announces|array"),
    "a shape of many axes": (NPY, npy(head("(" + "1," * 60 + ")"), b"1"), "announces shape"),
    "a shape of fractions": (NPY, npy(head("(1.5,)"), b"1"), "not a readable array"),
    "an array of objects": (NPY, npy(head("(1,)", "|O"), b"cos\nsystem\n."), "array of object"),
    "an array of records": (NPY, npy(head("(1,)", "V8"), bytes(7)), "announces shape"),
    "names of a gigabyte": (NPY, npy(head("(1,)", "<U268435456"), b"1"), "announces shape"),
    "a header that is a program": (NPY, npy("__import__('os').abort()"), "not a readable array"),
    "a header of brackets": (NPY, npy("(" * 60_000), "not a readable array"),
    "a later version": (NPY, npy(head("(1,)"), b"1", b"\3\0"), "version 3"),
    "an idx file of 2^96 bytes": (IDX, b"\0\0\x08\x03" + b"\xff" * 12 + b"x", "holds 1 of 79228"),
    "an idx file of gigabytes": (
        IDX,
        gzip.compress(b"\0\0\x08\x03" + b"\0\0\xff\xff" * 3) + gzip.compress(ZEROS) * 300,
        "a bomb|holds",
    ),
    "gzip cut off": (IDX, gzip.compress(ZEROS)[:-9], "it ends too early"),
    "gzip of a torn second part": (IDX, gzip.compress(b"a") + b"\x1f\x8b\x08junk", "unpacked"),
    "tensors with a header of 2^63 bytes": (TENSORS, b"\xff" * 7 + b"\x7f", "its header: it holds"),
    "tensors with a negative shape": (TENSORS, tensors(NEGATIVE, bytes(4)), "not readable as"),
    "tensors far beyond the file": (TENSORS, tensors(FAR), "not readable as"),
    "tensors named in no JSON": (TENSORS, struct.pack("<Q", 4) + b"\xff{}\n", "not readable as"),
    "tensors of an empty file": (TENSORS, b"", "not readable as"),
    "a header of 10,000 brackets": (TENSORS, tensors("[" * 10_000), "not readable as"),
    "a graph that shares a weight without end": (
        ONNX,
        field(7, WEIGHT + CONV * 2000),
        "share their weights",
    ),
    "a graph cut off": (ONNX, field(7, WEIGHT)[:-1], "it ends too early"),
    "a graph of names that are no text": (ONNX, field(7, field(1, field(4, b"\xff"))), "ONNX"),
    "dlib's tensor of 2^124 numbers": (DLIB_FILE, DLIB, "broken or of another version"),
    "dlib's tensor cut off": (DLIB_FILE, DLIB[:12], "broken or of another version"),
    "a profile of brackets": (PROFILE, b"(" * 200, "not an ICC profile"),
    "a profile of lying tables": (
        PROFILE,
        bytes(12) + b"prtrCMYK" + bytes(16) + b"acsp" + bytes(88) + b"\xff" * 200,
        "not a readable ICC profile",
    ),
}


@pytest.mark.parametrize(("read", "data", "said"), BOMBS.values(), ids=BOMBS.keys())
def test_what_lies_about_its_size_is_one_error(
    tmp_path: Path, read: Read, data: bytes, said: str
) -> None:
    """One error of the toolkit in one line, and no memory for what is announced."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PhysadvError, match=said) as caught:
        read(data, tmp_path)
    assert isinstance(caught.value, DataError | ModelError | OptionError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


def test_sound_files_are_read_as_numpy_reads_them() -> None:
    """Every kind of plain number, names, and both orders of axes, packed or not."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "u1": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "names": np.array(["stop", "yield"]),
        "bytes": np.array([b"stop"]),
        "flags": np.array([True, False]),
        "one": np.array(3.5),
        "empty": np.zeros((0, 3)),
    }
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **arrays)  # type: ignore[arg-type]
        read = read_npz(buffer.getvalue(), "a.npz")
        assert read.keys() == arrays.keys()
        for key, value in arrays.items():
            np.testing.assert_array_equal(read[key], value)


def test_members_of_a_gigabyte_that_are_no_bomb_are_within_the_budget() -> None:
    """The budget counts what a file really holds; noise does not shrink."""
    noise = np.random.default_rng(0).bytes(1 << 20)
    with open_zip(zipped({"a": noise}), "a.zip") as archive:
        assert read_member(archive, "a", "a.zip: a", most_bytes=1 << 20) == noise
        with pytest.raises(DataError, match=r"it holds 1\.05 MB, over 1\.05 MB|over 1 MB"):
            read_member(archive, "a", "a.zip: a", most_bytes=10**6)
    assert gunzip(gzip.compress(noise) * 2 + bytes(9), "a.gz", most_bytes=1 << 22) == noise * 2
    assert MAX_ARRAY_BYTES > 1 << 33


def test_a_device_is_no_weights(tmp_path: Path) -> None:
    """Neither a missing file nor a device is opened."""
    with pytest.raises(ModelError, match="no such file"):
        read_tensors("/dev/zero")
    file = write_tensors(tmp_path / "a.safetensors", {"w": torch.ones(2)}, {"by": "me"})
    assert read_tensors(file)[1] == {"by": "me"}


@pytest.mark.parametrize(
    "fault",
    [MemoryError(), RecursionError("deep"), OverflowError("far"), struct.error("x"), KeyError(1)],
    ids=lambda fault: type(fault).__name__,
)
def test_whatever_a_library_raises_is_one_error(fault: Exception) -> None:
    with (
        pytest.raises(DataError, match=r"a\.bin: not readable"),
        foreign_errors("a.bin", DataError, "not readable"),
    ):
        raise fault
