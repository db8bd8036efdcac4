"""`physadv certify`: rows, table, curve and report; resume after a kill; bad input in one line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from commandline import environment, physadv, write_colors
from PIL import Image
from typer.testing import CliRunner

from physadv.core.rows import read_rows
from physadv_cli.main import app, main

ROOT = Path(__file__).resolve().parents[2]
VICTIM = '''
import time
from torch import nn
import torch

class Colors(nn.Module):
    """A linear model of the brightest channel, in the order of the folders: blue, green, red."""
    def __init__(self):
        super().__init__()
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = torch.eye(3).flip(0)
    def forward(self, x):
        time.sleep(PAUSE)
        return self.head(self.flat(self.pool(x)))

def make():
    return Colors()
'''
BOUNDS = (
    "certify",
    "--victim",
    "colors:make",
    "--data",
    "data",
    "--method",
    "crown-ibp",
    "--eps",
    "4/255",
)
VOTES = (
    "certify",
    "--victim",
    "colors:make",
    "--data",
    "data",
    "--sigma",
    "0.1",
    "--n",
    "400",
    "--n0",
    "20",
)


def write_model(folder: Path, pause: float) -> None:
    (folder / "colors.py").write_text(VICTIM.replace("PAUSE", str(pause)))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A victim and class folders of 8x8 images whose colors differ by a little more each time."""
    write_model(tmp_path, 0.0)
    write_colors(tmp_path / "data", count=5, side=8, values=(100, 120), lead=6)
    return tmp_path


