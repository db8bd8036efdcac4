"""Parsing of JSON, TOML, YAML, XML and numbers from elsewhere: within bounds of size, depth and
range, with one kind of error whatever is wrong."""

from __future__ import annotations

import json
import math
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import yaml

from physadv.core.errors import DataError, PhysadvError

Parsed = TypeVar("Parsed")

_MOST_VALUES = 16_000_000
"""Most values in a JSON text; each takes some 60 bytes, so that it stays under 1 GB in memory."""
_MOST_TOML = 4 << 20
"""Longest TOML text in characters: its parser takes about a second for 1 MB."""
_MOST_YAML = 1 << 20
"""Longest YAML text in characters: its parser takes about 10 s for 1 MB."""
_MOST_DOTS = 200
"""Most parts of a dotted key in TOML, whose parser takes the square of their number."""
_MOST_ELEMENTS = 1_000_000
_DEEPEST = 100
"""Most elements within each other in XML."""
_LARGEST_WHOLE = 1 << 64
"""Bound of whole numbers, above that of seeds; larger ones overflow floats, sizes and indices."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_CONSTANT = re.compile(r"[:\[,]\s*(NaN|-?Infinity)\b")
_ODD_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])|\\U0000(?:0000|[dD][89a-fA-F])")


def parse_json(
    text: str,
    name: str,
    *,
    finite: bool = True,
    error: type[PhysadvError] = DataError,
    remedy: str = "Correct the file",
) -> Any:
    """Parse JSON that may come from anyone.

    Args:
        text: The text.
        name: Name of the file, for errors.
        finite: Whether NaN and infinity are refused; our own rows may hold them.
        error: Class of the error to raise.
        remedy: What the reader of that error should do.

    Returns:
        Dictionaries, lists, text, numbers, True, False and None.

    Raises:
        PhysadvError: Of class ``error``: the text is no JSON, holds a key twice, a number that is
            not finite or a whole one of more than 64 bits, a null character, or too many or too
            deeply nested values.

    Example:
        >>> parse_json('{"rate": 0.5}', "rates.json")
        {'rate': 0.5}
    """
    if text.count(",") + text.count("[") + text.count("{") > _MOST_VALUES:
        limit = f"At most {_MOST_VALUES:,} values are read"
        raise error(f"'{name}' holds more values", limit, "Keep those needed")
    with _as_one_error("JSON", name, error, remedy):
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant if finite else None,
            parse_float=_finite if finite else None,
            parse_int=_whole,
        )
        _check_characters(text, value)
        return value


def parse_json_as(
    text: str,
    kind: type[Parsed],
    name: str,
    *,
    what: str = "",
    error: type[PhysadvError] = DataError,
    remedy: str = "Correct the file",
) -> Parsed:
    """Parse JSON straight to a type; what the type does not name is skipped unread.

    This is for large files of which little is needed.

    Args:
        text: The text.
        kind: The type, such as a ``msgspec.Struct``; text in place of a number is converted.
        name: Name of the file, for errors.
        what: What the file is called that has this form, such as "COCO file".
        error: Class of the error to raise.
        remedy: What the reader of that error should do.

    Returns:
        An instance of ``kind``.

    Raises:
        PhysadvError: Of class ``error``: the text is no JSON or of another form.

    Example:
        >>> parse_json_as('{"rate": 1, "rest": [2, 3]}', dict[str, float | list[int]], "a.json")
        {'rate': 1.0, 'rest': [2, 3]}
    """
    try:
        return msgspec.json.decode(text, type=kind, strict=False)
    except msgspec.ValidationError as fault:
        raise error(f"'{name}'", f"it is no {what} ({_in_words(fault)})", remedy) from fault
    except (msgspec.DecodeError, RecursionError, ValueError) as fault:
        constant = _CONSTANT.search(text)
        why = f"{constant[1]} is no number of JSON" if constant else _in_words(fault)
        raise error(f"'{name}'", f"it is no valid JSON ({why})", remedy) from fault


def parse_toml(
    text: str,
    name: str,
    *,
    finite: bool = True,
    error: type[PhysadvError] = DataError,
    remedy: str = "Correct the file",
) -> dict[str, Any]:
    """Parse TOML that may come from anyone.

    Args:
        text: The text.
        name: Name of the file, for errors.
        finite: Whether NaN and infinity are refused; a card holds them for rates of no sample.
        error: Class of the error to raise.
        remedy: What the reader of that error should do.

    Returns:
        The table.

    Raises:
        PhysadvError: Of class ``error``: the text is no TOML, longer than 4 million characters, or
            holds a number that is not finite or a whole one of more than 64 bits, a null
            character, or too deeply nested values.

    Example:
        >>> parse_toml("width_mm = 190", "card.toml")
        {'width_mm': 190}
    """
    with _as_one_error("TOML", name, error, remedy):
        if len(text) > _MOST_TOML:
            raise ValueError(f"{len(text)} characters, at most {_MOST_TOML} are read")
        _check_dots(text)
        table = tomllib.loads(text, parse_float=_finite if finite else float)
        _check_whole_numbers(table)
        _check_characters(text, table)
        return table


def parse_yaml(
    text: str,
    name: str,
    *,
    error: type[PhysadvError] = DataError,
    remedy: str = "Correct the file",
) -> Any:
    """Parse YAML as text alone: no tag makes an object, and ``no`` stays the word.

    Args:
        text: The text.
        name: Name of the file, for errors.
        error: Class of the error to raise.
        remedy: What the reader of that error should do.

    Returns:
        Dictionaries, lists and text.

    Raises:
        PhysadvError: Of class ``error``: the text is no YAML, longer than a million characters, too
            deeply nested, or repeats parts by aliases, which may multiply.

    Example:
        >>> parse_yaml("names: [yes, no]", "data.yaml")
        {'names': ['yes', 'no']}
    """
    with _as_one_error("YAML", name, error, remedy):
        if len(text) > _MOST_YAML:
            raise ValueError(f"{len(text)} characters, at most {_MOST_YAML} are read")
        try:
            return yaml.load(text, Loader=_PlainLoader)
        except yaml.YAMLError as fault:
            raise ValueError(_in_words(fault)) from fault


class _PlainLoader(yaml.BaseLoader):  # type: ignore[misc]
    """Loader of text, lists and tables, without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it repeats parts by aliases")
        return super().compose_node(parent, index)


