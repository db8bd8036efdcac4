"""Certified l_2 radii under Gaussian noise: those of three papers, and what n samples certify."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

_Array = npt.NDArray[np.float64]


def cohen_radius(p: float) -> float:
    """Return the radius of Cohen et al. (2019), in units of the noise's standard deviation.

    No larger one holds for all classifiers.

    Args:
        p: Probability of the top class; all others together have 1 - p.

    Example:
        >>> round(cohen_radius(0.99), 2)
        2.33
    """
    return float(special.ndtri(p)) if p > 0.5 else 0.0


def li_radius(p: float) -> float:
    """Return the radius of Li et al. (2019), in units of the noise's standard deviation.

    It bounds the Renyi divergence between the noise about two points, optimized over its order.

    Args:
        p: Probability of the top class; all others together have 1 - p.

    Example:
        >>> 0 < li_radius(0.9) < cohen_radius(0.9)
        True
    """
    if p <= 0.5:
        return 0.0
    if p >= 1:
        return float("inf")

    def negative_square(log_order: float) -> float:
        order = 1 + exp(log_order)
        # log(2 M) of the power mean M of order 1 - order, by logarithms for large orders.
        terms = (1 - order) * np.log([p, 1 - p])
        log_twice_mean = log(2) + (special.logsumexp(terms) - log(2)) / (1 - order)
        return float(2 / order * log_twice_mean)

    found = optimize.minimize_scalar(negative_square, bounds=(-12, 8), method="bounded")
    return sqrt(max(0.0, -float(found.fun)))


def lecuyer_radius(p: float) -> float:
    """Return the radius of Lecuyer et al. (2018), in units of the noise's standard deviation.

    It is the Gaussian mechanism of differential privacy, optimized over its parameter.

    Args:
        p: Probability of the top class; all others together have 1 - p.

    Example:
        >>> lecuyer_radius(0.9) < li_radius(0.9)
        True
    """
    if p <= 0.5:
        return 0.0
    most = min(1.0, log(p / (1 - p)) / 2 if p < 1 else 1.0)

    def negative_radius(share: float) -> float:
        epsilon = share * most
        room = p - exp(2 * epsilon) * (1 - p)
        if room <= 0:
            return 0.0
        return -epsilon / sqrt(2 * log(1.25 * (1 + exp(epsilon)) / room))

    found = optimize.minimize_scalar(negative_radius, bounds=(0, 1), method="bounded")
    return max(0.0, -float(found.fun))


def radius_quantiles(
    p: float, n: int, alpha: float, shares: tuple[float, ...] = (0.025, 0.5, 0.975)
) -> tuple[float, ...]:
    """Return quantiles of the radius that n votes certify, in units of the standard deviation.

    The votes for the top class are binomial; their Clopper-Pearson bound takes the place of p. A
    radius of 0 is an abstention.

    Args:
        p: Probability of the top class.
        n: Number of votes.
        alpha: Allowed probability of error.
        shares: Shares of the runs that certify at most the returned radii.
    """
    votes = stats.binom.ppf(shares, n, p)
    lower = np.where(votes > 0, stats.beta.ppf(alpha, votes, n - votes + 1), 0.0)
    return tuple(float(r) for r in np.where(lower > 0.5, special.ndtri(lower), 0.0))


def largest_radius(n: int, alpha: float) -> float:
    """Return the radius that n votes certify where all agree, in units of the standard deviation.

    Args:
        n: Number of votes.
        alpha: Allowed probability of error.

    Example:
        >>> round(largest_radius(100_000, 0.001), 2)
        3.81
    """
    return max(0.0, float(special.ndtri(alpha ** (1 / n))))
