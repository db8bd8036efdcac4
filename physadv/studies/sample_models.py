"""Closed forms and simulations of the two models of Schmidt et al. (2018) for robust learning.

In both a label y is +1 or -1 with equal probability, and a hidden vector theta of dimension d is
learned from n labeled samples.

* Gaussian: theta ~ N(0, I), and a sample is y theta + sigma g with g ~ N(0, I).
* Bernoulli: theta in {-1, +1}^d, and each coordinate of a sample is y theta_i with probability
  1/2 + tau, else -y theta_i.

The adversary moves every coordinate of a test sample by up to eps. A linear classifier w then errs
where y <w, x> <= eps |w|_1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import erf, exp, pi, sqrt

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr
from scipy.stats import binom

Floats = npt.NDArray[np.float32]
_BATCH_NUMBERS = 2_000_000
"""Numbers drawn at once."""


@dataclass(frozen=True)
class GaussianModel:
    """Gaussian model: theta ~ N(0, I), samples y theta + sigma N(0, I).

    Args:
        dimension: Number of coordinates d, at least 1.
        sigma: Standard deviation of the noise.
    """

    dimension: int
    sigma: float

    @classmethod
    def at_scale(cls, dimension: int, factor: float) -> GaussianModel:
        """Return the model with sigma = ``factor`` times ``dimension`` to the power 1/4.

        Args:
            dimension: Number of coordinates.
            factor: The constant c of the paper.
        """
        return cls(dimension, factor * dimension**0.25)

    def mean_error(self, samples: float, eps: float) -> float:
        """Return the robust error of the mean of the signed samples, for large dimensions.

        The margin is a sum over independent coordinates, which the central limit theorem makes
        normal.

        Args:
            samples: Number of training samples n.
            eps: Radius of the adversary in l_inf; 0 for the standard error.

        Example:
            >>> round(GaussianModel(10_000, 6.0).mean_error(1, 0.0), 4)
            0.0034
        """
        noise = self.sigma**2 / samples
        scale = sqrt(1 + noise)
        mean = 1 - eps * sqrt(2 / pi) * scale
        square = 3 + noise + (self.sigma * scale) ** 2
        square += (eps * scale) ** 2 - 4 * eps * sqrt(2 / pi) * scale
        return float(ndtr(-sqrt(self.dimension) * mean / sqrt(square - mean**2)))

    def best_error(self, samples: float, eps: float) -> float:
        """Return the least robust error of any learner, averaged over theta, for large dimensions.

        After n samples theta is normal around the posterior mean m with variance 1 - v, and the
        best classifier against the adversary is linear with weights m shrunk toward 0 by eps; its
        error is Phi(-|w|_2 / sqrt(1 - v + sigma^2)), 1/2 where all weights vanish.

        Args:
            samples: Number of training samples n.
            eps: Radius of the adversary in l_inf.
        """
        spread = samples / (samples + self.sigma**2)
        blind = 2 * self.floor(samples, eps)
        length = self.dimension * _shrunk_square(spread, eps) / max(1 - blind, 1e-300)
        rest = sqrt(1 - spread + self.sigma**2)
        return blind / 2 + (1 - blind) * float(ndtr(-sqrt(length) / rest))

    def floor(self, samples: float, eps: float) -> float:
        """Return the lower bound of Schmidt et al. on the robust error of any learner.

        It is half the probability that no coordinate of the posterior mean exceeds eps, where the
        adversary turns both classes into the same distribution.

        Args:
            samples: Number of training samples n.
            eps: Radius of the adversary in l_inf.

        Example:
            >>> GaussianModel(100, 1e9).floor(1, 0.5)
            0.5
        """
        reach = eps * sqrt(1 + self.sigma**2 / samples)
        inside = erf(reach / sqrt(2))
        return float(inside**self.dimension / 2)

    def draw_learned(
        self, samples: int, trials: int, draws: np.random.Generator
    ) -> Iterator[tuple[Floats, Floats]]:
        """Yield batches of hidden vectors and means of their signed samples, (b, d) each.

        The mean of n samples is drawn from its own law, N(theta, sigma^2 / n I).

        Args:
            samples: Number of training samples n.
            trials: Number of hidden vectors in all.
            draws: Source of the draws.
        """
        batch = max(1, _BATCH_NUMBERS // self.dimension)
        for begin in range(0, trials, batch):
            shape = (min(batch, trials - begin), self.dimension)
            theta = draws.standard_normal(shape, dtype=np.float32)
            noise = draws.standard_normal(shape, dtype=np.float32)
            yield theta, theta + np.float32(self.sigma / sqrt(samples)) * noise

    def count_errors(
        self,
        samples: int,
        learners: Sequence[tuple[str, float]],
        trials: int,
        draws: np.random.Generator,
    ) -> list[tuple[int, int]]:
        """Return how often each learner errs on a test sample of its own, under attack.

        Every trial has its own theta, training samples and test sample, so that trials are
        independent. All learners see the same. A learner whose weights all vanish guesses.

        Args:
            samples: Number of training samples n.
            learners: Learner, "mean" or "best", and radius of the adversary of each.
            trials: Number of trials.
            draws: Source of the draws.

        Returns:
            Number of errors and number of guesses of each learner.
        """
        errors, guesses = [0] * len(learners), [0] * len(learners)
        for theta, mean in self.draw_learned(samples, trials, draws):
            normal, coin = draws.standard_normal(len(theta)), draws.random(len(theta)) < 0.5
            for k, (learner, eps) in enumerate(learners):
                w = self.weights(learner, mean, samples, eps)
                length = _lengths(w)
                margin = _products(w, theta) + self.sigma * length * normal
                wrong = margin < eps * np.abs(w).sum(1)
                errors[k] += int(np.where(length > 0, wrong, coin).sum())
                guesses[k] += int((length == 0).sum())
        return list(zip(errors, guesses, strict=True))

    def exact_errors(
        self, samples: int, eps: float, trials: int, draws: np.random.Generator
    ) -> npt.NDArray[np.float64]:
        """Return the robust error of the mean learner for each of several drawn training sets.

        Given theta and the training set the error is a value of the normal distribution.

        Args:
            samples: Number of training samples n.
            eps: Radius of the adversary in l_inf.
            trials: Number of hidden vectors and training sets.
            draws: Source of the draws.
        """
        errors = []
        for theta, w in self.draw_learned(samples, trials, draws):
            reach = _products(w, theta) - eps * np.abs(w).sum(1)
            errors.append(ndtr(-reach / (self.sigma * _lengths(w))))
        return np.concatenate(errors).astype(np.float64)

    def weights(self, learner: str, mean: Floats, samples: int, eps: float) -> Floats:
        """Return the weights that a learner makes of the mean of its samples.

        Args:
            learner: "mean" takes it as it is; "best" shrinks the posterior mean by ``eps``.
            mean: Means (b, d) of signed samples.
            samples: Number of training samples n.
            eps: Radius of the adversary that the learner prepares for.
        """
        if learner == "mean":
            return mean
        posterior = mean * np.float32(samples / (samples + self.sigma**2))
        shrunk = np.maximum(np.abs(posterior) - np.float32(eps), np.float32(0))
        return np.asarray(np.sign(posterior) * shrunk, np.float32)


@dataclass(frozen=True)
class BernoulliModel:
    """Bernoulli model: coordinates y theta_i with probability 1/2 + tau, else -y theta_i.

    Args:
        dimension: Number of coordinates d.
        tau: Correlation of a coordinate with the label, in (0, 1/2).
    """

    dimension: int
    tau: float

    @classmethod
    def at_scale(cls, dimension: int, factor: float) -> BernoulliModel:
        """Return the model with tau = ``factor`` times ``dimension`` to the power -1/4.

        Args:
            dimension: Number of coordinates.
            factor: The constant c of the paper.
        """
        return cls(dimension, factor * dimension**-0.25)

    def mean_error(self, samples: int, eps: float) -> float:
        """Return the robust error of the mean of the signed samples, for large dimensions.

        Args:
            samples: Number of training samples n.
            eps: Radius of the adversary in l_inf; 0 for the standard error, which is also the
                robust error of the classifier that first rounds each coordinate to its sign, for
                any eps below 1.
        """
        counts = np.arange(samples + 1)
        weight = (2 * counts - samples) / samples
        law = binom.pmf(counts, samples, 0.5 + self.tau)
        size, square = law @ np.abs(weight), law @ weight**2
        mean = 2 * self.tau * (law @ weight) - eps * size
        second = (1 + eps**2) * square - 4 * eps * self.tau * (law @ (weight * np.abs(weight)))
        return float(ndtr(-sqrt(self.dimension) * mean / sqrt(second - mean**2)))

    def count_errors(
        self, samples: int, radii: Sequence[float], trials: int, draws: np.random.Generator
    ) -> list[int]:
        """Return how often the mean of the signed samples errs on a test sample under attack.

        Every trial has its own training samples and test sample. By symmetry theta is all ones.

        Args:
            samples: Number of training samples n.
            radii: Radii of the adversary in l_inf; 0 for none.
            trials: Number of trials.
            draws: Source of the draws.
        """
        errors = [0] * len(radii)
        batch = max(1, _BATCH_NUMBERS // self.dimension)
        for begin in range(0, trials, batch):
            shape = (min(batch, trials - begin), self.dimension)
            agree = draws.binomial(samples, 0.5 + self.tau, shape)
            w = ((2 * agree - samples) / samples).astype(np.float32)
            test = np.where(draws.random(shape, dtype=np.float32) < 0.5 + self.tau, 1, -1)
            margin, size = _products(w, test.astype(np.float32)), np.abs(w).sum(1)
            coin = draws.random(len(w)) < 0.5
            for k, eps in enumerate(radii):
                left = np.round(margin - eps * size, 3)
                errors[k] += int(np.where(left == 0, coin, left < 0).sum())
        return errors


def samples_needed(error: Callable[[int], float], target: float, most: int = 1 << 40) -> int:
    """Return the least number of samples at which ``error``, which falls with it, is at most
    ``target``; ``most`` where even that is not enough.

    Args:
        error: Error by number of samples.
        target: Largest error that is accepted.
        most: Largest number to try.

    Example:
        >>> samples_needed(lambda n: 1 / n, 0.01)
        100
    """
    high = 1
    while high < most and error(high) > target:
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if error(middle) > target else (low, middle)
    return high


def power_of(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the exponent p of the least-squares fit y = c x^p.

    Args:
        xs: Positive numbers, at least two of them different.
        ys: Positive numbers, one for each of ``xs``.

    Example:
        >>> round(power_of([1, 4, 16], [3, 6, 12]), 6)
        0.5
    """
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def _shrunk_square(variance: float, eps: float) -> float:
    """Return E max(|m| - eps, 0)^2 for m ~ N(0, ``variance``)."""
    deviation = sqrt(variance)
    reach = eps / deviation
    density = exp(-(reach**2) / 2) / sqrt(2 * pi)
    tail = float(ndtr(-reach))
    return max(0.0, 2 * ((variance + eps**2) * tail - eps * deviation * density))


def _products(first: Floats, second: Floats) -> npt.NDArray[np.float64]:
    return np.asarray(np.einsum("bd,bd->b", first, second), np.float64)


def _lengths(w: Floats) -> npt.NDArray[np.float64]:
    return np.asarray(np.sqrt(_products(w, w)), np.float64)
