"""Painting of a sign's face: its letters and border, its reds, and what years outdoors leave on it.

Lengths are in widths of the sign, colors are sRGB-encoded in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import cv2
import numpy as np
import numpy.typing as npt

from physadv.core.color import linear_to_srgb
from physadv.core.image_io import Array
from physadv.core.random_streams import numpy_generator
from physadv.core.sign_artwork import octagon_mm
from physadv.eot.scenes.sign_lettering import TextLine, draw_lines

Map = npt.NDArray[np.float32]
"""One value a pixel of a face: (px, px)."""
Point = tuple[float, float]

_TEXTURES, _TEXTURE_PX = 12, 256
_SHAPES: dict[str, Sequence[Point]] = {
    "octagon": [(x - 0.5, y - 0.5) for x, y in octagon_mm(1.0)],
    "square": [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)],
    "diamond": [(0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0)],
    "triangle": [(0, -0.48), (0.5, 0.42), (-0.5, 0.42)],
    "disc": [(cos(i * pi / 30) / 2, sin(i * pi / 30) / 2) for i in range(60)],
}
"""Corners of each outline, clockwise as the picture shows it."""


@dataclass(frozen=True)
class FaceColors:
    """sRGB-encoded colors in [0, 1] of a face: its ground, and its letters and border."""

    ground: tuple[float, float, float]
    letters: tuple[float, float, float]


@dataclass(frozen=True)
class Wear:
    """What years outdoors leave on a face; 0 is none of it.

    Attributes:
        fading: Share of white in the faded ground.
        uneven: How unevenly it has faded, from 0 to 1.
        dirt: Share of light that the dirtiest place lacks.
        streaks: Whether the dirt has run down.
        sheeting: Contrast of the reflective sheeting's cells.
        prisms: Whether the cells are squares on their corners rather than hexagons.
        glare: Light added in the middle of a highlight.
        glare_at: Its place.
        shade: Share of light that a shadow takes.
        shade_edge: Direction in radians and offset of a straight shadow's edge; None: that of
            leaves.
        scratches: Lines (x, y, x, y, width, gray level).
        bolts: Bolts (x, y, radius, gray level).
        texture: Number of the texture that dirt, fading and leaves follow.
    """

    fading: float = 0.0
    uneven: float = 0.0
    dirt: float = 0.0
    streaks: bool = False
    sheeting: float = 0.0
    prisms: bool = False
    glare: float = 0.0
    glare_at: Point = (0.0, 0.0)
    shade: float = 0.0
    shade_edge: tuple[float, float] | None = None
    scratches: tuple[tuple[float, float, float, float, float, float], ...] = ()
    bolts: tuple[tuple[float, float, float, float], ...] = ()
    texture: int = 0


@dataclass(frozen=True)
class FaceLook:
    """Everything that decides one drawing of a face.

    Attributes:
        lines: Its letters.
        colors: Its colors.
        shape: Its outline: octagon, square, diamond, triangle or disc.
        size: Its size over the nominal one, at most 1.
        corner_radius: Radius of its corners.
        bands: Bands of the letters' color along the edge, from and to a depth under it.
        wear: What years have left on it.
    """

    lines: tuple[TextLine, ...]
    colors: FaceColors
    shape: str = "octagon"
    size: float = 1.0
    corner_radius: float = 0.0
    bands: tuple[tuple[float, float], ...] = ()
    wear: Wear = Wear()


def paint_face(look: FaceLook, px: int) -> Array:
    """Paint a face.

    Args:
        look: What it looks like.
        px: Side of the square picture in px.

    Returns:
        (px, px, 4) uint8, the outline as alpha.

    Example:
        >>> line = TextLine("STOP", "overpass", height=0.33, width=0.75)
        >>> look = FaceLook((line,), FaceColors((0.7, 0.1, 0.15), (0.9, 0.9, 0.9)))
        >>> face = paint_face(look, 64)
        >>> face.shape, int(face[0, 0, 3]), int(face[32, 4, 3])
        ((64, 64, 4), 0, 255)
    """
    depth = _depth(look.shape, look.corner_radius, px) - np.float32((1 - look.size) / 2)
    letters = _letters(look, depth, px)
    wear, tex = look.wear, _texture(look.wear.texture, px)

    ground, lettering = _planes(look.colors.ground), _planes(look.colors.letters)
    faded = ground + np.float32(wear.fading) * (np.float32(0.9) - ground)
    painted = faded + letters * (lettering - faded)
    if wear.uneven:
        amount = np.float32(0.45 * wear.uneven) * (1 - letters) * tex
        painted += amount * (np.float32(0.8) * lettering - faded)

    if wear.sheeting or wear.shade:
        painted *= _light(wear, px)
    if wear.dirt:
        painted *= 1 - _planes((0.8, 0.9, 1.0)) * _soil(wear, px)
    if wear.glare:
        painted += _glare(wear, px)
    picture = (np.clip(painted, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    picture = _scratch_and_bolt(cv2.merge([*picture]), wear, px)
    alpha = (np.clip(depth * px + 0.5, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.merge([*cv2.split(picture), alpha]), np.uint8)


def _planes(color: Sequence[float]) -> npt.NDArray[np.float32]:
    """The three values of a color as planes of one px: (3, 1, 1), which numpy handles fastest."""
    return np.asarray(color, np.float32)[:, None, None]


def _letters(look: FaceLook, depth: Map, px: int) -> Map:
    """Share of each px that has the letters' color: letters and border bands."""
    cover = draw_lines(look.lines, px)
    inner = max((end for _, end in look.bands), default=0.0)
    cover *= np.clip((depth - np.float32(inner + 0.008)) * px + 0.5, 0, 1)
    for start, end in look.bands:
        band = np.clip((depth - np.float32(start)) * px + 0.5, 0, 1)
        if start == 0:
            band = np.ones_like(depth)
        cover = np.maximum(cover, band - np.clip((depth - np.float32(end)) * px + 0.5, 0, 1))
    return cover


