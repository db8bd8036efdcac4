"""Trajectories of the sign, smooth with a hand's tremor, and the pinhole camera that films them.

Camera: x right, y down, z forward, mm. Pixels: origin at the outer corner of the top-left pixel,
principal point in the middle. Yaw is positive where the sign faces to the right of the camera,
pitch where it faces down, roll clockwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


_WALK_MM_S, _TURN_RAD_S = 1400.0, float(np.deg2rad(20))


@dataclass(frozen=True)
class AngleLimits:
    """Largest angles of the sign in either direction, in degrees.

    Attributes:
        yaw: Rotation about the vertical axis.
        pitch: Rotation about the horizontal axis.
        roll: Rotation about the viewing axis.
    """

    yaw: float = 35.0
    pitch: float = 10.0
    roll: float = 5.0


@dataclass(frozen=True)
class SignPose:
    """Pose of the sign in the camera.

    Attributes:
        distance_mm: Distance from the camera to the sign's center.
        yaw: Yaw in degrees.
        pitch: Pitch in degrees.
        roll: Roll in degrees.
        u: Column of the sign's center in px.
        v: Row of the sign's center in px.
    """

    distance_mm: float
    yaw: float
    pitch: float
    roll: float
    u: float
    v: float


def pose_rotation(pose: SignPose) -> F64:
    """Return the rotation (3, 3) of ``pose`` from sign (x right, y down, z away from the viewer) to
    camera."""
    y, p, r = np.deg2rad([pose.yaw, pose.pitch, pose.roll])
    about_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def sign_homography(pose: SignPose, focal_px: float, size: tuple[int, int]) -> F64:
    """Return the homography from the sign's plane to ideal pixels, without lens distortion.

    Args:
        pose: Pose of the sign.
        focal_px: Focal length in px.
        size: Width and height of the picture.

    Returns:
        Homography (3, 3) from mm, relative to the sign's center.

    Example:
        >>> pose = SignPose(2000, yaw=0, pitch=0, roll=0, u=320, v=240)
        >>> h = sign_homography(pose, focal_px=500, size=(640, 480))
        >>> project_points(h, np.array([[0.0, 0.0], [400.0, 0.0]])).round(6).tolist()
        [[320.0, 240.0], [420.0, 240.0]]
    """
    camera = np.array([[focal_px, 0, size[0] / 2], [0, focal_px, size[1] / 2], [0, 0, 1]])
    ray = np.linalg.inv(camera) @ np.array([pose.u, pose.v, 1.0])
    center = ray / np.linalg.norm(ray) * pose.distance_mm
    turned = pose_rotation(pose)
    return np.asarray(camera @ np.column_stack([turned[:, 0], turned[:, 1], center]))


def project_points(h: F64, points: F64) -> F64:
    """Map ``points`` (n, 2) through the homography ``h`` (3, 3)."""
    out = np.column_stack([points, np.ones(len(points))]) @ h.T
    return np.asarray(out[:, :2] / out[:, 2:])


def distort_points(points: F64, k1: float, focal_px: float, size: tuple[int, int]) -> F64:
    """Map ideal pixels to pixels of a lens with radial distortion, by 12 fixed-point steps.

    Args:
        points: Ideal pixels (n, 2).
        k1: Radial distortion: x_ideal = x_seen (1 + k1 r^2), with r in focal lengths.
        focal_px: Focal length in px.
        size: Width and height of the picture.

    Returns:
        Pixels (n, 2).
    """
    middle = np.array(size) / 2
    ideal = (points - middle) / focal_px
    distorted = ideal.copy()
    for _ in range(12):
        distorted = ideal / (1 + k1 * (distorted**2).sum(-1, keepdims=True))
    return np.asarray(distorted * focal_px + middle)


def random_path(
    rng: np.random.Generator,
    frames: int,
    *,
    side_mm: float,
    focal_px: float,
    size: tuple[int, int],
    distances_mm: tuple[float, float],
    angles: AngleLimits,
) -> list[SignPose]:
    """Draw a clip's poses: an approach, a walk past, or a hand-held stand, with the sign inside the
    picture.

    Args:
        rng: Random stream of the clip.
        frames: Number of frames.
        side_mm: Side of the sign's bounding square.
        focal_px: Focal length in px.
        size: Width and height of a frame.
        distances_mm: Nearest and farthest distance.
        angles: Largest angles.

    Returns:
        One pose per frame.
    """
    t = np.linspace(0, 1, frames) if frames > 1 else np.array([0.5])
    ease = t * t * (3 - 2 * t)

    near, far = np.log(distances_mm[0]), np.log(distances_mm[1])
    start, end = rng.uniform(near, far, 2)
    path_kind = rng.choice(3, p=[0.5, 0.25, 0.25])
    if path_kind == 0:  # approach
        start, end = (
            rng.uniform(near + 0.6 * (far - near), far),
            rng.uniform(near, near + 0.3 * (far - near)),
        )
    elif path_kind == 2:  # stand
        end = start + rng.normal(0, 0.03)

    reach = np.array([angles.yaw, angles.pitch, angles.roll])
    first, last = rng.uniform(-reach, reach), rng.uniform(-reach, reach)
    if path_kind == 2:
        last = first + rng.normal(0, 0.05, 3) * reach
    turns = np.clip(
        first + (last - first) * ease[:, None] + _tremor(rng, frames, 3) * (0.6, 0.6, 0.5),
        -reach,
        reach,
    )

    log_d = np.clip(start + (end - start) * ease + 0.004 * _tremor(rng, frames, 1)[:, 0], near, far)
    drift = rng.uniform(0.0, 1.0, (2, 2))
    wander = drift[0] + (drift[1] - drift[0]) * ease[:, None] * (0.5 if path_kind else 1.0)
    shake = _tremor(rng, frames, 2) * 1.5

    poses = []
    for i in range(frames):
        distance = float(np.exp(log_d[i]))
        margin = 0.72 * side_mm * focal_px / distance + 4
        low, high = (
            np.minimum(margin, np.array(size) / 2),
            np.maximum(np.array(size) - margin, np.array(size) / 2),
        )
        u, v = np.clip(low + wander[i] * (high - low) + shake[i], low, high)
        yaw, pitch, roll = turns[i].tolist()
        poses.append(SignPose(distance, yaw, pitch, roll, float(u), float(v)))
    return poses


def path_seconds(points_px: F64, distances_mm: F64, focal_px: float) -> float:
    """Return how long a person takes for a path: a walk of 1.4 m/s, or a turn of 20 degrees a
    second, whichever takes longer, and at least a second.

    A clip of few frames shows such a path in large steps; the camera moves no faster for that.

    Args:
        points_px: Place (n, 2) of the sign in each frame.
        distances_mm: Distance (n,) of the sign in each frame.
        focal_px: Focal length in px.

    Returns:
        The time from the first frame to the last in s.

    Example:
        >>> middle = np.full((2, 2), 320.0)
        >>> path_seconds(middle, np.array([9000.0, 2000.0]), focal_px=500)
        5.0
    """
    walked = float(np.abs(np.diff(distances_mm)).sum()) / _WALK_MM_S
    turned = float(np.hypot(*np.diff(points_px, axis=0).T).sum()) / (focal_px * _TURN_RAD_S)
    return max(1.0, walked, turned)


def _tremor(rng: np.random.Generator, frames: int, count: int) -> F64:
    """Draw a hand's tremor (frames, count): a random walk pulled back to zero, about one unit in
    size."""
    steps = rng.normal(0, 1, (frames, count))
    out = np.zeros((frames, count))
    for i in range(frames):
        out[i] = (0.75 * out[i - 1] if i else 0) + 0.66 * steps[i]
    return out
