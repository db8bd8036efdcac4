"""The sRGB curve and its inverse, and blending in linear light."""

from __future__ import annotations

import torch
from torch import Tensor


def srgb_to_linear(image: Tensor) -> Tensor:
    """sRGB-encoded -> linear light, both in [0, 1] (IEC 61966-2-1)."""
    return torch.where(
        image <= 0.04045, image / 12.92, ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    )


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Linear light -> sRGB-encoded; the inverse of :func:`srgb_to_linear`."""
    return torch.where(
        linear <= 0.0031308,
        linear * 12.92,
        1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055,
    )


def over(background: Tensor, premultiplied: Tensor, alpha: Tensor) -> Tensor:
    """Lay premultiplied light over a background, all in linear light: alpha is applied once."""
    return premultiplied + (1 - alpha) * background
