"""Text in any script: ordered, shaped, and embedded as Type 3 fonts made of its outlines.

python-bidi orders right-to-left text and HarfBuzz shapes it. Outlines can be taken from every kind
of OpenType font; reportlab embeds TrueType fonts only, and does not order text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import uharfbuzz as hb
from bidi import algorithm as bidi

from physadv.printing.font_faces import FontFace, base_face, face_for, is_shown
from physadv.printing.fonts import clusters
from physadv.printing.glyph_fonts import EM, Glyph, Step, moved

_OPENING = "([{\u2045\u27e8\u300a\u300c\u300e\u3010\u3014\u3016\uff08\uff3b\uff5b"
_CLOSING = ")]}\u2046\u27e9\u300b\u300d\u300f\u3011\u3015\u3017\uff09\uff3d\uff5d"


@dataclass(frozen=True)
class ShapedLine:
    """A line, ready to be drawn.

    Attributes:
        glyphs: Its glyphs from left to right, each after the advance of the one before.
        width: Its width in thousandths of the font size.
        lacking: Characters that no font on this machine has.
    """

    glyphs: tuple[Glyph, ...]
    width: float
    lacking: str


@lru_cache(maxsize=256)
def shaped_line(text: str, *, bold: bool = False) -> ShapedLine:
    """Order and shape one line of text.

    A character that no font has is shown as a frame with its code, such as 505C, never as a
    question mark.

    Args:
        text: The line in logical order.
        bold: Whether bold fonts are preferred.

    Returns:
        The line from left to right.

    Example:
        >>> line = shaped_line("A\\u05d0\\u05d1")
        >>> [ascii(glyph.text) for glyph in line.glyphs]
        ["'A'", "'\\\\u05d1'", "'\\\\u05d0'"]
    """
    glyphs: list[Glyph] = []
    lacking = ""
    for run in _runs_as_seen(text, bold):
        glyphs += _shaped_run(run)
        lacking += "" if run.face else "".join(c for c in run.text if is_shown(c))
    return ShapedLine(tuple(glyphs), sum(glyph.advance for glyph in glyphs), lacking)


@dataclass(frozen=True)
class _Run:
    """Characters in logical order that one font shows in one direction; no font: frames."""

    text: str
    face: FontFace | None
    level: int


def _runs_as_seen(text: str, bold: bool) -> list[_Run]:
    """Split ``text`` by direction and font, and return the runs from left to right."""
    levels, runs = _levels(text), list[_Run]()
    at = 0
    for cluster in clusters(text):
        level, last = levels[at], runs[-1] if runs else None
        at += len(cluster)

        # Signs stay in the font of the word before them; blanks are the plain font's.
        kept = last and last.face if not cluster[0].isalnum() and not cluster.isspace() else None
        face = kept if kept and kept.shows(cluster) else face_for(cluster, bold=bold)
        if last and last.level == level and last.face is face:
            runs[-1] = _Run(last.text + cluster, face, level)
        else:
            runs.append(_Run(cluster, face, level))
    return _reordered(runs)


def _levels(text: str) -> list[int]:
    """Return the embedding level of every character (Unicode Standard Annex 9); odd ones run from
    right to left."""
    text = _with_embeddings(text)
    storage = bidi.get_empty_storage()
    base = bidi.get_base_level(text)
    storage["base_level"], storage["base_dir"] = base, ("L", "R")[base]
    bidi.get_embedding_levels(text, storage)
    for index, char in enumerate(storage["chars"]):
        char["index"] = index
    bidi.explicit_embed_and_overrides(storage)
    bidi.resolve_weak_types(storage)
    _resolve_brackets(storage["chars"])
    bidi.resolve_neutral_types(storage, False)
    bidi.resolve_implicit_levels(storage, False)

    levels = [base] * len(text)
    for char in storage["chars"]:  # the marks that only direct are left out of it
        levels[char["index"]] = char["level"]
    return levels


def _with_embeddings(text: str) -> str:
    """Replace what python-bidi does not know: isolates by the embeddings that come closest, and
    characters of newer versions of Unicode by a neutral one."""
    text = "".join(c if unicodedata.bidirectional(c) else "\ufffd" for c in text)
    marks = {"\u2066": "\u202a", "\u2067": "\u202b", "\u2069": "\u202c"}
    for i, c in enumerate(text):
        if c == "\u2068":  # the first strong character decides
            marks[c] = ("\u202a", "\u202b")[bidi.get_base_level(text[i + 1 :])]
            text = text[:i] + marks[c] + text[i + 1 :]
    return "".join(marks.get(c, c) for c in text)


def _resolve_brackets(chars: Sequence[dict[str, Any]]) -> None:
    """Give both brackets of a pair one direction (rule N0), which python-bidi leaves out.

    It is the line's own if that occurs between them, else the other one if that occurs between
    them and before them.

    Args:
        chars: python-bidi's characters with their types and levels, which are changed.
    """
    for start, end in _bracket_pairs([char["ch"] for char in chars]):
        own = "LR"[chars[start]["level"] % 2]
        inside = {_direction(char["type"]) for char in chars[start + 1 : end]} - {None}
        before = [_direction(char["type"]) for char in chars[:start]]
        last = next((d for d in reversed(before) if d), own)
        if inside:
            found = own if own in inside else last
            chars[start]["type"] = chars[end]["type"] = found


def _bracket_pairs(text: Sequence[str]) -> list[tuple[int, int]]:
    """Return where brackets open and close, in the order in which they open."""
    pairs, opened = list[tuple[int, int]](), list[int]()
    for i, c in enumerate(text):
        if c in _OPENING:
            opened.append(i)
        elif c in _CLOSING:
            wanted = _OPENING[_CLOSING.index(c)]
            matches = [k for k, start in enumerate(opened) if text[start] == wanted]
            if matches:
                pairs.append((opened[matches[-1]], i))
                del opened[matches[-1] :]
    return sorted(pairs)


def _direction(kind: str) -> str | None:
    """Return L or R for a strong type of character; numbers count as R here."""
    return {"L": "L", "R": "R", "AL": "R", "EN": "R", "AN": "R"}.get(kind)


def _reordered(runs: list[_Run]) -> list[_Run]:
    """Bring runs from logical order to that in which they are seen (rule L2 of the annex)."""
    for level in range(max((run.level for run in runs), default=0), 0, -1):
        start = 0
        while start < len(runs):
            end = start
            while end < len(runs) and runs[end].level >= level:
                end += 1
            runs[start:end] = runs[start:end][::-1]
            start = end + 1
    return runs


def _shaped_run(run: _Run) -> list[Glyph]:
    """Return the glyphs of a run from left to right, one for each group that HarfBuzz shapes
    together."""
    if run.face is None:
        frames = [_code_frame(c) for c in run.text if is_shown(c)]
        return frames[::-1] if run.level % 2 else frames

    buffer = hb.Buffer()
    buffer.add_str(run.text)
    buffer.guess_segment_properties()
    buffer.direction = "rtl" if run.level % 2 else "ltr"
    buffer.language = _language(run.text)
    hb.shape(run.face.font, buffer)

    scale = EM / run.face.units
    starts = sorted({info.cluster for info in buffer.glyph_infos})
    ends = dict(zip(starts, [*starts[1:], len(run.text)], strict=True))
    parts = groupby(
        zip(buffer.glyph_infos, buffer.glyph_positions, strict=True), lambda part: part[0].cluster
    )
    glyphs = []
    for start, group in parts:
        steps, advance = list[Step](), 0.0
        for info, place in group:
            at = (advance + place.x_offset * scale, place.y_offset * scale)
            steps += moved(run.face.outline(info.codepoint), *at)
            advance += place.x_advance * scale
        glyphs.append(Glyph(tuple(steps), round(advance, 1), run.text[start : ends[start]]))
    return glyphs


def _language(text: str) -> str:
    """Return the language whose forms are drawn: Chinese, Japanese and Korean share characters."""
    if any("\u3040" <= c <= "\u30ff" for c in text):
        return "ja"
    if any("\uac00" <= c <= "\ud7af" for c in text):
        return "ko"
    return "zh-hans" if any("\u2e80" <= c <= "\u9fff" for c in text) else "und"


def _code_frame(character: str) -> Glyph:
    """Return a frame around the code of ``character``, in two rows of digits."""
    code, face = f"{ord(character):04X}", base_face()
    outline = [*_rectangle(40, -80, 640, 740), *_rectangle(600, -40, 80, 700)]
    for row, base in ((code[: len(code) // 2], 370), (code[len(code) // 2 :], 20)):
        side = 500 / max(2, len(row))
        for place, digit in enumerate(row):
            steps = face.outline(face.glyph(digit))
            outline += moved(steps, 90 + side * place, base, side / 640)
    return Glyph(tuple(outline), 680, character)


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> list[Step]:
    """Return a closed path; from right to left it is a hole in one from left to right."""
    corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    return [("lm"[i == 0], corner) for i, corner in enumerate(corners)] + [("h", ())]
