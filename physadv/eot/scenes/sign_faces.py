"""Stop-sign faces as a distribution: designs, some of them held out, each drawn anew every time.

A design is a word in a typeface, or a hand in place of a word. Every drawing of a design has its
own letters (height, width, weight, spacing), border, red, size and wear, so that no two are alike.
A patch that is optimized on :data:`TRAINING_FACES` and measured on :data:`HELD_OUT_FACES` has met
neither the typefaces nor some of the words that it is measured on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from physadv.core.sign_artwork import SignFace, sign_face
from physadv.eot.scenes.face_painting import (
    FaceColors,
    FaceLook,
    draw_bands,
    draw_red,
    draw_wear,
    paint_face,
)
from physadv.eot.scenes.sign_lettering import HAND, SCRIBBLE, TextLine

_OCTAGON_DIAGONAL = 0.707
"""Where the slanted sides of an octagon one wide meet its middle lines."""
_STROKES = "plain strokes"
"""Name of the one face drawn by :func:`sign_face`, among the held-out ones."""


@dataclass(frozen=True)
class FaceDesign:
    """A sign of which every drawing is another.

    Attributes:
        name: Its name, as in "STOP, Overpass".
        lines: Its words, one a line; a single character is drawn larger, and there may be none.
        typeface: Typeface of them.
        shape: Its outline, see :data:`physadv.eot.scenes.face_painting.FaceLook`.
        red: Whether its ground is red; else any other color is drawn.

    Example:
        >>> design = TRAINING_FACES[0]
        >>> design.name, design.draw(np.random.default_rng(0), 64).rgba.shape
        ('STOP, Overpass', (64, 64, 4))
    """

    name: str
    lines: tuple[str, ...]
    typeface: str
    shape: str = "octagon"
    red: bool = True

    def draw(self, rng: np.random.Generator, px: int) -> SignFace:
        """Draw the sign once more; ``rng`` alone decides how, and ``px`` only how finely.

        Args:
            rng: Random stream.
            px: Side of the square picture in px.

        Returns:
            The face, 1 mm wide.
        """
        return SignFace(self.name, paint_face(self.draw_look(rng), px), 1.0)

    def draw_look(self, rng: np.random.Generator) -> FaceLook:
        """Draw what the sign looks like this time from ``rng``."""
        colors, fading = draw_red(rng)
        if not self.red:
            colors, fading = _other_colors(rng), 0.0
        bands = draw_bands(rng)
        border = max((end for _, end in bands), default=0.0)
        return FaceLook(
            lines=self._draw_lines(rng, border),
            colors=colors,
            shape=self.shape,
            size=float(rng.uniform(0.95, 1.0)),
            corner_radius=float(rng.choice([0.0, 0.02, 0.04, 0.06])),
            bands=bands,
            wear=draw_wear(rng, fading),
        )

    def _draw_lines(self, rng: np.random.Generator, border: float) -> tuple[TextLine, ...]:
        """Draw the letters' height, width, weight and spacing, within the border."""
        height, width = float(rng.uniform(0.27, 0.38)), float(rng.uniform(0.66, 0.84))
        weight, tracking = float(rng.uniform(-0.018, 0.03)), float(rng.uniform(-0.02, 0.1))
        shift = float(rng.uniform(-0.012, 0.012))
        if all(len(text) == 1 for text in self.lines):
            height *= 1.6
        gap = 0.0
        if len(self.lines) == 2:
            height, gap = 0.68 * height, float(rng.uniform(0.055, 0.09))

        lines = []
        for number, text in enumerate(self.lines):
            y = shift
            if len(self.lines) == 2:
                y += (2 * number - 1) * (height / 2 + gap / 2)
            farthest = abs(y) + height / 2
            room = 2 * (min(0.5, _OCTAGON_DIAGONAL - farthest) - border - 0.035)
            if self.shape in ("disc", "diamond", "triangle"):
                room *= 0.62
            lines.append(
                TextLine(text, self.typeface, height, min(width, room), y, weight, tracking)
            )
        return tuple(lines)


def _designs(words: str, typefaces: Iterable[str]) -> tuple[FaceDesign, ...]:
    """The word, or two joined by " + ", in each of the typefaces."""
    return tuple(
        FaceDesign(f"{words}, {_title(typeface)}", tuple(words.split(" + ")), typeface)
        for typeface in typefaces
    )


