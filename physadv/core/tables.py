"""Typed reading of TOML and JSON tables, with errors that name the key, its type and a remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from physadv.core.errors import DataError, PhysadvError
from physadv.core.parsing import parse_json, parse_toml
from physadv.core.text import read_text

Table = TypeVar("Table")
_PLAIN_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
_MESSAGE = re.compile(r"(?P<what>.*?)(?: - at `\$?\.?(?P<key>.*)`)?$", re.DOTALL)


def read_table(
    path: str | Path,
    *,
    error: type[PhysadvError] = DataError,
    remedy: str = "correct the file",
    missing: str = "check the path",
    form: str = "",
    finite: bool = True,
) -> dict[str, Any]:
    """Return the table in a TOML or JSON file as a dictionary.

    Args:
        path: the file.
        error: class of the error for a file that cannot be parsed.
        remedy: what the reader of that error should do.
        missing: the same for a file that does not exist.
        form: "json" or "toml"; where empty, ``.json`` is read as JSON and anything else as TOML.
        finite: whether NaN and infinity are refused; records of a run may hold them.

    Returns:
        The file's top-level table.

    Raises:
        PhysadvError: of class ``error``, for a file that is missing, too large or no text, does not
            parse or holds no table.
    """
    file = Path(path)
    kind = form.upper() or ("JSON" if file.suffix == ".json" else "TOML")
    text = read_text(file, error=error, remedy=remedy, missing=missing)
    parse = parse_json if kind == "JSON" else parse_toml
    table = parse(text, str(file), finite=finite, error=error, remedy=remedy)
    if not isinstance(table, dict):
        raise error(f"'{file}'", "a table is needed", remedy)
    return table


def read_table_list(path: str | Path) -> list[dict[str, Any]]:
    """Return the tables that a JSON file lists.

    Args:
        path: The file.

    Returns:
        The tables, in order.

    Raises:
        DataError: The file is missing, cannot be parsed, or holds anything but a list of tables.
    """
    tables = parse_json(read_text(path), str(path), finite=False)
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise DataError(f"'{path}'", "a list of tables is needed", "Make it anew")
    return tables


def parse_table(
    table: Mapping[str, Any],
    kind: type[Table],
    *,
    name: str = "",
    error: type[PhysadvError] = DataError,
    remedy: str = "correct it",
) -> Table:
    """Convert a plain table to a dataclass, checking every key and type.

    Args:
        table: keys and values as TOML or JSON has them; lists stand for tuples.
        kind: the dataclass to build; its fields may be dataclasses themselves.
        name: where the table comes from, for errors.
        error: class of the error to raise.
        remedy: what the reader of that error should do.

    Returns:
        An instance of ``kind``.

    Raises:
        PhysadvError: of class ``error``, for an unknown key (with the nearest known one), a missing
            key, and a value of the wrong type.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Size:
        ...     width_mm: float
        >>> parse_table({"width_mm": 190}, Size)
        Size(width_mm=190.0)
    """
    check_keys(table, kind, name=name, error=error, remedy=remedy)
    parsed: Table = convert_value(dict(table), kind, name=name, error=error, remedy=remedy)
    return parsed


def check_keys(
    table: Mapping[str, Any],
    kind: type[Any],
    *,
    name: str = "",
    error: type[PhysadvError] = DataError,
    remedy: str = "correct it",
) -> None:
    """Check that every key of a table, at any depth, is a field of a dataclass.

    Args:
        table: keys and values as TOML or JSON has them.
        kind: the dataclass.
        name: where the table comes from, for errors.
        error: class of the error to raise.
        remedy: what the reader of that error should do where no known key is near.

    Raises:
        PhysadvError: of class ``error``, for an unknown key, with the nearest known one.
    """
    for key, known in _unknown_keys(table, kind):
        near = get_close_matches(key.rpartition(".")[2], known, 1)
        hint = f"did you mean {near[0]!r}?" if near else remedy
        place = f"{name}: " if name else ""
        raise error(f"{place}unknown key {key!r}", f"known: {', '.join(known)}", hint)


def convert_value(
    value: Any,
    kind: Any,
    *,
    key: str = "",
    name: str = "",
    error: type[PhysadvError] = DataError,
    remedy: str = "correct it",
) -> Any:
    """Convert a plain value to a type: lists to tuples, whole numbers to float, tables to
    dataclasses.

    Args:
        value: text, number, yes/no, None, or lists and dictionaries of them.
        kind: the type; a union, tuple or dataclass of such types is one as well.
        key: name of the value, for errors.
        name: where the value comes from, for errors.
        error: class of the error to raise.
        remedy: what the reader of that error should do.

    Returns:
        The value as ``kind`` has it.

    Raises:
        PhysadvError: of class ``error``, for a value of another type or without a required key.

    Example:
        >>> convert_value([1, 2], tuple[float, float])
        (1.0, 2.0)
    """
    try:
        converted = msgspec.convert(value, kind)
        if (endless := _not_finite(converted, key)) is not None:
            place = f"{name}: " if name else ""
            raise error(f"{place}{endless}", "a finite number is needed", remedy)
        return converted
    except UnicodeEncodeError as wrong:  # bytes of the command line that are no UTF-8
        place = f"{name}: " if name else ""
        raise error(f"{place}{key} = {value!a}", "it is no UTF-8 text", remedy) from wrong
    except msgspec.ValidationError as wrong:
        inner, need = _in_words(str(wrong))
        if choices := _choices_at(kind, inner):
            need = f"{' or '.join(map(repr, choices))} is needed"
        dotted = f"{key}.{inner}".strip(".").replace(".[", "[")
        actual = _value_at(value, inner)
        shown = dotted if need == "is missing" else f"{dotted} = {actual!r}"
        place = f"{name}: " if name else ""
        raise error(f"{place}{shown}", need, remedy) from wrong


def _not_finite(value: Any, key: str) -> str | None:
    """Name the first number among typed values that is NaN or infinite; None where none is."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{key} = {value}"
    if is_dataclass(value):
        inner = ((f"{key}.{f.name}".lstrip("."), getattr(value, f.name)) for f in fields(value))
    elif isinstance(value, list | tuple):
        inner = ((f"{key}[{number}]", each) for number, each in enumerate(value))
    else:  # tables of free keys are not typed
        return None
    return next((found for name, each in inner if (found := _not_finite(each, name))), None)


