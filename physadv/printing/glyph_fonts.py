"""Type 3 fonts: the outlines that a document shows as text, embedded in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pikepdf
from pikepdf import Array, Dictionary, Name

EM = 1000
"""Outlines are in thousandths of the font size."""
Step = tuple[str, tuple[float, ...]]
"""One PDF operator of a path with its numbers."""
_CODES = 256
"""Glyphs that one Type 3 font can hold."""


@dataclass(frozen=True)
class Glyph:
    """One character with what attaches to it, in thousandths of the font size.

    Attributes:
        outline: Its path, empty for a blank.
        advance: Width.
        text: What it stands for.
    """

    outline: tuple[Step, ...]
    advance: float
    text: str


class GlyphFonts:
    """The glyphs that a document shows, embedded as Type 3 fonts when it is finished."""

    def __init__(self) -> None:
        self._codes: dict[Glyph, int] = {}
        self.lacking: set[str] = set()
        """Characters shown as frames, for want of a font."""

    def code(self, glyph: Glyph) -> tuple[str, int]:
        """Return the resource name of the font that shows ``glyph``, and its code there."""
        number = self._codes.setdefault(glyph, len(self._codes))
        return f"/Glyphs{number // _CODES}", number % _CODES

    def embed(self, pdf: pikepdf.Pdf) -> None:
        """Add the fonts to the resources of every page of ``pdf``."""
        glyphs = list(self._codes)
        parts = [glyphs[i : i + _CODES] for i in range(0, len(glyphs), _CODES)]
        fonts = {
            f"/Glyphs{number}": pdf.make_indirect(_type3_font(pdf, part))
            for number, part in enumerate(parts)
        }
        for page in pdf.pages:
            resources = page.obj["/Resources"]
            listed = dict(resources.get("/Font", Dictionary()).items())
            if fonts or listed:
                resources["/Font"] = Dictionary({**listed, **fonts})


def _type3_font(pdf: pikepdf.Pdf, glyphs: Sequence[Glyph]) -> Dictionary:
    """Return a font whose code i shows the i-th of ``glyphs``."""
    names = [Name(f"/g{i}") for i in range(len(glyphs))]
    procedures = {
        str(name): pdf.make_stream(_procedure(glyph).encode())
        for name, glyph in zip(names, glyphs, strict=True)
    }
    return Dictionary(
        Type=Name("/Font"),
        Subtype=Name("/Type3"),
        FontBBox=[0, 0, 0, 0],
        FontMatrix=[1 / EM, 0, 0, 1 / EM, 0, 0],
        CharProcs=Dictionary(procedures),
        Encoding=Dictionary(Type=Name("/Encoding"), Differences=Array([0, *names])),
        FirstChar=0,
        LastChar=len(glyphs) - 1,
        Widths=[glyph.advance for glyph in glyphs],
        Resources=Dictionary(),
        ToUnicode=pdf.make_stream(_to_unicode(glyphs)),
    )


def _procedure(glyph: Glyph) -> str:
    """Return the operators that paint ``glyph``; d1 says that it has no color of its own."""
    numbers = [(values[::2], values[1::2]) for _, values in glyph.outline if values]
    xs, ys = ([v for pair in numbers for v in pair[i]] or [0.0] for i in (0, 1))
    box = " ".join(f"{v:g}" for v in (min(xs), min(ys), max(xs), max(ys)))
    path = "\n".join(
        " ".join([*(f"{v:g}" for v in values), operator]) for operator, values in glyph.outline
    )
    return (
        f"{glyph.advance:g} 0 {box} d1\n{path}\nf\n" if path else f"{glyph.advance:g} 0 {box} d1\n"
    )


def _to_unicode(glyphs: Sequence[Glyph]) -> bytes:
    """Return the CMap that tells which text each code stands for."""
    named = [
        f"<{code:02X}> <{glyph.text.encode('utf-16-be').hex().upper()}>"
        for code, glyph in enumerate(glyphs)
    ]
    blocks = [named[i : i + 100] for i in range(0, len(named), 100)]
    maps = "\n".join(
        f"{len(block)} beginbfchar\n" + "\n".join(block) + "\nendbfchar" for block in blocks
    )
    return f"""/CIDInit /ProcSet findresource begin
12 dict begin
begincmap
/CMapName /Adobe-Identity-UCS def
/CMapType 2 def
1 begincodespacerange
<00> <FF>
endcodespacerange
{maps}
endcmap
CMapName currentdict /CMap defineresource pop
end
end
""".encode()


def moved(steps: Sequence[Step], x: float, y: float, scale: float = 1.0) -> tuple[Step, ...]:
    """Return a path scaled and then moved.

    Args:
        steps: The path.
        x: Shift to the right in thousandths of the font size.
        y: Shift upwards.
        scale: Factor of its size.

    Returns:
        The path, its numbers rounded to a tenth.
    """
    shift = (x, y)
    return tuple(
        (operator, tuple(round(v * scale + shift[i % 2], 1) for i, v in enumerate(values)))
        for operator, values in steps
    )
