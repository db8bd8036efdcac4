"""Surface of the sign: its face, weathered and lit, and the sticker on it, as textures in linear
light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from physadv.core.sign_artwork import SignFace
from physadv.twin.linear_light import F32, LUMA, smooth_noise, to_linear
from physadv.twin.printed_sheet import CutSticker

EXTENT = 1.08
"""Side of the texture in sides of the sign's bounding square, with a margin for soft edges."""


@dataclass(frozen=True)
class SignLight:
    """Light on the sign.

    Attributes:
        level: Linear RGB (3,) on white.
        ramp: Gradient across the sign.
        angle: Direction of the gradient in radians.
        shadow: Depth of a soft shadow.
        shadow_at: Position of the shadow's edge.
        gloss: Reflection added everywhere.
    """

    level: F32
    ramp: float
    angle: float
    shadow: float
    shadow_at: float
    gloss: float


@dataclass(frozen=True)
class PlaneTexture:
    """A square texture with its pyramid.

    Attributes:
        levels: Premultiplied linear RGBA, each level half the size of the previous one.
        side_mm: Side of the square.
    """

    levels: tuple[F32, ...]
    side_mm: float

    def level_for(self, mm: float) -> F32:
        """Return the coarsest level whose pixels are at most ``mm`` wide."""
        fitting = [level for level in self.levels if self.side_mm / level.shape[0] <= mm]
        return fitting[-1] if fitting else self.levels[0]


def random_light(rng: np.random.Generator, level: F32) -> SignLight:
    """Draw the light on a sign around the ``level`` (3,) on white, from ``rng``."""
    shadow = rng.uniform(0.25, 0.6) if rng.random() < 0.3 else 0.0
    ramp, angle, at = rng.uniform(0, 0.25), rng.uniform(0, 2 * np.pi), rng.uniform(-0.35, 0.35)
    return SignLight(level, ramp, angle, shadow, at, rng.uniform(0, 0.03))


def square_side(face: SignFace) -> float:
    """Return the side in mm of the bounding square of ``face``."""
    return max(face.width_mm, face.height_mm)


def face_layer(face: SignFace, size: int, rng: np.random.Generator) -> F32:
    """Render the face, slightly faded and dirty, centered in a square.

    Args:
        face: Face of the sign.
        size: Side of the layer in px.
        rng: Random stream of the weathering.

    Returns:
        Premultiplied RGBA (size, size, 4).
    """
    rgba = np.asarray(face.rgba)
    per_mm = size / (square_side(face) * EXTENT)
    w, h = max(1, round(face.width_mm * per_mm)), max(1, round(face.height_mm * per_mm))
    alpha = rgba[..., 3:].astype(np.float32) / 255
    layer = np.concatenate([to_linear(rgba[..., :3]) * alpha, alpha], 2)

    interpolation = cv2.INTER_AREA if rgba.shape[1] > w else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(layer, (w, h), interpolation=interpolation), np.float32)

    canvas = np.zeros((size, size, 4), np.float32)
    y, x = (size - h) // 2, (size - w) // 2
    canvas[y : y + h, x : x + w] = small
    return _weathered(canvas, rng)


def sticker_layer(
    sticker: CutSticker, shape: F32, color: F32, face_mm: float, size: int, rng: np.random.Generator
) -> F32:
    """Render a sticker where a hand places it, off by some millimeters and a degree.

    The card's millimeters hold, whatever the size of the sign.

    Args:
        sticker: Sticker as cut from the sheet.
        shape: Shape (h, w) in [0, 1].
        color: Linear reflectance (h, w, 3) or (3,).
        face_mm: Side of the sign's bounding square.
        size: Side of the layer in px.
        rng: Random stream of the placement error.

    Returns:
        Premultiplied RGBA (size, size, 4).
    """
    per_mm = size / (face_mm * EXTENT)
    w, h = max(2, round(sticker.width_mm * per_mm)), max(2, round(sticker.height_mm * per_mm))

    alpha = shape[..., None]
    flat = np.broadcast_to(color, (*shape.shape, 3)) * alpha
    layer = np.concatenate([flat, alpha], 2).astype(np.float32)
    small = np.asarray(cv2.resize(layer, (w, h), interpolation=cv2.INTER_AREA), np.float32)
    small = cv2.copyMakeBorder(small, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))

    turn = np.deg2rad(rng.normal(0, 0.6))
    error = np.clip(rng.normal(0, 0.003 * face_mm, 2), -0.006 * face_mm, 0.006 * face_mm)

    middle = size / 2 + (np.array(sticker.center_mm) + error) * per_mm - 0.5
    sx, sy = sticker.width_mm * per_mm / w, sticker.height_mm * per_mm / h
    turned = np.array(
        [[np.cos(turn) * sx, -np.sin(turn) * sy], [np.sin(turn) * sx, np.cos(turn) * sy]]
    )
    shift = middle - turned @ np.array([(w + 1) / 2, (h + 1) / 2])

    placed = cv2.warpAffine(
        small, np.column_stack([turned, shift]), (size, size), flags=cv2.INTER_LINEAR
    )
    return np.asarray(placed, np.float32)


def compose_layers(face: F32, sticker: F32 | None) -> F32:
    """Lay ``sticker`` over ``face``, with the faint shadow of its thickness; None leaves the face
    bare."""
    if sticker is None:
        return face
    cover = sticker[..., 3]

    sigma = max(0.5, face.shape[0] / 900)
    shadow = cv2.GaussianBlur(np.roll(cover, (1, 1), (0, 1)), (0, 0), sigma)[..., None]

    under = face.copy()
    under[..., :3] *= 1 - 0.2 * shadow
    return np.asarray(sticker + under * (1 - sticker[..., 3:]), np.float32)


def light_layer(layer: F32, light: SignLight) -> F32:
    """Light a premultiplied ``layer``: level and color, gradient, soft shadow, and gloss of
    ``light``."""
    size = layer.shape[0]
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    along = np.cos(light.angle) * axis[None, :] + np.sin(light.angle) * axis[:, None]

    shade = (1 + light.ramp * 2 * along).astype(np.float32)
    if light.shadow:
        shade *= 1 - light.shadow / (1 + np.exp(-(along - light.shadow_at) * 60)).astype(np.float32)

    out = layer.copy()
    out[..., :3] = (out[..., :3] + light.gloss * out[..., 3:]) * shade[..., None] * light.level
    return out


def build_texture(layer: F32, face_mm: float) -> PlaneTexture:
    """Build the texture of ``layer`` on a sign of ``face_mm``; each level is an area average of the
    previous one."""
    levels = [layer]
    while levels[-1].shape[0] > 48:
        half = levels[-1].shape[0] // 2
        levels.append(
            np.asarray(
                cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA), np.float32
            )
        )
    return PlaneTexture(tuple(levels), face_mm * EXTENT)


def _weathered(layer: F32, rng: np.random.Generator) -> F32:
    """Fade a layer towards a lighter gray, with clouds of dirt and a few runs from the top."""
    size = layer.shape[0]
    fade, dirt = rng.uniform(0, 0.14), rng.uniform(0, 0.18)
    gray = (layer[..., :3] @ LUMA)[..., None] * 0.7 + 0.22 * layer[..., 3:]

    clouds = smooth_noise(rng, size, size) ** 2
    runs = (
        cv2.resize(
            rng.random((3, 40), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
        ** 4
    )
    soil = np.clip(dirt * (clouds + 0.6 * runs), 0, 0.6)[..., None].astype(np.float32)

    out = layer.copy()
    out[..., :3] = (layer[..., :3] * (1 - fade) + gray * fade) * (1 - soil)
    return out
