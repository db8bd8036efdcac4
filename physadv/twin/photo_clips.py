"""Clips over a real photo of a sign, with the sticker composited on it in the photo's light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from physadv.core.errors import GeometryError
from physadv.twin.cameras import TREMOR_DEG_S, VirtualCamera, random_exposure, vignette_gains
from physadv.twin.linear_light import F32, LUMA, U8, to_linear
from physadv.twin.optics import CameraView, blur_kernel, blur_light, draw_texture, lay_over
from physadv.twin.sign_clips import BLOCKS, StickerPrint, sticker_layers
from physadv.twin.surface import build_texture
from physadv.twin.trajectories import F64, path_seconds, project_points

_TORSO = (0.5, 0.4)
"""Center of a person's torso, as shares of the width and height of the person's box."""
_PLAIN = 0.88
"""Assumed linear reflectance of the white of a sign in a photo."""


@dataclass(frozen=True)
class PhotoScene:
    """A photo with a sign in it.

    Attributes:
        image: Photo (h, w, 3) uint8 sRGB.
        corners: Corners (4, 2) of the sign's bounding square in px, top-left first, clockwise.
        name: Name of the photo.
        seen: Corners (4, 2) of the object's box where that is no square, such as a person's, on
            which the sign's square is only where the sticker goes; None for the square itself.
    """

    image: U8
    corners: F64
    name: str = ""
    seen: F64 | None = None


def worn_square(corners: F64, object_class: str) -> F64:
    """Return the square (4, 2) that carries the sticker of an object with a box of any shape.

    Its side is the box's diagonal, of which a card's width is a share; its center is that of the
    torso of a person, else of the box.

    Args:
        corners: Corners (4, 2) of the object's upright box in px.
        object_class: Class of the object.

    Example:
        >>> worn_square(np.array([[0, 0], [30, 0], [30, 40], [0, 40]]), "car").tolist()
        [[-10.0, -5.0], [40.0, -5.0], [40.0, 45.0], [-10.0, 45.0]]
    """
    low, high = corners.min(0), corners.max(0)
    share = np.array(_TORSO if object_class == "person" else (0.5, 0.5))
    half = float(np.linalg.norm(high - low)) / 2
    square = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    return np.asarray(low + share * (high - low) + square, np.float64)


class PhotoClip:
    """A panning and zooming virtual camera over a photo; the clean block is the photo itself.

    Args:
        rng: Random stream of the clip.
        scene: The photo.
        printed: Printed sticker.
        camera: Camera that films.
        frames: Number of frames.
        size: Width and height of a frame.
        sign_px: Least and largest width of the sign in px.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        scene: PhotoScene,
        printed: StickerPrint,
        camera: VirtualCamera,
        *,
        frames: int,
        size: tuple[int, int],
        sign_px: tuple[float, float],
    ) -> None:
        self.camera, self.size, self.name = camera, size, scene.name
        self._sign_mm = printed.sticker.sign_width_mm
        self._corners = _checked(scene)
        self._seen = self._corners if scene.seen is None else scene.seen

        image = to_linear(scene.image)
        exposure = np.clip(
            0.2 / max(float((image[::4, ::4] @ LUMA).mean()), 1e-3), 0.7, 1.25
        ) * 2 ** rng.uniform(-0.5, 0.25)
        self.shot = random_exposure(camera, rng, float(exposure))

        self._photos = _composite_sticker(image, self._corners, printed, int(rng.integers(2**32)))
        self._maps = _path(rng, self._seen, (image.shape[1], image.shape[0]), size, frames, sign_px)
        self._vignette = vignette_gains(camera, *size)
        focal = camera.focal * size[0]
        self._velocity = self._velocities(focal)
        self._tremor = np.deg2rad(TREMOR_DEG_S) * focal * rng.normal(0, 1, 2)

    def __len__(self) -> int:
        return len(self._maps)

    def frame(self, index: int) -> tuple[Mapping[str, F32], dict[str, Any]]:
        """Return the three blocks of frame ``index`` and its truth; the angles of a photo's sign
        are unknown."""
        to_px = self._maps[index]
        moved = (self._velocity[index] + self._tremor) * self.shot.seconds
        kernel = blur_kernel(self.camera.blur_px(self.size[0]) * 0.7, moved)

        pictures = {
            b: blur_light(_warp(p, to_px, self.size), kernel) * self._vignette
            for b, p in self._photos.items()
        }

        corners = project_points(to_px, self._corners)
        width = (
            float(np.linalg.norm(corners[1] - corners[0]) + np.linalg.norm(corners[2] - corners[3]))
            / 2
        )

        truth = {
            "corners": np.round(project_points(to_px, self._seen), 3).tolist(),
            "distance_m": round(self.camera.focal * self.size[0] * self._sign_mm / width / 1000, 4),
            "yaw_deg": None,
            "pitch_deg": None,
            "roll_deg": None,
            "photo": self.name,
        }
        return pictures, truth

    def _velocities(self, focal_px: float) -> F64:
        """Return the sign's movement (n, 2) in px per second in each frame."""
        middle = self._corners.mean(0, keepdims=True)
        points = np.array([project_points(to_px, middle)[0] for to_px in self._maps])
        if len(points) < 2:
            return np.zeros_like(points)
        between = path_seconds(points, np.zeros(len(points)), focal_px) / (len(points) - 1)
        return np.asarray(np.gradient(points, between, axis=0))


