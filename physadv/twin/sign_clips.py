"""Clips of a sign on its pole before a background, with equal path and light for clean, blank and
patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from physadv.core.sign_artwork import SignFace
from physadv.twin.cameras import (
    TREMOR_DEG_S,
    ClipExposure,
    VirtualCamera,
    random_exposure,
    vignette_gains,
)
from physadv.twin.linear_light import F32, LUMA, U8, daylight_tint, to_linear
from physadv.twin.optics import (
    CameraView,
    blur_kernel,
    blur_light,
    draw_sign_pole,
    draw_texture,
    lay_over,
)
from physadv.twin.printed_sheet import CutSticker
from physadv.twin.surface import (
    PlaneTexture,
    build_texture,
    compose_layers,
    face_layer,
    light_layer,
    random_light,
    square_side,
    sticker_layer,
)
from physadv.twin.trajectories import (
    F64,
    AngleLimits,
    SignPose,
    path_seconds,
    random_path,
    sign_homography,
)
from physadv.twin.virtual_printer import IDEAL_WHITE, VirtualPrinter, ideal_print, print_picture

BLOCKS = ("clean", "blank", "patch")


@dataclass(frozen=True)
class StickerPrint:
    """A printed sticker.

    Attributes:
        sticker: Sticker as cut from the sheet.
        alpha: Its shape (h, w).
        colors: Linear reflectance (h, w, 3) of the print.
        paper: Linear reflectance (3,) of the bare paper.
    """

    sticker: CutSticker
    alpha: F32
    colors: F32
    paper: F32


FINEST_PX_PER_MM = 4.0
"""Resolution to which prints are averaged; no camera here resolves more."""


def print_out(sticker: CutSticker, printer: VirtualPrinter | None, seed: int) -> StickerPrint:
    """Print a sticker, and average away what no camera here resolves.

    Args:
        sticker: Sticker as cut from the sheet.
        printer: Printer; None prints ideally.
        seed: Seed of the print.

    Returns:
        The print.
    """
    alpha, paper = sticker.alpha, np.full(3, IDEAL_WHITE, np.float32)

    if printer is None:
        colors = ideal_print(sticker.rgb)
    else:
        colors, paper = print_picture(sticker.rgb, printer, sticker.px_per_mm, seed), printer.paper

    shrink = FINEST_PX_PER_MM / sticker.px_per_mm
    if shrink < 1:
        shape = (max(2, round(alpha.shape[1] * shrink)), max(2, round(alpha.shape[0] * shrink)))
        inked = cv2.resize(colors * alpha[..., None], shape, interpolation=cv2.INTER_AREA)
        alpha = np.asarray(cv2.resize(alpha, shape, interpolation=cv2.INTER_AREA), np.float32)
        colors = np.asarray(inked / np.maximum(alpha, 1e-4)[..., None], np.float32)
    return StickerPrint(sticker, alpha, colors, paper)


class FilmedClip(Protocol):
    """A clip that can be filmed frame by frame."""

    camera: VirtualCamera
    shot: ClipExposure

    def __len__(self) -> int: ...

    def frame(self, index: int) -> tuple[Mapping[str, F32], dict[str, Any]]:
        """Return the linear light (h, w, 3) at the sensor of frame ``index`` for every block, and
        the frame's truth."""
        ...


