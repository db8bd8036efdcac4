"""Localization of a known sign without markers, by its drawing.

It is searched for by ORB features (Rublee et al. 2011) that agree on a rotation (Jegou, Douze and
Schmid 2008) and a homography, aligned with its drawing, and then followed from frame to frame by
optical flow, which costs a third of a search. Every frame is measured
against the drawing itself, so errors do not add up, and a sign that is covered, blurred or replaced
is lost and searched for again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.camera.frames import CameraFrame
from physadv.camera.localization.boxes import Pixels, resize_box
from physadv.camera.localization.location import PointMatches, Points, SignLocation
from physadv.camera.localization.sign_drawing import (
    AlignedSign,
    Gray,
    SignDrawing,
    map_points,
    track_points,
)
from physadv.core.errors import OptionError
from physadv.printing.aruco_markers import SIGN_SQUARE

FEWEST = 18
"""Matched features that must agree on one homography; walls and trees reach about ten by chance."""
REFERENCE_PX, LONGEST_PX = 320, 960
_RATIO, _REPROJECTION_PX = 0.8, 3.0
_TURN_DEG = 45.0
"""Farthest from the common rotation that a sign's feature may be turned: a tilt shears them."""
_FLOW_PX = 640
"""Longest side of the picture in which the motion between two frames is measured."""
_FLOW_WINDOW, _FLOW_LEVELS, _FLOW_POINTS = 21, 4, 8
"""Window and pyramid of that measurement, and the fewest points that must agree on the motion."""


@dataclass(frozen=True)
class _Features:
    """Features of a picture: places (n, 2), rotations (n,) in degrees, and descriptors (n, 32)."""

    points: Points
    angles: npt.NDArray[np.float64]
    descriptors: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class _Reference:
    """One picture of the sign: its drawing, and the features by which it is found."""

    drawing: SignDrawing
    features: _Features


@dataclass(frozen=True)
class _Followed:
    """The sign in the newest frame, from which it is followed into the next."""

    clip: str
    block: str
    small: Gray
    homography: Points
    seen: Points


