"""Unsharp mask of the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia.filters import unsharp_mask
from torch import Tensor

from physadv.eot.sampling import DrawStream, broadcast_parameters
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import FROM_ZERO, Range, Stage, StageRanges, span


@dataclass(frozen=True)
class SharpeningRanges(StageRanges):
    """Range of the amount."""

    sharpening: Range = span(0, 0, within=FROM_ZERO, effects=("sensor",))
    """Amount of the camera's unsharp mask, radius 1 px."""


def sharpen_picture(image: Tensor, amount: Tensor) -> Tensor:
    """Return ``image`` after an unsharp mask of (b,) ``amount`` over a 3 x 3 binomial blur.

    Edges are reflected.

    Example:
        >>> flat = torch.full((1, 3, 4, 4), 0.5)
        >>> bool((sharpen_picture(flat, torch.tensor([0.8])) == flat).all())
        True
    """
    # Sums of slices: on a CPU many times faster, backwards above all, than convolutions of single
    # planes.
    padded = F.pad(image, (1, 1, 1, 1), mode="reflect")
    down = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    blurred = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 16
    return image + broadcast_parameters(amount).to(image) * (image - blurred)


def sharpen_with_kornia(image: Tensor, amount: Tensor) -> Tensor:
    """Return ``image`` sharpened by (b,) ``amount``, by kornia's filter."""
    sigma = 1 / math.sqrt(2 * math.log(2))  # a kernel of 1, 2, 1
    once = unsharp_mask(image, 3, (sigma, sigma))
    return torch.lerp(image, once, broadcast_parameters(amount).to(image))


class Sharpening(Stage[SharpeningRanges, Tensor]):
    """Unsharp mask on the encoded picture; parameters: (b,) amounts.

    Example:
        >>> edge = torch.tensor([0.2, 0.2, 0.8, 0.8]).expand(1, 3, 4, 4)
        >>> sharp = Sharpening(SharpeningRanges()).apply(edge, torch.ones(1))
        >>> round(float(sharp.max()), 2)
        0.95
    """

    windowed = True
    backends = ("own", "kornia")

    def sample(
        self, batch: SceneBatch, ranges: SharpeningRanges, stream: DrawStream
    ) -> Tensor | None:
        """Draw the amounts for ``batch`` within ``ranges`` from the ``stream`` "sharpening"."""
        if not ranges.acts("sharpening"):
            return None
        return stream.uniform("sharpening", ranges.sharpening, len(batch.images))

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Return encoded ``images`` sharpened by amounts ``params``."""
        operation = sharpen_picture if self.backend == "own" else sharpen_with_kornia
        return operation(images, params)

    def reach(self, params: Tensor, picture: tuple[int, int]) -> int:
        """Return the 2 px that a window needs, whatever ``params`` and ``picture`` are."""
        return 2
