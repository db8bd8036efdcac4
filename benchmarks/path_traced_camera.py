"""Cameras for path-traced light, from the physics of lens and sensor alone.

They share no code with the twin's: diffraction, defocus and aberrations multiply as transfer
functions at the sensor's own resolution; photons are counted by the sensor's area, the lens and the
exposure time; a Bayer mosaic is read, demosaiced by OpenCV, averaged to the delivered picture,
encoded as sRGB and stored as JPEG. Nothing is sharpened.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import cv2
import numpy as np
import numpy.typing as npt
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.special import j1

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Window = tuple[int, int, int, int]

ELECTRONS = 1500.0
"""Electrons per lux second and square micrometer: the OV5647's 680 mV per lux second, at 4.3 ke- per
volt, on 1.96 square micrometers (Raspberry Pi's data sheet of its camera)."""
LONGEST_S = 1 / 30
"""Longest exposure of a video frame."""
TREMOR_DEG_S = 1.5
"""How fast a hand turns the camera."""
_WAVES_UM = (0.60, 0.54, 0.46)
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True)
class Device:
    """A lens and a sensor.

    Attributes:
        name: Name of the camera.
        pixel_um: Pitch of the pixels that are read out.
        oversampling: Pixels read out for each pixel delivered, per axis.
        f_number: F-number of the lens.
        lens_um: Standard deviation of the spot by the lens's aberrations, on the sensor.
        focus_m: Distance that the lens is set to; 0 focuses on the sign.
        electrons: Electrons of a full pixel.
        read_noise: Standard deviation of the read noise in electrons.
        jpeg: Quality of the JPEG, 1 to 100.
    """

    name: str
    pixel_um: float
    oversampling: int
    f_number: float
    lens_um: float
    focus_m: float
    electrons: float
    read_noise: float
    jpeg: int


DEVICES = (
    # Main camera of a phone like Google's Pixel of 2016: Sony IMX378, 1.55 um, f/2.0, 4048 x 3036,
    # of which 4K video reads 3840 x 2160.
    Device("phone", 1.55, 3, 2.0, 0.8, 0.0, 5000, 2.5, 92),
    # Small fixed-focus camera like the OV5647 of webcams and Raspberry Pi's first camera: 1.4 um,
    # f/2.9, 4.3 ke-, sharp from 1 m on, and 1296 x 730 from 2 x 2 binned pixels.
    Device("webcam", 2.8, 1, 2.9, 1.4, 2.0, 17200, 6.0, 80),
)
"""Cameras of the benchmark."""


@dataclass(frozen=True)
class Exposure:
    """How a camera takes one picture.

    Attributes:
        gain: Raw level, 1 at full scale, per unit of radiance.
        electrons: Electrons at full scale.
        balance: White balance gains (3,).
        motion_px: Movement (2,) of the picture during the exposure, in delivered px.
    """

    gain: float
    electrons: float
    balance: F32
    motion_px: tuple[float, float]


def expose(
    around: F32,
    on_plane: F32,
    lux: float,
    device: Device,
    focal_px: float,
    rng: np.random.Generator,
) -> Exposure:
    """Set a camera by the picture without the sign's face, as its automatic control does.

    Args:
        around: Radiance (h, w, 3).
        on_plane: Radiance (n, n, 3) of a white plane in the sign's place.
        lux: Illuminance of that plane.
        device: Camera.
        focal_px: Focal length in delivered px.
        rng: Random stream of the picture.
    """
    mean = float((around @ _LUMA).mean())
    white = float((on_plane @ _LUMA).mean())
    gain = min(0.17 / mean, 1.15 / white) * 2 ** float(rng.uniform(-0.4, 0.2))

    # Luminance in cd / m^2 that fills a pixel, and the time it takes to.
    full = lux / pi / (gain * white)
    on_sensor = pi / 4 * full * 0.9 / device.f_number**2
    seconds = device.electrons / (ELECTRONS * on_sensor * device.pixel_um**2)
    used = min(seconds, LONGEST_S)

    color = on_plane.mean((0, 1)) / white
    turn = np.radians(TREMOR_DEG_S) * used * focal_px * rng.normal(0, 1, 2)
    return Exposure(
        gain,
        device.electrons * used / seconds,
        np.asarray(color**-0.85, np.float32),
        (float(turn[0]), float(turn[1])),
    )