def test_bounds_are_exact_on_a_linear_model(place: Path) -> None:
    """Certified at eps is exactly: right, and the best channel mean leads by more than twice
    eps."""
    done = physadv(place, *BOUNDS, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {r["image"]: r for r in read_rows(place / "run" / "rows.jsonl")}
    assert len(rows) == 15
    wanted = 0
    for file in (place / "data").rglob("*.png"):
        means = np.asarray(Image.open(file)).astype(float).mean((0, 1))
        order = np.sort(means)
        right = ["red", "green", "blue"][int(means.argmax())] == file.parent.name
        row = next(
            r for name, r in rows.items() if name.endswith(f"{file.parent.name}/{file.name}")
        )
        holds = right and order[2] - order[1] > 8
        assert (row["predicted"] == row["label"] and row["radius"] >= 4 / 255) == holds
        wanted += holds
    assert 0 < wanted < 15
    assert result["certified_accuracy"]["rate"] == pytest.approx(wanted / 15)
    rates = [p["rate"] for p in result["curve"]]
    assert rates == sorted(rates, reverse=True)
    report = (place / "run" / "report.html").read_text()
    assert report.count("<svg") == 1
    assert "Certified accuracy of" in report
    assert not re.search(r"(src|href)=\"http", report)


def test_bounds_pass_a_change_of_the_channels_order(place: Path) -> None:
    """With --bgr red is taken for blue and blue for red: what bounds certify is green, where it
    leads by more than twice eps."""
    words = [*BOUNDS[: BOUNDS.index("--method")], "--method", "crown", "--eps", "4/255", "--bgr"]
    done = physadv(place, *words, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    wanted = set()
    for file in (place / "data").rglob("*.png"):
        means = np.asarray(Image.open(file)).astype(float).mean((0, 1))
        order = np.sort(means)
        if means.argmax() == 1 and file.parent.name == "green" and order[2] - order[1] > 8:
            wanted.add(f"green/{file.name}")
    rows = read_rows(place / "run" / "rows.jsonl")
    certified = {"/".join(r["image"].split("/")[-2:]) for r in rows if r["radius"] >= 4 / 255}
    assert certified == wanted
    assert wanted


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--threat", "l2:0.05"),
        ("--norm", "linf"),
        ("--threat", "l1", "--noise", "laplace"),
    ],
)
def test_smoothing_in_every_mode(place: Path, more: tuple[str, ...]) -> None:
    """Full radii, a fixed radius, l_inf and l_1 all give rows with a class and a radius, and an
    interval."""
    done = physadv(place, *VOTES, *more, "--limit", "6", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["certified_accuracy"].keys() == {"rate", "low", "high", "n"}
    rows = list(read_rows(place / "run" / "rows.jsonl"))
    assert len(rows) == 6
    assert all(r["predicted"] in (-1, 0, 1, 2) and r["radius"] >= 0 for r in rows)
    assert result["samples"] == sum(r["samples"] for r in rows) > 0


def test_a_killed_run_goes_on_to_the_same_rows(place: Path) -> None:
    """SIGKILL midway, the same command again: the rows are those of a run that nobody killed."""
    assert physadv(place, *VOTES, "--out", "whole").returncode == 0
    write_model(place, 0.05)
    command = [sys.executable, "-m", "physadv_cli.main", *VOTES, "--out", "torn"]
    with subprocess.Popen(
        command, cwd=place, env=environment(), stderr=subprocess.DEVNULL
    ) as process:
        rows = place / "torn" / "rows.jsonl"
        deadline = time.time() + 200
        while process.poll() is None and time.time() < deadline:
            if rows.is_file() and rows.read_text().count("\n") >= 3:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert 3 <= len(list(read_rows(rows))) < 15
    write_model(place, 0.0)
    assert physadv(place, *VOTES, "--out", "torn").returncode == 0
    both = [
        sorted(read_rows(place / name / "rows.jsonl"), key=lambda r: r["index"])
        for name in ("whole", "torn")
    ]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--method", "magic"), 1, "magic"),
        (("--method", "crown"), 1, "--threat"),
        (("--method", "patch", "--threat", "linf:0.1"), 1, "size of the patch"),
        (("--method", "ibp", "--eps", "8"), 1, "id you mean 8/255"),
        (("--method", "ibp", "--eps", "0.1", "--norm", "l1"), 1, "l1"),
        (("--radius", "9"), 1, "lower the radius"),
        (("--noise", "laplace"), 1, "laplace"),
        (("--alpha", "2"), 1, "alpha"),
        (("--n", "0"), 2, "--n"),
    ],
)
def test_bad_input_is_one_line_and_the_right_code(
    place: Path,
    words: tuple[str, ...],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A known error is one line on stderr and exit 1; wrong usage is exit 2; stdout stays empty."""
    monkeypatch.chdir(place)
    base = (
        "physadv",
        "certify",
        "--victim",
        "colors:make",
        "--data",
        "data",
        "--out",
        "run",
        "--json",
        "--trust",
    )
    monkeypatch.setattr(sys, "argv", [*base, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == code
    assert said.lower() in printed.err.lower()
    assert printed.out == ""
    if code == 1:
        assert len(printed.err.strip().splitlines()) == 1


def test_a_folder_of_another_run_is_refused(place: Path) -> None:
    """--out of a run with other settings is not continued."""
    assert physadv(place, *BOUNDS, "--out", "run").returncode == 0
    done = physadv(place, *BOUNDS[:-1], "2/255", "--out", "run")
    assert done.returncode == 1
    assert "Name another --out" in done.stderr


@pytest.mark.parametrize(
    ("words", "threat"),
    [
        ((), None),
        (("--radius", "0.05"), "l2:0.05"),
        (("--eps", "0.05"), "l2:0.05"),
        (("--norm", "Linf"), "linf"),
        (("--threat", "l2:0.05", "--norm", "l1"), "l1"),
        (("--threat", "l2:0.05", "--eps", "0.1"), "l2:0.1"),
        (("--method", "ibp", "--eps", "4/255"), "linf:4/255"),
        (("--method", "ibp", "--eps", "0.1", "--norm", "2"), "l2:0.1"),
    ],
)
def test_short_forms_are_one_threat(
    place: Path, words: tuple[str, ...], threat: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--norm, --eps and --radius are parts of --threat, which the run records."""
    monkeypatch.chdir(place)
    options = [*VOTES, "--limit", "2", "--n", "20", *words, "--out", "run"]
    done = CliRunner().invoke(app, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    recorded = tomllib.loads((place / "run" / "config.toml").read_text())
    assert recorded.get("threat") == threat
    assert "radius" not in recorded