def _unknown_keys(
    table: Mapping[str, Any], kind: Any, prefix: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """Each key that no field has, dotted, with the names of the fields at its place."""
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for key, value in table.items():
        if key not in known:
            yield f"{prefix}{key}", known
            continue

        # A field that is itself a dataclass, or may be one, is checked key by key as well.
        options = (hints[key], *get_args(hints[key]))
        inner = next((o for o in options if isinstance(o, type) and is_dataclass(o)), None)
        if inner is not None and isinstance(value, Mapping):
            yield from _unknown_keys(value, inner, f"{prefix}{key}.")


def _in_words(message: str) -> tuple[str, str]:
    """The key and the need in a message of msgspec."""
    match = _MESSAGE.fullmatch(message)
    what, key = (match["what"], match["key"] or "") if match else (message, "")

    missing = re.search(r"missing required field `(\w+)`", what)
    if missing:
        return f"{key}.{missing[1]}".lstrip("."), "is missing"

    expected = re.match(r"Expected `(.*?)`(?: of length (\d+))?", what)
    if expected is None:
        return key, what
    kinds = [_PLAIN_NAMES.get(k, k) for k in expected[1].split(" | ") if k != "null"]
    length = f" of {expected[2]}" if expected[2] else ""
    return key, f"{' or '.join(kinds)}{length} is needed"


def _choices_at(kind: Any, key: str) -> tuple[Any, ...]:
    """The values that a field at a dotted key of a dataclass may have, where it lists them."""
    for part in filter(None, key.split(".")):
        hints = get_type_hints(kind) if is_dataclass(kind) else {}
        if part not in hints:
            return ()
        kind = hints[part]
    return get_args(kind) if get_origin(kind) is Literal else ()


def _value_at(table: Any, key: str) -> Any:
    """The value at a dotted key, or None where there is none."""
    for part in re.findall(r"\w+", key):
        if isinstance(table, Mapping):
            table = table.get(part)
        elif (
            isinstance(table, list | tuple)
            and part.isascii()
            and part.isdigit()
            and int(part) < len(table)
        ):
            table = table[int(part)]
        else:
            break
    return table