def _composite_sticker(
    image: F32, corners: F64, printed: StickerPrint, hand: int
) -> dict[str, tuple[F32, ...]]:
    """Return the photo of each block in linear light, with its pyramid; the sticker takes the
    sign's own light."""
    h, w = image.shape[:2]
    side = printed.sticker.sign_width_mm
    px = float(np.linalg.norm(corners - np.roll(corners, 1, 0), axis=1).max())
    size = int(np.clip(np.ceil(3 * px / 64) * 64, 128, 2048))

    half = side / 2
    square = np.array([[-half, -half], [half, -half], [half, half], [-half, half]], np.float32)
    to_px = np.asarray(cv2.getPerspectiveTransform(square, corners.astype(np.float32)), np.float64)
    view = CameraView(to_px, 0.0, float(max(h, w)), (w, h))

    haze, gain = _sign_light(image, corners)
    soft = blur_kernel(0.6, np.zeros(2))

    photos = {}
    for block, layer in sticker_layers(printed, side, size, hand).items():
        picture = image
        if layer is not None:
            relit = layer.copy()
            relit[..., :3] = layer[..., :3] * gain + haze * layer[..., 3:]
            drawn = draw_texture(build_texture(relit, side), view)
            if drawn is not None:
                picture = image.copy()
                lay_over(picture, drawn[0], blur_light(drawn[1], soft, constant=True))
        photos[block] = _pyramid(picture)

    return {block: photos[block] for block in BLOCKS}


def _sign_light(image: F32, corners: F64) -> tuple[F32, F32]:
    """Return haze (3,) and gain (3,) that map reflectance to this photo's light, from percentiles
    over the sign.

    After the relighting of REAP (Hingun et al. 2023): the darkest areas determine the haze, the
    brightest the light on white.
    """
    middle = corners.mean(0)
    inner = (middle + (corners - middle) * 0.85).astype(np.float32)

    inside = np.zeros(image.shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, np.round(inner).astype(np.int32), 1)

    pixels = image[inside > 0]
    if len(pixels) < 16:
        return np.zeros(3, np.float32), np.full(3, float(image.max()), np.float32)

    # White is bright in its weakest channel too; a bright red is not.
    weakest = pixels.min(1)
    white = pixels[weakest >= np.quantile(weakest, 0.95)].mean(0)
    haze = np.full(3, 0.5 * float(np.quantile(weakest, 0.02)), np.float32)
    return haze, np.asarray(np.maximum(white - haze, 0.01) / _PLAIN, np.float32)


