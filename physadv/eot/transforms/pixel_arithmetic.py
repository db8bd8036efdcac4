"""Gain and offset of the encoded picture, as published attacks model light."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from physadv.eot.sampling import DrawStream, broadcast_parameters, draw_uniform
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import FROM_ZERO, ONE, Range, Stage, StageRanges, span


@dataclass(frozen=True)
class PixelArithmeticRanges(StageRanges):
    """Ranges of gains and offsets, on encoded values, of the picture and of each channel."""

    pixel_gain: Range = span(1, 1, off=ONE, within=FROM_ZERO, effects=("colour",))
    """Factor on the encoded picture (lighten / darken of papers that do not work in linear light).
    """
    pixel_offset: Range = span(0, 0, effects=("colour",))
    channel_gain: Range = span(1, 1, off=ONE, within=FROM_ZERO, effects=("colour",))
    channel_offset: Range = span(0, 0, effects=("colour",))


@dataclass(frozen=True)
class PicturePixels:
    """Affine change of the encoded picture (Athalye 2018: lighten / darken, per channel too)."""

    gain: Tensor  # (b, 3)
    offset: Tensor  # (b, 3)

    def apply(self, image: Tensor) -> Tensor:
        """Return ``image`` (b, 3, h, w) changed, in [0, 1]."""
        return (
            image * broadcast_parameters(self.gain).to(image)
            + broadcast_parameters(self.offset).to(image)
        ).clamp(0, 1)


class PixelArithmetic(Stage[PixelArithmeticRanges, PicturePixels]):
    """Affine change of the encoded picture."""

    windowed = True

    def sample(
        self, batch: SceneBatch, ranges: PixelArithmeticRanges, stream: DrawStream
    ) -> PicturePixels | None:
        """Draw gains and offsets for ``batch`` within ``ranges`` from ``stream``."""
        if not ranges.acts("pixel_gain", "pixel_offset", "channel_gain", "channel_offset"):
            return None

        g, count = stream.named("picture pixels"), len(batch.images)
        gain = draw_uniform(g, ranges.pixel_gain, count, 1)
        gain = gain * draw_uniform(g, ranges.channel_gain, count, 3)
        offset = draw_uniform(g, ranges.pixel_offset, count, 1)
        return PicturePixels(gain, offset + draw_uniform(g, ranges.channel_offset, count, 3))

    def apply(self, images: Tensor, params: PicturePixels) -> Tensor:
        """Return encoded ``images`` changed by ``params``, in [0, 1]."""
        return params.apply(images)
