"""Flat pictures of what stands in a drawn street: facades, crowns of trees and cars, in linear
reflectances."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F = np.float32
PX_PER_M = 26
"""Resolution of facades."""
_WALLS = np.array(
    [
        [0.26, 0.11, 0.075],
        [0.19, 0.09, 0.07],
        [0.42, 0.36, 0.27],
        [0.5, 0.48, 0.44],
        [0.32, 0.32, 0.32],
        [0.16, 0.16, 0.17],
        [0.35, 0.26, 0.17],
        [0.6, 0.59, 0.56],
    ],
    np.float32,
)


def fractal_tile(rng: np.random.Generator, side: int = 512) -> F32:
    """Draw a tile of noise whose octaves have equal power, as in photos of nature.

    Args:
        rng: Random stream.
        side: Side of the tile in px, a power of two, 8 or more.

    Returns:
        Noise (side, side) of mean 0 and standard deviation 1.
    """
    total = np.zeros((side, side), F)
    cells = 4
    while cells <= side:
        coarse = rng.standard_normal((cells, cells), dtype=F)
        total += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        cells *= 2
    return np.asarray((total - total.mean()) / total.std(), F)


def _cut(rng: np.random.Generator, tile: F32, height: int, width: int, scale: float = 1.0) -> F32:
    """Cut a window (height, width) at a random place of a tile, ``scale`` px of it to one."""
    side = tile.shape[0]
    h, w = (int(np.clip(np.ceil(n * scale), 2, side)) for n in (height, width))
    y, x = (int(rng.integers(0, side - n + 1)) for n in (h, w))
    return np.asarray(cv2.resize(tile[y : y + h, x : x + w], (width, height)), F)


def facade(
    rng: np.random.Generator,
    tile: F32,
    wide_m: float,
    tall_m: float,
    *,
    windows: bool = True,
    like: F32 | None = None,
) -> F32:
    """Draw the front of a house.

    Args:
        rng: Random stream of the house.
        tile: Tile of noise.
        wide_m: Width in m.
        tall_m: Height in m.
        windows: Whether it has any.
        like: Front of the same house, whose wall it has.

    Returns:
        Reflectances (h, w, 3).
    """
    height, width = max(8, round(tall_m * PX_PER_M)), max(8, round(wide_m * PX_PER_M))
    wall = _WALLS[int(rng.integers(len(_WALLS)))] * F(np.exp(rng.normal(0, 0.2)))
    wall = wall * np.exp(rng.normal(0, 0.05, 3)).astype(F)
    if like is not None:
        wall = np.median(like[::7, ::7], (0, 1)).astype(F)
    stains = _cut(rng, tile, height, width, 0.5)
    front = wall * np.exp(F(0.1) * stains)[..., None]
    if wall[0] > 1.5 * wall[2] and rng.random() < 0.8:
        front[::3] *= F(0.85)
    if not windows:
        return np.asarray(front, F)

    floors = max(1, int(tall_m / rng.uniform(2.8, 3.6)))
    bays = max(1, int(wide_m / rng.uniform(1.8, 3.6)))
    dy, dx = height / floors, width / bays
    w, h = dx * rng.uniform(0.35, 0.65), dy * rng.uniform(0.42, 0.65)
    frame = np.full(3, rng.choice([0.05, 0.3, 0.65]), F)
    shop = rng.random() < 0.4
    for floor in range(floors):
        ground = floor == floors - 1
        for bay in range(bays):
            x, y = (bay + 0.5) * dx, (floor + 0.5) * dy
            if ground and shop:
                _window(front, rng, x, y + 0.08 * dy, dx * 0.88, dy * 0.75, frame)
            elif ground and bay == bays // 2:
                _box(front, x - 0.25 * dx, y - 0.3 * dy, x + 0.25 * dx, y + 0.5 * dy, _dull(rng))
            else:
                _window(front, rng, x, y, w, h, frame)
    if shop:
        band = _dull(rng)
        _box(front, 0, height - 0.97 * dy, width, height - 0.8 * dy, band)
    _box(front, 0, 0, width, 0.12 * dy, wall * F(rng.uniform(0.6, 1.3)))
    return np.asarray(front, F)


def _window(
    front: F32, rng: np.random.Generator, x: float, y: float, w: float, h: float, frame: F32
) -> None:
    """Draw a window around (x, y): frame, glass that mirrors the sky, and perhaps a curtain."""
    x0, y0, x1, y1 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    _box(front, x0 - 2, y1, x1 + 2, y1 + 3, frame * F(0.7))
    _box(front, x0, y0, x1, y1, frame)
    b = 2.0
    glass = F(rng.uniform(0.02, 0.12)) * np.array([0.9, 1, 1.15], F)
    if rng.random() < 0.2:
        glass = F(rng.uniform(0.2, 0.5)) * np.array([0.9, 1, 1.1], F)
    _box(front, x0 + b, y0 + b, x1 - b, y1 - b, glass)
    _box(front, x0 + b, y0 + b, x1 - b, y0 + 0.12 * h + b, glass * F(0.5))
    if rng.random() < 0.35:
        _box(
            front,
            x0 + b,
            y0 + b,
            x1 - b,
            y0 + h * rng.uniform(0.2, 0.8),
            np.full(3, rng.uniform(0.15, 0.45), F),
        )
    if w > 18:
        _box(front, x - 1, y0, x + 1, y1, frame)


def _dull(rng: np.random.Generator) -> F32:
    """Draw a color of doors and boards, mostly dull."""
    return np.asarray(rng.uniform(0.03, 0.4) * np.exp(rng.normal(0, 0.25, 3)), F)


def _box(front: F32, x0: float, y0: float, x1: float, y1: float, color: F32) -> None:
    ya, yb, xa, xb = max(round(y0), 0), round(y1), max(round(x0), 0), round(x1)
    front[ya:yb, xa:xb] = color


def foliage(
    rng: np.random.Generator, tile: F32, width_px: float, height_px: float, side: int
) -> F32:
    """Draw the crown of a tree, or a bush.

    Args:
        rng: Random stream of the tree.
        tile: Tile of noise.
        width_px: Width at which it is seen, in px; at most 320 px are drawn.
        height_px: Height at which it is seen.
        side: Where the sun stands: -1 left, 1 right, 0 nowhere.

    Returns:
        Brightness of the leaves (h, w, 3), 1 on average, and their cover (h, w), as (h, w, 4).
    """
    shrink = min(1.0, 320 / max(width_px, height_px))
    width, height = max(4, round(width_px * shrink)), max(4, round(height_px * shrink))
    x = (np.arange(width, dtype=F)[None] + F(0.5)) * F(2 / width) - 1
    y = (np.arange(height, dtype=F)[:, None] + F(0.5)) * F(2 / height) - 1

    clumps = _cut(rng, tile, height, width, float(rng.uniform(0.5, 1.0)))
    leaves = rng.standard_normal((height, width), dtype=F)
    leaves = np.asarray(cv2.GaussianBlur(leaves, (0, 0), max(0.5, 0.012 * width)), F)
    leaves /= leaves.std() + F(1e-6)
    inside = 1.15 - (x * x + y * y) * F(1.3) + F(0.28) * clumps + F(0.2) * leaves
    cover = np.clip(inside * F(4), 0, 1)

    shade = np.exp(F(0.35) * clumps + F(0.45) * leaves - F(0.45) * y + F(0.5 * side) * x)
    tint = np.dstack([shade ** F(1.1), shade, shade ** F(0.9)])
    return np.dstack([tint, cover]).astype(F)


def car_paint(rng: np.random.Generator) -> F32:
    """Draw the paint (3,) of a car from ``rng``; most are gray."""
    if rng.random() < 0.7:
        return np.full(3, rng.choice([0.02, 0.08, 0.25, 0.6]) * rng.uniform(0.7, 1.2), F)
    hues = np.array([[0.02, 0.05, 0.2], [0.25, 0.02, 0.02], [0.03, 0.12, 0.06], [0.25, 0.2, 0.12]])
    return np.asarray(hues[int(rng.integers(4))] * rng.uniform(0.6, 1.3), F)


def car_from_side(rng: np.random.Generator, paint: F32) -> F32:
    """Draw a car seen from its side, 264 x 92 px RGBA, painted in ``paint`` (3,)."""
    picture = np.zeros((92, 264, 4), F)
    picture[..., :3] = paint
    shade = np.linspace(1.25, 0.55, 92, dtype=F)[:, None, None]
    picture[..., :3] *= shade
    mask = np.zeros((92, 264), np.uint8)
    nose, tail = float(rng.uniform(40, 90)), float(rng.uniform(8, 50))
    body = [
        [4, 50],
        [tail, 38],
        [tail + 22, 6],
        [205 - nose / 3, 4],
        [262 - nose, 36],
        [258, 46],
        [262, 78],
        [4, 78],
    ]
    cv2.fillPoly(mask, [np.array(body, np.int32)], 255, cv2.LINE_AA)
    glass = [[tail + 10, 36], [tail + 26, 11], [203 - nose / 3, 9], [252 - nose, 35]]
    _polygon(picture, glass, np.array([0.04, 0.05, 0.06], F))
    cv2.line(picture, (140, 8), (142, 78), (*(paint * F(0.4)).tolist(), 0), 2)
    for x in (52, 212):
        cv2.circle(mask, (x, 74), 17, 255, -1, cv2.LINE_AA)
        cv2.circle(picture, (x, 74), 17, (0.015, 0.015, 0.015, 0), -1)
        cv2.circle(picture, (x, 74), 9, (0.2, 0.2, 0.21, 0), -1)
    picture[..., 3] = mask * F(1 / 255)
    return picture


def car_from_behind(paint: F32) -> F32:
    """Draw a car seen from behind, 128 x 104 px RGBA, painted in ``paint`` (3,)."""
    picture = np.zeros((104, 128, 4), F)
    picture[..., :3] = paint * np.linspace(1.2, 0.6, 104, dtype=F)[:, None, None]
    mask = np.zeros((104, 128), np.uint8)
    body = [[26, 4], [102, 4], [116, 42], [126, 50], [124, 90], [4, 90], [2, 50], [12, 42]]
    cv2.fillPoly(mask, [np.array(body, np.int32)], 255, cv2.LINE_AA)
    _polygon(picture, [[31, 10], [97, 10], [107, 40], [21, 40]], np.array([0.04, 0.05, 0.06], F))
    for x in (8, 104):
        _box(picture[..., :3], x, 48, x + 16, 60, np.array([0.3, 0.02, 0.02], F))
    _box(picture[..., :3], 48, 62, 80, 72, np.array([0.6, 0.6, 0.55], F))
    _box(picture[..., :3], 4, 80, 124, 90, np.full(3, 0.03, F))
    for x in (10, 100):
        cv2.rectangle(mask, (x, 86), (x + 18, 103), 255, -1)
        _box(picture[..., :3], x, 90, x + 19, 104, np.full(3, 0.015, F))
    picture[..., 3] = mask * F(1 / 255)
    return picture


def _polygon(picture: F32, points: list[list[float]], color: F32) -> None:
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.array(points, np.float64).round().astype(np.int32)], 255, cv2.LINE_AA)
    share = mask[..., None] * F(1 / 255)
    picture[..., :3] += (color - picture[..., :3]) * share
