"""The font of plain text: Vera, embedded, the same on every machine."""

from __future__ import annotations

import unicodedata

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

from physadv.core.visible_text import BIDI_CONTROLS

BASE_FILES = {False: "Vera.ttf", True: "VeraBd.ttf"}
"""Bitstream Vera Sans, regular and bold, which reportlab brings."""


def base_font(*, bold: bool = False) -> str:
    """Return the name under which reportlab knows the font of plain text."""
    name = BASE_FILES[bold].removesuffix(".ttf")
    if name not in pdfmetrics.getRegisteredFontNames():
        pdfmetrics.registerFont(TTFont(name, BASE_FILES[bold]))
    return name


def writes_plainly(text: str) -> bool:
    """Return whether the font of plain text has every character of ``text``.

    Example:
        >>> writes_plainly("stop sign, 5 \\u20ac, Stra\\u00dfe"), writes_plainly("\\u505c\\u8f66")
        (True, False)
    """
    known = pdfmetrics.getFont(base_font()).face.charToGlyph
    return all(ord(c) in known for c in text)


def clusters(text: str) -> list[str]:
    """Split ``text`` into characters with what attaches to them: marks, joiners, emoji modifiers.

    Example:
        >>> [len(cluster) for cluster in clusters("e\\u0301a")]
        [2, 1]
    """
    found: list[str] = []
    for c in text:
        attaches = unicodedata.category(c) in ("Mn", "Mc", "Me", "Cf")
        attaches |= 0x1F3FB <= ord(c) <= 0x1F3FF  # skin tones
        if found and (attaches or found[-1].endswith("\u200d")):
            found[-1] += c
        else:
            found.append(c)
    return found


def printable(text: str) -> str:
    """Return ``text`` with accents composed, and with blanks for line breaks, controls and codes
    that are no characters.

    Example:
        >>> printable("e\\u0301\\n\\x07x") == "\\u00e9  x"
        True
    """
    text = unicodedata.normalize("NFC", text)
    return "".join(c if _is_character(c) else " " for c in text)


def _is_character(c: str) -> bool:
    controls = unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDI_CONTROLS
    return not controls and ord(c) & 0xFFFE != 0xFFFE and not 0xFDD0 <= ord(c) <= 0xFDEF
