"""Lens and sensor: defocus, motion and noise, one strength per scene."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def lens(light: Tensor, sigma_px: Tensor, motion_px: Tensor, motion_angle: Tensor) -> Tensor:
    """Defocus (Gaussian, (b,) px) and straight motion ((b,) px at (b,) radians) of (b, 3, h, w)
    linear light.

    Borders are reflected before, and cut off after.
    """
    height, width = light.shape[-2:]
    margin = lens_reach(sigma_px, motion_px, (height, width))
    padded = F.pad(light, (margin,) * 4, mode="reflect")
    return cut_margin(blurred(padded, sigma_px, motion_px, motion_angle), margin)


def lens_reach(sigma_px: Tensor, motion_px: Tensor, picture: tuple[int, int]) -> int:
    """How many px round a pixel the lens mixes into it, within a picture of (height, width)."""
    reach = int(torch.ceil(3 * sigma_px.max() + motion_px.max() / 2).item())
    return min(max(reach, 1), picture[0] - 1, picture[1] - 1)


def cut_margin(image: Tensor, margin: int) -> Tensor:
    """(b, c, h, w) without ``margin`` px on each side."""
    return (
        image[..., margin : image.shape[-2] - margin, margin : image.shape[-1] - margin]
        if margin
        else image
    )


def blurred(light: Tensor, sigma_px: Tensor, motion_px: Tensor, motion_angle: Tensor) -> Tensor:
    """The lens on a torus; the outermost :func:`lens_reach` px are wrong.

    Defocus and motion are one product with the optical transfer function, exp(-2 pi^2 sigma^2 f^2)
    sinc(length f), so the cost does not grow with the blur.
    """
    rows, columns = light.shape[-2:]
    fy = torch.fft.fftfreq(rows, device=light.device, dtype=light.dtype)[None, :, None]
    fx = torch.fft.rfftfreq(columns, device=light.device, dtype=light.dtype)[None, None, :]
    sigma, length, angle = (p.to(light)[:, None, None] for p in (sigma_px, motion_px, motion_angle))
    strength = -2 * (math.pi * sigma) ** 2
    transfer = torch.exp(strength * fx**2) * torch.exp(strength * fy**2)
    transfer = transfer * torch.sinc((length * angle.cos()) * fx + (length * angle.sin()) * fy)
    seen: Tensor = _Filtered.apply(light, transfer[:, None])  # type: ignore[no-untyped-call]
    return seen


class _Filtered(torch.autograd.Function):
    """A product with a real, even transfer function: its own adjoint, so the backward pass costs
    what the forward does.

    Gradients go to the light only; the lens itself is drawn, not learnt.
    """

    @staticmethod
    def forward(context: Any, light: Tensor, transfer: Tensor) -> Tensor:
        context.save_for_backward(transfer)
        return _filtered(light, transfer)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (transfer,) = context.saved_tensors
        return _filtered(gradient, transfer), None


def _filtered(light: Tensor, transfer: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(light).mul_(transfer)
    result: Tensor = torch.fft.irfft2(spectrum, s=(light.shape[-2], light.shape[-1]))
    return result


def smooth_size(at_least: int) -> int:
    """The next even size without prime factors over 5, for which the Fourier transform is fast."""
    size = at_least + at_least % 2
    while _rest(size) > 1:
        size += 2
    return size


def _rest(number: int) -> int:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number


def sensor_noise(image: Tensor, normal: Tensor, read: Tensor, shot: Tensor) -> Tensor:
    """Add noise of standard deviation sqrt(read^2 + shot^2 * signal); ``normal`` is the drawn (b,
    3, h, w) sample."""
    variance = read[:, None, None, None] ** 2 + shot[
        :, None, None, None
    ] ** 2 * image.detach().clamp(0, 1)
    return image + variance.sqrt() * normal
