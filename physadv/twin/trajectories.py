"""Where the sign is from frame to frame: smooth paths with a trembling hand, and the pinhole camera
that sees them.

Camera: x right, y down, z forward, mm. Pixels: origin at the outer corner of the top-left pixel,
principal point in the middle. Yaw is positive where the sign faces to the right of the camera,
pitch where it faces down, roll clockwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AngleLimits:
    """Largest yaw, pitch and roll either way, in degrees."""

    yaw: float = 35.0
    pitch: float = 10.0
    roll: float = 5.0


@dataclass(frozen=True)
class SignPose:
    """The sign in the camera: ``distance_mm`` to its center, which is seen at pixel (u, v), and its
    three angles."""

    distance_mm: float
    yaw: float
    pitch: float
    roll: float
    u: float
    v: float


def pose_rotation(pose: SignPose) -> F64:
    """(3, 3) sign (x right, y down, z away from the viewer) -> camera."""
    y, p, r = np.deg2rad([pose.yaw, pose.pitch, pose.roll])
    about_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def sign_homography(pose: SignPose, focal_px: float, size: tuple[int, int]) -> F64:
    """(3, 3): sign plane in mm, from its center -> ideal pixels in a picture of ``size`` (w, h), no
    lens distortion."""
    camera = np.array([[focal_px, 0, size[0] / 2], [0, focal_px, size[1] / 2], [0, 0, 1]])
    ray = np.linalg.inv(camera) @ np.array([pose.u, pose.v, 1.0])
    center = ray / np.linalg.norm(ray) * pose.distance_mm
    turned = pose_rotation(pose)
    return np.asarray(camera @ np.column_stack([turned[:, 0], turned[:, 1], center]))


def project_points(h: F64, points: F64) -> F64:
    """(n, 2) through a homography."""
    out = np.column_stack([points, np.ones(len(points))]) @ h.T
    return np.asarray(out[:, :2] / out[:, 2:])


def distort_points(points: F64, k1: float, focal_px: float, size: tuple[int, int]) -> F64:
    """Ideal pixels -> pixels as the lens shows them, the inverse of :func:`undistort` (fixed point,
    12 steps)."""
    middle = np.array(size) / 2
    ideal = (points - middle) / focal_px
    seen = ideal.copy()
    for _ in range(12):
        seen = ideal / (1 + k1 * (seen**2).sum(-1, keepdims=True))
    return np.asarray(seen * focal_px + middle)


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
    """A clip's poses: an approach, a walk past or a hand-held stand, all within the ranges given.

    The sign stays inside the picture.
    """
    t = np.linspace(0, 1, frames) if frames > 1 else np.array([0.5])
    ease = t * t * (3 - 2 * t)
    near, far = np.log(distances_mm[0]), np.log(distances_mm[1])
    start, end = rng.uniform(near, far, 2)
    kind = rng.choice(3, p=[0.5, 0.25, 0.25])
    if kind == 0:  # approach
        start, end = (
            rng.uniform(near + 0.6 * (far - near), far),
            rng.uniform(near, near + 0.3 * (far - near)),
        )
    elif kind == 2:  # stand
        end = start + rng.normal(0, 0.03)
    reach = np.array([angles.yaw, angles.pitch, angles.roll])
    first, last = rng.uniform(-reach, reach), rng.uniform(-reach, reach)
    if kind == 2:
        last = first + rng.normal(0, 0.05, 3) * reach
    turns = np.clip(
        first + (last - first) * ease[:, None] + _tremor(rng, frames, 3) * (0.6, 0.6, 0.5),
        -reach,
        reach,
    )
    log_d = np.clip(start + (end - start) * ease + 0.004 * _tremor(rng, frames, 1)[:, 0], near, far)
    drift = rng.uniform(0.0, 1.0, (2, 2))
    wander = drift[0] + (drift[1] - drift[0]) * ease[:, None] * (0.5 if kind else 1.0)
    shake = _tremor(rng, frames, 2) * 1.5
    poses = []
    for i in range(frames):
        distance = float(np.exp(log_d[i]))
        margin = 0.62 * side_mm * focal_px / distance + 4
        low, high = (
            np.minimum(margin, np.array(size) / 2),
            np.maximum(np.array(size) - margin, np.array(size) / 2),
        )
        u, v = np.clip(low + wander[i] * (high - low) + shake[i], low, high)
        yaw, pitch, roll = turns[i].tolist()
        poses.append(SignPose(distance, yaw, pitch, roll, float(u), float(v)))
    return poses


def _tremor(rng: np.random.Generator, frames: int, count: int) -> F64:
    """(frames, count) a hand's tremor: a random walk pulled back to zero, about one unit in size."""
    steps = rng.normal(0, 1, (frames, count))
    out = np.zeros((frames, count))
    for i in range(frames):
        out[i] = (0.75 * out[i - 1] if i else 0) + 0.66 * steps[i]
    return out