class SignClip:
    """A clip of a sign's face before a background, along a random path.

    Args:
        rng: Random stream of the clip.
        face: Face of the sign.
        background: Picture (h, w, 3) uint8.
        printed: Printed sticker.
        camera: Camera that films.
        frames: Number of frames.
        size: Width and height of a frame.
        distances_mm: Nearest and farthest distance.
        angles: Largest angles of the sign.
        path: Poses of the sign, one a frame; None draws them.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        face: SignFace,
        background: U8,
        printed: StickerPrint,
        camera: VirtualCamera,
        *,
        frames: int,
        size: tuple[int, int],
        distances_mm: tuple[float, float],
        angles: AngleLimits,
        path: Sequence[SignPose] | None = None,
    ) -> None:
        self.camera, self.size, self.focal = camera, size, camera.focal * size[0]
        self.side = square_side(face)
        self.face = face

        self._path = list(path or []) or random_path(
            rng,
            frames,
            side_mm=self.side,
            focal_px=self.focal,
            size=size,
            distances_mm=distances_mm,
            angles=angles,
        )

        # The light on the sign follows the background's, and the exposure keeps both in range.
        scene = to_linear(background)
        scene_light = float(np.quantile(scene[::4, ::4] @ LUMA, 0.9))
        level = np.float32(np.clip(scene_light * rng.uniform(0.8, 1.3), 0.2, 1.1)) * daylight_tint(
            rng.uniform(5200, 8000)
        )
        scene_mean = float((scene[::4, ::4] @ LUMA).mean())
        exposure = np.clip(
            0.2 / max(scene_mean, 1e-3), 0.5, 0.85 / float(level.max())
        ) * 2 ** rng.uniform(-0.7, 0.4)
        self.shot = random_exposure(camera, rng, float(exposure))

        nearest = min(p.distance_mm for p in self._path)
        self._textures = _textures(
            rng, face, printed, level, 3.2 * self.side * self.focal / nearest
        )
        self._pole = np.float32(rng.uniform(0.12, 0.4)) * level
        self._backdrop = _Backdrop(rng, scene, size, len(self._path))
        self._vignette = vignette_gains(camera, *size)
        self._velocity = self._velocities()
        self._tremor = np.deg2rad(TREMOR_DEG_S) * self.focal * rng.normal(0, 1, 2)

    def __len__(self) -> int:
        return len(self._path)

    def frame(self, index: int) -> tuple[Mapping[str, F32], dict[str, Any]]:
        """Return the three blocks of frame ``index`` in linear light, and its truth."""
        view = self._view(index)
        moved = (self._velocity[index] + self._tremor) * self.shot.seconds
        kernel = blur_kernel(self.camera.blur_px(self.size[0]), moved)

        base = self._backdrop.frame(index)
        draw_sign_pole(base, view, self.face.height_mm * 0.42, self._pole)
        base = blur_light(base, kernel) * self._vignette

        pictures = {}
        for block, surface in self._textures.items():
            picture = base.copy()
            drawn = draw_texture(surface, view, pad=3 + kernel.shape[0] // 2)
            if drawn is not None:
                lay_over(
                    picture, drawn[0], blur_light(drawn[1], kernel, constant=True), self._vignette
                )
            pictures[block] = picture
        return pictures, self._truth(index, view)

    def _view(self, index: int) -> CameraView:
        pose = self._path[index]
        return CameraView(
            sign_homography(pose, self.focal, self.size), self.camera.k1, self.focal, self.size
        )

    def _velocities(self) -> F64:
        """Return the sign's movement (n, 2) in px per second in each frame."""
        points = np.array([[pose.u, pose.v] for pose in self._path])
        if len(points) < 2:
            return np.zeros_like(points)
        distances = np.array([pose.distance_mm for pose in self._path])
        between = path_seconds(points, distances, self.focal) / (len(points) - 1)
        return np.asarray(np.gradient(points, between, axis=0))

    def _truth(self, index: int, view: CameraView) -> dict[str, Any]:
        pose, h = self._path[index], self.side / 2
        corners = view.project(np.array([[-h, -h], [h, -h], [h, h], [-h, h]]))
        return {
            "corners": np.round(corners, 3).tolist(),
            "distance_m": round(pose.distance_mm / 1000, 4),
            "yaw_deg": round(pose.yaw, 3),
            "pitch_deg": round(pose.pitch, 3),
            "roll_deg": round(pose.roll, 3),
        }


class _Backdrop:
    """A background seen by a slightly panning and zooming camera, drawn without aliasing."""

    def __init__(
        self, rng: np.random.Generator, scene: F32, size: tuple[int, int], frames: int
    ) -> None:
        self.size = size
        cover = max(size[0] / scene.shape[1], size[1] / scene.shape[0]) * 1.12
        shape = (int(np.ceil(scene.shape[1] * cover)), int(np.ceil(scene.shape[0] * cover)))
        interpolation = cv2.INTER_AREA if cover < 1 else cv2.INTER_CUBIC
        self._scene = np.maximum(
            np.asarray(cv2.resize(scene, shape, interpolation=interpolation), np.float32), 0
        )

        slack = np.array(shape) - np.array(size)
        t = np.linspace(0, 1, frames)[:, None]
        start, end = rng.uniform(0.15, 0.85, 2), rng.uniform(0.15, 0.85, 2)
        self._zoom = 1 + rng.uniform(0, 0.1) * t[:, 0]
        self._corner = (start + (end - start) * t) * slack

    def frame(self, index: int) -> F32:
        """Return a writable picture (h, w, 3) in linear light."""
        zoom, (x, y) = self._zoom[index], self._corner[index]
        cx, cy = self.size[0] / 2, self.size[1] / 2
        to_scene = np.array([[1 / zoom, 0, x + cx - cx / zoom], [0, 1 / zoom, y + cy - cy / zoom]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(
            self._scene, to_scene, self.size, flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )
        return np.asarray(warped, np.float32)


def _textures(
    rng: np.random.Generator, face: SignFace, printed: StickerPrint, level: F32, size_px: float
) -> dict[str, PlaneTexture]:
    """Return the lit sign of each block; ``size_px`` bounds the texture's detail."""
    size = int(np.clip(np.ceil(size_px / 64) * 64, 256, 4096))
    side = square_side(face)
    face_rgba, light = face_layer(face, size, rng), random_light(rng, level)

    hand = int(rng.integers(2**32))
    layers = sticker_layers(printed, side, size, hand)
    return {
        block: build_texture(light_layer(compose_layers(face_rgba, layers[block]), light), side)
        for block in BLOCKS
    }


def sticker_layers(
    printed: StickerPrint, side_mm: float, size: int, hand: int
) -> dict[str, F32 | None]:
    """Return the sticker's layer for each block, all with the same placement error.

    Args:
        printed: Printed sticker.
        side_mm: Side of the sign's bounding square.
        size: Side of the layer in px.
        hand: Seed of the placement error.

    Returns:
        Premultiplied RGBA (size, size, 4) by block; None for the clean sign.
    """
    colors: Sequence[tuple[str, F32]] = (("blank", printed.paper), ("patch", printed.colors))
    layers: dict[str, F32 | None] = {"clean": None}

    for block, color in colors:
        layers[block] = sticker_layer(
            printed.sticker, printed.alpha, color, side_mm, size, np.random.default_rng(hand)
        )
    return layers
