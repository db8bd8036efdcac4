"""Constraints on adversarial images: an epsilon ball, or the pixels under a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from physadv.core.errors import ImageError, OptionError
from physadv.threat import norms
from physadv.threat.norms import Norm
from physadv.threat.parsing import parse_eps


class AttackConstraint(Protocol):
    """A set of allowed images around each clean image ``x0`` (b, ...)."""

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """Return the allowed images nearest to ``x``, around ``x0``; allowed ones are unchanged."""
        ...

    def random_start(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an allowed image around each of ``x0`` from ``generator``."""
        ...

    def violation(self, x: Tensor, x0: Tensor) -> Tensor:
        """Return how far (b,) each of ``x`` lies outside the set around ``x0``; 0 inside."""
        ...


@dataclass(frozen=True)
class LpBall:
    """All images in [0, 1] within a distance of the clean image.

    Args:
        norm: "linf", "l2", "l1" or "l0", in any spelling.
        eps: Radius of the ball, at least 0, in units of [0, 1]: a number or text such as "8/255".
            In l_0 it is the number of pixels that may change, each with all its channels.
        levels: Restrict images to the grid k / levels as well (255 for 8 bits).

    Raises:
        OptionError: The norm is unknown, ``eps`` is negative, not finite or over 1 in l_inf, or
            ``levels`` is below 1.

    Example:
        >>> import torch
        >>> from physadv.threat.constraints import LpBall
        >>> ball, clean = LpBall("linf", 0.25), torch.full((1, 3, 2, 2), 0.5)
        >>> float(ball.project(clean + 0.5, clean).max())
        0.75
    """

    norm: Norm
    eps: float
    levels: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", norms.parse_norm(self.norm, sparse=True))
        object.__setattr__(self, "eps", parse_eps(self.eps, self.norm))
        if self.levels is not None and self.levels < 1:
            raise OptionError(f"levels {self.levels}", "at least 1", "Use 255 for 8-bit images")

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """Return the point of the ball around ``x0`` within [0, 1] that is nearest to ``x``.

        The grid is left to :meth:`quantized`, so that small steps add up.
        """
        return norms.project_onto_ball(x, x0, self.eps, self.norm)

    def quantized(self, x: Tensor, x0: Tensor) -> Tensor:
        """Round ``x``, which lies in the ball around ``x0``, to a grid point of the ball.

        Without ``levels`` return ``x``.

        Raises:
            ImageError: The ball holds no grid point, where clean images lie off the grid and eps is
                small.
        """
        if self.levels is None:
            return x

        out = norms.quantize_in_ball(x, x0, self.eps, self.norm, self.levels)
        if bool((norms.lp_distance(out, x0, self.norm) > self.eps).any()):
            raise ImageError(
                f"{self.norm} ball of {self.eps:.4g}",
                f"holds no image with {self.levels + 1} levels",
                f"Round the clean images to k/{self.levels} first, or raise eps",
            )
        return out

    def random_start(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a uniform point of the ball around each of ``x0`` and project it into [0, 1].

        All samples draw from ``generator``, in order.
        """
        return self.random_starts(x0, [generator] * len(x0))

    def random_starts(self, x0: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw a point around each of ``x0`` (b, ...) from its own one of b ``generators``.

        A start then does not depend on the batch it is drawn in.
        """
        if not len(x0):
            return x0.clone()

        if self.norm == "l0":
            pixels = [norms.random_pixels(x0.shape[1:], int(self.eps), g) for g in generators]
            values = torch.empty_like(x0).copy_(torch.stack(pixels))
            return self.project(torch.where(values.isnan(), x0, values), x0)
        noise = torch.stack([norms.unit_noise(x0.shape[1:], self.norm, g) for g in generators])
        shift = torch.empty_like(x0).copy_(noise * self.eps)
        return self.project(x0 + shift, x0)

    def violation(self, x: Tensor, x0: Tensor) -> Tensor:
        """Return how far (b,) ``x`` lies beyond eps of ``x0`` or, if larger, beyond [0, 1]."""
        beyond = norms.lp_distance(x, x0, self.norm) - self.eps
        outside = torch.maximum(-x.double(), x.double() - 1).flatten(1).amax(1)
        return torch.maximum(beyond, outside).clamp_min(0)


@dataclass(frozen=True)
class MaskedConstraint:
    """A constraint on the pixels under a mask; all others stay clean.

    Args:
        inner: Constraint on the pixels under the mask.
        mask: True where pixels may change; broadcasts over the images.

    Example:
        >>> import torch
        >>> from physadv.threat.constraints import LpBall, MaskedConstraint
        >>> clean, mask = torch.zeros(1, 1, 1, 2), torch.tensor([True, False])
        >>> constraint = MaskedConstraint(LpBall("linf", 0.5), mask)
        >>> constraint.project(torch.ones(1, 1, 1, 2), clean).flatten().tolist()
        [0.5, 0.0]
    """

    inner: AttackConstraint
    mask: Tensor

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """Reset ``x`` to ``x0`` off the mask, then project onto the inner constraint."""
        return self.inner.project(torch.where(self._on(x0), x, x0), x0)

    def random_start(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a start of the inner constraint around ``x0`` from ``generator``, on the mask."""
        return self.project(self.inner.random_start(x0, generator), x0)

    def violation(self, x: Tensor, x0: Tensor) -> Tensor:
        """Return the larger of the inner violation of ``x`` and its largest change off the mask.

        ``x0`` are the clean images; the result is (b,).
        """
        off = torch.where(self._on(x0), torch.zeros_like(x0), x - x0).abs().flatten(1).amax(1)
        return torch.maximum(self.inner.violation(x, x0), off.double())

    def _on(self, x0: Tensor) -> Tensor:
        return self.mask.to(device=x0.device, dtype=torch.bool)
