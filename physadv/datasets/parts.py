"""Parts of a data set, such as train and test, by the names that people give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from physadv.core.errors import DataError, OptionError

ALL = "all"
"""Value of ``split`` that takes every part."""
_NAMES = {
    "train": ("train", "training", "trn", "learn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
    "unlabeled": ("unlabeled", "unlabelled", "unsup", "pred", "prediction", "inference"),
}
_PART = {name: part for part, names in _NAMES.items() for name in names}
_FILLERS = frozenset(
    {"set", "sets", "image", "images", "img", "imgs", "data", "dataset", "split", "part", "final"}
    | {"sample", "samples", "folder", "evaluation", "hold", "held", "out", "subset", "jpg", "png"}
)
_ALSO = {("evaluation",): "val", ("hold", "out"): "test", ("held", "out"): "test"}
"""Parts whose names are made of fillers alone."""
_ENDINGS = ("images", "image", "data", "set")


def part_of(name: str) -> str | None:
    """Return the part that a name stands for: "train", "val", "test" or "unlabeled"; None for
    another name.

    Args:
        name: Name of a folder, file or key, such as "Training_Set", "val2017" or "t10k".

    Example:
        >>> [part_of(name) for name in ("train2017", "dev", "hold-out", "t10k", "bullet train")]
        ['train', 'val', 'test', 'test', None]
    """
    if name.casefold() == "t10k":  # MNIST's test set of ten thousand
        return "test"
    words = tuple(re.findall(r"[^\W\d_]+", name.casefold()))
    words = tuple(_without_ending(word) for word in words)
    left = [word for word in words if word not in _FILLERS]
    if not left:
        return _ALSO.get(words)
    return _PART.get(left[0]) if len(left) == 1 else None


def parts_of(names: Iterable[str]) -> dict[str, str | None]:
    """Return the part that each name of a row of siblings stands for.

    A beginning that all of them share, such as the set's name, does not matter.

    Example:
        >>> parts_of(["seg_train", "seg_test"])
        {'seg_train': 'train', 'seg_test': 'test'}
    """
    row = list(dict.fromkeys(names))
    found = {name: part_of(name) for name in row}
    if len(row) < 2 or any(found.values()):
        return found
    pieces = [re.split(r"[\s_.-]+", name) for name in row]
    shared = 0
    while all(len(p) > shared + 1 and p[shared] == pieces[0][shared] for p in pieces):
        shared += 1
    return {
        name: part_of("_".join(p[shared:])) if shared else None
        for name, p in zip(row, pieces, strict=True)
    }


def choose_parts(parts: Mapping[str, str], split: str | None, where: str) -> list[str]:
    """Return which of a set's own names of parts are asked for.

    Args:
        parts: Part by the set's own name of it, as :func:`parts_of` returns them.
        split: Part asked for; None or "all" for every labeled one.
        where: The data set in errors.

    Returns:
        Names among ``parts``.

    Raises:
        DataError: The part is not there, or two folders stand for it.

    Example:
        >>> choose_parts({"training": "train", "dev": "val"}, "val", "pets")
        ['dev']
        >>> choose_parts({"training": "train", "dev": "val"}, "test", "pets")
        Traceback (most recent call last):
        physadv.core.errors.DataError: pets: has no test part. Parts there: ... give --split val.
    """
    if split is None or split == ALL:
        return [name for name, part in parts.items() if part != "unlabeled"]
    own = [name for name in parts if name.casefold() == split.casefold()]
    found = own or [name for name, part in parts.items() if part == (part_of(split) or split)]
    there = ", ".join(shown_parts(parts))
    if not found:
        others = sorted({part for part in parts.values() if part != "unlabeled"} - {"train"})
        other = next(iter([*others, *parts.values()]))
        raise DataError(
            where, f"has no {split} part", f"parts there: {there}; give --split {other}"
        )
    if len(found) > 1:
        raise DataError(
            f"{where}: {' and '.join(found)}",
            f"both stand for the {split} part",
            f"choose one with --split {found[0]}",
        )
    return found


def shown_parts(parts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the parts for people, each with the set's own name where that is another.

    Example:
        >>> shown_parts({"train": "train", "dev": "val"})
        ('train', 'val (dev)')
    """
    order = list(_NAMES)
    return tuple(
        part if name.casefold() == part else f"{part} ({name})"
        for name, part in sorted(parts.items(), key=lambda item: order.index(item[1]))
    )


def check_split(split: str | None) -> None:
    """Refuse a ``split`` that names no part. Raises OptionError."""
    if split is None or split == ALL or part_of(split):
        return
    raise OptionError(f"split {split!r}", "names no part", "choose train, val, test or all")


def _without_ending(word: str) -> str:
    """A word without an ending such as that of "trainset"."""
    for ending in _ENDINGS:
        if word.endswith(ending) and word.removesuffix(ending) in _PART:
            return word.removesuffix(ending)
    return word
