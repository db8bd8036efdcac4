"""Named ranges, published and ours, and the pipelines that a name or a file asks for.

A published preset acts as its paper does, with that paper's shortcuts: pixel arithmetic on the
encoded picture, no printer, no lens. What a paper leaves open (distances, margins) is filled from
`default` and said in docs/eot.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

from physadv.core.errors import OptionError
from physadv.core.tables import read_table
from physadv.eot.color_map import ColorMap
from physadv.eot.pipeline import Pipeline
from physadv.eot.ranges import NOTHING, EotRanges
from physadv.eot.stage import Range
from physadv.models.loading import is_import_path, load_import_path

FOOT_M = 0.3048

PRESETS: dict[str, EotRanges] = {
    "default": EotRanges(),
    "camera": EotRanges(
        distance_m=(1.5, 15.0),
        field_of_view_deg=(45.0, 90.0),
        sensor_px=(1280.0, 2560.0),
        lens_k1=(-0.06, 0.03),
        yaw_deg=(-45.0, 45.0),
        bend_mm=(0.0, 3.0),
        curl_deg=(0.0, 30.0),
        shadow_probability=(0.3, 0.3),
        shadow_ev=(0.3, 2.0),
        shadow_edge_mm=(5.0, 120.0),
        gradient_ev=(0.0, 1.2),
        highlight_probability=(0.2, 0.2),
        highlight=(0.05, 0.6),
        highlight_mm=(20.0, 120.0),
        temperature_k=(4800.0, 9000.0),
        occlusion_probability=(0.1, 0.1),
        occlusion_mm=(8.0, 60.0),
        haze_per_km=(0.0, 6.0),
        white_balance=(0.9, 1.12),
        rolling_ev=(0.0, 0.3),
        rolling_rows=(0.15, 1.0),
        full_well_e=(600.0, 12000.0),
        read_noise_e=(1.5, 8.0),
        bayer_probability=(1.0, 1.0),
        tone_curve=(0.0, 0.6),
        contrast=(0.85, 1.15),
        brightness=(-0.05, 0.05),
        gamma=(0.85, 1.2),
        sharpening=(0.0, 0.8),
        read_noise=(0.0, 0.0),
        shot_noise=(0.0, 0.0),
        jpeg_quality=(40.0, 95.0),
        video_probability=(0.3, 0.3),
        video_qp=(20.0, 38.0),
    ),
    "athalye": replace(
        NOTHING,
        roll_deg=(-22.5, 22.5),
        yaw_deg=(-40.0, 40.0),
        pitch_deg=(-15.0, 15.0),
        pixel_gain=(0.5, 2.0),
        pixel_offset=(-0.15, 0.15),
        channel_gain=(0.7, 1.3),
        channel_offset=(-0.15, 0.15),
        read_noise=(0.0, 0.1),
    ),
    "brown": replace(NOTHING, roll_deg=(-45.0, 45.0)),
    "rp2": replace(
        NOTHING,
        distance_m=(5 * FOOT_M, 40 * FOOT_M),
        field_of_view_deg=(65.0, 65.0),
        sensor_px=(1920.0, 1920.0),
        yaw_deg=(-60.0, 60.0),
    ),
    "thys": replace(
        NOTHING,
        roll_deg=(-20.0, 20.0),
        patch_contrast=(0.8, 1.2),
        patch_brightness=(-0.1, 0.1),
        patch_noise=(0.1, 0.1),
    ),
    "tsea": replace(
        NOTHING,
        roll_deg=(-20.0, 20.0),
        patch_contrast=(0.8, 1.2),
        patch_brightness=(-0.1, 0.1),
        patch_noise=(0.1, 0.1),
        cutout_probability=(0.9, 0.9),
        cutout_share=(0.4, 0.4),
    ),
}

STATED_DISTANCES = ("rp2",)
"""Published presets whose paper states the distances, which are kept; the others leave them open.
"""

SOURCES: dict[str, str] = {
    "default": "ours: what the demo and the bundles shipped so far were made with",
    "camera": "ours: the whole way from print to stream, every effect on",
    "athalye": "Athalye 2018, the printed objects: light x0.5-2 and +-0.15, per channel x0.7-1.3 "
    "and +-0.15, noise to "
    "0.1; roll +-22.5 deg is their 2-D range; their 3-D objects turn freely, a flat sign keeps "
    "the yaw and pitch of "
    "`default`",
    "brown": "Brown 2017: rotation +-45 deg; scale and place are the scene's",
    "rp2": "Eykholt 2018, the stationary test: 5 to 40 feet, 0 to 60 deg; RP2 itself samples "
    "photos and states no "
    "ranges; the camera (65 deg, 1920 px) is ours",
    "thys": "Thys 2019: rotation +-20 deg, contrast 0.8-1.2, brightness +-0.1, uniform noise "
    "+-0.1, on the patch; "
    "the scale (0.2 of the box's diagonal) is the placement's",
    "tsea": "T-SEA, Huang 2023: as Thys, and a gray square of 0.4 of the patch's side in 0.9 of "
    "the draws",
}


def eot_preset(name: str) -> EotRanges:
    """Return the ranges called ``name``.

    Raises:
        OptionError: An unknown name; the error lists the known ones.

    Example:
        >>> eot_preset("brown").roll_deg
        (-45.0, 45.0)
        >>> eot_preset("camera").acts("bend_mm", "curl_deg")
        True
    """
    if name not in PRESETS:
        raise OptionError(
            f"EOT preset {name!r} is unknown",
            f"It must be one of {', '.join(PRESETS)}",
            "Choose one with --eot",
        )
    return PRESETS[name]


def ranges_from_toml(path: str | Path, base: EotRanges) -> EotRanges:
    """Return ``base`` with the ranges that the TOML file at ``path`` states.

    Raises OptionError as :func:`read_ranges` does.
    """
    return replace(base, **read_ranges(path))


def read_ranges(path: str | Path) -> dict[str, Range]:
    """Return the ranges that the TOML file at ``path`` states.

    The file holds lines such as ``yaw_deg = [-30, 30]`` or ``cutout_share = 0.4``, at the top or
    under ``[eot]``, as a card has them. Raises OptionError for an unreadable file, an unknown name
    (with near ones) and for what is no range.
    """
    remedy = "It must be a TOML file of ranges"
    table = read_table(path, error=OptionError, remedy=remedy, missing=remedy, form="toml")
    stated = table.get("eot", table)
    if not isinstance(stated, dict):
        raise OptionError(
            f"'eot' in '{path}'", "It must be a table of ranges", "Write [eot] above them"
        )
    return ranges_from_table(stated, str(path))


def ranges_from_table(table: Mapping[str, object], source: str) -> dict[str, Range]:
    """Return the checked ranges of a ``table``; errors name its ``source``.

    Raises OptionError as :func:`ranges_from_toml` does.
    """
    limits = EotRanges.limits()
    checked: dict[str, Range] = {}
    for name, value in table.items():
        if name not in limits:
            near = get_close_matches(name, limits, n=3)
            hint = f"Did you mean {' or '.join(near)}" if near else "Choose one of docs/eot.md"
            raise OptionError(
                f"{name!r} in '{source}' is no EOT range", "Known names are in docs/eot.md", hint
            )

        ends: list[Any] = list(value) if isinstance(value, list | tuple) else [value, value]
        if len(ends) != 2 or not all(_is_number(end) for end in ends) or ends[0] > ends[1]:
            raise OptionError(
                f"{name} = {value} in '{source}'",
                "It must be a finite number or [low, high] with low <= high",
                f"Write for example {name} = [0, 1]",
            )

        low, high = float(ends[0]), float(ends[1])
        least, largest = limits[name]
        if low < least or high > largest:
            raise OptionError(
                f"{name} = {value} in '{source}'", _stated_limits(least, largest), "Correct it"
            )
        checked[name] = (low, high)
    return checked


def _stated_limits(least: float, largest: float) -> str:
    """Return the sentence that says what a range may hold."""
    if isfinite(largest):
        return f"It must lie in {least:g} to {largest:g}"
    return "It must be more than 0" if least > 0 else "It must be at least 0"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def pipeline_from(
    text: str, ranges: EotRanges | None = None, *, colors: ColorMap | None = None
) -> Pipeline:
    """Return the pipeline that ``text`` names: a preset, or ``module:factory`` of the user's own.

    A factory is called without arguments. It returns a Pipeline, which is taken as it is, or a
    stage, a module or a list of them, which are put after the built-in ones.

    Args:
        text: Name of a preset, or an import path. Importing runs the code that it names: never pass
            what a file from elsewhere says.
        ranges: Ranges of the built-in stages; None: those of the preset, else of `default`.
        colors: A measured printer in place of the drawn inks.

    Raises:
        OptionError: An unknown preset, or a factory that returns something else.
        ModelError: What ``text`` names cannot be imported or called.

    Example:
        >>> pipeline_from("camera").names[-1]
        'FileOrStream'
    """
    own_code = is_import_path(text)
    base = ranges or eot_preset("default" if own_code else text)
    extra: Any = load_import_path(text)[0] if own_code else ()
    if isinstance(extra, Pipeline):
        return extra
    stages = extra if isinstance(extra, list | tuple) else [extra]
    return Pipeline.from_ranges(base, extra=stages, colors=colors)
