"""Scenes with a sign: drawn before a background, or standing in a photo.

Scenes carry no gradient, so OpenCV makes them on the CPU; torch warps only the patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from physadv.core.image_io import Array
from physadv.core.sign_artwork import SignFace, sign_face
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.sign_faces import FaceDesign
from physadv.eot.scenes.sign_framing import (
    Float,
    FrameShape,
    Matrix,
    SignFraming,
    draw_between,
    draw_frame_shape,
    draw_framing,
    draw_pose,
    fit_into_crop,
    fit_into_frame,
    for_opencv,
    square_corners,
    to_pixels,
    yaw_of,
)
from physadv.eot.scenes.sign_post import draw_post
from physadv.models.resizing import PADDING, Fit

_WHITE_PERCENTILE = 92
"""Percentile of a sign's light that its white has."""
_PLAIN_WHITE = 0.9
"""Linear light of the plain face's white."""
_FACE_PX = (64, 128, 256, 512)
"""Sides at which a design is drawn: few, since what they share is kept."""
_SUPERSAMPLING = 2
"""Samples a pixel and axis at which a sign is laid over its background."""


@dataclass(frozen=True)
class PhotoSign:
    """One sign in one photo."""

    image: Array
    """(h, w, 3) uint8 photo."""
    corners: Float
    """(4, 2) corners in px of the sign's bounding square, clockwise from the upper left."""
    group: str
    """Name of the photo; signs of one photo are never split between training and test."""


@dataclass(frozen=True)
class SceneSize:
    """Size of the square pictures that a model is given, and whether each is a whole frame."""

    size: int
    """Side in px."""
    whole_frame: bool
    """True for a detector's frame, False for a classifier's crop of the sign."""
    fit: Fit = "stretch"
    """How a detector fits a frame into the picture: "stretch", "letterbox", "letterbox-corner"."""


class SceneSource(Protocol):
    """Anything that draws scenes from a random stream."""

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw ``count`` scenes of the size ``view`` within ``ranges``; ``rng`` alone decides."""
        ...


class DrawnScenes:
    """Sign faces, drawn or given as pictures with alpha, in perspective before backgrounds.

    Args:
        faces: Faces to choose from; a design is drawn anew in every scene.
        backgrounds: (h, w, 3) uint8 pictures to choose from.
        width_mm: Width of the sign.

    Example:
        >>> from physadv.core.random_streams import numpy_generator
        >>> from physadv.core.synthetic_backgrounds import synthetic_background
        >>> source = DrawnScenes([sign_face()], [synthetic_background(0, 0)], width_mm=457)
        >>> view = SceneSize(64, whole_frame=False)
        >>> scenes = source.sample(2, view, EotRanges(), numpy_generator(0, "scenes"))
        >>> tuple(scenes.images.shape), scenes.groups
        ((2, 3, 64, 64), ('stop', 'stop'))
    """

    def __init__(
        self,
        faces: Sequence[SignFace | FaceDesign],
        backgrounds: Sequence[Array],
        width_mm: float,
    ) -> None:
        self.faces, self.backgrounds, self.width_mm = tuple(faces), backgrounds, width_mm

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw ``count`` scenes of the size ``view`` within ``ranges`` from the stream ``rng``."""
        images, matrices, gains, enlargements = [], [], [], []
        groups, shapes, distances, yaws = [], [], [], []
        for _ in range(count):
            camera = draw_framing(rng, ranges, self.width_mm, whole_frame=view.whole_frame)
            face = self.faces[int(rng.integers(len(self.faces)))]
            to_unit = np.diag([1 / self.width_mm, 1 / self.width_mm, 1.0])
            pose = draw_pose(rng, ranges, 1.0, camera) @ to_unit
            corners = to_pixels(pose, square_corners(self.width_mm))
            shape = draw_frame_shape(rng, ranges, view.size, view.fit) if view.whole_frame else None
            fit, enlargement = _fit(corners, view, ranges, rng, camera=camera, shape=shape)
            matrix = fit @ pose

            background = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
            canvas = _random_crop(background, view, rng, shape)
            drawn = _drawn_once(face, to_pixels(matrix, square_corners(self.width_mm)), rng)
            reflectance = _draw_reflectance(rng)
            if shape is not None and ranges.acts("post_probability"):
                canvas = _on_post(canvas, drawn, matrix, self.width_mm, reflectance, ranges, rng)
            images.append(_composite(canvas, drawn, matrix, self.width_mm, reflectance))
            gains.append(_patch_gain(face, drawn, reflectance, rng))
            matrices.append(matrix)
            enlargements.append(enlargement)
            groups.append(face.name)
            shapes.append(shape)
            distances.append(pose[2, 2] * self.width_mm / 1000)
            yaws.append(yaw_of(pose))

        gain = torch.from_numpy(np.stack(gains))
        batch = batch_of(images, matrices, gain, torch.zeros_like(gain), enlargements, groups)
        return replace(
            batch,
            frame_box=_frame_boxes(shapes),
            distance_m=torch.tensor(distances, dtype=torch.float32),
            yaw_deg=torch.tensor(yaws, dtype=torch.float32),
        )


