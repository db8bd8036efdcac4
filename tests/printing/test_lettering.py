"""Names in any script are printed as they are, or as frames with their codes; never as question
marks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pikepdf
import pypdfium2
import pytest
from bundle_fixtures import demo_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from printed import noise, sticker

from physadv.patches.bundle import PatchBundle
from physadv.printing.fonts import clusters, printable, writes_plainly
from physadv.printing.sheet import PrintedSheet, write_sheet

pytest.importorskip("uharfbuzz")
python_bidi = pytest.importorskip("bidi")
lettering = pytest.importorskip("physadv.printing.lettering")
font_faces = pytest.importorskip("physadv.printing.font_faces")

NAMES = {
    "Arabic": "ملصق قف",
    "Hebrew": "מדבקת עצור",
    "Devanagari": "रुको चिह्न",
    "Thai": "ป้ายหยุด น้ำ",
    "Chinese": "停车标志",
    "Japanese": "止まれステッカー",
    "Korean": "정지 표지판",
    "Greek and Cyrillic": "Στοπ Стоп",
    "Latin": "Łuk ő",
    "emoji": "stop 🛑 👩\u200d💻 👍🏽",
}


def named(folder: Path, name: str) -> PatchBundle:
    """A small bundle of that name."""
    bundle = sticker(folder / "b", 60, 40, noise(8, 12))
    return replace(bundle, card=replace(bundle.card, patch=replace(bundle.card.patch, name=name)))


def printed(folder: Path, name: str) -> tuple[PrintedSheet, str]:
    """The sheet of a bundle of that name, and the text that a viewer finds on it."""
    sheet = write_sheet(named(folder, name), folder / "s.pdf")
    with pypdfium2.PdfDocument(str(sheet.pdf)) as pdf:
        return sheet, pdf[0].get_textpage().get_text_range()


@pytest.mark.parametrize("script", NAMES)
def test_the_sheet_carries_the_name(tmp_path: Path, script: str) -> None:
    """In each script, with the fonts of physadv[fonts]: every character has a font, and the name
    can be searched for."""
    pytest.importorskip("manimgx_fonts")
    pytest.importorskip("manimgx_fonts_cjk")
    sheet, text = printed(tmp_path, NAMES[script])
    assert sheet.lacking == ""
    assert set(NAMES[script]) - {" "} <= set(text)
    if script not in ("Arabic", "Hebrew"):  # viewers differ in how they turn these around
        assert NAMES[script] in text


def test_arabic_letters_join(tmp_path: Path) -> None:
    """A letter alone looks different from the same one between two others."""
    pytest.importorskip("manimgx_fonts")
    alone = lettering.shaped_line("\u0639").glyphs[0]
    first, middle, last = lettering.shaped_line("\u0639\u0639\u0639").glyphs
    assert len({alone.outline, first.outline, middle.outline, last.outline}) == 4


def test_devanagari_vowels_come_first() -> None:
    """The vowel sign i is written after its consonant and stands before it, as one group."""
    pytest.importorskip("manimgx_fonts")
    (group,) = lettering.shaped_line("\u0915\u093f").glyphs
    (consonant,) = lettering.shaped_line("\u0915").glyphs
    left = min(values[0] for _, values in consonant.outline if values)
    moved = sorted(values[0] for _, values in group.outline if values)
    assert group.text == "\u0915\u093f"
    assert group.advance > consonant.advance
    assert moved[0] < left + 200


@pytest.mark.parametrize(
    ("logical", "seen"),
    [
        ("\u05d0\u05d1 12", "12 \u05d1\u05d0"),
        ("ab \u05d0\u05d1 cd", "ab \u05d1\u05d0 cd"),
        ("\u05d0 (b2) c", "c (b2) \u05d0"),
        ("a (\u05d0) b", "a (\u05d0) b"),
        ("\u05d0 a-b \u05d1", "\u05d1 a-b \u05d0"),
        ("plain", "plain"),
    ],
)
def test_lines_run_in_their_direction(
    logical: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of Hebrew run from right to left, numbers and Latin words in them from left to right,
    brackets enclose what they should (Unicode Standard Annex 9), whatever the fonts."""
    monkeypatch.setattr(font_faces, "_font_files", lambda bold: ())
    font_faces.face_for.cache_clear()
    lettering.shaped_line.cache_clear()
    try:
        line = lettering.shaped_line(logical)
    finally:
        font_faces.face_for.cache_clear()
        lettering.shaped_line.cache_clear()
    shown = "".join(glyph.text for glyph in line.glyphs)
    assert shown.translate(str.maketrans("()", "||")) == seen.translate(str.maketrans("()", "||"))
    assert set(line.lacking) == {c for c in logical if c >= "\u0590"}


