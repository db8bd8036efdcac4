"""What a printer and a camera ask of a patch: smoothness, colours that exist in ink, values that fit in 8 bits."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def total_variation(patch: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along rows and columns inside the mask (Rudin 1992, anisotropic).

    ``patch`` (1, 3, h, w), ``mask`` (1, 1, h, w); a scalar >= 0. Differences across the mask's edge do not count.
    """
    down = (patch[..., 1:, :] - patch[..., :-1, :]).abs() * mask[..., 1:, :] * mask[..., :-1, :]
    right = (patch[..., :, 1:] - patch[..., :, :-1]).abs() * mask[..., :, 1:] * mask[..., :, :-1]
    return (down.sum() + right.sum()) / (patch.shape[1] * mask.sum().clamp(min=1))


def ink_palette(levels: int = 4, *, black: float = 0.16, white: float = 0.94) -> Tensor:
    """(levels**3, 3) sRGB colours of a plain three-ink printer: a grid that shrinks toward grey as inks overlap.

    A stand-in until a measured palette is given; the darkest and lightest value are typical of office paper.
    """
    steps = torch.linspace(0, 1, levels)
    grid = torch.tensor(list(itertools.product(steps.tolist(), repeat=3)))
    grey = grid.mean(1, keepdim=True)
    return black + (white - black) * (grey + 0.85 * (grid - grey))


def non_printability(patch: Tensor, mask: Tensor, palette: Tensor) -> Tensor:
    """Mean distance of each pixel to the nearest printable colour (after Sharif 2016, section 4.2.3).

    The paper multiplies the distances, whose gradient vanishes with many colours; the minimum is the usual form.
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
