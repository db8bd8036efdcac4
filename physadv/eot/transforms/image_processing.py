"""What the camera's processor does to the encoded picture: tone curve and sharpening; and papers'
pixel arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.random_streams import derive
from physadv.core.random_streams import generator as named_generator
from physadv.eot.ranges import EotRanges
from physadv.eot.sampling import broadcast_parameters, draw_uniform, happens


def tone_curve(image: Tensor, strength: Tensor) -> Tensor:
    """An S-shaped curve on the encoded picture: (b,) 0 leaves it, 1 is the smoothstep 3 x^2 - 2
    x^3."""
    inside = image.clamp(0, 1)
    return image + broadcast_parameters(strength).to(image) * (
        inside**2 * (3 - 2 * inside) - inside
    )


def sharpen(image: Tensor, amount: Tensor) -> Tensor:
    """Unsharp mask of (b,) amount over a 3 x 3 binomial blur, edges reflected."""
    # Sums of slices: on a CPU many times faster, backwards above all, than convolutions of single
    # planes.
    padded = F.pad(image, (1, 1, 1, 1), mode="reflect")
    down = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    blurred = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 16
    return image + broadcast_parameters(amount).to(image) * (image - blurred)


@dataclass(frozen=True)
class PicturePixels:
    """Affine change of the encoded picture (Athalye 2018: lighten / darken, per channel too)."""

    gain: Tensor  # (b, 3)
    offset: Tensor  # (b, 3)

    def apply(self, image: Tensor) -> Tensor:
        """(b, 3, h, w) in [0, 1]."""
        return (
            image * broadcast_parameters(self.gain).to(image)
            + broadcast_parameters(self.offset).to(image)
        ).clamp(0, 1)


def sample_picture_pixels(
    count: int, ranges: EotRanges, generator: torch.Generator
) -> PicturePixels | None:
    """Draw the pictures' gains and offsets; None where they do not act."""
    if not any(
        ranges.acts(n) for n in ("pixel_gain", "pixel_offset", "channel_gain", "channel_offset")
    ):
        return None
    g = generator
    gain = draw_uniform(g, ranges.pixel_gain, count, 1) * draw_uniform(
        g, ranges.channel_gain, count, 3
    )
    return PicturePixels(
        gain,
        draw_uniform(g, ranges.pixel_offset, count, 1)
        + draw_uniform(g, ranges.channel_offset, count, 3),
    )


@dataclass(frozen=True)
class PatchPixels:
    """What papers do to the patch before it is placed (Thys 2019, T-SEA): contrast, brightness,
    noise, cutout."""

    contrast: Tensor  # (b,)
    brightness: Tensor  # (b,)
    noise: Tensor  # (b,) half width of the uniform noise
    noise_seed: int  # decides the noise of each texel: their number is the patch's
    cut: Tensor  # (b,) 1: cut out
    cut_share: Tensor  # (b,)
    cut_at: Tensor  # (b, 2) x, y in [0, 1]

    def apply(self, patch: Tensor) -> Tensor:
        """(1, 3, h, w) -> (b, 3, h, w) in [0, 1], one for each scene."""
        height, width = patch.shape[-2:]
        stream = named_generator(self.noise_seed, "texels")
        noise = (2 * torch.rand(len(self.noise), 3, height, width, generator=stream) - 1).to(patch)
        changed = patch * broadcast_parameters(self.contrast).to(patch) + broadcast_parameters(
            self.brightness
        ).to(patch)
        changed = changed + broadcast_parameters(self.noise).to(patch) * noise
        return torch.where(
            self._cut_out(height, width).to(patch.device), changed.new_tensor(0.5), changed
        ).clamp(0, 1)

    def _cut_out(self, height: int, width: int) -> Tensor:
        """(b, 1, h, w): the texels that a gray square covers."""
        half = self.cut_share[:, None] / 2
        ys = (torch.arange(height, device=half.device) + 0.5) / height
        xs = (torch.arange(width, device=half.device) + 0.5) / width
        across = (xs - self.cut_at[:, :1]).abs() <= half
        down = (ys - self.cut_at[:, 1:]).abs() <= half
        return (down[:, :, None] & across[:, None, :] & (self.cut > 0)[:, None, None])[:, None]


def sample_patch_pixels(
    count: int, ranges: EotRanges, generator: torch.Generator
) -> PatchPixels | None:
    """Draw what happens to the patch's own pixels in b scenes; None where nothing does."""
    names = ("patch_contrast", "patch_brightness", "patch_noise", "cutout_probability")
    if not any(ranges.acts(name) for name in names):
        return None
    g = generator
    return PatchPixels(
        contrast=draw_uniform(g, ranges.patch_contrast, count),
        brightness=draw_uniform(g, ranges.patch_brightness, count),
        noise=draw_uniform(g, ranges.patch_noise, count),
        noise_seed=derive(g.initial_seed(), "noise"),
        cut=happens(g, ranges.cutout_probability, count),
        cut_share=draw_uniform(g, ranges.cutout_share, count),
        cut_at=draw_uniform(g, (-0.05, 1.05), count, 2),
    )
