"""Result of a locator: corners of the sign, its block, its pose, and how they were obtained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from physadv.camera.frames import CameraFrame
from physadv.camera.localization.boxes import Box, Corners, box_of
from physadv.camera.localization.pose import CameraPose

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PointMatches:
    """Correspondences of points on the sign and in the picture.

    Attributes:
        plane: Points (n, 2) on the sign in sign widths from its center.
        seen: The same points (n, 2) in the picture, in px.
    """

    plane: Points
    seen: Points


@dataclass(frozen=True)
class SignLocation:
    """The sign in a frame.

    Attributes:
        corners: Corners (4, 2) of its bounding square in px, top-left first, clockwise; None where
            the sign is anywhere in the frame.
        by: Method that found it.
        block: "clean", "blank" or "patch", where the method tells it.
        distance_m: Distance from the lens to the sign's center.
        yaw_deg: Positive where the sign faces to the right of the camera.
        pitch_deg: Positive where the sign faces down.
        roll_deg: Positive clockwise.
        marker_px: Side of the smallest marker.
        refused: Reason why the location must not be used; None where it may.
        matches: Correspondences from which a pose is computed.
        poses: All poses that fit, the chosen one first.
        pose_by: Origin of distance and angles.
        note: Warning about this frame.
        run_markers: Markers of the page's run: place (0 to 3) -> marker id, where read.
        is_part: Whether the corners are those of the sticker, on an object of unknown extent.
        tracked: Whether it was followed from the frame before instead of searched for.
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
    run_markers: Mapping[int, int] = field(default_factory=dict)
    is_part: bool = False
    tracked: bool = False

    @property
    def box(self) -> Box | None:
        """Upright box around the corners; None without corners."""
        return None if self.corners is None else box_of(self.corners)


Locator = Callable[[CameraFrame], SignLocation | None]
