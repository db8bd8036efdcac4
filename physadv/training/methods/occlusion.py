"""Training for patch defenses with a proof: the classifier must know its classes by what those
leave of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from physadv.core.errors import OptionError
from physadv.training.methods.base import Metrics, TrainingMethod, TrainingPosition, require_option

Range = tuple[float, float]


@dataclass
class OcclusionTraining(TrainingMethod):
    """The loss of images of which a part is hidden behind ``fill``, as certified patch defenses
    will hide it.

    Of the images a share of ``plain`` stays whole. A share of ``kept`` keeps nothing but a window,
    as in derandomized smoothing (Levine and Feizi 2020): for a share of ``bands`` of them a band of
    full height, else a square; its side is in ``windows``. The rest lies behind two rectangles with
    sides in ``covers``, as in double masking (Xiang et al. 2022). Sides are shares of the image's,
    drawn evenly like every place within the image. Each image's lot is drawn on its own, and each
    image is shown in ``draws`` ways a step.
    """

    plain: float = 0.2
    kept: float = 0.4
    covers: Range = (0.2, 0.45)
    windows: Range = (0.15, 0.4)
    bands: float = 0.25
    fill: float = 0.5
    draws: int = 2
    score: ClassVar[str] = "masked"
    recorded_as: ClassVar[str] = "Masked"

    def __post_init__(self) -> None:
        require_option("plain", self.plain, 0 <= self.plain <= 1, "a share from 0 to 1: use 0.2")
        require_option(
            "kept",
            self.kept,
            0 <= self.kept <= 1 - self.plain,
            "plain and kept are shares of one whole: use 0.4",
        )
        require_option("bands", self.bands, 0 <= self.bands <= 1, "a share from 0 to 1: use 0.25")
        require_option("draws", self.draws, self.draws >= 1, "use 2")
        require_option("fill", self.fill, 0 <= self.fill <= 1, "a gray from 0 to 1: use 0.5")
        for name, (low, high) in (("covers", self.covers), ("windows", self.windows)):
            if not 0 < low <= high <= 1:
                raise OptionError(
                    f"{name} {low:g} to {high:g}",
                    "0 < low <= high <= 1, shares of the side",
                    "use 0.2 0.4",
                )

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """See :class:`Defence`."""
        hidden = torch.cat([self.hide(images, at.generator) for _ in range(self.draws)])
        return F.cross_entropy(net(hidden).float(), labels.repeat(self.draws)), {}

    def hide(self, images: Tensor, generator: Generator) -> Tensor:
        """(b, c, h, w) with each image whole, reduced to a window or behind two rectangles."""
        count, (height, width) = len(images), images.shape[-2:]
        lot, band = torch.rand(2, count, generator=generator)
        first, second = (
            cover_rectangles(count, height, width, self.covers, generator) for _ in range(2)
        )
        window = cover_rectangles(count, height, width, self.windows, generator, square=True)
        band_only = (band < self.bands).view(-1, 1, 1, 1)
        window = torch.where(band_only, window.any(2, keepdim=True), window)
        lot = lot.view(-1, 1, 1, 1)
        hidden = torch.where(lot < self.plain + self.kept, ~window, first | second) & (
            lot >= self.plain
        )
        return torch.where(hidden.to(images.device), self.fill, images)


def cover_rectangles(
    count: int, height: int, width: int, sides: Range, generator: Generator, *, square: bool = False
) -> Tensor:
    """(count, 1, height, width) bool, true in one rectangle each; both sides drawn, or one for
    both, then the place."""
    shares = sides[0] + (sides[1] - sides[0]) * torch.rand(2, count, generator=generator)
    if square:
        shares[1] = shares[0]
    down = _spans(height, shares[0], torch.rand(count, generator=generator))
    across = _spans(width, shares[1], torch.rand(count, generator=generator))
    return (down[:, :, None] & across[:, None, :])[:, None]


def _spans(side: int, share: Tensor, place: Tensor) -> Tensor:
    """(b, side) bool: a run of ``share`` of it, a pixel at least, at ``place`` in [0, 1) of where
    it can begin."""
    length = (share * side).round().clamp(1, side)
    start = (place * (side - length + 1)).floor()
    pixels = torch.arange(side)[None]
    return (pixels >= start[:, None]) & (pixels < (start + length)[:, None])


__all__ = ["OcclusionTraining", "cover_rectangles"]
