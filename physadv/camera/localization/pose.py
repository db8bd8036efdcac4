"""Where a flat sign stands: both solutions of its pose are kept, and continuity over frames chooses
between them.

Seen from afar, a small square tilted to one side looks like one tilted to the other: the pose of a
plane has two solutions (IPPE; Collins and Bartoli 2014) whose errors differ by less than the noise.
A single frame cannot tell them apart, a path can: a sign does not jump from one side to the other
between two frames.
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
"""Spread of a marker's corner in a sharp picture; of the order of what sub-pixel refinement leaves.
"""
WEIGHT = 4.0
"""How many of a frame's corners count as independent: blur and lens shift all of them together."""
JITTER_DEG, SPEED_DEG = 4.0, 90.0
"""How far a normal may jump by noise alone, and how fast a hand turns a page, in degrees a second.
"""
FORGET = 30.0
"""The largest lead of one solution over the other, so that a wrong start can be put right."""
GAP_S = 1.0


@dataclass(frozen=True)
class CameraPose:
    """The sign in the camera's axes (x right, y down, z forward): rotation (3, 3), center (3,) in
    mm, error in px."""

    rotation: Points
    center: Points
    error_px: float

    @property
    def distance_m(self) -> float:
        """From the lens to the sign's center."""
        return float(np.linalg.norm(self.center)) / 1000

    @property
    def yaw_deg(self) -> float:
        """Positive where the sign faces to the right of the camera."""
        return degrees(asin(float(np.clip(self.rotation[2, 0], -1, 1))))

    @property
    def pitch_deg(self) -> float:
        """Positive where the sign faces down."""
        return degrees(atan2(float(self.rotation[2, 1]), float(self.rotation[2, 2])))

    @property
    def roll_deg(self) -> float:
        """Clockwise positive."""
        return degrees(atan2(float(self.rotation[1, 0]), float(self.rotation[0, 0])))


def both_poses(plane_mm: Points, seen_px: Points, lens: CameraLens) -> list[CameraPose]:
    """Both solutions, the better fitting one first; none where the points give none.

    ``plane_mm`` (n, 2) points on the sign from its center, x right, y down; ``seen_px`` (n, 2)
    where they are seen, from the outer corner of the top-left pixel. Each solution is refined to
    its least reprojection error.
    """
    model = np.column_stack([plane_mm, np.zeros(len(plane_mm))]).astype(np.float64)
    seen = np.ascontiguousarray(seen_px, dtype=np.float64)
    try:
        count, turns, shifts, _ = cv2.solvePnPGeneric(
            model, seen, lens.matrix, lens.coefficients, flags=cv2.SOLVEPNP_IPPE
        )
    except cv2.error:
        return []
    poses = [_refined(model, seen, lens, turns[k], shifts[k]) for k in range(count)]
    facing = [
        p for p in poses if p is not None and p.center[2] > 0 and p.rotation[:, 2] @ p.center > 0
    ]
    return sorted(facing, key=lambda p: p.error_px)


def _refined(
    model: Points, seen: Points, lens: CameraLens, turn: Points, shift: Points
) -> CameraPose | None:
    """The solution after Levenberg-Marquardt; as it was where refining would leave for the other
    one."""
    better_turn, better_shift = cv2.solvePnPRefineLM(
        model, seen, lens.matrix, lens.coefficients, turn.copy(), shift.copy()
    )
    before, after = (
        _pose(model, seen, lens, turn, shift),
        _pose(model, seen, lens, better_turn, better_shift),
    )
    stayed = after is not None and before is not None and angle_between(before, after) < 10
    return after if stayed else before


def _pose(
    model: Points, seen: Points, lens: CameraLens, turn: Points, shift: Points
) -> CameraPose | None:
    shown, _ = cv2.projectPoints(model, turn, shift, lens.matrix, lens.coefficients)
    error = float(np.sqrt(((shown.reshape(-1, 2) - seen) ** 2).sum(1).mean()))
    rotation = np.asarray(cv2.Rodrigues(turn)[0], np.float64)
    return (
        CameraPose(rotation, np.asarray(shift, np.float64).ravel(), error)
        if np.isfinite(error)
        else None
    )


def angle_between(a: CameraPose, b: CameraPose) -> float:
    """Degrees between the normals of two poses."""
    return degrees(np.arccos(np.clip(a.rotation[:, 2] @ b.rotation[:, 2], -1, 1)))


class PoseTracker:
    """Chooses among both solutions of each frame the end of the likelier path (Viterbi 1967, two
    states).

    A path costs the squared error of its solutions and the squared turn of the normal from frame to
    frame. After a gap of more than a second, or where time runs backwards (another clip), it starts
    anew.
    """

    def __init__(self) -> None:
        self._poses: list[CameraPose] = []
        self._costs: list[float] = []
        self._time: float | None = None

    def choose(self, poses: Sequence[CameraPose], time_s: float) -> CameraPose | None:
        """The pose to believe at ``time_s``; None where there is none."""
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
        """The cheapest way to ``pose`` from one of the last frame's."""
        reach = JITTER_DEG + SPEED_DEG * step
        ways = [
            c + (angle_between(p, pose) / reach) ** 2
            for p, c in zip(self._poses, self._costs, strict=True)
        ]
        return min(ways, default=0.0)


def rotation_matrix(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Points:
    """The rotation (3, 3) with these angles: pitch first, then yaw, then roll."""
    y, p, r = (radians(v) for v in (yaw_deg, pitch_deg, roll_deg))
    about_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, np.float64)
