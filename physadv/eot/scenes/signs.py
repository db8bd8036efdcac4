"""Scenes that a patch is tried in: drawn signs before backgrounds, or photos with a sign.

Scenes carry no gradient, so they are made by OpenCV on the CPU; only the patch is warped by torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.core.image_io import Array
from physadv.core.sign_artwork import SignFace, sign_face
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import Range
from physadv.eot.transforms.lens_distortion import focal_length_px
from physadv.eot.warp import pose_homography

Matrix = npt.NDArray[np.float64]
Float = npt.NDArray[np.floating]


@dataclass(frozen=True)
class PhotoSign:
    """One sign in one photo.

    Args:
        image: (h, w, 3) uint8.
        corners: (4, 2) px of its bounding square.
        group: The photo's name.
    """

    image: Array
    corners: Float
    group: str


@dataclass(frozen=True)
class SceneSize:
    """Picture that the model takes.

    Args:
        size: Its side in px.
        whole_frame: A whole frame (detector), else a crop of the sign (classifier).
    """

    size: int
    whole_frame: bool


class SceneSource(Protocol):
    """Anything that yields scenes for a generator."""

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw scenes.

        Args:
            count: Number of scenes.
            view: Size of their pictures, and whether they are whole frames.
            ranges: Ranges of the pose.
            rng: Decides everything.

        Returns:
            The scenes.
        """
        ...


