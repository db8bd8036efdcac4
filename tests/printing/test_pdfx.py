"""With a print shop's profile the sheet is PDF/X-4; every PDF has its fonts and says what it is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pikepdf
import pytest
import torch
from pdfx_rules import broken_rules
from pikepdf import Array, Dictionary, Name
from press_profiles import cmyk_profile, gray_profile, rgb_profile
from printed import noise, sticker

from physadv.calibration.charuco_board import write_board
from physadv.calibration.color_chart import write_chart
from physadv.printing.cut_line import CutOptions
from physadv.printing.icc import PressProfile
from physadv.printing.sheet import write_sheet

PROFILES = {"CMYK": cmyk_profile, "RGB": rgb_profile, "GRAY": gray_profile}


def pressed(folder: Path, space: str = "CMYK", *, tile: bool = False) -> Path:
    """A sheet with everything on it for a press of that color space."""
    size = (150.0, 140.0) if tile else (60.0, 40.0)
    sheet = write_sheet(
        sticker(folder / "b", *size, noise(8, 12)),
        folder / "s.pdf",
        press=PressProfile(PROFILES[space](folder / "press.icc")),
        cut=CutOptions(bleed=2),
        paper=(130.0, 160.0),
        tile=tile,
        test_signs=True,
        sign_dpi=60,
    )
    assert sheet.pages == (8 if tile else 4)
    assert sheet.standard == "PDF/X-4"
    return sheet.pdf


@pytest.mark.parametrize("space", PROFILES)
@pytest.mark.parametrize("tile", [False, True])
def test_a_sheet_with_a_profile_is_pdfx4(tmp_path: Path, space: str, tile: bool) -> None:
    """No rule is broken, for a CMYK, an RGB and a gray press, with test signs and with tiles."""
    assert broken_rules(pressed(tmp_path, space, tile=tile)) == []


def test_a_round_sticker_is_pdfx4(tmp_path: Path) -> None:
    """A mask makes pictures see-through: their pages are blended in the press's space."""
    yy, xx = np.mgrid[:24, :24] - 11.5
    mask = torch.from_numpy((xx**2 + yy**2 < 140).astype(np.float32))[None, None]
    sheet = write_sheet(
        sticker(tmp_path / "b", 60, 60, noise(24, 24), mask),
        tmp_path / "s.pdf",
        press=PressProfile(cmyk_profile(tmp_path / "press.icc")),
    )
    assert broken_rules(sheet.pdf) == []
    with pikepdf.open(sheet.pdf) as pdf:
        assert pdf.pages[0].obj.Group.CS == "/DeviceCMYK"


def test_real_profiles_make_pdfx4(tmp_path: Path) -> None:
    """The same with the press profiles that this machine has."""
    found = sorted(Path("/usr/share/color/icc").rglob("default_cmyk.icc"))
    if not found:
        pytest.skip("no CMYK profile is installed")
    for profile in found:
        sheet = write_sheet(
            sticker(tmp_path / "b", 60, 40, noise(8, 12)),
            tmp_path / "s.pdf",
            press=PressProfile(profile),
        )
        assert broken_rules(sheet.pdf) == [], profile


def _first(pdf: pikepdf.Pdf, kind: str) -> pikepdf.Object:
    return next(
        o
        for o in pdf.objects
        if isinstance(o, pikepdf.Stream | Dictionary)
        and kind in (o.get("/Subtype"), o.get("/Type"))
    )


def _claim(pdf: pikepdf.Pdf, key: str, value: str) -> None:
    with pdf.open_metadata(set_pikepdf_as_editor=False, update_docinfo=False) as record:
        record[key] = value


