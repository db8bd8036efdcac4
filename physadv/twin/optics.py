"""Planes seen through a lens: textures drawn into a picture without aliasing, and blur by defocus
and motion."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from physadv.twin.linear_light import F32
from physadv.twin.surface import PlaneTexture
from physadv.twin.trajectories import F64, distort_points, project_points


@dataclass(frozen=True)
class CameraView:
    """View of a plane: a homography to ideal pixels, then the lens.

    Attributes:
        plane_to_px: Homography (3, 3) from mm on the plane to ideal pixels.
        k1: Radial distortion of the lens.
        focal_px: Focal length in px.
        size: Width and height of the picture.
    """

    plane_to_px: F64
    k1: float
    focal_px: float
    size: tuple[int, int]

    def project(self, points_mm: F64) -> F64:
        """Map ``points_mm`` (n, 2) on the plane to pixels."""
        return distort_points(
            project_points(self.plane_to_px, points_mm), self.k1, self.focal_px, self.size
        )

    def plane_grid(self, window: tuple[int, int, int, int], fine: int) -> tuple[F32, F32]:
        """Return the mm on the plane behind each of ``fine`` x ``fine`` sub-pixels of the
        ``window`` (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = window
        cx, cy, f = self.size[0] / 2, self.size[1] / 2, self.focal_px
        x = ((x0 + (np.arange((x1 - x0) * fine) + 0.5) / fine - cx) / f).astype(np.float32)[None, :]
        y = ((y0 + (np.arange((y1 - y0) * fine) + 0.5) / fine - cy) / f).astype(np.float32)[:, None]
        bend = 1 + np.float32(self.k1) * (x * x + y * y)

        # Rows are in units of the focal length, columns in meters, so that float32 is enough.
        inverse = np.linalg.inv(self.plane_to_px) @ np.array([[f, 0, cx], [0, f, cy], [0, 0, 1.0]])
        m = (inverse / np.abs(inverse[2]).max()).astype(np.float32)

        xb, yb = x * bend, y * bend
        below = m[2, 0] * xb + m[2, 1] * yb + m[2, 2]
        return (m[0, 0] * xb + m[0, 1] * yb + m[0, 2]) / below, (
            m[1, 0] * xb + m[1, 1] * yb + m[1, 2]
        ) / below


def _window_of(points: F64, size: tuple[int, int], pad: int) -> tuple[int, int, int, int] | None:
    """Return the padded whole-pixel box around points, cut to the picture; None where it is out of
    view."""
    low, high = np.floor(points.min(0)).astype(int) - pad, np.ceil(points.max(0)).astype(int) + pad
    x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
    x1, y1 = min(size[0], int(high[0])), min(size[1], int(high[1]))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def draw_texture(
    texture: PlaneTexture, view: CameraView, pad: int = 4
) -> tuple[tuple[int, int, int, int], F32] | None:
    """Draw a texture into a window of the picture, averaged over sub-pixels.

    Args:
        texture: Texture of the plane.
        view: View of the plane.
        pad: Pixels added around the texture's outline.

    Returns:
        The window (x0, y0, x1, y1) and its premultiplied RGBA; None where the plane is out of view.
    """
    half = texture.side_mm / 2
    outline = view.project(np.array([[-half, -half], [half, -half], [half, half], [-half, half]]))
    window = _window_of(outline, view.size, pad)
    if window is None:
        return None

    width_px = float(np.linalg.norm(outline - np.roll(outline, 1, 0), axis=1).max())
    fine = 3 if width_px < 150 else 2
    level = texture.level_for(texture.side_mm / (width_px * fine))

    n = level.shape[0]
    x, y = view.plane_grid(window, fine)
    to_texel = np.float32(n / texture.side_mm)
    fine_pixels = cv2.remap(
        level,
        x * to_texel + np.float32(n / 2 - 0.5),
        y * to_texel + np.float32(n / 2 - 0.5),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    )

    shape = (window[2] - window[0], window[3] - window[1])
    return window, np.asarray(
        cv2.resize(fine_pixels, shape, interpolation=cv2.INTER_AREA), np.float32
    )


def draw_sign_pole(
    base: F32, view: CameraView, top_mm: float, color: F32, radius_mm: float = 30.0
) -> None:
    """Draw a round pole from the sign down to 2.5 m below its center, in place.

    Args:
        base: Picture (h, w, 3) in linear light.
        view: View of the sign's plane.
        top_mm: Top of the pole below the sign's center.
        color: Linear RGB (3,) of the pole.
        radius_mm: Radius of the pole.
    """
    ends = np.array(
        [[-radius_mm, top_mm], [radius_mm, top_mm], [radius_mm, 2500.0], [-radius_mm, 2500.0]]
    )
    window = _window_of(view.project(ends), view.size, 2)
    if window is None:
        return

    x, y = view.plane_grid(window, 3)
    inside = ((np.abs(x) < radius_mm) & (y > top_mm)).astype(np.float32)
    round_shade = 0.35 + 0.65 * np.sqrt(np.clip(1 - ((x / radius_mm + 0.3) / 1.3) ** 2, 0, 1))
    pole = np.dstack([inside[..., None] * round_shade[..., None] * color, inside])

    shape = (window[2] - window[0], window[3] - window[1])
    lay_over(
        base, window, np.asarray(cv2.resize(pole, shape, interpolation=cv2.INTER_AREA), np.float32)
    )


def lay_over(
    base: F32, window: tuple[int, int, int, int], layer: F32, gain: F32 | None = None
) -> None:
    """Blend a premultiplied layer over a window of a picture, in place.

    Args:
        base: Picture (h, w, 3) in linear light.
        window: Window (x0, y0, x1, y1).
        layer: Premultiplied RGBA (h, w, 4) of the window.
        gain: Gains (h, w, 1) of the whole picture, applied to the layer alone.
    """
    x0, y0, x1, y1 = window
    color = layer[..., :3] if gain is None else layer[..., :3] * gain[y0:y1, x0:x1]
    base[y0:y1, x0:x1] *= 1 - layer[..., 3:]
    base[y0:y1, x0:x1] += color


def blur_kernel(sigma_px: float, motion: F64) -> F32:
    """Return the point spread function of a lens and of motion, at most about 15 px wide in each
    direction.

    Args:
        sigma_px: Standard deviation of the lens's blur. Up to half a cycle per pixel its contrast
            is that of the Gaussian, however narrow; a Gaussian sampled at the pixels would blur
            less.
        motion: Smear (2,) in px during the exposure.

    Returns:
        Kernel (n, n) with sum 1.

    Example:
        >>> kernel = blur_kernel(0.5, np.zeros(2))
        >>> kernel.shape, round(float(kernel.sum()), 3)
        ((9, 9), 1.0)
    """
    length = float(np.hypot(*motion))
    motion = motion * min(1.0, 9.0 / max(length, 1e-9))
    reach = int(np.ceil(4 * sigma_px + np.abs(motion).max() / 2)) + 2
    axis = np.arange(-reach, reach + 1)

    # The way of a point during the exposure, each moment split among its four pixels.
    line = np.zeros((len(axis), len(axis)))
    steps = max(1, int(np.ceil(length)) * 4)
    for s in (np.arange(steps) + 0.5) / steps - 0.5:
        columns = np.maximum(0, 1 - np.abs(axis - s * motion[0]))
        rows = np.maximum(0, 1 - np.abs(axis - s * motion[1]))
        line += np.outer(rows, columns)

    frequencies = (np.arange(256) + 0.5) / 512
    contrast = np.exp(-2 * (np.pi * sigma_px * frequencies) ** 2)
    gaussian = np.cos(2 * np.pi * axis[:, None] * frequencies) @ contrast
    spread = cv2.sepFilter2D(line, -1, gaussian, gaussian, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(spread / spread.sum(), np.float32)


def blur_light(picture: F32, kernel: F32, *, constant: bool = False) -> F32:
    """Convolve all channels of a picture.

    Args:
        picture: Picture (h, w, c) in linear light.
        kernel: Point spread function (n, n).
        constant: Whether the surroundings are black, instead of the mirrored picture.

    Returns:
        The blurred picture.
    """
    border = cv2.BORDER_CONSTANT if constant else cv2.BORDER_REFLECT_101
    return np.asarray(cv2.filter2D(picture, -1, kernel, borderType=border), np.float32)
