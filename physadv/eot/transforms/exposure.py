"""Exposure and white balance, in linear light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.eot.sampling import DrawStream
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import ABOVE_ZERO, ONE, Range, Stage, StageRanges, span


@dataclass(frozen=True)
class ExposureRanges(StageRanges):
    """Ranges of the exposure."""

    exposure_ev: Range = span(-1.3, 0.9, effects=("exposure",))
    white_balance: Range = span(0.82, 1.2, off=ONE, within=ABOVE_ZERO, effects=("colour",))
    """Gain of red and of blue against green, in linear light."""


@dataclass(frozen=True)
class ExposureDraw:
    """Exposure of b pictures."""

    ev: Tensor  # (b,)
    white_balance: Tensor  # (b, 3) gains


def apply_exposure(linear: Tensor, ev: Tensor, white_balance: Tensor) -> Tensor:
    """Return linear light scaled by 2**ev and by a gain per channel.

    Args:
        linear: (b, 3, h, w).
        ev: (b,) exposure values.
        white_balance: (b, 3) gains.

    Example:
        >>> gray = torch.full((1, 3, 1, 1), 0.25)
        >>> apply_exposure(gray, torch.tensor([1.0]), torch.ones(1, 3)).mean().item()
        0.5
    """
    return linear * (torch.exp2(ev)[:, None] * white_balance)[:, :, None, None]


class Exposure(Stage[ExposureRanges, ExposureDraw]):
    """Exposure and white balance of the camera.

    Example:
        >>> stage = Exposure(ExposureRanges(exposure_ev=(1.0, 1.0)))
        >>> draw = ExposureDraw(torch.ones(1), torch.ones(1, 3))
        >>> stage.apply(torch.full((1, 3, 1, 1), 0.25), draw).mean().item()
        0.5
    """

    encoding = "linear"
    windowed = True

    def sample(
        self, batch: SceneBatch, ranges: ExposureRanges, stream: DrawStream
    ) -> ExposureDraw | None:
        """Draw the exposure of ``batch`` within ``ranges`` from the shared ``stream``."""
        if not ranges.acts("exposure_ev", "white_balance"):
            return None

        balance = torch.ones(len(batch.images), 3)
        balance[:, 0] = stream.shared("white_balance_red", ranges.white_balance)
        balance[:, 2] = stream.shared("white_balance_blue", ranges.white_balance)
        return ExposureDraw(stream.shared("exposure_ev", ranges.exposure_ev), balance)

    def apply(self, images: Tensor, params: ExposureDraw) -> Tensor:
        """Return linear ``images`` exposed by ``params``."""
        return apply_exposure(images, params.ev, params.white_balance)
