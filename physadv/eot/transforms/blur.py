"""Blur of the lens: defocus and straight motion, one strength per scene."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d, motion_blur
from torch import Tensor

from physadv.eot.crop_window import CropWindow
from physadv.eot.sampling import DrawStream
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import FROM_ZERO, Range, Stage, StageRanges, span


@dataclass(frozen=True)
class BlurRanges(StageRanges):
    """Ranges of the blur in px of the picture."""

    defocus_px: Range = span(0.2, 1.1, within=FROM_ZERO, effects=("blur",))
    """Standard deviation of the defocus."""
    motion_px: Range = span(0, 2.5, within=FROM_ZERO, effects=("blur",))
    """Length of a straight motion during the exposure, in any direction."""


@dataclass(frozen=True)
class BlurDraw:
    """Blur of b pictures."""

    sigma_px: Tensor  # (b,) standard deviation of the defocus
    motion_px: Tensor  # (b,)
    motion_angle: Tensor  # (b,) radians
    bordered: bool = False  # the images come with the px round them that the blur mixes in


def blur_lens(light: Tensor, sigma_px: Tensor, motion_px: Tensor, motion_angle: Tensor) -> Tensor:
    """Blur linear light by defocus (Gaussian) and straight motion, borders reflected.

    Args:
        light: (b, 3, h, w).
        sigma_px: (b,) standard deviations of the defocus.
        motion_px: (b,) lengths of the motion.
        motion_angle: (b,) radians, from the x axis down.

    Returns:
        (b, 3, h, w).
    """
    height, width = light.shape[-2:]
    margin = lens_reach(sigma_px, motion_px, (height, width))
    padded = F.pad(light, (margin,) * 4, mode="reflect")
    return cut_margin(blur_periodic(padded, sigma_px, motion_px, motion_angle), margin)


def lens_reach(sigma_px: Tensor, motion_px: Tensor, picture: tuple[int, int]) -> int:
    """Return how many px around a pixel the blur mixes into it.

    Args:
        sigma_px: (b,) standard deviations of the defocus.
        motion_px: (b,) lengths of the motion.
        picture: (height, width), which bounds it.
    """
    reach = int(torch.ceil(3 * sigma_px.max() + motion_px.max() / 2).item())
    return min(max(reach, 1), picture[0] - 1, picture[1] - 1)


def cut_margin(image: Tensor, margin: int) -> Tensor:
    """Return ``image`` (b, c, h, w) without ``margin`` px on each side."""
    return (
        image[..., margin : image.shape[-2] - margin, margin : image.shape[-1] - margin]
        if margin
        else image
    )


def blur_periodic(
    light: Tensor, sigma_px: Tensor, motion_px: Tensor, motion_angle: Tensor
) -> Tensor:
    """Blur as :func:`blur_lens` does, on a torus: the outermost :func:`lens_reach` px are wrong.

    Defocus and motion are one product with the optical transfer function, exp(-2 pi^2 sigma^2 f^2)
    sinc(length f), so the cost does not grow with the blur.

    Args:
        light: (b, 3, h, w).
        sigma_px: (b,) standard deviations of the defocus.
        motion_px: (b,) lengths of the motion.
        motion_angle: (b,) radians, from the x axis down.

    Returns:
        (b, 3, h, w).
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


def blurred_with_kornia(
    light: Tensor, sigma_px: Tensor, motion_px: Tensor, motion_angle: Tensor
) -> Tensor:
    """Blur with kornia's filters, whose motion is a whole, odd number of px long.

    Args:
        light: (b, 3, h, w) linear light.
        sigma_px: (b,) standard deviations of the defocus.
        motion_px: (b,) lengths of the motion, taken to the nearest odd number.
        motion_angle: (b,) radians, from the x axis down.

    Returns:
        (b, 3, h, w), borders reflected.
    """
    widest = 2 * max(1, math.ceil(3 * float(sigma_px.max()))) + 1
    sigma = sigma_px.to(light).clamp(min=1e-3)[:, None].expand(-1, 2)
    soft: Tensor = gaussian_blur2d(light, widest, sigma)

    # kornia takes one length a call, and turns against the clock; rows count downwards.
    lengths = (2 * ((motion_px - 1) / 2).round() + 1).long()
    for length in sorted({int(n) for n in lengths.tolist() if n >= 3}):
        chosen = (lengths == length).nonzero().flatten().to(light.device)
        degrees = -motion_angle.to(light)[chosen].rad2deg()
        moved = motion_blur(
            soft[chosen], length, degrees, torch.zeros_like(degrees), "reflect", mode="bilinear"
        )
        soft = soft.index_put((chosen,), moved)
    return soft


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
    """Return the next even size from ``at_least`` on without prime factors over 5.

    The Fourier transform is fast for these.
    """
    size = at_least + at_least % 2
    while _rest(size) > 1:
        size += 2
    return size


def _rest(number: int) -> int:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number


class LensBlur(Stage[BlurRanges, BlurDraw]):
    """Defocus and motion in linear light.

    Example:
        >>> stage = LensBlur(BlurRanges())
        >>> draw = BlurDraw(torch.ones(1), torch.zeros(1), torch.zeros(1))
        >>> point = torch.zeros(1, 3, 9, 9)
        >>> point[..., 4, 4] = 1
        >>> round(stage.apply(point, draw)[0, 0, 4, 4].item(), 2)
        0.16
    """

    encoding = "linear"
    windowed = True
    backends = ("own", "kornia")

    def sample(self, batch: SceneBatch, ranges: BlurRanges, stream: DrawStream) -> BlurDraw | None:
        """Draw the blur of ``batch`` within ``ranges`` from the shared ``stream``."""
        # A sign seen small is enlarged to the model's input: the blur of that belongs to its
        # distance.
        enlarged = 0.2 * (batch.enlargement**2 - 1)
        sigma = (stream.shared("defocus_px", ranges.defocus_px) ** 2 + enlarged).sqrt()
        motion = stream.shared("motion_px", ranges.motion_px)
        if not bool((sigma + motion).any()):
            return None
        return BlurDraw(sigma, motion, stream.shared("motion_angle", (0.0, 3.1416)))

    def apply(self, images: Tensor, params: BlurDraw) -> Tensor:
        """Return ``images`` in linear light, blurred by ``params``."""
        drawn = (params.sigma_px, params.motion_px, params.motion_angle)
        # Defocus alone is kornia's: a third of the transform's cost. It has no motion of 1.3 px.
        if self.backend == "kornia" or not bool(params.motion_px.any()):
            return blurred_with_kornia(images, *drawn)
        return blur_periodic(images, *drawn) if params.bordered else blur_lens(images, *drawn)

    def crop(self, params: BlurDraw, window: CropWindow, margin: int) -> BlurDraw:
        """Return ``params`` for images with ``margin`` px round their ``window``."""
        return replace(params, bordered=margin > 0)

    def reach(self, params: BlurDraw, picture: tuple[int, int]) -> int:
        """Return the px that ``params`` mix in, within a ``picture`` of (height, width)."""
        return lens_reach(params.sigma_px, params.motion_px, picture)
