"""The inputs a bound speaks of: an l_inf or l_2 ball about each image, within [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.core.errors import OptionError

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class InputBall:
    """All legal images within ``eps`` of ``centre`` (b, *shape) in ``norm``.

    ``limits`` are the ends of what an image can hold; None leaves the ball whole, as Wong and
    Kolter (2018) do. Raises OptionError for another norm or a negative eps.
    """

    center: Tensor
    eps: float
    norm: str = "linf"
    limits: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise OptionError(
                f"norm {self.norm!r}", f"bounds know {' and '.join(NORMS)}", "use linf"
            )
        if not 0 <= self.eps < float("inf"):
            raise OptionError(f"eps {self.eps}", "0 or more", "use 0.1")

    def box(self) -> tuple[Tensor, Tensor]:
        """(lower, upper): the smallest box that holds the set."""
        lower, upper = self.center - self.eps, self.center + self.eps
        if self.limits is not None:
            lower, upper = lower.clamp(*self.limits), upper.clamp(*self.limits)
        return lower, upper

    def minimum(self, forms: Tensor) -> Tensor:
        """The least value over the set, or a lower bound of it, of forms (b, k, *shape): (b, k)."""
        rows = forms.flatten(2)
        if self.norm == "linf":
            return box_minimum(rows, *self.box())
        ball = torch.einsum("bkn,bn->bk", rows, self.center.flatten(1)) - self.eps * rows.norm(
            dim=2
        )
        return ball if self.limits is None else torch.maximum(ball, box_minimum(rows, *self.box()))


def box_minimum(rows: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The least values (b, k) of forms (b, k, n) over boxes (b, *shape): exact."""
    middle, radius = (lower + upper).flatten(1) / 2, (upper - lower).flatten(1) / 2
    return torch.einsum("bkn,bn->bk", rows, middle) - torch.einsum("bkn,bn->bk", rows.abs(), radius)
