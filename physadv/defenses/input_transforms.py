"""Defenses that transform the image before a model receives it: JPEG, median, blur, local gradient
smoothing.

Each wraps a model of any task. With ``adaptive`` (the default) gradients pass through a
differentiable stand-in (BPDA, Athalye et al. 2018), so that attacks meet the defense itself and not
its missing gradient. Without it the gradient is the operation's own, often zero: the robustness
measured then is only apparent, and the difference between the two shows by how much.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Pillow
from torch import Tensor, nn

from physadv.attacks.obfuscated import bpda, pass_through
from physadv.core.errors import OptionError
from physadv.core.types import Model, Prediction
from physadv.eot.transforms.codec import differentiable_jpeg as soft_jpeg

Transform = Callable[[Tensor], Tensor]


class TransformDefense(nn.Module):
    """A model behind an image transform: images (b, 3, h, w) in [0, 1] to the model's prediction on
    the transformed images.

    Args:
        model: Classifier or detector.
        transform: Transform of images (b, 3, h, w), of the same shape.
        stand_in: Differentiable transform whose gradient replaces that of ``transform``; by default
            the identity.
        adaptive: Whether to use the stand-in for gradients.

    Example:
        >>> import torch
        >>> from physadv.defenses.input_transforms import TransformDefense
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> rounded = TransformDefense(net, lambda x: (x * 8).round() / 8)
        >>> images = torch.rand(2, 3, 2, 2, requires_grad=True)
        >>> rounded(images).sum().backward()
        >>> bool((images.grad != 0).any())
        True
    """

    def __init__(
        self,
        model: Model,
        transform: Transform,
        *,
        stand_in: Transform = pass_through,
        adaptive: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.transform = model, transform
        self.stand_in, self.adaptive = stand_in, adaptive

    def clean(self, images: Tensor) -> Tensor:
        """Return the transformed ``images``, as the model receives them."""
        if self.adaptive:
            return bpda(self.transform, self.stand_in)(images)
        return self.transform(images)

    def forward(self, images: Tensor) -> Prediction:
        """Return the model's prediction on the transformed ``images``."""
        return self.model(self.clean(images))


def jpeg_purification(
    model: Model, *, quality: int = 75, adaptive: bool = True
) -> TransformDefense:
    """Put JPEG compression by the real codec in front of a model (Dziugaite et al. 2016).

    The stand-in is a differentiable copy of the codec. Without it rounding makes the gradient zero.

    Args:
        model: Classifier or detector.
        quality: JPEG quality, 1 to 100.
        adaptive: Whether to use the stand-in for gradients.

    Raises:
        OptionError: The quality is out of range.

    Example:
        >>> import torch
        >>> from physadv.defenses.input_transforms import jpeg_purification
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
        >>> jpeg_purification(net, quality=50)(torch.rand(4, 3, 16, 16)).shape
        torch.Size([4, 2])
    """
    if not 1 <= quality <= 100:
        raise OptionError(f"quality {quality}", "must be 1 to 100", "Use e.g. 75")

    def stand_in(images: Tensor) -> Tensor:
        return soft_jpeg(images, torch.full((len(images),), float(quality), device=images.device))

    return TransformDefense(
        model, lambda x: _through_codec(x, quality) + 0 * x, stand_in=stand_in, adaptive=adaptive
    )


def median_smoothing(model: Model, *, size: int = 3, adaptive: bool = True) -> TransformDefense:
    """Put a median filter, channel by channel, in front of a model (Xu et al. 2018).

    The median's own gradient reaches one pixel of each neighborhood; the stand-in is the mean.

    Args:
        model: Classifier or detector.
        size: Side of the neighborhood in px, odd.
        adaptive: Whether to use the stand-in for gradients.

    Raises:
        OptionError: The size is even or below 1.
    """
    _require_odd(size)
    half = size // 2

    def exact(images: Tensor) -> Tensor:
        padded = F.pad(images, (half,) * 4, mode="replicate")
        neighborhoods = padded.unfold(2, size, 1).unfold(3, size, 1)
        return neighborhoods.flatten(-2).median(-1).values

    return TransformDefense(
        model, exact, stand_in=lambda x: _mean_filter(x, size), adaptive=adaptive
    )


