"""Spectra of images and of changes to them."""

from __future__ import annotations

import torch
from torch import Tensor


def radial_power(images: Tensor) -> list[tuple[float, float]]:
    """Return the mean power of images by frequency, relative to white noise.

    Each image's power is divided by its mean over all frequencies but zero, so that white noise is
    1 at each frequency on average; then images and all directions of a frequency are averaged.

    Args:
        images: Gray images (n, h, w); one without contrast is left out.

    Returns:
        Pairs of a frequency, in cycles a pixel from above 0 to 0.5, and its relative power.

    Example:
        >>> rows = torch.cos(2 * torch.pi * torch.arange(16) * 4 / 16).expand(1, 16, 16)
        >>> max(radial_power(rows), key=lambda pair: pair[1])[0]
        0.25
    """
    height, width = images.shape[-2:]
    power = torch.fft.fft2(images.double()).abs().square()
    power[..., 0, 0] = 0
    power = power[power.sum((1, 2)) > 0]
    if not len(power):
        return []
    power = power * (height * width - 1) / power.sum((1, 2), keepdim=True)
    mean = power.mean(0)

    vertical, horizontal = torch.fft.fftfreq(height), torch.fft.fftfreq(width)
    radius = (vertical[:, None].square() + horizontal[None].square()).sqrt()
    bins = min(height, width) // 2
    numbers = (radius * 2 * bins).round().long()
    return [
        (number / (2 * bins), float(mean[numbers == number].mean()))
        for number in range(1, bins + 1)
    ]


def spectrum_picture(change: Tensor) -> Tensor:
    """Return the logarithmic spectrum of an image as a picture, low frequencies in the middle.

    Args:
        change: Gray image or change (h, w).

    Returns:
        Picture (1, h, w): 1 at the largest amplitude, 0 at a thousandth of it and below.
    """
    size = torch.fft.fftshift(torch.fft.fft2(change.double()).abs())
    top = size.max().clamp_min(1e-30)
    shade: Tensor = 1 + (size / top).clamp_min(1e-3).log10() / 3
    return shade[None].float()
