"""What is known of the camera's lens: a measured profile, a typed focal length, or an assumed one,
which is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from physadv.core.errors import CaptureError
from physadv.eot.profiles import read_camera_profile

ASSUMED = 0.75
"""Focal length over the picture's longer side where nothing is known: 67 degrees across, between
laptops' cameras (60 to 80) and telephones' (65 to 75). Distances are then 15 % wrong or more;
angles suffer less."""
SAME_SHAPE = 0.01


@dataclass(frozen=True)
class CameraLens:
    """Focal lengths (x, y) and principal point in px of a picture of ``size`` (width, height).

    The origin is the outer corner of the top-left pixel. ``distortion`` is (k1, k2, p1, p2, k3) of
    Brown (1966); ``known`` tells how: profile, typed or assumed.
    """

    focal: tuple[float, float]
    center: tuple[float, float]
    size: tuple[int, int]
    known: str
    distortion: tuple[float, ...] = ()
    name: str = ""

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """(3, 3) camera matrix."""
        (fx, fy), (cx, cy) = self.focal, self.center
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)

    @property
    def coefficients(self) -> npt.NDArray[np.float64] | None:
        """The distortion as OpenCV takes it."""
        return np.array(self.distortion, dtype=np.float64) if self.distortion else None

    def at(self, size: tuple[int, int]) -> CameraLens:
        """The same lens for pictures of another size and the same shape; CaptureError for another
        shape."""
        if size == self.size:
            return self
        across, down = size[0] / self.size[0], size[1] / self.size[1]
        if abs(across / down - 1) > SAME_SHAPE:
            raise CaptureError(
                f"{self.name or 'the lens'} of {self.size[0]}x{self.size[1]}",
                f"frames are {size[0]}x{size[1]}, which is another part of the sensor",
                f"Film with --camera-size {self.size[0]}x{self.size[1]}, or calibrate at the size "
                "you film with",
            )
        (fx, fy), (cx, cy) = self.focal, self.center
        return replace(
            self, focal=(fx * across, fy * down), center=(cx * across, cy * down), size=size
        )

    def as_dict(self) -> dict[str, Any]:
        """For the run's record."""
        return {
            "known": self.known,
            "name": self.name,
            "focal_px": [round(v, 2) for v in self.focal],
            "size": list(self.size),
            "distortion": list(self.distortion),
        }


LensFor = Callable[[tuple[int, int]], CameraLens]
"""The lens for pictures of a size (width, height)."""


def lens_for(profile: str | Path | None = None, focal_px: float | None = None) -> LensFor:
    """The lens of a camera profile, else of a typed focal length, else an assumed one.

    Raises CalibrationError for a profile that cannot be read.
    """
    if profile is not None:
        read = read_camera_profile(profile)
        measured = CameraLens(
            (read.fx, read.fy),
            (read.cx, read.cy),
            (read.width, read.height),
            "profile",
            tuple(read.distortion),
            Path(profile).name,
        )
        return measured.at
    return lambda size: _central(
        focal_px or ASSUMED * max(size), size, "typed" if focal_px else "assumed"
    )


def _central(focal: float, size: tuple[int, int], known: str) -> CameraLens:
    return CameraLens((focal, focal), (size[0] / 2, size[1] / 2), size, known)
