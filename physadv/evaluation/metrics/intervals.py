"""Every rate with its interval: Wilson's for independent trials, Gaffke's for trials in clusters
such as video frames, and one by betting for data that decided when to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from physadv.core.errors import OptionError
from physadv.core.wording import count_noun, format_ends, format_percent

_Array = npt.NDArray[np.float64]

LEAST_CLUSTERS = 2
"""Clusters below which a rate has no interval."""
_LOG_FREQUENCIES = np.arange(-24.0, 24.0, 0.1)
_CERTAIN = 8.0
_LEAST_MEAN, _RUIN = 1e-6, -1 + 1e-15
_nodes, _node_weights = np.polynomial.legendre.leggauss(128)
_STAKES, _STAKE_WEIGHTS = (_nodes + 1) / 2, _node_weights / 2


@dataclass(frozen=True)
class RateInterval:
    """A share with its confidence interval and the number of trials behind it.

    Attributes:
        rate: The share, in [0, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of trials.
        clusters: Number of clusters that the interval treats as trials; None where trials are
            independent.

    Example:
        >>> print(wilson_interval(8, 10))
        80.0 % [49.0 %, 94.3 %], n = 10
    """

    rate: float
    low: float
    high: float
    n: int
    clusters: int | None = None

    def __str__(self) -> str:
        if self.n == 0:
            return "no trials"
        if self.too_few:
            return f"{format_percent(self.rate)} (too few clusters for an interval), n = {self.n}"
        ends = format_ends(self.low, self.high, 1)
        return f"{format_percent(self.rate)} {ends}, n = {self.n}"

    def of(self, noun: str) -> str:
        """Return the share for the middle of a sentence, with its ends and what it is a share of.

        Args:
            noun: What was tried, in the singular.

        Example:
            >>> wilson_interval(8, 10).of("image")
            '80.0 % [49.0 %, 94.3 %] of 10 images'
        """
        tried = count_noun(self.n, noun)
        if self.n == 0:
            return f"none of {tried}"
        if self.too_few:
            return f"{format_percent(self.rate)} of {tried} (too few for an interval)"
        ends = format_ends(self.low, self.high, 1)
        return f"{format_percent(self.rate)} {ends} of {tried}"

    @property
    def too_few(self) -> bool:
        """Whether there are too few trials or clusters for an interval, which is then [0, 1]."""
        return self.n == 0 or (self.clusters is not None and self.clusters < LEAST_CLUSTERS)

    def as_dict(self) -> dict[str, float | int]:
        """Return plain values for JSON; ``clusters`` only where there are some."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class DifferenceInterval:
    """A difference of two shares with its 95 % confidence interval.

    Attributes:
        value: Second share less the first, in [-1, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
        paired: Whether both shares are of the same trials, compared one by one.

    Example:
        >>> print(difference_interval(wilson_interval(30, 40), wilson_interval(18, 40)))
        -30.0 points [-47.9, -8.5]
    """

    value: float
    low: float
    high: float
    paired: bool = False

    def __str__(self) -> str:
        if self.too_few:
            return f"{100 * self.value:+z.1f} points (too few clusters for an interval)"
        return f"{100 * self.value:+z.1f} points [{100 * self.low:+z.1f}, {100 * self.high:+z.1f}]"

    @property
    def too_few(self) -> bool:
        """Whether the interval excludes nothing."""
        return self.low <= -1 and self.high >= 1

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes "no difference"."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, float | bool]:
        """Return plain values for JSON."""
        return asdict(self)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> RateInterval:
    """Return a rate with Wilson's score interval (Wilson 1927), for independent trials.

    It covers its confidence on average over rates; single rates near 0 or 1 of few trials get a few
    points less (Brown, Cai and DasGupta 2001).

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
        80.0 % [49.0 %, 94.3 %], n = 10
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
    outcomes: Sequence[bool | float], clusters: Sequence[object], *, confidence: float = 0.95
) -> RateInterval:
    """Return a rate with an interval that treats whole clusters, such as clips or people, as
    trials.

    Frames of one clip are not independent, and how alike they are is not known. The interval is
    Gaffke's (2005; Learned-Miller and Thomas 2019): the clusters' rates, weighted by Dirichlet
    draws, with one more cluster of rate 0 for the lower end and 1 for the upper one. It assumes
    nothing about the spread within or between clusters, and equals that of Clopper and Pearson
    (1934) where each cluster is one trial. Clusters of unequal size weigh by their trials; the
    further cluster has the size-weighted mean size, which simulation chose
    (``benchmarks/coverage.py``).

    Args:
        outcomes: One outcome a trial, or a share in [0, 1].
        clusters: Cluster of each trial.
        confidence: Confidence of the interval, in (0.5, 1).

    Returns:
        The rate with its interval; the whole of [0, 1] for fewer than two clusters.

    Example:
        >>> print(clustered_interval([True] * 40, [k // 10 for k in range(40)]))
        100.0 % [39.8 %, 100.0 %], n = 40
    """
    return _by_cluster(outcomes, clusters, confidence, _gaffke_lower)


def sequential_interval(
    outcomes: Sequence[bool | int], clusters: Sequence[object], *, confidence: float = 0.95
) -> RateInterval:
    """Return a rate with an interval that still covers when the data decided when to stop.

    It is the confidence sequence by betting of Waudby-Smith and Ramdas (2024): a mean is excluded
    once the capital of a bet against it, averaged over all stakes, exceeds 2 / (1 - confidence).
    By Ville's inequality (1939) the probability that any of the intervals of a growing sample
    misses the mean is at most 1 - confidence, so it may be looked at after every cluster.

    Args:
        outcomes: One outcome a trial.
        clusters: Cluster of each trial.
        confidence: Confidence of the interval, in (0.5, 1).

    Returns:
        The rate with its interval, wider than that of :func:`clustered_interval`; the whole of
        [0, 1] for fewer than two clusters.

    Example:
        >>> print(sequential_interval([True] * 40, [k // 10 for k in range(40)]))
        100.0 % [28.9 %, 100.0 %], n = 40
    """
    return _by_cluster(outcomes, clusters, confidence, _betting_lower)


def difference_interval(first: RateInterval, second: RateInterval) -> DifferenceInterval:
    """Return the difference of two independent shares, with an interval from those of the shares.

    Each end takes the squares of the distances from share to end (Newcombe 1998; Zou and Donner
    2008), whatever interval the shares have.

    Args:
        first: Share that is subtracted.
        second: Share that it is subtracted from.

    Returns:
        The difference with its interval; the whole of [-1, 1] where a share has none.

    Example:
        >>> difference_interval(wilson_interval(30, 40), wilson_interval(18, 40)).is_clear
        True
    """
    value = second.rate - first.rate
    if first.too_few or second.too_few:
        return DifferenceInterval(value, -1.0, 1.0)
    low = value - np.hypot(second.rate - second.low, first.high - first.rate)
    high = value + np.hypot(second.high - second.rate, first.rate - first.low)
    return DifferenceInterval(value, max(float(low), -1.0), min(float(high), 1.0))


def paired_share_difference(
    first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95
) -> DifferenceInterval:
    """Return the difference of two shares of the same independent trials, such as images.

    It is method 10 of Newcombe (1998): the squares of the distances from each share to its Wilson
    limits, added with the correlation of both outcomes.

    Args:
        first: Outcome of each trial, whose share is subtracted.
        second: Outcome of the same trials, whose share it is subtracted from.
        confidence: Confidence of the interval, in (0, 1).

    Returns:
        The difference with its interval; [-1, 1] for no trials.

    Raises:
        OptionError: The outcomes are not of the same number of trials.

    Example:
        >>> before = [True] * 80 + [False] * 20
        >>> print(paired_share_difference(before, [True] * 70 + [False] * 30))
        -10.0 points [-16.5, -3.8]
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise OptionError(f"{len(a)} and {len(b)} outcomes", "one of each trial", "Pair them")
    n = len(a)
    if n == 0:
        return DifferenceInterval(0.0, -1.0, 1.0, paired=True)

    both, neither = float((a & b).sum()), float((~a & ~b).sum())
    lost, gained = float((a & ~b).sum()), float((~a & b).sum())
    # The correlation is corrected towards 0 where it is positive, which widens the interval.
    excess = both * neither - lost * gained
    excess = max(excess - n / 2, 0.0) if excess > 0 else excess
    spread = np.sqrt((both + lost) * (gained + neither) * (both + gained) * (lost + neither))
    phi = excess / spread if spread else 0.0

    one = wilson_interval(int(a.sum()), n, confidence)
    two = wilson_interval(int(b.sum()), n, confidence)

    def distance(from_two: float, from_one: float) -> float:
        return float(np.sqrt(from_two**2 - 2 * phi * from_two * from_one + from_one**2))

    value = two.rate - one.rate
    below = distance(two.rate - two.low, one.high - one.rate)
    above = distance(two.high - two.rate, one.rate - one.low)
    return DifferenceInterval(value, max(value - below, -1), min(value + above, 1), paired=True)


def paired_difference(
    first: Sequence[bool | float],
    second: Sequence[bool | float],
    clusters: Sequence[object],
    *,
    sequential: bool = False,
    confidence: float = 0.95,
) -> DifferenceInterval:
    """Return the difference of two shares of the same trials, such as frames of the same paths.

    A trial's difference lies in [-1, 1]; its half above -1 is a share, which gets the interval of
    :func:`clustered_interval` or :func:`sequential_interval`.

    Args:
        first: Outcome of each trial, or a share, that is subtracted.
        second: Outcome of the same trial that it is subtracted from.
        clusters: Cluster of each trial.
        sequential: Whether the data could decide how many trials there are.
        confidence: Confidence of the interval, in (0.5, 1).

    Returns:
        The difference with its interval; the whole of [-1, 1] for fewer than two clusters.

    Example:
        >>> first, second = [True] * 20, [False] * 20
        >>> print(paired_difference(first, second, [k // 2 for k in range(20)]))
        -100.0 points [-100.0, -38.3]
    """
    halves = (np.asarray(second, dtype=float) - np.asarray(first, dtype=float) + 1) / 2
    lower_end = _betting_lower if sequential else _gaffke_lower
    found = _by_cluster(halves, clusters, confidence, lower_end)
    return DifferenceInterval(
        2 * found.rate - 1, 2 * found.low - 1, 2 * found.high - 1, paired=True
    )


def _by_cluster(
    outcomes: Sequence[bool | float] | _Array,
    clusters: Sequence[object],
    confidence: float,
    lower_end: Callable[[_Array, _Array, float], float],
) -> RateInterval:
    """Return the rate with the interval whose ends ``lower_end`` gives for hits and for misses."""
    hits = np.asarray(outcomes, dtype=float)
    if hits.size == 0:
        return wilson_interval(0, 0)

    names, index = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)
    rate, n = float(hits.mean()), int(hits.size)
    if len(names) < LEAST_CLUSTERS:
        return RateInterval(rate, 0.0, 1.0, n, len(names))

    sizes = np.bincount(index).astype(float)
    shares = np.bincount(index, weights=hits) / sizes
    tail = (1 - confidence) / 2
    low, high = lower_end(shares, sizes, tail), 1 - lower_end(1 - shares, sizes, tail)
    return RateInterval(rate, min(low, rate), max(high, rate), n, len(names))


def _gaffke_lower(shares: _Array, sizes: _Array, tail: float) -> float:
    """Return the ``tail`` quantile of the weighted mean of ``shares`` (k,) and a further 0."""
    rate = float((sizes * shares).sum() / sizes.sum())
    if rate == 0:
        return 0.0

    # Equal clusters share one factor of the characteristic function.
    kinds, counts = np.unique(np.stack([shares, sizes]), axis=1, return_counts=True)
    further = (sizes**2).sum() / sizes.sum()
    values, weights = np.append(kinds[0], 0.0), np.append(kinds[1], further)
    counts = np.append(counts, 1)

    # With exponential weights E, sum(w x E) / sum(w E) <= t where sum(w (x - t) E) <= 0.
    return float(
        optimize.brentq(
            lambda t: _probability_not_positive(weights * (values - t), counts) - tail,
            1e-9 * rate,
            rate,
            xtol=1e-9,
        )
    )


def _probability_not_positive(factors: _Array, counts: npt.NDArray[np.intp]) -> float:
    """Return P(sum of c E <= 0) for independent standard exponential E, each factor c of
    ``factors`` (j,) taken ``counts`` (j,) times, by inversion of its characteristic function
    (Gil-Pelaez 1951)."""
    factors = factors / np.abs(factors).max()
    mean, spread = counts @ factors, np.sqrt(counts @ factors**2)
    # So far from 0 the integrand turns faster than its steps, and the sum's sign is certain.
    if abs(mean) > _CERTAIN * spread:
        return float(mean < 0)

    scaled = factors[:, None] * np.exp(_LOG_FREQUENCIES)
    angle = counts @ np.arctan(scaled)
    damping = counts @ np.log1p(scaled**2) / 2
    step = _LOG_FREQUENCIES[1] - _LOG_FREQUENCIES[0]
    return float(0.5 - (np.sin(angle) * np.exp(-damping)).sum() * step / np.pi)


def _betting_lower(shares: _Array, sizes: _Array, tail: float) -> float:
    """Return the least mean that a bet that it is higher, at all stakes, has not refuted."""
    if shares.max() == 0:
        return 0.0
    rate = float((sizes * shares).sum() / sizes.sum())
    sizes = sizes / sizes.max()

    def log_capital(mean: float) -> float:
        gains = sizes * (shares - mean) / mean
        logs = np.log1p(np.maximum(_STAKES[:, None] * gains, _RUIN)).sum(1)
        return float(special.logsumexp(logs, b=_STAKE_WEIGHTS))

    limit = -np.log(tail)
    if log_capital(_LEAST_MEAN) < limit:
        return 0.0
    return float(optimize.brentq(lambda m: log_capital(m) - limit, _LEAST_MEAN, rate, xtol=1e-9))
