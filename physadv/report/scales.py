"""Scales of the axes of charts: positions and round values to write beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from physadv.studies.page import Axis

_MOST_DECADES = 7


@dataclass(frozen=True)
class Scale:
    """Maps values of an axis to chart units.

    Args:
        axis: The axis.
        low: First value.
        high: Last value, above ``low``.
        start: Chart units of ``low``.
        end: Chart units of ``high``; less than ``start`` for an axis that points up.
    """

    axis: Axis
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of ``value`` in chart units, at most at the ends of the axis."""
        low, high = self._along(self.low), self._along(self.high)
        at = low if value <= 0 and self.axis.scale == "log" else self._along(value)
        share = (at - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _along(self, value: float) -> float:
        return log10(value) if self.axis.scale == "log" else value

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values within the axis, at most ``most`` of them where it is linear."""
        if self.axis.ticks:
            return [value for value in self.axis.ticks if self.low <= value <= self.high]
        if self.axis.scale == "log":
            return log_ticks(self.low, self.high)
        return linear_ticks(self.low, self.high, most)


def scale_of(axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
    """Return the scale of ``axis`` that shows all finite ``values``, between round ends.

    Args:
        axis: The axis; its own ends come first.
        values: Values to show.
        start: Chart units of the first value.
        end: Chart units of the last value.
    """
    usable = [v for v in values if isfinite(v) and (v > 0 or axis.scale == "linear")]
    low = axis.low if axis.low is not None else min(usable, default=1.0)
    high = axis.high if axis.high is not None else max(usable, default=2.0)

    if axis.scale == "log":
        low, high = max(low, 1e-300), max(high, 2e-300)
        if high <= low:
            low, high = low / 2, low * 2
        if axis.low is None:
            low /= (high / low) ** 0.03
        if axis.high is None:
            high *= (high / low) ** 0.03
        return Scale(axis, low, high, start, end)

    if high <= low:
        low, high = (low - 0.5, low + 0.5) if axis.low is None else (low, low + 1.0)
    step = _round_step((high - low) / 5)
    if axis.low is None:
        low = floor(low / step + 1e-9) * step
    if axis.high is None:
        high = ceil(high / step - 1e-9) * step
    return Scale(axis, low, high, start, end)


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values from ``low`` to ``high``.

    Args:
        low: First value of the axis.
        high: Last value of the axis.
        most: Largest number of values, at least 2.

    Example:
        >>> linear_ticks(0.0, 1.0)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    step = _round_step((high - low) / max(most - 1, 1))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten within an axis from ``low`` to ``high``, both positive; 2 and 5 times
    them too where few lie within.

    Example:
        >>> log_ticks(1.0, 100.0)
        [1.0, 10.0, 100.0]
    """
    first, last = floor(log10(low)), ceil(log10(high))
    stride = max(1, ceil((last - first) / _MOST_DECADES))
    decades = [10.0**power for power in range(first, last + 1, stride)]
    within = [v for v in decades if low * 0.999 <= v <= high * 1.001]
    if len(within) >= 3:
        return within
    finer = sorted(m * v for v in decades for m in (1, 2, 5))
    return [v for v in finer if low * 0.999 <= v <= high * 1.001]


def format_tick(value: float, *, percent: bool = False) -> str:
    """Format ``value`` for an axis; shares in percent where ``percent``.

    Example:
        >>> format_tick(0.25, percent=True), format_tick(-0.0), format_tick(1e5)
        ('25 %', '0', '100k')
    """
    if percent:
        return f"{100 * value:.3g} %".replace("-0 %", "0 %")
    if value == 0:
        return "0"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit and abs(value) >= 1e4:
            return f"{value / limit:.3g}{unit}"
    words = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return re.sub(r"e([+-])0+", r"e\1", words).replace("e+", "e")


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least ``step``."""
    power = 10.0 ** floor(log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9))
