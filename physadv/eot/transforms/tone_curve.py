"""S-shaped tone curve that cameras lay over the picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from physadv.eot.sampling import DrawStream, broadcast_parameters
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import SHARE, Range, Stage, StageRanges, span


@dataclass(frozen=True)
class ToneCurveRanges(StageRanges):
    """Range of the curve's strength."""

    tone_curve: Range = span(0, 0, within=SHARE, effects=("colour",))
    """Strength of the S-shaped curve that cameras lay over the picture; 1 is a smoothstep."""


def tone_curve(image: Tensor, strength: Tensor) -> Tensor:
    """Return ``image`` under an S-shaped curve of (b,) ``strength``.

    0 leaves it, 1 is the smoothstep 3 x^2 - 2 x^3.
    """
    inside = image.clamp(0, 1)
    return image + broadcast_parameters(strength).to(image) * (
        inside**2 * (3 - 2 * inside) - inside
    )


class ToneCurve(Stage[ToneCurveRanges, Tensor]):
    """S-shaped curve on the encoded picture; parameters: (b,) strengths.

    Example:
        >>> import torch
        >>> stage = ToneCurve(ToneCurveRanges(tone_curve=(1.0, 1.0)))
        >>> stage.apply(torch.full((1, 3, 1, 1), 0.5), torch.ones(1)).mean().item()
        0.5
    """

    windowed = True

    def sample(
        self, batch: SceneBatch, ranges: ToneCurveRanges, stream: DrawStream
    ) -> Tensor | None:
        """Draw the strengths for ``batch`` within ``ranges`` from the ``stream`` "tone_curve"."""
        if not ranges.acts("tone_curve"):
            return None
        return stream.uniform("tone_curve", ranges.tone_curve, len(batch.images))

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Return encoded ``images`` under curves of strengths ``params``."""
        return tone_curve(images, params)
