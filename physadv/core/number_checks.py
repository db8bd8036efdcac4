"""Checks of numbers that callers state: sizes, counts, seeds."""

from __future__ import annotations

import math

from physadv.core.errors import OptionError


def check_number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    whole: bool = False,
    above: bool = False,
) -> None:
    """Refuse a ``value`` that is no finite number in a range.

    Args:
        name: Name of the setting, for the error.
        value: What the caller stated.
        low: Smallest number that is allowed.
        high: Largest number that is allowed.
        whole: Whether only whole numbers are allowed.
        above: Whether ``low`` itself is not allowed.

    Raises:
        OptionError: ``value`` is no number, no finite one, outside the range, or not whole.

    Example:
        >>> check_number("batch_size", 4, 1, whole=True)
        >>> check_number("batch_size", 0, 1, whole=True)
        Traceback (most recent call last):
        physadv.core.errors.OptionError: batch_size 0: a whole number of at least 1 is needed. \
Correct it.
    """
    try:
        number = math.nan if isinstance(value, str | bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    inside = math.isfinite(number) and low <= number <= high and not (above and number == low)
    if inside and not (whole and number % 1):
        return
    kind = "a whole number" if whole else "a finite number"
    lowest = f" above {low:g}" if above else f" of at least {low:g}"
    limits = lowest if low >= 0 else ""
    limits += f", at most {high:g}" if math.isfinite(high) else ""
    raise OptionError(f"{name} {value!r}", f"{kind}{limits} is needed", "Correct it")


def check_whole(low: float = 1, **values: object) -> None:
    """Refuse values, named by their keywords, that are no whole numbers of ``low`` or more; None
    stands for a setting that is not stated.

    Raises:
        OptionError: One of ``values`` is none.

    Example:
        >>> check_whole(limit=None, batch_size=8)
    """
    for name, value in values.items():
        if value is not None:
            check_number(name, value, low, whole=True)
