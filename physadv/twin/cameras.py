"""Virtual cameras: lens, Bayer sensor with shot and read noise, white balance, color, tone curve
and sharpening.

Sharpness and noise follow from physical data (pixel pitch, pixels read out, f-number, electrons of
a full pixel), so that they change with the size of the picture as a real camera's do: a phone
averages nine pixels of its sensor into one of a 1280 px wide picture, a webcam interpolates each
from a single one.
"""

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
        pixel_um: Pitch of the sensor's pixels, as read out.
        sensor_px: Pixels read out across the picture's width. A delivered pixel averages
            ``sensor_px`` / picture width of them per axis.
        f_number: F-number of the lens.
        lens_um: Standard deviation of the lens's spot on the sensor, by aberrations and focus.
        vignette: Darkening in the corners, as a share.
        electrons: Electrons of a full pixel of the sensor.
        read_noise: Standard deviation of the read noise in electrons, per pixel of the sensor.
        response: Sensitivity of the red, green and blue channel.
        saturation: Factor of the color saturation.
        contrast: Share of an S-curve in the tone curve.
        sharpen: Strength of the unsharp mask.
        wb_error: Standard deviation of the white balance, logarithmic.
        jpeg: Quality of the compression, 1 to 100.
        bayer: Whether the sensor is a Bayer mosaic; otherwise every pixel has all channels.
        shutter: Factor of the exposure time as far as motion blurs; 0 freezes it.
        diffraction: Factor of the blur by diffraction.
    """

    name: str
    focal: float
    k1: float
    pixel_um: float
    sensor_px: int
    f_number: float
    lens_um: float
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
    shutter: float = 1.0
    diffraction: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for twin.json."""
        return asdict(self)

    def oversampling(self, width: int) -> float:
        """Return the sensor's pixels per delivered pixel and axis, for a picture ``width`` px
        wide."""
        return self.sensor_px / width

    def blur_px(self, width: int) -> float:
        """Return the standard deviation of the lens's blur in a picture ``width`` px wide.

        Diffraction counts as the Gaussian that halves the contrast at the same frequency: 0.404 /
        (wavelength x f-number) for a full circular aperture, and 0.187 / its standard deviation
        for a Gaussian.

        Example:
            >>> round(PHONE.blur_px(1280), 2), round(WEBCAM.blur_px(1280), 2)
            (0.2, 0.63)
        """
        diffraction_um = self.diffraction * 0.464 * WAVELENGTH_UM * self.f_number
        spot_um = float(np.hypot(diffraction_um, self.lens_um))
        return spot_um / (self.pixel_um * self.oversampling(width))

    def seconds_to_fill(self, lux: float) -> float:
        """Return the exposure time in s in which a white sign under ``lux`` fills the sensor's
        pixels.

        A lens of 90 % transmission passes pi / 4 x 0.9 / f-number^2 of the sign's luminance on to
        the sensor.

        Example:
            >>> round(1 / PHONE.seconds_to_fill(6000))
            243
        """
        on_sensor = 0.9 / 4 * lux / self.f_number**2
        return self.electrons / (ELECTRONS * on_sensor * self.pixel_um**2)

    def has_mosaic(self, width: int) -> bool:
        """Return whether a picture ``width`` px wide is interpolated from a Bayer mosaic: each
        delivered pixel covers less than a whole quad of red, green, green and blue."""
        return self.bayer and self.oversampling(width) < 2


WAVELENGTH_UM = 0.55
"""Wavelength of green light."""
ELECTRONS = 1500.0
"""Electrons per lux second and square micrometer: OmniVision's OV5647 has 680 mV per lux second and
4300 electrons, about a volt, on 1.4 x 1.4 um."""
ILLUMINANCE_LUX = (60.0, 60_000.0)
"""Illuminance of the clips' signs, from a lit room or dusk to full sun."""
LONGEST_SHUTTER = 1 / 30
"""Longest exposure time of a video frame in s."""
TREMOR_DEG_S = 1.5
"""How fast a hand that holds a camera still turns it."""
FRAME_SIZE = (1280, 720)
"""Width and height of a frame by default: what `physadv check` requests from a camera."""

PHONE = VirtualCamera(
    "phone",
    focal=0.83,
    k1=0.02,
    pixel_um=1.55,
    sensor_px=3840,
    f_number=2.0,
    lens_um=0.8,
    vignette=0.15,
    electrons=5000,
    read_noise=2.5,
    response=(0.58, 1.0, 0.66),
    saturation=1.12,
    contrast=0.28,
    sharpen=0.3,
    wb_error=0.02,
    jpeg=92,
)
"""Main camera of a phone: 1/2.3", 12 megapixels of 1.55 um, f/2.0, as Google's Pixel of 2016 (Sony
IMX378), 26 mm equivalent; video is read 3840 px wide."""

