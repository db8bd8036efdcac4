"""Posts that drawn signs stand on in whole frames.

A detector is surer of a sign on a post, with a patch or without: FastestDet finds more patched
signs so. Signs in photos have posts of their own.
"""

from __future__ import annotations

import cv2
import numpy as np

from physadv.core.color import linear_to_srgb, srgb_to_linear
from physadv.eot.scenes.sign_framing import Float, Matrix, to_pixels

_STRIPS = 8
"""Strips across a post, each of one shade."""
_SUPERSAMPLING = 3
_TOP = 0.35
"""Where a post begins, hidden by the sign: below the sign's center, in heights of it."""
_NEAREST = 0.3
"""A post ends where it is nearer to the camera than this share of the sign's distance."""


def draw_post(
    canvas: Float,
    matrix: Matrix,
    height_mm: float,
    reflectance: Float,
    rng: np.random.Generator,
) -> Float:
    """Return a picture with a post from behind a sign down to the ground.

    Posts are 45 to 100 mm wide, round or flat, gray with a tint, and end 1.7 to 2.6 m below the
    sign's center.

    Args:
        canvas: Picture (n, n, 3) in [0, 1], before the sign is drawn.
        matrix: (3, 3) homography from mm on the sign's plane, y down, to px.
        height_mm: Height of the sign.
        reflectance: Factor (3,) of the sign's light.
        rng: Random stream of the post.
    """
    half_mm = float(np.exp(rng.uniform(*np.log((22.5, 50.0)))))
    bottom_mm = float(rng.uniform(1700, 2600))
    gray = rng.uniform(0.08, 0.45) * rng.uniform(0.88, 1.12, 3)
    roundness, highlight = float(rng.uniform(0, 1)), float(rng.uniform(-0.5, 0.5))

    top_mm = _TOP * height_mm
    bottom_mm = max(top_mm, _visible_end(matrix, bottom_mm))
    across = np.linspace(-1, 1, _STRIPS + 1)
    middles = (across[1:] + across[:-1]) / 2
    shade = 1 - 0.6 * roundness * np.clip(((middles - highlight) / 1.5) ** 2, 0, 1)

    ends = np.array([[x * half_mm, y] for y in (top_mm, bottom_mm) for x in across])
    pixels = to_pixels(matrix, ends)
    low = np.clip(np.floor(pixels.min(0)) - 1, 0, canvas.shape[0]).astype(int)
    high = np.clip(np.ceil(pixels.max(0)) + 1, 0, canvas.shape[0]).astype(int)
    if not (high > low).all():
        return canvas

    layer = _strips((pixels - low).reshape(2, _STRIPS + 1, 2), high - low, shade)
    window = np.s_[low[1] : high[1], low[0] : high[0]]
    light = srgb_to_linear(canvas[window]) * (1 - layer[..., 1:])
    light += layer[..., :1] * gray * reflectance
    drawn = canvas.copy()
    drawn[window] = linear_to_srgb(np.clip(light, 0, 1))
    return drawn


def _visible_end(matrix: Matrix, bottom_mm: float) -> float:
    """Return how far down, at most to ``bottom_mm``, a post stays well before the camera."""
    at_sign, slope = float(matrix[2, 2]), float(matrix[2, 1])
    nearer = slope * at_sign < 0
    return min(bottom_mm, (_NEAREST - 1) * at_sign / slope) if nearer else bottom_mm


def _strips(edges: Matrix, size: Float, shade: Float) -> Float:
    """Return the shade and cover (h, w, 2), premultiplied, of a post in its window.

    Args:
        edges: (2, strips + 1, 2) corners of the strips in px, above and below.
        size: Width and height of the window in px.
        shade: (strips,) light of each strip.
    """
    width, height = (int(side) for side in size)
    fine = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING, 2), np.float32)
    corners = np.clip(edges * _SUPERSAMPLING - 0.5, -30_000, 30_000)
    fixed = np.rint(corners * 16).astype(np.int32)  # sixteenths of a pixel, as OpenCV takes them
    for number, light in enumerate(shade.tolist()):
        (a, b), (d, c) = fixed[:, number : number + 2]
        cv2.fillConvexPoly(fine, np.stack([a, b, c, d]), (light, 1.0), cv2.LINE_8, shift=4)
    return np.asarray(
        cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA), np.float32
    ).reshape(height, width, 2)
