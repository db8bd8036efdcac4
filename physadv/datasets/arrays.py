"""Data sets in arrays: idx files, the format of MNIST (LeCun et al. 1998), and npz."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from physadv.core.archive_files import gunzip
from physadv.core.array_files import read_npz as read_npz_arrays
from physadv.core.errors import DataError
from physadv.core.reading import MAX_ARRAY_BYTES, MAX_CLASSES
from physadv.datasets.base import ImageDataset, in_memory
from physadv.datasets.file_access import FileSource
from physadv.datasets.parts import ALL, choose_parts, part_of, shown_parts
from physadv.datasets.summary import DatasetSummary

_IDX = re.compile(r"(?P<name>.*?)[-_.]?(?P<kind>images|labels)[-.]idx[13][-.]ubyte(\.gz)?$", re.I)
_WHOLE = "whole"
"""Name of the one part of a set whose file names or keys name none."""
_KINDS = {
    **dict.fromkeys(("images", "image", "imgs", "x", "data"), "images"),
    **dict.fromkeys(("labels", "label", "targets", "target", "y"), "labels"),
}


_IdxSets = dict[tuple[str, str], dict[str, dict[str, str]]]
"""File names by folder and name of the set, by part and by kind."""
_CLASS_KEYS = ("classes", "class_names", "label_names", "categories")


@dataclass(frozen=True)
class _Pair:
    """Images and labels of one part, as they were found."""

    images: npt.NDArray[Any]
    labels: npt.NDArray[Any]


def idx_files(source: FileSource) -> _IdxSets:
    """Return the idx files of a source by data set, by the set's own name of the part, and by kind.

    Args:
        source: Files of the data set.

    Returns:
        File names: ``{("folder", "emnist-letters"): {"train": {"images": name, "labels": name}}}``.
    """
    found: _IdxSets = {}
    for name in source.names:
        path = PurePosixPath(name)
        match = _IDX.match(path.name)
        if match:
            words = match["name"].replace("_", "-").split("-")
            part = words.pop() if part_of(words[-1]) else _WHOLE
            parts = found.setdefault((str(path.parent), "-".join(words)), {})
            parts.setdefault(part, {}).setdefault(match["kind"].lower(), name)
    return found


def read_idx(source: FileSource, split: str | None) -> ImageDataset:
    """Read pairs of idx files; classes are named by their number.

    Args:
        source: Files of the data set.
        split: "train", "test", or None for everything.

    Returns:
        The images with their labels.

    Raises:
        DataError: The part is missing, half of a pair is missing, a file is damaged, or the files
            are those of several data sets.
    """
    where, sets = f"{source.path}", _distinct(idx_files(source))
    if len(sets) > 1:
        raise DataError(
            f"{where}: {', '.join(str(PurePosixPath(*key)) for key in sets)}",
            f"are {len(sets)} data sets, whose labels mean different classes",
            "keep one of them, or name one of its files",
        )
    (((_, name), parts),) = sets.items()
    pairs = {part: _read_halves(source, halves) for part, halves in parts.items()}

    dataset = _dataset_of(pairs, split, where, source.path.name, "idx")
    used = [file for halves in parts.values() for file in halves.values()]
    notes = ("EMNIST's files hold letters and digits mirrored along the diagonal",)
    return dataset.summarized(
        replace(
            dataset.summary,
            skipped=source.left_out(used),
            notes=notes if "emnist" in name.lower() else (),
        )
    )


def _distinct(sets: _IdxSets) -> _IdxSets:
    """The sets without copies of their files in other folders; a set whose images and labels lie in
    folders of their own is one."""
    whole = {
        key: parts
        for key, parts in sets.items()
        if all(len(halves) == 2 for halves in parts.values())
    }
    if whole:
        names = {name for _, name in whole}
        return whole if names == {name for _, name in sets} else sets

    merged: _IdxSets = {}
    for (_, name), parts in sets.items():
        for part, halves in parts.items():
            known = merged.setdefault(("", name), {}).setdefault(part, {})
            if known.keys() & halves.keys():
                return sets
            known.update(halves)
    return merged


def _read_halves(source: FileSource, halves: dict[str, str]) -> _Pair:
    if set(halves) != {"images", "labels"}:
        raise DataError(
            f"{source.path}: {next(iter(halves.values()))}",
            "its images or labels are missing",
            "keep both files together",
        )
    images, labels = halves["images"], halves["labels"]
    return _Pair(
        parse_idx(source.read(images), f"{source.path}: {images}", 3),
        parse_idx(source.read(labels), f"{source.path}: {labels}", 1),
    )


def _dataset_of(
    pairs: dict[str, _Pair],
    split: str | None,
    where: str,
    name: str,
    layout: str,
    classes: tuple[str, ...] | None = None,
) -> ImageDataset:
    """The images of the parts asked for; classes are counted over all parts."""
    parts = {part: part_of(part) or "" for part in pairs if part != _WHOLE}
    if parts and _WHOLE in pairs:
        raise DataError(
            f"{where}: parts {', '.join(parts)}, and images of no part",
            "which part these are cannot be told",
            "name them train or test",
        )
    chosen = choose_parts(parts, split, where) if parts else [_WHOLE]
    for pair in pairs.values():
        _assert_sane(pair, where)
    taken = [pairs[part] for part in chosen]
    if len({pair.images.shape[1:] for pair in taken}) != 1:
        raise DataError(where, "its parts have images of different sizes", "read them one by one")

    labels = np.concatenate([pair.labels.reshape(-1).astype(np.int64) for pair in taken])
    if len(labels) == 0:
        raise DataError(where, "holds no image", "check the file")
    highest = max(int(pair.labels.max()) for pair in pairs.values() if pair.labels.size)
    names = classes or tuple(str(i) for i in range(highest + 1))
    dataset = in_memory(np.concatenate([pair.images for pair in taken]), labels, names, name)
    part = parts[chosen[0]] if parts and len(chosen) == 1 else ALL
    return dataset.summarized(DatasetSummary(where, layout, part, shown_parts(parts)))


def _assert_sane(pair: _Pair, where: str) -> None:
    """Refuse arrays of no images, and labels that would need as many names of classes."""
    if pair.images.ndim == 0 or 0 in pair.images.shape[1:]:
        limit = "(n, h, w) or (n, h, w, 3) are needed"
        raise DataError(f"{where}: images of shape {pair.images.shape}", limit, "Check the file")
    highest = int(pair.labels.max()) if pair.labels.size else 0
    if highest > MAX_CLASSES:
        limit = f"classes are numbered from 0 to {MAX_CLASSES} at most"
        raise DataError(f"{where}: label {highest}", limit, "Check the file")


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
        data = gunzip(data, name, most_bytes=MAX_ARRAY_BYTES)
    head = 4 + 4 * dimensions
    if len(data) < head or data[:3] != b"\x00\x00\x08" or data[3] != dimensions:
        raise DataError(
            name, f"is no idx file of {dimensions} dimensions of bytes", "fetch the file again"
        )

    shape = struct.unpack(f">{dimensions}I", data[4:head])
    count = math.prod(shape)
    if len(data) - head != count:
        raise DataError(name, f"holds {len(data) - head} of {count} bytes", "fetch the file again")

    return np.frombuffer(data, np.uint8, count, head).reshape(shape)


def read_npz(source: FileSource, names: list[str], split: str | None) -> ImageDataset:
    """Read a data set from an npz file.

    Keys are ``images`` (or ``x``), (n, h, w) or (n, h, w, 3) uint8, and ``labels`` (or ``y``),
    (n,); optional are ``classes`` or ``class_names`` and ``groups`` (n names). Parts have keys of
    their own: ``train_images``, ``train_labels``, ``test_images``, ``test_labels``, or ``x_train``
    and so on.

    Args:
        source: Files of the data set.
        names: Names of the npz files in it; there must be one.
        split: "train", "test", or None for everything.

    Returns:
        The images with their labels.

    Raises:
        DataError: The file cannot be read, holds pickled content, lacks a key, or the part is not
            there.
    """
    if len(names) != 1:
        raise DataError(f"{source.path}", f"holds {len(names)} npz files", "name one of them")

    where = f"{source.path}: {names[0]}"
    arrays = read_npz_arrays(source.read(names[0]), where)
    pairs, used = _pairs(arrays, where)
    named = next((key for key in _CLASS_KEYS if key in arrays), None)
    classes = None if named is None else tuple(_text(c) for c in np.atleast_1d(arrays[named]))
    dataset = _dataset_of(pairs, split, where, where, "npz", classes)
    unread = [key for key in arrays if key not in (*used, named, "groups")]
    skipped = source.left_out(names)
    if unread:
        more = " ..." if len(unread) > 3 else ""
        skipped[f"arrays ({', '.join(unread[:3])}{more})"] = len(unread)
    dataset = dataset.summarized(replace(dataset.summary, skipped=skipped))

    return _grouped(dataset, arrays.get("groups"), where)


def _grouped(dataset: ImageDataset, groups: npt.NDArray[Any] | None, where: str) -> ImageDataset:
    if groups is None:
        return dataset
    groups = np.atleast_1d(groups)
    if len(groups) != len(dataset):
        raise DataError(
            f"{where}: {len(groups)} groups",
            f"{len(dataset)} images have one each",
            "check the file",
        )
    return replace(dataset, groups=tuple(_text(g) for g in groups))


def _text(value: Any) -> str:
    """A name, also one that was saved as bytes."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _pairs(arrays: dict[str, npt.NDArray[Any]], where: str) -> tuple[dict[str, _Pair], list[str]]:
    """Images and labels by part, and the keys that they were found under."""
    halves: dict[str, dict[str, str]] = {}
    for key in arrays:
        words = re.split(r"[_\-. ]+", key.lower())
        kinds = [_KINDS[word] for word in words if word in _KINDS]
        rest = [word for word in words if word not in _KINDS]
        part = rest[0] if len(rest) == 1 and part_of(rest[0]) else _WHOLE if not rest else ""
        if len(kinds) == 1 and part:
            halves.setdefault(part, {}).setdefault(kinds[0], key)

    pairs, used = {}, []
    for part, keys in halves.items():
        if set(keys) == {"images", "labels"}:
            labels = arrays[keys["labels"]]
            if not np.issubdtype(labels.dtype, np.integer):
                raise DataError(
                    f"{where}: labels of {labels.dtype}",
                    "whole numbers are needed",
                    "convert them",
                )
            pairs[part] = _Pair(arrays[keys["images"]], labels)
            used += [keys["images"], keys["labels"]]
    if not pairs:
        there = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(
            f"{where}: holds {there}",
            "images and labels are needed",
            "save them as images and labels, or train_images, train_labels and so on",
        )
    return pairs, used
