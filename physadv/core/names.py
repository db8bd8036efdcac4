"""Names as people type them: compared without case and separators, sorted with numbers by value."""

from __future__ import annotations

import re
import unicodedata

_LEADING_ZEROS = re.compile(r"(?<![\d.,])0+(?=\d)")


def plain_name(name: str) -> str:
    """Return the form in which two spellings of a name are equal.

    Case, spaces, underscores, hyphens and the zeros before a number do not matter; other
    characters do, and so does a space between two numbers.

    Args:
        name: The name.

    Returns:
        The form to compare by; never shown.

    Example:
        >>> plain_name("Stop_Sign") == plain_name("stop sign") == plain_name("StopSign")
        True
        >>> plain_name("00014") == plain_name("14"), plain_name("C++") == plain_name("c")
        (True, False)
    """
    text = unicodedata.normalize("NFKC", name).casefold().strip(" \t_")
    parts = [part for part in re.split(r"(?<!^)[\s_-]+", text) if part]

    joined = ""
    for part in parts:
        between_numbers = joined[-1:].isdigit() and part[:1].isdigit()
        joined += f" {part}" if between_numbers else part

    return _LEADING_ZEROS.sub("", joined)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts the numbers in names by value, so that 2 comes before 10.

    Args:
        name: The name.

    Returns:
        The key, for :func:`sorted`.

    Example:
        >>> sorted(["10", "2", "b10", "b9"], key=natural_key)
        ['2', '10', 'b9', 'b10']
    """
    parts = re.split(r"(\d+)", name)
    return tuple(_part_key(part) for part in parts if part)


def _part_key(part: str) -> tuple[int, int, str]:
    """Sort digits by value: without zeros before them, the longer number is the larger one."""
    if not part.isdecimal():
        return 1, 0, part
    digits = part.lstrip("0")
    return 0, len(digits), f"{digits} {part}"