def parse_xml(
    data: bytes,
    name: str,
    *,
    error: type[PhysadvError] = DataError,
    remedy: str = "Save it again",
) -> ElementTree.Element:
    """Parse XML without a document type, so that no entity is ever expanded or fetched.

    Args:
        data: The bytes, which declare their own encoding.
        name: Name of the file, for errors.
        error: Class of the error to raise.
        remedy: What the reader of that error should do.

    Returns:
        The outermost element.

    Raises:
        PhysadvError: Of class ``error``: the bytes are no XML, declare a document type, or hold too
            many or too deeply nested elements.

    Example:
        >>> parse_xml(b"<annotation/>", "0.xml").tag
        'annotation'
    """
    with _as_one_error("XML", name, error, remedy):
        return ElementTree.fromstring(data, ElementTree.XMLParser(target=_BoundedTree()))


def parse_number(
    text: str,
    name: str,
    where: str,
    *,
    most: float = 1e9,
    error: type[PhysadvError] = DataError,
    remedy: str = "Correct the line",
) -> float:
    """Return the finite number that a text holds.

    Args:
        text: The text; spaces around the number do not count.
        name: What the number is, for errors.
        where: Its place, for errors.
        most: Largest magnitude.
        error: Class of the error to raise.
        remedy: What the reader of that error should do.

    Raises:
        PhysadvError: Of class ``error``: the text holds no number, NaN, an infinite one, or one
            beyond ``most``.

    Example:
        >>> parse_number(" 12.5", "x0", "boxes.csv:2")
        12.5
    """
    value = float(text) if _NUMBER.fullmatch(text.strip()) else math.nan
    if not math.isfinite(value):
        shown = repr(text.strip()[:40])
        raise error(f"'{where}': {name} is {shown}", "A finite number is needed", remedy)
    if abs(value) > most:
        limit = f"At most {most:g} is sensible"
        raise error(f"'{where}': {name} is {value:g}", limit, remedy)
    return value


