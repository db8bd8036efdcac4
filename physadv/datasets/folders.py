"""Class folders: ``<class>/<image>``, or the same below folders of parts such as ``train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from physadv.core.errors import DataError
from physadv.core.names import natural_key
from physadv.datasets.base import ImageDataset
from physadv.datasets.detection_layouts import is_generic
from physadv.datasets.file_access import FileSource
from physadv.datasets.left_out import other_pictures
from physadv.datasets.parts import choose_parts, part_of, parts_of, shown_parts
from physadv.datasets.summary import CLASS_FOLDERS, DatasetSummary

_Parts = tuple[str, ...]


@dataclass(frozen=True)
class _Tree:
    """Images of class folders by the set's own names of the parts; one part without a name where
    there are none.

    Attributes:
        images: Name of the class and of the file of each image of a part.
        unsorted: An image by part whose images lie in no class folders.
        parts: Part that each of the set's names stands for; empty where there are none.
    """

    images: dict[str, list[tuple[str, str]]]
    unsorted: dict[str, str]
    parts: dict[str, str]


def read_folders(source: FileSource, split: str | None) -> ImageDataset:
    """Read class folders, ``<class>/<image>``, with or without folders of parts above them.

    Classes are sorted by name, numbers by value, and numbered over all parts; each image is a group
    of its own.

    Args:
        source: Files of the data set.
        split: Part to read, such as "train" or "test", or None for everything.

    Returns:
        The images with their labels.

    Raises:
        DataError: An image lies outside of the class folders, the folders are not those of classes,
            or the part is not there.
    """
    tree = _tree_of(source)
    chosen = choose_parts(tree.parts, split, f"{source.path}") if tree.parts else [""]
    for part in chosen:
        if part in tree.unsorted:
            _refuse_stray(source, tree.unsorted[part])

    classes = _classes_of(tree, chosen)
    _check_classes(source, tree, chosen, classes)
    read = set(source.images())
    pairs = [pair for part in chosen for pair in tree.images[part] if pair[1] in read]
    names = tuple(name for _, name in pairs)
    numbers = {name: i for i, name in enumerate(classes)}
    labels = np.asarray([numbers[c] for c, _ in pairs], np.int64)

    return ImageDataset(
        lambda i: source.image(names[i]),
        labels,
        classes,
        names,
        names,
        summary=DatasetSummary(
            str(source.path),
            CLASS_FOLDERS,
            "all" if not tree.parts or len(chosen) > 1 else tree.parts[chosen[0]],
            shown_parts(tree.parts),
            skipped=source.left_out(read),
            notes=_notes(source, tree, chosen, classes, set(labels.tolist())),
        ),
        header_size=lambda i: source.size(names[i]),
        digest=lambda i: source.digest(names[i]),
    )


def _pictures(source: FileSource) -> list[str]:
    """Images, and pictures of kinds that are not read, which show where class folders are."""
    return [*source.images(), *other_pictures(source.names, source.images())]


def _tree_of(source: FileSource) -> _Tree:
    """Find the parts and the class folders, as deep as they lie."""
    paths = [PurePosixPath(n).parts for n in _pictures(source)]
    depth = _shared_folders(paths)
    inside = [p for p in paths if len(p) > depth + 1]
    if len(inside) < len(paths):
        _refuse_stray(source, next("/".join(p) for p in paths if len(p) == depth + 1))

    row = parts_of(p[depth] for p in inside)
    deep = {p[depth] for p in inside if len(p) > depth + 2}
    parts = {name: part for name, part in row.items() if part}
    if parts and len(parts) == len(row):
        return _by_part(paths, depth, parts)
    _refuse_mixed(source, row, parts, deep)

    below = parts_of(p[depth + 1] for p in inside if len(p) > depth + 2)
    own = {name: part for name, part in below.items() if part}
    if own and len(own) == len(below) and all(len(p) > depth + 2 for p in inside):
        images: dict[str, list[tuple[str, str]]] = {name: [] for name in own}
        for p in inside:
            images[p[depth + 1]].append((p[depth], "/".join(p)))
        return _Tree(images, {}, own)

    _refuse_folds(source, inside, depth)
    return _Tree({"": [(p[depth], "/".join(p)) for p in inside]}, {}, {})


def _by_part(paths: Sequence[_Parts], depth: int, parts: dict[str, str]) -> _Tree:
    """Class folders below folders of parts; a part may have further folders of its own above."""
    images: dict[str, list[tuple[str, str]]] = {}
    unsorted: dict[str, str] = {}
    for name in parts:
        own = [p for p in paths if p[depth] == name]
        at = depth + 1
        while all(len(p) > at + 2 and p[at] == own[0][at] and _is_wrapper(p[at]) for p in own):
            at += 1
        stray = [p for p in own if len(p) < at + 2]
        if stray:
            unsorted[name] = "/".join(stray[0])
        images[name] = [(p[at], "/".join(p)) for p in own if len(p) >= at + 2]
    return _Tree(images, unsorted, parts)


def _shared_folders(paths: Sequence[_Parts]) -> int:
    """Count the folders that all images lie in, above those of classes and parts."""
    shallow = min(len(p) for p in paths)
    depth = 0
    while (
        depth < shallow - 2
        and len({p[depth] for p in paths}) == 1
        and part_of(paths[0][depth]) is None
    ):
        depth += 1
    return depth


def _is_wrapper(folder: str) -> bool:
    """Whether a folder within a part is no class: "images", or the part's name once more."""
    return is_generic(folder) or part_of(folder.rsplit("_", 1)[-1]) is not None


