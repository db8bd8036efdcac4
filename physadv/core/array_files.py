"""NumPy's array files, read within budgets and without ever unpickling."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from physadv.core.archive_files import open_zip, read_member
from physadv.core.errors import DataError, PhysadvError
from physadv.core.reading import MAX_ARRAY_BYTES, assert_bytes, foreign_errors

_PLAIN = "Save plain arrays with numpy.savez"
_MOST_AXES = 8
_LONGEST_HEADER = 1 << 16


def read_npz(
    data: bytes, name: str, *, error: type[PhysadvError] = DataError
) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an npz file.

    Args:
        data: Content of the file.
        name: Name of the file in errors.
        error: Class of the error.

    Returns:
        The arrays by their keys; they share the memory that they were unpacked to.

    Raises:
        PhysadvError: The file is damaged, holds more than the budget or pickled objects, or an
            array's header announces more than there is.

    Example:
        >>> file = io.BytesIO()
        >>> np.savez(file, labels=np.arange(3))
        >>> read_npz(file.getvalue(), "a.npz")["labels"].tolist()
        [0, 1, 2]
    """
    arrays = {}
    with open_zip(data, name, error=error) as archive:
        total = sum(member.file_size for member in archive.infolist())
        assert_bytes(total, name, most=MAX_ARRAY_BYTES, packed=len(data), error=error)
        for member in archive.namelist():
            key = member.removesuffix(".npy")
            if key in arrays:
                raise error(f"{name}: {key}", "Two arrays have this name", _PLAIN)
            arrays[key] = _read_array(archive, member, name, error)
    return arrays


def parse_npy(data: bytes, name: str, *, error: type[PhysadvError] = DataError) -> npt.NDArray[Any]:
    """Return the array that the bytes of an npy file hold.

    Args:
        data: Content of the file.
        name: Name of the file in errors.
        error: Class of the error.

    Returns:
        The array, read-only; it shares the memory of ``data``.

    Raises:
        PhysadvError: The data are damaged, hold objects or records, or not as many numbers as the
            header announces.

    Example:
        >>> file = io.BytesIO()
        >>> np.save(file, np.ones((2, 3), np.uint8))
        >>> parse_npy(file.getvalue(), "a.npy").shape
        (2, 3)
    """
    with foreign_errors(name, error, "not a readable array", _PLAIN):
        stream = io.BytesIO(data)
        version = npy.read_magic(stream)
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in readers:
            raise error(name, f"an array of version {version[0]}.{version[1]}", _PLAIN)
        shape, is_transposed, dtype = readers[version](stream, max_header_size=_LONGEST_HEADER)
        if dtype.kind not in "buifcSUV" or dtype.fields is not None or dtype.hasobject:
            raise error(name, f"an array of {dtype}, not of numbers or names", _PLAIN)

        content = memoryview(data)[stream.tell() :]
        needed = math.prod(shape) * dtype.itemsize
        if len(shape) > _MOST_AXES or min(shape, default=0) < 0 or needed != len(content):
            limit = f"its header announces shape {shape[:_MOST_AXES]}, {needed} bytes"
            raise error(name, f"{limit}; it holds {len(content)}", _PLAIN)
        if dtype.itemsize == 0:
            return np.zeros(shape, dtype)
        flat = np.frombuffer(content, dtype)
        return flat.reshape(shape, order="F" if is_transposed else "C")


def _read_array(
    archive: zipfile.ZipFile, member: str, name: str, error: type[PhysadvError]
) -> npt.NDArray[Any]:
    where = f"{name}: {member}"
    data = read_member(archive, member, where, most_bytes=MAX_ARRAY_BYTES, error=error)
    return parse_npy(data, where, error=error)
