"""Measured printers and cameras in an optimization: their profiles, over the drawn ranges."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from physadv.core.errors import BundleError
from physadv.core.files import atomic_path, sha256_of
from physadv.eot.color_map import ColorMap
from physadv.eot.profiles import CameraProfile, read_camera_profile, read_color_profile
from physadv.eot.ranges import EotRanges
from physadv.eot.transforms.lens_distortion import CAMERA, TERMS

PROFILES = ("profile", "camera_profile")
"""Settings that name a profile; the bundle keeps a copy of each as <setting>.json."""


def color_map_of(path: str | None) -> ColorMap | None:
    """Return the map of the color profile at ``path``; None without one. Raises CalibrationError
    for a file that is none."""
    return None if path is None else read_color_profile(path).color_map()


def with_camera_profile(
    ranges: EotRanges, path: str | None, sign_width_mm: float, *, whole_frame: bool
) -> EotRanges:
    """Return EOT ranges as a measured camera has them.

    Args:
        ranges: Ranges otherwise drawn from.
        path: Camera profile; None returns ``ranges`` unchanged.
        sign_width_mm: Width of the sign in mm.
        whole_frame: Whether the model sees whole frames, as a detector does.

    Returns:
        The ranges with the camera's angle of view, picture width and lens.

    Raises:
        CalibrationError: The file is no profile, or its lens cannot be inverted in the picture.
    """
    return (
        ranges
        if path is None
        else with_camera(ranges, read_camera_profile(path), sign_width_mm, whole_frame)
    )


def with_camera(
    ranges: EotRanges, camera: CameraProfile, sign_width_mm: float, whole_frame: bool
) -> EotRanges:
    """Return ``ranges`` with the camera's own angle of view, picture width and lens distortion.

    Ranges that give the sign's size instead of its distance are turned into the distances at which
    this camera sees it so large.

    Args:
        ranges: What is drawn otherwise.
        camera: The measured camera; all five coefficients and its principal point are used.
        sign_width_mm: Width of the sign.
        whole_frame: Whether the model takes the camera's whole frame, else a crop of the sign.

    Raises:
        CalibrationError: The lens folds inside the picture.
    """
    camera.check_invertible(camera.camera or "camera")
    half = camera.width / 2 / camera.fx  # half the picture's width in focal lengths
    distance = ranges.distance_m
    if not ranges.acts("distance_m"):
        height = 9 / 16 * camera.width
        small, large = (s * height for s in ranges.frame_share) if whole_frame else ranges.size_px
        distance = tuple(camera.fx * sign_width_mm / 1000 / px for px in (large, small))  # type: ignore[assignment]

    angle, width = 2 * math.degrees(math.atan(half)), float(camera.width)
    lens = camera.brown_lens
    measured = dict(zip(TERMS, lens.terms[0].tolist(), strict=True))
    if any(measured.values()) and lens.center is not None and lens.aspect is not None:
        shape = (*lens.center[0].tolist(), float(lens.aspect))
        measured |= dict(zip(CAMERA, shape, strict=True))
    return replace(
        ranges,
        distance_m=distance,
        field_of_view_deg=(angle, angle),
        sensor_px=(width, width),
        **{name: (value, value) for name, value in measured.items()},
    )


def profile_checksums(settings: Mapping[str, object]) -> dict[str, str]:
    """Return the sha256 of every profile in ``settings``, as <setting>_sha256, for the card."""
    named = {name: settings.get(name) for name in PROFILES}
    return {f"{name}_sha256": sha256_of(str(path)) for name, path in named.items() if path}


def keep_profiles(settings: Mapping[str, object], folder: Path) -> None:
    """Copy the profiles in ``settings`` into ``folder``, so that the bundle replays anywhere."""
    for name in PROFILES:
        source = settings.get(name)
        target = folder / f"{name}.json"
        if source and Path(str(source)).resolve() != target.resolve():
            with atomic_path(target) as temporary:
                shutil.copyfile(str(source), temporary)


def check_profiles(
    settings: Mapping[str, object], card: Mapping[str, object], bundle: Path
) -> None:
    """Check that profiles are those that a card was measured with.

    Args:
        settings: Settings that name the profiles.
        card: Section [optimisation] of the card.
        bundle: Folder of the bundle, for the error.

    Raises:
        BundleError: A profile is another one.
    """
    for key, found in profile_checksums(settings).items():
        said = card.get(key)
        if said and said != found:
            name = key.removesuffix("_sha256")
            limit = f"its {name} has sha256 {found[:12]}, the card says {str(said)[:12]}"
            raise BundleError(
                f"{bundle}", limit, "put the profile back that it was made with, or make it anew"
            )
