"""Virtual cameras: lens, Bayer sensor with shot and read noise, white balance, color, tone curve
and sharpening."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from physadv.core.errors import OptionError
from physadv.twin.linear_light import F32, U8, light_to_srgb

_WHITE, _BLACK = 15000.0, 800.0


@dataclass(frozen=True)
class VirtualCamera:
    """One camera.

    Attributes:
        name: Name of the camera.
        focal: Focal length in picture widths.
        k1: Radial distortion: x_ideal = x_seen (1 + k1 r^2), with r in focal lengths.
        defocus_px: Standard deviation of the defocus blur.
        shutter: Exposure time as a share of the frame time.
        vignette: Darkening in the corners, as a share.
        electrons: Electrons of white.
        read_noise: Standard deviation of the read noise in electrons.
        response: Sensitivity of the red, green and blue channel.
        saturation: Factor of the color saturation.
        contrast: Share of an S-curve in the tone curve.
        sharpen: Strength of the unsharp mask.
        wb_error: Standard deviation of the white balance, logarithmic.
        jpeg: Quality of the compression, 1 to 100.
        bayer: Whether the sensor is a Bayer mosaic; otherwise every pixel has all channels.
    """

    name: str
    focal: float
    k1: float
    defocus_px: float
    shutter: float
    vignette: float
    electrons: float
    read_noise: float
    response: tuple[float, float, float]
    saturation: float
    contrast: float
    sharpen: float
    wb_error: float
    jpeg: int
    bayer: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for twin.json."""
        return asdict(self)


PHONE = VirtualCamera(
    "phone", 0.95, 0.02, 0.45, 0.15, 0.15, 9000, 3, (0.58, 1.0, 0.66), 1.12, 0.28, 0.45, 0.02, 92
)
WEBCAM = VirtualCamera(
    "webcam", 0.87, -0.06, 0.75, 0.35, 0.25, 2200, 6, (0.66, 1.0, 0.56), 0.92, 0.12, 0.25, 0.045, 78
)
DASHCAM = VirtualCamera(
    "dashcam", 0.72, -0.14, 0.6, 0.3, 0.3, 3500, 5, (0.62, 1.0, 0.6), 1.0, 0.35, 0.8, 0.03, 70
)
CAMERAS = (PHONE, WEBCAM, DASHCAM)
"""Cameras that film by default."""

OLD_PHONE = VirtualCamera(
    "old-phone", 1.02, 0.05, 0.8, 0.3, 0.3, 2600, 8, (0.7, 1.0, 0.5), 1.25, 0.4, 0.9, 0.05, 75
)
SYSTEM_CAMERA = VirtualCamera(
    "system-camera",
    1.4,
    -0.01,
    0.35,
    0.08,
    0.1,
    40000,
    3,
    (0.52, 1.0, 0.7),
    1.05,
    0.22,
    0.2,
    0.015,
    97,
)
ACTION_CAM = VirtualCamera(
    "action-cam", 0.6, -0.2, 0.55, 0.2, 0.35, 4500, 5, (0.6, 1.0, 0.62), 1.2, 0.32, 0.7, 0.03, 82
)
CCTV = VirtualCamera(
    "cctv", 0.8, -0.1, 0.95, 0.5, 0.3, 1500, 9, (0.68, 1.0, 0.58), 0.85, 0.18, 0.6, 0.05, 55
)
KNOWN = {c.name: c for c in (*CAMERAS, OLD_PHONE, SYSTEM_CAMERA, ACTION_CAM, CCTV)}
"""All virtual cameras by name."""

_OFF: dict[str, dict[str, Any]] = {
    "distortion": {"k1": 0.0},
    "defocus": {"defocus_px": 0.0},
    "motion": {"shutter": 0.0},
    "vignette": {"vignette": 0.0},
    "noise": {"electrons": 1e9, "read_noise": 0.0},
    "bayer": {"bayer": False},
    "white-balance": {"wb_error": 0.0},
    "tone": {"saturation": 1.0, "contrast": 0.0},
    "sharpening": {"sharpen": 0.0},
    "jpeg": {"jpeg": 100},
}
EFFECTS = tuple(_OFF)
"""Effects that can be left out of a camera. JPEG at quality 100 is the nearest to none that a
motion-JPEG clip can hold."""


def cameras_named(names: Sequence[str]) -> tuple[VirtualCamera, ...]:
    """Return the cameras with the given ``names``; "all" stands for every one.

    Raises:
        OptionError: A name is unknown.

    Example:
        >>> [camera.name for camera in cameras_named(["phone", "webcam"])]
        ['phone', 'webcam']
    """
    selected = list(KNOWN) if "all" in names else list(names)
    for name in selected:
        if name not in KNOWN:
            raise OptionError(
                f"camera {name!r}", f"one of {', '.join(KNOWN)}, or all", "Choose one of these"
            )
    return tuple(KNOWN[name] for name in selected)


