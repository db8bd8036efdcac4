"""The cut line: the mask's outline with rounded corners, the safe area inside it, and both as
SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import cv2
import numpy as np
import numpy.typing as npt

from physadv.core.errors import GeometryError, OptionError
from physadv.core.image_io import to_uint8
from physadv.patches.bundle import PatchBundle
from physadv.printing.fonts import printable
from physadv.printing.layout import MAX_BLEED, PageRect

Polygon = npt.NDArray[np.float64]
_PROCESS_INKS = {"all", "none", "cyan", "magenta", "yellow", "black"}
_SAGITTA = 0.002  # mm between an arc and the chords it is drawn with
_POINT_MM = 25.4 / 72


@dataclass(frozen=True)
class CutOptions:
    """Options of the cut.

    Attributes:
        bleed: Print beyond the cut in mm, 0 to 5.
        safe: Distance of the safe area from the cut in mm, 0 to 20.
        corner_radius: Radius of the corners in mm, 0.3 or more.
        name: Spot color of the cut line, as the print shop names it.
        points: Width of the cut line, 0.25 to 1 pt.

    Raises:
        OptionError: A value is out of range, or the name is a process ink's.

    Example:
        >>> CutOptions(bleed=2.0).name
        'CutContour'
    """

    bleed: float = 0.0
    safe: float = 2.0
    corner_radius: float = 0.3
    name: str = "CutContour"
    points: float = 0.25

    def __post_init__(self) -> None:
        _within("bleed", self.bleed, 0, MAX_BLEED, "mm")
        _within("safe area", self.safe, 0, 20, "mm")
        _within("corner radius", self.corner_radius, 0.3, 1000, "mm")
        _within("cut line", self.points, 0.25, 1, "pt")

        plain = self.name.isascii() and self.name.isprintable() and self.name.strip() == self.name
        if not plain or not 0 < len(self.name) <= 60 or self.name.lower() in _PROCESS_INKS:
            limit = "1 to 60 plain characters, and not the name of a process ink"
            raise OptionError(
                f"cut name {self.name!r}",
                limit,
                "Use the name that your print shop gives, e.g. CutContour",
            )


def cut_contour(bundle: PatchBundle, rect: PageRect, corner_radius: float = 0.3) -> list[Polygon]:
    """Return the outlines of the mask on the page, corners rounded, holes included.

    The line runs on the outer edges of the mask's pixels. A corner between edges too short for the
    radius gets the largest radius that they allow.

    Args:
        bundle: Patch with its mask.
        rect: Cut rectangle on the page in mm.
        corner_radius: Radius of the corners in mm.

    Returns:
        Closed polygons (n, 2) in mm.

    Raises:
        GeometryError: The radius exceeds half the shorter side.

    Example:
        >>> from physadv.core.package_data import bundle_folder
        >>> from physadv.patches.bundle import read_bundle
        >>> from pathlib import Path
        >>> bundle = read_bundle(bundle_folder(Path("stop-sticker-signs-v1")))
        >>> contours = cut_contour(bundle, PageRect(10, 10, 50, 50), corner_radius=2)
        >>> len(contours), round(float(contours[0].min()), 2)
        (1, 10.0)
    """
    limit = min(rect.w, rect.h) / 2
    if corner_radius > limit + 1e-9:
        raise GeometryError(
            f"corner radius {corner_radius:g} mm",
            f"at most {limit:g} mm, half the shorter side",
            "Make it smaller",
        )

    mask = to_uint8(bundle.mask)[:, :, 0] >= 128
    return [_rounded(polygon, corner_radius) for polygon in _outlines(mask, rect)]


def safe_contour(bundle: PatchBundle, rect: PageRect, safe: float) -> list[Polygon]:
    """Return the outlines of the safe area, to a pixel of the mask.

    Args:
        bundle: Patch with its mask.
        rect: Cut rectangle on the page in mm.
        safe: Distance from the cut in mm.

    Returns:
        Closed polygons (n, 2) in mm; none where nothing is that far inside.
    """
    mask = to_uint8(bundle.mask)[:, :, 0] >= 128
    if bool(mask.all()):
        inner = rect.grown(-safe)
        return [_corners(inner)] if min(inner.w, inner.h) > 0 else []
    return _outlines(safe_mask(bundle, safe), rect)


def safe_mask(bundle: PatchBundle, safe: float) -> npt.NDArray[np.bool_]:
    """Return the pixels (h, w) of ``bundle`` that lie wholly ``safe`` mm or more inside the cut."""
    mask = np.pad(to_uint8(bundle.mask)[:, :, 0] >= 128, 1)
    h, w = bundle.mask.shape[-2:]
    size = bundle.card.size
    across, down = (
        int(np.ceil(safe / side - 1e-9)) for side in (size.width_mm / w, size.height_mm / h)
    )

    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * across + 1, 2 * down + 1))
    kept = cv2.erode(
        np.asarray(mask, np.uint8), ellipse, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    return np.asarray(kept[1:-1, 1:-1] > 0)


def cut_svg(
    contours: Sequence[Polygon],
    safe: Sequence[Polygon],
    view: PageRect,
    cut: CutOptions,
    *,
    title: str,
) -> str:
    """Render the cut line as SVG in mm: the group named like the spot color is cut, the group
    "guides" is not.

    Args:
        contours: Polygons of the cut line.
        safe: Polygons of the safe area.
        view: Part of the plane that becomes the canvas, in the contours' coordinates.
        cut: Options of the cut.
        title: Title of the drawing.

    Returns:
        The text of the file.
    """
    name, width = quoteattr(cut.name), cut.points * _POINT_MM
    line = f'<path d="{_path(contours)}"/>'
    guide = f'<path d="{_path(safe)}" stroke-dasharray="2 1"/>' if safe else ""

    return f"""<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{view.w:.4f}mm" height="{view.h:.4f}mm"
 viewBox="{view.x:.4f} {view.y:.4f} {view.w:.4f} {view.h:.4f}">