@settings(max_examples=400, deadline=None)
@given(
    st.text("abZ 12.,:-+/()[]{}%$!?\u05d0\u05d1\u05d2\u0627\u0628\u0644\u0661\u0662", max_size=14)
)
def test_order_is_that_of_another_implementation(text: str) -> None:
    """Letters, numbers and brackets of both directions lie as unicode-bidi (Rust) lays them."""
    levels = lettering._levels(text)
    runs = [
        lettering._Run(c, None, level)  # one for each character, so that the order is all there is
        for c, level in zip(text, levels, strict=True)
    ]
    seen = "".join(run.text for run in lettering._reordered(runs))
    brackets = str.maketrans(")]}", "([{")
    assert seen.translate(brackets) == python_bidi.get_display(text).translate(brackets)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_a_line(text: str) -> None:
    """Whatever characters a name has, isolates and unassigned ones too, each that shows has a glyph
    or a frame."""
    text = printable(text)
    line = lettering.shaped_line(text)
    shown = {c for c in text if font_faces.is_shown(c)}
    assert shown <= set("".join(glyph.text for glyph in line.glyphs))
    assert line.width >= 0


def test_a_character_that_no_font_has_is_a_frame(tmp_path: Path) -> None:
    """Private-use characters are in no font: the sheet says which, and shows their codes."""
    sheet, text = printed(tmp_path, "stop \U0010fffd")
    assert sheet.lacking == "\U0010fffd"
    assert "stop" in text
    (frame,) = lettering.shaped_line("\U0010fffd").glyphs
    (other,) = lettering.shaped_line("\U0010fffc").glyphs
    assert frame.outline != other.outline


def test_plain_names_need_no_other_font(tmp_path: Path) -> None:
    """What the plain font has is printed in it, embedded, so that sheets are the same on all
    machines."""
    assert writes_plainly("stop sign, 5 \u20ac, Stra\u00dfe, \u0141uk")
    sheet, text = printed(tmp_path, "Stra\u00dfe")
    assert "Stra\u00dfe" in text
    with pikepdf.open(sheet.pdf) as pdf:
        fonts = {
            str(o.BaseFont)
            for o in pdf.objects
            if isinstance(o, pikepdf.Dictionary) and o.get("/Type") == "/Font"
        }
    assert {name.partition("+")[2] for name in fonts} == {
        "BitstreamVeraSans-Roman",
        "BitstreamVeraSans-Bold",
    }


def test_composed_and_decomposed_names_are_the_same(tmp_path: Path) -> None:
    """File systems decompose accents; the sheet does not show it, nor line breaks."""
    name = "Stra\u00dfe e\u0301\nx\x07\uffff\ufdd0y"
    sheet, text = printed(tmp_path, name)
    assert "\u00e9 x y" in " ".join(text.split())
    with pikepdf.open(sheet.pdf) as pdf:
        assert str(pdf.docinfo["/Title"]).startswith("Stra\u00dfe \u00e9 x   y")
    ElementTree.parse(sheet.svg)
    assert clusters("e\u0301a\u200db") == ["e\u0301", "a\u200db"]


@pytest.mark.parametrize(
    "name",
    ["a long name with words " * 5, "x" * 150, "停" * 80],
    ids=("words", "one word", "Chinese"),
)
def test_long_names_are_wrapped_and_stay_clear(tmp_path: Path, name: str) -> None:
    """However long, the name ends before the code, on two lines at most."""
    sheet = write_sheet(named(tmp_path, name), tmp_path / "s.pdf")
    short = write_sheet(named(tmp_path / "2", "x"), tmp_path / "2.pdf")
    pages = []
    for pdf in (sheet.pdf, short.pdf):
        with pypdfium2.PdfDocument(str(pdf)) as document:
            pages.append(np.asarray(document[0].render(scale=4).to_pil().convert("L"), int))
    changed = np.argwhere(np.abs(pages[0] - pages[1]) > 60) / 4 / 72 * 25.4
    assert changed[:, 1].max() < 210 - 7 - 22 - 17 - 2
    assert changed[:, 0].max() < 7 + 8.5


def test_demo_names_are_found(tmp_path: Path) -> None:
    """The name on a tile's page and on the test signs is the same line."""
    bundle = demo_bundle(tmp_path / "b", noise(8, 12), size=(150.0, 140.0), below=150.0)
    bundle = replace(
        bundle, card=replace(bundle.card, patch=replace(bundle.card.patch, name="ő停"))
    )
    paper = (130.0, 160.0)
    sheet = write_sheet(
        bundle, tmp_path / "s.pdf", paper=paper, tile=True, test_signs=True, sign_dpi=60
    )
    with pypdfium2.PdfDocument(str(sheet.pdf)) as document:
        assert all("ő停" in page.get_textpage().get_text_range() for page in document)
