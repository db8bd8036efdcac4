"""Sign faces drawn by code from the public standard's geometry, in millimeters.

The stop sign is the R1-1 of the US Manual on Uniform Traffic Control Devices: a regular octagon,
762 mm (30 in) across the flats, white border 19 mm, letters 254 mm high, centered. The letters here
are plain strokes of that height.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, tan

from physadv.core.errors import OptionError
from physadv.core.image_io import Array
from physadv.core.svg import rasterize_svg

STOP_WIDTH_MM = 762.0
_RED, _WHITE = "#b01c2e", "#f4f4f1"


@dataclass(frozen=True)
class SignFace:
    """A planar sign: its picture (h, w, 4) uint8 with the outline as alpha, and its true width in
    mm."""

    name: str
    rgba: Array
    width_mm: float

    @property
    def height_mm(self) -> float:
        """Height in mm, from the picture's aspect."""
        return self.width_mm * float(self.rgba.shape[0]) / float(self.rgba.shape[1])


def octagon_mm(across_flats_mm: float) -> list[tuple[float, float]]:
    """Return the corners of a regular octagon that is ``across_flats_mm`` wide.

    They run clockwise from the left end of the top side; the origin is the top left of its box.
    """
    s = across_flats_mm
    c = s / 2 * (1 - tan(pi / 8))
    return [(c, 0), (s - c, 0), (s, c), (s, s - c), (s - c, s), (c, s), (0, s - c), (0, c)]


def stop_sign_svg(across_flats_mm: float = STOP_WIDTH_MM) -> str:
    """Return the stop sign as SVG text, ``across_flats_mm`` wide; a user unit is a millimeter of
    the standard 762 mm face."""
    outer = " ".join(f"{x:.2f},{y:.2f}" for x, y in octagon_mm(STOP_WIDTH_MM))
    border = 19.0
    inner_size = STOP_WIDTH_MM - 2 * border
    inner = " ".join(f"{x + border:.2f},{y + border:.2f}" for x, y in octagon_mm(inner_size))
    return f"""<svg xmlns="http://www.w3.org/2000/svg"
 viewBox="0 0 {STOP_WIDTH_MM:g} {STOP_WIDTH_MM:g}"
 width="{across_flats_mm:g}mm" height="{across_flats_mm:g}mm">
<polygon points="{outer}" fill="{_WHITE}"/>
<polygon points="{inner}" fill="{_RED}"/>
<g fill="none" stroke="{_WHITE}" stroke-width="44" stroke-linejoin="round"
 transform="translate(101 254)">
<path d="M112 62 C112 34 94 22 67 22 C40 22 22 38 22 64 C22 92 44 106 67 124 C92 142 113 158 113 190
 C113 216 94 232 67 232 C40 232 21 216 21 188"/>
<path d="M141 22 H271 M206 22 V254"/>
<path d="M346 22 C376 22 392 42 392 72 V182 C392 212 376 232 346 232 C316 232 300 212 300 182 V72
 C300 42 316 22 346 22 Z"/>
<path d="M447 254 V22 H486 C518 22 535 44 535 74 C535 106 518 128 486 128 H447"/>
</g></svg>"""


def sign_face(name: str = "stop", width_px: int = 512, width_mm: float | None = None) -> SignFace:
    """Draw a sign's face.

    Args:
        name: Name of the sign; only "stop" is drawn by code.
        width_px: Width of the picture in px.
        width_mm: Width of the sign in mm; None for the standard 762.

    Returns:
        The face with its size.

    Raises:
        OptionError: Another sign is named.
    """
    if name != "stop":
        raise OptionError(
            f"sign {name!r}", "only 'stop' is drawn by code", "give a drawing with --signs FILE"
        )
    return SignFace(
        "stop",
        rasterize_svg(stop_sign_svg(), width_px),
        STOP_WIDTH_MM if width_mm is None else width_mm,
    )