class FeatureLocator:
    """Locator of a sign by its drawing; it finds the position, not the block.

    Args:
        references: Square pictures (s, s, 3) uint8 RGB of the sign by block: "clean", "blank" with
            a blank sticker, "patch". A frame whose block is named is compared with that picture
            alone; one whose block is likely, with the others as well, should that fail.
        fewest: Fewest features that must agree on a search.
        is_part: Whether the pictures show the sticker alone, on an object of unknown extent.

    Raises:
        OptionError: A reference has too few features.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        >>> picture = cv2.resize(noise, (320, 320), interpolation=cv2.INTER_CUBIC)
        >>> street = np.full((400, 500, 3), 128, np.uint8)
        >>> street[30:350, 60:380] = picture
        >>> locate = FeatureLocator({"clean": picture})
        >>> locate(CameraFrame(street, 0.0, "a", "clean", 0)).corners.round(1).tolist()
        [[60.0, 30.0], [380.0, 30.0], [380.0, 350.0], [60.0, 350.0]]
    """

    def __init__(
        self, references: Mapping[str, Pixels], *, fewest: int = FEWEST, is_part: bool = False
    ) -> None:
        self._finder = cv2.ORB.create(1500)
        self._fewest, self._is_part = fewest, is_part
        self._references = {
            block: _reference(self._finder, picture, fewest)
            for block, picture in references.items()
        }
        self._followed: _Followed | None = None

    def follows(self, clip: str) -> bool:
        """Return whether the sign was found in the frame before of ``clip``."""
        return self._followed is not None and self._followed.clip == clip

    def __call__(self, frame: CameraFrame) -> SignLocation | None:
        """Locate the sign in ``frame``, the next one of its clip or the first of another."""
        gray = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), np.uint8)
        small = _shrunk(gray, _FLOW_PX)
        before = self._followed if self.follows(frame.clip) else None
        self._followed = None

        found = None if before is None else self._follow(frame, gray, small, before)
        if found is not None:
            return replace(found, tracked=True, is_part=self._is_part)
        found = self._search(frame, gray, small)
        return None if found is None else replace(found, is_part=self._is_part)

    def _follow(
        self, frame: CameraFrame, gray: Gray, small: Gray, before: _Followed
    ) -> SignLocation | None:
        """Locate the sign near where it was in the frame before; None where that is not certain."""
        predicted = _moved(before, small, len(small) / len(gray))
        if predicted is None:
            return None
        block = frame.block or frame.likely_block or before.block
        return self._aligned(frame.clip, block, gray, small, predicted)

    def _search(self, frame: CameraFrame, gray: Gray, small: Gray) -> SignLocation | None:
        """Locate the sign anywhere in ``frame``."""
        reduced = _shrunk(gray, LONGEST_PX)
        scale = len(reduced) / len(gray)
        features = _features(self._finder, reduced)
        if len(features) < self._fewest:
            return None

        for blocks in self._order(frame):
            found = {
                block: match
                for block in blocks
                if (match := self._match(self._references[block].features, features, scale))
            }
            if found:
                block = max(found, key=lambda b: len(found[b].plane))
                sign = found[block]
                aligned = self._aligned(frame.clip, block, gray, small, sign.homography)
                return aligned or _location(sign)
        return None

    def _order(self, frame: CameraFrame) -> list[list[str]]:
        """Return the blocks whose pictures may be in ``frame``, in groups to try one by one."""
        known = list(self._references)
        if frame.block is not None:
            return [[frame.block]] if frame.block in self._references else []
        if frame.likely_block in self._references:
            return [[frame.likely_block], [b for b in known if b != frame.likely_block]]
        return [known]

    def _aligned(
        self, clip: str, block: str, gray: Gray, small: Gray, homography: Points
    ) -> SignLocation | None:
        """Align the sign near ``homography`` with its drawing, to be followed from there."""
        reference = self._references.get(block)
        sign = None if reference is None else reference.drawing.align(gray, homography)
        if sign is None or not _plausible(map_points(sign.homography, SIGN_SQUARE)):
            return None
        self._followed = _Followed(clip, block, small, sign.homography, sign.seen)
        return _location(sign)

    def _match(self, drawn: _Features, filmed: _Features, scale: float) -> AlignedSign | None:
        """Return the sign where enough features ``drawn`` and ``filmed`` agree on one homography.

        ``scale`` is that of the picture with the filmed features.
        """
        distances, nearest = cv2.batchDistance(
            drawn.descriptors, filmed.descriptors, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=2
        )
        matched = np.flatnonzero(distances[:, 0] < _RATIO * distances[:, 1])
        there = nearest[matched, 0]
        # Most frames without the sign end here, well before the search for a homography.
        alike = _turned_alike(filmed.angles[there] - drawn.angles[matched])
        if alike.sum() < self._fewest:
            return None

        plane, seen = drawn.points[matched[alike]], filmed.points[there[alike]] / scale
        homography, inside = cv2.findHomography(
            plane, seen, cv2.RANSAC, _REPROJECTION_PX / scale, maxIters=2000
        )
        if homography is None or int(inside.sum()) < self._fewest:
            return None
        if not _plausible(map_points(homography, SIGN_SQUARE)):
            return None
        agreed = inside.ravel().astype(bool)
        return AlignedSign(np.asarray(homography, np.float64), plane[agreed], seen[agreed])


def by_features(
    references: Mapping[str, Pixels] | Sequence[Pixels],
    *,
    fewest: int = FEWEST,
    is_part: bool = False,
) -> FeatureLocator:
    """Build a :class:`FeatureLocator` of ``references``; a sequence of pictures has no blocks.

    Raises:
        OptionError: A reference has too few features.
    """
    named = references if isinstance(references, Mapping) else dict(enumerate(references))
    return FeatureLocator({str(k): v for k, v in named.items()}, fewest=fewest, is_part=is_part)


