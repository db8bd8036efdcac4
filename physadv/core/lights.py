"""Lights of a verdict: green, amber, red."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Light = Literal["green", "amber", "red"]
"""Green: nothing speaks against a figure. Amber: it is in doubt. Red: it means nothing."""
_ORDER: tuple[Light, ...] = ("green", "amber", "red")


def worst_light(lights: Iterable[Light]) -> Light:
    """Return the worst of ``lights``, green where there are none.

    Example:
        >>> worst_light(["amber", "green"]), worst_light([])
        ('amber', 'green')
    """
    return max(lights, key=_ORDER.index, default="green")
