"""Localization of a known sign without markers, by ORB features of its drawing (Rublee et al. 2011)
and a homography."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.camera.frames import CameraFrame
from physadv.camera.localization.boxes import Pixels, resize_box
from physadv.camera.localization.location import Locator, PointMatches, Points, SignLocation
from physadv.core.errors import OptionError
from physadv.printing.aruco_markers import SIGN_SQUARE

FEWEST = 18
"""Matched features that must agree on one homography; walls and trees reach about ten by chance."""
REFERENCE_PX, LONGEST_PX = 320, 960
_RATIO, _REPROJECTION_PX = 0.8, 3.0


@dataclass(frozen=True)
class _ReferenceFeatures:
    points: Points
    descriptors: npt.NDArray[np.uint8]


def by_features(references: Sequence[Pixels], *, fewest: int = FEWEST) -> Locator:
    """Build a locator of a sign by square pictures of it; it returns the position, not the block.

    Args:
        references: Square pictures (h, w, 3) uint8 RGB of the sign: clean, with a blank sticker,
            with the patch.
        fewest: Least number of features that must agree.

    Returns:
        The locator.

    Raises:
        OptionError: A reference has too few features.
    """
    finder, matcher = cv2.ORB.create(1500), cv2.BFMatcher(cv2.NORM_HAMMING)
    features = [_reference_features(finder, reference, fewest) for reference in references]

    def locate(frame: CameraFrame) -> SignLocation | None:
        scale = min(1.0, LONGEST_PX / max(frame.image.shape[:2]))
        h, w = frame.image.shape[:2]
        small = (
            resize_box(frame.image, round(w * scale), round(h * scale))
            if scale < 1
            else frame.image
        )
        points, descriptors = finder.detectAndCompute(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), None)
        if descriptors is None or len(points) < fewest:
            return None

        pixels = (np.array([p.pt for p in points]) + 0.5) / scale
        candidates = [
            _match(matcher, each, pixels, descriptors, scale, fewest) for each in features
        ]
        located = [c for c in candidates if c is not None and c.matches is not None]
        return max(located, key=lambda c: len(c.matches.seen) if c.matches else 0, default=None)

    return locate


def _reference_features(finder: Any, reference: Pixels, fewest: int) -> _ReferenceFeatures:
    square = resize_box(reference, REFERENCE_PX, REFERENCE_PX)

    # A sign ends where its drawing ends, so features of its outline count too.
    framed = cv2.copyMakeBorder(square, 24, 24, 24, 24, cv2.BORDER_REPLICATE)
    points, descriptors = finder.detectAndCompute(cv2.cvtColor(framed, cv2.COLOR_RGB2GRAY), None)

    count = 0 if descriptors is None else len(points)
    if count < 2 * fewest:
        limit = f"{count} corners in its drawing, {2 * fewest} are needed"
        raise OptionError(
            "the sign's picture", limit, "Use --locate fiducials with the printed pages, or --box"
        )
    return _ReferenceFeatures(
        (np.array([p.pt for p in points]) + 0.5 - 24) / REFERENCE_PX, descriptors
    )


def _match(
    matcher: Any,
    reference: _ReferenceFeatures,
    pixels: Points,
    descriptors: npt.NDArray[np.uint8],
    scale: float,
    fewest: int,
) -> SignLocation | None:
    pairs = [p for p in matcher.knnMatch(reference.descriptors, descriptors, k=2) if len(p) == 2]
    matches = [a for a, b in pairs if a.distance < _RATIO * b.distance]
    if len(matches) < fewest:
        return None

    plane, image = (
        reference.points[[m.queryIdx for m in matches]],
        pixels[[m.trainIdx for m in matches]],
    )
    homography, inside = cv2.findHomography(
        plane, image, cv2.RANSAC, _REPROJECTION_PX / scale, maxIters=2000
    )
    if homography is None or int(inside.sum()) < fewest:
        return None

    corners = np.asarray(cv2.perspectiveTransform(SIGN_SQUARE[None], homography)[0], np.float64)
    if not _plausible(corners):
        return None
    agreed = inside.ravel().astype(bool)
    return SignLocation(
        corners, "features", matches=PointMatches(plane[agreed] - 0.5, image[agreed])
    )


def _plausible(corners: Points) -> bool:
    """Return whether the corners form a convex quadrilateral seen from the front, of some size, no
    side eight times another."""
    sides = np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1)
    turns = np.cross(
        np.pad(np.roll(corners, -1, 0) - corners, ((0, 0), (0, 1))),
        np.pad(np.roll(corners, -2, 0) - np.roll(corners, -1, 0), ((0, 0), (0, 1))),
    )[:, 2]
    return bool((turns > 0).all() and sides.min() > 16 and sides.max() < 8 * sides.min())
