"""Sets of inputs that a bound covers: an l_inf or l_2 ball about each image, within [0, 1], or a
box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from physadv.core.errors import OptionError

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class InputBall:
    """All valid images within ``eps`` of ``center`` in ``norm``.

    Args:
        center: Images (b, *shape).
        eps: Radius, at least 0, in units of [0, 1].
        norm: "linf" or "l2".
        limits: Smallest and largest value of a pixel; None does not clip the ball, as Wong and
            Kolter (2018) do.

    Raises:
        OptionError: The norm is another one or eps is negative.
    """

    center: Tensor
    eps: float
    norm: str = "linf"
    limits: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise OptionError(
                f"norm {self.norm!r}", f"bounds serve {' and '.join(NORMS)}", "Use linf"
            )
        if not 0 <= self.eps < float("inf"):
            raise OptionError(f"eps {self.eps}", "must be 0 or more", "Use e.g. 0.1")

    def box(self) -> tuple[Tensor, Tensor]:
        """Return (lower, upper), the smallest box that holds the set."""
        lower, upper = self.center - self.eps, self.center + self.eps
        if self.limits is not None:
            lower, upper = lower.clamp_(*self.limits), upper.clamp_(*self.limits)
        return lower, upper

    def middle_and_radius(self) -> tuple[Tensor, Tensor]:
        """Return the middle of that box, and half its width."""
        lower, upper = self.box()
        if torch.is_grad_enabled():
            middle = torch.lerp(lower, upper, 0.5)
            return middle, upper - middle

        # Both ends are new tensors; further ones would cost as much as a small convolution.
        middle = lower.lerp_(upper, 0.5)
        return middle, upper.sub_(middle)

    def minimum(self, forms: Tensor) -> Tensor:
        """Return the least value over the set, or a lower bound of it, of ``forms`` (b, k, *shape)
        as (b, k)."""
        rows = flattened(forms, 2)
        if self.norm == "linf":
            return box_minimum(rows, *self.box())

        at_center = form_values(rows, self.center.flatten(1))
        least: Tensor = at_center - self.eps * rows.norm(dim=2)
        if self.limits is None:
            return least
        return torch.maximum(least, box_minimum(rows, *self.box()))

    def nearest(self, points: Tensor) -> Tensor:
        """Return ``points`` (b, *shape), each moved into its set."""
        step = points - self.center
        if self.norm == "l2":
            size = step.flatten(1).norm(dim=1).clamp_min(1e-12)
            step = step * (self.eps / size).clamp(max=1).view(-1, *[1] * (step.ndim - 1))
        lower, upper = self.box()
        return torch.minimum(torch.maximum(self.center + step, lower), upper)

    def select(self, place: int) -> InputBall:
        """Return the set of the image at ``place`` alone."""
        return replace(self, center=self.center[place : place + 1])

    def repeated(self, count: int) -> InputBall:
        """Return the sets of all images, ``count`` times in a row each."""
        return replace(self, center=self.center.repeat_interleave(count, 0))

    def cast(self, dtype: torch.dtype) -> InputBall:
        """Return the set with its numbers in ``dtype``."""
        return replace(self, center=self.center.to(dtype))

    def channels_last(self) -> InputBall:
        """Return the set with its images in the memory format of that name."""
        return InputBall(channels_last(self.center), self.eps, self.norm, self.limits)


@dataclass(frozen=True)
class InputBox(InputBall):
    """All inputs between two ends, number by number; ``eps`` and ``limits`` have no meaning.

    Args:
        center: Middles (b, *shape).
        reach: Halves (b, *shape) of the widths, none negative.
    """

    eps: float = 0.0
    limits: tuple[float, float] | None = None
    reach: Tensor | None = None

    @classmethod
    def between(cls, lower: Tensor, upper: Tensor) -> InputBox:
        """Return the box with ends ``lower`` and ``upper`` (b, *shape)."""
        return cls((lower + upper) / 2, reach=(upper - lower) / 2)

    @property
    def half(self) -> Tensor:
        """Halves (b, *shape) of the widths."""
        return torch.zeros_like(self.center) if self.reach is None else self.reach

    def box(self) -> tuple[Tensor, Tensor]:
        """Return (lower, upper)."""
        return self.center - self.half, self.center + self.half

    def select(self, place: int) -> InputBox:
        """Return the box at ``place`` alone."""
        return self._changed(lambda numbers: numbers[place : place + 1])

    def repeated(self, count: int) -> InputBox:
        """Return all boxes, ``count`` times in a row each."""
        return self._changed(lambda numbers: numbers.repeat_interleave(count, 0))

    def cast(self, dtype: torch.dtype) -> InputBox:
        """Return the box with its numbers in ``dtype``."""
        return self._changed(lambda numbers: numbers.to(dtype))

    def channels_last(self) -> InputBox:
        """Return the box with its numbers in the memory format of that name."""
        return self._changed(channels_last)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> InputBox:
        return InputBox(change(self.center), reach=change(self.half))


def box_minimum(rows: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the exact least values (b, k) of linear forms over boxes.

    Args:
        rows: Coefficients (b, k, n).
        lower: Lower ends (b, *shape) of the boxes, n numbers each.
        upper: Upper ends, of the same shape.
    """
    middle, radius = flattened(lower + upper) / 2, flattened(upper - lower) / 2
    return form_values(rows, middle) - form_values(rows.abs(), radius)


def flattened(value: Tensor, leading: int = 1) -> Tensor:
    """Return ``value`` with its dimensions behind the ``leading`` ones as one; a single number an
    image, of no dimension, becomes one of one dimension."""
    return value.reshape(*value.shape[:leading], -1)


def channels_last(x: Tensor) -> Tensor:
    """Return ``x`` (a, b, h, w) with the numbers of dimension b side by side in memory.

    The strides say so for a single channel too, so that a convolution's output follows them.
    """
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last)
    height, width = x.shape[2:]
    return x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))


def form_values(rows: Tensor, value: Tensor) -> Tensor:
    """Return the values (..., k) of linear forms ``rows`` (..., k, n) at ``value`` (..., n).

    A row times a matrix is several times faster in a batch than a matrix times a column.
    """
    return (value[..., None, :] @ rows.mT)[..., 0, :]
