"""Noise for randomized smoothing, and the radii that class probabilities under it certify.

Each noise turns p, the probability of the most likely class under noise, into a radius within which
the smoothed classifier cannot change, with all other classes together bounded by 1 - p; and back.
Noise is added to images in [0, 1] and not clipped, so radii are in units of the image scale (1 =
black to white).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import exp, inf, log, sqrt

import torch
from scipy import special
from torch import Tensor

from physadv.core.errors import OptionError


@dataclass(frozen=True)
class SmoothingNoise(ABC):
    """Independent noise of one ``scale`` on every input value.

    Raises:
        OptionError: The scale is not positive.
    """

    scale: float

    def __post_init__(self) -> None:
        if not 0 < self.scale < inf:
            raise OptionError(
                f"noise of scale {self.scale}", "must be a positive number", "Use e.g. 0.25"
            )

    @abstractmethod
    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw float32 noise of ``shape`` from ``generator`` alone, on its device."""

    @abstractmethod
    def radius(self, p: float, norm: str, dims: int) -> float:
        """Return the radius that a top-class probability certifies.

        Args:
            p: Lower bound of the top-class probability; up to 1/2 the radius is 0.
            norm: Norm of the radius.
            dims: Number of input values (c h w).

        Raises:
            OptionError: The noise does not serve the norm.
        """

    @abstractmethod
    def needed(self, radius: float, norm: str, dims: int) -> float:
        """Return the top-class probability that certifies ``radius`` in ``norm`` with ``dims``
        input values.

        This is the inverse of :meth:`radius`.
        """


class GaussianNoise(SmoothingNoise):
    """Gaussian noise N(0, scale^2): l_2 radius scale * Phi^-1(p) (Cohen et al. 2019), tight.

    For l_inf the l_2 ball that holds the l_inf ball is used: the radius is divided by sqrt(dims).
    No noise does essentially better for large dims (Blum et al. 2020), so a 32x32 RGB image pays a
    factor of 55.

    Example:
        >>> from physadv.certification.smoothing.noise import GaussianNoise
        >>> round(GaussianNoise(0.25).radius(0.99, "l2", dims=3072), 3)
        0.582
    """

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw Gaussian noise of ``shape`` from ``generator``."""
        return torch.randn(shape, generator=generator, device=generator.device) * self.scale

    def radius(self, p: float, norm: str, dims: int) -> float:
        """Return the radius in ``norm`` that probability ``p`` certifies with ``dims`` input
        values."""
        factor = self._norm_factor(norm, dims)
        return self.scale * float(special.ndtri(p)) / factor if p > 0.5 else 0.0

    def needed(self, radius: float, norm: str, dims: int) -> float:
        """Return the probability that certifies ``radius`` in ``norm`` with ``dims`` input
        values."""
        return float(special.ndtr(radius * self._norm_factor(norm, dims) / self.scale))

    @staticmethod
    def _norm_factor(norm: str, dims: int) -> float:
        factors = {"l2": 1.0, "linf": sqrt(dims)}
        if norm not in factors:
            raise OptionError(
                f"norm {norm} with Gaussian noise",
                "it certifies l2 and linf",
                "Use laplace or uniform",
            )
        return factors[norm]


class LaplaceNoise(SmoothingNoise):
    """Laplace noise of scale b: l_1 radius -b log(2 (1 - p)) (Teng et al. 2020).

    This is the larger of the paper's two radii once the runner-up is bounded by 1 - p.
    """

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw Laplace noise of ``shape`` from ``generator``, as the difference of two
        exponentials."""
        pair = torch.empty((2, *shape), device=generator.device).exponential_(generator=generator)
        return (pair[0] - pair[1]) * self.scale

    def radius(self, p: float, norm: str, dims: int) -> float:
        """Return the radius in ``norm`` (l1) that probability ``p`` certifies; ``dims`` does not
        matter."""
        _only_l1(norm, "Laplace")
        if p >= 1:
            return inf
        return -self.scale * log(2 * (1 - p)) if p > 0.5 else 0.0

    def needed(self, radius: float, norm: str, dims: int) -> float:
        """Return the probability that certifies ``radius`` in ``norm`` (l1); ``dims`` does not
        matter."""
        _only_l1(norm, "Laplace")
        return 1 - exp(-radius / self.scale) / 2


class UniformNoise(SmoothingNoise):
    """Uniform noise on [-scale, scale]: l_1 radius 2 scale (p - 1/2) (Yang et al. 2020)."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw uniform noise of ``shape`` from ``generator``."""
        return (
            torch.rand(shape, generator=generator, device=generator.device) * 2 - 1
        ) * self.scale

    def radius(self, p: float, norm: str, dims: int) -> float:
        """Return the radius in ``norm`` (l1) that probability ``p`` certifies; ``dims`` does not
        matter."""
        _only_l1(norm, "uniform")
        return 2 * self.scale * max(p - 0.5, 0.0)

    def needed(self, radius: float, norm: str, dims: int) -> float:
        """Return the probability that certifies ``radius`` in ``norm`` (l1), above 1 where out of
        reach; ``dims`` does not matter."""
        _only_l1(norm, "uniform")
        return 0.5 + radius / (2 * self.scale)


def noise_by_name(name: str, scale: float) -> SmoothingNoise:
    """Return the noise called ``name`` ("gaussian", "laplace" or "uniform") of the given ``scale``.

    Raises:
        OptionError: The name is unknown or the scale not positive.
    """
    kinds: dict[str, type[SmoothingNoise]] = {
        "gaussian": GaussianNoise,
        "laplace": LaplaceNoise,
        "uniform": UniformNoise,
    }

    if name not in kinds:
        raise OptionError(f"noise {name!r}", f"is none of {', '.join(kinds)}", "Use gaussian")
    return kinds[name](scale)


def _only_l1(norm: str, name: str) -> None:
    if norm != "l1":
        raise OptionError(
            f"norm {norm} with {name} noise",
            "it certifies l1 only",
            "Use gaussian noise for l2 and linf",
        )