SPOILED: dict[str, Callable[[pikepdf.Pdf], object]] = {
    "XMP does not claim PDF/X-4": lambda pdf: _claim(
        pdf, "{http://www.npes.org/pdfx/ns/id/}GTS_PDFXVersion", "PDF/X-1a:2001"
    ),
    "Info and XMP differ on Title": lambda pdf: _claim(pdf, "dc:title", "another"),
    "Info and XMP differ on Producer": lambda pdf: _claim(pdf, "pdf:Producer", "another"),
    "Info and XMP differ on CreationDate": lambda pdf: _claim(
        pdf, "xmp:CreateDate", "1999-01-01T00:00:00Z"
    ),
    "profile outside": lambda pdf: pdf.Root.OutputIntents[0].__setitem__(
        "/DestOutputProfileRef", Dictionary()
    ),
    "size in points": lambda pdf: pdf.pages[0].obj.__setitem__("/UserUnit", 2),
    "unknown rendering intent": lambda pdf: pdf.pages[0].contents_add(b"/Vivid ri"),
    "may skip": lambda pdf: pdf.pages[0].contents_add(b"BX EX"),
    "EmbeddedFiles among": lambda pdf: pdf.Root.__setitem__(
        "/Names", Dictionary(EmbeddedFiles=Dictionary())
    ),
    "presentation steps": lambda pdf: pdf.pages[0].obj.__setitem__("/PresSteps", Dictionary()),
    "halftone": lambda pdf: pdf.pages[0].obj.Resources.__setitem__(
        "/ExtGState", Dictionary(a=Dictionary(HT=Dictionary(HalftoneType=6)))
    ),
    "XMP does not tell whether it is trapped": lambda pdf: _claim(pdf, "pdf:Trapped", "Unknown"),
    "no XMP": lambda pdf: pdf.Root.__delitem__("/Metadata"),
    "0 output intents": lambda pdf: pdf.Root.__delitem__("/OutputIntents"),
    "not an output profile": lambda pdf: pdf.Root.OutputIntents[0].DestOutputProfile.write(
        pdf.Root.OutputIntents[0].DestOutputProfile.read_bytes().replace(b"prtr", b"mntr", 1)
    ),
    "N is not": lambda pdf: pdf.Root.OutputIntents[0].DestOutputProfile.__setitem__("/N", 3),
    "not one of TrimBox": lambda pdf: pdf.pages[0].obj.__delitem__("/TrimBox"),
    "boxes do not lie": lambda pdf: pdf.pages[0].obj.__setitem__(
        "/BleedBox", Array([9, 9, 20, 20])
    ),
    "is not embedded": lambda pdf: _first(pdf, "/FontDescriptor").__delitem__("/FontFile2"),
    "/DeviceRGB without": lambda pdf: pdf.pages[0].contents_add(b"1 0 0 rg"),
    "picture in /DeviceRGB": lambda pdf: _first(pdf, "/Image").__setitem__(
        "/ColorSpace", Name.DeviceRGB
    ),
    "interpolation": lambda pdf: _first(pdf, "/Image").__setitem__("/Interpolate", True),
    "blended in another": lambda pdf: _first(pdf, "/Image").__setitem__(
        "/SMask", pdf.make_stream(b"\0", Subtype=Name.Image)
    ),
    "without a name": lambda pdf: pdf.Root.OCProperties.D.__delitem__("/Name"),
    "switch themselves": lambda pdf: pdf.Root.OCProperties.D.__setitem__("/AS", Array([])),
    "not listed": lambda pdf: pdf.Root.OCProperties.D.__setitem__("/Order", Array([])),
    "/OpenAction": lambda pdf: pdf.Root.__setitem__("/OpenAction", Dictionary(S=Name.JavaScript)),
    "annotations": lambda pdf: pdf.pages[0].obj.__setitem__(
        "/Annots", Array([Dictionary(Type=Name.Annot)])
    ),
    "transfer curve": lambda pdf: pdf.pages[0].obj.Resources.__setitem__(
        "/ExtGState", Dictionary(a=Dictionary(TR=Name.Identity))
    ),
    "spot color that is none": lambda pdf: pdf.pages[0].obj.Resources.__setitem__(
        "/ColorSpace", Dictionary(a=Array([Name.Separation, Name.All, Name.DeviceCMYK]))
    ),
}


def test_the_rules_can_be_broken(tmp_path: Path) -> None:
    """Each rule names the file that was spoiled against it, and no other."""
    good = pressed(tmp_path)
    for words, spoil in SPOILED.items():
        with pikepdf.open(good) as pdf:
            spoil(pdf)
            pdf.save(tmp_path / "bad.pdf", force_version="1.6")
        broken = broken_rules(tmp_path / "bad.pdf")
        assert any(words in rule for rule in broken), (words, broken)


