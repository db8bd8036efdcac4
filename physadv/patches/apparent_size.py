"""Apparent size of a sign or object, which decides what a victim reads, and its bins.

A detector is given whole frames: the size is the width as a share of the frame's height. A
classifier is given crops: the size is the width in the camera's own pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import Range
from physadv.eot.transforms.lens_distortion import focal_length_px
from physadv.eot.warp import apply_homography, square_corners
from physadv.threat.patch_goals import Annotations

SHARE, PX = "share", "px"
"""Units of a size: share of the frame's height, and px of the camera."""
_PREFERRED = (1.0, 1.5, 2.2, 3.3, 4.7, 6.8)
"""Preferred numbers of the series E6 (IEC 60063), a factor of about 1.47 apart."""
_USUAL_VIEW_DEG, _USUAL_PX = 65.0, 1920.0
_NEAR = 1e-9
_YAW_STEP_DEG, _TURNED_BY_PITCH_DEG = 15.0, 2.0


def unit_of(*, whole_frame: bool) -> str:
    """Return the unit of sizes for a model that is given whole frames, or else crops."""
    return SHARE if whole_frame else PX


def sizes_in(scenes: SceneBatch, sign_width_mm: float, *, whole_frame: bool) -> Tensor:
    """Return the apparent size of every object in ``scenes``.

    Args:
        scenes: b scenes with one sign each, or with the objects that their marks name.
        sign_width_mm: Width of the sign.
        whole_frame: Whether the scenes are whole frames, else crops.

    Returns:
        (m,) sizes of the sign's square, or of the longer side of each object's box.

    Example:
        >>> import torch
        >>> ones = torch.ones(1, 3)
        >>> still = SceneBatch(
        ...     torch.zeros(1, 3, 64, 64), torch.eye(3)[None], ones, ones, torch.ones(1), ("a",)
        ... )
        >>> sizes_in(still, 16.0, whole_frame=True).tolist()
        [0.25]
    """
    owner = None if scenes.marks is None else scenes.marks.scene
    if scenes.marks is not None:
        sides = _longer_sides(scenes.marks)
    else:
        corners = square_corners(sign_width_mm).to(scenes.homography)
        seen = apply_homography(scenes.homography, corners.expand(len(scenes.images), 4, 2))
        sides = (seen.amax(1) - seen.amin(1)).amax(1)

    # What a size is measured by in each scene: px of the camera, or the frame's height.
    units = scenes.enlargement
    if whole_frame:
        if scenes.frame_box is None:
            return sides / scenes.images.shape[-2]
        units = scenes.frame_box[:, 3] - scenes.frame_box[:, 1]
    return sides / (units if owner is None else units[owner]).to(sides)


def _longer_sides(annotations: Annotations) -> Tensor:
    boxes = annotations.boxes
    return (boxes[:, 2:] - boxes[:, :2]).amax(1)


def describe_objects(
    scenes: SceneBatch, ranges: EotRanges, sign_width_mm: float, *, whole_frame: bool
) -> list[dict[str, float]]:
    """Return what is known of the view of every object in ``scenes``, for its row.

    Args:
        scenes: b scenes.
        ranges: Ranges that they were drawn from; without a distance in them none is reported.
        sign_width_mm: Width of the sign.
        whole_frame: Whether the scenes are whole frames, else crops.

    Returns:
        For each object its "size" (:func:`sizes_in`) and, of a sign where they are known, its
        "distance_m" and its "yaw_deg".
    """
    sizes = sizes_in(scenes, sign_width_mm, whole_frame=whole_frame).tolist()
    views = [{"size": float(f"{size:.4g}")} for size in sizes]
    if scenes.distance_m is not None and ranges.acts("distance_m"):
        for view, distance in zip(views, scenes.distance_m.tolist(), strict=True):
            view["distance_m"] = round(distance, 3)
    if scenes.yaw_deg is not None:
        for view, yaw in zip(views, scenes.yaw_deg.tolist(), strict=True):
            if math.isfinite(yaw):
                view["yaw_deg"] = round(yaw, 2)
    return views


