"""Smooth activations and their linear relaxations: tanh, sigmoid, softplus, SiLU and GELU.

A line of any slope k is made to enclose the function over a box by its shift: the least and the
largest value of f(x) - k x there. These lie at the ends of the box or where the derivative of f is
k, at one or two places that are known in closed form or enclosed by bisection. So soundness rests
on the shift alone, and slopes are chosen by samples of the function.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.certification.bounds.layers import RelaxedLayer
from physadv.certification.bounds.relaxations import Box, Lines, Relaxation

_SAMPLES = 9
"""Places at which a function is sampled to choose the slopes of its lines."""
_SLOPE_STEPS = 14
"""Halvings of the range of slopes."""
_FAR = 40.0
"""Place beyond which x g(x) is x or 0 up to 1e-15."""
_ULPS = 8.0
"""Rounding of f(x) - k x that is taken off each shift, in units of its terms."""


@dataclass(frozen=True)
class SmoothLayer(RelaxedLayer):
    """An elementwise function with a continuous derivative."""

    slopes = (0.0, 1.0)
    """Least and largest derivative."""

    @abstractmethod
    def critical(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        """Return points of the box from ``lower`` to ``upper``, among them all places (up to
        rounding) where f(x) - ``slope`` x has a local extremum inside it."""

    def slack(self, lower: Tensor, upper: Tensor) -> float:
        """Return what bounds on f over the box may miss beside rounding."""
        return 0.0

    def value_range(self, lower: Tensor, upper: Tensor) -> Box:
        """Return the values at both ends; the functions here rise unless they say otherwise."""
        first, last = self.value(lower), self.value(upper)
        return torch.minimum(first, last), torch.maximum(first, last)

    def undecided(self, box: Box) -> Tensor:
        """Return which inputs are not fixed."""
        return box[1] > box[0]

    def relax(self, box: Box, *, parallel: bool = False) -> Relaxation:
        """Return the lines whose area over the box is least, up to the samples; with ``parallel``
        both have the chord's slope."""
        lower, upper = self._chosen_slopes(box, parallel=parallel)
        return Lines(
            lower, upper, self._shift(upper, box, above=True), self._shift(lower, box, above=False)
        )

    @torch.no_grad()
    def _chosen_slopes(self, box: Box, *, parallel: bool) -> Box:
        low, high = box
        points = [low + (high - low) * (j / (_SAMPLES - 1)) for j in range(_SAMPLES)]
        values = [self.value(x) for x in points]
        if parallel:
            wide = high > low
            chord = (values[-1] - values[0]) / torch.where(wide, high - low, torch.ones_like(low))
            chord = torch.where(wide, chord, torch.zeros_like(low)).clamp(*self.slopes)
            return chord, chord
        return self._slope(points, values, above=False), self._slope(points, values, above=True)

    def _slope(self, points: list[Tensor], values: list[Tensor], *, above: bool) -> Tensor:
        """Return the slopes of the lines above (or below) the samples that are nearest at the
        middle of the box.

        The distance there is convex in the slope: it falls while the sample that holds the line
        off lies right of the middle (left for lines below).
        """
        sign = 1.0 if above else -1.0
        middle = points[_SAMPLES // 2]
        least = torch.full_like(middle, self.slopes[0])
        most = torch.full_like(middle, self.slopes[1])
        for _ in range(_SLOPE_STEPS):
            slope = (least + most) / 2
            best = torch.full_like(middle, -torch.inf)
            where = middle
            for x, value in zip(points, values, strict=True):
                gap = sign * (value - slope * x)
                where = torch.where(gap > best, x, where)
                best = torch.maximum(best, gap)
            rise = (where > middle) if above else (where < middle)
            fall = (where < middle) if above else (where > middle)
            least = torch.where(fall, least, torch.where(rise, slope, (least + slope) / 2))
            most = torch.where(rise, most, torch.where(fall, slope, (most + slope) / 2))
        return (least + most) / 2

    def _shift(self, slope: Tensor, box: Box, *, above: bool) -> Tensor:
        """Return the largest (or least) value of f(x) - ``slope`` x over ``box``, rounded out."""
        low, high = box
        with torch.no_grad():
            places = self.critical(slope, low, high)
        ends = [low, high, *places]
        shifts = [self.value(x) - slope * x for x in ends]
        extreme = shifts[0]
        for shift in shifts[1:]:
            extreme = torch.maximum(extreme, shift) if above else torch.minimum(extreme, shift)

        with torch.no_grad():
            largest = torch.maximum(low.abs(), high.abs())
            size = largest * (slope.abs() + max(map(abs, self.slopes))) + 1
            error = _ULPS * torch.finfo(low.dtype).eps * size + self.slack(low, high)
        return extreme + error if above else extreme - error


def _clamped(points: list[Tensor], lower: Tensor, upper: Tensor) -> list[Tensor]:
    """Return ``points`` moved into the box; what is no number becomes its lower end."""
    inside = [torch.minimum(torch.maximum(x, lower), upper) for x in points]
    return [torch.where(x.isnan(), lower, x) for x in inside]


@dataclass(frozen=True)
class SigmoidLayer(SmoothLayer):
    """The logistic function."""

    slopes = (0.0, 0.25)

    def value(self, *inputs: Tensor) -> Tensor:
        """Return 1 / (1 + exp(-x))."""
        return torch.sigmoid(inputs[0])

    def critical(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        """Return the two places where s (1 - s) is the slope."""
        root = (1 - 4 * slope).clamp_min(0).sqrt()
        small = 2 * slope / (1 + root)  # without cancellation
        place = ((1 - small) / small).log()
        return _clamped([place, -place], lower, upper)


@dataclass(frozen=True)
class TanhLayer(SmoothLayer):
    """The hyperbolic tangent."""

    def value(self, *inputs: Tensor) -> Tensor:
        """Return tanh(x)."""
        return torch.tanh(inputs[0])

    def critical(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        """Return the two places where 1 - tanh^2 is the slope."""
        root = (1 - slope).clamp_min(0).sqrt()
        place = ((1 + root).square() / slope).log() / 2
        return _clamped([place, -place], lower, upper)


@dataclass(frozen=True)
class SoftplusLayer(SmoothLayer):
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above ``threshold``."""

    beta: float = 1.0
    threshold: float = 20.0

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the softplus as torch computes it."""
        return F.softplus(inputs[0], self.beta, self.threshold)

    def slack(self, lower: Tensor, upper: Tensor) -> float:
        """Return the step at the threshold."""
        return math.log1p(math.exp(-self.threshold)) / self.beta

    def value_range(self, lower: Tensor, upper: Tensor) -> Box:
        """Return the values at both ends, the lower one below the step at the threshold."""
        return self.value(lower) - self.slack(lower, upper), self.value(upper)

    def critical(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        """Return the place where the sigmoid of beta x is the slope."""
        return _clamped([torch.logit(slope) / self.beta], lower, upper)


@dataclass(frozen=True)
class _GatedLayer(SmoothLayer):
    """A function x g(x) with one minimum, whose derivative falls, rises from -``bend`` to ``bend``,
    and falls again; the sum of its derivatives at x and -x is 1."""

    bend = 0.0
    lowest = 0.0
    """Place of the minimum."""
    least = 0.0
    """A number just below the minimum."""

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """Return the derivative at ``x``."""

    def value_range(self, lower: Tensor, upper: Tensor) -> Box:
        """Return the values at both ends, or the minimum where it lies between."""
        first, last = self.value(lower), self.value(upper)
        inside = (lower < self.lowest) & (upper > self.lowest)
        below = torch.minimum(first, last)
        return torch.where(inside, torch.full_like(below, self.least), below), torch.maximum(
            first, last
        )

    def critical(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        """Return where the derivative crosses the slope between the bends, and in the tail that
        can have this slope: the right one above 1, the left one below 0."""
        bend = torch.full_like(lower, self.bend)
        end = torch.full_like(lower, _FAR)
        rising = self._crossing(slope, -bend, bend, 1.0)
        right = slope > 1
        tail = self._crossing(
            slope, torch.where(right, bend, -end), torch.where(right, end, -bend), -1.0
        )
        return _clamped([rising, tail], lower, upper)

    def _crossing(self, slope: Tensor, first: Tensor, last: Tensor, sign: float) -> Tensor:
        """Return by bisection where ``sign`` times the derivative crosses that of ``slope``; it
        rises from ``first`` to ``last``."""
        for _ in range(24 if slope.dtype == torch.float32 else 50):
            middle = (first + last) / 2
            below = sign * (self.derivative(middle) - slope) < 0
            first, last = torch.where(below, middle, first), torch.where(below, last, middle)
        return (first + last) / 2


@dataclass(frozen=True)
class SiluLayer(_GatedLayer):
    """x times the logistic function."""

    slopes = (-0.1, 1.1)
    bend = 2.3993572805
    lowest = -1.2784645428
    least = -0.2784645428

    def value(self, *inputs: Tensor) -> Tensor:
        """Return x / (1 + exp(-x))."""
        return F.silu(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """Return the derivative at ``x``."""
        gate = torch.sigmoid(x)
        return gate * (1 + x * (1 - gate))


@dataclass(frozen=True)
class GeluLayer(_GatedLayer):
    """x times the distribution function of the normal distribution."""

    slopes = (-0.13, 1.13)
    bend = math.sqrt(2)
    lowest = -0.7517915247
    least = -0.1699712075

    def value(self, *inputs: Tensor) -> Tensor:
        """Return x Phi(x)."""
        return F.gelu(inputs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """Return the derivative at ``x``."""
        density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
        return (1 + torch.erf(x / math.sqrt(2))) / 2 + x * density