def _location(sign: AlignedSign) -> SignLocation:
    corners = map_points(sign.homography, SIGN_SQUARE)
    return SignLocation(corners, "features", matches=PointMatches(sign.plane - 0.5, sign.seen))


def _moved(before: _Followed, small: Gray, scale: float) -> Points | None:
    """Return the homography of the sign after its motion since the frame ``before``.

    Args:
        before: The sign in the frame before.
        small: The new frame, ``scale`` times its size.
        scale: Scale of both small frames.
    """
    if before.small.shape != small.shape:
        return None
    start = before.seen * scale
    there, found = track_points(
        before.small, small, start, window=_FLOW_WINDOW, levels=_FLOW_LEVELS
    )
    if found.sum() < _FLOW_POINTS:
        return None
    motion, agree = cv2.estimateAffine2D(
        start[found], there[found], method=cv2.RANSAC, ransacReprojThreshold=2.0
    )
    if motion is None or agree.sum() < _FLOW_POINTS:
        return None
    motion[:, 2] /= scale
    return np.asarray(np.vstack([motion, [0, 0, 1]]) @ before.homography, np.float64)


def _shrunk(gray: Gray, longest_px: int) -> Gray:
    """Return ``gray`` with a longest side of at most ``longest_px``."""
    height, width = gray.shape
    scale = min(1.0, longest_px / max(height, width))
    if scale == 1:
        return gray
    size = round(width * scale), round(height * scale)
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)


def _features(finder: Any, gray: Gray) -> _Features:
    """Return the ORB features of ``gray``, in px from its outer corner."""
    found, descriptors = finder.detectAndCompute(gray, None)
    if descriptors is None:
        return _Features(np.empty((0, 2)), np.empty(0), np.empty((0, 32), np.uint8))
    # OpenCV scales the index of a pixel in a pyramid's level, not its center.
    scales = 1.2 ** np.array([p.octave for p in found], np.float64)[:, None]
    points = np.array([p.pt for p in found], np.float64) + 0.5 * scales
    return _Features(points, np.array([p.angle for p in found], np.float64), descriptors)


def _turned_alike(turns_deg: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which of the rotations ``turns_deg`` (n,) are near the one that most are near."""
    if len(turns_deg) == 0:
        return np.empty(0, np.bool_)
    apart = np.abs((turns_deg[:, None] - turns_deg + 180) % 360 - 180)
    near = apart <= _TURN_DEG
    return np.asarray(near[near.sum(1).argmax()], np.bool_)


def _reference(finder: Any, picture: Pixels, fewest: int) -> _Reference:
    square = resize_box(picture, REFERENCE_PX, REFERENCE_PX)

    # A sign ends where its drawing ends, so features of its outline count too.
    framed = cv2.copyMakeBorder(square, 24, 24, 24, 24, cv2.BORDER_REPLICATE)
    features = _features(finder, np.asarray(cv2.cvtColor(framed, cv2.COLOR_RGB2GRAY), np.uint8))
    if len(features) < 2 * fewest:
        limit = f"{len(features)} corners in its drawing, {2 * fewest} are needed"
        raise OptionError(
            "the sign's picture", limit, "Use --locate fiducials with the printed pages, or --box"
        )
    on_sign = replace(features, points=(features.points - 24) / REFERENCE_PX)
    return _Reference(SignDrawing(picture), on_sign)


def _plausible(corners: Points) -> bool:
    """Return whether the corners form a convex quadrilateral seen from the front, of some size, no
    side eight times another."""
    sides = np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1)
    turns = np.cross(
        np.pad(np.roll(corners, -1, 0) - corners, ((0, 0), (0, 1))),
        np.pad(np.roll(corners, -2, 0) - np.roll(corners, -1, 0), ((0, 0), (0, 1))),
    )[:, 2]
    return bool((turns > 0).all() and sides.min() > 16 and sides.max() < 8 * sides.min())
