"""Printability of a patch: smoothness, colors that exist in ink, 8-bit values."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.core.image_io import read_image


def total_variation(patch: Tensor, mask: Tensor) -> Tensor:
    """Return the anisotropic total variation inside the mask (after Rudin et al. 1992).

    It is the mean absolute difference of neighbors along rows and columns, a scalar. Differences
    across the mask's edge do not count. ``patch`` is (1, 3, h, w), ``mask`` (1, 1, h, w).

    Example:
        >>> import torch
        >>> from physadv.threat.printability import total_variation
        >>> patch = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
        >>> float(total_variation(patch, torch.ones(1, 1, 1, 2)))
        0.5
    """
    down = (patch[..., 1:, :] - patch[..., :-1, :]).abs() * mask[..., 1:, :] * mask[..., :-1, :]
    right = (patch[..., :, 1:] - patch[..., :, :-1]).abs() * mask[..., :, 1:] * mask[..., :, :-1]
    return (down.sum() + right.sum()) / (patch.shape[1] * mask.sum().clamp(min=1))


def ink_palette(levels: int = 4, *, black: float = 0.16, white: float = 0.94) -> Tensor:
    """Return the colors of a typical three-ink printer, as a stand-in for a measured palette.

    The colors form a grid that shrinks towards gray, as overlapping inks do.

    Args:
        levels: Levels of each ink.
        black: sRGB value of the darkest color, 0 to 1; the default is typical of office paper.
        white: sRGB value of the paper, 0 to 1.

    Returns:
        Colors (levels**3, 3), sRGB in [0, 1].

    Example:
        >>> from physadv.threat.printability import ink_palette
        >>> ink_palette(levels=2).shape
        torch.Size([8, 3])
    """
    steps = torch.linspace(0, 1, levels)
    grid = torch.tensor(list(itertools.product(steps.tolist(), repeat=3)))
    gray = grid.mean(1, keepdim=True)
    return black + (white - black) * (gray + 0.85 * (grid - gray))


def non_printability(patch: Tensor, mask: Tensor, palette: Tensor) -> Tensor:
    """Return the mean distance of pixels to the nearest printable color (after Sharif et al. 2016).

    The paper multiplies the distances to all colors, whose gradient vanishes when there are many;
    the minimum is the usual form.

    Args:
        patch: Patch (1, 3, h, w), sRGB in [0, 1].
        mask: Weights (1, 1, h, w) of the pixels.
        palette: Printable colors (k, 3).

    Returns:
        A scalar, at least 0.

    Example:
        >>> import torch
        >>> from physadv.threat.printability import non_printability
        >>> white, black = torch.ones(1, 3, 2, 2), torch.zeros(1, 3)
        >>> round(float(non_printability(white, torch.ones(1, 1, 2, 2), black)) ** 2, 5)
        3.0
    """
    pixels = patch[0].flatten(1).T
    nearest = torch.cdist(pixels, palette.to(pixels)).amin(1)
    weight = mask.flatten()
    return (nearest * weight).sum() / weight.sum().clamp(min=1)


def project_printable(patch: Tensor) -> Tensor:
    """Return the valid patch nearest to ``patch``: every value clipped to [0, 1]."""
    return patch.clamp(0, 1)


def eight_bit(patch: Tensor) -> Tensor:
    """Round ``patch`` to 8 bits, as its PNG stores it."""
    return patch.clamp(0, 1).mul(255).round().div(255)


@dataclass(frozen=True)
class PatchAppearance:
    """Limits on the look of a patch: few given colors, or similarity to a reference image.

    Args:
        palette: Colors (k, 3), sRGB in [0, 1], that the patch is restricted to; None for all.
        content: Reference image (1, 3, h, w) that the patch should resemble; None for none.
        weight: Weight of the mean squared distance from the reference image.
    """

    palette: Tensor | None = None
    content: Tensor | None = None
    weight: float = 0.0

    @classmethod
    def from_files(
        cls, palette: str | None, content: str | None, weight: float, size: tuple[int, int]
    ) -> PatchAppearance:
        """Read the limits on a patch of ``size`` (height, width) in px.

        Args:
            palette: Colors as :func:`parse_palette` reads them; None for all.
            content: Image file that the patch should resemble; None for none.
            weight: Weight of its distance.
            size: Height and width of the patch in px, to which the image is brought.

        Returns:
            The limits.

        Raises:
            OptionError: The palette cannot be read.
            ImageError: The image cannot be read.
        """
        colors = None if palette is None else parse_palette(palette)
        if content is None:
            return cls(colors)
        picture = read_image(content)[None]
        resized = F.interpolate(picture, size=size, mode="bilinear", antialias=True)
        return cls(colors, resized.clamp(0, 1), weight)

    def to(self, device: torch.device) -> PatchAppearance:
        """Return a copy on ``device``."""
        palette, content = (
            None if t is None else t.to(device) for t in (self.palette, self.content)
        )
        return PatchAppearance(palette, content, self.weight)

    def printed(self, patch: Tensor) -> Tensor:
        """Return ``patch`` in the colors of the palette, with a straight-through gradient."""
        if self.palette is None:
            return patch
        return patch + (in_palette(patch, self.palette) - patch).detach()

    def distance(self, patch: Tensor, mask: Tensor) -> Tensor:
        """Return the weighted distance of ``patch`` from the reference image within ``mask``.

        The distance is the mean square; 0 without a reference image.
        """
        if self.content is None:
            return patch.sum() * 0
        squares = (patch - self.content) ** 2 * mask
        mean = squares.sum() / (patch.shape[1] * mask.sum().clamp(min=1))
        return self.weight * mean


def in_palette(patch: Tensor, palette: Tensor) -> Tensor:
    """Replace every pixel of ``patch`` (1, 3, h, w) by the nearest color of ``palette`` (k, 3).

    Example:
        >>> import torch
        >>> from physadv.threat.printability import in_palette
        >>> colors = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
        >>> in_palette(torch.full((1, 3, 1, 1), 0.7), colors).flatten().tolist()
        [1.0, 1.0, 1.0]
    """
    pixels = patch.detach()[0].flatten(1).T
    nearest = palette.to(pixels)[torch.cdist(pixels, palette.to(pixels)).argmin(1)]
    return nearest.T.reshape(patch.shape)


def parse_palette(text: str) -> Tensor:
    """Parse at least two colors, such as ``text`` ``#c01c28,#ffffff,#000``, to (k, 3) in [0, 1].

    Raises:
        OptionError: A color cannot be read, or there are fewer than two.

    Example:
        >>> from physadv.threat.printability import parse_palette
        >>> parse_palette("#f00, #ffffff").tolist()
        [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    colors = []

    for word in filter(None, re.split(r"[\s,;]+", text.strip())):
        digits = word.removeprefix("#")
        if not re.fullmatch(r"[0-9a-fA-F]{3}|[0-9a-fA-F]{6}", digits):
            raise OptionError(
                f"color {word!r}", "is not #rgb or #rrggbb", "Write for example #c01c28,#ffffff"
            )

        digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        colors.append([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])

    if len(colors) < 2:
        raise OptionError(
            f"palette {text!r}", "needs two colors or more", "Write for example #c01c28,#ffffff"
        )
    return torch.tensor(colors)
