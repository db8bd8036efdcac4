"""Defenses that clean the image before a victim sees it: JPEG, median, blur, local gradient
smoothing.

Each wraps a victim of any kind. With ``adaptive`` (the default) gradients pass by a stand-in (BPDA,
Athalye et al. 2018), so that attacks meet the defense itself and not its missing gradient. Without
it the gradient is what the operation gives by itself, often none: that robustness is only apparent,
and the difference shows it.
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

Part = Callable[[Tensor], Tensor]


class TransformDefense(nn.Module):
    """``model`` behind ``part``: images (b, 3, h, w) in [0, 1] -> the model's prediction on the
    cleaned images.

    ``stand_in`` takes the place of ``part`` for the gradient while ``adaptive``.
    """

    def __init__(
        self, model: Model, part: Part, *, stand_in: Part = pass_through, adaptive: bool = True
    ) -> None:
        super().__init__()
        self.model, self.part, self.stand_in, self.adaptive = model, part, stand_in, adaptive

    def clean(self, images: Tensor) -> Tensor:
        """The images as the victim will see them."""
        return bpda(self.part, self.stand_in)(images) if self.adaptive else self.part(images)

    def forward(self, images: Tensor) -> Prediction:
        """See the class."""
        return self.model(self.clean(images))


def jpeg_purification(
    model: Model, *, quality: int = 75, adaptive: bool = True
) -> TransformDefense:
    """JPEG by the real codec (Dziugaite et al. 2016); the stand-in is a differentiable copy of it.

    Without ``adaptive`` the gradient is zero, as rounding makes it. Raises OptionError for a
    quality outside 1..100.
    """
    if not 1 <= quality <= 100:
        raise OptionError(f"quality {quality}", "1 to 100", "use 75")

    def stand_in(images: Tensor) -> Tensor:
        return soft_jpeg(images, torch.full((len(images),), float(quality), device=images.device))

    return TransformDefense(
        model, lambda x: _through_codec(x, quality) + 0 * x, stand_in=stand_in, adaptive=adaptive
    )


def median_smoothing(model: Model, *, size: int = 3, adaptive: bool = True) -> TransformDefense:
    """The median of each ``size`` x ``size`` neighborhood, channel by channel (Xu et al. 2018);
    size is odd.

    By itself its gradient reaches one pixel of each neighborhood; the stand-in is the mean of it.
    """
    _odd(size)
    half = size // 2

    def exact(images: Tensor) -> Tensor:
        around = F.pad(images, (half,) * 4, mode="replicate").unfold(2, size, 1).unfold(3, size, 1)
        return around.flatten(-2).median(-1).values

    return TransformDefense(
        model, exact, stand_in=lambda x: _mean_filter(x, size), adaptive=adaptive
    )


def blur_purification(model: Model, *, sigma: float = 1.0) -> TransformDefense:
    """A Gaussian blur of ``sigma`` px. It is linear: its own gradient is exact, and no stand-in is
    needed."""
    if not sigma > 0:
        raise OptionError(f"sigma {sigma}", "above 0 px", "use 1")
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
    """Dims what has strong edges over a whole block, as printed patches do (Naseer et al. 2019,
    their settings).

    The magnitude of the image's gradient is scaled to [0, 1]; blocks whose mean of it exceeds
    ``threshold`` are multiplied by 1 - ``strength`` times it. By itself it is differentiable almost
    everywhere; the stand-in holds the dimming constant, which has the better gradient.
    """
    if not 0 <= overlap < block:
        raise OptionError(
            f"block {block}, overlap {overlap}", "0 <= overlap < block", "use 15 and 5"
        )

    def keep(images: Tensor) -> Tensor:
        edges = _edges(images)
        step = block - overlap
        height, width = images.shape[-2:]
        right, bottom = (
            max(0, -(-(n - block) // step)) * step + block - n for n in (width, height)
        )
        means = F.avg_pool2d(F.pad(edges, (0, right, 0, bottom)), block, step)
        marked = (means > threshold).to(images)
        spread = F.conv_transpose2d(marked, marked.new_ones(1, 1, block, block), stride=step)
        return (1 - strength * edges * (spread[..., :height, :width] > 0)).clamp(0, 1)

    def exact(images: Tensor) -> Tensor:
        return images * keep(images)

    return TransformDefense(
        model, exact, stand_in=lambda x: x * keep(x).detach(), adaptive=adaptive
    )


def _edges(images: Tensor) -> Tensor:
    """The size of the brightness gradient by forward differences, scaled to [0, 1] in each image:
    (b, 1, h, w)."""
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
    """Encode and decode each image (b, 1 or 3, h, w) with libjpeg, by way of 8 bits."""
    levels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for array in levels:
        buffer = io.BytesIO()
        Pillow.fromarray(array.squeeze()).save(buffer, "JPEG", quality=quality)
        found = np.asarray(Pillow.open(buffer), dtype=np.float32) / 255
        decoded.append(torch.from_numpy(found.reshape(array.shape)).permute(2, 0, 1))
    return torch.stack(decoded).to(images)


def _odd(size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise OptionError(f"size {size}", "an odd number of px", "use 3")
