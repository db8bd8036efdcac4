"""What the attacker may change: an epsilon ball, or only the pixels under a mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from physadv.core.errors import ImageError, OptionError
from physadv.threat import norms
from physadv.threat.norms import Norm


class AttackConstraint(Protocol):
    """A set of allowed images around each clean image ``x0``."""

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """The nearest allowed image to ``x``; allowed images come back unchanged."""
        ...

    def random_start(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """An allowed image drawn at random."""
        ...

    def violation(self, x: Tensor, x0: Tensor) -> Tensor:
        """How far outside (b,) each image is; 0 inside."""
        ...


@dataclass(frozen=True)
class LpBall:
    """All images in [0, 1] within ``eps`` of the clean one in ``norm``; with ``levels`` (255), on
    the 8-bit grid too.

    Raises OptionError for an unknown norm, an eps that is negative or not finite, or fewer than one
    level.
    """

    norm: Norm
    eps: float
    levels: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", norms.parse_norm(self.norm))
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise OptionError(
                f"eps {self.eps}",
                "a finite number, not negative",
                "write it like 8/255, 0.03 or 2.0",
            )
        if self.levels is not None and self.levels < 1:
            raise OptionError(f"levels {self.levels}", "at least 1", "use 255 for 8-bit images")

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """Nearest point of the ball within [0, 1]; the grid is left to :meth:`legal`, so that small
        steps add up."""
        return norms.project_onto_ball(x, x0, self.eps, self.norm)

    def quantized(self, x: Tensor, x0: Tensor) -> Tensor:
        """``x`` (inside the ball) as it may be handed out: itself, or its neighbor on the 8-bit
        grid inside the ball.

        Raises ImageError where the ball holds no grid point: clean images off the grid and an eps
        too small.
        """
        if self.levels is None:
            return x
        out = norms.quantize_in_ball(x, x0, self.eps, self.norm, self.levels)
        if bool((norms.lp_distance(out, x0, self.norm) > self.eps).any()):
            raise ImageError(
                f"{self.norm} ball of {self.eps:.4g}",
                f"holds no image with {self.levels + 1} levels",
                f"round the clean images to k/{self.levels} first, or raise eps",
            )
        return out

    def random_start(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """A point of the ball drawn evenly and brought into [0, 1]; all samples from one generator,
        in order."""
        return self.random_starts(x0, [generator] * len(x0))

    def random_starts(self, x0: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The same with a generator a sample, so that a start does not depend on the batch it is
        drawn in."""
        if not len(x0):
            return x0.clone()
        noise = torch.stack([norms.unit_noise(x0.shape[1:], self.norm, g) for g in generators])
        shift = torch.empty_like(x0).copy_(noise * self.eps)
        return self.project(x0 + shift, x0)

    def violation(self, x: Tensor, x0: Tensor) -> Tensor:
        """Distance beyond eps or, if larger, beyond [0, 1]."""
        beyond = norms.lp_distance(x, x0, self.norm) - self.eps
        outside = torch.maximum(-x.double(), x.double() - 1).flatten(1).amax(1)
        return torch.maximum(beyond, outside).clamp_min(0)


@dataclass(frozen=True)
class MaskedConstraint:
    """Another constraint, on the pixels where ``mask`` (broadcast over the images) is true; the
    rest stays clean."""

    inner: AttackConstraint
    mask: Tensor

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """Pixels off the mask go back to the clean image, then the inner constraint holds."""
        return self.inner.project(torch.where(self._on(x0), x, x0), x0)

    def random_start(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """The inner start, on the mask only."""
        return self.project(self.inner.random_start(x0, generator), x0)

    def violation(self, x: Tensor, x0: Tensor) -> Tensor:
        """The larger of the inner violation and the largest change off the mask."""
        off = torch.where(self._on(x0), torch.zeros_like(x0), x - x0).abs().flatten(1).amax(1)
        return torch.maximum(self.inner.violation(x, x0), off.double())

    def _on(self, x0: Tensor) -> Tensor:
        return self.mask.to(device=x0.device, dtype=torch.bool)
