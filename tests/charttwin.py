"""Pages printed by the twin's printer and photographed by its cameras, to test calibration."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pypdfium2

from physadv.core.color import linear_to_srgb, srgb_to_linear
from physadv.twin.cameras import PHONE, ClipExposure, VirtualCamera, develop_frame, vignette_gains
from physadv.twin.linear_light import daylight_tint, smooth_noise
from physadv.twin.optics import CameraView, blur_kernel, blur_light, draw_texture, lay_over
from physadv.twin.surface import PlaneTexture, build_texture
from physadv.twin.trajectories import SignPose, sign_homography
from physadv.twin.virtual_printer import VirtualPrinter, print_picture, random_printer

DPI = 150
STRAIGHT = SignPose(420.0, 0.0, 0.0, 0.0, 0.5, 0.5)
SLANTED = SignPose(470.0, 14.0, -9.0, 4.0, 0.5, 0.5)


def raster(pdf: Path, dpi: float = DPI) -> np.ndarray:
    """The first page as (h, w, 3) uint8."""
    with pypdfium2.PdfDocument(str(pdf)) as document:
        return np.asarray(document[0].render(scale=dpi / 72).to_pil().convert("RGB"))


def printed(pdf: Path, printer: VirtualPrinter, seed: int = 0) -> PlaneTexture:
    """The page on paper, as a square texture with the page in its middle and nothing around it."""
    rgb = raster(pdf)
    light = print_picture(rgb, printer, DPI / 25.4, seed)
    side = 1 << int(np.ceil(np.log2(max(rgb.shape[:2]))))
    layer = np.zeros((side, side, 4), np.float32)
    y, x = (side - rgb.shape[0]) // 2, (side - rgb.shape[1]) // 2
    layer[y : y + rgb.shape[0], x : x + rgb.shape[1]] = np.dstack(
        [light, np.ones(rgb.shape[:2], np.float32)]
    )
    return build_texture(layer, side / DPI * 25.4 / 1.08)


def photograph(
    page: PlaneTexture,
    camera: VirtualCamera = PHONE,
    *,
    pose: SignPose = STRAIGHT,
    size: tuple[int, int] = (1600, 1200),
    exposure: float = 0.8,
    ramp: float = 0.15,
    kelvin: float = 5600,
    blur_px: float | None = None,
    seed: int = 0,
    shadow: float = 0.0,
    turned: bool = True,
) -> np.ndarray:
    """One photo (h, w, 3) uint8: the page on a gray desk in light that falls off by ``ramp`` either
    way."""
    rng = np.random.default_rng(seed)
    focal = camera.focal * size[0]
    roll = pose.roll + (90 if turned else 0)
    placed = SignPose(
        pose.distance_mm, pose.yaw, pose.pitch, roll, pose.u * size[0], pose.v * size[1]
    )
    view = CameraView(sign_homography(placed, focal, size), camera.k1, focal, size)
    scene = np.full((size[1], size[0], 3), 0.3, np.float32) * (
        0.8 + 0.4 * smooth_noise(rng, size[1], size[0])[..., None]
    )
    drawn = draw_texture(page, view)
    assert drawn is not None
    lay_over(scene, *drawn)
    x, y = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]))
    light = 1 + ramp * (0.8 * x + 0.6 * y)
    light *= np.where(x + 0.3 * y > 0.1, 1 - shadow, 1)
    scene *= (light[..., None] * daylight_tint(kelvin) * vignette_gains(camera, *size)).astype(
        np.float32
    )
    sigma = camera.blur_px(size[0]) if blur_px is None else blur_px
    while sigma > 2.5:  # the kernel is cut at 15 px
        scene, sigma = (
            blur_light(scene, blur_kernel(2.5, np.zeros(2))),
            float(np.sqrt(sigma**2 - 2.5**2)),
        )
    scene = blur_light(scene, blur_kernel(sigma, np.zeros(2)))
    picture = develop_frame(
        scene, camera, ClipExposure(exposure, (1 / daylight_tint(kelvin)).astype(np.float32)), rng
    )
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg])
    return np.asarray(cv2.imdecode(data, 1)[..., ::-1])


def truth(
    colors: np.ndarray,
    printer: VirtualPrinter,
    camera: VirtualCamera = PHONE,
    exposure: float = 0.8,
) -> np.ndarray:
    """What the camera shows of large, evenly lit areas of (n, 3) uint8 colors, encoded, bare paper
    being 1."""
    even = VirtualPrinter(printer.primaries, printer.gain, printer.spread_mm, 0.0)
    quiet = VirtualCamera(
        **{**camera.as_dict(), "electrons": 1e9, "read_noise": 0.0, "sharpen": 0.0}
    )

    def shown(values: np.ndarray) -> np.ndarray:
        light = print_picture(values[:, None].repeat(8, 1).repeat(8, 0), even, 0.1, 0)
        shot = ClipExposure(exposure, np.ones(3, np.float32))
        seen = develop_frame(light, quiet, shot, np.random.default_rng(0)).reshape(
            len(values), 8, 8, 3
        )
        return srgb_to_linear(seen[:, 3:5, 3:5].mean((1, 2)) / 255)

    return linear_to_srgb(shown(colors) / shown(np.full((1, 3), 255, np.uint8)))


@lru_cache(maxsize=4)
def printer_of(seed: int) -> VirtualPrinter:
    return random_printer(seed)
