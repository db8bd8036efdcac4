"""Plain street-like backgrounds made by code: sky, ground, road, walls, foliage, grain.

Draws of training and of patches' cards stand before these, so that recorded figures repeat;
:mod:`physadv.core.drawn_streets` draws the twin's, which look more like photos.
"""

from __future__ import annotations

import cv2
import numpy as np

from physadv.core.image_io import Array
from physadv.core.random_streams import numpy_generator


def synthetic_background(seed: int, *path: str | int, height: int = 360, width: int = 480) -> Array:
    """Draw a street-like background; the same names give the same picture.

    Args:
        seed: Seed of the random streams.
        path: Names of the stream under the seed.
        height: Height in px.
        width: Width in px.

    Returns:
        Pixels (height, width, 3) uint8 sRGB.
    """
    rng = numpy_generator(seed, "background", *path)
    horizon = int(height * rng.uniform(0.35, 0.65))
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:horizon] = _ramp(
        rng.uniform((0.35, 0.45, 0.6), (0.75, 0.8, 0.95)),
        rng.uniform(0.6, 0.95) * rng.uniform(0.9, 1.05, 3),
        horizon,
    )
    canvas[horizon:] = _ramp(_earth(rng), _earth(rng), height - horizon)
    for _ in range(int(rng.integers(2, 7))):
        _building(canvas, rng, horizon)

    _road(canvas, rng, horizon)
    for _ in range(int(rng.integers(2, 6))):
        _foliage(canvas, rng, horizon)

    canvas *= 1 + 0.18 * _fractal_noise(rng, height, width)[..., None]
    canvas += rng.normal(0, 0.01, canvas.shape).astype(np.float32)
    blurred = np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.6)), np.float32)

    return np.asarray((blurred.clip(0, 1) * 255).round(), np.uint8)


def _earth(rng: np.random.Generator) -> np.ndarray:
    """Grass, soil or paving."""
    return rng.uniform(0.2, 0.6) * rng.uniform((0.75, 0.85, 0.45), (1.1, 1.1, 0.9))


def _ramp(top: np.ndarray, bottom: np.ndarray, rows: int) -> np.ndarray:
    t = np.linspace(0, 1, max(rows, 1), dtype=np.float32)[:, None, None]
    return (top * (1 - t) + bottom * t)[:rows].astype(np.float32)


def _fractal_noise(
    rng: np.random.Generator, height: int, width: int, octaves: int = 5
) -> np.ndarray:
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = 3 * 2**octave
        coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    return np.asarray(total / (np.abs(total).max() + 1e-6), np.float32)


def _building(canvas: np.ndarray, rng: np.random.Generator, horizon: int) -> None:
    height, width = canvas.shape[:2]
    x0, w = int(rng.integers(-width // 6, width)), int(rng.integers(width // 10, width // 3))
    y0, y1 = int(horizon * rng.uniform(0.1, 0.9)), horizon + int(rng.integers(0, height // 12 + 1))
    wall = rng.uniform(0.15, 0.85) * rng.uniform(0.75, 1.1, 3)
    cv2.rectangle(canvas, (x0, y0), (x0 + w, y1), wall.tolist(), -1)
    glass, step = (wall * rng.uniform(0.3, 0.8)).tolist(), int(rng.integers(10, 28))
    for y in range(y0 + 5, y1 - step // 2, step):
        for x in range(x0 + 5, x0 + w - step // 2, step):
            cv2.rectangle(canvas, (x, y), (x + step // 2, y + step // 2), glass, -1)


def _road(canvas: np.ndarray, rng: np.random.Generator, horizon: int) -> None:
    height, width = canvas.shape[:2]
    center, vanish = rng.uniform(0.1, 0.9) * width, rng.uniform(0.3, 0.7) * width
    half, gray = rng.uniform(0.3, 0.8) * width, float(rng.uniform(0.25, 0.5))
    road = np.array(
        [
            [vanish - 4, horizon],
            [vanish + 4, horizon],
            [center + half, height],
            [center - half, height],
        ]
    )
    cv2.fillPoly(canvas, [road.astype(np.int32)], (gray, gray, gray * 1.03))

    for t in np.linspace(0.15, 0.95, int(rng.integers(3, 8))):
        x, y = vanish + (center - vanish) * t, horizon + (height - horizon) * t
        cv2.line(
            canvas,
            (int(x), int(y)),
            (int(x), int(y + 6 + 14 * t)),
            (0.85, 0.85, 0.8),
            int(1 + 4 * t),
        )


def _foliage(canvas: np.ndarray, rng: np.random.Generator, horizon: int) -> None:
    height, width = canvas.shape[:2]
    leaf = rng.uniform((0.08, 0.18, 0.05), (0.35, 0.5, 0.25))
    center = np.array([rng.uniform(0, width), horizon - rng.uniform(-0.05, 0.25) * height])
    spread = rng.uniform(0.04, 0.16) * width

    for _ in range(int(rng.integers(60, 160))):
        x, y = center + rng.normal(0, spread, 2) * (1, 0.8)
        cv2.circle(
            canvas,
            (int(x), int(y)),
            int(rng.integers(2, 9)),
            (leaf * rng.uniform(0.6, 1.35)).tolist(),
            -1,
        )