WEBCAM = VirtualCamera(
    "webcam",
    focal=0.83,
    k1=-0.06,
    pixel_um=2.8,
    sensor_px=1280,
    f_number=2.9,
    lens_um=1.6,
    vignette=0.25,
    electrons=17200,
    read_noise=6,
    response=(0.66, 1.0, 0.56),
    saturation=0.92,
    contrast=0.12,
    sharpen=0.25,
    wb_error=0.045,
    jpeg=78,
)
"""Fixed-focus webcam: 1/4", 1.4 um binned to 2.8 um, 1280 px wide, f/2.9, as the OmniVision OV5647
of Raspberry Pi's first camera in its 1296 x 730 mode."""

DASHCAM = VirtualCamera(
    "dashcam",
    focal=0.62,
    k1=-0.14,
    pixel_um=2.0,
    sensor_px=2560,
    f_number=1.8,
    lens_um=1.5,
    vignette=0.3,
    electrons=7000,
    read_noise=4,
    response=(0.62, 1.0, 0.6),
    saturation=1.0,
    contrast=0.35,
    sharpen=0.5,
    wb_error=0.03,
    jpeg=70,
)
"""Dashboard camera: 1/2.8", 2.0 um, 2592 px wide (Sony IMX335), f/1.8, 78 degrees across."""

CAMERAS = (PHONE, WEBCAM, DASHCAM)
"""Cameras that film by default."""

OLD_PHONE = VirtualCamera(
    "old-phone",
    focal=0.93,
    k1=0.05,
    pixel_um=1.4,
    sensor_px=1920,
    f_number=2.4,
    lens_um=1.5,
    vignette=0.3,
    electrons=4300,
    read_noise=6,
    response=(0.7, 1.0, 0.5),
    saturation=1.25,
    contrast=0.4,
    sharpen=0.6,
    wb_error=0.05,
    jpeg=75,
)
"""Phone of about 2011: 8 megapixels of 1.4 um, f/2.4; its 1080p video crops the sensor, as the
OV5647's does."""

SYSTEM_CAMERA = VirtualCamera(
    "system-camera",
    focal=1.4,
    k1=-0.01,
    pixel_um=3.9,
    sensor_px=6000,
    f_number=5.6,
    lens_um=2.0,
    vignette=0.1,
    electrons=30000,
    read_noise=3,
    response=(0.52, 1.0, 0.7),
    saturation=1.05,
    contrast=0.22,
    sharpen=0.2,
    wb_error=0.015,
    jpeg=97,
)
"""APS-C camera of 24 megapixels of 3.9 um, at f/5.6 and 50 mm equivalent."""

ACTION_CAM = VirtualCamera(
    "action-cam",
    focal=0.55,
    k1=-0.2,
    pixel_um=1.55,
    sensor_px=3840,
    f_number=2.8,
    lens_um=1.4,
    vignette=0.35,
    electrons=5000,
    read_noise=3,
    response=(0.6, 1.0, 0.62),
    saturation=1.2,
    contrast=0.32,
    sharpen=0.6,
    wb_error=0.03,
    jpeg=82,
)
"""Action camera: 1/2.3", 12 megapixels of 1.55 um, f/2.8, 3840 px wide (GoPro Hero 3 and 4)."""

CCTV = VirtualCamera(
    "cctv",
    focal=0.8,
    k1=-0.1,
    pixel_um=3.0,
    sensor_px=1920,
    f_number=2.0,
    lens_um=2.4,
    vignette=0.3,
    electrons=9000,
    read_noise=8,
    response=(0.68, 1.0, 0.58),
    saturation=0.85,
    contrast=0.18,
    sharpen=0.5,
    wb_error=0.05,
    jpeg=55,
)
"""Surveillance camera: 1/2.7", 2 megapixels of 3.0 um, f/2.0, strongly compressed."""

KNOWN = {c.name: c for c in (*CAMERAS, OLD_PHONE, SYSTEM_CAMERA, ACTION_CAM, CCTV)}
"""All virtual cameras by name."""

