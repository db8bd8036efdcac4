"""Processing of posted photos, as the check applies it, and two baselines that are no cloak:
noise and blur."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from physadv.core.image_io import Array, to_tensor
from physadv.core.random_streams import numpy_generator
from physadv.privacy.transforms import apply_codec
from physadv.privacy.visibility import dssim


@dataclass(frozen=True)
class SharingChannel:
    """One way a photo is shared.

    Attributes:
        name: Key in rows and results.
        title: Name for people.
        send: Takes pixels (h, w, 3) uint8 and the face's width in px; returns the pixels that
            arrive.
        factor: Scale of the picture that arrives.
    """

    name: str
    title: str
    send: Callable[[Array, float], Array]
    factor: float = 1.0


def _half(rgb: Array, side: float) -> Array:
    return apply_codec(_resized(rgb, 0.5), "jpeg", 75)


def _screenshot(rgb: Array, side: float) -> Array:
    """Shown at three quarters by a plain bilinear filter, a little dimmer and warmer, captured
    without loss."""
    size = (max(16, round(rgb.shape[1] * 0.75)), max(16, round(rgb.shape[0] * 0.75)))
    shown = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return np.asarray((shown * np.array([0.98, 0.97, 0.95], np.float32)).round(), np.uint8)


def _blur(rgb: Array, side: float) -> Array:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), max(0.3, 1.2 * side / 112)), np.uint8)


def _median(rgb: Array, side: float) -> Array:
    return np.asarray(cv2.medianBlur(rgb, max(3, round(3 * side / 112) | 1)), np.uint8)


def _resized(rgb: Array, factor: float) -> Array:
    size = (max(16, round(rgb.shape[1] * factor)), max(16, round(rgb.shape[0] * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


CHANNELS: dict[str, SharingChannel] = {
    channel.name: channel
    for channel in (
        SharingChannel("png", "as saved", lambda rgb, side: rgb),
        SharingChannel("jpeg90", "JPEG 90", lambda rgb, side: apply_codec(rgb, "jpeg", 90)),
        SharingChannel("jpeg75", "JPEG 75", lambda rgb, side: apply_codec(rgb, "jpeg", 75)),
        SharingChannel("jpeg50", "JPEG 50", lambda rgb, side: apply_codec(rgb, "jpeg", 50)),
        SharingChannel("half", "half size + JPEG 75", _half, 0.5),
        SharingChannel("screenshot", "screenshot", _screenshot, 0.75),
        SharingChannel("webp", "WebP 80", lambda rgb, side: apply_codec(rgb, "webp", 80)),
        SharingChannel("blur", "blurred", _blur),
        SharingChannel("median", "median filter", _median),
    )
}


def noise_like(before: Array, after: Array, seed: int, name: str) -> Array:
    """Add Gaussian noise to ``before`` until its DSSIM is that of ``after``.

    Args:
        before: Face box (h, w, 3) uint8.
        after: Cloaked face box of the same shape.
        seed: Seed of the random stream.
        name: Name of the photo in the random stream.

    Returns:
        Noisy face box.
    """
    normal = numpy_generator(seed, "noise", name).normal(0, 1, before.shape)
    return _matched(
        before, after, lambda s: (before + 64 * s * normal).clip(0, 255).round().astype(np.uint8)
    )


def blur_like(before: Array, after: Array) -> Array:
    """Blur ``before`` until its DSSIM is that of ``after``; both are face boxes (h, w, 3) uint8."""
    side = max(before.shape[:2])
    return _matched(
        before,
        after,
        lambda s: np.asarray(cv2.GaussianBlur(before, (0, 0), 0.2 + s * side / 12), np.uint8),
    )


def _matched(before: Array, after: Array, make: Callable[[float], Array]) -> Array:
    """The strength in [0, 1] that gives ``after``'s DSSIM, by halving."""
    base = to_tensor(before)[None]
    target = float(dssim(base, to_tensor(after)[None]))
    if target <= 0:
        return before.copy()

    # DSSIM grows with the strength, so halving finds the strength that matches.
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        if float(dssim(base, to_tensor(make(middle))[None])) < target:
            low = middle
        else:
            high = middle
    return make((low + high) / 2)
