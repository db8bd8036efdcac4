"""Built-in stages in the order of the light, and the table of ranges that theirs make up.

A new built-in effect is a new file in :mod:`physadv.eot.transforms`, and its line in ``STAGES`` and
``EotRanges`` below. Cards, presets and the table in docs/eot.md follow. An effect of a user's own
needs neither: it is put into a :class:`~physadv.eot.pipeline.Pipeline`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from physadv.core.errors import OptionError
from physadv.eot.stage import Range, Stage, StageRanges
from physadv.eot.transforms.air import AirRanges, OccluderAndHaze
from physadv.eot.transforms.bend import BendRanges, StickerBend
from physadv.eot.transforms.blur import BlurRanges, LensBlur
from physadv.eot.transforms.codec import CodecRanges, FileOrStream
from physadv.eot.transforms.exposure import Exposure, ExposureRanges
from physadv.eot.transforms.lens_distortion import LensDistortion, LensRanges
from physadv.eot.transforms.light import LightRanges, SceneLight
from physadv.eot.transforms.noise import EncodedNoise, NoiseRanges
from physadv.eot.transforms.patch_pixels import PatchEdits, PatchPixelRanges
from physadv.eot.transforms.pixel_arithmetic import PixelArithmetic, PixelArithmeticRanges
from physadv.eot.transforms.place import Place, PoseRanges
from physadv.eot.transforms.printer import Printer, PrintRanges
from physadv.eot.transforms.sensor import RawSensor, SensorRanges
from physadv.eot.transforms.sharpening import Sharpening, SharpeningRanges
from physadv.eot.transforms.tone import Tone, ToneRanges
from physadv.eot.transforms.tone_curve import ToneCurve, ToneCurveRanges

STAGES: tuple[type[Stage[Any, Any]], ...] = (
    PatchEdits,
    Printer,
    StickerBend,
    Place,
    SceneLight,
    OccluderAndHaze,
    LensDistortion,
    Exposure,
    LensBlur,
    RawSensor,
    Tone,
    ToneCurve,
    Sharpening,
    PixelArithmetic,
    EncodedNoise,
    FileOrStream,
)
"""Print, bend, place, light, air, lens, sensor, processing, codec."""


@dataclass(frozen=True)
class EotRanges(
    # Dataclasses take their fields from the last base first.
    CodecRanges,
    NoiseRanges,
    PixelArithmeticRanges,
    SharpeningRanges,
    ToneCurveRanges,
    ToneRanges,
    SensorRanges,
    BlurRanges,
    ExposureRanges,
    LensRanges,
    AirRanges,
    LightRanges,
    BendRanges,
    PrintRanges,
    PatchPixelRanges,
    PoseRanges,
    StageRanges,
):
    """Ranges of every built-in stage as one flat table; the defaults are the preset `default`.

    A range whose ends are equal draws one value; at its neutral value the effect is off. A
    probability is a range too, with equal ends, so that a preset and a card are flat.

    Example:
        >>> EotRanges(yaw_deg=(-10.0, 10.0), bend_mm=(0.0, 3.0)).acts("bend_mm")
        True
    """


NEUTRAL: dict[str, Range] = EotRanges.neutral()
"""The value of each range at which it does nothing; frame_share and margin have none."""

EFFECTS: dict[str, tuple[str, ...]] = EotRanges.effects()
"""Ranges that are switched off together when one effect is left out."""

NOTHING = replace(EotRanges(), **NEUTRAL)
"""Every effect off; a sharp, frontal sign, by frame_share and margin."""


def without(ranges: EotRanges, *effects: str) -> EotRanges:
    """Return ``ranges`` with whole ``effects`` switched off, for ablations.

    Raises OptionError for an unknown effect.

    Example:
        >>> without(EotRanges(), "blur").acts("defocus_px")
        False
    """
    names: set[str] = set()
    for effect in effects:
        if effect not in EFFECTS:
            raise OptionError(
                f"Effect {effect!r} is unknown",
                f"It must be one of {', '.join(EFFECTS)}",
                "Choose one of these",
            )
        names |= set(EFFECTS[effect])
    return replace(ranges, **{name: NEUTRAL[name] for name in names})
