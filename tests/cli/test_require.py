"""``--require``: exit code 3 and files for CI services where a figure does not keep its limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from commandline import environment, physadv
from small_commands import SMALL_COMMANDS, write_inputs

EVALUATE = (
    *("evaluate", "--model", "own:make", "--data", "data.npz", "--threat", "linf:0.01"),
    *("--curve", "none", "--trust", "--out", "evaluated"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("required")
    write_inputs(folder, "check")
    return folder


def test_a_run_ends_by_its_requirements(place: Path) -> None:
    """3 where one is not met, 0 where all are, and the finished run is judged again at once."""
    met = physadv(place, *EVALUATE, "--require", "clean >= 0", "--require", "robust <= 1")
    assert met.returncode == 0, met.stderr
    unmet = physadv(place, *EVALUATE, "--require", "clean >= 0", "--require", "robust>1", "--json")
    assert unmet.returncode == 3
    assert "NOT MET  robust > 1:" in unmet.stderr
    outcomes = json.loads(unmet.stdout)["requirements"]
    assert [outcome["met"] for outcome in outcomes] == [True, False]

    suite = ET.parse(place / "evaluated/requirements.xml").getroot()
    assert suite.get("failures") == "1"
    sarif = json.loads((place / "evaluated/requirements.sarif").read_text())
    assert sarif["version"] == "2.1.0"
    without = physadv(place, *EVALUATE)
    assert without.returncode == 0


def test_a_requirement_typed_wrong_is_refused_before_the_work(place: Path) -> None:
    """One line, exit code 1, and no folder of a run that never began."""
    words = [*EVALUATE[:-1], "never"]
    for extra in (("--require", "success >= 0.5"), ("--require", "clean >= 0", "--shard", "1/2")):
        done = physadv(place, *words, *extra)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
    assert not (place / "never").exists()


STOPS = """
import pathlib
import numpy, own, torch

class Stops(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = own.make()
        last = torch.from_numpy(numpy.load("data.npz")["images"][-1])
        self.register_buffer("last", last.permute(2, 0, 1) / 255)
    def forward(self, x):
        done = pathlib.Path("stopped/rows.jsonl")
        seen = ((x - self.last).abs().amax((1, 2, 3)) < 0.1).any()
        if seen and done.is_file() and done.read_text():
            raise KeyboardInterrupt
        return self.net(x)

def make():
    return Stops()
"""
"""A model during which Ctrl-C comes, at the last image of data.npz once others are done: not while
the self-checks ask it about all images."""
LABELS = """
import numpy, own, torch
images = numpy.load("data.npz")["images"]
labels = own.make()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).argmax(1)
numpy.savez("read-rightly.npz", images=images, labels=labels.numpy())
"""


def test_a_stopped_run_meets_no_requirement(place: Path) -> None:
    """Exit code 130, and the files for CI services tell a failure, whatever the images that are
    done say."""
    (place / "stops.py").write_text(STOPS)
    subprocess.run([sys.executable, "-c", LABELS], cwd=place, env=environment(), check=True)
    words = ("evaluate", "--model", "stops:make", "--data", "read-rightly.npz", "--trust")
    words = (*words, "--threat", "linf:0.001", "--curve", "none", "--batch-size", "2")
    done = physadv(place, *words, "--out", "stopped", "--require", "clean >= 0", "--json")
    assert done.returncode == 130, done.stderr
    result = json.loads(done.stdout)
    assert result["clean_accuracy"]["rate"] == 1
    assert 0 < result["clean_accuracy"]["n"] < 6
    (outcome,) = result["requirements"]
    assert not outcome["met"]
    assert "the run was stopped before its last image" in outcome["words"]
    suite = ET.parse(place / "stopped/requirements.xml").getroot()
    assert suite.get("failures") == "1"


def test_certificates_and_checks_are_required_too(place: Path) -> None:
    """``certify`` knows certified and accuracy; ``check`` success, recognized and precision. A
    check whose controls do not support a claim meets nothing."""
    certify = (
        *("certify", "--model", "own:make", "--data", "data.npz", "--threat", "l2:0.01", "--trust"),
        *("--n", "100", "--out", "certified"),
    )
    assert physadv(place, *certify, "--require", "certified >= 0").returncode == 0
    assert physadv(place, *certify, "--require", "accuracy > 1").returncode == 3

    check = (*SMALL_COMMANDS["check"].words, "--out", "checked")
    done = physadv(place, *check, "--require", "success >= 0", "--require", "precision <= 1")
    report = json.loads((place / "checked/report.json").read_text())
    assert done.returncode == (0 if report["valid"] else 3), done.stderr
    assert report["valid"] or "not judged" in done.stderr
    refused = physadv(place, *check, "--require", "robust >= 0")
    assert "this command measures success, recognized, precision" in refused.stderr
