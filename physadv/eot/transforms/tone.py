"""Contrast, brightness and gamma of the encoded picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from physadv.eot.sampling import DrawStream
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import ONE, Range, Stage, StageRanges, span


@dataclass(frozen=True)
class ToneRanges(StageRanges):
    """Ranges of the camera's tone, on encoded values."""

    contrast: Range = span(0.75, 1.25, off=ONE, effects=("colour",))
    """Factor about mid-gray."""
    brightness: Range = span(-0.08, 0.08, effects=("colour",))
    gamma: Range = span(0.75, 1.35, off=ONE, effects=("colour",))


@dataclass(frozen=True)
class ToneDraw:
    """Tone of b pictures; (b,) each."""

    contrast: Tensor
    brightness: Tensor
    gamma: Tensor


def tone(image: Tensor, contrast: Tensor, brightness: Tensor, gamma: Tensor) -> Tensor:
    """Contrast about mid-gray, brightness offset and gamma on the encoded image, each (b,)."""
    c, o, g = (p[:, None, None, None] for p in (contrast, brightness, gamma))
    return ((image - 0.5) * c + 0.5 + o).clamp(1e-6, 1) ** g


class Tone(Stage[ToneRanges, ToneDraw]):
    """Contrast, brightness and gamma."""

    windowed = True

    def sample(self, batch: SceneBatch, ranges: ToneRanges, stream: DrawStream) -> ToneDraw | None:
        """Draw the tone of ``batch`` within ``ranges`` from the shared ``stream``."""
        if not ranges.acts("contrast", "brightness", "gamma"):
            return None
        return ToneDraw(
            stream.shared("contrast", ranges.contrast),
            stream.shared("brightness", ranges.brightness),
            stream.shared("gamma", ranges.gamma),
        )

    def apply(self, images: Tensor, params: ToneDraw) -> Tensor:
        """Return encoded ``images`` with the tone of ``params``."""
        return tone(images, params.contrast, params.brightness, params.gamma)