class PhotoScenes:
    """Signs in photos, taken again by a virtual camera that zooms, shifts and turns a little.

    Args:
        signs: Signs to choose from.
        width_mm: Width of every sign.
    """

    def __init__(self, signs: Sequence[PhotoSign], width_mm: float) -> None:
        self.signs, self.width_mm = tuple(signs), width_mm
        self._light = [relight_gains(sign) for sign in self.signs]
        self._pyramids: list[list[Array]] = [_pyramid(sign.image) for sign in self.signs]

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw ``count`` scenes of the size ``view`` within ``ranges`` from the stream ``rng``."""
        picks = [int(rng.integers(len(self.signs))) for _ in range(count)]
        images, matrices, enlargements, shapes, distances = [], [], [], [], []
        for pick in picks:
            camera = draw_framing(rng, ranges, self.width_mm, whole_frame=view.whole_frame)
            shape = draw_frame_shape(rng, ranges, view.size, view.fit) if view.whole_frame else None
            image, matrix, enlargement, widths = self._take(pick, view, ranges, rng, camera, shape)
            shapes.append(shape)
            images.append(image)
            matrices.append(matrix)
            enlargements.append(enlargement)
            distances.append(widths * self.width_mm / 1000)

        gain = torch.stack([self._light[pick][0] for pick in picks])
        lift = torch.stack([self._light[pick][1] for pick in picks])
        groups = [self.signs[pick].group for pick in picks]
        batch = batch_of(images, matrices, gain, lift, enlargements, groups)
        return replace(
            batch,
            frame_box=_frame_boxes(shapes),
            distance_m=torch.tensor(distances, dtype=torch.float32),
            yaw_deg=torch.full((count,), torch.nan),  # the photo's own view is not known
        )

    def _take(
        self,
        pick: int,
        view: SceneSize,
        ranges: EotRanges,
        rng: np.random.Generator,
        camera: SignFraming | None,
        shape: FrameShape | None,
    ) -> tuple[Float, Matrix, float, float]:
        """Return a picture, the homography of the sign's plane, the enlargement and the distance in
        widths of the sign."""
        sign = self.signs[pick]
        center, side = sign.corners.mean(0), float(np.ptp(sign.corners, axis=0).max())
        to_unit = np.array(
            [[1 / side, 0, -center[0] / side], [0, 1 / side, -center[1] / side], [0, 0, 1]]
        )
        # A photo has a viewpoint of its own: only 0.4 of the turn is added to it.
        pose = draw_pose(rng, ranges, 0.4, camera)
        turn = pose @ to_unit

        height, width = sign.image.shape[:2]
        edges = to_pixels(turn, np.array([[0, 0], [width, 0], [width, height], [0, height]]))
        seen = to_pixels(turn, sign.corners)
        fit, enlargement = _fit(seen, view, ranges, rng, edges, camera, shape)
        to_view = fit @ turn
        shrink = side / max(np.ptp(to_pixels(to_view, sign.corners), axis=0).max(), 1)
        image = self._warp(pick, to_view, shrink, view.size)

        plane = square_corners(self.width_mm).astype(np.float32)
        in_photo = cv2.getPerspectiveTransform(plane, sign.corners.astype(np.float32))
        # Enlarging a small photo cannot add detail, so a patch on it must not be sharper than the
        # photo.
        blur = max(enlargement, 1 / max(float(shrink), 1e-3))
        return image, np.asarray(to_view @ in_photo, np.float64), blur, float(pose[2, 2])

    def _warp(self, pick: int, to_view: Matrix, shrink: float, size_px: int) -> Float:
        """Warp the level of a photo's pyramid that is just finer than the picture."""
        pyramid = self._pyramids[pick]
        photo = pyramid[int(np.clip(np.floor(np.log2(max(shrink, 1))), 0, len(pyramid) - 1))]
        height, width = self.signs[pick].image.shape[:2]
        rescale = np.diag([width / photo.shape[1], height / photo.shape[0], 1.0])
        image = cv2.warpPerspective(
            photo,
            for_opencv(to_view @ rescale),
            (size_px, size_px),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(image, np.float32) / 255


class MixedScenes:
    """Scenes of several sources in equal shares: a few photos beside any number of drawn signs.

    Args:
        sources: Sources to draw from, in order; the first ones give one more where the count does
            not divide.
    """

    def __init__(self, sources: Sequence[SceneSource]) -> None:
        self.sources = tuple(sources)

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw ``count`` scenes of the size ``view`` within ``ranges`` from the stream ``rng``."""
        each, rest = divmod(count, len(self.sources))
        batches = [
            source.sample(each + (number < rest), view, ranges, rng)
            for number, source in enumerate(self.sources)
            if each + (number < rest)
        ]

        tensors: dict[str, Any] = {
            f.name: torch.cat([getattr(batch, f.name) for batch in batches])
            for f in fields(SceneBatch)
            if f.name not in {"groups", "marks", "others", "frame_box", "distance_m", "yaw_deg"}
        }
        for name in ("frame_box", "distance_m", "yaw_deg"):
            known = [value for b in batches if (value := getattr(b, name)) is not None]
            tensors[name] = torch.cat(known) if len(known) == len(batches) else None
        groups = tuple(group for batch in batches for group in batch.groups)
        return SceneBatch(**tensors, groups=groups)


def relight_gains(sign: PhotoSign) -> tuple[Tensor, Tensor]:
    """Fit the light on the photographed ``sign`` by percentiles, as in REAP (Hingun et al. 2023).

    Returns:
        Gain and lift, (3,) each, in linear light: the gain carries the white and red of a drawn
        stop sign to those of the photo, the lift its darkest parts.
    """
    target = np.array([[0, 0], [64, 0], [64, 64], [0, 64]], np.float32)
    rectified = cv2.warpPerspective(
        sign.image,
        cv2.getPerspectiveTransform(sign.corners.astype(np.float32), target),
        (64, 64),
        flags=cv2.INTER_AREA,
    )
    face = sign_face("stop", 64).rgba
    inside = face[..., 3] > 250
    photographed, drawn = _linear(rectified[inside]), _linear(face[..., :3][inside])

    bright, bright_drawn = (
        np.percentile(x, _WHITE_PERCENTILE, axis=0) for x in (photographed, drawn)
    )
    dark, dark_drawn = (np.percentile(x, 8, axis=0) for x in (photographed, drawn))
    gain = np.clip(bright / bright_drawn, 0.08, 1.6)
    lift = np.clip(dark - gain * dark_drawn, 0.0, 0.15)
    return torch.from_numpy(np.clip(gain - lift, 0.05, 1.6)).float(), torch.from_numpy(lift).float()


def batch_of(
    images: list[Float],
    matrices: list[Matrix],
    gain: Tensor,
    lift: Tensor,
    enlargements: list[float],
    groups: list[str],
) -> SceneBatch:
    """Return a batch of scenes as tensors.

    Args:
        images: (h, w, 3) picture of each scene in [0, 1].
        matrices: (3, 3) homography of each scene from mm to px.
        gain: (b, 3) factor in linear light that relights a patch.
        lift: (b, 3) veil in linear light.
        enlargements: Px of the picture per px of the camera, of each scene.
        groups: Name of the photo or drawing of each scene.
    """
    stacked = torch.from_numpy(np.stack(images).astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    homography = torch.from_numpy(np.stack([m / m[2, 2] for m in matrices])).float()
    return SceneBatch(stacked, homography, gain, lift, torch.tensor(enlargements), tuple(groups))


def _fit(
    corners: Matrix,
    view: SceneSize,
    ranges: EotRanges,
    rng: np.random.Generator,
    edges: Matrix | None = None,
    camera: SignFraming | None = None,
    shape: FrameShape | None = None,
) -> tuple[Matrix, float]:
    """Return the map that brings a sign into the view, a frame of ``shape`` or a crop, and its
    enlargement."""
    if shape is not None:
        return fit_into_frame(corners, shape, ranges, rng, edges=edges, camera=camera), 1.0
    return fit_into_crop(corners, view.size, ranges, rng, camera)


def _linear(values: Array) -> Float:
    """Linear light of sRGB-encoded uint8 values, looked up: all 256 are decoded once."""
    return _LINEAR_OF_BYTE[values]


def _decode(encoded: Float) -> Float:
    return np.asarray(
        np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4),
        np.float32,
    )


_LINEAR_OF_BYTE = _decode(np.arange(256, dtype=np.float32) / np.float32(255))


def _encode(linear: Float) -> Float:
    dark = linear <= 0.0031308
    return np.asarray(
        np.where(dark, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055),
        np.float32,
    )


def _pyramid(image: Array) -> list[Array]:
    """Return the image and up to five levels of half the size, none under 32 px."""
    levels = [image]
    while min(levels[-1].shape[:2]) >= 64 and len(levels) < 6:
        height, width = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(half, np.uint8))
    return levels


def _frame_boxes(shapes: Sequence[FrameShape | None]) -> Tensor | None:
    """Return where the frames lie in their pictures (b, 4); None where each is all of it."""
    padded = [shape.box for shape in shapes if shape is not None and shape.fit != "stretch"]
    return torch.tensor(padded, dtype=torch.float32) if padded else None


def _random_crop(
    image: Array, view: SceneSize, rng: np.random.Generator, shape: FrameShape | None
) -> Float:
    """Cut a background at random: most of it for a frame of ``shape``, any square for a crop."""
    height, width = image.shape[:2]
    aspect = 1.0 if shape is None else shape.aspect
    most = min(height, width / aspect)
    share = rng.uniform(0.15, 0.8) if shape is None else rng.uniform(0.75, 1.0)
    rows = max(int(most * share), min(24, int(most)))
    columns = min(round(rows * aspect), width)
    y, x = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))

    x0, y0, x1, y1 = (0, 0, view.size, view.size) if shape is None else shape.box
    method = cv2.INTER_AREA if rows > y1 - y0 else cv2.INTER_LINEAR
    resized = cv2.resize(
        image[y : y + rows, x : x + columns], (x1 - x0, y1 - y0), interpolation=method
    )
    if resized.shape[:2] == (view.size, view.size):
        return np.asarray(resized, np.float32) / 255
    canvas = np.full((view.size, view.size, 3), PADDING, np.float32)
    canvas[y0:y1, x0:x1] = np.asarray(resized, np.float32) / 255
    return canvas


def _draw_reflectance(rng: np.random.Generator) -> Float:
    """Factor (3,) of a sign's light, which varies from scene to scene, as prints and paints do."""
    return (rng.uniform(0.75, 1.1) * rng.uniform(0.93, 1.07, 3)).astype(np.float32)


def _patch_gain(
    face: SignFace | FaceDesign, drawn: SignFace, reflectance: Float, rng: np.random.Generator
) -> Float:
    """Factor (3,) that relights a patch: 1 on a face that is always the same.

    A design's white tells how much light there is as well as how worn it is, so that the light on a
    patch is drawn between that of a white as bright as the sign's, as photos are relit, and full.
    """
    if isinstance(face, SignFace):
        return np.ones(3, np.float32)
    step = max(1, len(drawn.rgba) // 48)
    few = drawn.rgba[::step, ::step]
    white = np.percentile(few[few[..., 3] > 250][:, :3], _WHITE_PERCENTILE, axis=0)
    ratio = _linear(np.asarray(white, np.uint8)) * reflectance / _PLAIN_WHITE
    share = np.float32(rng.spawn(1)[0].uniform())
    return np.asarray(1 + share * (np.clip(ratio, 0.08, 1.6) - 1), np.float32)


def _on_post(
    canvas: Float,
    face: SignFace,
    matrix: Matrix,
    width_mm: float,
    reflectance: Float,
    ranges: EotRanges,
    rng: np.random.Generator,
) -> Float:
    """Return a frame with the post of a sign, in as many scenes as ``post_probability`` says.

    The draws come from a stream spawned from ``rng``, so that they shift no other draw.
    """
    own = rng.spawn(1)[0]
    if own.uniform() >= draw_between(own, ranges.post_probability):
        return canvas
    height_mm = width_mm * face.rgba.shape[0] / face.rgba.shape[1]
    return draw_post(canvas, matrix, height_mm, reflectance, own)


def _composite(
    canvas: Float, face: SignFace, matrix: Matrix, width_mm: float, reflectance: Float
) -> Float:
    """Lay a sign's face over the canvas, supersampled and blended in linear light."""
    corners = to_pixels(matrix, square_corners(width_mm))
    picture = _no_finer_than(face.rgba, 2 * np.ptp(corners, axis=0).max() * _SUPERSAMPLING)
    alpha = picture[..., 3:].astype(np.float32) / 255
    light = _linear(picture[..., :3]) * alpha * reflectance

    height_mm = width_mm * face.rgba.shape[0] / face.rgba.shape[1]
    to_mm = np.array(
        [
            [width_mm / picture.shape[1], 0, -width_mm / 2],
            [0, height_mm / picture.shape[0], -height_mm / 2],
            [0, 0, 1],
        ]
    )
    x0, y0, x1, y1 = _affected_box(corners, canvas.shape[0], height_mm / width_mm)
    to_box = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1.0]])
    supersample = np.diag([_SUPERSAMPLING, _SUPERSAMPLING, 1.0])
    width, height = x1 - x0, y1 - y0
    fine = cv2.warpPerspective(
        np.concatenate([light, alpha], 2),
        for_opencv(supersample @ to_box @ matrix @ to_mm),
        (width * _SUPERSAMPLING, height * _SUPERSAMPLING),
    )
    layer = np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA), np.float32)

    behind = np.rint(canvas[y0:y1, x0:x1] * 255).astype(np.uint8)  # a canvas holds 8-bit values
    mixed = layer[..., :3] + (1 - layer[..., 3:]) * _linear(behind)
    result = canvas.copy()
    result[y0:y1, x0:x1] = _encode(np.asarray(np.clip(mixed, 0, 1), np.float32))
    return result


