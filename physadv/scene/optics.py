"""Lens and sensor: defocus, motion and noise, one strength per scene."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor


def defocus(image: Tensor, sigma_px: Tensor) -> Tensor:
    """Gaussian blur with its own sigma, (b,) px, for each of (b, 3, h, w)."""
    reach = int(2 * torch.ceil(2.5 * sigma_px.max()).item() + 1)
    limit = 2 * ((min(image.shape[-2:]) - 1) // 2) + 1
    size = max(3, min(reach, limit))
    sigma = sigma_px.clamp(min=1e-2)[:, None].expand(-1, 2)
    blurred: Tensor = gaussian_blur2d(image, (size, size), sigma.to(image), border_type="replicate")
    return blurred


def motion_blur(image: Tensor, length_px: Tensor, angle: Tensor, *, taps: int = 7) -> Tensor:
    """Average along a straight path of (b,) px at (b,) radians, by sub-pixel shifts of each image."""
    height, width = image.shape[-2:]
    steps = torch.linspace(-0.5, 0.5, taps).to(image)
    shift = (length_px / 2)[:, None] * steps[None] * 2
    dx, dy = shift * angle.cos()[:, None] * 2 / width, shift * angle.sin()[:, None] * 2 / height
    base = F.affine_grid(
        torch.eye(2, 3).to(image).expand(len(image), 2, 3), [len(image), 1, height, width], align_corners=False
    )
    total = torch.zeros_like(image)
    for k in range(taps):
        grid = base + torch.stack([dx[:, k], dy[:, k]], -1)[:, None, None]
        total = total + F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return total / taps


def sensor_noise(image: Tensor, normal: Tensor, read: Tensor, shot: Tensor) -> Tensor:
    """Add noise of standard deviation sqrt(read^2 + shot^2 * signal); ``normal`` is the drawn (b, 3, h, w) sample."""
    variance = read[:, None, None, None] ** 2 + shot[:, None, None, None] ** 2 * image.detach().clamp(0, 1)
    return image + variance.sqrt() * normal
