"""Material of the sign recipe: images of signs, outlines to cut them out by, and photos without
signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from physadv.core.image_io import Array, list_images, read_rgb
from physadv.core.sign_artwork import octagon_mm, sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.datasets.base import ImageDataset
from physadv.eot.scenes.sign_faces import FaceDesign

CANVAS_PX = 80
PHOTO_PX = 512
FLAT_SHARE, SYNTHETIC = 0.12, 80

_Outline = Sequence[tuple[float, float]]
_UP: _Outline = [(0, -1), (1, 0.85), (-1, 0.85)]
_DOWN: _Outline = [(-1, -0.85), (1, -0.85), (0, 1)]
_DIAMOND: _Outline = [(0, -1), (1, 0), (0, 1), (-1, 0)]
_OCTAGON: _Outline = [(x - 1, y - 1) for x, y in octagon_mm(2.0)]
_ROUND: _Outline = [(cos(2 * pi * i / 40), sin(2 * pi * i / 40)) for i in range(40)]


@dataclass(frozen=True)
class SignCanvases:
    """Images of signs: ``images`` (n, 3, px, px) uint8, ``boxes`` (n, 4) of the sign in [-1, 1],
    ``labels`` (n,)."""

    images: Tensor
    boxes: Tensor
    labels: Tensor


def sign_canvases(dataset: ImageDataset, px: int = CANVAS_PX) -> SignCanvases:
    """Return every image of ``dataset``, which must have boxes, resized to ``px`` square."""
    images, boxes = (
        np.empty((len(dataset), px, px, 3), np.uint8),
        np.empty((len(dataset), 4), np.float32),
    )

    for i in range(len(dataset)):
        picture, _ = dataset[i]
        height, width = picture.shape[:2]
        box = (0, 0, width, height) if dataset.boxes is None else dataset.boxes[i]
        images[i] = _resize_canvas(picture, px)
        boxes[i] = np.asarray(box) / (width, height, width, height) * 2 - 1

    return SignCanvases(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(boxes),
        torch.from_numpy(dataset.labels.copy()),
    )


def _resize_canvas(picture: Array, px: int) -> Array:
    """Return ``picture`` resized to px by px: area average where it shrinks, bilinear where it
    grows."""
    shrinks = max(picture.shape[:2]) > px
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (px, px), interpolation=how), np.uint8)


def sign_outline(label: int) -> _Outline:
    """Return the outline of GTSRB class ``label`` in its box, in [-1, 1]: triangle, diamond,
    octagon or disc."""
    if label == 14:
        return _OCTAGON
    if label == 11 or 18 <= label <= 31:
        return _UP
    return {12: _DIAMOND, 13: _DOWN}.get(label, _ROUND)


def sign_outline_mask(points: _Outline, box: Sequence[float], px: int = CANVAS_PX) -> Array:
    """Return the mask of an outline with a soft edge.

    Args:
        points: Outline in [-1, 1] of its box.
        box: (x0, y0, x1, y1) of the box on the canvas, in [-1, 1].
        px: Side of the canvas.

    Returns:
        Mask (px, px) uint8, 255 inside.
    """
    x0, y0, x1, y1 = box
    corners = [
        ((x0 + x1) / 2 + u * (x1 - x0) / 2, (y0 + y1) / 2 + v * (y1 - y0) / 2) for u, v in points
    ]
    mask = np.zeros((px, px), np.uint8)
    scaled = (((np.asarray(corners) + 1) / 2 * px - 0.5) * 16).round().astype(np.int32)
    cv2.fillPoly(mask, [scaled], 255, lineType=cv2.LINE_AA, shift=4)
    return mask


def draw_stop_sign(px: int = CANVAS_PX) -> tuple[Tensor, Tensor]:
    """Return the drawn stop face of ``px`` pixels: (3, px, px) uint8, and its outline (px, px)
    uint8."""
    return _as_tensors(_resize_canvas(sign_face("stop", 4 * px).rgba, px))


def draw_design(
    design: FaceDesign, rng: np.random.Generator, px: int = CANVAS_PX
) -> tuple[Tensor, Tensor]:
    """Return ``design`` drawn anew from ``rng`` in ``px`` pixels: (3, px, px) uint8, and its
    outline (px, px) uint8."""
    return _as_tensors(_resize_canvas(design.draw(rng, 2 * px).rgba, px))


def _as_tensors(rgba: Array) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rgba[..., :3].copy()).permute(2, 0, 1), torch.from_numpy(
        rgba[..., 3].copy()
    )


class BackgroundPhotos:
    """Photos without signs and random crops of them, with flat and synthetic images among them.

    Args:
        pictures: Photos (h, w, 3) uint8.
        seed: Seed of the synthetic images.
    """

    def __init__(self, pictures: Sequence[Array], seed: int = 0) -> None:
        synthetic = [synthetic_background(seed, "train", i) for i in range(SYNTHETIC)]
        self.pictures = [*pictures, *synthetic]
        photos = max(len(pictures), 1)
        self._odds = np.r_[
            np.full(len(pictures), 0.85 / photos), np.full(SYNTHETIC, 0.15 / SYNTHETIC)
        ]
        self._odds /= self._odds.sum()

    def crop(self, rng: np.random.Generator, px: int) -> Array:
        """Return one random, nearly square crop (px, px, 3) uint8 of a photo, from 20 px a side up,
        or a flat ramp.

        ``rng`` decides; ``px`` is the side of the result.
        """
        if rng.random() < FLAT_SHARE:
            return _ramp(rng, px)

        picture = self.pictures[int(rng.choice(len(self.pictures), p=self._odds))]
        height, width = picture.shape[:2]
        side = np.exp(rng.uniform(np.log(20), np.log(min(height, width))))
        h, w = (
            int(np.clip(side * np.exp(rng.uniform(-0.2, 0.2)), 8, limit))
            for limit in (height, width)
        )

        y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        return _resize_canvas(np.ascontiguousarray(picture[y : y + h, x : x + w]), px)


def load_photos(folders: Sequence[Path], limit_px: int = PHOTO_PX) -> list[Array]:
    """Return all photos of ``folders`` as (h, w, 3) uint8, the longer side at most ``limit_px``.

    Raises:
        ImageError: A folder holds no images or one that cannot be read.
    """
    pictures = []

    for folder in folders:
        for path in list_images(folder):
            picture = read_rgb(path)
            scale = limit_px / max(picture.shape[:2])
            if scale < 1:
                size = (
                    max(1, round(picture.shape[1] * scale)),
                    max(1, round(picture.shape[0] * scale)),
                )
                picture = np.asarray(
                    cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8
                )
            pictures.append(picture)

    return pictures


def _ramp(rng: np.random.Generator, px: int) -> Array:
    """Return a flat color or a smooth ramp of two, with a little grain, as sky, wall and road
    have."""
    a, b = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    t = np.linspace(0, rng.uniform(0, 1), px)
    plane = a + (b - a) * (t[:, None, None] if rng.random() < 0.5 else t[None, :, None])
    grain = rng.normal(0, rng.uniform(0, 8), (px, px, 1))
    return np.asarray((np.broadcast_to(plane, (px, px, 3)) + grain).clip(0, 255), np.uint8)