def _checked(scene: PhotoScene) -> F64:
    corners = np.asarray(scene.corners, np.float64)
    if corners.shape != (4, 2) or not bool(np.isfinite(corners).all()):
        raise GeometryError(
            f"{scene.name or 'photo'}: corners {corners.shape}",
            "(4, 2) numbers",
            "Give four corners",
        )

    area = cv2.contourArea(corners.astype(np.float32))
    if area < 16**2:
        limit = f"the sign covers {area:.0f} px, 256 are needed"
        raise GeometryError(scene.name or "photo", limit, "Use a photo that shows it larger")
    return corners


def _pyramid(picture: F32) -> tuple[F32, ...]:
    levels = [picture]
    while min(levels[-1].shape[:2]) > 128:
        shape = (levels[-1].shape[1] // 2, levels[-1].shape[0] // 2)
        levels.append(
            np.asarray(cv2.resize(levels[-1], shape, interpolation=cv2.INTER_AREA), np.float32)
        )
    return tuple(levels)


def _warp(levels: tuple[F32, ...], to_px: F64, size: tuple[int, int]) -> F32:
    """Warp the photo by a map (3, 3) from photo px to frame px, from the pyramid level that shrinks
    by less than two."""
    scale = float(np.sqrt(abs(np.linalg.det(to_px[:2, :2]))))
    k = int(np.clip(np.floor(np.log2(1 / scale)), 0, len(levels) - 1)) if scale < 1 else 0

    fx, fy = levels[0].shape[1] / levels[k].shape[1], levels[0].shape[0] / levels[k].shape[0]
    to_level = np.diag([1 / fx, 1 / fy, 1]) @ np.linalg.inv(to_px)
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    centered = np.linalg.inv(shift) @ to_level @ shift

    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        levels[k], centered[:2], size, flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(warped, np.float32)


def _path(
    rng: np.random.Generator,
    corners: F64,
    photo: tuple[int, int],
    size: tuple[int, int],
    frames: int,
    sign_px: tuple[float, float],
) -> list[F64]:
    """Draw maps from photo px to frame px: a zoom between two sizes of the sign, which wanders and
    trembles."""
    width = (
        float(np.linalg.norm(corners[1] - corners[0]) + np.linalg.norm(corners[2] - corners[3])) / 2
    )

    cover = max(size[0] / photo[0], size[1] / photo[1])
    low = max(cover * 1.02, sign_px[0] / width)
    high = max(low * 1.15, min(sign_px[1] / width, 3.0))
    t = np.linspace(0, 1, frames) if frames > 1 else np.array([0.5])
    ease = t * t * (3 - 2 * t)

    start, end = rng.uniform(np.log(low), np.log(high), 2)
    scales = np.exp(start + (end - start) * ease)
    positions = rng.uniform(0.25, 0.75, (2, 2)) * np.array(size)
    rolls = np.deg2rad(np.linspace(rng.uniform(-2, 2), rng.uniform(-2, 2), frames))
    tremor = np.cumsum(rng.normal(0, 0.6, (frames, 2)), 0)

    middle, maps = corners.mean(0), []
    for i in range(frames):
        target = positions[0] + (positions[1] - positions[0]) * ease[i] + tremor[i]
        target = _inside(target, middle, scales[i], photo, size)
        c, s = np.cos(rolls[i]) * scales[i], np.sin(rolls[i]) * scales[i]
        turn = np.array([[c, -s], [s, c]])
        shift = target - turn @ middle
        maps.append(np.vstack([np.column_stack([turn, shift]), [0, 0, 1]]))
    return maps


def _inside(
    target: F64, middle: F64, scale: float, photo: tuple[int, int], size: tuple[int, int]
) -> F64:
    """Move the sign's intended position so that the frame stays on the photo."""
    high = middle * scale
    low = np.array(size) - (np.array(photo) - middle) * scale
    return np.asarray(np.clip(target, np.minimum(low, high), np.maximum(low, high)))
