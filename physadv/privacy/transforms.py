"""Random, differentiable views of a photo on its way from the owner to a recognizer (EOT).

A view resizes, blurs, compresses as JPEG 4:2:0 or WebP, aligns by other landmarks and mirrors. The
codecs are the real ones; their gradient is passed straight through (Bengio et al., 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.image_io import Array
from physadv.core.opencv_pictures import decode_bgr
from physadv.models.faces.embedders import FaceEmbedder
from physadv.models.faces.face_detection import (
    TEMPLATES,
    DetectedFace,
    Points,
    Scheme,
    crop_faces,
    similarity_transform,
)
from physadv.privacy.visibility import gaussian_blur

Codec = Literal["none", "jpeg", "webp"]
Kind = Literal["any", "hard"]


@dataclass(frozen=True)
class ViewRanges:
    """Ranges that views are drawn from.

    Attributes:
        jitter: Standard deviation of the landmarks, as a share of the distance between the eyes.
        turn: Standard deviation of the rotation in degrees.
        shift: Standard deviation of the shift, as a share of the crop's side.
        zoom: Standard deviation of the logarithm of the scale.
        blur: Largest sigma in px of a 112 px face.
        resize: Smallest scale of the photo, in (0, 1].
        often: Probability of the blur, and of the resize, in [0, 1].
        jpeg: Lowest and highest JPEG quality.
        webp: Lowest and highest WebP quality.
    """

    jitter: float = 0.04
    turn: float = 3.0
    shift: float = 0.02
    zoom: float = 0.04
    blur: float = 1.5
    resize: float = 0.4
    often: float = 0.5
    jpeg: tuple[int, int] = (50, 95)
    webp: tuple[int, int] = (50, 95)


@dataclass(frozen=True)
class PhotoView:
    """One drawn view. ``noise`` (5, 2) moves the landmarks, in eye distances; ``turn`` is in
    radians."""

    noise: Points
    first_scheme: bool
    turn: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0
    flip: bool = False
    blur: float = 0.0
    resize: float = 1.0
    codec: Codec = "none"
    quality: int = 100


def clean_view(*, flip: bool = False, first_scheme: bool = True) -> PhotoView:
    """Return the view that leaves the photo as it is, mirrored with ``flip``, aligned by the
    first or last landmark scheme.

    ``first_scheme`` selects which of the two.
    """
    return PhotoView(np.zeros((5, 2)), first_scheme, flip=flip)


def draw_view(rng: np.random.Generator, ranges: ViewRanges, kind: Kind = "any") -> PhotoView:
    """Draw one view.

    Args:
        rng: Source of all randomness.
        ranges: Ranges to draw from.
        kind: "hard" shrinks and compresses, "any" draws everything.

    Returns:
        The view.
    """
    noise = rng.normal(0, ranges.jitter, (5, 2))
    turn = float(np.deg2rad(rng.normal(0, ranges.turn)))
    shift = (float(rng.normal(0, ranges.shift)), float(rng.normal(0, ranges.shift)))
    zoom = float(np.exp(rng.normal(0, ranges.zoom)))
    first, flip = bool(rng.random() < 0.5), bool(rng.random() < 0.5)

    blur = float(rng.uniform(0, ranges.blur)) if rng.random() < ranges.often else 0.0
    resize = float(rng.uniform(ranges.resize, 1)) if rng.random() < ranges.often else 1.0
    codec: Codec = ("none", "jpeg", "jpeg", "webp")[int(rng.integers(4))]
    if kind == "hard":
        blur, resize = 0.0, float(rng.uniform(ranges.resize, (1 + 2 * ranges.resize) / 3))
        codec = "jpeg" if rng.random() < 0.75 else "webp"

    low, high = ranges.webp if codec == "webp" else ranges.jpeg
    quality = int(rng.integers(low, high + 1))
    return PhotoView(noise, first, turn, shift, zoom, flip, blur, resize, codec, quality)


def crop_through_view(
    image: Tensor, face: DetectedFace, embedder: FaceEmbedder, view: PhotoView
) -> Tensor:
    """Return the aligned crop that an embedder receives of a photo through a view,
    differentiable.

    Args:
        image: Photo (1, 3, h, w) in [0, 1].
        face: Face in its pixels.
        embedder: Embedder that sets size and alignment.
        view: The view.

    Returns:
        Crop (1, 3, size, size).
    """
    return crop_arrival(embedder, transmit_photo(image, face, view), face, view)


def crop_arrival(
    embedder: FaceEmbedder, arrived: tuple[Tensor, float], face: DetectedFace, view: PhotoView
) -> Tensor:
    """Return the aligned crop of a photo that has passed through a view, so that several
    embedders share one passage.

    Args:
        embedder: Embedder that sets size and alignment.
        arrived: Photo and factor of its size, as :func:`transmit_photo` returns them.
        face: Face in pixels of the photo before.
        view: The view.

    Returns:
        Crop (1, 3, size, size).
    """
    seen, factor = arrived
    crop = crop_faces(seen, view_alignment(face, embedder, view, factor)[None], embedder.card.size)
    return crop.flip(3) if view.flip else crop


def transmit_photo(image: Tensor, face: DetectedFace, view: PhotoView) -> tuple[Tensor, float]:
    """Resize, blur and compress a photo by a view.

    Args:
        image: Photo (1, 3, h, w) in [0, 1].
        face: Face in its pixels; the blur is scaled by its size.
        view: The view.

    Returns:
        The photo as it arrives, and the factor of its size.
    """
    height, width = image.shape[-2:]
    if view.resize < 1:
        size = (max(16, round(height * view.resize)), max(16, round(width * view.resize)))
        image = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
    if view.blur > 0:
        side = float(np.linalg.norm(face.quad()[1] - face.quad()[0])) * view.resize
        image = gaussian_blur(image, view.blur * side / 112)
    if view.codec != "none":
        image = straight_through(image, view.codec, view.quality)
    return image, image.shape[-1] / width


def view_alignment(
    face: DetectedFace, embedder: FaceEmbedder, view: PhotoView, factor: float = 1.0
) -> Tensor:
    """Return the similarity from an embedder's crop to a photo, with the jitter of a view.

    Args:
        face: Face in pixels of the photo at its full size.
        embedder: Embedder that sets size and template.
        view: The view.
        factor: Scale of the photo.

    Returns:
        Similarity (2, 3).
    """
    size = embedder.card.size
    schemes: list[Scheme] = sorted(face.marks)
    scheme = schemes[0 if view.first_scheme else -1]

    marks = face.marks[scheme] * factor
    template = TEMPLATES[embedder.card.alignment, scheme]
    eyes = float(np.linalg.norm(marks.max(0) - marks.min(0))) / 1.8
    similarity = similarity_transform(template * size, marks + view.noise * eyes)

    # The view's own rotation, zoom and shift are applied about the middle of the crop.
    cos, sin = np.cos(view.turn) * view.zoom, np.sin(view.turn) * view.zoom
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = np.array([size / 2, size / 2])
    offset = middle - turn @ middle + np.array(view.shift) * size

    return torch.from_numpy(
        np.concatenate(
            [similarity[:, :2] @ turn, (similarity[:, :2] @ offset + similarity[:, 2])[:, None]], 1
        )
    )


def straight_through(image: Tensor, codec: Codec, quality: int) -> Tensor:
    """Pass an image through the real codec; the gradient passes as if it were the identity.

    Args:
        image: Image (1, 3, h, w) in [0, 1].
        codec: Codec to apply.
        quality: Quality of the codec, 1 to 100.

    Returns:
        Image of the same shape.
    """
    rgb = image[0].detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    decoded = (
        torch.from_numpy(apply_codec(rgb, codec, quality).copy()).permute(2, 0, 1)[None].to(image)
        / 255
    )
    return image + (decoded - image).detach()


def apply_codec(rgb: Array, codec: Codec, quality: int) -> Array:
    """Compress and decompress a picture.

    Args:
        rgb: Picture (h, w, 3) uint8 RGB.
        codec: "jpeg" (4:2:0), "webp" or "none".
        quality: Quality of the codec, 1 to 100.

    Returns:
        Picture of the same shape.
    """
    if codec == "none":
        return rgb
    suffix, flag = (
        (".jpg", cv2.IMWRITE_JPEG_QUALITY)
        if codec == "jpeg"
        else (".webp", cv2.IMWRITE_WEBP_QUALITY)
    )

    bgr = np.ascontiguousarray(rgb[..., ::-1])
    _, data = cv2.imencode(suffix, bgr, [flag, quality])
    decoded = decode_bgr(data.tobytes(), "picture")
    return np.ascontiguousarray(decoded[..., ::-1])