def _title(typeface: str) -> str:
    """Name of a typeface from that of its file."""
    capitals = {"b612": "B612", "noto-sans-sc": "Noto Sans SC"}
    return capitals.get(typeface, typeface.replace("-", " ").title())


_TRAINING_TYPEFACES = (
    "overpass",
    "barlow-condensed",
    "barlow-semi-condensed",
    "roboto-condensed",
    "oswald",
    "public-sans",
    "asap-condensed",
    "cabin-condensed",
)

TRAINING_FACES: tuple[FaceDesign, ...] = (
    *_designs("STOP", _TRAINING_TYPEFACES),
    *_designs("ALTO", ("overpass", "barlow-condensed")),
    *_designs("PARE", ("barlow-semi-condensed", "roboto-condensed")),
    *_designs("ARRÊT", ("overpass", "asap-condensed")),
    *_designs("ARRÊT + STOP", ("roboto-condensed",)),
    *_designs("СТОП", ("roboto-condensed-cyrillic",)),
)
"""Designs that patches are optimized on and `signs` is trained on."""

HELD_OUT_FACES: tuple[FaceDesign | SignFace, ...] = (
    replace(sign_face("stop"), name=f"STOP, {_STROKES}"),
    *_designs("STOP", ("archivo-narrow", "sofia-sans-condensed", "bebas-neue", "b612")),
    *_designs("ALTO", ("archivo-narrow",)),
    *_designs("PARE", ("sofia-sans-condensed",)),
    *_designs("DUR", ("bebas-neue",)),
    FaceDesign("Chinese, Noto Sans SC", ("停",), "noto-sans-sc"),
    FaceDesign("hand", ("H",), HAND),
)
"""Faces that nothing is trained on: other typefaces, and words that no training face has."""

_SCRIBBLES = (*"abcdefghijklmnop", "qr", "stu", "vw", "xyz", "kb an", "ox c")
UNREAD_FACES: tuple[FaceDesign, ...] = (
    *_designs("TO", ("oswald",)),
    *_designs("POLE", ("public-sans",)),
    *_designs("SEAL", ("asap-condensed",)),
    *_designs("UDAR", ("cabin-condensed",)),
    *_designs("LE + POT", ("barlow-condensed",)),
    *_designs("A", ("overpass",)),
    *_designs("E", ("barlow-semi-condensed",)),
    *_designs("S", ("roboto-condensed",)),
    *_designs("R", ("public-sans",)),
    *_designs("П", ("roboto-condensed-cyrillic",)),
    FaceDesign("no letters", (), "overpass"),
    *(FaceDesign(f"scribble {text}", tuple(text.split()), SCRIBBLE) for text in _SCRIBBLES),
)
"""Octagons with letters that mean nothing, made-up characters, or none: with them `signs` learns
that a red octagon is a stop sign in a script that it does not read, too."""

DECOYS: tuple[FaceDesign, ...] = tuple(
    FaceDesign(f"{'red' if red else 'other'} {shape} {word}", (word,), typeface, shape, red)
    for shape, red in (
        ("octagon", False),
        ("disc", True),
        ("disc", False),
        ("square", True),
        ("square", False),
        ("diamond", True),
        ("triangle", False),
    )
    for word, typeface in (
        ("STOP", "overpass"),
        ("ROUTE", "public-sans"),
        ("SLOPE", "barlow-condensed"),
        ("LOT", "oswald"),
        ("T", "overpass"),
        ("E", "cabin-condensed"),
    )
)
"""Signs with letters that are no stop signs: another outline, or another color."""


def _other_colors(rng: np.random.Generator) -> FaceColors:
    """Draw a ground that is not red, and letters light on dark or dark on light."""
    from colorsys import hsv_to_rgb

    ground = hsv_to_rgb(rng.uniform(0.1, 0.8), rng.uniform(0.1, 1.0), rng.uniform(0.2, 1.0))
    bright = sum(ground) / 3 > 0.5
    level = float(rng.uniform(0.02, 0.2) if bright else rng.uniform(0.7, 0.98))
    return FaceColors(ground, (level, level, level))
