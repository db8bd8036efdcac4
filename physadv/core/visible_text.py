"""Text of others as it may be shown: what a terminal or a page would obey becomes visible."""

from __future__ import annotations

import re
import unicodedata

_BIDI = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
BIDI_CONTROLS = frozenset(map(chr, _BIDI))
"""Characters that change the order in which their neighbors are shown."""
_JOINERS = "\u200c\u200d"
"""Characters that join or part letters of some scripts and the parts of emoji."""
_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode that are acted upon, or show nothing."""
_NOT_PORTABLE = frozenset('<>:"/\\|?*\t\n')
_DEVICE = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", re.IGNORECASE)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the start of a formula."""
_NUMBER = re.compile(r"[+-]?\d[^|!(\"'=@+*]*\Z")
"""A number, with its unit or interval; without what a formula needs to do something."""
_PLAIN = re.compile(r"[ -~\n\t]*")


def visible_text(text: str) -> str:
    r"""Return ``text`` with everything that a terminal or a page would act upon written out.

    Names of files and classes, texts of cards, and messages of libraries may hold escape sequences,
    carriage returns, marks that reverse the order of characters, characters without width, and
    bytes that are no text. Each becomes its code, such as ``\x1b``. Line breaks and tabs stay, and
    so do joiners beside letters of scripts that need them.

    Args:
        text: The text.

    Returns:
        The text to show; plain text is returned as it is.

    Example:
        >>> print(visible_text("stop\x1b[31m\u202eGNP.exe Stra\udcdfe"))
        stop\x1b[31m\u202eGNP.exe Stra\xdfe
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        character if _is_shown(character, before) else _code(character)
        for before, character in zip(" " + text, text, strict=False)
    )


def visible_line(text: str) -> str:
    r"""Return ``text`` as :func:`visible_text` does, on one line whatever it holds.

    Args:
        text: The text, such as a warning that begins with the name of a file.

    Example:
        >>> print(visible_line("a.jpg\nphysadv: all good"))
        a.jpg\nphysadv: all good
    """
    return visible_text(text).replace("\n", r"\n")


def markdown_cell(text: str) -> str:
    r"""Return ``text`` as a cell of a Markdown table that holds no link, picture or HTML.

    Args:
        text: The text; a name may come from anybody, and a viewer would fetch its picture.

    Example:
        >>> print(markdown_cell("a|![](http://b) <img>"))
        a\|![]\(http://b) &lt;img>
    """
    plain = visible_line(text).replace("|", "\\|").replace("<", "&lt;")
    return plain.replace("](", "]\\(")


def spreadsheet_cell(value: object) -> object:
    """Return ``value`` as a cell of a CSV file that no spreadsheet takes for a formula.

    Args:
        value: The cell; a text that begins as a formula does, and is no number, begins with "'".

    Example:
        >>> [spreadsheet_cell(cell) for cell in ("=1+1", "-0.5", "-0.5 %", "+a", 7)]
        ["'=1+1", '-0.5', '-0.5 %', "'+a", 7]
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    return value if _NUMBER.match(value) else f"'{value}"


def portable_name(text: str) -> str:
    r"""Return a name of a file as any system takes it, for an archive that goes to others.

    What a system or a terminal acts upon, and what Windows allows in no name, becomes "_"; a name
    of one of its devices, or one that begins with a dot, begins with "_".

    Args:
        text: Name of a file, without folders.

    Example:
        >>> portable_name("C:me\x1b.jpg"), portable_name("con.jpg"), portable_name("..")
        ('C_me_.jpg', '_con.jpg', '_')
    """
    shown = (c if _is_shown(c, "") and c not in _NOT_PORTABLE else "_" for c in text)
    name = "".join(shown).rstrip(" .") or "_"
    is_odd = name.startswith(".") or _DEVICE.fullmatch(name.partition(".")[0].strip())
    return f"_{name}" if is_odd else name


def _is_shown(character: str, before: str) -> bool:
    if character in "\n\t":
        return True
    if character in _JOINERS:
        return not before.isascii()
    is_character = ord(character) & 0xFFFE != 0xFFFE  # else XML takes it in no text
    return is_character and unicodedata.category(character) not in _OBEYED


def _code(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a file name that is no UTF-8
        number -= 0xDC00
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
