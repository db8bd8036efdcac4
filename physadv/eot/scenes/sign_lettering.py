"""Letters of road signs as distance fields, from small free typefaces that lie beside this module.

A distance field gives letters of any size and weight by a resize and a threshold, which costs far
less than rendering them anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from physadv.core.random_streams import numpy_generator

_FOLDER = Path(__file__).parent / "typefaces"
HAND = "hand"
"""Typeface of one character, an open hand, as on stop signs without a word."""

SCRIBBLE = "scribble"
"""Typeface of made-up characters: strokes and blobs drawn at random, another for each letter."""

CAP_PX = 96
"""Height of a capital in a field, in px."""
MARGIN_PX = 16
"""Empty px around the letter in a field."""
_ACCENT_PX = 40
"""Px above a capital for its accent."""
_FINER = 3
"""Samples a px and axis from which a field is computed."""

Field = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Glyph:
    """One character of a typeface.

    Attributes:
        field: (h, w) float32 distance to the outline in px, positive inside. A capital reaches
            from ``ascent_px`` - :data:`CAP_PX` to ``ascent_px`` in it.
        advance_px: Distance to the next character in px.
    """

    field: Field
    advance_px: float
    ascent_px: int = MARGIN_PX + _ACCENT_PX + CAP_PX


@lru_cache(maxsize=256)
def glyph(typeface: str, character: str) -> Glyph:
    """Return one character of a typeface.

    Args:
        typeface: Name of a file in ``typefaces/`` without its suffix, :data:`HAND` or
            :data:`SCRIBBLE`.
        character: One character that it has.

    Example:
        >>> letter = glyph("overpass", "T")
        >>> bool(letter.field.max() > 5), letter.field.shape[0]
        (True, 168)
    """
    if typeface == HAND:
        return Glyph(_distance_field(_draw_hand()), float(CAP_PX))

    if typeface == SCRIBBLE:
        return Glyph(_distance_field(_draw_scribble(character)), float(CAP_PX))

    font = _font(typeface)
    advance_px = font.getlength(character) / _FINER
    width = round(advance_px) + 2 * MARGIN_PX
    height = 2 * MARGIN_PX + _ACCENT_PX + CAP_PX
    picture = Image.new("L", (width * _FINER, height * _FINER))
    baseline = (MARGIN_PX + _ACCENT_PX + CAP_PX) * _FINER
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN_PX * _FINER, baseline), character, 255, font, anchor="ls")
    return Glyph(_distance_field(np.asarray(picture)), advance_px)


@lru_cache(maxsize=32)
def _font(typeface: str) -> ImageFont.FreeTypeFont:
    """The typeface at the size at which its capitals are :data:`CAP_PX` high in a fine field."""
    path = str(_FOLDER / f"{typeface}.ttf")
    probe = ImageFont.truetype(path, 1000, layout_engine=ImageFont.Layout.BASIC)
    tallest = max(_height(probe, letter) for letter in "TТ停")  # Latin, Cyrillic, Chinese
    size = 1000 * CAP_PX * _FINER / tallest
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _height(font: ImageFont.FreeTypeFont, letter: str) -> float:
    """Height of a letter above the baseline; 0 where the typeface does not have it."""
    missing = font.getmask("\uffff").getbbox()
    if font.getmask(letter).getbbox() == missing:
        return 0.0
    return float(-font.getbbox(letter, anchor="ls")[1])


def _draw_scribble(character: str) -> npt.NDArray[np.uint8]:
    """Draw a made-up character: two to five bent strokes, at times a blob, in a capital's place."""
    rng = numpy_generator(0, "scribble", character)
    width, height = CAP_PX + 2 * MARGIN_PX, CAP_PX + _ACCENT_PX + 2 * MARGIN_PX
    picture = np.zeros((height * _FINER, width * _FINER), np.uint8)
    corner = np.array([MARGIN_PX, MARGIN_PX + _ACCENT_PX]) * _FINER
    unit = CAP_PX * _FINER
    thickness = rng.uniform(0.07, 0.2)
    for _ in range(int(rng.integers(2, 6))):
        steps = np.cumsum(rng.normal(0, 0.3, (3, 2)), 0)
        anchors = np.clip(rng.uniform(0.2, 0.8, 2) + steps, 0.1, 0.9)
        t = np.linspace(0, 1, 24)[:, None]
        curve = (1 - t) ** 2 * anchors[0] + 2 * t * (1 - t) * anchors[1] + t**2 * anchors[2]
        points = (corner + curve * unit).round().astype(np.int32)
        cv2.polylines(picture, [points], False, 255, round(thickness * unit))
    if rng.random() < 0.4:
        x, y = (corner + rng.uniform(0.3, 0.7, 2) * unit).round().astype(int).tolist()
        axes = (rng.uniform(0.12, 0.34, 2) * unit).round().astype(int).tolist()
        cv2.ellipse(picture, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    return picture


def _draw_hand() -> npt.NDArray[np.uint8]:
    """Draw an open hand, the fingers up, in the place of a capital."""
    width, height = CAP_PX + 2 * MARGIN_PX, CAP_PX + _ACCENT_PX + 2 * MARGIN_PX
    picture = np.zeros((height * _FINER, width * _FINER), np.uint8)
    top, left, unit = (MARGIN_PX + _ACCENT_PX) * _FINER, MARGIN_PX * _FINER, CAP_PX * _FINER

    def stroke(start: tuple[float, float], end: tuple[float, float], thickness: float) -> None:
        points = [(round(left + x * unit), round(top + y * unit)) for x, y in (start, end)]
        cv2.line(picture, points[0], points[1], 255, round(thickness * unit))

    for x, tip in ((0.34, 0.17), (0.46, 0.08), (0.58, 0.11), (0.70, 0.22)):
        stroke((x, tip), (x, 0.6), 0.105)
    stroke((0.15, 0.47), (0.37, 0.74), 0.12)
    stroke((0.45, 0.62), (0.59, 0.62), 0.33)
    stroke((0.46, 0.78), (0.58, 0.78), 0.31)
    return picture


def _distance_field(shape: npt.NDArray[np.uint8]) -> Field:
    """The distance of a fine shape's px to its outline, reduced to px of a field."""
    inside = (shape > 127).astype(np.uint8)
    signed = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    signed = signed - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    size = (shape.shape[1] // _FINER, shape.shape[0] // _FINER)
    return np.asarray(cv2.resize(signed, size, interpolation=cv2.INTER_AREA) / _FINER, np.float32)


@dataclass(frozen=True)
class TextLine:
    """One line of letters on a sign; lengths are in widths of the sign.

    Attributes:
        text: Its characters.
        typeface: Typeface of them.
        height: Height of a capital.
        width: Width that the line is stretched or squeezed to, as far as ``stretch`` allows.
        y: Middle of the capitals below the middle of the sign.
        weight: What is added to each side of a stroke, over the height.
        tracking: Additional space between characters, over the height.
        stretch: Narrowest and widest letters over their natural width.
    """

    text: str
    typeface: str
    height: float
    width: float
    y: float = 0.0
    weight: float = 0.0
    tracking: float = 0.0
    stretch: tuple[float, float] = (0.8, 1.25)


def draw_lines(lines: Sequence[TextLine], px: int) -> Field:
    """Draw centered lines of letters.

    Args:
        lines: The lines.
        px: Side of the square sign in px.

    Returns:
        (px, px) share of each px that letters cover, in [0, 1].

    Example:
        >>> cover = draw_lines([TextLine("STOP", "overpass", height=0.3, width=0.75)], 64)
        >>> cover.shape, 0.05 < float(cover.mean()) < 0.2
        ((64, 64), True)
    """
    cover = np.zeros((px, px), np.float32)
    for line in lines:
        _draw_line(cover, line, px)
    return cover


def _draw_line(cover: Field, line: TextLine, px: int) -> None:
    """Lay one line over ``cover``."""
    glyphs = [glyph(line.typeface, character) for character in line.text]
    height = line.height
    caps = sum(g.advance_px for g in glyphs) / CAP_PX + line.tracking * (len(glyphs) - 1)
    stretch = float(np.clip(line.width / (caps * height), *line.stretch))
    height *= min(1.0, line.width / (caps * height * stretch))  # the narrowest is still too wide

    down = height * px / CAP_PX
    across = down * stretch
    bolder = line.weight * height * px
    x = px / 2 - caps * height * stretch * px / 2
    baseline = px * (0.5 + line.y + height / 2)
    for g in glyphs:
        size = (max(1, round(g.field.shape[1] * across)), max(1, round(g.field.shape[0] * down)))
        field = cv2.resize(g.field, size) * np.float32(np.sqrt(across * down))
        letter = np.clip(field + np.float32(bolder + 0.5), 0, 1)
        _lay_over(
            cover, letter, round(x - MARGIN_PX * across), round(baseline - g.ascent_px * down)
        )
        x += (g.advance_px + line.tracking * CAP_PX) * across


def _lay_over(cover: Field, letter: Field, x: int, y: int) -> None:
    """Take the larger of the two where ``letter`` lies on ``cover`` with its corner at x, y."""
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + letter.shape[1], cover.shape[1]), min(y + letter.shape[0], len(cover))
    if left < right and top < bottom:
        part = cover[top:bottom, left:right]
        np.maximum(part, letter[top - y : bottom - y, left - x : right - x], out=part)
