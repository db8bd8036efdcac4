"""Shapes of stickers: rectangle, circle, octagon, bars (RP2), or a PNG (alpha) or SVG file."""

from __future__ import annotations

import re
from math import pi, tan
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import GeometryError, OptionError
from physadv.core.image_io import read_rgba, to_tensor

_WHITE_FROM = 0.95
"""Least value of all three channels in a mask's white; scans and JPEGs are not pure."""
SHAPES = ("rectangle", "circle", "octagon", "bars")
_TWO_BARS = (2, 0.55)
"""Number of the bars of "bars", and the share of the height that they cover (after RP2)."""
_MOST_BARS = 12


def make_mask(shape: str, width_mm: float, height_mm: float, *, longest_px: int = 128) -> Tensor:
    """Return the mask of a sticker, its edges anti-aliased by 4x supersampling.

    Args:
        shape: One of :data:`SHAPES`, the path of a .png or .svg file, or "bars:COUNT:SHARE" for so
            many level bars of one height, evenly spaced, which cover that share of the box.
        width_mm: Width of the sticker's bounding box.
        height_mm: Height of it.
        longest_px: Texels along the longer side.

    Returns:
        (1, 1, h, w) in [0, 1].

    Raises:
        OptionError: An unknown shape, or bars that no box can hold.
        GeometryError: A size that is not positive, or a file without visible pixels.

    Example:
        >>> make_mask("octagon", 190, 150, longest_px=32).shape
        torch.Size([1, 1, 25, 32])
    """
    if not (width_mm > 0 and height_mm > 0):
        raise GeometryError(
            f"Sticker {width_mm:g} x {height_mm:g} mm",
            "Both sides must be over 0 mm",
            "Give --size W,H",
        )

    scale = longest_px / max(width_mm, height_mm)
    width, height = max(8, round(width_mm * scale)), max(8, round(height_mm * scale))
    layout = bar_layout(shape)
    if layout is not None:
        mask = _bars(*layout, width, height)
    else:
        mask = _drawn(shape, width, height) if shape in SHAPES else _from_file(shape, width, height)

    if float(mask.max()) < 0.5:
        raise GeometryError(
            f"Mask {shape!r} holds no visible pixel",
            "Its alpha must mark the sticker",
            "Use another picture",
        )
    return mask


def bar_layout(shape: str) -> tuple[int, float] | None:
    """Return the number of bars and the share of the height that they cover.

    Args:
        shape: Name of a shape, see :func:`make_mask`.

    Returns:
        2 to 12 bars and a share of 0.05 to 0.95; None for another shape than bars.

    Raises:
        OptionError: Too many bars, or too large a share.

    Example:
        >>> bar_layout("bars"), bar_layout("bars:5:0.4"), bar_layout("circle")
        ((2, 0.55), (5, 0.4), None)
    """
    if shape == "bars":
        return _TWO_BARS
    fields = re.fullmatch(r"bars:(\d{1,3}):(\d?\.\d{1,4})", shape)
    if fields is None:
        return None
    count, share = int(fields[1]), float(fields[2])
    if not (2 <= count <= _MOST_BARS and 0.05 <= share <= 0.95):
        raise OptionError(
            f"Mask {shape!r}",
            f"It must be of 2 to {_MOST_BARS} bars that cover 0.05 to 0.95 of the height",
            "Write for example bars:5:0.4",
        )
    return count, share


def _bars(count: int, share: float, width: int, height: int) -> Tensor:
    """Bars as exact coverage of each row of pixels."""
    bar = share / count
    tops = torch.arange(count, dtype=torch.float64) * (1 - bar) / (count - 1)
    edges = torch.linspace(0, 1, height + 1, dtype=torch.float64)
    covered_above = (edges[:, None] - tops).clamp(0, bar).sum(1)
    rows = (covered_above.diff() * height).clamp(0, 1).float()
    return rows[None, None, :, None].expand(1, 1, height, width).contiguous()


def _drawn(shape: str, width: int, height: int, supersample: int = 4) -> Tensor:
    y, x = np.mgrid[0 : height * supersample, 0 : width * supersample].astype(np.float32) + 0.5
    u, v = x / (width * supersample) * 2 - 1, y / (height * supersample) * 2 - 1

    if shape == "circle":
        inside = u * u + v * v <= 1
    elif shape == "octagon":
        inside = np.abs(u) + np.abs(v) <= 1 + tan(pi / 8)
    else:
        inside = np.ones_like(u, dtype=bool)

    fine = torch.from_numpy(inside.astype(np.float32))[None, None]
    return torch.nn.functional.avg_pool2d(fine, supersample)


def _from_file(name: str, width: int, height: int) -> Tensor:
    path = Path(name)
    if path.suffix.lower() not in {".png", ".svg"}:
        raise OptionError(
            f"Mask {name!r}",
            f"It must be one of {', '.join(SHAPES)}, bars:COUNT:SHARE, or a .png or .svg file",
            "Change --mask",
        )
    rgba = to_tensor(read_rgba(path, svg_px=4 * width))
    opaque = bool((rgba[3] > 0.999).all())
    # A picture without transparency marks the sticker by what is not white, in any color.
    coverage = _not_white(rgba[:3], name) if opaque else rgba[3:]
    return torch.nn.functional.interpolate(coverage[None], size=(height, width), mode="area").clamp(
        0, 1
    )


def _not_white(image: Tensor, name: str) -> Tensor:
    """Return (1, h, w) of 1 where an opaque picture (3, h, w) is of any color but white."""
    inked = (image.amin(0, keepdim=True) < _WHITE_FROM).float()
    dark = (image.amax(0, keepdim=True) < 1 - _WHITE_FROM).float()
    two_tone = float((inked == dark).float().mean()) > 0.99
    border = torch.cat([inked[0, 0], inked[0, -1], inked[0, :, 0], inked[0, :, -1]])
    if two_tone and float(border.mean()) > 0.9 and float(inked.mean()) < 0.99:
        raise GeometryError(
            f"Mask {name!r} is white on black",
            "What is not white marks the sticker, which would be all around",
            "Invert it, or make the surroundings transparent",
        )
    return inked


def area_share(mask: Tensor, width_mm: float, height_mm: float, sign_area_mm2: float) -> float:
    """Return the share of the sign's area that the sticker covers.

    Args:
        mask: (1, 1, h, w) in [0, 1].
        width_mm: Width of the sticker's bounding box.
        height_mm: Height of it.
        sign_area_mm2: Area of the sign.

    Returns:
        A share of ``sign_area_mm2``, over 1 for a sticker larger than the sign.
    """
    return float(mask.mean()) * width_mm * height_mm / sign_area_mm2