def transfer(
    shape: tuple[int, int], device: Device, distance_m: float, focal_mm: float, motion: F32
) -> F32:
    """Return the optical transfer function (3, h, w // 2 + 1) on the sensor, without its pixels.

    Args:
        shape: Height and width of the window in sensor px.
        device: Camera.
        distance_m: Distance of what is seen.
        focal_mm: Focal length.
        motion: Movement (2,) in sensor px.
    """
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    per_um = np.hypot(fx, fy) / device.pixel_um

    # Diameter of the geometric spot of a lens set to another distance.
    spot_um = 0.0
    if device.focus_m:
        away = abs(1 / device.focus_m - 1 / distance_m) / 1000
        spot_um = focal_mm**2 / device.f_number * away * 1000
    x = pi * spot_um * per_um
    with np.errstate(invalid="ignore", divide="ignore"):
        defocus = np.where(x > 1e-6, 2 * j1(x) / x, 1.0)
    lens = np.exp(-2 * (pi * device.lens_um * per_um) ** 2)
    moved = np.sinc(motion[0] * fx + motion[1] * fy)

    planes = []
    for wave in _WAVES_UM:
        share = np.minimum(per_um * wave * device.f_number, 1.0)
        airy = 2 / pi * (np.arccos(share) - share * np.sqrt(1 - share**2))
        planes.append(airy * defocus * lens * moved)
    return np.asarray(planes, np.float32)


def blur(light: F32, otf: F32, pad: int) -> F32:
    """Apply a transfer function to light (h, w, 3), mirrored by ``pad`` or more on every side."""
    height, width = otf.shape[1], (otf.shape[2] - 1) * 2
    below, right = height - light.shape[0] - pad, width - light.shape[1] - pad
    padded = np.pad(light, ((pad, below), (pad, right), (0, 0)), mode="symmetric")
    blurred = [irfft2(rfft2(padded[..., k]) * otf[k], padded.shape[:2]) for k in range(3)]
    inner = np.stack(blurred, -1)[pad : pad + light.shape[0], pad : pad + light.shape[1]]
    return np.asarray(np.maximum(inner, 0), np.float32)


def average_read_out(light: F32, device: Device, shot: Exposure, noise: F32) -> F32:
    """Return about what :func:`read_out` does of light (h, w, 3) at the delivered pixels of a device
    that averages whole quads of its mosaic.

    Args:
        light: Radiance (h, w, 3).
        device: Camera.
        shot: Its setting.
        noise: Standard normal numbers (h, w, 3).
    """
    response = np.array([0.55, 1.0, 0.62], np.float32)
    raw = np.clip(light * shot.gain * response, 0, 1)
    electrons = shot.electrons * device.oversampling**2 * np.array([0.25, 0.5, 0.25], np.float32)
    linear = (raw + noise * np.sqrt(raw / electrons)) / response * shot.balance
    return np.asarray(linear, np.float32)


def read_out(light: F32, device: Device, shot: Exposure, noise: F32) -> F32:
    """Return the linear picture (h / oversampling, w / oversampling, 3) of light on the sensor.

    Args:
        light: Radiance (h, w, 3) at the sensor's pixels, height and width even.
        device: Camera.
        shot: Its setting.
        noise: Standard normal numbers (h, w).
    """
    response = np.array([0.55, 1.0, 0.62], np.float32)
    raw = np.empty(light.shape[:2], np.float32)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        raw[row::2, column::2] = light[row::2, column::2, channel] * response[channel]
    raw = np.clip(raw * shot.gain, 0, 1)
    spread = np.sqrt(raw / shot.electrons + (device.read_noise / shot.electrons) ** 2)
    levels = np.clip((raw + noise * spread) * 15000 + 800, 0, 15800).astype(np.uint16)

    full = cv2.demosaicing(levels, cv2.COLOR_BayerRGGB2RGB).astype(np.float32)
    linear = (full - 800) / 15000 / response * shot.balance
    height, width = (side // device.oversampling for side in linear.shape[:2])
    return np.asarray(cv2.resize(linear, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def deliver(linear: F32, device: Device) -> U8:
    """Return the picture (h, w, 3) uint8 after sRGB encoding and JPEG."""
    value = np.clip(linear, 0, 1)
    encoded = np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)
    picture = np.round(255 * encoded).astype(np.uint8)[..., ::-1]
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, device.jpeg])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def corners_px(homography: npt.NDArray[np.float64], sign_mm: float) -> npt.NDArray[np.float64]:
    """Return the corners (4, 2) in px of a sign ``sign_mm`` wide, by its ``homography``."""
    half = sign_mm / 2
    square = np.array([[[-half, -half], [half, -half], [half, half], [-half, half]]])
    return np.asarray(cv2.perspectiveTransform(square, homography)[0], np.float64)


