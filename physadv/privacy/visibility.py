"""Visibility of a change: structural dissimilarity, PSNR, largest change of a value."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10

import torch
import torch.nn.functional as F
from kornia.metrics import ssim
from torch import Tensor

_SIGMA, _RADIUS = 1.5, 5
_BAND_PIXELS = 250_000
"""Pixels that are compared at once."""


@dataclass(frozen=True)
class ImageChange:
    """Change of one face box: ``linf`` in 8-bit steps, ``dssim`` in [0, 0.5], ``psnr`` in dB (inf
    if equal)."""

    linf: int
    dssim: float
    psnr: float


def dssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural dissimilarity (1 - SSIM) / 2, (b,), of ``first`` and ``second``, (b,
    3, h, w) in [0, 1].

    0 is equal, 0.5 has nothing in common. SSIM after Wang et al. (2004): Gaussian window of 11 px,
    sigma 1.5, on each of R, G and B, averaged. Sides under 11 px are padded by their border.

    Example:
        >>> import torch
        >>> float(dssim(torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)))
        0.0
    """
    return dssim_map(first, second).mean((1, 2, 3))


def dssim_map(first: Tensor, second: Tensor) -> Tensor:
    """Return the dissimilarity of ``first`` and ``second`` in each window and channel: (b, 3, h -
    10, w - 10)."""
    similarity: Tensor = ssim(
        _padded(first), _padded(second), 2 * _RADIUS + 1, eps=0.0, padding="valid"
    )
    return (1 - similarity) / 2


def measure_change(before: Tensor, after: Tensor) -> ImageChange:
    """Measure the change from ``before`` to ``after``, both (3, h, w) in [0, 1] or uint8."""
    height, width = before.shape[-2:]
    first, second = _padded(before[None]), _padded(after[None])
    squares = largest = unlike = 0.0
    step = max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        rows = slice(top, top + step)
        difference = (_unit(after[:, rows]) - _unit(before[:, rows])).double()
        largest = max(largest, float(difference.abs().max()))
        squares += float((difference**2).sum())
    for top in range(0, first.shape[2] - 2 * _RADIUS, step):
        rows = slice(top, top + step + 2 * _RADIUS)
        bands = _unit(first[:, :, rows]), _unit(second[:, :, rows])
        unlike += float(dssim_map(*bands).double().sum())

    error = squares / before.numel()
    windows = before.shape[0] * (first.shape[2] - 2 * _RADIUS) * (first.shape[3] - 2 * _RADIUS)
    psnr = -10 * log10(error) if error > 0 else float("inf")
    return ImageChange(round(largest * 255), unlike / windows, psnr)


def _unit(x: Tensor) -> Tensor:
    """Pixels in [0, 1], of uint8 or as they are."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def _padded(x: Tensor) -> Tensor:
    """Short sides get a border, so that the window fits."""
    h, w = (max(0, 2 * _RADIUS + 1 - side) for side in x.shape[-2:])
    border = (w // 2, w - w // 2, h // 2, h - h // 2)
    return F.pad(_unit(x), border, mode="replicate") if h or w else x


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur ``x`` (b, c, h, w) by ``sigma`` px, borders repeated; differentiable."""
    radius = max(1, round(3 * sigma))
    return _blurred(F.pad(x, (radius,) * 4, mode="replicate"), sigma, radius)


def _blurred(x: Tensor, sigma: float = _SIGMA, radius: int = _RADIUS) -> Tensor:
    """Gaussian window, valid part only."""
    reach = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    window = torch.exp(-(reach**2) / (2 * max(sigma, 1e-3) ** 2))
    window = (window / window.sum()).expand(x.shape[1], 1, 1, -1)
    across = F.conv2d(x, window, groups=x.shape[1])
    return F.conv2d(across, window.transpose(2, 3), groups=x.shape[1])
