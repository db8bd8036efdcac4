"""Locators of the sign in a frame: the twin's truth, printed markers, features, a fixed box, a
detector.

A locator maps a frame to a :class:`~physadv.camera.localization.location.SignLocation`, or to None
where the sign is not found. Every row records which method found it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import cv2
import numpy as np
import torch

from physadv.camera.frames import CameraFrame
from physadv.camera.localization.boxes import Box, Pixels, corners_of, overlaps_image
from physadv.camera.localization.by_features import FeatureLocator, by_features
from physadv.camera.localization.by_markers import by_fiducials
from physadv.camera.localization.location import Locator, SignLocation
from physadv.check.frame_verdict import CardedModel
from physadv.core.errors import CaptureError, OptionError
from physadv.core.image_io import to_tensor
from physadv.core.types import Detections

_ANGLES = ("distance_m", "yaw_deg", "pitch_deg", "roll_deg")
_FRAMES_WITHOUT_MARKERS, _FRAMES_BETWEEN_LOOKS = 30, 10
"""Frames of a clip without a marker after which markers are looked for in every tenth frame only,
while the sign is followed by its features."""
STRATEGIES = ("auto", "truth", "fiducials", "box", "features", "detector", "frame")
__all__ = [
    "STRATEGIES",
    "Locator",
    "SignLocation",
    "by_fiducials",
    "locator_for",
    "select_box",
]


def _by_truth(frame: CameraFrame) -> SignLocation | None:
    """Return the twin's corners, distance and angles; None for a frame that was filmed."""
    if frame.truth is None:
        return None
    corners = np.asarray(frame.truth["corners"], dtype=np.float64).reshape(-1, 2)
    distance, yaw, pitch, roll = (_number(frame.truth, k) for k in _ANGLES)
    return SignLocation(corners, "truth", frame.block, distance, yaw, pitch, roll, pose_by="truth")


def by_box(box: Box) -> Locator:
    """Build a locator that returns the same ``box`` (x0, y0, x1, y1) in every frame, for a fixed
    camera and sign.

    Raises:
        OptionError: The box has no area, or is not finite.
    """
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1 and isfinite(x1 - x0 + y1 - y0)):
        raise OptionError(
            f"box {x0:g},{y0:g},{x1:g},{y1:g}", "x0 < x1 and y0 < y1", "Give x0,y0,x1,y1 in pixels"
        )

    def locate(frame: CameraFrame) -> SignLocation | None:
        return SignLocation(corners_of(box), "box") if overlaps_image(box, frame.image) else None

    return locate


def by_detector(
    model: CardedModel, class_name: str = "stop sign", *, threshold: float = 0.25
) -> Locator:
    """Build a locator that returns the detector's best box of one class.

    Args:
        model: Detector with a card.
        class_name: Class of the sign.
        threshold: Least score of a box.

    Returns:
        The locator.

    Raises:
        ModelError: The model's card does not have the class.
    """
    class_index = model.card.class_index(class_name)

    def locate(frame: CameraFrame) -> SignLocation | None:
        with torch.no_grad():
            detections = model(to_tensor(frame.image)[None])
        if not isinstance(detections, Detections):
            raise OptionError("the locating model", "a detector is needed", "Use fastestdet")

        scores = detections.scores[0, :, class_index]
        best = int(scores.argmax())
        if float(scores[best]) < threshold:
            return None

        x0, y0, x1, y1 = (float(v) for v in detections.boxes[0, best])
        return (
            SignLocation(corners_of((x0, y0, x1, y1)), "detector") if x1 > x0 and y1 > y0 else None
        )

    return locate


def by_frame(frame: CameraFrame) -> SignLocation:
    """Locate the sign as anywhere in ``frame``, without corners."""
    return SignLocation(None, "frame", frame.block)