def _light(wear: Wear, px: int) -> Map:
    """Factor of each px's light: sheeting and shade."""
    light = np.ones((px, px), np.float32)
    if wear.sheeting:
        light += np.float32(wear.sheeting) * _sheeting(wear.prisms, px)
    if wear.shade:
        if wear.shade_edge is None:
            dark = np.clip((_texture(wear.texture + 1, px, 3) - np.float32(0.5)) * 5 + 0.5, 0, 1)
        else:
            angle, offset = wear.shade_edge
            x, y = _grid(px)
            across = np.float32(cos(angle)) * x + np.float32(sin(angle)) * y
            dark = np.clip((across - np.float32(offset)) * 12 + 0.5, 0, 1)
        light *= 1 - np.float32(wear.shade) * dark
    return light


def _soil(wear: Wear, px: int) -> Map:
    """Share of its light that dirt takes from each px."""
    soil = _texture(wear.texture + 2, px)
    if wear.streaks:  # what runs down is alike along y
        rows = cv2.resize(soil, (px, 3), interpolation=cv2.INTER_AREA)
        soil = np.asarray(cv2.resize(rows, (px, px), interpolation=cv2.INTER_LINEAR), np.float32)
    return np.asarray(np.float32(wear.dirt) * np.clip(soil * 2 - np.float32(0.5), 0, 1))


def _glare(wear: Wear, px: int) -> Map:
    """Light added by a soft highlight."""
    x, y = _grid(px)
    square = (x - np.float32(wear.glare_at[0])) ** 2 + (y - np.float32(wear.glare_at[1])) ** 2
    return np.asarray(np.float32(wear.glare) * np.exp(square * np.float32(-9)), np.float32)


def _scratch_and_bolt(picture: Array, wear: Wear, px: int) -> Array:
    """Draw scratches and bolts over the painted face (px, px, 3)."""
    for x0, y0, x1, y1, width, gray in wear.scratches:
        start, end = _fixed((x0, y0), px), _fixed((x1, y1), px)
        color = (gray * 255, gray * 250, gray * 240)
        cv2.line(picture, start, end, color, max(1, round(width * px)), cv2.LINE_AA, shift=4)
    for x, y, radius, gray in wear.bolts:
        level, dark = gray * 255, gray * 110
        size = max(16, round(radius * px * 16))
        shadow = _fixed((x + radius / 4, y + radius / 3), px)
        cv2.circle(picture, shadow, round(size * 1.25), (dark,) * 3, -1, cv2.LINE_AA, shift=4)
        cv2.circle(picture, _fixed((x, y), px), size, (level,) * 3, -1, cv2.LINE_AA, shift=4)
    return picture