def blur_purification(model: Model, *, sigma: float = 1.0) -> TransformDefense:
    """Put a Gaussian blur of ``sigma`` px in front of ``model``.

    The blur is linear: its own gradient is exact, and no stand-in is needed.

    Raises:
        OptionError: ``sigma`` is not positive.
    """
    if not sigma > 0:
        raise OptionError(f"sigma {sigma}", "must be above 0 px", "Use e.g. 1")
    reach = max(1, round(3 * sigma))
    weight = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    weight = weight / weight.sum()

    def exact(images: Tensor) -> Tensor:
        line = weight.to(images).expand(images.shape[1], 1, 1, -1)
        padded = F.pad(images, (reach,) * 4, mode="replicate")
        return F.conv2d(
            F.conv2d(padded, line, groups=len(line)), line.transpose(2, 3), groups=len(line)
        )

    return TransformDefense(model, exact, adaptive=False)


def local_gradient_smoothing(
    model: Model,
    *,
    block: int = 15,
    overlap: int = 5,
    threshold: float = 0.1,
    strength: float = 2.3,
    adaptive: bool = True,
) -> TransformDefense:
    """Put local gradient smoothing in front of a model (Naseer et al. 2019, with their settings).

    Image gradients are scaled to [0, 1] in each image. Blocks with strong edges all over, as
    printed patches have, are multiplied by 1 - strength * gradient. The operation is differentiable
    almost everywhere; the stand-in treats the factor as constant, which gives attacks a better
    gradient.

    Args:
        model: Classifier or detector.
        block: Side of a block in px.
        overlap: Overlap of neighboring blocks in px, below ``block``.
        threshold: Mean scaled gradient above which a block is smoothed.
        strength: Factor of the smoothing.
        adaptive: Whether to use the stand-in for gradients.

    Raises:
        OptionError: The overlap is out of range.
    """
    if not 0 <= overlap < block:
        raise OptionError(
            f"block {block}, overlap {overlap}",
            "outside 0 <= overlap < block",
            "Use e.g. 15 and 5",
        )

    def attenuation(images: Tensor) -> Tensor:
        edges = _edges(images)
        step = block - overlap
        height, width = images.shape[-2:]
        right, bottom = (
            max(0, -(-(n - block) // step)) * step + block - n for n in (width, height)
        )

        means = F.avg_pool2d(F.pad(edges, (0, right, 0, bottom)), block, step)
        noisy = (means > threshold).to(images)
        covered = F.conv_transpose2d(noisy, noisy.new_ones(1, 1, block, block), stride=step)
        return (1 - strength * edges * (covered[..., :height, :width] > 0)).clamp(0, 1)

    def exact(images: Tensor) -> Tensor:
        return images * attenuation(images)

    return TransformDefense(
        model, exact, stand_in=lambda x: x * attenuation(x).detach(), adaptive=adaptive
    )


def _edges(images: Tensor) -> Tensor:
    """Return the size of the brightness gradient (b, 1, h, w) by forward differences, scaled to [0,
    1] in each image."""
    gray = images.mean(1, keepdim=True)
    across = F.pad(gray[..., 1:] - gray[..., :-1], (0, 1))
    down = F.pad(gray[..., 1:, :] - gray[..., :-1, :], (0, 0, 0, 1))
    size = (across.square() + down.square() + 1e-12).sqrt()
    low, high = size.amin((1, 2, 3), keepdim=True), size.amax((1, 2, 3), keepdim=True)
    return (size - low) / (high - low).clamp_min(1e-6)


def _mean_filter(images: Tensor, size: int) -> Tensor:
    half = size // 2
    return F.avg_pool2d(F.pad(images, (half,) * 4, mode="replicate"), size, 1)


@torch.no_grad()
def _through_codec(images: Tensor, quality: int) -> Tensor:
    """Return each image (b, 1 or 3, h, w) encoded and decoded by libjpeg, by way of 8 bits."""
    levels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    decoded = []
    for array in levels:
        buffer = io.BytesIO()
        Pillow.fromarray(array.squeeze()).save(buffer, "JPEG", quality=quality)
        pixels = np.asarray(Pillow.open(buffer), dtype=np.float32) / 255
        decoded.append(torch.from_numpy(pixels.reshape(array.shape)).permute(2, 0, 1))

    return torch.stack(decoded).to(images)


def _require_odd(size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise OptionError(f"size {size}", "must be an odd number of px", "Use e.g. 3")
