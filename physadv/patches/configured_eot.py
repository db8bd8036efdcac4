"""EOT of a configuration: its preset or file of ranges, and its measured printer and camera."""

from __future__ import annotations

import math
from dataclasses import replace

from physadv.eot.color_map import ColorMap
from physadv.eot.pipeline import Pipeline
from physadv.eot.presets import eot_preset, is_import_path, pipeline_from, ranges_from_toml
from physadv.eot.profiles import CameraProfile, read_camera_profile, read_color_profile
from physadv.eot.ranges import EotRanges
from physadv.eot.transforms.lens_distortion import CAMERA, TERMS
from physadv.patches.config import PatchConfig


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


def ranges_of_camera(config: PatchConfig, *, whole_frame: bool) -> EotRanges:
    """Return the EOT ranges of ``config`` as its measured camera has them, where it names one.

    ``whole_frame`` is whether the model receives the camera's whole frame, else a crop of the sign.

    Raises:
        OptionError: The ranges cannot be read.
        CalibrationError: The camera profile cannot be used.
    """
    ranges = configured_ranges(config)
    if config.camera_profile is None:
        return ranges
    camera = read_camera_profile(config.camera_profile)
    return with_camera(ranges, camera, config.sign_width_mm, whole_frame)


def color_map_of(config: PatchConfig) -> ColorMap | None:
    """Return the measured color map that ``config`` names, or None.

    Raises:
        CalibrationError: The file is no color profile.
    """
    return None if config.profile is None else read_color_profile(config.profile).color_map()


def own_pipeline(
    config: PatchConfig, ranges: EotRanges, colors: ColorMap | None
) -> Pipeline | None:
    """Import the user's own EOT pipeline, where the configuration names one.

    Args:
        config: Its ``eot``, a preset or MODULE:FACTORY.
        ranges: Ranges that the factory receives.
        colors: Measured color map that the factory receives.

    Returns:
        The pipeline, or None for a preset.

    Raises:
        OptionError: Nothing of that name can be imported, or it is no pipeline.
    """
    if not is_import_path(config.eot):
        return None
    return pipeline_from(config.eot, ranges, colors=colors)


def with_camera(
    ranges: EotRanges, camera: CameraProfile, sign_width_mm: float, whole_frame: bool
) -> EotRanges:
    """Return EOT ranges with a measured camera's angle of view, picture width and lens distortion.

    Ranges that state the sign's size instead of its distance are turned into the distances at which
    this camera shows it in that size.

    Args:
        ranges: What is drawn otherwise.
        camera: Measured camera; all five coefficients and its principal point are used.
        sign_width_mm: Width of the sign.
        whole_frame: Whether the model receives the camera's whole frame, else a crop of the sign.

    Returns:
        The ranges of this camera.

    Raises:
        CalibrationError: The lens folds inside the picture.
    """
    camera.check_invertible(camera.camera or "camera")

    distance = ranges.distance_m
    if not ranges.acts("distance_m"):
        height = 9 / 16 * camera.width
        smallest, largest = ranges.size_px
        if whole_frame:
            smallest, largest = (share * height for share in ranges.frame_share)
        near, far = (camera.fx * sign_width_mm / 1000 / px for px in (largest, smallest))
        distance = (near, far)

    half_width = camera.width / 2 / camera.fx  # in focal lengths
    angle, width = 2 * math.degrees(math.atan(half_width)), float(camera.width)
    lens = camera.brown_lens
    terms = dict(zip(TERMS, lens.terms[0].tolist(), strict=True))
    if any(terms.values()) and lens.center is not None and lens.aspect is not None:
        shape = (*lens.center[0].tolist(), float(lens.aspect))
        terms |= dict(zip(CAMERA, shape, strict=True))

    return replace(
        ranges,
        distance_m=distance,
        field_of_view_deg=(angle, angle),
        sensor_px=(width, width),
        **{name: (value, value) for name, value in terms.items()},
    )
