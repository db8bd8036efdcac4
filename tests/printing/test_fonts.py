"""Names in any script are printed as they are, or refused; never as question marks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pypdfium2
import pytest
from printed import noise, sticker

from physadv.core.errors import OptionError
from physadv.printing import fonts
from physadv.printing.fonts import font_for
from physadv.printing.sheet import write_sheet


@pytest.mark.parametrize(
    "name",
    [
        "\u0141uk",
        "\u505c\u8f66\u6807\u5fd7",
        "\u505c\u6b62\u6a19\u8b58",
        "\uc815\uc9c0",
    ],
)
def test_the_sheet_carries_the_name_as_it_is(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polish, Chinese, Japanese and Korean names can be read from the sheet's text."""
    monkeypatch.setattr(fonts, "_SYSTEM_FONTS", (("Vera.ttf", "VeraBd.ttf"),))  # of reportlab
    bundle = sticker(tmp_path / "b", 60, 40, noise(8, 12))
    card = replace(bundle.card, patch=replace(bundle.card.patch, name=name))
    sheet = write_sheet(replace(bundle, card=card), tmp_path / "s.pdf")
    with pypdfium2.PdfDocument(str(sheet.pdf)) as pdf:
        assert name in pdf[0].get_textpage().get_text_bounded()


def test_plain_names_stay_in_helvetica() -> None:
    """What Helvetica has is printed in it, so that sheets are the same on all machines."""
    assert font_for("stop sign, 5 \u20ac, Stra\u00dfe") == "Helvetica"
    assert font_for("stop", bold=True) == "Helvetica-Bold"


def test_a_character_that_no_font_has_is_named() -> None:
    """Private-use characters are in no font: the text is refused, not printed with a gap."""
    with pytest.raises(OptionError, match="no font on this machine"):
        font_for("stop \U0010fffd")
