"""CIFAR-10 and CIFAR-100 in their binary version (Krizhevsky 2009), in the order of its files."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from physadv.core.errors import DataError
from physadv.datasets.base import ImageDataset, in_memory
from physadv.datasets.file_access import FileSource
from physadv.datasets.known_sets import known_set
from physadv.datasets.left_out import left_out
from physadv.datasets.parts import ALL, choose_parts, shown_parts
from physadv.datasets.summary import DatasetSummary

_PIXELS = 3 * 32 * 32
_TEN = re.compile(r"(?:(?P<train>data_batch_\d)|(?P<test>test_batch))\.bin")
_HUNDRED = re.compile(r"(?:(?P<train>train)|(?P<test>test))\.bin")
_NAMES_OF_HUNDRED = "fine_label_names.txt"

CifarFiles = dict[str, list[str]]
"""Names of the files by part, in the order of their images."""


def cifar_files(source: FileSource) -> tuple[str, CifarFiles]:
    """Return which CIFAR a source is, and its files by part; empty where it is none.

    Args:
        source: Files of the data set.

    Returns:
        "CIFAR-10" or "CIFAR-100", and the names of its files under "train" and "test".
    """
    hundred = any(PurePosixPath(name).name == _NAMES_OF_HUNDRED for name in source.names)
    pattern = _HUNDRED if hundred else _TEN
    parts: CifarFiles = {}
    for name in source.names:  # sorted, so that data_batch_1 is before data_batch_2
        match = pattern.fullmatch(PurePosixPath(name).name)
        if match:
            parts.setdefault("train" if match["train"] else "test", []).append(name)
    return "CIFAR-100" if hundred else "CIFAR-10", parts


def read_cifar(source: FileSource, split: str | None) -> ImageDataset:
    """Read CIFAR's binary version: labels (of CIFAR-100 the fine ones) and 32x32 images.

    Args:
        source: Files of the data set.
        split: "train", "test", or None for both.

    Returns:
        The images in the order of the files, which is that of every other version of the set.

    Raises:
        DataError: A file is cut off, holds another number of bytes, or the part is not there.
    """
    name, files = cifar_files(source)
    named = {part: part for part in files}
    chosen = choose_parts(named, split, f"{source.path}")
    used = [file for part in chosen for file in files[part]]
    records = [_records(source, file, 1 if name == "CIFAR-10" else 2) for file in used]

    images = np.concatenate([pixels for pixels, _ in records])
    labels = np.concatenate([numbers for _, numbers in records]).astype(np.int64)
    dataset = in_memory(images, labels, known_set(name).classes, source.path.name)
    every = [file for part in files.values() for file in part]
    return dataset.summarized(
        DatasetSummary(
            str(source.path),
            "CIFAR's binary files",
            ALL if len(chosen) > 1 else chosen[0],
            shown_parts(named),
            name,
            left_out(source.litter, source.names, every),
        )
    )


def _records(
    source: FileSource, name: str, label_bytes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images (n, 32, 32, 3) and labels (n,) of one file; the last byte before an image is its
    label."""
    data = np.frombuffer(source.read(name), np.uint8)
    size = label_bytes + _PIXELS
    if not len(data) or len(data) % size:
        raise DataError(
            f"{source.path}: {name}",
            f"holds {len(data)} bytes, which are no whole records of {size}",
            "Unpack the archive again",
        )
    rows = data.reshape(-1, size)
    pixels = rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), rows[:, label_bytes - 1]