def test_without_a_profile_no_standard_is_claimed(tmp_path: Path) -> None:
    """The plain sheet says nothing of PDF/X, and has no output intent."""
    sheet = write_sheet(sticker(tmp_path / "b", 60, 40, noise(8, 12)), tmp_path / "s.pdf")
    assert sheet.standard is None
    with pikepdf.open(sheet.pdf) as pdf:
        assert "/OutputIntents" not in pdf.Root
        assert b"PDF/X" not in pdf.Root.Metadata.read_bytes()


def test_metadata_say_what_it_is_and_nobody_s_name(tmp_path: Path) -> None:
    """Title, tool, day of the patch and run; XMP and Info agree; no path, user or machine."""
    pytest.importorskip("uharfbuzz")
    bundle = sticker(tmp_path / "b", 60, 40, noise(8, 12))
    card = replace(
        bundle.card,
        patch=replace(bundle.card.patch, name="停车 <&>", created="2026-11-22T23:30:05+02:00"),
    )
    sheet = write_sheet(replace(bundle, card=card), tmp_path / "s.pdf")
    with pikepdf.open(sheet.pdf) as pdf:
        with pdf.open_metadata(set_pikepdf_as_editor=False, update_docinfo=False) as record:
            assert record["dc:title"] == "停车 <&> - 60.0 x 40.0 mm"
            assert record["xmp:CreateDate"] == "2026-11-22T21:30:05+00:00"
            assert record["xmp:CreatorTool"] == "physadv"
            assert card.patch.run_id in record["pdf:Keywords"]
        assert str(pdf.docinfo["/Title"]) == "停车 <&> - 60.0 x 40.0 mm"
        assert str(pdf.docinfo["/CreationDate"]).startswith("D:20261122213005")
        text = pdf.Root.Metadata.read_bytes() + repr(dict(pdf.docinfo.items())).encode()
    assert str(tmp_path).encode() not in text


def test_a_card_without_a_time_has_a_fixed_one(tmp_path: Path) -> None:
    """Where the card tells no time, equal sheets are equal files all the same."""
    bundle = sticker(tmp_path / "b", 60, 40, noise(8, 12))
    card = replace(bundle.card, patch=replace(bundle.card.patch, created="last summer"))
    press = PressProfile(cmyk_profile(tmp_path / "press.icc"))
    sheets = [
        write_sheet(replace(bundle, card=card), tmp_path / f"{i}.pdf", press=press)
        for i in range(2)
    ]
    assert sheets[0].pdf.read_bytes() == sheets[1].pdf.read_bytes()
    assert broken_rules(sheets[0].pdf) == []


def test_every_pdf_embeds_its_fonts(tmp_path: Path) -> None:
    """Sheets, tiles, test signs, the color chart and the camera board."""
    write_chart(tmp_path / "chart.pdf", 1)
    write_board(tmp_path / "board.pdf")
    bundle = sticker(tmp_path / "b", 150, 140, noise(8, 12))
    paper = (130.0, 160.0)
    write_sheet(bundle, tmp_path / "s.pdf", paper=paper, tile=True, test_signs=True, sign_dpi=60)
    for name in ("chart", "board", "s"):
        rules = broken_rules(tmp_path / f"{name}.pdf")
        assert not [rule for rule in rules if "embedded" in rule], name
        with pikepdf.open(tmp_path / f"{name}.pdf") as pdf:
            assert "/Metadata" in pdf.Root
            spaces = {
                str(o.ColorSpace[0] if isinstance(o.ColorSpace, Array) else o.ColorSpace)
                for o in pdf.objects
                if isinstance(o, pikepdf.Stream) and o.get("/Subtype") == "/Image"
            }
        assert "/DeviceRGB" not in spaces, name


@pytest.mark.parametrize("tool", [["qpdf", "--check"], ["pdffonts"]])
def test_other_tools_agree(tmp_path: Path, tool: list[str]) -> None:
    """qpdf finds no error, and poppler finds every font embedded."""
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    done = subprocess.run(
        [*tool, str(pressed(tmp_path))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if tool[0] == "pdffonts":
        assert done.stdout.count("yes yes") == len(done.stdout.splitlines()) - 2 > 0