def parse_whole_number(
    text: str,
    name: str,
    where: str,
    *,
    least: int = 0,
    most: int = 1_000_000_000,
    error: type[PhysadvError] = DataError,
    remedy: str = "Correct the line",
) -> int:
    """Return the whole number that a text holds.

    Args:
        text: The text; spaces around the number do not count.
        name: What the number is, for errors.
        where: Its place, for errors.
        least: Smallest number allowed.
        most: Largest number allowed.
        error: Class of the error to raise.
        remedy: What the reader of that error should do.

    Raises:
        PhysadvError: Of class ``error``: the text holds no whole number from ``least`` to ``most``.

    Example:
        >>> parse_whole_number(" 12", "ClassId", "Test.csv:2")
        12
    """
    plain = text.strip()
    value = int(plain) if _WHOLE_NUMBER.fullmatch(plain) else None
    if value is None or not least <= value <= most:
        limit = f"A whole number from {least} to {most} is needed"
        raise error(f"'{where}': {name} is {plain[:40]!r}", limit, remedy)
    return value


@contextmanager
def _as_one_error(form: str, name: str, error: type[PhysadvError], remedy: str) -> Iterator[None]:
    """Turn whatever a parser raises into one error that says which form the text has not."""
    try:
        yield
    except PhysadvError:
        raise
    except RecursionError as fault:
        raise error(f"'{name}'", f"it is no sane {form} (nested too deeply)", remedy) from fault
    except (ElementTree.ParseError, ArithmeticError, LookupError, TypeError, ValueError) as fault:
        raise error(f"'{name}'", f"it is no valid {form} ({_in_words(fault)})", remedy) from fault


def _in_words(fault: BaseException) -> str:
    """Return what an error says, in one short line."""
    if isinstance(fault, KeyError):
        return f"{fault.args[0] if fault.args else ''!r} is missing"[:120]
    if isinstance(fault, RecursionError):
        return "nested too deeply"
    words = " ".join(str(fault).split()) or type(fault).__name__
    return words if len(words) <= 120 else f"{words[:117]}..."


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)[:40]!r} twice")
    return table


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word[:40]} is not finite")
    return value


def _whole(word: str) -> int:
    if len(word) > 21:
        raise ValueError(f"a whole number of {len(word)} digits")
    value = int(word)
    if abs(value) > _LARGEST_WHOLE:
        raise ValueError(f"{word} is more than 64 bits hold")
    return value


def _each(value: Any) -> Iterator[Any]:
    """Yield every value and key within ``value``."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            waiting += each
        else:
            yield each


def _check_whole_numbers(table: dict[str, Any]) -> None:
    for each in _each(table):
        if isinstance(each, int) and abs(each) > _LARGEST_WHOLE:
            raise ValueError("a whole number of more than 64 bits")


def _check_characters(text: str, value: Any) -> None:
    """Refuse null characters and halves of surrogate pairs, which no file name or output takes.

    The halves in which Python keeps a file name that is not UTF-8 are allowed: rows record them.
    """
    if not _ODD_ESCAPE.search(text):
        return
    for each in _each(value):
        if not isinstance(each, str):
            continue
        if "\0" in each:
            raise ValueError("a text holds a null character")
        each.encode("utf-8", "surrogateescape")


def _check_dots(text: str) -> None:
    """Refuse keys of very many parts, which take the square of their number to read."""
    for line in text.splitlines():
        if line.count(".") <= _MOST_DOTS:
            continue
        if any(part.count(".") > _MOST_DOTS for part in re.split(r"[=,{}\[\]]", line)):
            raise ValueError(f"a key of more than {_MOST_DOTS} parts")


class _BoundedTree(ElementTree.TreeBuilder):
    """Tree of XML elements that refuses document types and excesses while it is built."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._count = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type")

    def start(self, tag: str, attrs: dict[Any, Any], /) -> ElementTree.Element:
        self._depth, self._count = self._depth + 1, self._count + 1
        if self._depth > _DEEPEST:
            raise ValueError("nested too deeply")
        if self._count > _MOST_ELEMENTS:
            raise ValueError(f"more than {_MOST_ELEMENTS} elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)
