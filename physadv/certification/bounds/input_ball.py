"""Sets of inputs that a bound covers: an l_inf or l_2 ball about each image, within [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

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
            lower, upper = lower.clamp(*self.limits), upper.clamp(*self.limits)
        return lower, upper

    def minimum(self, forms: Tensor) -> Tensor:
        """Return the least value over the set, or a lower bound of it, of ``forms`` (b, k, *shape)
        as (b, k)."""
        rows = forms.flatten(2)
        if self.norm == "linf":
            return box_minimum(rows, *self.box())

        at_center = torch.einsum("bkn,bn->bk", rows, self.center.flatten(1))
        least: Tensor = at_center - self.eps * rows.norm(dim=2)
        if self.limits is None:
            return least
        return torch.maximum(least, box_minimum(rows, *self.box()))


def box_minimum(rows: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the exact least values (b, k) of linear forms over boxes.

    Args:
        rows: Coefficients (b, k, n).
        lower: Lower ends (b, *shape) of the boxes, n numbers each.
        upper: Upper ends, of the same shape.
    """
    middle, radius = (lower + upper).flatten(1) / 2, (upper - lower).flatten(1) / 2
    return torch.einsum("bkn,bn->bk", rows, middle) - torch.einsum("bkn,bn->bk", rows.abs(), radius)
