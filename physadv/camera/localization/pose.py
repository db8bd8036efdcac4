"""Pose of a flat sign: both solutions are kept, and continuity over frames chooses between them.

From afar, a small square tilted to one side looks like one tilted to the other: the pose of a plane
has two solutions (IPPE; Collins and Bartoli 2014) whose errors differ by less than the noise. One
frame cannot separate them, a sequence can: a sign does not jump from one side to the other between
two frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import asin, atan2, degrees, radians

import cv2
import numpy as np
import numpy.typing as npt

from physadv.camera.lens import CameraLens

Points = npt.NDArray[np.float64]

CORNER_NOISE_PX = 0.3
"""Rough standard deviation of a marker's corner in a sharp picture after sub-pixel refinement."""
WEIGHT = 4.0
"""Number of a frame's corners that count as independent: blur and lens shift them together."""
JITTER_DEG, SPEED_DEG = 4.0, 90.0
"""Jump of a normal by noise alone in degrees, and rate at which a hand turns a page, per second."""
FORGET = 30.0
"""Largest lead of one solution over the other, so that a wrong start can be corrected."""
GAP_S = 1.0


@dataclass(frozen=True)
class CameraPose:
    """Pose of the sign in the camera's axes: x right, y down, z forward.

    Attributes:
        rotation: Rotation (3, 3) from sign to camera.
        center: Center (3,) of the sign in mm.
        error_px: Root mean square reprojection error.

    Example:
        >>> pose = CameraPose(rotation_matrix(20, 0, 0), np.array([0.0, 0.0, 1500.0]), 0.1)
        >>> pose.distance_m, round(pose.yaw_deg, 6)
        (1.5, 20.0)
    """

    rotation: Points
    center: Points
    error_px: float

    @property
    def distance_m(self) -> float:
        """Distance from the lens to the sign's center in m."""
        return float(np.linalg.norm(self.center)) / 1000

    @property
    def yaw_deg(self) -> float:
        """Yaw in degrees, positive where the sign faces to the right of the camera."""
        return degrees(asin(float(np.clip(self.rotation[2, 0], -1, 1))))

    @property
    def pitch_deg(self) -> float:
        """Pitch in degrees, positive where the sign faces down."""
        return degrees(atan2(float(self.rotation[2, 1]), float(self.rotation[2, 2])))

    @property
    def roll_deg(self) -> float:
        """Roll in degrees, positive clockwise."""
        return degrees(atan2(float(self.rotation[1, 0]), float(self.rotation[0, 0])))


def both_poses(plane_mm: Points, seen_px: Points, lens: CameraLens) -> list[CameraPose]:
    """Compute both poses that explain the points, each refined to its least reprojection error.

    Args:
        plane_mm: Points (n, 2) on the sign in mm from its center, x right, y down.
        seen_px: The same points (n, 2) in the picture, from the outer corner of the top-left pixel.
        lens: Lens of the camera.

    Returns:
        Up to two poses, the better fitting one first.

    Example:
        >>> from physadv.camera.lens import lens_for
        >>> square = np.array([[-100, -100], [100, -100], [100, 100], [-100, 100]])
        >>> lens = lens_for(focal_px=500)((640, 480))
        >>> poses = both_poses(square, np.array([320, 240]) + square * 0.2, lens)
        >>> round(poses[0].distance_m, 3)
        2.5
    """
    model = np.column_stack([plane_mm, np.zeros(len(plane_mm))]).astype(np.float64)
    pixels = np.ascontiguousarray(seen_px, dtype=np.float64)
    try:
        count, turns, shifts, _ = cv2.solvePnPGeneric(
            model, pixels, lens.matrix, lens.coefficients, flags=cv2.SOLVEPNP_IPPE
        )
    except cv2.error:
        return []

    poses = [_refined(model, pixels, lens, turns[k], shifts[k]) for k in range(count)]
    facing = [
        p for p in poses if p is not None and p.center[2] > 0 and p.rotation[:, 2] @ p.center > 0
    ]
    return sorted(facing, key=lambda p: p.error_px)


def _refined(
    model: Points, pixels: Points, lens: CameraLens, turn: Points, shift: Points
) -> CameraPose | None:
    """Refine by Levenberg-Marquardt; keep the solution as it was where refining would move to the
    other one."""
    better_turn, better_shift = cv2.solvePnPRefineLM(
        model, pixels, lens.matrix, lens.coefficients, turn.copy(), shift.copy()
    )

    before, after = (
        _pose(model, pixels, lens, turn, shift),
        _pose(model, pixels, lens, better_turn, better_shift),
    )
    stayed = after is not None and before is not None and angle_between(before, after) < 10
    return after if stayed else before


def _pose(
    model: Points, pixels: Points, lens: CameraLens, turn: Points, shift: Points
) -> CameraPose | None:
    projected, _ = cv2.projectPoints(model, turn, shift, lens.matrix, lens.coefficients)
    error = float(np.sqrt(((projected.reshape(-1, 2) - pixels) ** 2).sum(1).mean()))

    rotation = np.asarray(cv2.Rodrigues(turn)[0], np.float64)
    return (
        CameraPose(rotation, np.asarray(shift, np.float64).ravel(), error)
        if np.isfinite(error)
        else None
    )


def angle_between(a: CameraPose, b: CameraPose) -> float:
    """Return the angle in degrees between the normals of the poses ``a`` and ``b``."""
    return degrees(np.arccos(np.clip(a.rotation[:, 2] @ b.rotation[:, 2], -1, 1)))


class PoseTracker:
    """Selects, frame by frame, the solution at the end of the likelier path (Viterbi 1967, two
    states).

    The cost of a path is the squared error of its solutions plus the squared turn of the normal
    between frames. After a gap of more than a second, or where time runs backwards (another clip),
    tracking starts anew.
    """

    def __init__(self) -> None:
        self._poses: list[CameraPose] = []
        self._costs: list[float] = []
        self._time: float | None = None

    def choose(self, poses: Sequence[CameraPose], time_s: float) -> CameraPose | None:
        """Return the pose selected among ``poses`` at ``time_s``; None where there is none."""
        if not poses:
            return None

        step = None if self._time is None else time_s - self._time
        if step is None or not 0 <= step <= GAP_S:
            self._poses, self._costs, step = [], [], 0.0

        costs = [
            WEIGHT * (p.error_px / CORNER_NOISE_PX) ** 2 + self._arrival(p, step) for p in poses
        ]
        least = min(costs)
        self._poses, self._time = list(poses), time_s
        self._costs = [min(c - least, FORGET) for c in costs]
        return self._poses[int(np.argmin(costs))]

    def _arrival(self, pose: CameraPose, step: float) -> float:
        """Return the least cost of reaching ``pose`` from one of the previous frame's."""
        reach = JITTER_DEG + SPEED_DEG * step
        costs = [
            c + (angle_between(p, pose) / reach) ** 2
            for p, c in zip(self._poses, self._costs, strict=True)
        ]
        return min(costs, default=0.0)


def rotation_matrix(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Points:
    """Return the rotation with the given angles: pitch first, then yaw, then roll.

    Args:
        yaw_deg: Yaw in degrees.
        pitch_deg: Pitch in degrees.
        roll_deg: Roll in degrees.

    Returns:
        Rotation matrix (3, 3).
    """
    y, p, r = (radians(v) for v in (yaw_deg, pitch_deg, roll_deg))
    about_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, np.float64)