def _drawn_once(face: SignFace | FaceDesign, corners: Matrix, rng: np.random.Generator) -> SignFace:
    """A design drawn as finely as its ``corners`` in the view need; a face as it is.

    A design's draws come from a stream spawned from ``rng``, so that they shift no other draw.
    """
    if isinstance(face, SignFace):
        return face
    needed = _SUPERSAMPLING * float(np.ptp(corners, axis=0).max())
    px = next((size for size in _FACE_PX if size >= needed), _FACE_PX[-1])
    return face.draw(rng.spawn(1)[0], px)


def _no_finer_than(picture: Array, width_px: float) -> Array:
    """Halve a picture until it is at most ``width_px`` wide, so that its warp does not alias."""
    while picture.shape[1] > width_px and picture.shape[1] > 16:
        half = (picture.shape[1] // 2, picture.shape[0] // 2)
        picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)
    return picture


def _affected_box(corners: Matrix, size: int, tallness: float) -> tuple[int, int, int, int]:
    """Return the part x0, y0, x1, y1 of a square canvas that contains a sign.

    It has a margin of 2 px. For a face taller than wide or a degenerate pose, it is all of it.
    """
    if tallness > 1.01 or not np.isfinite(corners).all():
        return 0, 0, size, size
    low = np.clip(np.floor(corners.min(0)) - 2, 0, size - 1).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 2, low + 1, size).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
