"""Perceived color differences in numpy: sRGB to linear light, CIELAB (D65) and CIEDE2000."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
AnyFloat = npt.NDArray[Any]

_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def srgb_to_linear(encoded: AnyFloat) -> F64:
    """Return linear light of ``encoded`` sRGB (IEC 61966-2-1); values over 1 follow the same
    curve."""
    v = np.asarray(encoded, np.float64)
    return np.asarray(
        np.where(v <= 0.04045, v / 12.92, ((np.maximum(v, 0.04045) + 0.055) / 1.055) ** 2.4)
    )


def linear_to_srgb(linear: AnyFloat) -> F64:
    """Return sRGB of ``linear`` light, the inverse of :func:`srgb_to_linear`; nothing is
    clipped."""
    v = np.asarray(linear, np.float64)
    curve = 1.055 * np.maximum(v, 0.0031308) ** (1 / 2.4) - 0.055
    return np.asarray(np.where(v <= 0.0031308, v * 12.92, curve))


def lab(encoded: AnyFloat) -> F64:
    """Return CIELAB (..., 3) under D65 of ``encoded`` sRGB (..., 3), with (1, 1, 1) as the
    white."""
    ratio = srgb_to_linear(encoded) @ (_TO_XYZ / _TO_XYZ.sum(1, keepdims=True)).T
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


def de00(first: AnyFloat, second: AnyFloat) -> F64:
    """Return CIEDE2000 color differences, kL = kC = kH = 1 (Sharma, Wu & Dalal 2005).

    Args:
        first: CIELAB colors (..., 3).
        second: CIELAB colors (..., 3).

    Returns:
        Differences (...); about 1 is just noticeable.

    Example:
        >>> float(de00(np.array([50.0, 0, 0]), np.array([60.0, 0, 0]))) > 5
        True
    """
    l1, l2 = np.asarray(first, np.float64)[..., 0], np.asarray(second, np.float64)[..., 0]
    c1, h1, c2, h2 = _chroma_and_hue(np.asarray(first, np.float64), np.asarray(second, np.float64))
    gray = c1 * c2 == 0
    turn = np.where(np.abs(h2 - h1) <= 180, h2 - h1, h2 - h1 - 360 * np.sign(h2 - h1))
    turn = np.where(gray, 0.0, turn)
    d_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    return _weighted(l1, l2, c1, c2, d_hue, _mean_hue(h1, h2, gray))


def de00_of_srgb(first: AnyFloat, second: AnyFloat) -> F64:
    """Return CIEDE2000 differences (...) of sRGB colors ``first`` and ``second``, (..., 3) in [0,
    1]."""
    return de00(lab(first), lab(second))


def _chroma_and_hue(first: F64, second: F64) -> tuple[F64, F64, F64, F64]:
    """Chroma and hue (degrees in [0, 360), 0 for grays) with the a axis stretched near gray."""
    mean = (np.hypot(first[..., 1], first[..., 2]) + np.hypot(second[..., 1], second[..., 2])) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25.0**7))
    out: list[F64] = []
    for color in (first, second):
        a, b = color[..., 1] * stretch, color[..., 2]
        out += [np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360]
    return out[0], out[1], out[2], out[3]


def _mean_hue(h1: F64, h2: F64, gray: npt.NDArray[np.bool_]) -> F64:
    """The hue halfway along the shorter arc; the sum where one color has no hue."""
    total = h1 + h2
    far = np.abs(h1 - h2) > 180
    mean = np.where(far, np.where(total < 360, total + 360, total - 360), total) / 2
    return np.asarray(np.where(gray, total, mean))


def _weighted(l1: F64, l2: F64, c1: F64, c2: F64, d_hue: F64, hue: F64) -> F64:
    """Equation 22 of the paper: lightness, chroma and hue by their weights, and the blue region's
    rotation."""
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2

    def cosine(times: float, shift: float) -> F64:
        return np.asarray(np.cos(np.radians(times * hue + shift)))

    t = (
        1
        - 0.17 * cosine(1, -30)
        + 0.24 * cosine(2, 0)
        + 0.32 * cosine(3, 6)
        - 0.20 * cosine(4, -63)
    )
    s_l = 1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2)
    s_c, s_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    twist = 60 * np.exp(-(((hue - 275) / 25) ** 2))
    rotation = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(twist))
    x, y, z = (l2 - l1) / s_l, (c2 - c1) / s_c, d_hue / s_h
    return np.asarray(np.sqrt(np.maximum(x * x + y * y + z * z + rotation * y * z, 0)))
