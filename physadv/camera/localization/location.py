"""What a locator says of a frame: where the sign is, who says so, and what else follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from physadv.camera.frames import CameraFrame
from physadv.camera.localization.boxes import Box, Corners, box_of
from physadv.camera.localization.pose import CameraPose

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PointMatches:
    """Points known on the sign, ``plane`` (n, 2) in sign widths from its center, and where they are
    ``seen`` in px."""

    plane: Points
    seen: Points


@dataclass(frozen=True)
class SignLocation:
    """The sign in a frame: TL, TR, BR, BL of its bounding square in px (None: somewhere in it), and
    who says so.

    ``refused`` says why a sign that was seen must not be used. ``poses`` are all that fit what was
    seen, ``pose_by`` what distance and angles rest on.
    """

    corners: Corners | None
    by: str
    block: str | None = None
    distance_m: float | None = None
    yaw_deg: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None
    marker_px: float | None = None
    refused: str | None = None
    matches: PointMatches | None = None
    poses: tuple[CameraPose, ...] = ()
    pose_by: str | None = None
    note: str | None = None

    @property
    def box(self) -> Box | None:
        """The upright box around the corners."""
        return None if self.corners is None else box_of(self.corners)


Locator = Callable[[CameraFrame], SignLocation | None]
