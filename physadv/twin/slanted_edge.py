"""Sharpness of a camera by the slanted edge of ISO 12233: the contrast that it keeps, by spatial
frequency."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from physadv.core.errors import GeometryError
from physadv.twin.cameras import (
    VirtualCamera,
    develop_frame,
    exposure_at,
    tone_levels,
    with_quality,
)
from physadv.twin.linear_light import F32
from physadv.twin.optics import blur_kernel, blur_light

F64 = npt.NDArray[np.float64]

_BINS_PER_PX = 4


def slanted_edge(
    height: int = 160,
    width: int = 160,
    *,
    slope: float = 0.09,
    dark: float = 0.1,
    light: float = 0.5,
) -> F32:
    """Draw a slanted edge, each pixel with the mean of the light that falls on it.

    Args:
        height: Height in px.
        width: Width in px.
        slope: Columns that the edge moves per row; 0.09 is about 5 degrees.
        dark: Linear light on the left.
        light: Linear light on the right.

    Returns:
        Linear light (h, w).
    """
    fine = 16
    rows = (np.arange(height * fine) + 0.5) / fine - height / 2
    columns = np.arange(width) - width / 2
    # Share of a pixel, 1 px wide, that lies right of the edge, for each of its sub-rows.
    share = np.clip(columns[None, :] + 1 - slope * rows[:, None], 0, 1)
    covered = share.reshape(height, fine, width).mean(1)
    return np.asarray(dark + (light - dark) * covered, np.float32)


def edge_transfer(picture: npt.NDArray[np.floating]) -> tuple[F64, F64]:
    """Return the modulation transfer function along the rows of a slanted edge's picture.

    The edge is fitted by a line through the rows' centroids of change; all rows together sample its
    profile at a quarter of a pixel (ISO 12233).

    Args:
        picture: Linear light (h, w) with one nearly upright edge.

    Returns:
        Frequencies (n,) from 0 to 1 cycle per px, and the contrast (n,) there.

    Raises:
        GeometryError: No edge runs from the top to the bottom.
    """
    light = np.asarray(picture, np.float64)
    height, width = light.shape
    change = np.abs(np.diff(light, axis=1))
    # Noise far from the edge would pull the centroid to the middle.
    change = np.where(change > 0.2 * change.max(1, keepdims=True), change, 0)
    total = change.sum(1)
    if not (total > 0).all():
        raise GeometryError(
            "slanted edge", "every row must cross it", "Cut the picture to the edge"
        )

    centers = (change * (np.arange(width - 1) + 1.0)).sum(1) / total
    rows = np.arange(height)
    slope, start = np.polyfit(rows, centers, 1)

    # Distance of every pixel from the edge, across it.
    across = (np.arange(width)[None, :] + 0.5 - (slope * rows + start)[:, None]) / np.hypot(
        1, slope
    )
    reach = int(min(width / 2 - abs(slope) * height / 2 - 2, 32))
    place = np.floor((across + reach) * _BINS_PER_PX).astype(int)
    inside = (place >= 0) & (place < 2 * reach * _BINS_PER_PX)
    count = np.bincount(place[inside], minlength=2 * reach * _BINS_PER_PX)
    profile = np.bincount(place[inside], light[inside], len(count)) / np.maximum(count, 1)

    spread = np.diff(profile) * np.hamming(len(profile) - 1)
    contrast = np.abs(np.fft.rfft(spread))
    frequencies = np.fft.rfftfreq(len(spread), 1 / _BINS_PER_PX)
    # What the bins and the differences between them took.
    taken = np.sinc(frequencies / _BINS_PER_PX) ** 2
    wanted = frequencies <= 1
    kept = np.asarray(contrast / contrast[0] / taken, np.float64)
    return np.asarray(frequencies[wanted], np.float64), kept[wanted]


def half_contrast(frequencies: F64, contrast: F64) -> float:
    """Return the lowest frequency at which ``contrast`` falls to a half (MTF50), in cycles per px;
    1 where it does not.

    Example:
        >>> half_contrast(np.array([0, 0.2, 0.4]), np.array([1, 0.75, 0.25])).__round__(3)
        0.3
    """
    below = np.flatnonzero(contrast < 0.5)
    if not len(below):
        return 1.0
    k = int(below[0])
    step = (contrast[k - 1] - 0.5) / (contrast[k - 1] - contrast[k])
    return float(frequencies[k - 1] + step * (frequencies[k] - frequencies[k - 1]))


def camera_mtf50(camera: VirtualCamera, width: int) -> float:
    """Photograph a slanted edge without noise, motion and JPEG, and return its MTF50.

    Args:
        camera: Camera that photographs.
        width: Width of its pictures in px.

    Returns:
        MTF50 in cycles per px of the picture, after the tone curve is undone.

    Example:
        >>> from physadv.twin.cameras import CCTV, PHONE
        >>> camera_mtf50(CCTV, 1280) < camera_mtf50(PHONE, 1280)
        True
    """
    edge = np.repeat(slanted_edge()[..., None], 3, 2)
    light = blur_light(edge, blur_kernel(camera.blur_px(width), np.zeros(2)))
    quiet = with_quality(camera, electrons=1e9, read_noise=0.0)
    shot = exposure_at(quiet, lux=10_000.0)
    picture = develop_frame(light, quiet, shot, np.random.default_rng(0), picture_width=width)

    # The tone curve back to linear light, from its own table.
    linear = np.interp(picture[..., 1], *tone_levels(camera.contrast))
    return half_contrast(*edge_transfer(linear))
