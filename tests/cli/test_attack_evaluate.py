"""`physadv attack` and `physadv evaluate`: results, files, bad input in one line, and a real
kill."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commandline import environment, physadv, write_colors
from PIL import Image

from physadv.core.rows import read_rows
from physadv.threat.parsing import parse_eps, parse_threat

ROOT = Path(__file__).resolve().parents[2]
VICTIM = '''
import time
import torch
from torch import nn

class Colors(nn.Module):
    """Reads the brightest channel; each forward takes a moment, so that a kill interrupts it."""
    def forward(self, x):
        time.sleep(PAUSE)
        return 20 * x.mean((2, 3))

def make():
    return Colors()
'''


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a victim and class folders of 16x16 images whose colors differ by little."""
    write_model(tmp_path, 0.0)
    write_colors(tmp_path / "data", count=8, side=16, values=(90, 160), lead=2)
    return tmp_path


def write_model(folder: Path, pause: float) -> None:
    """The victim's module; classes are told in the order of their folders by name."""
    text = VICTIM.replace("PAUSE", str(pause)).replace(
        "x.mean((2, 3))", "x.mean((2, 3))[:, [2, 1, 0]]"
    )
    (folder / "colors.py").write_text(text)


EVALUATE = (
    "evaluate",
    "--victim",
    "colors:make",
    "--data",
    "data",
    "--threat",
    "linf:4/255",
    "--threads",
    "1",
)


