"""The print and twin commands: files where they are said to be, one JSON object, one-line
errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_fixtures import demo_bundle
from commandline import physadv
from press_profiles import cmyk_profile
from typer.testing import CliRunner

from physadv.core.errors import GeometryError, OptionError
from physadv.core.image_io import save_png
from physadv.printing.icc import srgb_profile
from physadv_cli.main import app


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small patch folder."""
    patch = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(5))
    demo_bundle(tmp_path / "patch", patch)
    return tmp_path / "patch"


def test_print_writes_the_sheet(bundle: Path, tmp_path: Path) -> None:
    """The PDF lies where --out says; stdout is one JSON object."""
    result = CliRunner().invoke(
        app, ["print", str(bundle), "--out", str(tmp_path / "x.pdf"), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    said = json.loads(result.stdout)
    assert said["pdf"] == str(tmp_path / "x.pdf")
    assert said["sticker_mm"][2:] == [120.0, 80.0]


def test_print_says_which_standard_the_file_keeps(bundle: Path, tmp_path: Path) -> None:
    """Without a profile none, with one PDF/X-4, in words and as JSON; a display's is refused."""
    words = ["print", str(bundle), "--json", "--out"]
    plain = CliRunner().invoke(app, [*words, str(tmp_path / "x.pdf")])
    assert "standard" not in json.loads(plain.stdout)
    assert "--icc" in plain.stderr

    profile = cmyk_profile(tmp_path / "press.icc")
    pressed = CliRunner().invoke(app, [*words, str(tmp_path / "y.pdf"), "--icc", str(profile)])
    said = json.loads(pressed.stdout)
    assert said["standard"] == "PDF/X-4"
    assert min(said["picture_dpi"]) >= 300
    assert said["doubts"] == []
    assert "PDF/X-4 for the profile press.icc" in " ".join(pressed.stderr.split())

    (tmp_path / "display.icc").write_bytes(srgb_profile())
    refused = CliRunner().invoke(
        app, [*words, str(tmp_path / "z.pdf"), "--icc", str(tmp_path / "display.icc")]
    )
    assert isinstance(refused.exception, OptionError)
    assert not (tmp_path / "z.pdf").exists()


def test_a_character_without_a_font_is_announced(bundle: Path, tmp_path: Path) -> None:
    """The sheet is written all the same; the warning names the character and what to install."""
    pytest.importorskip("uharfbuzz")
    card = bundle / "card.toml"
    text = card.read_text(encoding="utf-8").replace('name = "demo"', 'name = "demo \\U0010FFFD"')
    text = re.sub('sha256 = ".*"\n', "", text, count=1)  # the card's own, which the name changes
    card.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(
        app, ["print", str(bundle), "--json", "--out", str(tmp_path / "x.pdf")]
    )
    assert result.exit_code == 0, result.output
    (doubt,) = json.loads(result.stdout)["doubts"]
    assert doubt["name"] == "missing font"
    assert "U+10FFFD" in doubt["finding"]
    assert "physadv[fonts]" in " ".join(result.stderr.split())


def test_print_paper_in_mm(bundle: Path) -> None:
    """WxH is read as millimeters; too small a paper is a GeometryError."""
    refused = CliRunner().invoke(app, ["print", str(bundle), "--paper", "125x125"])
    assert isinstance(refused.exception, GeometryError)
    assert CliRunner().invoke(app, ["print", str(bundle), "--paper", "250x300"]).exit_code == 0
    assert (bundle / "sheet.pdf").is_file()


def test_a_sticker_larger_than_a4_goes_on_larger_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --paper a ready-made sticker is printed whatever its size, true to scale, turned
    where that spares a larger sheet, and the way to do it on A4 is said; named paper is what is
    used, or an error."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["print", "stop-sticker-signs-v1", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["paper"], said["turned"], said["size_mm"]) == ("a4", True, [201.8, 141.2])

    demo_bundle(tmp_path / "large", torch.rand(1, 3, 8, 8), size=(195.0, 212.0))
    done = CliRunner().invoke(app, ["print", "large", "--json"])
    assert json.loads(done.stdout)["paper"] == "a3"
    told = CliRunner().invoke(app, ["print", "large", "--overwrite"])
    assert "with --tile on" in " ".join(told.output.split())

    tiled = CliRunner().invoke(app, ["print", "large", "--tile", "--json", "--out", "t.pdf"])
    assert json.loads(tiled.stdout)["paper"] == "a4"
    named = CliRunner().invoke(app, ["print", "large", "--paper", "a4", "--out", "n.pdf"])
    assert isinstance(named.exception, GeometryError)


def test_print_on_tiles(bundle: Path, tmp_path: Path) -> None:
    """--page is --paper, mm may be written out; --json names PDF, SVG, pages, tiles, sizes and the
    measured bar."""
    command = [
        "print",
        str(bundle),
        "--page",
        "122x130mm",
        "--tile",
        "--overlap",
        "8",
        "--bleed",
        "2",
    ]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "x.pdf"), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["svg"] == str(tmp_path / "x-cut.svg")
    assert (tmp_path / "x-cut.svg").is_file()
    assert said["pages"] == len(said["tiles"]) + 1 > 2
    assert [tile["page"] for tile in said["tiles"]] == list(range(2, said["pages"] + 1))
    assert said["tiles"][0]["label"] == "A1"
    assert said["size_mm"] == [120.0, 80.0]
    assert said["bar_mm"] == pytest.approx(100, abs=0.05)
    refused = CliRunner().invoke(app, [*command[:4], *command[5:]])
    assert isinstance(refused.exception, GeometryError)
    assert f"--tile on {said['pages']} sheets" in str(refused.exception)


def test_a_sheet_is_repeated_from_the_record_beside_it(bundle: Path, tmp_path: Path) -> None:
    """NAME.config.toml beside the PDF holds the options; --config gives the same bytes."""
    first, again = tmp_path / "first.pdf", tmp_path / "again.pdf"
    options = ["--paper", "a3", "--bleed", "2", "--test-signs", "--out", str(first)]
    done = CliRunner().invoke(app, ["print", str(bundle), *options])
    assert done.exit_code == 0, done.output
    record = tmp_path / "first.config.toml"
    assert 'paper = "a3"' in record.read_text()

    done = CliRunner().invoke(app, ["print", "--config", str(record), "--out", str(again)])
    assert done.exit_code == 0, done.output
    assert again.read_bytes() == first.read_bytes()


def test_print_error_is_one_line(tmp_path: Path) -> None:
    """A folder that is no bundle ends with exit code 1 and one line."""
    done = physadv(tmp_path, "print", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "card.toml is missing" in done.stderr


def test_twin_films_and_says_simulation(bundle: Path, tmp_path: Path) -> None:
    """Clips, truth and the sheet lie in --out; every output says simulation."""
    out = tmp_path / "twin"
    command = [
        "twin",
        str(bundle),
        "--clips",
        "1",
        "--frames",
        "2",
        "--distance",
        "2,3",
        "--out",
        str(out),
        "--json",
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["simulation"] is True
    assert said["frames"] == 6
    assert "simulation" in result.stderr
    assert json.loads((out / "twin.json").read_text())["simulation"] is True
    assert {p.name for p in (out / "clips").iterdir()} == {
        "clean-00.avi",
        "blank-00.avi",
        "patch-00.avi",
    }
    assert (out / "sheet.pdf").is_file()
    assert (out / "contact.png").is_file()
    rows = [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]
    assert all(2 <= row["distance_m"] <= 3 for row in rows)
    wrong = CliRunner().invoke(app, ["twin", str(bundle), "--distance", "near", "--out", str(out)])
    assert isinstance(wrong.exception, OptionError)


def test_a_simulation_is_repeated_from_its_config(bundle: Path, tmp_path: Path) -> None:
    """--config with the recorded file films the very same clips."""
    options = ["--clips", "1", "--frames", "2", "--distance", "2,3", "--without", "motion"]
    first, again = tmp_path / "first", tmp_path / "again"
    done = CliRunner().invoke(app, ["twin", str(bundle), *options, "--out", str(first)])
    assert done.exit_code == 0, done.output
    recorded = (first / "config.toml").read_text()
    assert "distances = [" in recorded

    done = CliRunner().invoke(
        app, ["twin", "--config", str(first / "config.toml"), "--out", str(again)]
    )
    assert done.exit_code == 0, done.output
    assert (again / "config.toml").read_text() == recorded
    assert (again / "truth.jsonl").read_text() == (first / "truth.jsonl").read_text()
    for clip in (first / "clips").iterdir():
        assert (again / "clips" / clip.name).read_bytes() == clip.read_bytes()


def test_twin_uses_photos_with_boxes(bundle: Path, tmp_path: Path) -> None:
    """Photos whose signs a boxes.csv names become the scenes; truth rows name the photo."""
    photos = tmp_path / "photos"
    photos.mkdir()
    image = np.full((240, 320, 3), 90, np.uint8)
    image[60:160, 100:200] = (160, 20, 30)
    save_png(photos / "a.png", image)
    (photos / "boxes.csv").write_text("file,x0,y0,x1,y1\na.png,100,60,200,160\n")
    command = [
        "twin",
        str(bundle),
        "--clips",
        "1",
        "--frames",
        "2",
        "--signs",
        str(photos),
        "--out",
        str(tmp_path / "t"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "t" / "truth.jsonl").read_text().splitlines()]
    assert {row["photo"] for row in rows} == {"a.png"}
