"""Changes of the patch's own pixels before it is placed, as published attacks make them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from physadv.core.random_streams import derive
from physadv.core.random_streams import generator as named_generator
from physadv.eot.sampling import DrawStream, broadcast_parameters, draw_bernoulli, draw_uniform
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import FROM_ZERO, ONE, SHARE, Range, Stage, StageRanges, span


@dataclass(frozen=True)
class PatchPixelRanges(StageRanges):
    """Ranges of the changes, on encoded values."""

    patch_contrast: Range = span(1, 1, off=ONE, within=FROM_ZERO)
    patch_brightness: Range = span(0, 0)
    patch_noise: Range = span(0, 0, within=FROM_ZERO, effects=("noise",))
    """Half width of uniform noise on each texel."""
    cutout_probability: Range = span(0, 0, within=SHARE)
    cutout_share: Range = span(0, 0, within=SHARE)
    """Side of a gray square on the patch, as a share of the patch's side."""


@dataclass(frozen=True)
class PatchPixels:
    """Changes of the patch before it is placed: contrast, brightness, noise, cutout.

    As Thys (2019) and T-SEA (Huang 2023) make them.
    """

    contrast: Tensor  # (b,)
    brightness: Tensor  # (b,)
    noise: Tensor  # (b,) half width of the uniform noise
    noise_seed: int  # decides the noise of each texel: their number is the patch's
    cut: Tensor  # (b,) 1: cut out
    cut_share: Tensor  # (b,)
    cut_at: Tensor  # (b, 2) x, y in [0, 1]
    rows: tuple[int, int] | None = None  # first scene and number of scenes of a divided batch

    def apply(self, patch: Tensor) -> Tensor:
        """Return a ``patch`` (1, 3, h, w) changed for each scene: (b, 3, h, w) in [0, 1]."""
        height, width = patch.shape[-2:]
        stream = named_generator(self.noise_seed, "texels")
        first, count = self.rows or (0, len(self.noise))
        texels = torch.rand(count, 3, height, width, generator=stream)
        noise = (2 * texels[first : first + len(self.noise)] - 1).to(patch)
        changed = patch * broadcast_parameters(self.contrast).to(patch) + broadcast_parameters(
            self.brightness
        ).to(patch)
        changed = changed + broadcast_parameters(self.noise).to(patch) * noise
        return torch.where(
            self._cut_out(height, width).to(patch.device), changed.new_tensor(0.5), changed
        ).clamp(0, 1)

    def _cut_out(self, height: int, width: int) -> Tensor:
        """Return (b, 1, h, w) booleans: the texels that a gray square covers."""
        half = self.cut_share[:, None] / 2
        ys = (torch.arange(height, device=half.device) + 0.5) / height
        xs = (torch.arange(width, device=half.device) + 0.5) / width
        across = (xs - self.cut_at[:, :1]).abs() <= half
        down = (ys - self.cut_at[:, 1:]).abs() <= half
        return (down[:, :, None] & across[:, None, :] & (self.cut > 0)[:, None, None])[:, None]


class PatchEdits(Stage[PatchPixelRanges, PatchPixels]):
    """Contrast, brightness, noise and cutout of the patch's texels."""

    acts_on = "patch"

    def sample(
        self, batch: SceneBatch, ranges: PatchPixelRanges, stream: DrawStream
    ) -> PatchPixels | None:
        """Draw the changes for ``batch`` within ``ranges`` from the ``stream`` "patch pixels"."""
        names = ("patch_contrast", "patch_brightness", "patch_noise", "cutout_probability")
        if not ranges.acts(*names):
            return None

        g, count = stream.named("patch pixels"), len(batch.images)
        return PatchPixels(
            contrast=draw_uniform(g, ranges.patch_contrast, count),
            brightness=draw_uniform(g, ranges.patch_brightness, count),
            noise=draw_uniform(g, ranges.patch_noise, count),
            noise_seed=derive(g.initial_seed(), "noise"),
            cut=draw_bernoulli(g, ranges.cutout_probability, count),
            cut_share=draw_uniform(g, ranges.cutout_share, count),
            cut_at=draw_uniform(g, (-0.05, 1.05), count, 2),
        )

    def part(self, params: PatchPixels, rows: slice, count: int) -> PatchPixels:
        """Return ``params`` for the scenes ``rows`` of ``count``, with the same noise in each."""
        own = super().part(params, rows, count)
        return replace(own, rows=(rows.start, count))

    def apply(self, images: Tensor, params: PatchPixels) -> Tensor:
        """Return ``images``, the (1, 3, h, w) patch, changed by ``params``: one for each scene."""
        return params.apply(images)
