"""Match the classes of a data set with those of a model, or refuse and show what does not agree."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from physadv.core.errors import DataError
from physadv.core.names import plain_name
from physadv.core.tables import read_table
from physadv.core.wording import count_noun
from physadv.datasets.known_sets import KnownSet, known_set, known_sets, sets_with

_MOST_DIGITS = 9
"""Most digits of the number of a class."""
IN_ORDER = "in-order"
"""Value of ``labels`` that numbers the classes of the data as they are sorted."""

LabelMap = str | Path | Mapping[str, str | int] | None
"""How a user gives the classes: "in-order", a TOML file or a table of the model's class by class of
the data; None matches them by name."""

_SHOWN = 6


@dataclass(frozen=True)
class ClassMatch:
    """The model's class of each class of a data set.

    Attributes:
        numbers: The model's number of each class of the data; None where it has none and no image
            needs one.
        names: The model's names of these classes; their numbers where it has no names.
        rule: How they were matched, such as "by name".
    """

    numbers: tuple[int | None, ...]
    names: tuple[str, ...]
    rule: str

    def of_labels(self, labels: Sequence[int]) -> tuple[int, ...]:
        """Return the model's number for each of ``labels``, which must be matched ones."""
        numbers = (self.numbers[label] for label in labels)
        return tuple(-1 if number is None else number for number in numbers)


def match_classes(
    classes: Sequence[str],
    model_classes: Sequence[str],
    *,
    count: int | None = None,
    model: str = "the model",
    labels: LabelMap = None,
    needed: Iterable[int] | None = None,
    known: str = "",
    sorted_names: bool = False,
) -> ClassMatch:
    """Match the classes of a data set with a model's.

    Names are matched by spelling, then by the label maps of known sets, such as GTSRB's numbers and
    names. Whole numbers are taken for class numbers where the model's own names are no numbers. A
    model without names takes numbers as they are, and as many names as it has classes in order. All
    else is refused: a wrong class makes every figure wrong.

    Args:
        classes: Class names of the data, by label.
        model_classes: Class names of the model, by number; empty where it has none.
        count: Number of the model's classes, for a model without names.
        model: Name of the model in errors.
        labels: What the user says about the classes.
        needed: Labels that must be matched; None for all.
        known: Name of the known set whose numbers the class names are, such as "GTSRB".
        sorted_names: Whether the labels come from sorting the names, as for folders.

    Returns:
        The match.

    Raises:
        DataError: A class agrees with none of the model's, or with several, or the user's map does
            not fit.

    Example:
        >>> match_classes(["Stop_Sign", "yield"], ["yield", "stop sign"]).numbers
        (1, 0)
        >>> match_classes(["1", "0"], ["cat", "dog", "bird"]).rule
        "by number, 2 of the model's 3"
        >>> match_classes(["stop", "other"], ["stop", "yield"])
        Traceback (most recent call last):
        physadv.core.errors.DataError: classes 'other' = ?: the model has none of that name; ...
    """
    names = tuple(model_classes) or tuple(str(i) for i in range(count or len(classes)))
    target = _ModelClasses(model, names, named=bool(model_classes))
    wanted = set(range(len(classes)) if needed is None else needed)

    if labels == IN_ORDER:
        return _in_order(classes, target, "in order, as asked for")
    if labels is not None:
        return _by_map(classes, target, labels, wanted)

    numbers, rule = _automatic(classes, target, [known_set(known)] if known else [])
    words = not any(name.isdecimal() for name in classes)
    if not target.named and words and any(numbers[i] is None for i in wanted):
        return _in_order_of_names(classes, target, sorted_names=sorted_names)
    if sorted_names and not (target.named and target.numeric):
        _check_counted_from_zero(classes, target)
    _check_all_matched(classes, numbers, target, wanted)
    _check_distinct(classes, numbers, target, wanted)
    return _match(numbers, target, rule)


def read_label_map(labels: str | Path) -> dict[str, str | int]:
    """Return the table in a label map: the model's class, by name or number, by class of the data.

    Args:
        labels: TOML file with lines such as ``"Give Way" = "yield"`` or ``"b" = 3``.

    Returns:
        The table.

    Raises:
        DataError: The file is missing, cannot be parsed, or holds something else.
    """
    file = Path(labels).expanduser()
    table = read_table(
        file,
        remedy='write lines such as "Give Way" = "yield"',
        missing=f"name a TOML file, or give {IN_ORDER}",
    )
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(
                f"{file}: {name} = {value!r}",
                "the name or the number of a class is needed",
                'write lines such as "Give Way" = "yield"',
            )
    if not table:
        raise DataError(f"{file}", "names no class", 'write lines such as "Give Way" = "yield"')
    return table