class _MarkersWhenNeeded:
    """Locator by markers that looks less often where a clip shows none and the sign is followed by
    its features anyway.

    Args:
        markers: Locator by markers.
        features: Locator by features, which is asked after this one.
    """

    def __init__(self, markers: Locator, features: FeatureLocator) -> None:
        self._markers, self._features = markers, features
        self._clip, self._frames_without = "", 0

    def __call__(self, frame: CameraFrame) -> SignLocation | None:
        """Locate the sign by its markers in ``frame``; None where there are none to be expected."""
        if frame.clip != self._clip:
            self._clip, self._frames_without = frame.clip, 0
        number = self._frames_without
        rests = number >= _FRAMES_WITHOUT_MARKERS and number % _FRAMES_BETWEEN_LOOKS
        location = None
        if not (rests and self._features.follows(frame.clip)):
            location = self._markers(frame)
        self._frames_without = 0 if location is not None else number + 1
        return location


def _first_of(locators: Sequence[Locator], by_hand: Sequence[Locator] = ()) -> Locator:
    """Build a locator that tries ``locators`` in order; a refusal ends the search, except for
    locators in ``by_hand``."""

    def locate(frame: CameraFrame) -> SignLocation | None:
        # A refusal (a sign too small to measure) is not overruled by a coarser method.
        refusal: SignLocation | None = None
        for locator in locators:
            location = locator(frame) if refusal is None or locator in by_hand else None
            if location is not None and location.refused is None:
                return location
            refusal = refusal or location
        return refusal

    return locate


def locator_for(
    strategy: str = "auto",
    *,
    box: Box | None = None,
    detector: CardedModel | None = None,
    detector_class: str = "stop sign",
    references: Mapping[str, Pixels] | None = None,
    sticker_alone: bool = False,
    whole_frame: bool = False,
) -> Locator:
    """Build the locator of a strategy.

    Args:
        strategy: One of ``STRATEGIES``. "auto" tries truth, markers, box, features and detector, of
            those that are available, in this order.
        box: Box (x0, y0, x1, y1) of the sign in pixels.
        detector: Detector with a card.
        detector_class: Class of the sign in the detector's card.
        references: Square pictures of the sign by block, for feature matching.
        sticker_alone: Whether they show the sticker without the object that carries it.
        whole_frame: Whether "auto" may end with the whole frame, which only detectors can use well.

    Returns:
        The locator.

    Raises:
        OptionError: The strategy is unknown, or needs a box, references or a detector that is
            missing.

    Example:
        >>> import numpy as np
        >>> from physadv.camera.frames import CameraFrame
        >>> frame = CameraFrame(np.zeros((48, 64, 3), np.uint8), 0.0, "clip", None, 0)
        >>> locator_for("box", box=(8, 8, 40, 40))(frame).box
        (8.0, 8.0, 40.0, 40.0)
    """
    if strategy not in STRATEGIES:
        raise OptionError(
            f"locate {strategy!r}", f"one of {', '.join(STRATEGIES)}", "Correct the name"
        )

    available: dict[str, Locator] = {
        "truth": _by_truth,
        "fiducials": by_fiducials(),
        "frame": by_frame,
    }
    if box is not None:
        available["box"] = by_box(box)
    if references:
        features = by_features(references, is_part=sticker_alone)
        available["features"] = features
        if strategy == "auto":
            available["fiducials"] = _MarkersWhenNeeded(available["fiducials"], features)
    if detector is not None:
        available["detector"] = by_detector(detector, detector_class)

    if strategy == "auto":
        order = (
            "truth",
            "fiducials",
            "box",
            "features",
            "detector",
            *(["frame"] if whole_frame else []),
        )
        return _first_of(
            [available[name] for name in order if name in available],
            [available["box"]] if box is not None else [],
        )

    if strategy not in available:
        remedy = "Give --box, the bundle, or the detector's weights"
        raise OptionError(f"locate {strategy!r}", f"no {strategy} was given", remedy)
    return available[strategy]


def select_box(
    frame: CameraFrame, *, title: str = "Draw a box around the sign, then press Enter"
) -> Box:
    """Let the user draw a box around the sign with the mouse.

    Args:
        frame: Frame to draw on.
        title: Title of the window.

    Returns:
        The box (x0, y0, x1, y1) in pixels.

    Raises:
        CaptureError: No window can be opened, or no box was drawn.
    """
    remedy = "Give the box as --box x0,y0,x1,y1"
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
