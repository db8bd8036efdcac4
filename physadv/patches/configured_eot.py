"""EOT of a configuration: its preset or file of ranges, and its measured printer and camera."""

from __future__ import annotations

from dataclasses import dataclass, replace

from physadv.eot.color_map import ColorMap
from physadv.eot.pipeline import Pipeline
from physadv.eot.presets import eot_preset, is_import_path, pipeline_from, ranges_from_toml
from physadv.eot.profiles import read_camera_profile, read_color_profile
from physadv.eot.ranges import EotRanges
from physadv.patches.config import PatchConfig


@dataclass(frozen=True)
class ConfiguredEot:
    """What a configuration names of EOT, read from its files.

    Args:
        ranges: Ranges of every draw.
        colors: Measured printer and camera in place of the drawn inks, where one is named.
        pipeline: Pipeline of the user's own; None for the built-in stages under ``ranges``.
    """

    ranges: EotRanges
    colors: ColorMap | None
    pipeline: Pipeline | None


def configured_ranges(config: PatchConfig) -> EotRanges:
    """Return the EOT ranges named in ``config``: a preset's, with those of its file over them.

    Raises:
        OptionError: The preset is unknown, or the file cannot be read or states no ranges.

    Example:
        >>> configured_ranges(PatchConfig(eot="brown")).roll_deg
        (-45.0, 45.0)
    """
    preset = "default" if is_import_path(config.eot) else config.eot
    ranges = eot_preset(preset)
    return ranges if config.eot_ranges is None else ranges_from_toml(config.eot_ranges, ranges)


def read_configured_eot(
    config: PatchConfig, *, whole_frame: bool, ranges: EotRanges | None = None
) -> ConfiguredEot:
    """Read the ranges, profiles and pipeline that a configuration names.

    Args:
        config: Its ``eot``, ``eot_ranges``, ``profile`` and ``camera_profile``.
        whole_frame: Whether the model receives the camera's whole frame, else a crop of the sign.
        ranges: Ranges in place of those that the configuration and its camera have.

    Returns:
        The EOT of every draw.

    Raises:
        OptionError: The ranges cannot be read, or the pipeline cannot be imported or is none.
        CalibrationError: A profile cannot be used.

    Example:
        >>> eot = read_configured_eot(PatchConfig(eot="brown"), whole_frame=False)
        >>> eot.ranges.roll_deg, eot.colors, eot.pipeline
        ((-45.0, 45.0), None, None)
    """
    if ranges is None:
        ranges = configured_ranges(config)
        if config.camera_profile is not None:
            camera = read_camera_profile(config.camera_profile)
            ranges = camera.narrow_ranges(
                ranges, sign_width_mm=config.sign_width_mm, whole_frame=whole_frame
            )
    colors = None if config.profile is None else read_color_profile(config.profile).color_map()
    if not is_import_path(config.eot):
        return ConfiguredEot(ranges, colors, None)

    # An own pipeline decides the distances and angles of the scenes that it is given.
    pipeline = pipeline_from(config.eot, ranges, colors=colors)
    return ConfiguredEot(replace(ranges, **pipeline.pose), colors, pipeline)