def leave_out(camera: VirtualCamera, effects: Collection[str]) -> VirtualCamera:
    """Return ``camera`` without those of its ``EFFECTS`` that ``effects`` names; other names are
    ignored.

    Example:
        >>> leave_out(PHONE, ["noise", "distortion"]).k1
        0.0
    """
    changes = {
        key: value for effect in EFFECTS if effect in effects for key, value in _OFF[effect].items()
    }
    return replace(camera, **changes)


@dataclass(frozen=True)
class ClipExposure:
    """Settings of a camera in one clip.

    Attributes:
        exposure: Exposure gain.
        white: Error (3,) of the white balance gains.
    """

    exposure: float
    white: F32


def random_exposure(
    camera: VirtualCamera, rng: np.random.Generator, exposure: float
) -> ClipExposure:
    """Draw a clip's white balance error.

    Args:
        camera: Camera that films.
        rng: Random stream of the clip.
        exposure: Exposure gain, from the scene's brightness.

    Returns:
        The settings.
    """
    error = np.exp(rng.normal(0, camera.wb_error, 3)).astype(np.float32)
    return ClipExposure(exposure, error / error[1])


def with_quality(camera: VirtualCamera, **changes: Any) -> VirtualCamera:
    """Return ``camera`` with the fields ``changes``, such as ``electrons=1e9`` for one without
    noise."""
    return replace(camera, **changes)


def develop_frame(
    light: F32, camera: VirtualCamera, shot: ClipExposure, rng: np.random.Generator
) -> U8:
    """Convert light at the sensor to the picture that a camera delivers.

    Args:
        light: Linear light (h, w, 3), height and width even.
        camera: Camera that films.
        shot: Settings of the clip.
        rng: Random stream of the noise.

    Returns:
        The picture (h, w, 3) uint8 sRGB.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> shot = random_exposure(PHONE, rng, 1.0)
        >>> picture = develop_frame(np.full((4, 4, 3), 0.2, np.float32), PHONE, shot, rng)
        >>> picture.shape, picture.dtype
        ((4, 4, 3), dtype('uint8'))
    """
    response = np.array(camera.response, np.float32)
    gains = response * np.float32(shot.exposure)
    raw = _mosaic(light, gains) if camera.bayer else light * gains
    np.clip(raw, 0, 1, out=raw)

    # Shot noise grows with the light; read noise is constant.
    variance = raw * np.float32(1 / camera.electrons) + np.float32(
        (camera.read_noise / camera.electrons) ** 2
    )
    raw += rng.standard_normal(raw.shape, dtype=np.float32) * np.sqrt(variance)
    raw *= np.float32(_WHITE)
    raw += np.float32(_BLACK)
    levels = np.clip(raw, 0, _WHITE + _BLACK, out=raw).astype(np.uint16)

    full = cv2.demosaicing(levels, cv2.COLOR_BayerRGGB2RGB) if camera.bayer else levels

    matrix = _saturation(camera.saturation) @ np.diag(shot.white / response)
    offset = -matrix.sum(1, keepdims=True) * _BLACK
    balanced = cv2.transform(full, np.hstack([matrix, offset]).astype(np.float64))

    picture = np.take(_tone_table(camera.contrast), balanced)
    if camera.sharpen:
        soft = cv2.GaussianBlur(picture, (0, 0), 1.0)
        picture = cv2.addWeighted(picture, 1 + camera.sharpen, soft, -camera.sharpen, 0)
    return np.asarray(picture, np.uint8)


def vignette_gains(camera: VirtualCamera, width: int, height: int) -> F32:
    """Return the gains of a lens: 1 in the middle, ``1 - vignette`` in the corners.

    Args:
        camera: Camera that films.
        width: Width of the picture.
        height: Height of the picture.

    Returns:
        Gains (h, w, 1).
    """
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1)[:, None] * (height / width)
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1)[None, :]
    r2 = (x * x + y * y) / (1 + (height / width) ** 2)
    return np.asarray(1 - camera.vignette * r2[..., None], np.float32)


def _mosaic(light: F32, gains: F32) -> F32:
    """Sample one channel per pixel, times its gain, in an RGGB mosaic."""
    raw = np.empty(light.shape[:2], np.float32)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        np.multiply(light[row::2, column::2, channel], gains[channel], out=raw[row::2, column::2])
    return raw


def _saturation(amount: float) -> F32:
    gray = np.tile(np.array([0.3, 0.59, 0.11], np.float32), (3, 1))
    return np.asarray(gray + (np.eye(3, dtype=np.float32) - gray) * amount, np.float32)


@lru_cache(maxsize=16)
def _tone_table(contrast: float) -> U8:
    """Return the sRGB curve with an S-curve mixed in, as a table over 16-bit values."""
    encoded = light_to_srgb(np.arange(65536, dtype=np.float32) / _WHITE)
    curved = encoded * encoded * (3 - 2 * encoded)
    return np.asarray(np.round(255 * (encoded * (1 - contrast) + curved * contrast)), np.uint8)
