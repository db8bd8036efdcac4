"""Lens and sensor: defocus, motion and noise, one strength per scene."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def lens(light: Tensor, sigma_px: Tensor, motion_px: Tensor, motion_angle: Tensor) -> Tensor:
    """Defocus (Gaussian, (b,) px) and straight motion ((b,) px at (b,) radians) of (b, 3, h, w) linear light.

    Both are one product with the optical transfer function, exp(-2 pi^2 sigma^2 f^2) sinc(length f), so the cost does
    not grow with the blur. Borders are reflected before, and cut off after.
    """
    height, width = light.shape[-2:]
    reach = int(torch.ceil(3 * sigma_px.max() + motion_px.max() / 2).item())
    pad = min(max(reach, 1), height - 1, width - 1)
    padded = F.pad(light, (pad, pad, pad, pad), mode="reflect")
    rows, columns = padded.shape[-2:]
    fy = torch.fft.fftfreq(rows, device=light.device, dtype=light.dtype)[None, :, None]
    fx = torch.fft.rfftfreq(columns, device=light.device, dtype=light.dtype)[None, None, :]
    sigma, length, angle = (p.to(light)[:, None, None] for p in (sigma_px, motion_px, motion_angle))
    transfer = torch.exp(-2 * (math.pi * sigma) ** 2 * (fx**2 + fy**2))
    transfer = transfer * torch.sinc(length * (fx * angle.cos() + fy * angle.sin()))
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer[:, None], s=(rows, columns))
    return blurred[..., pad : pad + height, pad : pad + width]


def sensor_noise(image: Tensor, normal: Tensor, read: Tensor, shot: Tensor) -> Tensor:
    """Add noise of standard deviation sqrt(read^2 + shot^2 * signal); ``normal`` is the drawn (b, 3, h, w) sample."""
    variance = read[:, None, None, None] ** 2 + shot[:, None, None, None] ** 2 * image.detach().clamp(0, 1)
    return image + variance.sqrt() * normal
