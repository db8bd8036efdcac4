"""Every rate with its interval: Wilson for independent trials, bootstrap by cluster for video
frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from physadv.core.errors import OptionError
from physadv.core.random_streams import numpy_generator


@dataclass(frozen=True)
class RateInterval:
    """A share with its confidence interval and the number of trials behind it.

    Attributes:
        rate: The share, in [0, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of trials.

    Example:
        >>> print(wilson_interval(8, 10))
        80.0% [49.0%, 94.3%], n = 10
    """

    rate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return (
            f"{self.rate:.1%} [{self.low:.1%}, {self.high:.1%}], n = {self.n}"
            if self.n
            else "no trials"
        )

    def as_dict(self) -> dict[str, float | int]:
        """Return plain values for JSON."""
        return asdict(self)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> RateInterval:
    """Return a rate with Wilson's score interval (Wilson 1927).

    Args:
        successes: Number of successes.
        n: Number of trials; 0 gives the whole of [0, 1].
        confidence: Confidence of the interval, in (0, 1).

    Returns:
        The rate with its interval.

    Raises:
        OptionError: ``successes`` is negative or more than ``n``.

    Example:
        >>> print(wilson_interval(8, 10))
        80.0% [49.0%, 94.3%], n = 10
    """
    if not 0 <= successes <= n:
        raise OptionError(
            f"{successes} successes of {n}", "0 <= successes <= n", "check the counts"
        )
    if n == 0:
        return RateInterval(float("nan"), 0.0, 1.0, 0)
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return RateInterval(successes / n, float(interval.low), float(interval.high), int(n))


def clustered_interval(
    outcomes: Sequence[bool | int],
    clusters: Sequence[object],
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> RateInterval:
    """Return a rate with its percentile bootstrap over whole clusters, such as clips or people.

    Frames of one clip are not independent. Where the bootstrap is degenerate, with one cluster or
    all clusters alike, the interval is widened to Wilson's with one trial a cluster.

    Args:
        outcomes: One outcome a trial.
        clusters: Cluster of each trial.
        confidence: Confidence of the interval, in (0, 1).
        draws: Number of bootstrap draws.
        seed: Seed of the draws.

    Returns:
        The rate with its interval.

    Example:
        >>> clustered_interval([True] * 4, ["a", "a", "b", "b"]).rate
        1.0
    """
    hits = np.asarray(outcomes, dtype=float)
    names, index = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)
    if hits.size == 0:
        return wilson_interval(0, 0)

    totals = np.bincount(index, minlength=len(names)).astype(float)
    sums = np.bincount(index, weights=hits, minlength=len(names))
    picks = numpy_generator(seed, "bootstrap").integers(0, len(names), (draws, len(names)))
    shares = sums[picks].sum(1) / totals[picks].sum(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    rate = float(hits.mean())
    if np.ptp(sums / totals) == 0:
        spread = wilson_interval(round(rate * len(names)), len(names), confidence)
        low, high = min(low, spread.low), max(high, spread.high)

    return RateInterval(rate, float(min(low, rate)), float(max(high, rate)), int(hits.size))
