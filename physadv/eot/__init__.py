"""Expectation over transformation: stages from a print to a model, differentiable.

Names are loaded on first use, so that reading a profile does not load every stage.

Example:
    >>> from physadv.eot import Pipeline, eot_preset
    >>> Pipeline.from_ranges(eot_preset("camera")).names[:3]
    ('PatchEdits', 'Printer', 'StickerBend')
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physadv.eot.foreign_stages import KorniaStage as KorniaStage
    from physadv.eot.foreign_stages import ModuleStage as ModuleStage
    from physadv.eot.pipeline import Draw as Draw
    from physadv.eot.pipeline import Pipeline as Pipeline
    from physadv.eot.placement import Placement as Placement
    from physadv.eot.presets import eot_preset as eot_preset
    from physadv.eot.presets import pipeline_from as pipeline_from
    from physadv.eot.presets import ranges_from_toml as ranges_from_toml
    from physadv.eot.ranges import STAGES as STAGES
    from physadv.eot.ranges import EotRanges as EotRanges
    from physadv.eot.ranges import without as without
    from physadv.eot.sampling import DrawStream as DrawStream
    from physadv.eot.sampling import draw_uniform as draw_uniform
    from physadv.eot.scenes.scene_batch import SceneBatch as SceneBatch
    from physadv.eot.stage import Range as Range
    from physadv.eot.stage import Stage as Stage
    from physadv.eot.stage import StageRanges as StageRanges
    from physadv.eot.stage import span as span
    from physadv.eot.transforms.air import OccluderAndHaze as OccluderAndHaze
    from physadv.eot.transforms.bend import StickerBend as StickerBend
    from physadv.eot.transforms.blur import LensBlur as LensBlur
    from physadv.eot.transforms.codec import FileOrStream as FileOrStream
    from physadv.eot.transforms.exposure import Exposure as Exposure
    from physadv.eot.transforms.lens_distortion import LensDistortion as LensDistortion
    from physadv.eot.transforms.light import SceneLight as SceneLight
    from physadv.eot.transforms.noise import EncodedNoise as EncodedNoise
    from physadv.eot.transforms.patch_pixels import PatchEdits as PatchEdits
    from physadv.eot.transforms.pixel_arithmetic import PixelArithmetic as PixelArithmetic
    from physadv.eot.transforms.place import Place as Place
    from physadv.eot.transforms.printer import Printer as Printer
    from physadv.eot.transforms.sensor import RawSensor as RawSensor
    from physadv.eot.transforms.sharpening import Sharpening as Sharpening
    from physadv.eot.transforms.tone import Tone as Tone
    from physadv.eot.transforms.tone_curve import ToneCurve as ToneCurve

_HOMES = {
    "STAGES": "ranges",
    "Draw": "pipeline",
    "DrawStream": "sampling",
    "EncodedNoise": "transforms.noise",
    "EotRanges": "ranges",
    "Exposure": "transforms.exposure",
    "FileOrStream": "transforms.codec",
    "KorniaStage": "foreign_stages",
    "LensBlur": "transforms.blur",
    "LensDistortion": "transforms.lens_distortion",
    "ModuleStage": "foreign_stages",
    "OccluderAndHaze": "transforms.air",
    "PatchEdits": "transforms.patch_pixels",
    "Pipeline": "pipeline",
    "PixelArithmetic": "transforms.pixel_arithmetic",
    "Place": "transforms.place",
    "Placement": "placement",
    "Printer": "transforms.printer",
    "Range": "stage",
    "RawSensor": "transforms.sensor",
    "SceneBatch": "scenes.scene_batch",
    "SceneLight": "transforms.light",
    "Sharpening": "transforms.sharpening",
    "Stage": "stage",
    "StageRanges": "stage",
    "StickerBend": "transforms.bend",
    "Tone": "transforms.tone",
    "ToneCurve": "transforms.tone_curve",
    "draw_uniform": "sampling",
    "eot_preset": "presets",
    "pipeline_from": "presets",
    "ranges_from_toml": "presets",
    "span": "stage",
    "without": "ranges",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'physadv.eot' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