<title>{escape(printable(title))}</title>
<g id="guides" fill="none" stroke="#00a0ff" stroke-width="0.1">{guide}</g>
<g id={name} fill="none" stroke="#ff00ff" stroke-width="{width:.4f}">{line}</g>
</svg>
"""


def _within(label: str, value: float, lower: float, upper: float, unit: str) -> None:
    if not lower <= value <= upper:
        raise OptionError(
            f"{label} {value:g} {unit}",
            f"{lower:g} to {upper:g} {unit}",
            "Give a value in this range",
        )


def _path(polygons: Sequence[Polygon]) -> str:
    return " ".join(
        "M" + " L".join(f"{x:.4f},{y:.4f}" for x, y in polygon) + " Z" for polygon in polygons
    )


def _corners(r: PageRect) -> Polygon:
    return np.array(
        [(r.x, r.y), (r.x + r.w, r.y), (r.x + r.w, r.y + r.h), (r.x, r.y + r.h)], np.float64
    )


def _outlines(mask: npt.NDArray[np.bool_], rect: PageRect) -> list[Polygon]:
    """Return the mask's outlines on the page, where its interpolated edge is half covered."""
    if bool(mask.all()):
        return [_corners(rect)]

    h, w = mask.shape
    zoom = max(1, min(16, 8000 // max(h, w)))
    padded = np.pad(np.asarray(mask, np.uint8) * 255, 1)
    fine = cv2.resize(padded, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours(
        np.asarray(fine >= 128, np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )

    step, origin = np.array([rect.w / w, rect.h / h]), np.array([rect.x, rect.y])
    outlines = []
    for contour in contours:
        edge = _pushed_out(contour.reshape(-1, 2).astype(np.float64))
        simple = cv2.approxPolyDP(edge.astype(np.float32)[:, None], 0.5, True).reshape(-1, 2)
        if len(simple) >= 3:
            outlines.append(((simple.astype(np.float64) + 0.5) / zoom - 1) * step + origin)
    return outlines


def _pushed_out(points: Polygon) -> Polygon:
    """Move points from the centers of the border's pixels to their outer edges; OpenCV keeps the
    inside on one side."""
    along = np.roll(points, -2, 0) - np.roll(points, 2, 0)
    length = np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    outward = np.stack([-along[:, 1], along[:, 0]], 1) / length
    return np.asarray(points + 0.5 * outward, np.float64)


def _rounded(polygon: Polygon, radius: float) -> Polygon:
    """Replace every corner by an arc that touches both edges; an arc takes at most half of an
    edge."""
    points = []
    before, after = np.roll(polygon, 1, 0), np.roll(polygon, -1, 0)
    for a, corner, b in zip(before, polygon, after, strict=True):
        points.append(_arc(a, corner, b, radius))
    return np.concatenate(points)


def _arc(a: Polygon, corner: Polygon, b: Polygon, radius: float) -> Polygon:
    """Return the arc at ``corner`` towards its neighbors ``a`` and ``b``, or the corner where none
    is needed."""
    into, out = a - corner, b - corner
    reach = (float(np.linalg.norm(into)), float(np.linalg.norm(out)))
    if min(reach) < 1e-9:
        return corner[None]

    u, v = into / reach[0], out / reach[1]
    turn = np.pi - float(np.arccos(np.clip(u @ v, -1, 1)))
    spike, straight = turn > np.pi - 1e-3, radius * (1 / np.cos(turn / 2) - 1) < _SAGITTA
    if spike or straight:
        return corner[None]

    tangent = min(radius * float(np.tan(turn / 2)), min(reach) / 2)
    radius = tangent / float(np.tan(turn / 2))
    bisector = (u + v) / np.linalg.norm(u + v)
    center = corner + bisector * (radius / np.cos(turn / 2))

    chord = 2 * float(np.arccos(max(0.0, 1 - _SAGITTA / radius))) if radius > _SAGITTA else np.pi
    angles = np.linspace(-turn / 2, turn / 2, max(2, int(np.ceil(turn / chord)) + 1))
    sideways = (v - u) / np.linalg.norm(v - u)
    return np.asarray(
        center + radius * (np.outer(np.sin(angles), sideways) - np.outer(np.cos(angles), bisector))
    )
