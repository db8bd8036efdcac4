"""Class folders: ``<class>/<image>``, or the same below folders of parts such as ``train``."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np

from physadv.core.errors import DataError
from physadv.core.names import natural_key
from physadv.datasets.base import ImageDataset
from physadv.datasets.file_access import FileSource
from physadv.datasets.summary import CLASS_FOLDERS, DatasetSummary

PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "test",
    "valid": "test",
}
"""Folder names that mark a part of the set. Validation stands in for the test part, for sets that
have only it."""


def read_folders(source: FileSource, split: str | None) -> ImageDataset:
    """Read class folders, ``<class>/<image>``, with or without folders of parts above them.

    Classes are sorted by name, numbers by value, and numbered over all parts; each image is a group
    of its own.

    Args:
        source: Files of the data set.
        split: "train", "test", or None for everything.

    Returns:
        The images with their labels.

    Raises:
        DataError: An image lies outside of the class folders, or the part is empty.
    """
    images = source.images()
    paths = [PurePosixPath(n) for n in images]
    depth = _class_depth(paths, source)
    parts = [_part(p, depth) for p in paths]
    classes = tuple(sorted({p.parts[depth] for p in paths}, key=natural_key))
    chosen = [i for i, part in enumerate(parts) if split is None or part is None or part == split]
    if not chosen:
        raise DataError(
            f"{source.path}", f"has no {split} part", f"parts there: {', '.join(_found(parts))}"
        )

    names = tuple(images[i] for i in chosen)
    numbers = {name: i for i, name in enumerate(classes)}
    labels = np.asarray([numbers[paths[i].parts[depth]] for i in chosen], np.int64)

    return ImageDataset(
        lambda i: source.image(names[i]),
        labels,
        classes,
        names,
        names,
        summary=DatasetSummary(
            str(source.path),
            CLASS_FOLDERS,
            split if split is not None and parts[chosen[0]] else "all",
            tuple(_found(parts)),
        ),
    )


def _class_depth(paths: list[PurePosixPath], source: FileSource) -> int:
    """Count the folders above the class folders: common ones, then at most one of a split."""
    shallow = min(len(p.parts) for p in paths)
    depth = 0
    while depth < shallow - 2 and len({p.parts[depth] for p in paths}) == 1:
        depth += 1
    if depth < shallow - 2 and all(p.parts[depth].lower() in PARTS for p in paths):
        depth += 1
    if shallow < depth + 2:
        stray = next(str(p) for p in paths if len(p.parts) < depth + 2)
        raise DataError(
            f"{source.path}: {stray}", "lies in no class folder", "sort images as <class>/<image>"
        )

    return depth


def _part(path: PurePosixPath, depth: int) -> str | None:
    return PARTS.get(path.parts[depth - 1].lower()) if depth else None


def _found(parts: list[str | None]) -> list[str]:
    return sorted({p for p in parts if p is not None})
