"""What a printer and a camera ask of a patch: smoothness, colors that exist in ink, values that fit
in 8 bits."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.core.errors import OptionError


def total_variation(patch: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of neighbors along rows and columns inside the mask (Rudin 1992,
    anisotropic).

    ``patch`` (1, 3, h, w), ``mask`` (1, 1, h, w); a scalar >= 0. Differences across the mask's edge
    do not count.
    """
    down = (patch[..., 1:, :] - patch[..., :-1, :]).abs() * mask[..., 1:, :] * mask[..., :-1, :]
    right = (patch[..., :, 1:] - patch[..., :, :-1]).abs() * mask[..., :, 1:] * mask[..., :, :-1]
    return (down.sum() + right.sum()) / (patch.shape[1] * mask.sum().clamp(min=1))


def ink_palette(levels: int = 4, *, black: float = 0.16, white: float = 0.94) -> Tensor:
    """(levels**3, 3) sRGB colors of a plain three-ink printer: a grid that shrinks toward gray as
    inks overlap.

    A stand-in until a measured palette is given; the darkest and lightest value are typical of
    office paper.
    """
    steps = torch.linspace(0, 1, levels)
    grid = torch.tensor(list(itertools.product(steps.tolist(), repeat=3)))
    gray = grid.mean(1, keepdim=True)
    return black + (white - black) * (gray + 0.85 * (grid - gray))


def non_printability(patch: Tensor, mask: Tensor, palette: Tensor) -> Tensor:
    """Mean distance of each pixel to the nearest printable color (after Sharif 2016, section
    4.2.3).

    The paper multiplies the distances, whose gradient vanishes with many colors; the minimum is the
    usual form.
    """
    pixels = patch[0].flatten(1).T
    nearest = torch.cdist(pixels, palette.to(pixels)).amin(1)
    weight = mask.flatten()
    return (nearest * weight).sum() / weight.sum().clamp(min=1)


def project_printable(patch: Tensor) -> Tensor:
    """The nearest patch in [0, 1]."""
    return patch.clamp(0, 1)


def eight_bit(patch: Tensor) -> Tensor:
    """The patch as its PNG will hold it."""
    return patch.clamp(0, 1).mul(255).round().div(255)


@dataclass(frozen=True)
class PatchAppearance:
    """How a patch shall look besides being smooth: of few given colors, or near a picture.

    ``palette`` (k, 3) sRGB colors, the only ones it may show; ``content`` (1, 3, h, w) a picture it
    stays near, with ``weight`` for the mean squared distance from it. None: free.
    """

    palette: Tensor | None = None
    content: Tensor | None = None
    weight: float = 0.0

    def to(self, device: torch.device) -> PatchAppearance:
        """The same on another device."""
        palette, content = (
            None if t is None else t.to(device) for t in (self.palette, self.content)
        )
        return PatchAppearance(palette, content, self.weight)

    def printed(self, patch: Tensor) -> Tensor:
        """The patch in its palette; the gradient passes as if it were free (straight-through)."""
        return (
            patch
            if self.palette is None
            else patch + (in_palette(patch, self.palette) - patch).detach()
        )

    def distance(self, patch: Tensor, mask: Tensor) -> Tensor:
        """Weighted mean squared distance from the content picture within the mask; 0 without one."""
        if self.content is None:
            return patch.sum() * 0
        gap = ((patch - self.content) ** 2 * mask).sum() / (
            patch.shape[1] * mask.sum().clamp(min=1)
        )
        return self.weight * gap


def in_palette(patch: Tensor, palette: Tensor) -> Tensor:
    """Every pixel of a (1, 3, h, w) patch replaced by the nearest of the (k, 3) colors."""
    pixels = patch.detach()[0].flatten(1).T
    nearest = palette.to(pixels)[torch.cdist(pixels, palette.to(pixels)).argmin(1)]
    return nearest.T.reshape(patch.shape)


def parse_palette(text: str) -> Tensor:
    """Colors written ``#c01c28,#ffffff,#000`` as (k, 3) in [0, 1], at least two. OptionError names
    the bad one."""
    colors = []
    for word in filter(None, re.split(r"[\s,;]+", text.strip())):
        digits = word.removeprefix("#")
        if not re.fullmatch(r"[0-9a-fA-F]{3}|[0-9a-fA-F]{6}", digits):
            raise OptionError(
                f"color {word!r}", "is not #rgb or #rrggbb", "write for example #c01c28,#ffffff"
            )
        digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        colors.append([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    if len(colors) < 2:
        raise OptionError(
            f"palette {text!r}", "needs two colors or more", "write for example #c01c28,#ffffff"
        )
    return torch.tensor(colors)