def relabeled_classes(classes: Sequence[str], labels: LabelMap) -> tuple[list[int], list[str]]:
    """Return the labels and names that a user gives to the classes of data to train on.

    Args:
        classes: Class names of the data, by label.
        labels: Names of the classes by their names in the data; None or "in-order" keeps both.

    Returns:
        The new label of each class, and the new names, each once, in the order of the old.

    Raises:
        DataError: A class has no line in the map.

    Example:
        >>> relabeled_classes(["0", "1", "2"], {"0": "cat", "1": "dog", "2": "cat"})
        ([0, 1, 0], ['cat', 'dog'])
    """
    if labels is None or labels == IN_ORDER:
        return list(range(len(classes))), list(classes)
    table = labels if isinstance(labels, Mapping) else read_label_map(Path(str(labels)))
    own = _ModelClasses("the label map", tuple(table), named=True)
    found = [own.by_name(name) for name in classes]
    absent = [name for name, hit in zip(classes, found, strict=True) if hit is None]
    if absent:
        raise DataError(
            f"classes {_listed([repr(name) for name in absent])}",
            "the label map has no line for them",
            f'add lines such as "{absent[0]}" = "name of the class"',
        )
    given = [str(table[own.names[hit]]) for hit in found if hit is not None]
    names = list(dict.fromkeys(given))
    return [names.index(name) for name in given], names


@dataclass(frozen=True)
class _ModelClasses:
    """Classes that a model has: its names for them, or their numbers where it is not ``named``."""

    model: str
    names: tuple[str, ...]
    named: bool

    @cached_property
    def numeric(self) -> bool:
        """Whether the names are whole numbers."""
        return any(_number(name) is not None for name in self.names)

    @cached_property
    def _by_spelling(self) -> dict[str, list[int]]:
        """Classes by their names in the form that spellings are compared in."""
        found: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            found.setdefault(plain_name(name), []).append(number)
        return found

    def by_name(self, name: str) -> int | None:
        """The one class of that name, however it is spelled; None where there is none or several
        are alike."""
        alike = self._by_spelling.get(plain_name(name), [])
        same = [i for i in alike if self.names[i] == name]
        return same[0] if len(same) == 1 else alike[0] if len(alike) == 1 else None

    def by_alias(self, known: KnownSet, number: int) -> int | None:
        """The one class that goes by a name of class ``number`` of a known set."""
        if not 0 <= number < len(known.aliases):
            return None
        hits = {self.by_name(name) for name in known.aliases[number]} - {None}
        return hits.pop() if len(hits) == 1 else None

    def complete_sets(self) -> list[KnownSet]:
        """Known sets all classes of which the model has by name."""
        found = []
        for known in known_sets():
            own = {known.find(name) for name in self.names}
            if own >= set(range(len(known.classes))):
                found.append(known)
        return found


def _automatic(
    classes: Sequence[str], target: _ModelClasses, data_sets: Sequence[KnownSet]
) -> tuple[tuple[int | None, ...], str]:
    """The model's number of each class that needs no word of the user, and the rule."""
    by_name = tuple(target.by_name(name) for name in classes)
    if None not in by_name:
        return by_name, "by name" if target.named else "by number"

    own_sets = [] if target.numeric else data_sets or target.complete_sets()
    sets = sets_with([n for n, hit in zip(classes, by_name, strict=True) if hit is None])
    numbers: list[int | None] = []
    rules = set()
    for name, hit in zip(classes, by_name, strict=True):
        rule = "by name"
        if hit is None and _number(name) is not None:
            hit, rule = _of_number(_number(name) or 0, target, own_sets)
        elif hit is None:
            hit, rule = _of_alias(name, len(classes), target, sets)
        numbers.append(hit)
        rules.add(rule)

    rules -= {"by name"} if len(rules) > 1 else set()
    return tuple(numbers), " and ".join(sorted(rules))


