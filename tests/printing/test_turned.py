"""A sticker that fits its paper only when turned is turned, everywhere alike: sheet, marks, cut
line, tiles, and the simulation that cuts it out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pikepdf
import pytest
import torch
from pdfx_rules import broken_rules
from press_profiles import cmyk_profile
from printed import sticker

from physadv.core.pdf_files import Window, render_parts
from physadv.printing.cut_line import CutOptions
from physadv.printing.icc import PressProfile
from physadv.printing.layout import PageRect, fits_paper, sheet_layout, smallest_paper
from physadv.printing.sheet import PrintedSheet, write_sheet
from physadv.twin.printed_sheet import read_sticker

DPI = 100
UPRIGHT, TURNED = ["red", "green", "blue", "white"], ["green", "white", "red", "blue"]
"""Quarters of the picture as it is, and turned with its top to the left."""


def corners() -> torch.Tensor:
    """A picture (1, 3, 16, 24): red top left, green top right, blue bottom left, white."""
    picture = torch.ones(1, 3, 16, 24)
    for channel, (y, x) in enumerate(((0, 0), (0, 12), (8, 0))):
        picture[0, :, y : y + 8, x : x + 12] = 0
        picture[0, channel, y : y + 8, x : x + 12] = 1
    return picture


def notched() -> torch.Tensor:
    """A mask (1, 1, 16, 24) without its top right corner."""
    mask = torch.ones(1, 1, 16, 24)
    mask[..., :4, 18:] = 0
    return mask


def quarters(picture: np.ndarray) -> list[str]:
    """Colors of the quarters near the middle: top left, top right, bottom left, bottom right."""
    names = {(255, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue"}
    h, w = picture.shape[:2]
    points = [(y, x) for y in (2 * h // 5, 3 * h // 5) for x in (2 * w // 5, 3 * w // 5)]
    return [names.get(tuple(int(v) // 200 * 255 for v in picture[p]), "white") for p in points]


def on_page(sheet: PrintedSheet, rect: PageRect) -> np.ndarray:
    """What page 1 shows within a rectangle in mm."""
    left, top, right, bottom = (
        v * 72 / 25.4 for v in (rect.x, rect.y, rect.x + rect.w, rect.y + rect.h)
    )
    window: Window = (left, top, right, bottom)
    return render_parts(sheet.pdf, [(0, window)], dpi=DPI)[1][0].pixels


def test_it_lies_turned_and_is_cut_out_upright(tmp_path: Path) -> None:
    """201.8 x 141.2 mm goes on A4, its top on the left, TrimBox and cut line with it; the twin gets
    it upright, as from a sheet on which it is not turned."""
    bundle = sticker(tmp_path / "b", 201.8, 141.2, corners(), notched())
    sheet = write_sheet(bundle, tmp_path / "s.pdf", cut=CutOptions(bleed=1, corner_radius=0.3))
    assert sheet.turned
    s = sheet.layout.sticker
    assert (s.w, s.h) == (141.2, 201.8)
    assert quarters(on_page(sheet, s)) == TURNED
    with pikepdf.open(sheet.pdf) as pdf:
        box = [float(v) * 25.4 / 72 for v in pdf.pages[0].obj.TrimBox]
    assert (box[2] - box[0], box[3] - box[1]) == pytest.approx((141.2, 201.8), abs=1e-3)

    # The notch at the upright sticker's top right is at the turned one's top left.
    path = sheet.svg.read_text().rpartition('<path d="')[2].partition('"')[0]
    line = np.array([float(v) for v in re.findall(r"[\d.]+", path)]).reshape(-1, 2)
    assert line.min(0) == pytest.approx((s.x, s.y), abs=0.01)
    assert not ((line[:, 0] < s.x + 30) & (line[:, 1] < s.y + 45)).any()

    upright = write_sheet(bundle, tmp_path / "a3.pdf", paper="a3")
    assert not upright.turned
    one, other = (read_sticker(tmp_path / "b", each.pdf, dpi=DPI) for each in (sheet, upright))
    assert quarters(one.rgb) == UPRIGHT
    assert one.rgb.shape == other.rgb.shape
    differences = np.abs(one.rgb.astype(int) - other.rgb)[one.alpha > 0.5]
    assert np.quantile(differences, 0.97) <= 8


def test_the_sheet_tells_that_it_is_turned(tmp_path: Path) -> None:
    """The page, the SVG and the metadata tell it; a sheet on which it stands upright does not."""
    bundle = sticker(tmp_path / "b", 201.8, 141.2, corners())
    for paper, told in (("a4", True), ("a3", False)):
        sheet = write_sheet(bundle, tmp_path / f"{paper}.pdf", paper=paper)
        assert ("turned: its top is on the left" in sheet.svg.read_text()) == told
        with pikepdf.open(sheet.pdf) as pdf:
            assert ("turned left" in str(pdf.docinfo["/Keywords"])) == told


def test_tiles_are_turned_where_that_spares_paper(tmp_path: Path) -> None:
    """333.3 x 250.1 mm is one tile of A3 only when turned, and the page shows it so."""
    bundle = sticker(tmp_path / "b", 333.3, 250.1, corners())
    sheet = write_sheet(bundle, tmp_path / "s.pdf", paper="a3", tile=True)
    assert (sheet.turned, sheet.pages) == (True, 1)
    assert sheet.tiled is not None
    whole = PageRect(*sheet.tiled.tiles[0].on_page(0, 0), 250.1, 333.3)
    assert quarters(on_page(sheet, whole)) == TURNED
    assert quarters(read_sticker(tmp_path / "b", sheet.pdf, dpi=DPI).rgb) == UPRIGHT


@pytest.mark.parametrize("size", [(100.0, 80.0), (180.0, 200.0), (270.0, 120.0)])
def test_what_fits_upright_stays_upright(size: tuple[float, float]) -> None:
    """Paper is turned before the sticker is."""
    layout = sheet_layout(*size, "a4")
    assert not layout.turned
    assert (layout.sticker.w, layout.sticker.h) == size


def test_a_turned_sticker_needs_the_same_paper() -> None:
    """A sticker and the same one turned fit the same papers."""
    for width, height in ((201.8, 141.2), (150.0, 150.0), (195.0, 212.0), (350.0, 200.0)):
        assert fits_paper(width, height, "a4") == fits_paper(height, width, "a4")
        assert smallest_paper(width, height) == smallest_paper(height, width)


def test_the_press_gets_it_turned_too(tmp_path: Path) -> None:
    """With a print shop's profile the turned sheet is a PDF/X-4 as well."""
    bundle = sticker(tmp_path / "b", 201.8, 141.2, corners())
    press = PressProfile(cmyk_profile(tmp_path / "press.icc"))
    sheet = write_sheet(bundle, tmp_path / "s.pdf", press=press)
    assert sheet.turned
    assert broken_rules(sheet.pdf) == []