def _classes_of(tree: _Tree, chosen: Sequence[str]) -> tuple[str, ...]:
    """The classes of the training part and of the chosen ones: a part in which one is missing
    keeps the numbers of the whole set."""
    train = [name for name, part in tree.parts.items() if part == "train"]
    named = {*train, *chosen} if train else set(tree.images)
    classes = {c for name in named for c, _ in tree.images[name]}
    return tuple(sorted(classes, key=natural_key))


def _check_classes(
    source: FileSource, tree: _Tree, chosen: Sequence[str], classes: tuple[str, ...]
) -> None:
    """Refuse folders that are no classes, and parts that have no class in common."""
    if all(is_generic(name) for name in classes):
        raise DataError(
            f"{source.path}: folders {', '.join(classes)}",
            "say what lies in them, not of which class it is",
            "sort images as <class>/<image>",
        )
    train = {c for n, part in tree.parts.items() if part == "train" for c, _ in tree.images[n]}
    for name in chosen:
        own = {c for c, _ in tree.images[name]}
        if train and own and not own & train:
            raise DataError(
                f"{source.path}: classes of {name} ({', '.join(sorted(own)[:3])})",
                f"none of them is a class of the train part ({', '.join(sorted(train)[:3])})",
                "sort both as <part>/<class>/<image>",
            )


def _notes(
    source: FileSource,
    tree: _Tree,
    chosen: Sequence[str],
    classes: tuple[str, ...],
    present: set[int],
) -> tuple[str, ...]:
    """Facts that a reader would not expect: parts and lists that were not read."""
    notes = [
        f"{name} has no class folders and was left out"
        for name in tree.unsorted
        if name not in chosen
    ]
    absent = [name for i, name in enumerate(classes) if i not in present]
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        notes.append(f"no image of {', '.join(absent[:3])}{more}")
    if not tree.parts:
        lists = [
            n
            for n in source.names
            if PurePosixPath(n).suffix.lower() in (".txt", ".csv", ".json")
            and part_of(PurePosixPath(n).stem)
        ]
        if lists:
            notes.append(f"lists of parts are not read: {', '.join(lists[:3])}")
    return tuple(notes)


def _refuse_mixed(
    source: FileSource, row: dict[str, str | None], parts: dict[str, str], deep: set[str]
) -> None:
    """Refuse folders of parts beside others: neither all are parts nor all are classes.

    A class may be called "train", as in CIFAR-100.
    """
    doubtful = [n for n, part in parts.items() if part != "train" or n in deep or len(parts) > 1]
    if doubtful:
        others = [name for name, part in row.items() if part is None]
        raise DataError(
            f"{source.path}: {', '.join(doubtful[:3])} beside {', '.join(others[:3])}",
            "some folders name parts and some do not",
            "sort images as <part>/<class>/<image>, or name one of the folders",
        )


def _refuse_folds(source: FileSource, paths: Sequence[_Parts], depth: int) -> None:
    """Refuse folders that hold the same folders: which of both are the classes cannot be told."""
    inner: dict[str, set[str]] = {}
    for p in paths:
        inner.setdefault(p[depth], set())
        if len(p) > depth + 2 and not is_generic(p[depth + 1]):
            inner[p[depth]].add(p[depth + 1])
    shared = set.intersection(*inner.values())
    if len(inner) > 1 and shared:
        raise DataError(
            f"{source.path}: {', '.join(list(inner)[:3])}",
            f"each hold the folders {', '.join(sorted(shared)[:3])}: which are the classes cannot "
            "be told",
            "sort images as <class>/<image> or <part>/<class>/<image>",
        )


def _refuse_stray(source: FileSource, name: str) -> None:
    raise DataError(
        f"{source.path}: {name}", "lies in no class folder", "sort images as <class>/<image>"
    )
