"""WebDataset shards: tar files whose members share a key, ``000.jpg`` beside ``000.cls``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from physadv.core.errors import DataError
from physadv.core.names import natural_key
from physadv.core.parsing import parse_json, parse_whole_number
from physadv.core.reading import MAX_CLASSES
from physadv.core.text import decode_text
from physadv.datasets.base import ImageDataset
from physadv.datasets.file_access import FileSource, FolderSource, TarSource
from physadv.datasets.parts import choose_parts, part_of, shown_parts
from physadv.datasets.summary import DatasetSummary

_WHOLE = re.compile(r"[0-9]{1,7}\.0*")
_LABEL_SUFFIXES = (".cls", ".label", ".json", ".txt")
_LABEL_KEYS = ("label", "cls", "class", "class_id", "target")
_MOST_LABEL_BYTES = 1 << 20
_PATTERN = re.compile(r"[*?\[{]")
_MOST_SHARDS = 100_000
_CLASS_LISTS = ("classes.txt", "classnames.txt")


def is_webdataset(source: FileSource) -> bool:
    """Return whether the files of ``source`` are shards: images in tar files with labels of the
    same key."""
    if not isinstance(source, TarSource):
        return False
    images = source.images()[:1]
    return bool(images) and _label_file(images[0], set(source.names)) is not None


def named_shards(text: str) -> TarSource | None:
    """Return the tar files that ``text`` names in WebDataset's way, None where it names none so.

    Args:
        text: A path with a range or a choice in braces, ``"set/val-{000..012}.tar"`` or
            ``"set/{a,b}.tar"``, or a wildcard, ``"set/val-*.tar"``.

    Raises:
        DataError: A shard is missing, or the range names too many.
    """
    if not text.lower().endswith(".tar") or Path(text).exists() or not _PATTERN.search(text):
        return None
    pattern = Path(text).expanduser()
    if _PATTERN.search(str(pattern.parent)):
        raise DataError(text, "Shards lie in one folder", "Name the folder as it is")
    names: list[str] = []
    for name in _expanded(pattern.name):
        found = sorted(file.name for file in pattern.parent.glob(name))
        if not found:
            raise DataError(f"{pattern.parent / name}", "no such file", "Check the range")
        names += found
    only = tuple(sorted(set(names), key=natural_key))
    return TarSource(pattern.parent, FolderSource(pattern.parent, only=only))


def _expanded(name: str) -> list[str]:
    """The names that braces stand for, as a shell would expand them: ``{08..10}`` keeps its
    zeros."""
    match = re.search(r"\{([^{}]*)\}", name)
    if match is None:
        return [name]
    limits = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if limits is None:
        choices = match[1].split(",")
    else:
        first, last = (parse_whole_number(n, "the range's end", name) for n in limits.groups())
        if not 0 <= last - first < _MOST_SHARDS:
            raise DataError(name, f"A range names 1 to {_MOST_SHARDS} shards", "Correct it")
        width = len(limits[1]) if limits[1].startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(first, last + 1)]
    rest = [name[: match.start()] + choice + name[match.end() :] for choice in choices]
    found = [whole for part in rest for whole in _expanded(part)]
    if len(found) > _MOST_SHARDS:
        raise DataError(name, f"It names more than {_MOST_SHARDS} shards", "Name fewer")
    return found


def read_webdataset(source: FileSource, split: str | None) -> ImageDataset:
    """Read WebDataset shards.

    A label is a number or a name in ``<key>.cls``, ``.label`` or ``.txt``, or under ``label``,
    ``cls``, ``class`` or ``target`` in ``<key>.json``. Parts are told by the names of the shards.

    Args:
        source: Members of the shards.
        split: Part to read, or None for everything.

    Returns:
        The images with their labels; each image is a group of its own.

    Raises:
        DataError: An image has no label, or one of another form.
    """
    names = set(source.names)
    by_part: dict[str, list[str]] = {}
    for image in _one_a_key(source):
        by_part.setdefault(_part_name(image), []).append(image)
    parts = {name: part for name in by_part if (part := part_of(name))}
    if parts and len(parts) == len(by_part):
        chosen = choose_parts(parts, split, f"{source.path}")
    else:
        parts, chosen = {}, list(by_part)

    images = [image for name in chosen for image in by_part[name]]
    words = []
    for image in images:
        file = _label_file(image, names)
        if file is None:
            raise DataError(
                f"{source.path}: {image}", "It has no label", f"Add {_key(image)}.cls beside it"
            )
        words.append(_label_of(source, file))
    labels, classes = number_labels(words, f"{source.path}", _class_names(source))
    return ImageDataset(
        lambda i: source.image(images[i]),
        labels,
        classes,
        tuple(images),
        tuple(images),
        summary=DatasetSummary(
            str(source.path),
            "WebDataset shards",
            "all" if not parts or len(chosen) > 1 else parts[chosen[0]],
            shown_parts(parts),
            skipped=source.left_out(_used(source, names)),
        ),
        header_size=lambda i: source.size(images[i]),
        digest=lambda i: source.digest(images[i]),
    )


def number_labels(
    words: list[str], where: str, names: tuple[str, ...] = ()
) -> tuple[Any, tuple[str, ...]]:
    """Return class numbers and names of labels that are numbers or names.

    Args:
        words: Label of each image, as text.
        where: Name of the data set in errors.
        names: Names of the classes by number, where the set states them.

    Returns:
        Numbers (n,) int64, and the names: those given, the numbers up to the highest, or the sorted
        names.

    Raises:
        DataError: A number is beyond the names, or of a million or more.

    Example:
        >>> number_labels(["2", "0"], "set"), number_labels(["b", "a"], "set")[1]
        ((array([2, 0]), ('0', '1', '2')), ('a', 'b'))
    """
    empty = next((number for number, word in enumerate(words, 1) if not word.strip()), None)
    if empty is not None:
        raise DataError(f"{where}: image {empty}", "Its label is empty", "Give each image one")
    if words and all(_WHOLE.fullmatch(word) for word in words):  # as a table of numbers has them
        words = [word.partition(".")[0] for word in words]
    if all(word.isascii() and word.isdecimal() for word in words):
        numbers = [parse_whole_number(w, "a label", where, most=MAX_CLASSES) for w in words]
        highest = max(numbers, default=0)
        if names and highest >= len(names):
            raise DataError(f"{where}: label {highest}", f"{len(names)} classes are named")
        classes = names or tuple(str(i) for i in range(highest + 1))
        return np.asarray(numbers, np.int64), classes
    known = names if names and set(words) <= set(names) else ()
    classes = known or tuple(sorted(set(words), key=natural_key))
    index = {name: i for i, name in enumerate(classes)}
    return np.asarray([index[word] for word in words], np.int64), classes


def _one_a_key(source: FileSource) -> list[str]:
    """The image of each key: its only one, or the only one of one suffix, as beside ``seg.png``."""
    by_key: dict[str, list[str]] = {}
    for image in source.images():
        by_key.setdefault(_key(image), []).append(image)
    chosen = []
    for key, images in by_key.items():
        plain = [n for n in images if n.removeprefix(key).count(".") == 1]
        able = images if len(images) == 1 else plain
        if len(able) != 1:
            names = ", ".join(name.removeprefix(key) for name in images[:4])
            limit = "Which of them is meant cannot be told"
            raise DataError(f"{source.path}: {key} has images {names}", limit, "Leave one")
        chosen.append(able[0])
    return chosen


def _key(image: str) -> str:
    """A member's key: its name up to the first dot of its last part, as WebDataset has it."""
    folder, _, last = image.rpartition("/")
    stem = last.partition(".")[0]
    return f"{folder}/{stem}" if folder else stem