class Camera:
    """A device that photographs one pose, with any face.

    Args:
        device: The device.
        around: Radiance (h, w, 3) of the picture without the face.
        on_plane: Radiance (n, n, 3) of a white plane in the sign's place.
        homography: From mm on the sign to px.
        sign_mm: Width of the sign.
        distance_m: Distance of the sign.
        focal: Focal length in picture widths.
        lux: Illuminance of the sign.
        seed: Seed of noise, exposure and tremor.
    """

    def __init__(
        self,
        device: Device,
        around: F32,
        on_plane: F32,
        homography: npt.NDArray[np.float64],
        *,
        sign_mm: float,
        distance_m: float,
        focal: float,
        lux: float,
        seed: np.random.Generator,
    ) -> None:
        self.device, self._on_plane, self._sign_mm = device, on_plane, sign_mm
        self._homography, self._distance = homography, distance_m
        height, width = around.shape[:2]
        k = device.oversampling
        self._focal_mm = focal * width * k * device.pixel_um / 1000
        self.shot = expose(around, on_plane, lux, device, focal * width, seed)

        self._around = around
        if k == 1:
            noise = seed.standard_normal((height, width), dtype=np.float32)
            self._background = read_out(around, device, self.shot, noise)
        else:
            noise = seed.standard_normal(around.shape, dtype=np.float32)
            self._background = average_read_out(around, device, self.shot, noise)

        x0, y0, x1, y1 = self._window()
        self._noise = seed.standard_normal(((y1 - y0) * k, (x1 - x0) * k), dtype=np.float32)

    def photograph(self, reflectance: F32) -> U8:
        """Photograph a face, premultiplied RGBA (n, n, 4) of linear reflectances over its square."""
        x0, y0, x1, y1 = window = self._window()
        face = self._drawn(reflectance, window)
        height, width = face.shape[:2]

        behind = cv2.resize(self._around[y0:y1, x0:x1], (width, height))
        light = behind * (1 - face[..., 3:]) + face[..., :3]

        pad = 24
        motion = np.array(self.shot.motion_px, np.float32) * self.device.oversampling
        shape = (next_fast_len(height + 2 * pad), 2 * next_fast_len(width // 2 + pad))
        otf = transfer(shape, self.device, self._distance, self._focal_mm, motion)
        part = read_out(blur(light, otf, pad), self.device, self.shot, self._noise)

        picture = self._background.copy()
        picture[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] = part[2:-2, 2:-2]
        return deliver(picture, self.device)

    def light(self, reflectance: F32) -> F32:
        """Return the radiance (h, w, 3) of the whole picture with a face, before the lens; for
        devices that deliver every pixel."""
        x0, y0, x1, y1 = window = self._window()
        face = self._drawn(reflectance, window)
        picture = self._around.copy()
        picture[y0:y1, x0:x1] *= 1 - face[..., 3:]
        picture[y0:y1, x0:x1] += face[..., :3]
        return picture

    def _window(self) -> Window:
        """Return the part of the picture (x0, y0, x1, y1) that the face changes, in even px."""
        corners, (height, width) = (
            corners_px(self._homography, self._sign_mm),
            self._background.shape[:2],
        )
        x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int) - 12, 0) // 2 * 2
        x1, y1 = (np.ceil(corners.max(0)).astype(int) + 13) // 2 * 2
        return int(x0), int(y0), min(int(x1), width), min(int(y1), height)

    def _drawn(self, reflectance: F32, window: Window) -> F32:
        """Return the lit face as premultiplied radiance (h, w, 4) averaged over the sensor's pixels."""
        x0, y0, x1, y1 = window
        corners = corners_px(self._homography, self._sign_mm)
        span = np.linalg.norm(corners - np.roll(corners, 1, 0), axis=1).max()
        k = self.device.oversampling
        fine = k * (3 if span * k < 600 else 2 if span * k < 1200 else 1)

        # A texture about as fine as the sub-pixels neither aliases nor blurs.
        size = int(np.clip(np.ceil(span * fine), 64, reflectance.shape[0]))
        texture = cv2.resize(reflectance, (size, size), interpolation=cv2.INTER_AREA)
        light = cv2.resize(self._on_plane, (size, size), interpolation=cv2.INTER_LINEAR)
        texture = np.dstack([texture[..., :3] * light, texture[..., 3]])

        to_mm = np.diag([self._sign_mm / size, self._sign_mm / size, 1.0])
        to_mm[:2, 2] = (0.5 / size - 0.5) * self._sign_mm
        to_fine = np.array([[fine, 0, -x0 * fine - 0.5], [0, fine, -y0 * fine - 0.5], [0, 0, 1.0]])
        drawn = cv2.warpPerspective(
            texture,
            to_fine @ self._homography @ to_mm,
            ((x1 - x0) * fine, (y1 - y0) * fine),
            flags=cv2.INTER_LINEAR,
        )
        shape = ((x1 - x0) * k, (y1 - y0) * k)
        return np.asarray(cv2.resize(drawn, shape, interpolation=cv2.INTER_AREA), np.float32)
