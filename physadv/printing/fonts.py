"""Fonts of printed text: Helvetica, and where it lacks a character, one that has it."""

from __future__ import annotations

from functools import cache

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFError, TTFont

from physadv.core.errors import OptionError

_SYSTEM_FONTS = (
    ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    ("LiberationSans-Regular.ttf", "LiberationSans-Bold.ttf"),
    ("NotoSans-Regular.ttf", "NotoSans-Bold.ttf"),
    ("Arial.ttf", "Arial Bold.ttf"),
    ("arial.ttf", "arialbd.ttf"),
    ("Arial Unicode.ttf", "Arial Unicode.ttf"),
    ("DroidSansFallbackFull.ttf", "DroidSansFallbackFull.ttf"),
    ("wqy-zenhei.ttc", "wqy-zenhei.ttc"),
    ("msyh.ttc", "msyhbd.ttc"),
)
"""Files of regular and bold fonts that systems have; they are embedded in the PDF."""
_VIEWER_FONTS = (
    ("STSong-Light", "gbk"),
    ("HeiseiKakuGo-W5", "cp932"),
    ("HYGothic-Medium", "cp949"),
    ("MSung-Light", "big5"),
)
"""Fonts for Chinese, Japanese and Korean that PDF viewers supply, and what they can write."""


def font_for(text: str, *, bold: bool = False) -> str:
    """Return the name of a registered font that can write ``text``.

    Helvetica where it can; then a font of this machine, which the PDF embeds; then, for Chinese,
    Japanese and Korean, one that the viewer or printer supplies.

    Raises:
        OptionError: No font here has all characters; the error names the first that is lacking.

    Example:
        >>> font_for("stop"), font_for("\\u505c\\u8f66") != "Helvetica"
        ('Helvetica', True)
    """
    if _encodes(text, "cp1252"):
        return "Helvetica-Bold" if bold else "Helvetica"

    lacking = set(text)
    for files in _SYSTEM_FONTS:
        font = _system_font(files[bold])
        missing = set(text) if font is None else {c for c in text if not _has(font, c)}
        if font is not None and not missing:
            return str(font.fontName)
        lacking &= missing

    for name, codec in _VIEWER_FONTS:
        if _encodes(text, codec):
            pdfmetrics.registerFont(UnicodeCIDFont(name))
            return name

    first = next((c for c in text if c in lacking), text[:1])
    raise OptionError(
        f"text {text!r}",
        f"no font on this machine can print {first!r}",
        "Use other letters, or install a font that has it, such as DejaVu Sans",
    )


@cache
def _system_font(file: str) -> TTFont | None:
    """Register the font ``file`` of this machine; None where it is not here or cannot be
    embedded."""
    try:
        font = TTFont(file.rpartition(".")[0], file)
    except (TTFError, OSError):
        return None
    pdfmetrics.registerFont(font)
    return font


def _has(font: TTFont, character: str) -> bool:
    return ord(character) in font.face.charToGlyph


def _encodes(text: str, codec: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True