def _label_file(image: str, names: set[str]) -> str | None:
    key = _key(image)
    return next((key + suffix for suffix in _LABEL_SUFFIXES if key + suffix in names), None)


def _label_of(source: FileSource, file: str) -> str:
    """The label in a member, as text."""
    where = f"{source.path}: {file}"
    text = decode_text(source.read(file, _MOST_LABEL_BYTES), where).text.strip()
    if not file.endswith(".json"):
        if not text or len(text) > 200 or "\n" in text:
            raise DataError(where, "It is no label: one number or name is needed", "Correct it")
        return text
    table = parse_json(text, where)
    if isinstance(table, Mapping):
        table = next((table[key] for key in _LABEL_KEYS if key in table), None)
    if isinstance(table, bool) or not isinstance(table, int | str) or not str(table).strip():
        raise DataError(where, f"It states no {' or '.join(_LABEL_KEYS[:3])}", "Add one")
    return str(table).strip()


def _part_name(image: str) -> str:
    """Words of a shard's name without its number, such as "train" of train-000012."""
    shard = PurePosixPath(image).parts[0] if "/" in image else ""
    return shard.rstrip("0123456789").rstrip("-_.") or shard


def _used(source: FileSource, names: set[str]) -> set[str]:
    """Images of all parts, their labels, and lists of classes."""
    images = _one_a_key(source)
    labels = {file for image in images if (file := _label_file(image, names)) is not None}
    lists = {name for name in names if PurePosixPath(name).name in _CLASS_LISTS}
    return {*images, *labels, *lists}


def _class_names(source: FileSource) -> tuple[str, ...]:
    """Names of the classes in a list beside the shards' images; empty where there is none."""
    for name in source.names:
        if PurePosixPath(name).name in _CLASS_LISTS:
            text = decode_text(source.read(name, _MOST_LABEL_BYTES), name).text
            return tuple(line.strip() for line in text.splitlines() if line.strip())
    return ()