class DrawnScenes:
    """Sign faces, drawn or given as pictures with alpha, in perspective before backgrounds."""

    def __init__(
        self, faces: Sequence[SignFace], backgrounds: Sequence[Array], width_mm: float
    ) -> None:
        self.faces, self.backgrounds, self.width_mm = tuple(faces), tuple(backgrounds), width_mm

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw scenes.

        Args:
            count: Number of scenes.
            view: Size of their pictures, and whether they are whole frames.
            ranges: Ranges of the pose.
            rng: Decides everything.

        Returns:
            The scenes.
        """
        images, matrices, scale, groups, away = [], [], [], [], []
        for _ in range(count):
            camera = draw_framing(rng, ranges, self.width_mm)
            face = self.faces[int(rng.integers(len(self.faces)))]
            pose = draw_pose(rng, ranges, 1.0, camera) @ np.diag(
                [1 / self.width_mm, 1 / self.width_mm, 1.0]
            )

            half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * self.width_mm / 2
            fit, enlargement = _fit(to_pixels(pose, half), view, ranges, rng, camera=camera)
            matrix = fit @ pose

            background = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
            canvas = _random_crop(background, view, rng)
            images.append(_lay(canvas, face, matrix, self.width_mm, rng))
            matrices.append(matrix)
            scale.append(enlargement)
            groups.append(face.name)
            away.append(pose[2, 2] * self.width_mm / 1000)

        ones = torch.ones(count, 3)
        batch = batch_of(images, matrices, ones, torch.zeros_like(ones), scale, groups)
        return replace(batch, distance_m=torch.tensor(away, dtype=torch.float32))


class PhotoScenes:
    """Signs that stand in photos, seen by a virtual camera that zooms, shifts and turns a
    little."""

    def __init__(self, signs: Sequence[PhotoSign], width_mm: float) -> None:
        self.signs, self.width_mm = tuple(signs), width_mm
        self._light = [relight_gains(sign) for sign in self.signs]
        self._pyramids: list[list[Array]] = [_pyramid(sign.image) for sign in self.signs]

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw scenes.

        Args:
            count: Number of scenes.
            view: Size of their pictures, and whether they are whole frames.
            ranges: Ranges of the pose.
            rng: Decides everything.

        Returns:
            The scenes.
        """
        picks = [int(rng.integers(len(self.signs))) for _ in range(count)]
        images, matrices, scale, away = [], [], [], []
        for pick in picks:
            camera = draw_framing(rng, ranges, self.width_mm)
            image, matrix, enlargement, widths = self._one(pick, view, ranges, rng, camera)
            images.append(image)
            matrices.append(matrix)
            scale.append(enlargement)
            away.append(widths * self.width_mm / 1000)

        gain = torch.stack([self._light[p][0] for p in picks])
        lift = torch.stack([self._light[p][1] for p in picks])
        batch = batch_of(images, matrices, gain, lift, scale, [self.signs[p].group for p in picks])
        return replace(batch, distance_m=torch.tensor(away, dtype=torch.float32))

    def _one(
        self,
        pick: int,
        view: SceneSize,
        ranges: EotRanges,
        rng: np.random.Generator,
        camera: SignFraming | None,
    ) -> tuple[Float, Matrix, float, float]:
        """Return picture, homography, enlargement, and distance in widths of the sign."""
        sign = self.signs[pick]
        center, side = sign.corners.mean(0), float(np.ptp(sign.corners, axis=0).max())
        to_unit = np.array(
            [[1 / side, 0, -center[0] / side], [0, 1 / side, -center[1] / side], [0, 0, 1]]
        )
        pose = draw_pose(rng, ranges, 0.4, camera)
        turn = pose @ to_unit
        height, width = sign.image.shape[:2]
        edges = to_pixels(turn, np.array([[0, 0], [width, 0], [width, height], [0, height]]))
        fit, enlargement = _fit(to_pixels(turn, sign.corners), view, ranges, rng, edges, camera)
        to_view = fit @ turn

        half = self.width_mm / 2
        plane = np.array([[-half, -half], [half, -half], [half, half], [-half, half]], np.float32)
        in_photo = cv2.getPerspectiveTransform(plane, sign.corners.astype(np.float32))

        shrink = side / max(np.ptp(to_pixels(to_view, sign.corners), axis=0).max(), 1)
        level = int(np.clip(np.floor(np.log2(max(shrink, 1))), 0, len(self._pyramids[pick]) - 1))
        photo = self._pyramids[pick][level]
        rescale = np.diag(
            [sign.image.shape[1] / photo.shape[1], sign.image.shape[0] / photo.shape[0], 1.0]
        )
        image = cv2.warpPerspective(
            photo,
            for_opencv(to_view @ rescale),
            (view.size, view.size),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        # Enlarging a small photo cannot add detail, so a patch on it must not be sharper than the
        # photo.
        seen = np.asarray(image, np.float32) / 255
        blur = max(enlargement, 1 / max(float(shrink), 1e-3))
        return seen, np.asarray(to_view @ in_photo, np.float64), blur, float(pose[2, 2])


class MixedScenes:
    """Scenes of several sources in turn, in equal shares."""

    def __init__(self, sources: Sequence[SceneSource]) -> None:
        self.sources = tuple(sources)

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw scenes.

        Args:
            count: Number of scenes.
            view: Size of their pictures, and whether they are whole frames.
            ranges: Ranges of the pose.
            rng: Decides everything.

        Returns:
            The scenes.
        """
        shares = [
            count // len(self.sources) + (i < count % len(self.sources))
            for i in range(len(self.sources))
        ]
        parts = [
            s.sample(n, view, ranges, rng) for s, n in zip(self.sources, shares, strict=True) if n
        ]

        tensors: dict[str, Any] = {
            f.name: torch.cat([getattr(part, f.name) for part in parts])
            for f in fields(SceneBatch)
            if f.name not in {"groups", "marks", "others", "distance_m"}
        }

        away = [part.distance_m for part in parts if part.distance_m is not None]
        distance = torch.cat(away) if len(away) == len(parts) else None
        groups = tuple(g for part in parts for g in part.groups)
        return replace(SceneBatch(**tensors, groups=groups), distance_m=distance)


def relight_gains(sign: PhotoSign) -> tuple[Tensor, Tensor]:
    """Return linear gain and lift, (3,) each, that carry a drawn sign's light to the photo's
    ``sign``.

    Percentiles of both decide, as in REAP (Hingun et al. 2023).
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
    seen, drawn = _linear(rectified[inside]), _linear(face[..., :3][inside])
    bright_seen, bright_drawn = np.percentile(seen, 92, axis=0), np.percentile(drawn, 92, axis=0)
    dark_seen, dark_drawn = np.percentile(seen, 8, axis=0), np.percentile(drawn, 8, axis=0)

    gain = np.clip(bright_seen / bright_drawn, 0.08, 1.6)
    lift = np.clip(dark_seen - gain * dark_drawn, 0.0, 0.15)
    return torch.from_numpy(np.clip(gain - lift, 0.05, 1.6)).float(), torch.from_numpy(lift).float()


def _linear(values: Array) -> Float:
    return _decode(np.asarray(values, np.float32) / np.float32(255))


def _decode(encoded: Float) -> Float:
    return np.asarray(
        np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4),
        np.float32,
    )


def _encode(linear: Float) -> Float:
    dark = linear <= 0.0031308
    return np.asarray(
        np.where(dark, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055),
        np.float32,
    )


def _uniform(rng: np.random.Generator, bounds: Range) -> float:
    return float(rng.uniform(bounds[0], bounds[1]))


