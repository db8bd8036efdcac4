"""Data sets in arrays: idx files, the format of MNIST (LeCun et al. 1998), and npz."""

from __future__ import annotations

import gzip
import io
import re
import struct
import zipfile
from pathlib import PurePosixPath
from typing import Any
from zlib import error as ZlibError

import numpy as np
import numpy.typing as npt

from physadv.core.errors import DataError
from physadv.datasets.base import ImageDataset, in_memory
from physadv.datasets.file_access import FileSource

_IDX = re.compile(
    r"(?P<part>.*?)[-_]?(?P<kind>images|labels)[-.]idx[13][-.]ubyte(\.gz)?$", re.IGNORECASE
)
_IMAGE_KEYS, _LABEL_KEYS = ("images", "x"), ("labels", "y")
_PARTS = {"train": "train", "t10k": "test", "test": "test"}


def idx_files(source: FileSource) -> dict[str, dict[str, str]]:
    """Return the idx files of a source by part and kind.

    Args:
        source: Files of the data set.

    Returns:
        File names by part, then by kind: ``{"train": {"images": name, "labels": name}}``.
    """
    found: dict[str, dict[str, str]] = {}
    for name in source.names:
        match = _IDX.match(PurePosixPath(name).name)
        if match:
            part = match["part"].lower()
            found.setdefault(_PARTS.get(part, part), {})[match["kind"].lower()] = name
    return found


def read_idx(source: FileSource, split: str | None) -> ImageDataset:
    """Read pairs of idx files; classes are named by their number.

    Args:
        source: Files of the data set.
        split: "train", "test", or None for everything.

    Returns:
        The images with their labels.

    Raises:
        DataError: The part is missing, half of a pair is missing, or a file is damaged.
    """
    pairs = idx_files(source)
    wanted = (
        [split] if split in pairs else [] if split is not None and len(pairs) > 1 else sorted(pairs)
    )
    if not wanted:
        raise DataError(
            f"{source.path}", f"has no {split} part", f"parts there: {', '.join(sorted(pairs))}"
        )

    images, labels = [], []
    for part in wanted:
        halves = pairs[str(part)]
        if set(halves) != {"images", "labels"}:
            lone = next(iter(halves.values()))
            raise DataError(
                f"{source.path}: {lone}",
                "its images or labels are missing",
                "keep both files together",
            )
        images.append(
            parse_idx(source.read(halves["images"]), f"{source.path}: {halves['images']}", 3)
        )
        labels.append(
            parse_idx(source.read(halves["labels"]), f"{source.path}: {halves['labels']}", 1)
        )

    if len({i.shape[1:] for i in images}) != 1:
        raise DataError(
            f"{source.path}", "its parts have images of different sizes", "read them one by one"
        )

    return _numbered(
        np.concatenate(images), np.concatenate(labels).astype(np.int64), source.path.name
    )


def parse_idx(data: bytes, name: str, dimensions: int) -> npt.NDArray[np.uint8]:
    """Return the array that the bytes of an idx file hold, gzipped or not.

    Args:
        data: Content of the file.
        name: Name of the file in errors.
        dimensions: Number of axes that the array must have.

    Returns:
        The array, uint8.

    Raises:
        DataError: The file is damaged, or of another kind.

    Example:
        >>> data = b"\\x00\\x00\\x08\\x01" + b"\\x00\\x00\\x00\\x02" + b"\\x07\\x09"
        >>> parse_idx(data, "labels", 1).tolist()
        [7, 9]
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, ZlibError) as error:
            raise DataError(
                name, f"cannot be unpacked ({error})", "fetch the file again"
            ) from error
    head = 4 + 4 * dimensions
    if len(data) < head or data[:3] != b"\x00\x00\x08" or data[3] != dimensions:
        raise DataError(
            name, f"is no idx file of {dimensions} dimensions of bytes", "fetch the file again"
        )

    shape = struct.unpack(f">{dimensions}I", data[4:head])
    count = int(np.prod(shape, dtype=object))
    if len(data) - head != count:
        raise DataError(name, f"holds {len(data) - head} of {count} bytes", "fetch the file again")

    return np.frombuffer(data, np.uint8, count, head).reshape(shape)


def read_npz(source: FileSource, names: list[str], split: str | None) -> ImageDataset:
    """Read a data set from an npz file.

    Keys are ``images`` (or ``x``), (n, h, w) or (n, h, w, 3) uint8, and ``labels`` (or ``y``),
    (n,); optional are ``classes`` (names) and ``groups`` (n names). Parts have keys of their own:
    ``train_images``, ``train_labels``, ``test_images``, ``test_labels``, or ``x_train`` and so on.

    Args:
        source: Files of the data set.
        names: Names of the npz files in it; there must be one.
        split: "train", "test", or None for everything.

    Returns:
        The images with their labels.

    Raises:
        DataError: The file cannot be read, holds pickled content, or lacks a key.
    """
    if len(names) != 1:
        raise DataError(f"{source.path}", f"holds {len(names)} npz files", "name one of them")

    where = f"{source.path}: {names[0]}"
    try:
        with np.load(io.BytesIO(source.read(names[0])), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, ZlibError) as error:
        raise DataError(
            where, f"cannot be read ({error})", "save plain arrays with numpy.savez"
        ) from error

    images, labels = _pair(arrays, split, where)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where}: labels of {labels.dtype}", "whole numbers are needed", "convert them"
        )

    classes = tuple(str(c) for c in arrays["classes"]) if "classes" in arrays else None
    dataset = _numbered(images, labels.reshape(-1).astype(np.int64), where, classes)

    return _grouped(dataset, arrays.get("groups"), where)


def _grouped(dataset: ImageDataset, groups: npt.NDArray[Any] | None, where: str) -> ImageDataset:
    if groups is None:
        return dataset
    if len(groups) != len(dataset):
        raise DataError(
            f"{where}: {len(groups)} groups",
            f"{len(dataset)} images have one each",
            "check the file",
        )

    names = tuple(str(g) for g in groups)

    return ImageDataset(dataset.read, dataset.labels, dataset.classes, names, dataset.names)


def _pair(
    arrays: dict[str, npt.NDArray[Any]], split: str | None, where: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Images and labels by whichever of the documented keys are there."""
    for x, y in zip(_IMAGE_KEYS, _LABEL_KEYS, strict=True):
        if x in arrays and y in arrays:
            return arrays[x], arrays[y]

    found = []
    for part in [split] if split else ["train", "test"]:
        for x, y in ((f"{part}_images", f"{part}_labels"), (f"x_{part}", f"y_{part}")):
            if x in arrays and y in arrays:
                found.append((arrays[x], arrays[y].reshape(-1)))

    if not found:
        there = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(
            f"{where}: holds {there}", "images and labels are needed", "save them under these keys"
        )
    if len({x.shape[1:] for x, _ in found}) != 1:
        raise DataError(where, "its parts have images of different sizes", "read them one by one")

    return np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found])


def _numbered(
    images: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    source: str,
    classes: tuple[str, ...] | None = None,
) -> ImageDataset:
    if len(labels) == 0:
        raise DataError(source, "holds no image", "check the file")
    return in_memory(
        images, labels, classes or tuple(str(i) for i in range(int(labels.max()) + 1)), source
    )
