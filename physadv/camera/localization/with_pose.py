"""Distance and angles of a located sign: measured through the lens, estimated by size, or typed
in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from physadv.camera.frames import CameraFrame
from physadv.camera.lens import CameraLens, LensFor
from physadv.camera.localization.boxes import Box
from physadv.camera.localization.location import Locator, SignLocation
from physadv.camera.localization.pose import PoseTracker, both_poses
from physadv.core.errors import CaptureError, OptionError

WidthOf = Callable[[SignLocation], float | None]
"""Function from a location to the width of its sign in mm; None where it is unknown."""
MOST_POSE_ERROR = 1 / 30
"""Most that a pose may lead beside the points it is computed of, on average, in widths of the sign:
a quarter of a marker's side. A pose beyond says nothing of distance and angles; its lens is another
one."""
NO_POSE = "frames without distance: no pose through this lens fits; calibrate the camera"
_SQUARE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def with_pose(
    locator: Locator,
    *,
    sign_width_mm: float | WidthOf | None,
    lens: LensFor,
    typed_m: float | None = None,
) -> Locator:
    """Extend a locator by distance and angles, where the source has no truth.

    Markers and features yield all of them, a box only the distance.

    Args:
        locator: Finds the sign in a frame.
        sign_width_mm: Width of the sign, or a function of its location.
        lens: Lens of the camera by picture size.
        typed_m: Distance in m, 0.01 to 1000, used where none is measured through a known lens.

    Returns:
        The extended locator.

    Raises:
        OptionError: The typed distance is out of range.

    Example:
        >>> from physadv.camera.lens import lens_for
        >>> from physadv.camera.localization.boxes import corners_of
        >>> square = SignLocation(corners_of((300, 220, 340, 260)), "box")
        >>> locate = with_pose(lambda frame: square, sign_width_mm=200, lens=lens_for(focal_px=500))
        >>> picture = np.zeros((480, 640, 3), np.uint8)
        >>> round(locate(CameraFrame(picture, 0.0, "clip", None, 0)).distance_m, 2)
        2.5
    """
    if typed_m is not None and not 0.01 <= typed_m <= 1000:
        raise OptionError(f"distance {typed_m:g} m", "0.01 to 1000 m", "Correct the distance")

    tracker = PoseTracker()

    def locate(frame: CameraFrame) -> SignLocation | None:
        location = locator(frame)
        if location is None or location.corners is None or location.pose_by is not None:
            return location

        width = sign_width_mm(location) if callable(sign_width_mm) else sign_width_mm
        try:
            camera_lens = lens((frame.image.shape[1], frame.image.shape[0]))
        except CaptureError as error:
            return _typed(replace(location, note=f"frames without distance: {error}"), typed_m)

        if width is not None:
            location = _measured(location, width, camera_lens, tracker, frame.time_s)

        measured = location.distance_m is not None and camera_lens.known != "assumed"
        return location if measured else _typed(location, typed_m)

    return locate


def _measured(
    location: SignLocation, width_mm: float, lens: CameraLens, tracker: PoseTracker, time_s: float
) -> SignLocation:
    if location.matches is None or location.refused is not None:
        return _by_size(location, width_mm, lens)

    poses = both_poses(location.matches.plane * width_mm, location.matches.seen, lens)
    most_px = MOST_POSE_ERROR * _side_px(location)
    pose = tracker.choose([p for p in poses if p.error_px <= most_px], time_s)
    if pose is None:
        return replace(location, note=NO_POSE)

    return replace(
        location,
        distance_m=pose.distance_m,
        yaw_deg=pose.yaw_deg,
        pitch_deg=pose.pitch_deg,
        roll_deg=pose.roll_deg,
        poses=(pose, *(p for p in poses if p is not pose)),
        pose_by=location.by,
    )


def _by_size(location: SignLocation, width_mm: float, lens: CameraLens) -> SignLocation:
    """Estimate the distance by the size of a box, which has no perspective and so no angles."""
    x0, y0, x1, y1 = location.box or (0.0, 0.0, 0.0, 0.0)
    box: Box = (x0, y0, x1, y1)
    poses = both_poses(_SQUARE * width_mm, _upright(box), lens)
    return replace(location, distance_m=poses[0].distance_m, pose_by="size") if poses else location


def _side_px(location: SignLocation) -> float:
    """The side in px of a square as large as the sign in the picture."""
    corners = np.asarray(location.corners, np.float32)
    return float(np.sqrt(abs(cv2.contourArea(corners))))


def _upright(box: Box) -> np.ndarray:
    """Return the corners of a square as large as the box's longer side, about its center: signs are
    turned, not squeezed."""
    x0, y0, x1, y1 = box
    center, half = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), max(x1 - x0, y1 - y0) / 2
    return np.asarray(center + 2 * half * _SQUARE, np.float64)


def _typed(location: SignLocation, typed_m: float | None) -> SignLocation:
    return location if typed_m is None else replace(location, distance_m=typed_m, pose_by="typed")
