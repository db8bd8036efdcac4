"""Lens of a camera: measured (a profile), given (a focal length), or assumed, with its origin
recorded."""

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
"""Assumed focal length over the picture's longer side: 67 degrees across, between laptop cameras
(60 to 80) and phones (65 to 75). Distances are then wrong by 15 % or more, angles by less."""
SAME_SHAPE = 0.01


@dataclass(frozen=True)
class CameraLens:
    """Lens model for pictures of one size; the origin of pixels is the outer corner of the top-left
    one.

    Attributes:
        focal: Focal lengths (x, y) in px.
        center: Principal point (x, y) in px.
        size: Width and height of the picture.
        known: Origin: "profile", "typed" or "assumed".
        distortion: k1, k2, p1, p2, k3 of Brown (1966); empty for none.
        name: Name of the profile.

    Example:
        >>> lens = lens_for(focal_px=950)((1280, 720))
        >>> lens.known, lens.center, lens.at((640, 360)).focal
        ('typed', (640.0, 360.0), (475.0, 475.0))
    """

    focal: tuple[float, float]
    center: tuple[float, float]
    size: tuple[int, int]
    known: str
    distortion: tuple[float, ...] = ()
    name: str = ""

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """Camera matrix (3, 3)."""
        (fx, fy), (cx, cy) = self.focal, self.center
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)

    @property
    def coefficients(self) -> npt.NDArray[np.float64] | None:
        """Distortion as OpenCV takes it; None without any."""
        return np.array(self.distortion, dtype=np.float64) if self.distortion else None

    def at(self, size: tuple[int, int]) -> CameraLens:
        """Return the same lens for pictures of another ``size`` (width, height) and the same shape.

        Raises:
            CaptureError: The pictures have another shape.
        """
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
        """Return plain values for the record of the run."""
        return {
            "known": self.known,
            "name": self.name,
            "focal_px": [round(v, 2) for v in self.focal],
            "size": list(self.size),
            "distortion": list(self.distortion),
        }


LensFor = Callable[[tuple[int, int]], CameraLens]
"""Function from the size (width, height) of pictures to their lens."""


def lens_for(profile: str | Path | None = None, focal_px: float | None = None) -> LensFor:
    """Return a function from picture size to lens: of a profile, else of a focal length, else
    assumed.

    Args:
        profile: File of a camera profile.
        focal_px: Focal length in px.

    Returns:
        The function.

    Raises:
        CalibrationError: The profile cannot be read.
    """
    if profile is not None:
        camera = read_camera_profile(profile)
        measured = CameraLens(
            (camera.fx, camera.fy),
            (camera.cx, camera.cy),
            (camera.width, camera.height),
            "profile",
            tuple(camera.distortion),
            Path(profile).name,
        )
        return measured.at

    return lambda size: _central(
        focal_px or ASSUMED * max(size), size, "typed" if focal_px else "assumed"
    )


def _central(focal: float, size: tuple[int, int], known: str) -> CameraLens:
    return CameraLens((focal, focal), (size[0] / 2, size[1] / 2), size, known)