def test_evaluate_reports_rates_rows_curve_and_pictures(place: Path) -> None:
    """One command gives JSON with intervals, a row a sample, a report with a curve, and
    examples."""
    done = physadv(place, *EVALUATE, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["clean_accuracy"].keys() == {"rate", "low", "high", "n"}
    assert result["clean_accuracy"]["n"] == 24
    assert result["robust_accuracy"]["rate"] < result["clean_accuracy"]["rate"]
    assert result["seconds"] > 0
    assert result["forwards"] > 24
    rows = list(read_rows(place / "run" / "rows.jsonl"))
    assert sorted(r["index"] for r in rows) == list(range(24))
    assert sum(r["robust"] for r in rows) == round(result["robust_accuracy"]["rate"] * 24)
    rates = [p["rate"] for p in result["curve"]]
    assert len(rates) == 5
    assert rates == sorted(rates, reverse=True)
    report = (place / "run" / "report.html").read_text()
    assert "Robust accuracy of" in report
    assert report.count("<svg") == 1
    assert report.count("data:image/png;base64,") >= 3
    assert not re.search(r"(src|href)=\"http", report)


def test_the_gap_to_the_certified_optimum_is_nil_on_a_linear_model(place: Path) -> None:
    """The colors' means move by at most eps each way: exactly the images within twice eps fall."""
    done = physadv(place, *EVALUATE, "--out", "run", "--curve", "none", "--json")
    rows = {r["image"]: r["robust"] for r in read_rows(place / "run" / "rows.jsonl")}
    assert done.returncode == 0, done.stderr
    for file in (place / "data").rglob("*.png"):
        pixels = np.asarray(Image.open(file)).astype(float)
        means = np.sort(pixels.mean((0, 1)))
        wins = ["red", "green", "blue"][int(pixels.mean((0, 1)).argmax())] == file.parent.name
        robust = next(v for k, v in rows.items() if k.endswith(f"{file.parent.name}/{file.name}"))
        assert robust == (wins and means[2] - means[1] > 8), file


def test_attack_saves_the_very_images_it_judged(place: Path) -> None:
    """Saved PNG files are read wrongly, lie within eps of their clean images, and are as many as
    were broken."""
    words = (
        "--victim",
        "colors:make",
        "--data",
        "data",
        "--attack",
        "pgd",
        "--eps",
        "4/255",
        "--steps",
        "5",
    )
    done = physadv(place, "attack", *words, "--save", "broken", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {r["index"]: r for r in read_rows(place / "run" / "rows.jsonl")}
    saved = sorted((place / "broken").glob("*.png"))
    assert len(saved) == result["broken_by"]["pgd"] > 0
    for file in saved:
        row = rows[int(file.name[:6])]
        clean = np.asarray(
            Image.open(next((place / "data").rglob("/".join(row["image"].split("/")[-2:]))))
        ).astype(int)
        found = np.asarray(Image.open(file)).astype(int)
        assert abs(found - clean).max() <= 4
        wrong = ["red", "green", "blue"][int(found.mean((0, 1)).argmax())]
        assert wrong != row["image"].split("/")[-2]


NAMED = (
    "fgsm",
    "ascent",
    "mifgsm",
    "difgsm",
    "apgd",
    "fab",
    "universal",
    "nes",
    "square",
    "rays",
    "hopskipjump",
)


@pytest.mark.parametrize("name", NAMED)
def test_every_attack_runs_by_name(place: Path, name: str) -> None:
    """Each attack known by name breaks something that a large eps lets it."""
    steps = (
        () if name == "fgsm" else ("--steps", {"hopskipjump": "800", "nes": "10"}.get(name, "40"))
    )
    words = (
        "--victim",
        "colors:make",
        "--data",
        "data",
        "--eps",
        "12/255",
        "--limit",
        "6",
        "--out",
        "run",
        "--json",
    )
    done = physadv(place, "attack", "--attack", name, *words, *steps)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["broken_by"][name] > 0


def test_a_target_is_what_is_reached(place: Path) -> None:
    """With --target, broken means that class; --targeted draws one by the seed."""
    words = (
        "--victim",
        "colors:make",
        "--data",
        "data",
        "--attack",
        "pgd",
        "--eps",
        "12/255",
        "--out",
    )
    fixed = physadv(place, "attack", *words, "one", "--target", "2", "--json")
    drawn = physadv(place, "attack", *words, "two", "--targeted", "--json")
    assert fixed.returncode == drawn.returncode == 0, fixed.stderr + drawn.stderr
    verdicts = {r["verdict"] for r in read_rows(place / "one" / "examples" / "examples.jsonl")}
    assert verdicts == {"2"}
    labels = {r["label"] for r in read_rows(place / "one" / "rows.jsonl")}
    assert labels, "some images are left"
    assert 2 not in labels, "an image of the class wanted cannot be broken towards it"


def test_surrogates_make_the_attack_and_the_model_judges_it(place: Path) -> None:
    """A victim without gradients falls to images made on a like one, at one forward an image; black
    boxes refuse."""
    text = (place / "colors.py").read_text()
    (place / "sealed.py").write_text(
        text.replace("return 20 *", "x = x.detach()\n        return 20 *")
    )
    words = (
        "--victim",
        "sealed:make",
        "--data",
        "data",
        "--eps",
        "12/255",
        "--surrogate",
        "colors:make",
        "--json",
    )
    done = physadv(place, "attack", *words, "--attack", "difgsm", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["broken_by"]["difgsm"] > 0
    assert physadv(place, "attack", *words, "--attack", "pgd", "--out", "two").returncode == 0
    refused = physadv(place, "attack", *words, "--attack", "square", "--out", "three")
    assert refused.returncode == 1
    assert "black-box attack itself" in refused.stderr


def test_random_models_are_attacked_in_expectation(place: Path) -> None:
    """--eot-draws ends the doubt about random output, and the same seed gives the same rows."""
    text = (place / "colors.py").read_text()
    noisy = text.replace("return 20 *", "x = x + 0.02 * torch.randn_like(x)\n        return 20 *")
    (place / "noisy.py").write_text(noisy)
    words = (
        "evaluate",
        "--victim",
        "noisy:make",
        "--data",
        "data",
        "--threat",
        "linf:4/255",
        "--curve",
        "none",
    )
    plain = json.loads(physadv(place, *words, "--limit", "6", "--out", "plain", "--json").stdout)
    assert "random-output" in {d["name"] for d in plain["doubts"]}
    runs = [
        physadv(place, *words, "--limit", "6", "--eot-draws", "4", "--out", out, "--json")
        for out in ("a", "b")
    ]
    found = [json.loads(run.stdout) for run in runs]
    assert "random-output" not in {d["name"] for d in found[0]["doubts"]}
    assert (place / "a" / "rows.jsonl").read_text() == (place / "b" / "rows.jsonl").read_text()


def test_a_killed_run_goes_on_to_the_same_result(place: Path) -> None:
    """SIGKILL midway, the same command again: rows and rates are those of a run that nobody
    killed."""
    words = (*EVALUATE, "--batch-size", "6", "--curve", "none", "--json")
    whole = json.loads(physadv(place, *words, "--out", "whole").stdout)
    write_model(place, 0.003)
    command = [sys.executable, "-m", "physadv_cli.main", *words, "--out", "torn"]
    with subprocess.Popen(
        command, cwd=place, env=environment(), stderr=subprocess.DEVNULL
    ) as process:
        rows = place / "torn" / "rows.jsonl"
        deadline = time.time() + 120
        while process.poll() is None and time.time() < deadline:
            if rows.is_file() and rows.read_text().count("\n") >= 7:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = len(list(read_rows(rows)))
    assert 7 <= before < 24
    write_model(place, 0.0)
    again = json.loads(physadv(place, *words, "--out", "torn").stdout)
    assert again["robust_accuracy"] == whole["robust_accuracy"]
    both = [
        sorted(read_rows(place / name / "rows.jsonl"), key=lambda r: r["index"])
        for name in ("whole", "torn")
    ]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--threat", "linf:8"), 1, "id you mean 8/255"),
        (("--threat", "8/255"), 1, "linf:8/255"),
        (("--threat", "linf:-1"), 1, "eps '-1'"),
        (("--threat", "l7:1"), 1, "norm 'l7'"),
        (("--data", "nowhere"), 1, "nowhere"),
        (("--victim", "nobody"), 1, "nobody"),
        (("--speed", "warp"), 1, "warp"),
        (("--limit", "0"), 2, "limit"),
        (("--nonsense",), 2, "nonsense"),
    ],
)
def test_bad_input_is_one_line_and_the_right_code(
    place: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    """A known error is one line on stderr and exit 1; wrong usage is exit 2; stdout stays empty."""
    done = physadv(place, *EVALUATE, *words, "--out", "run", "--json", "--trust")
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1
        assert "Traceback" not in done.stderr


def test_a_folder_of_another_run_is_refused(place: Path) -> None:
    """--out of a run with another threat is not continued."""
    assert (
        physadv(place, *EVALUATE, "--out", "run", "--limit", "3", "--curve", "none").returncode == 0
    )
    done = physadv(place, *EVALUATE, "--out", "run", "--limit", "4", "--curve", "none")
    assert done.returncode == 1
    assert "Name another --out" in done.stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        ("0.03", 0.03),
        (" 1 / 4 ", 0.25),
        (".5", 0.5),
        ("0", 0.0),
        ("1e-3", 1e-3),
    ],
)
def test_eps_reads_as_people_write_it(text: str, value: float) -> None:
    """Fractions and decimals are the same number."""
    assert parse_eps(text) == value
    assert parse_threat(f"Linf:{text}") == ("linf", value)
    assert parse_threat("l_2:2.0") == ("l2", 2.0)


def test_an_unknown_loss_is_refused_before_the_work(place: Path) -> None:
    """One line that names what there is, and no folder of a run that never began."""
    words = ("attack", *EVALUATE[1:], "--attack", "pgd", "--loss", "nix", "--out", "never")
    done = physadv(place, *words)
    assert done.returncode == 1
    assert "one of ce, log_odds, margin, dlr, pm" in done.stderr
    assert not (place / "never").exists()