def _fixed(point: Point, px: int) -> tuple[int, int]:
    """A point of the face in sixteenths of OpenCV's px."""
    x, y = (round(((value + 0.5) * px - 0.5) * 16) for value in point)
    return x, y


@lru_cache(maxsize=16)
def _grid(px: int) -> tuple[Map, Map]:
    """x (1, px) and y (px, 1) of the px's centers."""
    line = ((np.arange(px) + 0.5) / px - 0.5).astype(np.float32)
    return line[None], line[:, None]


@lru_cache(maxsize=96)
def _depth(shape: str, corner_radius: float, px: int) -> Map:
    """Depth of each px under the edge of a shape with round corners; negative outside."""
    corners = np.asarray(_SHAPES[shape], np.float64)
    x, y = (values.astype(np.float64) for values in _grid(px))
    inside, outside = np.full((px, px), np.inf), np.full((px, px), np.inf)
    normals, offsets = [], []
    for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
        along = (end - start) / np.hypot(*(end - start))
        normal = np.array([-along[1], along[0]])  # inward, since corners run clockwise
        normals.append(normal)
        offsets.append(normal @ start + corner_radius)

    # The outline is everything within the radius of the shape drawn in by it.
    lines = list(zip(normals, offsets, strict=True))
    drawn_in = []
    for (n0, c0), (n1, c1) in zip([lines[-1], *lines[:-1]], lines, strict=True):
        drawn_in.append(np.linalg.solve(np.stack([n0, n1]), np.array([c0, c1])))
    for (normal, offset), start, end in zip(
        lines, drawn_in, [*drawn_in[1:], drawn_in[0]], strict=True
    ):
        inside = np.minimum(inside, normal[0] * x + normal[1] * y - offset)
        side = end - start
        share = np.clip(((x - start[0]) * side[0] + (y - start[1]) * side[1]) / (side @ side), 0, 1)
        gap = np.hypot(x - start[0] - share * side[0], y - start[1] - share * side[1])
        outside = np.minimum(outside, gap)
    return np.asarray(np.where(inside >= 0, inside, -outside) + corner_radius, np.float32)


@lru_cache(maxsize=8)
def _sheeting(prisms: bool, px: int) -> Map:
    """Pattern of a reflective sheeting's cells in [-1, 1], about 60 across the sign."""
    x, y = _grid(px)
    f = np.float32(2 * pi * 45)
    if prisms:
        pattern = np.cos(f * (x + y) / 1.4) * np.cos(f * (x - y) / 1.4)
    else:
        half, high = f / 2, f * np.float32(3**0.5 / 2)
        pattern = (np.cos(f * x) + 2 * np.cos(half * x) * np.cos(high * y)) / 3
    return np.asarray(np.broadcast_to(pattern, (px, px)), np.float32)


@lru_cache(maxsize=8 * _TEXTURES)
def _texture(number: int, px: int, octaves: int = 5) -> Map:
    """Cloudy texture in [0, 1] with an even histogram; there are a dozen of them."""
    if number >= _TEXTURES:
        return _texture(number % _TEXTURES, px, octaves)
    rng = numpy_generator(0, "sign wear", number)
    cloud = np.zeros((_TEXTURE_PX, _TEXTURE_PX), np.float32)
    scales = ((3, 1.0), (7, 0.7), (15, 0.45), (40, 0.25), (110, 0.12))
    for cells, share in scales[:octaves]:
        noise = rng.normal(0, share, (cells, cells)).astype(np.float32)
        cloud += cv2.resize(noise, cloud.shape, interpolation=cv2.INTER_CUBIC)
    order = cloud.ravel().argsort().argsort().reshape(cloud.shape)
    even = (order / order.size).astype(np.float32)
    how = cv2.INTER_AREA if px < _TEXTURE_PX else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(even, (px, px), interpolation=how), np.float32)


