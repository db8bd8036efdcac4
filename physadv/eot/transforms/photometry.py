"""Light and color: the sRGB curve, exposure and white balance in linear light, tone after it."""

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


def expose(linear: Tensor, ev: Tensor, white_balance: Tensor) -> Tensor:
    """Scale (b, 3, h, w) light by 2**ev, (b,), and by gains per channel, (b, 3)."""
    return linear * (torch.exp2(ev)[:, None] * white_balance)[:, :, None, None]


def tone(image: Tensor, contrast: Tensor, brightness: Tensor, gamma: Tensor) -> Tensor:
    """Contrast about mid-gray, brightness offset and gamma on the encoded image, each (b,)."""
    c, o, g = (p[:, None, None, None] for p in (contrast, brightness, gamma))
    return ((image - 0.5) * c + 0.5 + o).clamp(1e-6, 1) ** g


def over(background: Tensor, premultiplied: Tensor, alpha: Tensor) -> Tensor:
    """Lay premultiplied light over a background, all in linear light: alpha is applied once."""
    return premultiplied + (1 - alpha) * background
