"""Where the sign is in a frame: the twin's truth, printed markers, its features, a box by hand or a
detector's.

A locator takes a frame and says where the sign is, or None. Which one found it is written into
every row.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from physadv.camera.frames import CameraFrame
from physadv.camera.localization.boxes import Box, Pixels, corners_of, overlaps_image
from physadv.camera.localization.by_features import by_features
from physadv.camera.localization.by_markers import by_fiducials
from physadv.camera.localization.location import Locator, SignLocation
from physadv.check.frame_verdict import CardedModel
from physadv.core.errors import CaptureError, OptionError
from physadv.core.image_io import to_tensor
from physadv.core.types import Detections

_ANGLES = ("distance_m", "yaw_deg", "pitch_deg", "roll_deg")
STRATEGIES = ("auto", "truth", "fiducials", "box", "features", "detector", "frame")
__all__ = [
    "STRATEGIES",
    "Locator",
    "SignLocation",
    "by_fiducials",
    "first_of",
    "locator_for",
    "select_box",
]


def by_truth(frame: CameraFrame) -> SignLocation | None:
    """The twin's corners, distance and yaw; None for a frame that was filmed."""
    if frame.truth is None:
        return None
    corners = np.asarray(frame.truth["corners"], dtype=np.float64).reshape(-1, 2)
    distance, yaw, pitch, roll = (_number(frame.truth, k) for k in _ANGLES)
    return SignLocation(corners, "truth", frame.block, distance, yaw, pitch, roll, pose_by="truth")


def by_box(box: Box) -> Locator:
    """The same box in every frame: a fixed camera and a fixed sign. Raises OptionError for a box
    without area."""
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise OptionError(
            f"box {x0:g},{y0:g},{x1:g},{y1:g}", "x0 < x1 and y0 < y1", "give x0,y0,x1,y1 in pixels"
        )

    def locate(frame: CameraFrame) -> SignLocation | None:
        return SignLocation(corners_of(box), "box") if overlaps_image(box, frame.image) else None

    return locate


def by_detector(
    model: CardedModel, class_name: str = "stop sign", *, threshold: float = 0.25
) -> Locator:
    """The detector's best box of ``class_name`` with at least ``threshold``. Raises ModelError for
    another class."""
    wanted = model.card.class_index(class_name)

    def locate(frame: CameraFrame) -> SignLocation | None:
        with torch.no_grad():
            found = model(to_tensor(frame.image)[None])
        if not isinstance(found, Detections):
            raise OptionError("the locating victim", "a detector is needed", "use fastestdet")
        scores = found.scores[0, :, wanted]
        best = int(scores.argmax())
        if float(scores[best]) < threshold:
            return None
        x0, y0, x1, y1 = (float(v) for v in found.boxes[0, best])
        return (
            SignLocation(corners_of((x0, y0, x1, y1)), "detector") if x1 > x0 and y1 > y0 else None
        )

    return locate


def by_frame(frame: CameraFrame) -> SignLocation:
    """The sign is somewhere in the frame; no more is known."""
    return SignLocation(None, "frame", frame.block)


def first_of(locators: Sequence[Locator], by_hand: Sequence[Locator] = ()) -> Locator:
    """The first locator that finds a sign speaks; a refusal stands, unless a box was drawn by hand."""

    def locate(frame: CameraFrame) -> SignLocation | None:
        refusal: SignLocation | None = None
        for locator in locators:
            place = locator(frame) if refusal is None or locator in by_hand else None
            if place is not None and place.refused is None:
                return place
            refusal = refusal or place
        return refusal

    return locate


def locator_for(
    strategy: str = "auto",
    *,
    box: Box | None = None,
    detector: CardedModel | None = None,
    detector_class: str = "stop sign",
    references: Sequence[Pixels] = (),
    whole_frame: bool = False,
) -> Locator:
    """The locator of a strategy.

    "auto" tries truth, fiducials, the box, the sign's features and the detector, of those that are
    given, in this order; ``references`` are square pictures of the sign for its features.
    ``whole_frame`` lets "auto" end with "somewhere in the frame", which only detectors can use
    well. Raises OptionError for an unknown strategy, and for "box", "features" and "detector"
    without one.
    """
    if strategy not in STRATEGIES:
        raise OptionError(f"locate {strategy!r}", f"one of {', '.join(STRATEGIES)}", "correct it")
    made: dict[str, Locator] = {"truth": by_truth, "fiducials": by_fiducials(), "frame": by_frame}
    if box is not None:
        made["box"] = by_box(box)
    if len(references):
        made["features"] = by_features(references)
    if detector is not None:
        made["detector"] = by_detector(detector, detector_class)
    if strategy == "auto":
        order = (
            "truth",
            "fiducials",
            "box",
            "features",
            "detector",
            *(["frame"] if whole_frame else []),
        )
        return first_of(
            [made[name] for name in order if name in made], [made["box"]] if box is not None else []
        )
    if strategy not in made:
        remedy = "give --box, the bundle, or the detector's weights"
        raise OptionError(f"locate {strategy!r}", f"no {strategy} was given", remedy)
    return made[strategy]


def select_box(
    frame: CameraFrame, *, title: str = "Draw a box around the sign, then press Enter"
) -> Box:
    """Ask for a box with the mouse. Raises CaptureError where no window can be opened or nothing
    was drawn."""
    remedy = "give the box as --box x0,y0,x1,y1"
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise CaptureError("--select", "no display to draw on", remedy)
    try:
        x, y, w, h = cv2.selectROI(
            title, cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR), showCrosshair=False
        )
        cv2.destroyWindow(title)
    except cv2.error as error:
        raise CaptureError("--select", "this OpenCV opens no windows", remedy) from error
    if w < 1 or h < 1:
        raise CaptureError("--select", "no box was drawn", remedy)
    return float(x), float(y), float(x + w), float(y + h)


def _number(row: Any, key: str) -> float | None:
    value = row.get(key)
    return float(value) if value is not None else None
