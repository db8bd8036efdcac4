"""Success rates by bins of distance and angle, each with its interval and count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from physadv.core.rows import Row
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval


@dataclass(frozen=True)
class RateGrid:
    """Success by distance (rows of the grid) and yaw (columns); ``cells[i][j]`` is None where
    nothing was measured."""

    distances: list[float]
    yaws: list[float]
    cells: list[list[RateInterval | None]]

    def as_dict(self) -> dict[str, Any]:
        """Return edges and cells as plain values."""
        cells = [[None if c is None else c.as_dict() for c in row] for row in self.cells]
        return {"distance_edges_m": self.distances, "yaw_edges_deg": self.yaws, "cells": cells}


def bin_edges(values: Sequence[float], most: int) -> list[float]:
    """Return the edges of at most ``most`` equal bins over ``values``, at round numbers; the last
    bin holds its upper edge.

    A bin is at least 5 % of the largest value wide, so that a sign held at one distance is not
    divided by how still the camera was. Values about zero may need 2 bins even where ``most`` is 1.

    Example:
        >>> bin_edges([3.2, 6.8], 4), bin_edges([0.761, 0.779], 4)
        ([3.0, 4.0, 5.0, 6.0, 7.0], [0.75, 0.8])
    """
    low, high = min(values), max(values)
    least = max(0.05 * max(abs(low), abs(high)), 1e-3)
    step = _round_step(max((high - low) / most, least))

    # Rounding outwards can add a bin; the next round step is tried then.
    while True:
        first, last = (
            floor(low / step + 1e-9),
            max(ceil(high / step - 1e-9), floor(low / step + 1e-9) + 1),
        )
        if last - first <= max(most, 2):
            return [round(step * k, 9) for k in range(first, last + 1)]
        step = _round_step(step * 1.01)


def bin_index(value: float, bounds: Sequence[float]) -> int:
    """Return the index of the bin between ``bounds`` that ``value`` falls into."""
    inside = sum(value >= bound for bound in bounds[1:-1])
    return int(inside)


def success_rate(rows: Sequence[Row]) -> RateInterval | None:
    """Return the share of ``rows`` that met the goal, with clips as trials; None without rows."""
    if not rows:
        return None
    return clustered_interval([bool(r["success"]) for r in rows], [str(r["clip"]) for r in rows])


def rate_grid(rows: Sequence[Row], *, most: int = 7) -> RateGrid | None:
    """Sort ``rows`` with known distance and yaw into a grid of at most ``most`` bins a side; None
    where there are none."""
    known = [r for r in rows if r.get("distance_m") is not None and r.get("yaw_deg") is not None]
    if not known:
        return None

    distances = bin_edges([float(r["distance_m"]) for r in known], most)
    yaws = bin_edges([float(r["yaw_deg"]) for r in known], most)

    binned: list[list[list[Row]]] = [[[] for _ in yaws[1:]] for _ in distances[1:]]
    for row in known:
        binned[bin_index(float(row["distance_m"]), distances)][
            bin_index(float(row["yaw_deg"]), yaws)
        ].append(row)
    return RateGrid(distances, yaws, [[success_rate(cell) for cell in line] for line in binned])


def rates_along(
    rows: Sequence[Row], key: str, bounds: Sequence[float]
) -> list[RateInterval | None]:
    """Return the success rate in each bin of a measured quantity.

    Args:
        rows: Rows of a check.
        key: Field to sort by; rows without it are left out.
        bounds: Edges of the bins.

    Returns:
        One rate a bin, None where it is empty.
    """
    binned: list[list[Row]] = [[] for _ in bounds[1:]]
    for row in rows:
        if row.get(key) is not None:
            binned[bin_index(float(row[key]), bounds)].append(row)
    return [success_rate(cell) for cell in binned]


def _round_step(step: float) -> float:
    """The next of 1, 1.5, 2, 2.5, 5, 10 times a power of ten that is not below ``step``."""
    power = 10.0 ** floor(log10(step))
    return float(next(m * power for m in (1, 1.5, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9)))
