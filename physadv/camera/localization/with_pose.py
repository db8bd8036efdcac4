"""Distance and angles for every located sign: measured through the lens, by its size, or as a
person typed them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from physadv.camera.frames import CameraFrame
from physadv.camera.lens import CameraLens, LensFor
from physadv.camera.localization.boxes import Box
from physadv.camera.localization.location import Locator, SignLocation
from physadv.camera.localization.pose import PoseTracker, both_poses
from physadv.core.errors import CaptureError, OptionError

WidthOf = Callable[[SignLocation], float | None]
"""The width in mm of the sign that a location is of; None where it is not known."""
_SQUARE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def with_pose(
    locator: Locator,
    *,
    sign_width_mm: float | WidthOf | None,
    lens: LensFor,
    typed_m: float | None = None,
) -> Locator:
    """Add distance and angles to what ``locator`` finds, where no truth is told.

    Markers and features give all of them, a box by hand or of a detector the distance only.
    ``typed_m`` is used where nothing could be measured through a lens that is known. Raises
    OptionError for a typed distance that is none.
    """
    if typed_m is not None and not 0.01 <= typed_m <= 1000:
        raise OptionError(f"distance {typed_m:g} m", "0.01 to 1000 m", "Correct it")
    tracker = PoseTracker()

    def locate(frame: CameraFrame) -> SignLocation | None:
        place = locator(frame)
        if place is None or place.corners is None or place.pose_by is not None:
            return place
        width = sign_width_mm(place) if callable(sign_width_mm) else sign_width_mm
        try:
            through = lens((frame.image.shape[1], frame.image.shape[0]))
        except CaptureError as error:
            return _typed(replace(place, note=f"frames without distance: {error}"), typed_m)
        if width is not None:
            place = _measured(place, width, through, tracker, frame.time_s)
        sure = place.distance_m is not None and through.known != "assumed"
        return place if sure else _typed(place, typed_m)

    return locate


def _measured(
    place: SignLocation, width_mm: float, lens: CameraLens, tracker: PoseTracker, time_s: float
) -> SignLocation:
    if place.matches is None or place.refused is not None:
        return _by_size(place, width_mm, lens)
    poses = both_poses(place.matches.plane * width_mm, place.matches.seen, lens)
    pose = tracker.choose(poses, time_s)
    if pose is None:
        return place
    return replace(
        place,
        distance_m=pose.distance_m,
        yaw_deg=pose.yaw_deg,
        pitch_deg=pose.pitch_deg,
        roll_deg=pose.roll_deg,
        poses=(pose, *(p for p in poses if p is not pose)),
        pose_by=place.by,
    )


def _by_size(place: SignLocation, width_mm: float, lens: CameraLens) -> SignLocation:
    """A box has no perspective in it: its size tells how far, not how turned."""
    x0, y0, x1, y1 = place.box or (0.0, 0.0, 0.0, 0.0)
    box: Box = (x0, y0, x1, y1)
    poses = both_poses(_SQUARE * width_mm, _upright(box), lens)
    return replace(place, distance_m=poses[0].distance_m, pose_by="size") if poses else place


def _upright(box: Box) -> np.ndarray:
    """The corners of a square as high as the box is at most, about its center: signs are turned,
    not squeezed."""
    x0, y0, x1, y1 = box
    center, half = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), max(x1 - x0, y1 - y0) / 2
    return np.asarray(center + 2 * half * _SQUARE, np.float64)


def _typed(place: SignLocation, typed_m: float | None) -> SignLocation:
    return place if typed_m is None else replace(place, distance_m=typed_m, pose_by="typed")