def _of_number(
    number: int, target: _ModelClasses, known_as: Sequence[KnownSet]
) -> tuple[int | None, str]:
    """The class that a number stands for: in the known set of the data or of the model's classes,
    else the model's own.

    Among names that are numbers themselves it would have been found by name.
    """
    if target.numeric:
        return None, "by number"
    if known_as:
        hits = {target.by_alias(known, number) for known in known_as}
        hit = hits.pop() if len(hits) == 1 else None
        return hit, f"by the numbers of {' and '.join(known.name for known in known_as)}"
    return (number if number < len(target.names) else None), "by number"


def _of_alias(
    name: str, count: int, target: _ModelClasses, sets: Sequence[KnownSet]
) -> tuple[int | None, str]:
    """The class that a name of a known set stands for."""
    for known in sets:
        number = known.find(name)
        if number is None:
            continue
        hit = None
        if not target.numeric:
            hit = target.by_alias(known, number)
        elif _numbers_decide(known, count, target):
            hit = target.by_name(str(number))
        if hit is not None:
            return hit, f"by the names of {known.name}"
    return None, "by name"


def _numbers_decide(known: KnownSet, count: int, target: _ModelClasses) -> bool:
    """Whether the numbers of a known set are those of a model whose classes are numbers.

    The model must have as many classes, and the data (``count`` classes) all of them; WordNet ids
    are unmistakable without. A model without names may have been trained by the set's numbers or by
    the sorted names, so both must be the same.
    """
    if len(target.names) != len(known.classes):
        return False
    if known.name == "ImageNet":
        return True
    return count == len(known.classes) and (
        target.named or list(known.classes) == sorted(known.classes)
    )


def _in_order(classes: Sequence[str], target: _ModelClasses, rule: str) -> ClassMatch:
    if len(classes) > len(target.names):
        raise DataError(
            f"{count_noun(len(classes), 'class')} in the data",
            f"{target.model} has {len(target.names)}",
            "give each class with --labels MAP.toml, or leave some out",
        )
    return _match(tuple(range(len(classes))), target, rule)


def _in_order_of_names(
    classes: Sequence[str], target: _ModelClasses, *, sorted_names: bool
) -> ClassMatch:
    """Number the classes for a model without names, where no other order is possible."""
    remedy = (
        "give the model's numbers with --labels MAP.toml (lines such as "
        f'"{classes[0]}" = 0), or --labels {IN_ORDER} for this order'
    )
    order = _listed([f"{name} = {i}" for i, name in enumerate(classes)])
    if len(classes) != len(target.names):
        raise DataError(
            f"{count_noun(len(classes), 'class')} in the data ({order})",
            f"{target.model} has {len(target.names)} classes without names, so which is which "
            "cannot be told",
            remedy,
        )
    others = [
        f"{known.name}'s"
        for known in sets_with(classes)
        if len(known.classes) == len(classes)
        and [known.find(name) for name in classes] != list(range(len(classes)))
    ]
    others += ["that of text (10 before 2)"] if list(classes) != sorted(classes) else []
    if sorted_names and others:
        raise DataError(
            f"order of the classes ({order})",
            f"{target.model} has no names, and may have learned another order, such as {others[0]}",
            remedy,
        )
    return _match(tuple(range(len(classes))), target, "in order, since the model has no names")


def _by_map(
    classes: Sequence[str], target: _ModelClasses, labels: LabelMap, wanted: set[int]
) -> ClassMatch:
    table = labels if isinstance(labels, Mapping) else read_label_map(Path(str(labels)))
    own = _ModelClasses("the label map", tuple(table), named=True)
    numbers: list[int | None] = []
    for name in classes:
        entry = own.by_name(name)
        value = None if entry is None else table[own.names[entry]]
        numbers.append(None if value is None else _mapped(name, value, target))

    absent = [name for i, name in enumerate(classes) if i in wanted and numbers[i] is None]
    if absent:
        raise DataError(
            f"classes {_listed([repr(n) for n in absent])}",
            f"the label map has no line for them; it names {_listed([repr(n) for n in own.names])}",
            f'add lines such as "{absent[0]}" = {_example(absent[0], target)}',
        )
    return _match(tuple(numbers), target, "by the label map")


