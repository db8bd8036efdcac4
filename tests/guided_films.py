"""Films of a person who holds a calibration page before a camera, rendered pose by pose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from charttwin import raster

SIZE = (960, 720)
FOCAL = 870.0
DPI = 75
FRAMES_A_SECOND = 10
Pose = tuple[float, float, float, float, float, float]
"""Yaw, pitch and roll in degrees, distance in mm, and shift of the center right and down in mm."""


def board_poses() -> list[Pose]:
    """One pose for each view of the board that is wanted."""
    return [
        (0, 0, 0, 330, 0, 0),
        (-30, 0, 0, 420, 0, 0),
        (30, 0, 0, 420, 0, 0),
        (0, -30, 0, 420, 0, 0),
        (0, 30, 0, 420, 0, 0),
        (0, 0, 0, 520, -190, -90),
        (0, 0, 0, 520, 190, -90),
        (0, 0, 0, 520, 190, 90),
        (0, 0, 0, 520, -190, 90),
        (-22, -22, 0, 420, 10, 0),
        (22, 22, 0, 420, 10, 0),
        (0, 0, 0, 620, 0, 0),
    ]


def frame(
    page: np.ndarray, pose: Pose, *, light: float = 0.8, blur_px: float = 0.6, seed: int = 0
) -> np.ndarray:
    """The page (h, w, 3) uint8 from ``raster`` in a pose, (h, w, 3) uint8, ``light`` being the
    level of white paper."""
    yaw, pitch, roll, distance, right, down = pose
    # The right side farther for a positive yaw, the lower side for a positive pitch.
    a, b = np.tan(np.radians([yaw, pitch]))
    across = np.array([1, 0, a]) / np.hypot(1, a)
    below = np.cross(np.array([a, b, -1.0]), across)
    below *= np.sign(below[1]) / np.linalg.norm(below)
    turn = np.column_stack([across, below]) @ np.array(
        [
            [np.cos(np.radians(roll)), -np.sin(np.radians(roll))],
            [np.sin(np.radians(roll)), np.cos(np.radians(roll))],
        ]
    )

    mm = 25.4 / DPI
    center = np.array(
        [[mm, 0, -mm * page.shape[1] / 2], [0, mm, -mm * page.shape[0] / 2], [0, 0, 1]]
    )
    lens = np.array([[2 * FOCAL, 0, SIZE[0]], [0, 2 * FOCAL, SIZE[1]], [0, 0, 1.0]])
    matrix = lens @ np.column_stack([turn, np.array([right, down, distance])]) @ center
    seen = cv2.warpPerspective(
        page, matrix, (2 * SIZE[0], 2 * SIZE[1]), flags=cv2.INTER_AREA, borderValue=(90, 90, 90)
    )
    small = cv2.resize(seen, SIZE, interpolation=cv2.INTER_AREA).astype(np.float64)
    across_light = np.linspace(1.03, 0.97, SIZE[0])[:, None]
    lit = cv2.GaussianBlur(small * light * across_light, (0, 0), blur_px)
    noise = np.random.default_rng(seed).normal(0, 1.5, lit.shape)
    return np.asarray((lit + noise).clip(0, 255).round(), np.uint8)


def write_film(path: Path, frames: Sequence[np.ndarray]) -> Path:
    """Write frames (h, w, 3) uint8 RGB as motion JPEG of ten a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FRAMES_A_SECOND, SIZE)
    for picture in frames:
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()
    return path


def held(
    page: np.ndarray, pose: Pose, count: int, seed: int, light: float = 0.8
) -> list[np.ndarray]:
    """``count`` frames of a page that is held still."""
    return [frame(page, pose, light=light, seed=1000 * seed + i) for i in range(count)]


def page_picture(pdf: Path) -> np.ndarray:
    """The page of a PDF for :func:`frame`."""
    return raster(pdf, DPI)
