"""Names of files, folders and classes are text: nothing in them is obeyed, and any name works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import environment
from PIL import Image
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from physadv.core.visible_text import visible_text
from physadv.printing.fonts import printable
from physadv.report.svg import svg_text
from physadv_cli.runs import RunConsole

ESCAPES = "\x1b[31m\x1b]0;owned\x07"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]")
BUNDLE = "stop-sticker-signs-v1"
BOX = ("--block", "clean", "--box", "20,20,60,60", "--distance", "5m")


def run(folder: Path, *words: str | bytes) -> tuple[int, str]:
    """The exit code of the command and all that it printed."""
    command = [sys.executable, "-m", "physadv_cli.main", *words]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, timeout=300)
    return done.returncode, (done.stdout + done.stderr).decode()


def photo(path: bytes) -> None:
    """A photo of noise under a name of bytes."""
    pixels = np.random.default_rng(sum(path)).integers(0, 256, (90, 120, 3), np.uint8)
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - a name of bytes
    with open(path, "wb") as stream:  # noqa: PTH123 - a name of bytes
        Image.fromarray(pixels).save(stream, "JPEG")


def test_a_check_of_photos_of_any_name(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, escapes and brackets: measured, recorded and reported."""
    for name in (
        b"Stra\xdfe",
        b"a\x1b[2Jb",
        "gnp\u202egpj".encode(),
        b"cr\rphysadv",
        b"x\nwarning: y",
    ):
        photo(os.fsencode(tmp_path) + b"/photos/" + name + b".jpg")
    (tmp_path / "photos" / f"bad{ESCAPES}.jpg").write_bytes(b"junk")
    out = "o[/b]" + ESCAPES

    code, printed = run(tmp_path, "check", "photos", "--bundle", BUNDLE, *BOX, "--out", out)
    assert (code, OBEYED.findall(printed)) == (0, [])
    assert not re.search("^warning: y", printed, re.MULTILINE)
    assert r"report: o[/b]\x1b[31m" in printed.replace("\n", "")
    page = (tmp_path / out / "report.html").read_text(encoding="utf-8")
    assert not OBEYED.search(page)
    rows = (tmp_path / out / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert len([json.loads(row) for row in rows]) == 5


@pytest.mark.slow
def test_folders_of_any_name(tmp_path: Path) -> None:
    """Sheets and clips are written below names that libraries in C cannot take."""
    clips = ("--clips", "1", "--frames", "2", "--frame-size", "320x240", "--camera", "phone")
    assert run(tmp_path, "twin", BUNDLE, *clips, "--out", b"clips\xdf")[0] == 0
    check = ("check", b"clips\xdf", "--bundle", BUNDLE, "--out", b"c\xdf[/b]")
    code, printed = run(tmp_path, *check)
    assert (code, OBEYED.findall(printed)) == (0, [])
    code, printed = run(tmp_path, "print", BUNDLE, "--paper", "a3", "--out", b"p\xdf[b].pdf")
    assert (code, OBEYED.findall(printed)) == (0, [])
    assert r"p\xdf[b]" in printed


@pytest.mark.parametrize(
    "words",
    [
        ("report", b"absent\xdf\x1b[1m"),
        ("check", f"--x{ESCAPES}[/b]"),
        ("attack", "--model", f"x{ESCAPES}[/b]", "--data", "d", "-v"),
    ],
    ids=["report", "option", "traceback"],
)
def test_errors_repeat_names_without_obeying_them(
    tmp_path: Path, words: tuple[str | bytes, ...]
) -> None:
    code, printed = run(tmp_path, *words)
    assert code in (1, 2)
    assert not OBEYED.findall(printed)
    assert r"\x1b" in printed


def test_the_console_shows_what_a_terminal_would_obey() -> None:
    """Plain lines, styled text, tables, a status and progress all pass one place."""
    console = RunConsole(force_terminal=True, color_system=None, width=80, markup=False)
    table = Table("name")
    table.add_row(f"cell{ESCAPES}")
    with console.capture() as captured:
        console.print(f"line{ESCAPES}[/b] \u202e Stra\udcdfe")
        console.print(Text.assemble(("red", "red"), f"text{ESCAPES}"))
        console.print(table)
        with Progress(console=console, transient=False) as progress:
            progress.add_task(f"task{ESCAPES}".replace("[", "("), total=1)
    printed = re.sub("\x1b\\[[?\\d;]*[hlKAmJ]|\r", "", captured.get())  # rich's own codes
    assert not OBEYED.findall(printed)
    for word in ("line", "text", "cell", "task"):
        assert re.search(rf"{word}\\x1b[\[(]31m\\x1b", printed)
    assert r"[/b] \u202e Stra\xdfe" in printed


def test_pages_charts_and_sheets_show_it_too() -> None:
    """HTML, SVG and PDF hold no character that reorders or hides others."""
    name = "stop\u202eGNP\u200b.exe\x1b[31m<b>"
    assert not OBEYED.search(svg_text(0, 0, name))
    assert not OBEYED.search(printable("stop\u202eGNP\x1b"))
    assert visible_text("سلام\u200cها 👩\u200d💻 Straße 停") == "سلام\u200cها 👩\u200d💻 Straße 停"
    assert visible_text("a\u200db\ud800\U000e0041") == r"a\u200db\ud800\U000e0041"
