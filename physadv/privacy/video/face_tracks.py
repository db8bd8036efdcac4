"""Faces followed through the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from physadv.core.boxes import box_iou
from physadv.models.faces.face_detection import Box, DetectedFace, Points, Scheme

_SAME = 0.3
"""Least overlap of two boxes of one face, as intersection over union."""
_GAP_S = 0.5
"""Longest time in s for which a face may go unseen and still be followed."""
_AROUND_S = 0.15
"""Time in s for which a face is taken to stay before it is first and after it is last found."""
_SMOOTH_S = 0.05
"""Sigma in s of the landmarks' smoothing: what a detector wavers by must not shake the change."""


@dataclass
class FaceTrack:
    """One face through a video.

    Attributes:
        found: The face as it was found, by the number of the frame.
        faces: The face in every frame of the track, smoothed; filled by :func:`follow_faces`.
    """

    found: dict[int, DetectedFace] = field(default_factory=dict)
    faces: dict[int, DetectedFace] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """Number of the last frame in which the face was found."""
        return max(self.found)


def follow_faces(
    found: Sequence[Sequence[DetectedFace]],
    fps: float,
    size: tuple[int, int],
) -> list[FaceTrack]:
    """Join the faces of each frame to tracks, fill gaps, and smooth them over time.

    Args:
        found: Faces of each frame.
        fps: Frames a second.
        size: Height and width of a frame in px.

    Returns:
        The tracks in the order in which they begin.

    Example:
        >>> follow_faces([[], []], 30.0, (480, 640))
        []
    """
    tracks: list[FaceTrack] = []
    reach = max(1, round(_GAP_S * fps))
    for number, faces in enumerate(found):
        open_tracks = [t for t in tracks if number - t.last <= reach]
        pairs = sorted(
            (
                (overlap(t.found[t.last].box(*size), face.box(*size)), i, j)
                for i, t in enumerate(open_tracks)
                for j, face in enumerate(faces)
            ),
            reverse=True,
        )
        taken: tuple[set[int], set[int]] = (set(), set())
        for share, i, j in pairs:
            if share >= _SAME and i not in taken[0] and j not in taken[1]:
                open_tracks[i].found[number] = faces[j]
                taken[0].add(i)
                taken[1].add(j)
        tracks += [FaceTrack({number: f}) for j, f in enumerate(faces) if j not in taken[1]]

    for track in tracks:
        track.faces = _smoothed(track.found, fps, len(found))
    return tracks


def overlap(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes (x0, y0, x1, y1) in px, in [0, 1].

    Example:
        >>> round(overlap((0, 0, 2, 2), (1, 0, 3, 2)), 3)
        0.333
    """
    one, other = (torch.tensor([box], dtype=torch.float64) for box in (first, second))
    return float(box_iou(one, other))


def _smoothed(found: dict[int, DetectedFace], fps: float, frames: int) -> dict[int, DetectedFace]:
    """The face in every frame from shortly before it is first found to shortly after it is last."""
    known = sorted(found)
    around = max(1, round(_AROUND_S * fps))
    numbers = np.arange(max(0, known[0] - around), min(frames, known[-1] + around + 1))
    schemes: list[Scheme] = [
        scheme for scheme in found[known[0]].marks if all(scheme in found[k].marks for k in known)
    ] or [next(iter(found[known[0]].marks))]

    marks = {scheme: _smooth_marks(found, scheme, numbers, fps) for scheme in schemes}
    score = max(face.score for face in found.values())
    return {
        int(number): DetectedFace(score, {s: rows[k] for s, rows in marks.items()})
        for k, number in enumerate(numbers)
    }


def _smooth_marks(
    found: dict[int, DetectedFace], scheme: Scheme, numbers: npt.NDArray[np.int_], fps: float
) -> Points:
    """Landmarks (n, 5, 2) of one scheme in the frames ``numbers``: interpolated, then smoothed."""
    known = [k for k in sorted(found) if scheme in found[k].marks]
    table = np.array([found[k].marks[scheme].ravel() for k in known])
    rows = np.stack([np.interp(numbers, known, column) for column in table.T], 1)

    sigma = _SMOOTH_S * fps
    reach = max(1, round(3 * sigma))
    window = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * max(sigma, 1e-3) ** 2))
    padded = np.pad(rows, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    if len(rows) <= reach:
        return rows.reshape(-1, 5, 2)
    window /= window.sum()
    smooth = np.stack([np.convolve(column, window, mode="valid") for column in padded.T], 1)
    return np.asarray(smooth.reshape(-1, 5, 2))
