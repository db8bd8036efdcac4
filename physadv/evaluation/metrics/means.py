"""Means of measured numbers with their confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its confidence interval.

    Attributes:
        mean: Mean; nan without values.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of values.

    Example:
        >>> print(mean_interval([1.0, 2.0, 3.0]))
        2 [-0.484, 4.48], n = 3
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 0:
            return "no values"
        if self.n < 2:
            return f"{self.mean:.3g}, n = {self.n}"
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}], n = {self.n}"

    def as_dict(self) -> dict[str, float | int]:
        """Return plain values for JSON."""
        return asdict(self)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> MeanInterval:
    """Return the mean of independent values with Student's interval.

    It covers its confidence where the mean is about normally distributed: for values without heavy
    tails from about twenty on.

    Args:
        values: Independent values.
        confidence: Confidence of the interval, in (0, 1).

    Returns:
        The mean with its interval, which is unbounded for fewer than two values.

    Example:
        >>> mean_interval([0.0, 1.0] * 50).n
        100
    """
    n = len(values)
    if n < 2:
        return MeanInterval(float(values[0]) if n else float("nan"), -np.inf, np.inf, n)
    array = np.asarray(values, float)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * array.std(ddof=1) / np.sqrt(n)
    mean = float(array.mean())
    return MeanInterval(mean, float(mean - half), float(mean + half), n)