@dataclass(frozen=True)
class SignFraming:
    """A camera before a sign: how far, and how large the sign is in its picture."""

    widths: float
    """Distance in widths of the sign."""
    native_px: float
    """Width of the sign in the camera's own pixels, seen frontally."""
    frame_px: float
    """Height of the camera's picture."""


def draw_framing(
    rng: np.random.Generator, ranges: EotRanges, width_mm: float
) -> SignFraming | None:
    """Draw distance, focal length and sensor of a camera, from a stream of their own.

    Args:
        rng: Parent of that stream.
        ranges: Ranges of the three.
        width_mm: Width of the sign.

    Returns:
        The camera; None where the ranges give no distance.

    Raises:
        OptionError: A distance without the camera that it is seen by.
    """
    if not ranges.acts("distance_m"):
        return None
    if ranges.sensor_px[0] <= 0 or not 0 < ranges.field_of_view_deg[0] < 180:
        raise OptionError(
            f"distance_m {ranges.distance_m} without a camera",
            "A distance needs the camera's sensor_px over 0 and field_of_view_deg under 180",
            "Give all three, for example sensor_px 1920 and field_of_view_deg 65",
        )

    own = rng.spawn(1)[0]
    meters = float(np.exp(own.uniform(*np.log(ranges.distance_m))))
    sensor = _uniform(own, ranges.sensor_px)
    focal = focal_length_px(sensor, _uniform(own, ranges.field_of_view_deg))
    return SignFraming(
        1000 * meters / width_mm, focal * width_mm / (1000 * meters), sensor * 9 / 16
    )


def draw_pose(
    rng: np.random.Generator, ranges: EotRanges, share: float, camera: SignFraming | None = None
) -> Matrix:
    """Draw a homography of a plane of unit width under unit focal length.

    Args:
        rng: Decides it.
        ranges: Ranges of yaw, pitch and roll.
        share: Share of the ranges of yaw and pitch.
        camera: Gives the distance; None: 2.5 to 20 widths.

    Returns:
        (3, 3); its [2, 2] is the distance in widths.
    """
    yaw, pitch, roll = (
        np.radians(_uniform(rng, r)) for r in (ranges.yaw_deg, ranges.pitch_deg, ranges.roll_deg)
    )

    one = torch.ones(1, dtype=torch.float64)
    distance = float(np.exp(rng.uniform(np.log(2.5), np.log(20.0))))
    distance = distance if camera is None else max(camera.widths, 1.2)

    matrix = pose_homography(
        distance * one,
        share * yaw * one,
        share * pitch * one,
        roll * one,
        focal_px=one,
        center_px=torch.zeros(1, 2, dtype=torch.float64),
    )
    return np.asarray(matrix[0].numpy(), np.float64)


def to_pixels(matrix: Matrix, points: npt.NDArray[np.floating]) -> Matrix:
    """Return (n, 2) ``points`` mapped by a homography ``matrix`` (3, 3)."""
    return np.asarray(
        cv2.perspectiveTransform(points.astype(np.float64)[None], matrix)[0], np.float64
    )


def _fit(
    corners: Matrix,
    view: SceneSize,
    ranges: EotRanges,
    rng: np.random.Generator,
    edges: Matrix | None = None,
    camera: SignFraming | None = None,
) -> tuple[Matrix, float]:
    """Return the similarity that brings the seen square to its place in the view, and its
    enlargement.

    The enlargement is over the camera's own pixels. ``edges`` are the corners of the photo it
    stands in: a frame keeps within them as far as it can.
    """
    low, high = corners.min(0), corners.max(0)
    side, center = float((high - low).max()), (low + high) / 2

    if view.whole_frame:
        share = float(np.exp(rng.uniform(*np.log(ranges.frame_share))))
        place = rng.uniform(0, 1, 2)
        share = share if camera is None else min(camera.native_px / camera.frame_px, 0.9)
        if edges is not None:
            share = min(max(share, side / float(np.ptp(edges, axis=0).min())), 0.9)
        window, enlargement = side / share, 1.0
        first, last = high - window, low
        if edges is not None:
            first, last = np.maximum(first, edges.min(0)), np.minimum(last, edges.max(0) - window)
        origin = first + place * (last - first)
        scale, where = view.size / window, view.size / window * (center - origin)
    else:
        margin = _uniform(rng, ranges.margin)
        scale = view.size / (side * (1 + 2 * margin))
        where = view.size * (0.5 + rng.uniform(-0.06, 0.06, 2))
        native = float(np.exp(rng.uniform(*np.log(ranges.size_px))))
        native = native if camera is None else camera.native_px
        enlargement = max(1.0, scale * side / native)

    shift = where - scale * center
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]]), enlargement


