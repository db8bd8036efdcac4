"""Second look at faces: drops walls, fabric and bodies, and finds small and tilted faces.

The slim network sees each candidate again, upright, at two sizes and mirrored. A face is found in
nearly all of these views; what only resembled one by chance is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from physadv.core.image_io import Array, to_tensor
from physadv.models.faces.face_detection import (
    DetectedFace,
    FaceFinder,
    Points,
    SlimFinder,
    complete_faces,
    crop_faces,
    is_same_face,
    merge_faces,
)

LOWEST_SCORE, _LOWEST_FURTHER = 0.5, 0.6
"""Mean scores of the views from which a candidate is a face: of the first pass, of further ones."""
_SIDES = (64, 110)
"""Sides in px at which a candidate's square is seen."""
_MARGIN = 1.0
_TILTS = (-35.0, 35.0)
"""Degrees by which the photo is turned to find tilted faces."""
_LONGEST, _LARGER = 1024, 2048
"""Longer side in px of the photo turned, and of the pass that finds small faces."""
_FAINT = 0.05


@dataclass(frozen=True)
class FaceSearch:
    """Result of a search.

    Attributes:
        faces: Faces, best first of each pass.
        doubtful: Candidates of the first pass that the second look did not confirm.
    """

    faces: list[DetectedFace]
    doubtful: list[DetectedFace]


def search_faces(rgb: Array, finders: Sequence[FaceFinder]) -> FaceSearch:
    """Find the faces of a photo, each confirmed by two detectors or by a second look.

    Without the slim network among ``finders`` there is no second look, and nothing is doubtful.

    Args:
        rgb: Photo (h, w, 3) uint8 RGB, upright.
        finders: Face detectors.

    Returns:
        The faces and the doubtful candidates.

    Example:
        >>> import numpy as np
        >>> search_faces(np.zeros((40, 60, 3), np.uint8), [lambda rgb: []]).faces
        []
    """
    candidates = merge_faces(rgb, finders)
    slim = next((f for f in finders if isinstance(f, SlimFinder)), None)
    if slim is None:
        return FaceSearch(complete_faces(candidates, rgb, finders), [])

    faces: list[DetectedFace] = []
    doubtful: list[DetectedFace] = []
    for face in candidates:
        agreed = len(face.marks) > 1
        confirmed = agreed or second_look_score(rgb, face, slim) >= LOWEST_SCORE
        (faces if confirmed else doubtful).append(face)

    for face in _further_candidates(rgb, slim):
        if any(is_same_face(face, known) for known in faces):
            continue
        if second_look_score(rgb, face, slim) >= _LOWEST_FURTHER:
            faces.append(face)
            doubtful = [each for each in doubtful if not is_same_face(face, each)]
    return FaceSearch(complete_faces(faces, rgb, finders), complete_faces(doubtful, rgb, finders))


def second_look_score(rgb: Array, face: DetectedFace, slim: SlimFinder) -> float:
    """Return the mean score in [0, 1] at which ``slim`` finds ``face`` of the photo ``rgb`` (h, w,
    3) uint8 again: upright, at two sizes, plain and mirrored; 0 for a view without it."""
    x0, y0, x1, y1 = face.box(*rgb.shape[:2], margin=2 * _MARGIN)
    if min(x1 - x0, y1 - y0) < 2:
        return 0.0
    quad = face.quad()
    # Shrunk as bytes first: the surroundings of a large face would take gigabytes as floats.
    factor = min(1.0, 2 * max(_SIDES) / max(1.0, float(np.linalg.norm(quad[1] - quad[0]))))
    size = (max(1, round((x1 - x0) * factor)), max(1, round((y1 - y0) * factor)))
    around = rgb[y0:y1, x0:x1]
    small = around if factor == 1 else cv2.resize(around, size, interpolation=cv2.INTER_AREA)
    region = to_tensor(np.asarray(small, np.uint8))[None]
    own = face.moved(1.0, -x0, -y0).moved(factor, 0, 0)
    width = 1 + 2 * _MARGIN

    scores = []
    for side in _SIDES:
        pixels_wide = round(width * side)
        to_photo = own.to_photo("arcface", side)
        shift = to_photo[:, 2] - to_photo[:, :2] @ np.full(2, _MARGIN * side)
        widened = torch.from_numpy(np.concatenate([to_photo[:, :2], shift[:, None]], 1))
        view = crop_faces(region, widened[None], pixels_wide)[0]
        pixels = np.asarray(
            view.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy(), np.uint8
        )
        for seen in (pixels, np.ascontiguousarray(pixels[:, ::-1])):
            scores.append(_score_in_the_middle(seen, side, slim))
    return float(np.mean(scores))


def _score_in_the_middle(view: Array, side: int, slim: SlimFinder) -> float:
    """Highest score of a face of about ``side`` px in the middle of a square ``view``."""
    middle = np.full(2, view.shape[0] / 2)
    best = 0.0
    for found in slim.candidates(view, _FAINT):
        quad = found.quad()
        off = float(np.linalg.norm(quad.mean(0) - middle))
        scale = float(np.linalg.norm(quad[1] - quad[0])) / side
        if off < 0.4 * side and 0.6 < scale < 1.7:
            best = max(best, found.score)
    return best


def _further_candidates(rgb: Array, slim: SlimFinder) -> list[DetectedFace]:
    """Candidates at a larger size of large photos, and in the photo turned to both sides."""
    found: list[DetectedFace] = []
    if max(rgb.shape[:2]) > _LONGEST:
        found += slim.candidates(rgb, longest=_LARGER)
    for degrees in _TILTS:
        turned, to_turned = _turned(rgb, degrees)
        back = cv2.invertAffineTransform(to_turned)
        for face in slim.candidates(turned):
            marks = face.marks["arc5"] @ back[:, :2].T + back[:, 2]
            found.append(DetectedFace(face.score, {"arc5": marks}))
    return found


def _turned(rgb: Array, degrees: float) -> tuple[Array, Points]:
    """The photo at no more than 1024 px, turned about its middle, and the affine map (2, 3)."""
    height, width = rgb.shape[:2]
    scale = min(1.0, _LONGEST / max(height, width))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = (round(height * sin + width * cos), round(height * cos + width * sin))
    matrix[:, 2] += np.array(size) / 2 - np.array([width, height]) / 2

    if scale < 1:  # shrinking by area first, as a warp alone would alias
        small = cv2.resize(
            rgb, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA
        )
        inner = matrix.copy()
        inner[:, :2] = matrix[:, :2] / scale
    else:
        small, inner = rgb, matrix
    turned = cv2.warpAffine(small, inner, size, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8), np.asarray(matrix, np.float64)
