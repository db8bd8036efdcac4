"""A patch is made only where its controls let a success mean something, and its card says how well
they do."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from commandline import physadv
from hypothesis import given
from hypothesis import strategies as st
from own_model import work_beside

from physadv.check.rates import draw_conclusion, tabulate_rates
from physadv.core.errors import OptionError
from physadv.core.lights import worst_light
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.patches.config import PatchConfig
from physadv.patches.controls import control_findings
from physadv.patches.make_patch import make_patch
from physadv.patches.optimize import measure_patch
from physadv.patches.patch_run import PatchRun

MODEL = """
import torch
from physadv.models.load import as_model

class Red(torch.nn.Module):
    def __init__(self, least):
        super().__init__()
        self.least = least

    def forward(self, x):
        red = (x[:, 0] - x[:, 1:].mean(1)).mean((1, 2))
        return torch.stack([60 * red, 60 * (self.least - 0 * red)], 1)

def sees(): return as_model(Red(0.02), classes=["stop", "other"], input_size=32)
def blind(): return as_model(Red(2.0), classes=["stop", "other"], input_size=32)
"""
SMALL = PatchConfig(
    model="controls_model:sees",
    steps=6,
    draws=2,
    test_draws=40,
    resolution=8,
    size_mm=(60, 60),
    faces="plain",
)
COVERING = replace(SMALL, size_mm=(450, 450), center_mm=(0, 0))
BLIND = replace(SMALL, model="controls_model:blind")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models of stop signs: one that sees red, one that sees nothing."""
    work_beside("controls_model", MODEL, tmp_path, monkeypatch)
    return tmp_path


@given(clean=st.integers(0, 60), blank=st.integers(0, 60), goal=st.integers(0, 60))
def test_no_control_below_the_checks_limit_is_green(clean: int, blank: int, goal: int) -> None:
    """A control that `check` calls not valid for a claim is amber or red here; red needs a whole
    interval beyond one half."""
    rates = [wilson_interval(count, 60) for count in (clean, blank, goal)]
    light = worst_light(finding.light for finding in control_findings(*rates))
    rows = [
        {"block": block, "clip": i, "true": i < count, "success": block == "patch"}
        for block, count in (("clean", clean), ("blank", blank), ("patch", 0))
        for i in range(60)
    ]
    settings = {"true_class": "stop", "goal": "untargeted", "status": "complete"}
    if not draw_conclusion(tabulate_rates(rows), settings).valid or goal > 6:
        assert light != "green"
    assert (light == "red") == (rates[0].high < 0.5 or rates[2].low > 0.5)


@pytest.mark.parametrize(("config", "name"), [(BLIND, "clean"), (COVERING, "blank")])
def test_invalid_controls_stop_before_the_first_step(config: PatchConfig, name: str) -> None:
    """A model that does not see the sign, and a sheet that covers it, make no patch."""
    steps = []
    with pytest.raises(OptionError, match=f"{name}-control.*--force"):
        make_patch(config, out="out", on_progress=steps.append)
    assert steps == []
    assert not Path("out", "card.toml").exists()


def test_force_goes_on_and_the_card_says_so() -> None:
    """Forced, the patch is made; its card is red, names the control and is marked."""
    heldout = make_patch(COVERING, out="out", force=True).card.heldout
    assert heldout["light"] == "red"
    assert heldout["forced"] is True
    assert "blank-control" in [doubt["name"] for doubt in heldout["doubts"]]
    assert tomllib.loads(Path("out/card.toml").read_text())["heldout"]["light"] == "red"


def test_valid_controls_leave_no_doubt() -> None:
    """A small sticker on a model that sees the sign: green, and no mark of force."""
    heldout = make_patch(SMALL, out="out", force=True).card.heldout
    assert (heldout["light"], heldout["doubts"]) == ("green", [])
    assert "forced" not in heldout


def test_progress_counts_success_as_the_end_does() -> None:
    """The figure of the bar is that of the measurement, on validation draws: among valid draws,
    not among all."""
    config = replace(SMALL, eot="default", size_mm=(190, 150), center_mm=(0, 95))
    run = PatchRun(config, Path("out"))
    *_, last = run.steps(validate_every=3)
    measured = measure_patch(run.task, last.best, draws=128, part="validation")
    assert last.best_rate == measured.success
    valid = sum(bool(row["clean"]["recognised"]) for row in measured.rows)
    assert measured.success.n == valid


def test_the_command_stops_with_one_line_and_goes_on_when_forced(place: Path) -> None:
    """Exit code 1, one line with the reason and no file; with --force a bundle, "not valid" on the
    terminal and red in JSON; another configuration may then still use the folder that was
    refused."""
    words = ["patch", "--model", "controls_model:sees", "--size", "450x450", "--center", "0,0"]
    words += ["--steps", "2", "--draws", "2", "--test-draws", "20", "--resolution", "8"]
    words += ["--faces", "plain", "--out", "out", "--json", "--trust"]
    refused = physadv(place, *words)
    assert refused.returncode == 1, refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    assert "blank-control is not valid" in refused.stderr
    assert not Path("out/config.toml").exists()

    forced = physadv(place, *words, "--force")
    assert forced.returncode == 0, forced.stderr
    assert json.loads(forced.stdout)["light"] == "red"
    assert "not valid blank-control" in " ".join(forced.stderr.split())
