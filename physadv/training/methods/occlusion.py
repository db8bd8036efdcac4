"""Training for certified patch defenses: classification of partly hidden images."""

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
    """Loss of images that are partly hidden, as certified patch defenses hide them.

    Each image's kind is drawn on its own; sides and positions are uniform, and windows and
    rectangles lie within the image.

    Attributes:
        plain: Share of images that stay whole.
        kept: Share of images of which only a window is kept, as in derandomized smoothing (Levine
            and Feizi 2020). The rest is covered by two rectangles, as in double masking (Xiang et
            al. 2022).
        covers: Least and largest side of the rectangles, as shares of the image's.
        windows: Least and largest side of the window, as shares of the image's.
        bands: Share of the windows that are bands of full height; the others are squares.
        fill: Value in [0, 1] of hidden pixels.
        draws: Number of draws for each image in a step.
    """

    plain: float = 0.2
    kept: float = 0.4
    covers: Range = (0.2, 0.45)
    windows: Range = (0.15, 0.4)
    bands: float = 0.25
    fill: float = 0.5
    draws: int = 2
    divisible: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    score: ClassVar[str] = "masked"
    recorded_as: ClassVar[str] = "Masked"

    def __post_init__(self) -> None:
        require_option(
            "plain", self.plain, 0 <= self.plain <= 1, "Use a share from 0 to 1, e.g. 0.2"
        )
        require_option(
            "kept",
            self.kept,
            0 <= self.kept <= 1 - self.plain,
            "Use e.g. 0.4: with plain it is at most 1",
        )
        require_option(
            "bands", self.bands, 0 <= self.bands <= 1, "Use a share from 0 to 1, e.g. 0.25"
        )
        require_option("draws", self.draws, self.draws >= 1, "Use 2")
        require_option("fill", self.fill, 0 <= self.fill <= 1, "Use a gray from 0 to 1, e.g. 0.5")

        # Ranges are checked for order too.
        for name, (low, high) in (("covers", self.covers), ("windows", self.windows)):
            if not 0 < low <= high <= 1:
                raise OptionError(
                    f"{name} {low:g} to {high:g}",
                    "must be ascending shares of the side, above 0",
                    "Use 0.2 0.4",
                )

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of ``net`` on partly hidden ``images`` with ``labels``, drawn from
        ``at``."""
        rows, count = at.part(len(images))
        masks = [self._hidden(count, images.shape[-2:], at.generator) for _ in range(self.draws)]
        hidden = torch.cat([self._filled(images, mask[rows]) for mask in masks])
        return F.cross_entropy(net(hidden).float(), labels.repeat(self.draws)), {}

    def hide(self, images: Tensor, generator: Generator) -> Tensor:
        """Return ``images`` (b, c, h, w), each whole, reduced to a window or covered by two
        rectangles, drawn from ``generator``."""
        return self._filled(images, self._hidden(len(images), images.shape[-2:], generator))

    def _hidden(self, count: int, size: torch.Size, generator: Generator) -> Tensor:
        """Draw which pixels (count, 1, h, w) are hidden."""
        height, width = size
        kind, band = torch.rand(2, count, generator=generator)
        first, second = (
            cover_rectangles(count, height, width, self.covers, generator) for _ in range(2)
        )

        window = cover_rectangles(count, height, width, self.windows, generator, square=True)
        band_only = (band < self.bands).view(-1, 1, 1, 1)
        window = torch.where(band_only, window.any(2, keepdim=True), window)

        # One draw decides whether an image stays whole, is reduced to a window, or is covered.
        kind = kind.view(-1, 1, 1, 1)
        ablated = torch.where(kind < self.plain + self.kept, ~window, first | second)
        hidden: Tensor = ablated & (kind >= self.plain)
        return hidden

    def _filled(self, images: Tensor, hidden: Tensor) -> Tensor:
        return torch.where(hidden.to(images.device), self.fill, images)


def cover_rectangles(
    count: int, height: int, width: int, sides: Range, generator: Generator, *, square: bool = False
) -> Tensor:
    """Draw one rectangle for each image.

    Args:
        count: Number of images.
        height: Height of the images in px.
        width: Width of the images in px.
        sides: Least and largest side, as shares of the image's.
        generator: Source of the draws.
        square: Whether one share is drawn for both sides.

    Returns:
        Masks (count, 1, height, width), bool, true inside.
    """
    shares = sides[0] + (sides[1] - sides[0]) * torch.rand(2, count, generator=generator)
    if square:
        shares[1] = shares[0]
    down = _spans(height, shares[0], torch.rand(count, generator=generator))
    across = _spans(width, shares[1], torch.rand(count, generator=generator))
    return (down[:, :, None] & across[:, None, :])[:, None]


def _spans(side: int, share: Tensor, place: Tensor) -> Tensor:
    """Return (b, side) bool: a run of a ``share`` of the pixels, at least one, at ``place`` in [0,
    1) of where it can begin."""
    length = (share * side).round().clamp(1, side)
    start = (place * (side - length + 1)).floor()
    pixels = torch.arange(side)[None]
    return (pixels >= start[:, None]) & (pixels < (start + length)[:, None])


__all__ = ["OcclusionTraining", "cover_rectangles"]