def draw_red(rng: np.random.Generator) -> tuple[FaceColors, float]:
    """Draw the colors of a red sign, and the share of white that its red has faded by.

    Reds are those of stop signs in 21 tracks of GTSRB, as a share of the same sign's white in
    linear light: from the 5th to the 95th percentile 0.22 to 0.55 in red, 0.016 to 0.16 in green
    and 0.014 to 0.13 in blue, from fresh to faded. Blue is let reach 1.9 times green, for the
    crimson of the standards of North America.

    Args:
        rng: Random stream.
    """
    white = rng.uniform(0.62, 0.95) * np.array([1.0, rng.uniform(0.96, 1.0), rng.uniform(0.88, 1)])
    green = float(np.exp(rng.uniform(np.log(0.014), np.log(0.07))))
    share = np.array([rng.uniform(0.2, 0.58), green, green * rng.uniform(0.6, 1.9)])
    fading = rng.uniform(0.08, 0.3) if rng.random() < 0.25 else 0.0
    ground, letters = linear_to_srgb(white * share), linear_to_srgb(white)
    return FaceColors(_color(ground), _color(letters)), float(fading)


def draw_bands(rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    """Draw a border: at the edge, under a thin red edge, double, or none."""
    kind, width = rng.random(), float(rng.uniform(0.016, 0.045))
    edge = float(rng.uniform(0.006, 0.014))
    if kind < 0.6:
        return ((0.0, width),)
    if kind < 0.82:
        return ((edge, edge + width),)
    if kind < 0.9:
        return ((0.0, edge), (2.2 * edge, 3 * edge))
    return ()


def draw_wear(rng: np.random.Generator, fading: float = 0.0) -> Wear:
    """Draw what years have left on a sign whose ground has faded by ``fading``."""
    scratches = []
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 9))):
            x, y = map(float, rng.uniform(-0.42, 0.42, 2))
            reach, angle = rng.exponential(0.07), rng.uniform(0, pi)
            width, gray = rng.uniform(0.001, 0.006), rng.uniform(0.35, 0.8)
            x_end, y_end = float(x + reach * cos(angle)), float(y + reach * sin(angle))
            scratches.append((x, y, x_end, y_end, float(width), float(gray)))

    def chance(share: float, low: float, high: float) -> float:
        return float(rng.uniform(low, high)) if rng.random() < share else 0.0

    return Wear(
        fading=fading,
        uneven=chance(0.25, 0.1, 0.7),
        dirt=chance(0.45, 0.05, 0.45),
        streaks=bool(rng.random() < 0.5),
        sheeting=chance(0.35, 0.02, 0.12),
        prisms=bool(rng.random() < 0.5),
        glare=chance(0.15, 0.05, 0.3),
        glare_at=(float(rng.uniform(-0.4, 0.4)), float(rng.uniform(-0.4, 0.4))),
        shade=chance(0.3, 0.15, 0.6),
        shade_edge=(float(rng.uniform(-pi, pi)), float(rng.uniform(-0.3, 0.3)))
        if rng.random() < 0.7
        else None,
        scratches=tuple(scratches),
        bolts=_draw_bolts(rng),
        texture=int(rng.integers(_TEXTURES)),
    )


def _draw_bolts(rng: np.random.Generator) -> tuple[tuple[float, float, float, float], ...]:
    """Two bolts on the middle line of most signs, or four, or none that can be seen."""
    kind, radius, gray = rng.random(), rng.uniform(0.008, 0.017), rng.uniform(0.3, 0.9)
    y = float(rng.uniform(0.29, 0.43))
    x = float(rng.uniform(0.12, 0.28))
    places = [(0.0, -y), (0.0, y)]
    if kind > 0.7:
        places = [(-x, -y), (x, -y), (-x, y), (x, y)] if kind < 0.8 else []
    return tuple((px, py, float(radius), float(gray)) for px, py in places)


def _color(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
