"""A picture printed on paper, photographed from the front and cut out again, after Kurakin et al.
(2016)."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np

from physadv.core.errors import OptionError
from physadv.core.opencv_pictures import decode_bgr
from physadv.core.random_streams import numpy_generator
from physadv.twin.cameras import (
    FRAME_SIZE,
    TREMOR_DEG_S,
    VirtualCamera,
    develop_frame,
    exposure_at,
    leave_out,
    random_exposure,
    vignette_gains,
)
from physadv.twin.linear_light import F32, U8, daylight_tint
from physadv.twin.optics import CameraView, blur_kernel, blur_light, draw_texture, lay_over
from physadv.twin.surface import EXTENT, build_texture
from physadv.twin.trajectories import SignPose, sign_homography
from physadv.twin.virtual_printer import ideal_print, print_picture, printer_named

# Print dots per pixel of the picture and axis, enough that the print does not limit the resolution.
_FINE = 4

_LUX = 6000.0
"""Illuminance of the sheet: an overcast day."""


def photograph_print(
    picture: U8,
    *,
    camera: VirtualCamera,
    printer: str = "drawn",
    width_mm: float = 100.0,
    span_px: int = 0,
    tilt_deg: float = 4.0,
    without: Collection[str] = (),
    seed: int = 0,
    shot: int = 0,
) -> U8:
    """Print a square picture, photograph it by hand, and cut it out by its corners.

    Args:
        picture: Picture (n, n, 3) uint8.
        camera: Camera that photographs.
        printer: One of ``virtual_printer.PRINTERS``.
        width_mm: Width of the print.
        span_px: Width of the print in the photo; 0 takes 1.4 n.
        tilt_deg: Largest rotation about each axis.
        without: Effects to leave out, as for :func:`physadv.twin.simulate.simulate_clips`.
        seed: Seed of the printer.
        shot: Number of the photo, which seeds hand, light, noise and white balance.

    Returns:
        The cut-out (n, n, 3) uint8.

    Raises:
        OptionError: The picture is not square.

    Example:
        >>> from physadv.twin.cameras import PHONE
        >>> picture = np.full((32, 32, 3), 128, np.uint8)
        >>> photograph_print(picture, camera=PHONE).shape
        (32, 32, 3)
    """
    printed = print_flat(
        picture, "ideal" if "printer" in without else printer, width_mm=width_mm, seed=seed
    )

    return photograph_flat(
        printed,
        camera=leave_out(camera, without),
        width_mm=width_mm,
        span_px=span_px,
        tilt_deg=tilt_deg,
        seed=seed,
        shot=shot,
    )


def print_flat(picture: U8, printer: str, *, width_mm: float = 100.0, seed: int = 0) -> F32:
    """Print a square picture, so that several cameras can photograph the same print.

    Args:
        picture: Picture (n, n, 3) uint8.
        printer: One of ``virtual_printer.PRINTERS``.
        width_mm: Width of the print.
        seed: Seed of the printer.

    Returns:
        Linear reflectance (4 n, 4 n, 3) of the print.

    Raises:
        OptionError: The picture is not square.
    """
    size = picture.shape[0]
    if picture.shape != (size, size, 3):
        raise OptionError(f"picture of shape {picture.shape}", "(n, n, 3)", "Cut it to a square")

    fine = cv2.resize(picture, None, fx=_FINE, fy=_FINE, interpolation=cv2.INTER_NEAREST)
    dots = np.asarray(fine, np.uint8)

    device = printer_named(printer, seed)
    return (
        ideal_print(dots)
        if device is None
        else print_picture(dots, device, dots.shape[0] / width_mm, seed)
    )


def photograph_flat(
    printed: F32,
    *,
    camera: VirtualCamera,
    width_mm: float = 100.0,
    span_px: int = 0,
    tilt_deg: float = 4.0,
    seed: int = 0,
    shot: int = 0,
) -> U8:
    """Photograph a print of :func:`print_flat` and cut it out again.

    Args:
        printed: Linear reflectance (4 n, 4 n, 3) of the print.
        camera: Camera that photographs.
        width_mm: Width of the print.
        span_px: Width of the print in the photo; 0 takes 1.4 n.
        tilt_deg: Largest rotation about each axis.
        seed: Seed of the photo, together with ``shot``.
        shot: Number of the photo.

    Returns:
        The cut-out (n, n, 3) uint8.
    """
    size = printed.shape[0] // _FINE
    rng = numpy_generator(seed, "twin", "flat", shot)
    view, frame = _view(rng, camera, width_mm, span_px or round(1.4 * size), tilt_deg)

    light = np.float32(rng.uniform(0.75, 0.95)) * daylight_tint(rng.uniform(5500, 7500))
    light = light * np.float32(0.85 / light.max())
    sheet = build_texture(_on_paper(printed * light), width_mm)

    base = np.empty((frame[1], frame[0], 3), np.float32)
    base[:] = np.float32(0.5) * light
    # The frame is cut from a whole picture.
    width = FRAME_SIZE[0]
    tremor = np.deg2rad(TREMOR_DEG_S) * camera.focal * width * rng.uniform(-2, 2, 2)
    seconds = exposure_at(camera, _LUX).seconds
    kernel = blur_kernel(camera.blur_px(width), tremor * seconds)
    drawn = draw_texture(sheet, view, pad=3 + kernel.shape[0] // 2)
    if drawn is not None:
        lay_over(base, drawn[0], drawn[1])

    base = blur_light(base, kernel) * vignette_gains(camera, *frame)
    exposure = exposure_at(camera, _LUX, white=random_exposure(camera, rng, 1.0).white)
    photo = develop_frame(base, camera, exposure, rng, picture_width=width)
    return _cut_out(stored_picture(photo, camera.jpeg), view, width_mm, size)


def _view(
    rng: np.random.Generator, camera: VirtualCamera, width_mm: float, span_px: int, tilt_deg: float
) -> tuple[CameraView, tuple[int, int]]:
    """Draw the view of the sheet: nearly from the front, filling about two thirds of the frame."""
    frame = (int(span_px * 1.5) // 2 * 2 + 2, int(span_px * 1.5) // 2 * 2 + 2)
    focal = camera.focal * frame[0] * 1.5

    yaw, pitch, roll = (float(a) for a in rng.uniform(-tilt_deg, tilt_deg, 3))
    middle = np.array(frame) / 2 + rng.uniform(-0.03, 0.03, 2) * span_px
    pose = SignPose(
        width_mm * focal / span_px, yaw, pitch, roll, float(middle[0]), float(middle[1])
    )
    return CameraView(sign_homography(pose, focal, frame), camera.k1, focal, frame), frame


def _on_paper(lit: F32) -> F32:
    """Return opaque RGBA, extended by its own edge as far as a texture's margin for soft edges."""
    rim = round((EXTENT - 1) / 2 * lit.shape[0])
    opaque = np.dstack([lit, np.ones(lit.shape[:2], np.float32)])
    return np.asarray(
        cv2.copyMakeBorder(opaque, rim, rim, rim, rim, cv2.BORDER_REPLICATE), np.float32
    )


def stored_picture(picture: U8, quality: int) -> U8:
    """Return ``picture`` (h, w, 3) as JPEG of ``quality`` delivers it; unchanged from 100 on."""
    if quality >= 100:
        return picture
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return np.asarray(
        cv2.cvtColor(decode_bgr(data.tobytes(), "photo"), cv2.COLOR_BGR2RGB), np.uint8
    )


def _cut_out(photo: U8, view: CameraView, width_mm: float, size: int) -> U8:
    """Cut out the sheet's square by its true corners, as an experimenter does by printed marks."""
    half = width_mm / 2
    corners = view.project(np.array([[-half, -half], [half, -half], [half, half], [-half, half]]))

    target = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    shift = np.float32(0.5)
    to_square = cv2.getPerspectiveTransform((corners - 0.5).astype(np.float32), target * 2 - shift)
    twice = cv2.warpPerspective(photo, to_square, (2 * size, 2 * size), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(twice, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
