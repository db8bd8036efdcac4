"""Noise on the encoded picture, of which one part grows with the light."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from physadv.eot.crop_window import CropWindow
from physadv.eot.sampling import DrawStream
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import FROM_ZERO, Range, Stage, StageRanges, span


@dataclass(frozen=True)
class NoiseRanges(StageRanges):
    """Ranges of the noise's strength, on encoded values."""

    read_noise: Range = span(0, 0.025, within=FROM_ZERO, effects=("noise",))
    """Standard deviation of the noise on the encoded picture, and below the part that grows with
    the light."""
    shot_noise: Range = span(0, 0.03, within=FROM_ZERO, effects=("noise",))


@dataclass(frozen=True)
class NoiseDraw:
    """Noise of b pictures."""

    read: Tensor  # (b,)
    shot: Tensor  # (b,)
    normal: Tensor  # (b, 3, h, w)


def sensor_noise(image: Tensor, normal: Tensor, read: Tensor, shot: Tensor) -> Tensor:
    """Add noise of standard deviation sqrt(read^2 + shot^2 * signal).

    Args:
        image: (b, 3, h, w) encoded values.
        normal: (b, 3, h, w) drawn standard normal numbers.
        read: (b,) part that does not depend on the light.
        shot: (b,) part that grows with it.

    Returns:
        (b, 3, h, w), not clipped; the noise carries no gradient.
    """
    variance = read[:, None, None, None] ** 2 + shot[
        :, None, None, None
    ] ** 2 * image.detach().clamp(0, 1)
    return image + variance.sqrt() * normal


class EncodedNoise(Stage[NoiseRanges, NoiseDraw]):
    """Noise on the encoded picture."""

    windowed = True

    def sample(
        self, batch: SceneBatch, ranges: NoiseRanges, stream: DrawStream
    ) -> NoiseDraw | None:
        """Draw the noise of ``batch`` within ``ranges`` from the shared ``stream``."""
        if not ranges.acts("read_noise", "shot_noise"):
            return None
        read = stream.shared("read_noise", ranges.read_noise)
        return NoiseDraw(read, stream.shared("shot_noise", ranges.shot_noise), stream.normal)

    def apply(self, images: Tensor, params: NoiseDraw) -> Tensor:
        """Return encoded ``images`` with the noise of ``params``."""
        return sensor_noise(images, params.normal.to(images), params.read, params.shot)

    def crop(self, params: NoiseDraw, window: CropWindow, margin: int) -> NoiseDraw:
        """Return ``params`` of the ``window`` with ``margin`` px round it."""
        return replace(params, normal=window.take(params.normal, margin))
