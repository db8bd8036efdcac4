"""Fonts of this machine as HarfBuzz draws them, for what the font of plain text lacks."""

from __future__ import annotations

import os
import sys
import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import reportlab
import uharfbuzz as hb

from physadv.printing.fonts import BASE_FILES
from physadv.printing.glyph_fonts import EM, Step

_FONT_PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
"""Packages of the extra physadv[fonts]: Noto for all scripts, and for Chinese, Japanese, Korean."""
_PREFERRED = ("notosans", "dejavusans", "liberationsans", "arial", "notonaskh", "droidsansfallback")
_UNWANTED = (
    "italic",
    "oblique",
    "mono",
    "serif",
    "condensed",
    "thin",
    "light",
    "black",
    "nastaliq",
)
_OUTLINES = ("glyf", "CFF ", "CFF2")


def is_shown(character: str) -> bool:
    """Return whether ``character`` needs a glyph; joiners, directions and selectors need none."""
    selects = 0xFE00 <= ord(character) <= 0xFE0F or 0xE0100 <= ord(character) <= 0xE01EF
    return unicodedata.category(character) != "Cf" and not selects


class FontFace:
    """One face of a font file, drawn by HarfBuzz.

    Args:
        file: TrueType or OpenType font, or a collection of them.
        number: Index of the face in a collection.
        bold: Whether a variable font is drawn bold.
    """

    def __init__(self, file: Path, number: int = 0, *, bold: bool = False) -> None:
        face = hb.Face(hb.Blob.from_file_path(str(file)), number)
        self.units = int(face.upem)
        self.font = hb.Font(face)
        if bold and any(axis.tag == "wght" for axis in face.axis_infos):
            self.font.set_variations({"wght": 700})
        self._drawn: dict[int, tuple[Step, ...]] = {}

    def glyph(self, character: str) -> int:
        """Return the index of the glyph of ``character``; 0 where the font has none."""
        return int(self.font.get_nominal_glyph(ord(character)) or 0)

    def shows(self, cluster: str) -> bool:
        """Return whether the font has every character of ``cluster`` and an outline for it.

        Joiners and selectors of variants need no glyph. Fonts of colored pictures have glyphs
        without an outline.
        """
        needed = [c for c in cluster if is_shown(c)]
        glyphs = [self.glyph(c) for c in needed]
        return all(glyphs) and (not needed or needed[0].isspace() or bool(self.outline(glyphs[0])))

    def outline(self, glyph: int) -> tuple[Step, ...]:
        """Return the path of the glyph with index ``glyph`` in thousandths of the font size."""
        if glyph not in self._drawn:
            steps: list[Step] = []
            self.font.draw_glyph(glyph, _DRAWING, steps)
            scale = EM / self.units
            self._drawn[glyph] = tuple(
                (operator, tuple(round(v * scale, 1) for v in values)) for operator, values in steps
            )
        return self._drawn[glyph]


@cache
def base_face(*, bold: bool = False) -> FontFace:
    """Return the face of the font of plain text."""
    return FontFace(Path(reportlab.__file__).parent / "fonts" / BASE_FILES[bold])


@cache
def face_for(cluster: str, *, bold: bool = False) -> FontFace | None:
    """Return a face that shows ``cluster``, a character and what attaches to it.

    The font for plain text is asked first, then the extra physadv[fonts], then the fonts of this
    machine.

    Returns:
        The face, or None where no font has the character.
    """
    if base_face(bold=bold).shows(cluster):
        return base_face(bold=bold)
    for file in _font_files(bold):
        face = _opened(file, bold)
        if face is not None and face.shows(cluster):
            return face
    return None


@cache
def _font_files(bold: bool) -> tuple[Path, ...]:
    """List the font files of this machine, the best for a print first."""
    found = {
        file
        for folder in _font_folders()
        for suffix in ("ttf", "otf", "ttc", "otc")
        for file in (*folder.rglob(f"*.{suffix}"), *folder.rglob(f"*.{suffix.upper()}"))
    }
    return tuple(sorted(found, key=lambda file: (_rank(file.stem.lower(), bold), str(file))))


def _rank(stem: str, bold: bool) -> tuple[int, int, int]:
    plain = stem.replace("-", "").replace("_", "").replace(" ", "")
    unwanted = sum(word in plain for word in _UNWANTED)
    family = next((i for i, name in enumerate(_PREFERRED) if plain.startswith(name)), 99)
    return unwanted, family, int(("bold" in plain or "bd" in plain) != bold)


def _font_folders() -> list[Path]:
    """Return where this system and the extra physadv[fonts] keep fonts."""
    packages = [find_spec(name) for name in _FONT_PACKAGES]
    folders = [Path(spec.origin).parent for spec in packages if spec and spec.origin]
    if sys.platform == "win32":
        folders += [
            Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts",
            Path(os.environ.get("LOCALAPPDATA", "")) / "Microsoft/Windows/Fonts",
        ]
    elif sys.platform == "darwin":
        folders += [Path("/System/Library/Fonts"), Path("/Library/Fonts")]
        folders += [Path.home() / "Library/Fonts"]
    else:
        folders += [Path("/usr/share/fonts"), Path("/usr/local/share/fonts")]
        folders += [Path.home() / ".local/share/fonts", Path.home() / ".fonts"]
    return [folder for folder in folders if folder.is_dir()]


@cache
def _opened(file: Path, bold: bool) -> FontFace | None:
    """Open the first face of ``file``; None where it cannot be read or holds no outlines."""
    try:
        face = FontFace(file, bold=bold)
    except (hb.HarfBuzzError, OSError):
        return None
    return face if any(tag in face.font.face.table_tags for tag in _OUTLINES) else None


def _draw_functions() -> hb.DrawFuncs:
    functions = hb.DrawFuncs()
    functions.set_move_to_func(lambda x, y, steps: steps.append(("m", (x, y))))
    functions.set_line_to_func(lambda x, y, steps: steps.append(("l", (x, y))))
    functions.set_cubic_to_func(
        lambda ax, ay, bx, by, x, y, steps: steps.append(("c", (ax, ay, bx, by, x, y)))
    )
    functions.set_close_path_func(lambda steps: steps.append(("h", ())))
    return functions


_DRAWING = _draw_functions()
