"""Picture of a drawn street in one light: points of the world, polygons and flat pictures are
projected into it, and a camera exposes it.

World: x right, y up, z away from the camera, in meters; the camera stands over the origin and looks
along z. Colors are linear reflectances times light until the picture is exposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from physadv.core.image_io import Array

F = np.float32
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Points = Sequence[tuple[float, float, float]]

_NEAREST_M = 0.5
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def _tones() -> F32:
    """Return the sRGB levels, 0 to 255, of light from 0 to 2, with a soft shoulder."""
    light = np.linspace(0, 2, 16384)
    light = np.where(light < 0.7, light, 0.7 + 0.3 * np.tanh((light - 0.7) / 0.3))
    encoded = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(255 * encoded, np.float32)


_TONES = _tones()


@dataclass(frozen=True)
class StreetLight:
    """Light of a street, as factors of reflectance.

    Attributes:
        sky: Light (3,) of the sky alone.
        sun: Light (3,) that the sun adds to a surface that faces it; 0 under clouds.
        side: Where the sun stands: -1 left, 1 right.
        haze: Color (3,) that far things fade to.
        clear_m: Distance over which 1 / e of a thing's own color is left.
    """

    sky: F32
    sun: F32
    side: int
    haze: F32
    clear_m: float

    def on_ground(self) -> F32:
        """Return the light (3,) on the ground."""
        return np.asarray(self.sky + 0.75 * self.sun)

    def on_wall(self, row: int) -> F32:
        """Return the light (3,) on walls along the street, of the left (-1) or right (1) row."""
        return np.asarray(0.7 * self.sky + (0.9 if self.side == -row else 0.0) * self.sun)

    def on_front(self) -> F32:
        """Return the light (3,) on what faces the camera."""
        return np.asarray(0.7 * self.sky + 0.25 * self.sun)

    def veiled(self, color: F32, z: float) -> F32:
        """Return a color (..., 3) as seen through ``z`` m of haze."""
        left = np.float32(np.exp(-z / self.clear_m))
        return np.asarray(color * left + self.haze * (1 - left), np.float32)


def random_street_light(rng: np.random.Generator) -> StreetLight:
    """Draw clear, hazy or overcast daylight from ``rng``."""
    sunny = rng.choice([1.0, 0.5, 0.0], p=[0.5, 0.2, 0.3])
    blue = 0.25 * sunny
    sky = np.array([1 - blue, 1.0, 1 + blue]) * rng.uniform(0.25, 0.4) * (2.2 - 1.2 * sunny)
    low = rng.uniform(0, 0.25)
    sun = np.array([1.0, 1 - 0.4 * low, 1 - low]) * sunny
    haze = np.array([0.6, 0.66, 0.72]) * rng.uniform(0.5, 1.1)
    side = int(rng.choice([-1, 1]))
    return StreetLight(
        sky.astype(F), sun.astype(F), side, haze.astype(F), float(rng.uniform(150, 600))
    )


def facing(x0: float, x1: float, y0: float, y1: float, z: float) -> Points:
    """Return the corners of a rectangle that faces the camera, from the top left clockwise."""
    return [(x0, y1, z), (x1, y1, z), (x1, y0, z), (x0, y0, z)]


def along(x: float, y0: float, y1: float, z0: float, z1: float) -> Points:
    """Return the corners of a rectangle along the street, from its top near one on."""
    return [(x, y1, z0), (x, y1, z1), (x, y0, z1), (x, y0, z0)]


def lying(x0: float, x1: float, z0: float, z1: float) -> Points:
    """Return the corners of a rectangle on the ground."""
    return [(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)]


class StreetCanvas:
    """A picture that things are drawn into, from far to near.

    Args:
        rng: Random stream of the camera and the light.
        height: Height in px.
        width: Width in px.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.size = (width, height)
        self.focal = width * float(rng.uniform(0.7, 1.1))
        self.eye_m = float(rng.uniform(1.3, 2.1))
        self.vanishing = (width * float(rng.uniform(0.15, 0.85)), height * rng.uniform(0.42, 0.66))
        self.light = random_street_light(rng)
        self.picture: F32 = np.empty((height, width, 3), np.float32)

    def project(self, points: npt.ArrayLike) -> F64:
        """Return the pixels (n, 2) of ``points`` (n, 3); what lies behind the camera is drawn half
        a meter before it."""
        x, y, z = np.asarray(points, np.float64).T
        z = np.maximum(z, _NEAREST_M)
        u, v = self.vanishing
        return np.column_stack([u + self.focal * x / z, v + self.focal * (self.eye_m - y) / z])

    def fill(self, points: Points, color: F32, z: float) -> None:
        """Fill a polygon of ``points`` with a lit ``color`` (3,), seen from ``z`` m."""
        polygon = np.clip(self.project(points), -20_000, 20_000)
        window = self._window(polygon, 1)
        if window is None:
            return
        x0, y0, x1, y1 = window

        # Drawn on 8 bits, for OpenCV smooths edges of those alone.
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        corners = np.round(polygon * 16).astype(np.int32) - np.array([x0, y0], np.int32) * 16
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, 4)
        part = self.picture[y0:y1, x0:x1]
        part += (self.light.veiled(color, z) - part) * (mask[..., None] * F(1 / 255))

    def lay(self, flat: F32, corners: Points, z: float) -> None:
        """Lay a lit picture ``flat`` (h, w, 3 or 4) onto the plane of four ``corners``, clockwise
        from its top left, seen from ``z`` m."""
        points = self.project(corners)
        window = self._window(points, 0)
        if window is None:
            return
        x0, y0, x1, y1 = window

        # Averaged to about the size at which it is seen, so that it does not alias.
        whole = flat.shape[1::-1]
        shape = [
            int(np.clip(np.ceil(span), 2, side))
            for span, side in zip(np.ptp(points, axis=0), whole, strict=True)
        ]
        if shape != list(whole):
            flat = np.asarray(cv2.resize(flat, shape, interpolation=cv2.INTER_AREA), np.float32)

        h, w = flat.shape[:2]
        cover = flat[..., 3] if flat.shape[2] == 4 else np.ones((h, w), F)
        layer = np.dstack([self.light.veiled(flat[..., :3], z), cover])
        layer = cv2.copyMakeBorder(layer, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        layer[[0, -1], :, 3] = 0
        layer[:, [0, -1], 3] = 0

        source = np.array([[0, 0], [w, 0], [w, h], [0, h]], F) + F(0.5)
        target = (points - [x0, y0]).astype(F) - F(0.5)
        warp = cv2.getPerspectiveTransform(source, target)
        drawn = cv2.warpPerspective(layer, warp, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        part = self.picture[y0:y1, x0:x1]
        part += (drawn[..., :3] - part) * drawn[..., 3:]

    def line(self, points: npt.ArrayLike) -> None:
        """Draw a thin dark line through ``points`` (n, 3)."""
        pixels = np.round(self.project(points) * 16).astype(np.int32)[:, None]
        cv2.polylines(self.picture, [pixels], False, (0.05, 0.05, 0.05), 1, cv2.LINE_AA, 4)

    def soften(self, sigma: float) -> None:
        """Blur what is drawn so far by ``sigma`` px of 1280 across, as a lens focused nearer."""
        sigma *= self.size[0] / 1280
        if sigma > 0.3:
            self.picture = np.asarray(cv2.GaussianBlur(self.picture, (0, 0), sigma), np.float32)

    def exposed(self, rng: np.random.Generator) -> Array:
        """Return the picture (h, w, 3) uint8 sRGB as a camera exposes it, by its mean, with a soft
        shoulder, a lens's blur and grain of ``rng``."""
        luma = self.picture[::4, ::4] @ _LUMA
        gain = 0.16 / max(float(np.exp(np.log(luma + 0.01).mean())), 0.02)
        gain *= 2 ** float(rng.uniform(-0.5, 0.5))
        sigma = max(0.3, float(rng.uniform(0.3, 0.8)) * self.size[0] / 1280)
        top = len(_TONES) - 1
        levels = cv2.GaussianBlur(self.picture, (0, 0), sigma) * F(gain * top / 2)

        encoded = _TONES[np.clip(levels, 0, top).astype(np.uint16)]
        width, height = self.size
        grain = rng.standard_normal((256, 256), dtype=F) * F(2)
        grain = np.tile(grain, (height // 256 + 1, width // 256 + 1))[:height, :width]
        return np.asarray((encoded + grain[..., None]).clip(0, 255).round(), np.uint8)

    def _window(self, points: F64, pad: int) -> tuple[int, int, int, int] | None:
        """Return the whole px (x0, y0, x1, y1) around points, cut to the picture; None for none."""
        x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - pad, 0).tolist()
        x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 1 + pad, self.size).tolist()
        return (x0, y0, x1, y1) if x1 > x0 + 1 - pad and y1 > y0 + 1 - pad else None
