"""Where the sign is in a frame: the twin's truth, printed markers, a box by hand, or a detector's box.

A locator takes a frame and says where the sign is, or None. Which one found it is written into every row.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import cv2
import numpy as np
import torch

from physadv.capture.frames import Frame
from physadv.capture.geometry import Box, Corners, box_of, corners_of, overlaps, pose_from_corners
from physadv.capture.judge import CardedVictim
from physadv.core.errors import CaptureError, OptionError
from physadv.core.images import to_tensor
from physadv.core.types import Detections
from physadv.printing.fiducials import blocks_seen, corners_from_markers, dictionary

STRATEGIES = ("auto", "truth", "fiducials", "box", "detector", "frame")


@dataclass(frozen=True)
class Location:
    """The sign in a frame: TL, TR, BR, BL of its bounding square in px (None: somewhere in it), and who says so."""

    corners: Corners | None
    by: str
    block: str | None = None
    distance_m: float | None = None
    yaw_deg: float | None = None

    @property
    def box(self) -> Box | None:
        """The upright box around the corners."""
        return None if self.corners is None else box_of(self.corners)


Locator = Callable[[Frame], Location | None]


def by_truth(frame: Frame) -> Location | None:
    """The twin's corners, distance and yaw; None for a frame that was filmed."""
    if frame.truth is None:
        return None
    corners = np.asarray(frame.truth["corners"], dtype=np.float64).reshape(-1, 2)
    return Location(corners, "truth", frame.block, _number(frame.truth, "distance_m"), _number(frame.truth, "yaw_deg"))


def by_fiducials() -> Locator:
    """Printed markers around the sign: exact corners, and the block, for each page carries markers of its own."""
    settings = cv2.aruco.DetectorParameters()
    settings.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    detector = cv2.aruco.ArucoDetector(dictionary(), settings)

    def locate(frame: Frame) -> Location | None:
        found, ids, _ = detector.detectMarkers(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY))
        if ids is None:
            return None
        seen = blocks_seen(ids.ravel().tolist())
        block = frame.block if frame.block in seen else next(iter(seen), None)
        corners = None if block is None else corners_from_markers(ids.ravel().tolist(), found, block=block)
        # OpenCV counts from the centre of the first pixel, boxes from its outer corner
        return None if corners is None else Location(corners + 0.5, "fiducials", block)

    return locate


def by_box(box: Box) -> Locator:
    """The same box in every frame: a fixed camera and a fixed sign. Raises OptionError for a box without area."""
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise OptionError(f"box {x0:g},{y0:g},{x1:g},{y1:g}", "x0 < x1 and y0 < y1", "give x0,y0,x1,y1 in pixels")

    def locate(frame: Frame) -> Location | None:
        return Location(corners_of(box), "box") if overlaps(box, frame.image) else None

    return locate


def by_detector(victim: CardedVictim, class_name: str = "stop sign", *, threshold: float = 0.25) -> Locator:
    """The detector's best box of ``class_name`` with at least ``threshold``. Raises VictimError for another class."""
    wanted = victim.card.class_index(class_name)

    def locate(frame: Frame) -> Location | None:
        with torch.no_grad():
            found = victim(to_tensor(frame.image)[None])
        if not isinstance(found, Detections):
            raise OptionError("the locating victim", "a detector is needed", "use fastestdet")
        scores = found.scores[0, :, wanted]
        best = int(scores.argmax())
        if float(scores[best]) < threshold:
            return None
        x0, y0, x1, y1 = (float(v) for v in found.boxes[0, best])
        return Location(corners_of((x0, y0, x1, y1)), "detector") if x1 > x0 and y1 > y0 else None

    return locate


def by_frame(frame: Frame) -> Location:
    """The sign is somewhere in the frame; no more is known."""
    return Location(None, "frame", frame.block)


def first_of(locators: Sequence[Locator]) -> Locator:
    """The first locator that finds the sign speaks."""

    def locate(frame: Frame) -> Location | None:
        return next((place for locator in locators if (place := locator(frame)) is not None), None)

    return locate


def locator_for(
    strategy: str = "auto",
    *,
    box: Box | None = None,
    detector: CardedVictim | None = None,
    detector_class: str = "stop sign",
    whole_frame: bool = False,
) -> Locator:
    """The locator of a strategy; "auto" tries truth, fiducials, the box and the detector (as given), in this order.

    ``whole_frame`` lets "auto" end with "somewhere in the frame", which only detectors can use well. Raises
    OptionError for an unknown strategy, and for "box" and "detector" without one.
    """
    if strategy not in STRATEGIES:
        raise OptionError(f"locate {strategy!r}", f"one of {', '.join(STRATEGIES)}", "correct it")
    made: dict[str, Locator] = {"truth": by_truth, "fiducials": by_fiducials(), "frame": by_frame}
    if box is not None:
        made["box"] = by_box(box)
    if detector is not None:
        made["detector"] = by_detector(detector, detector_class)
    if strategy == "auto":
        order = ("truth", "fiducials", "box", "detector", *(["frame"] if whole_frame else []))
        return first_of([made[name] for name in order if name in made])
    if strategy not in made:
        raise OptionError(f"locate {strategy!r}", f"no {strategy} was given", "give --box or the detector's weights")
    return made[strategy]


def with_pose(locator: Locator, *, sign_width_mm: float, focal_px: float) -> Locator:
    """Add distance and yaw, from the sign's true width and the lens, where exact corners are known and no truth is."""

    def locate(frame: Frame) -> Location | None:
        place = locator(frame)
        if place is None or place.corners is None or place.distance_m is not None:
            return place
        size = (frame.image.shape[1], frame.image.shape[0])
        distance, yaw = pose_from_corners(place.corners, sign_width_mm, focal_px, size)
        if not isfinite(distance):
            return place
        # a box has no perspective in it: its corners tell how far, not how turned
        return replace(place, distance_m=distance, yaw_deg=yaw if place.by == "fiducials" else None)

    return locate


def select_box(frame: Frame, *, title: str = "Draw a box around the sign, then press Enter") -> Box:
    """Ask for a box with the mouse. Raises CaptureError where no window can be opened or nothing was drawn."""
    remedy = "give the box as --box x0,y0,x1,y1"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise CaptureError("--select", "no display to draw on", remedy)
    try:
        x, y, w, h = cv2.selectROI(title, cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR), showCrosshair=False)
        cv2.destroyWindow(title)
    except cv2.error as error:
        raise CaptureError("--select", "this OpenCV opens no windows", remedy) from error
    if w < 1 or h < 1:
        raise CaptureError("--select", "no box was drawn", remedy)
    return float(x), float(y), float(x + w), float(y + h)


def _number(row: Any, key: str) -> float | None:
    value = row.get(key)
    return float(value) if value is not None else None
