"""Fields of Protocol Buffers messages, read within the bounds of their bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types of Protocol Buffers."""
_LONGEST_VARINT, _LARGEST_FIELD = 10, (1 << 29) - 1


def message_in(message: memoryview, field: int) -> memoryview:
    """Return the message in ``field`` of a ``message``; an empty one where there is none.

    One that stands there several times is merged, as every library does that reads the format.
    """
    found = messages_in(message, field)
    return found[0] if len(found) == 1 else memoryview(b"".join(found))


def text_in(message: memoryview, field: int) -> str:
    """Return the text in ``field`` of a ``message``, the last where there are several; "" where
    there is none."""
    found = messages_in(message, field)
    return str(found[-1], "utf-8") if found else ""


def number_in(message: memoryview, field: int, default: int = 0) -> int:
    """Return the whole number in ``field`` of a ``message``, the last where there are several, or
    the ``default``."""
    return next(reversed(numbers_in(message, field)), default)


def messages_in(message: memoryview, field: int) -> list[memoryview]:
    """Return everything with a length in ``field`` of a ``message``."""
    return [v for n, v in fields_of(message) if n == field and isinstance(v, memoryview)]


def numbers_in(message: memoryview, field: int) -> list[int]:
    """Return the whole numbers in ``field`` of a ``message``, which may be packed into one run of
    bytes."""
    numbers: list[int] = []
    for number, value in fields_of(message):
        if number != field:
            continue
        if isinstance(value, int):
            numbers.append(value)
            continue
        position = 0
        while position < len(value):
            found, position = _varint(value, position)
            numbers.append(found)
    return numbers


def floats_in(message: memoryview, field: int) -> list[float]:
    """Return the floats of four bytes in ``field`` of a ``message``, one by one or packed."""
    runs = messages_in(message, field)
    return [value for run in runs for (value,) in struct.iter_unpack("<f", run)]


def signed(number: int) -> int:
    """Return the whole number of 64 bits, with its sign, that is stored as ``number``."""
    return number - (1 << 64) if number >= 1 << 63 else number


def fields_of(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of every field of a ``message``.

    Raises:
        ValueError: The bytes are no message.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, wire_type = key >> 3, key & 7
        if not 0 < field <= _LARGEST_FIELD:  # of which other libraries take the lower bits
            raise ValueError(f"no field {field} exists")
        if wire_type == _VARINT:
            number, position = _varint(message, position)
            yield field, number
            continue

        if wire_type == _LENGTH:
            length, position = _varint(message, position)
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if wire_type == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"no field of type {wire_type} exists")
        if length > len(message) - position:
            raise ValueError("it ends too early")
        yield field, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The whole number at ``position``, seven bits a byte, the lowest first, and the position after
    it."""
    number = 0
    for count, byte in enumerate(message[position : position + _LONGEST_VARINT]):
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80 and number < 1 << 64:
            return number, position + count + 1
    raise ValueError("it ends too early")
