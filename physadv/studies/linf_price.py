"""Largest l_inf radii that a noise certifies by its votes alone, by the number of dimensions."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, log, sqrt

import numpy as np
import numpy.typing as npt
from scipy import integrate, optimize, special

from physadv.core.errors import OptionError

NOISES = ("gaussian", "laplace", "uniform", "cube")
"""Noises: independent numbers of three kinds, and the density exp(-max |x| / scale)."""


def linf_radius(noise: str, p: float, dims: int) -> float:
    """Return the l_inf radius that a noise of standard deviation 1 a number certifies.

    For Gaussian and uniform noise a classifier exists that breaks at this radius. For Laplace
    noise the sum over the dimensions is taken as normal, which holds for many of them, and the
    radius is that at which the corner of the ball breaks. For the cube it is what its proof gives.

    Args:
        noise: One of :data:`NOISES`.
        p: Probability of the top class, above 1/2 and below 1; all others have 1 - p together.
        dims: Number of dimensions.

    Raises:
        OptionError: The noise is another one, or ``p`` or ``dims`` is out of range.

    Example:
        >>> [round(linf_radius("gaussian", 0.99, d), 3) for d in (100, 400)]
        [0.233, 0.116]
    """
    if noise not in NOISES or not 0.5 < p < 1 or dims < 1:
        raise OptionError(
            f"noise {noise!r}, p {p:g}, {dims} dimensions",
            f"one of {', '.join(NOISES)}, p between 1/2 and 1, one dimension or more",
            "Use e.g. gaussian, 0.99 and 784",
        )
    kinds: dict[str, Callable[[float, int], float]] = {
        "gaussian": lambda p, dims: float(special.ndtri(p)) / sqrt(dims),
        "laplace": _laplace_radius,
        "uniform": lambda p, dims: 2 * sqrt(3) * (1 - (1.5 - p) ** (1 / dims)),
        "cube": lambda p, dims: -log(2 * (1 - p)) / _cube_deviation(dims),
    }
    return kinds[noise](p, dims)


def any_noise_bound(p: float, dims: int) -> float:
    """Return a radius that no noise of standard deviation 1 a number reaches, whatever its shape.

    For a random corner v of the cube of side 2 r, the inner product of the noise with v has mean
    square r^2 d; Chebyshev's inequality with the threshold r^2 d / 2 gives a classifier that has p
    at the point and less than one half at v.

    Args:
        p: Probability of the top class, above 1/2 and below 1.
        dims: Number of dimensions.

    Example:
        >>> any_noise_bound(0.99, 400)
        1.0
    """
    return round(2 / sqrt(dims * (1 - p)), 12)


def laplace_moments(radius: float) -> tuple[float, float]:
    """Return mean and variance of |x - r| - |x| for Laplace noise x of standard deviation 1.

    Args:
        radius: Shift r, at least 0.
    """
    scale = 1 / sqrt(2)
    mean = radius - scale + scale * exp(-radius / scale)
    middle, _ = integrate.quad(
        lambda x: (radius - 2 * x) ** 2 * exp(-x / scale) / (2 * scale), 0, radius
    )
    square = radius**2 / 2 + middle + radius**2 * exp(-radius / scale) / 2
    return mean, square - mean**2


def _laplace_radius(p: float, dims: int) -> float:
    """Radius at which the likelihood-ratio test of the corner has one half."""
    goal = float(special.ndtri(p))

    def distance(radius: float) -> float:
        mean, variance = laplace_moments(radius)
        return 2 * sqrt(dims) * mean / sqrt(variance) - goal

    return float(optimize.brentq(distance, 1e-6, 20 + goal))


def _cube_deviation(dims: int) -> float:
    """Standard deviation of a number under the density exp(-max |x|)."""
    return sqrt(dims * (dims + 1) * (1 / 3 + 2 / (3 * dims)))


def needed_share(
    noise: str, radius: float, dims: int, runs: int, source: np.random.Generator
) -> float:
    """Simulate the probability p that the noise needs to certify an l_inf radius.

    It draws the noise and applies the most powerful test of the ball's corner against its center.

    Args:
        noise: "gaussian", "laplace" or "uniform", of standard deviation 1.
        radius: Radius in l_inf.
        dims: Number of dimensions.
        runs: Number of draws.
        source: Source of the draws.

    Raises:
        OptionError: The noise is another one.
    """
    evidence = np.concatenate(
        [
            _evidence(noise, radius, dims, min(runs - first, 500), source)
            for first in range(0, runs, 500)
        ]
    )
    if noise == "uniform":  # the corner's noise is told apart wherever the cubes do not overlap
        return 1.5 - float(np.isfinite(evidence).mean())
    # By symmetry the evidence for the corner at the corner is minus that at the center.
    return float((evidence >= -np.median(evidence)).mean())


def _evidence(
    noise: str, radius: float, dims: int, runs: int, source: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Logarithm of the density at the noise over that at the noise less the corner."""
    if noise == "gaussian":
        x = source.standard_normal((runs, dims))
        return np.asarray(((x - radius) ** 2 - x**2).sum(1) / 2, np.float64)
    if noise == "laplace":
        x = source.laplace(0, 1 / sqrt(2), (runs, dims))
        return np.asarray((np.abs(x - radius) - np.abs(x)).sum(1) * sqrt(2), np.float64)
    if noise == "uniform":
        x = source.uniform(-sqrt(3), sqrt(3), (runs, dims))
        return np.where((x >= radius - sqrt(3)).all(1), 0.0, inf)
    raise OptionError(f"noise {noise!r}", "gaussian, laplace or uniform", "Use gaussian")


def fitted_exponent(sizes: npt.ArrayLike, values: npt.ArrayLike) -> float:
    """Return the power of the sizes that values follow, by least squares of the logarithms.

    Args:
        sizes: Sizes (n,), positive.
        values: Values (n,), positive.

    Example:
        >>> round(fitted_exponent([1, 4, 16], [2.0, 1.0, 0.5]), 6)
        -0.5
    """
    return float(np.polyfit(np.log(np.asarray(sizes)), np.log(np.asarray(values)), 1)[0])