def size_edges(smallest: float, largest: float) -> list[float]:
    """Return bin edges at preferred numbers that hold ``smallest`` to ``largest``, both over 0.

    Example:
        >>> size_edges(0.12, 0.55)
        [0.1, 0.15, 0.22, 0.33, 0.47, 0.68]
    """
    powers = range(math.floor(math.log10(smallest)), math.floor(math.log10(largest)) + 2)
    numbers = [float(f"{step * 10.0**power:.3g}") for power in powers for step in _PREFERRED]
    first = max(i for i, number in enumerate(numbers) if number <= smallest * (1 + _NEAR))
    last = next(
        i for i, number in enumerate(numbers) if number >= largest * (1 - _NEAR) and i > first
    )
    return numbers[first : last + 1]


def yaw_edges(yaws: Sequence[float]) -> list[float]:
    """Return edges in degrees, 15 apart, of bins that hold ``yaws``, either way; NaN is no yaw.

    A yaw less than 2 degrees beyond an edge opens no bin: pitch and roll turn a sign that far.

    Example:
        >>> yaw_edges([-31.0, 46.5, math.nan])
        [0.0, 15.0, 30.0, 45.0]
    """
    widest = max((abs(yaw) for yaw in yaws if math.isfinite(yaw)), default=0.0)
    count = max(1, math.ceil((widest - _TURNED_BY_PITCH_DEG) / _YAW_STEP_DEG))
    return [number * _YAW_STEP_DEG for number in range(count + 1)]


def bin_of(value: float, edges: Sequence[float]) -> int:
    """Return the number of the bin between ``edges`` that holds ``value``; -1 for NaN.

    A bin holds its lower edge; the outer ones also hold what lies beyond them.

    Example:
        >>> [bin_of(value, [0.0, 15.0, 30.0]) for value in (-1.0, 0.0, 15.0, 30.0, math.nan)]
        [0, 0, 1, 1, -1]
    """
    if math.isnan(value):
        return -1
    return sum(value >= edge for edge in edges[1:-1])


def drawn_sizes(ranges: EotRanges, sign_width_mm: float, *, whole_frame: bool) -> Range:
    """Return the smallest and the largest size of a sign that ``ranges`` draw.

    Example:
        >>> drawn_sizes(EotRanges(), 457.0, whole_frame=True)
        (0.12, 0.55)
    """
    if not ranges.acts("distance_m"):
        return ranges.frame_share if whole_frame else ranges.size_px

    near, far = ranges.distance_m
    narrow, wide = ranges.field_of_view_deg
    few, many = ranges.sensor_px
    at_far = _size_at(far, wide, few, sign_width_mm, whole_frame=whole_frame)
    at_near = _size_at(near, narrow, many, sign_width_mm, whole_frame=whole_frame)
    limits = ranges.visible_share if whole_frame else ranges.visible_px
    if ranges.acts("visible_share" if whole_frame else "visible_px"):
        return max(at_far, limits[0]), min(at_near, limits[1])
    return at_far, at_near


def distance_of(
    size: float, ranges: EotRanges, sign_width_mm: float, *, whole_frame: bool
) -> float:
    """Return the distance in m at which one camera shows a sign in an apparent ``size``.

    The camera's angle of view and width are those of ``ranges`` where they are fixed, else 65
    degrees and 1920 px; its frame is 16:9.

    Example:
        >>> round(distance_of(0.1, EotRanges(), 457.0, whole_frame=True), 1)
        6.4
    """
    view, width = nominal_camera(ranges)
    return _size_at(1.0, view, width, sign_width_mm, whole_frame=whole_frame) / size


def nominal_camera(ranges: EotRanges) -> tuple[float, float]:
    """Return the angle of view in degrees and the width in px that stand for the cameras of
    ``ranges``: their own where they are fixed, else those of a usual camera."""
    view, width = ranges.field_of_view_deg, ranges.sensor_px
    return (
        view[0] if view[0] == view[1] > 0 else _USUAL_VIEW_DEG,
        width[0] if width[0] == width[1] > 0 else _USUAL_PX,
    )


def _size_at(
    distance_m: float, view_deg: float, sensor_px: float, width_mm: float, *, whole_frame: bool
) -> float:
    """Apparent size of a sign at a distance."""
    px = focal_length_px(sensor_px, view_deg) * width_mm / 1000 / distance_m
    return px / (sensor_px * 9 / 16) if whole_frame else px
