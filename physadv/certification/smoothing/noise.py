"""Noise for randomized smoothing, and what a class probability under it certifies.

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
    """Independent noise of one ``scale`` on every input number. Raises OptionError for a scale that
    is not positive."""

    scale: float

    def __post_init__(self) -> None:
        if not 0 < self.scale < inf:
            raise OptionError(
                f"noise of scale {self.scale}", "a positive number is needed", "use 0.25"
            )

    @abstractmethod
    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Float32 noise of ``shape``, drawn on the CPU from ``generator`` alone."""

    @abstractmethod
    def radius(self, p: float, norm: str, dims: int) -> float:
        """The radius in ``norm`` certified by a top-class probability of at least ``p``; 0 where p
        <= 1/2.

        ``dims`` is the count of input numbers (3hw). Raises OptionError for a norm this noise does
        not serve.
        """

    @abstractmethod
    def needed(self, radius: float, norm: str, dims: int) -> float:
        """The top-class probability that certifies ``radius``: the inverse of :meth:`radius`."""


class GaussianNoise(SmoothingNoise):
    """N(0, scale^2): l_2 radius scale * Phi^-1(p) (Cohen et al. 2019), tight.

    For l_inf the l_2 ball that holds the l_inf ball is used: the radius is divided by sqrt(dims).
    No noise does essentially better for large dims (Blum et al. 2020), so a 32x32 RGB image pays a
    factor of 55.
    """

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See :meth:`SmoothingNoise.draw`."""
        return torch.randn(shape, generator=generator) * self.scale

    def radius(self, p: float, norm: str, dims: int) -> float:
        """See :meth:`SmoothingNoise.radius`."""
        price = self._price(norm, dims)
        return self.scale * float(special.ndtri(p)) / price if p > 0.5 else 0.0

    def needed(self, radius: float, norm: str, dims: int) -> float:
        """See :meth:`SmoothingNoise.needed`."""
        return float(special.ndtr(radius * self._price(norm, dims) / self.scale))

    @staticmethod
    def _price(norm: str, dims: int) -> float:
        prices = {"l2": 1.0, "linf": sqrt(dims)}
        if norm not in prices:
            raise OptionError(
                f"norm {norm} with Gaussian noise",
                "it certifies l2 and linf",
                "use laplace or uniform",
            )
        return prices[norm]


class LaplaceNoise(SmoothingNoise):
    """Laplace noise of scale b: l_1 radius -b log(2 (1 - p)) (Teng et al. 2020).

    The larger of the paper's two radii once the runner-up is bounded by 1 - p.
    """

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See :meth:`SmoothingNoise.draw`. The difference of two exponentials is Laplace."""
        pair = torch.empty((2, *shape)).exponential_(generator=generator)
        return (pair[0] - pair[1]) * self.scale

    def radius(self, p: float, norm: str, dims: int) -> float:
        """See :meth:`SmoothingNoise.radius`."""
        _only_l1(norm, "Laplace")
        if p >= 1:
            return inf
        return -self.scale * log(2 * (1 - p)) if p > 0.5 else 0.0

    def needed(self, radius: float, norm: str, dims: int) -> float:
        """See :meth:`SmoothingNoise.needed`."""
        _only_l1(norm, "Laplace")
        return 1 - exp(-radius / self.scale) / 2


class UniformNoise(SmoothingNoise):
    """Uniform on [-scale, scale]: l_1 radius 2 scale (p - 1/2) (Yang et al. 2020)."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See :meth:`SmoothingNoise.draw`."""
        return (torch.rand(shape, generator=generator) * 2 - 1) * self.scale

    def radius(self, p: float, norm: str, dims: int) -> float:
        """See :meth:`SmoothingNoise.radius`."""
        _only_l1(norm, "uniform")
        return 2 * self.scale * max(p - 0.5, 0.0)

    def needed(self, radius: float, norm: str, dims: int) -> float:
        """See :meth:`SmoothingNoise.needed`. Above 1 where the radius is out of reach at this scale."""
        _only_l1(norm, "uniform")
        return 0.5 + radius / (2 * self.scale)


def noise_by_name(name: str, scale: float) -> SmoothingNoise:
    """``gaussian``, ``laplace`` or ``uniform`` noise. Raises OptionError for another name or a bad
    scale."""
    kinds: dict[str, type[SmoothingNoise]] = {
        "gaussian": GaussianNoise,
        "laplace": LaplaceNoise,
        "uniform": UniformNoise,
    }
    if name not in kinds:
        raise OptionError(f"noise {name!r}", f"one of {', '.join(kinds)}", "use gaussian")
    return kinds[name](scale)


def _only_l1(norm: str, name: str) -> None:
    if norm != "l1":
        raise OptionError(
            f"norm {norm} with {name} noise",
            "it certifies l1 only",
            "use gaussian noise for l2 and linf",
        )
