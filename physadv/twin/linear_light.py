"""Conversion between sRGB and linear light, and smooth random fields; arrays are RGB, (h, w,
channel)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def srgb_to_light(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert the sRGB-encoded ``value`` in [0, 1] to linear light."""
    curve = ((np.maximum(value, 0.04045) + 0.055) / 1.055) ** 2.4
    return np.asarray(np.where(value <= 0.04045, value / 12.92, curve))


def light_to_srgb(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert the linear light ``value`` to sRGB encoding, clipped to [0, 1]."""
    v = np.clip(value, 0, 1)
    curve = 1.055 * np.maximum(v, 0.0031308) ** (1 / 2.4) - 0.055
    return np.asarray(np.where(v <= 0.0031308, v * 12.92, curve))


_TABLE: F32 = srgb_to_light(np.arange(256) / 255).astype(np.float32)


def to_linear(image: U8) -> F32:
    """Convert ``image`` (h, w, 3) uint8 sRGB to linear light in [0, 1], float32.

    Example:
        >>> to_linear(np.array([[[0, 255, 255]]], np.uint8)).tolist()
        [[[0.0, 1.0, 1.0]]]
    """
    return np.asarray(np.take(_TABLE, image), np.float32)


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, *, cells: int = 4, octaves: int = 4
) -> F32:
    """Draw a smooth random field in [0, 1], coarse to fine.

    Args:
        rng: Random stream.
        height: Height of the field.
        width: Width of the field.
        cells: Cells per side of the coarsest octave.
        octaves: Number of octaves.

    Returns:
        Field (h, w).
    """
    total = np.zeros((height, width), np.float32)

    for octave in range(octaves):
        n = cells * 2**octave
        coarse = rng.standard_normal((n, n), dtype=np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(
            0.55**octave
        )

    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / (high - low + 1e-9), np.float32)


def daylight_tint(kelvin: float) -> F32:
    """Return the channel gains (3,) of daylight at ``kelvin`` relative to 6500 K, green at 1 (a
    smooth fit).

    Example:
        >>> daylight_tint(6500).tolist()
        [1.0, 1.0, 1.0]
    """
    t = float(np.log(kelvin / 6500.0))
    return np.array([np.exp(-0.55 * t), 1.0, np.exp(0.75 * t)], np.float32)