def for_opencv(matrix: Matrix) -> Matrix:
    """Return the map ``matrix`` (3, 3) for OpenCV, whose pixel centers lie on whole numbers."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.asarray(np.linalg.inv(half) @ matrix @ half, np.float64)


def _pyramid(image: Array) -> list[Array]:
    levels = [image]
    while min(levels[-1].shape[:2]) >= 64 and len(levels) < 6:
        h, w = levels[-1].shape[:2]
        levels.append(
            np.asarray(
                cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA), np.uint8
            )
        )
    return levels


def _random_crop(image: Array, view: SceneSize, rng: np.random.Generator) -> Float:
    height, width = image.shape[:2]
    side = int(
        min(height, width)
        * (rng.uniform(0.75, 1.0) if view.whole_frame else rng.uniform(0.15, 0.8))
    )
    side = max(side, min(24, height, width))

    y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))

    method = cv2.INTER_AREA if side > view.size else cv2.INTER_LINEAR
    resized = cv2.resize(
        image[y : y + side, x : x + side], (view.size, view.size), interpolation=method
    )
    return np.asarray(resized, np.float32) / 255


def _lay(
    canvas: Float, face: SignFace, matrix: Matrix, width_mm: float, rng: np.random.Generator
) -> Float:
    """Lay the face over the canvas, 2x supersampled, in linear light, its material slightly
    varied."""
    over = 2
    level = face.rgba
    corners = to_pixels(matrix, np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * width_mm / 2)
    seen = np.ptp(corners, axis=0).max() * over
    while level.shape[1] > 2 * seen and level.shape[1] > 16:
        level = cv2.resize(
            level, (level.shape[1] // 2, level.shape[0] // 2), interpolation=cv2.INTER_AREA
        )

    height_mm = width_mm * face.rgba.shape[0] / face.rgba.shape[1]
    to_mm = np.array(
        [
            [width_mm / level.shape[1], 0, -width_mm / 2],
            [0, height_mm / level.shape[0], -height_mm / 2],
            [0, 0, 1],
        ]
    )

    alpha = level[..., 3:].astype(np.float32) / 255
    material = (rng.uniform(0.75, 1.1) * rng.uniform(0.93, 1.07, 3)).astype(np.float32)
    light = _linear(level[..., :3]) * alpha * material

    x0, y0, x1, y1 = _round(corners, canvas.shape[0], height_mm / width_mm)
    there = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1.0]])
    warp = np.diag([over, over, 1.0]) @ there @ matrix @ to_mm
    sides = (x1 - x0, y1 - y0)
    fine = cv2.warpPerspective(
        np.concatenate([light, alpha], 2), for_opencv(warp), (sides[0] * over, sides[1] * over)
    )

    layered = np.asarray(cv2.resize(fine, sides, interpolation=cv2.INTER_AREA), np.float32)
    part = canvas[y0:y1, x0:x1]
    mixed = layered[..., :3] + (1 - layered[..., 3:]) * _decode(part)
    result = canvas.copy()
    result[y0:y1, x0:x1] = _encode(np.asarray(np.clip(mixed, 0, 1), np.float32))
    return result


def _round(corners: Matrix, size: int, tallness: float) -> tuple[int, int, int, int]:
    """Return the part x0, y0, x1, y1 of a square canvas that holds a sign, with room to spare.

    All of it where in doubt.
    """
    if tallness > 1.01 or not np.isfinite(corners).all():
        return 0, 0, size, size
    low = np.clip(np.floor(corners.min(0)) - 2, 0, size - 1).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 2, low + 1, size).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def batch_of(
    images: list[Float],
    matrices: list[Matrix],
    gain: Tensor,
    lift: Tensor,
    scale: list[float],
    groups: list[str],
) -> SceneBatch:
    """Return scenes as tensors.

    Args:
        images: (h, w, 3) in [0, 1] each.
        matrices: (3, 3) mm of the sign's plane to px each.
        gain: (b, 3) factor of the scene's light.
        lift: (b, 3) light that the scene adds.
        scale: Enlargement of each over the camera's own pixels.
        groups: Name of each scene's photo or drawing.
    """
    stacked = torch.from_numpy(np.stack(images).astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    homography = torch.from_numpy(np.stack([m / m[2, 2] for m in matrices])).float()
    return SceneBatch(stacked, homography, gain, lift, torch.tensor(scale), tuple(groups))