_OFF: dict[str, dict[str, Any]] = {
    "distortion": {"k1": 0.0},
    "defocus": {"diffraction": 0.0, "lens_um": 0.0},
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
        seconds: Exposure time, as far as motion blurs.
        photons: Share of a full pixel's electrons that the light gives in that time.
    """

    exposure: float
    white: F32
    seconds: float = 0.0
    photons: float = 1.0


def random_exposure(
    camera: VirtualCamera, rng: np.random.Generator, exposure: float
) -> ClipExposure:
    """Draw a clip's illuminance, which sets the exposure time, and its white balance error.

    Args:
        camera: Camera that films.
        rng: Random stream of the clip.
        exposure: Exposure gain, from the scene's brightness.

    Returns:
        The settings.
    """
    error = np.exp(rng.normal(0, camera.wb_error, 3)).astype(np.float32)
    lux = float(np.exp(rng.uniform(*np.log(ILLUMINANCE_LUX))))
    return exposure_at(camera, lux, exposure, error / error[1])


def exposure_at(
    camera: VirtualCamera, lux: float, exposure: float = 1.0, white: F32 | None = None
) -> ClipExposure:
    """Return how a camera exposes: in inverse proportion to the light, up to a frame's time, and
    with fewer photons where that is too short.

    Args:
        camera: Camera that films.
        lux: Illuminance of the sign.
        exposure: Exposure gain.
        white: Error (3,) of the white balance gains; None for none.

    Returns:
        The settings.

    Example:
        >>> dim = exposure_at(PHONE, lux=60)
        >>> round(dim.seconds, 3), round(dim.photons, 3)
        (0.033, 0.081)
    """
    full = camera.seconds_to_fill(lux)
    seconds = min(full, LONGEST_SHUTTER)
    balance = np.ones(3, np.float32) if white is None else white
    return ClipExposure(exposure, balance, seconds * camera.shutter, seconds / full)


def with_quality(camera: VirtualCamera, **changes: Any) -> VirtualCamera:
    """Return ``camera`` with the fields ``changes``, such as ``electrons=1e9`` for one without
    noise."""
    return replace(camera, **changes)


def develop_frame(
    light: F32,
    camera: VirtualCamera,
    shot: ClipExposure,
    rng: np.random.Generator,
    *,
    picture_width: int | None = None,
) -> U8:
    """Convert light at the sensor to the picture that a camera delivers.

    Args:
        light: Linear light (h, w, 3), height and width even.
        camera: Camera that films.
        shot: Settings of the clip.
        rng: Random stream of the noise.
        picture_width: Width of the whole picture in px, where ``light`` is a part of it.

    Returns:
        The picture (h, w, 3) uint8 sRGB.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> shot = random_exposure(PHONE, rng, 1.0)
        >>> picture = develop_frame(np.full((4, 4, 3), 0.2, np.float32), PHONE, shot, rng)
        >>> picture.shape, picture.dtype
        ((4, 4, 3), dtype('uint8'))
    """
    width = picture_width or light.shape[1]
    mosaic = camera.has_mosaic(width)
    response = np.array(camera.response, np.float32)
    gains = response * np.float32(shot.exposure)
    raw = _mosaic(light, gains) if mosaic else light * gains
    np.clip(raw, 0, 1, out=raw)

    # Shot noise grows with the light; read noise is constant. Pixels of the sensor that share a
    # delivered one are averaged, a quarter of them red, a half green, a quarter blue.
    pixels = max(camera.oversampling(width), 1.0) ** 2
    averaged = np.float32(pixels) * (
        np.float32(1) if mosaic or not camera.bayer else np.array([0.25, 0.5, 0.25], np.float32)
    )
    electrons = np.float32(camera.electrons * shot.photons)
    variance = (raw / electrons + (np.float32(camera.read_noise) / electrons) ** 2) / averaged
    raw += rng.standard_normal(raw.shape, dtype=np.float32) * np.sqrt(variance)
    raw *= np.float32(_WHITE)
    raw += np.float32(_BLACK)
    levels = np.clip(raw, 0, _WHITE + _BLACK, out=raw).astype(np.uint16)

    full = cv2.demosaicing(levels, cv2.COLOR_BayerRGGB2RGB) if mosaic else levels

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


def tone_levels(contrast: float) -> tuple[F32, F32]:
    """Return 8-bit values (n,) in rising order, and the linear light (n,) that a camera of this
    ``contrast`` encodes so."""
    light = np.linspace(0, 1, 4096, dtype=np.float32)
    return 255 * _tone_curve(light, contrast), light


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
    light = np.arange(65536, dtype=np.float32) / _WHITE
    return np.asarray(np.round(255 * _tone_curve(light, contrast)), np.uint8)


def _tone_curve(light: F32, contrast: float) -> F32:
    encoded = light_to_srgb(light)
    curved = encoded * encoded * (3 - 2 * encoded)
    return np.asarray(encoded * (1 - contrast) + curved * contrast, np.float32)
