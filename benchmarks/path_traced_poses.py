"""Poses of the path-traced benchmark: where the camera stands before the sign, and in which light.

World: x right, y away from the viewer, z up, in meters; the sign stands at the origin of x and y and
faces -y.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
import numpy.typing as npt

from physadv.core.random_streams import numpy_generator

F64 = npt.NDArray[np.float64]

BINS = {"0.8-2 m": (0.8, 2.0), "2-4.5 m": (2.0, 4.5), "4.5-8 m": (4.5, 8.0)}
YAWS = (0.0, 25.0, 50.0)
LIGHTS = {"sun": 60_000.0, "grazing sun": 30_000.0, "overcast": 6_000.0, "dim": 60.0}
"""Kinds of light, with the illuminance in lux of a white card that faces the sky."""

SIGN_HEIGHT = 1.7
FOCAL, SIZE = 0.83, (1280, 720)
"""Focal length in picture widths, 62 degrees across, and picture size."""


@dataclass(frozen=True)
class Pose:
    """A camera before a sign.

    Attributes:
        number: Number of the pose, which seeds its scene.
        distance_m: Distance from the camera to the sign's center.
        yaw_deg: Angle between the camera's direction and the sign's normal, seen from above.
        light: Kind of light, of ``LIGHTS``.
        origin: Place (3,) of the camera.
        look_at: Point (3,) in the middle of the picture.
    """

    number: int
    distance_m: float
    yaw_deg: float
    light: str
    origin: tuple[float, ...]
    look_at: tuple[float, ...]

    @property
    def _axes(self) -> F64:
        """Axes (3, 3) of the camera in the world: right, down, forward."""
        forward = np.array(self.look_at) - np.array(self.origin)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    @property
    def rotation(self) -> F64:
        """Rotation (3, 3) from the sign (x right, y down, z away) to the camera (the same)."""
        sign_to_world = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
        return np.asarray(self._axes @ sign_to_world)

    @property
    def homography(self) -> F64:
        """Homography (3, 3) from mm on the sign, relative to its center, to pixels."""
        center = self._axes @ (np.array([0.0, 0.0, SIGN_HEIGHT]) - np.array(self.origin)) * 1000

        f, (width, height) = FOCAL * SIZE[0], SIZE
        camera = np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]])
        turned = self.rotation
        return np.asarray(camera @ np.column_stack([turned[:, 0], turned[:, 1], center]))

    @property
    def angles_deg(self) -> tuple[float, float, float]:
        """Yaw, pitch and roll of the sign in the camera: the twin turns it about x, then y, then z."""
        r = self.rotation
        return (
            float(np.degrees(np.arcsin(r[2, 0]))),
            float(np.degrees(np.arctan2(r[2, 1], r[2, 2]))),
            float(np.degrees(np.arctan2(r[1, 0], r[0, 0]))),
        )


def all_poses(sign_mm: float, each: int) -> list[Pose]:
    """Return ``each`` poses of every distance, yaw and light, before a sign ``sign_mm`` wide."""
    combinations = [
        (span, yaw, light)
        for _ in range(each)
        for span in BINS.values()
        for yaw in YAWS
        for light in LIGHTS
    ]
    return [
        _pose(number, *combination, sign_mm / 1000)
        for number, combination in enumerate(combinations)
    ]


def _pose(number: int, span: tuple[float, float], yaw: float, light: str, sign: float) -> Pose:
    """Place a camera at eye height so that the whole sign is somewhere in its picture."""
    rng = numpy_generator(0, "path traced", "pose", number)
    distance = float(np.exp(rng.uniform(*np.log(span))))
    turn = radians((yaw + float(rng.uniform(-5, 5))) * float(rng.choice([-1, 1])))
    rise = float(np.clip(rng.uniform(-0.3, 0.05), -0.2 * distance, 0.2 * distance))
    level = float(np.sqrt(distance**2 - rise**2))
    origin = np.array([sin(turn) * level, -cos(turn) * level, SIGN_HEIGHT + rise])

    # The free room beside the sign, in the plane that it stands in.
    room = distance * np.array([1, SIZE[1] / SIZE[0]]) / FOCAL - 1.15 * sign
    across, up = rng.uniform(-0.4, 0.4, 2) * np.maximum(room, 0)
    target = np.array([cos(turn) * across, sin(turn) * across, SIGN_HEIGHT + up])
    return Pose(
        number, distance, float(np.degrees(turn)), light, tuple(origin), tuple(target.tolist())
    )