def _mapped(name: str, value: str | int, target: _ModelClasses) -> int:
    """The number of the model's class that the label map gives for class ``name``."""
    number = value if isinstance(value, int) else target.by_name(value)
    if number is None and isinstance(value, str):
        number = next(
            (
                target.by_alias(known, index)
                for known in known_sets()
                if (index := known.find(value)) is not None
            ),
            None,
        )
    if number is None or not 0 <= number < len(target.names):
        raise DataError(
            f"label map: {name!r} = {value!r}",
            f"{target.model} has no such class; it has {_range(target)}",
            "correct the line",
        )
    return number


def _check_all_matched(
    classes: Sequence[str],
    numbers: Sequence[int | None],
    target: _ModelClasses,
    wanted: set[int],
) -> None:
    """Refuse classes without a number, and show what was found for which."""
    lost = [name for i, name in enumerate(classes) if i in wanted and numbers[i] is None]
    if not lost:
        return
    agreed = [
        f"{name!r} = {target.names[number]}"
        for i, (name, number) in enumerate(zip(classes, numbers, strict=True))
        if i in wanted and number is not None
    ]
    also = f"; these agree: {_listed(agreed)}" if agreed else ""
    raise DataError(
        f"classes {_listed(lost, lambda name: _unmatched(name, target))}",
        f"{target.model} has none of that name; it has {_range(target)}{also}",
        "name the classes as the model does, or give them with --labels MAP.toml (lines such as "
        f'"{lost[0]}" = {_example(lost[0], target)}), or --labels {IN_ORDER} where their order is '
        "the model's",
    )


def _check_distinct(
    classes: Sequence[str],
    numbers: Sequence[int | None],
    target: _ModelClasses,
    wanted: set[int],
) -> None:
    """Refuse two classes of the data that would become one of the model's."""
    first: dict[int, str] = {}
    for i, (name, number) in enumerate(zip(classes, numbers, strict=True)):
        if number is None or i not in wanted:
            continue
        if number in first:
            raise DataError(
                f"classes {first[number]!r} and {name!r}",
                f"both stand for {target.names[number]!r} of {target.model}",
                "merge them, or say so with --labels MAP.toml",
            )
        first[number] = name


def _check_counted_from_zero(classes: Sequence[str], target: _ModelClasses) -> None:
    """Refuse the folders 1 to m taken as class numbers: they may be the classes 0 to m - 1."""
    numbers = [_number(name) for name in classes]
    if len(classes) > 1 and numbers == list(range(1, len(classes) + 1)):
        raise DataError(
            f"classes {classes[0]!r} to {classes[-1]!r}",
            f"{target.model} counts its classes from 0, so these may be 0 to {len(classes) - 1}",
            f'give --labels MAP.toml with lines such as "{classes[0]}" = 1, or --labels '
            f"{IN_ORDER} where {classes[0]} is the model's class 0",
        )


def _match(numbers: tuple[int | None, ...], target: _ModelClasses, rule: str) -> ClassMatch:
    names = tuple("" if number is None else target.names[number] for number in numbers)
    used = len(set(numbers) - {None})
    if used < len(target.names):
        rule += f", {used} of the model's {len(target.names)}"
    return ClassMatch(numbers, names, rule)


def _number(name: str) -> int | None:
    return int(name) if name.isdecimal() and len(name) <= _MOST_DIGITS else None


def _nearest(name: str, target: _ModelClasses) -> str | None:
    """The model's class that looks like ``name``; None without one."""
    by_form = {plain_name(own): own for own in target.names}
    near = difflib.get_close_matches(plain_name(name), list(by_form), n=1)
    return by_form[near[0]] if near else None


def _unmatched(name: str, target: _ModelClasses) -> str:
    near = _nearest(name, target) if target.named else None
    return f"{name!r} = ?" + ("" if near is None else f" (is it {near!r}?)")


def _example(name: str, target: _ModelClasses) -> str:
    """The right side of a line of a label map, to show how it is written."""
    if not target.named:
        return "0"
    return f'"{_nearest(name, target) or "..."}"'


def _range(target: _ModelClasses) -> str:
    if not target.named:
        return f"the numbers 0 to {len(target.names) - 1}"
    return _listed(target.names)


def _listed(names: Sequence[str], show: Callable[[str], str] = str) -> str:
    """A list of at most a few of ``names``, each as ``show`` returns it, and their number."""
    if len(names) <= _SHOWN:
        return ", ".join(map(show, names))
    first = ", ".join(map(show, names[: _SHOWN - 1]))
    return f"{first} ... {show(names[-1])} ({len(names)} in all)"
