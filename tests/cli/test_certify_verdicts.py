"""`physadv certify`: a broken certificate ends it with exit code 1; sets of which nothing is
certified, and gray models, end it with a report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from physadv.certification.bounds.verify import BoundedMargins, verify_bounds
from physadv.core.rows import read_rows
from physadv.evaluation import certified_accuracy
from physadv_cli.main import main

MODELS = '''
import torch
from torch import nn
from physadv import as_model

class Constant(nn.Module):
    """Class 2, whatever the image."""
    def forward(self, x):
        return 0 * x.flatten(1)[:, :3] + torch.tensor([0.0, 0.0, 5.0])

class Linear(nn.Module):
    def __init__(self, channels, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 4, 3)
        self.linear, self.scale = nn.Linear(4 * 100, 3), scale
    def forward(self, x):
        return self.scale * self.linear(self.conv(x).relu().flatten(1))

def constant():
    return Constant()

def colored():
    return Linear(3)

def steep():
    return Linear(3, 1000.0)

def gray():
    return as_model(Linear(1).eval(), channels=1, mean=0.5, std=0.5, input_size=12)

def unwrapped_gray():
    return Linear(1)
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models, and colored and gray noise of 12 px labeled 0 and 1 in turn."""
    (tmp_path / "verdict_models.py").write_text(MODELS)
    draw = np.random.default_rng(0)
    for name, shape in (("colored", (12, 12, 12, 3)), ("gray", (12, 12, 12))):
        pixels = draw.integers(0, 256, shape, dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=pixels, labels=np.arange(12) % 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "verdict_models", raising=False)
    return tmp_path


def run(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``physadv WORDS``."""
    monkeypatch.setattr(sys, "argv", ["physadv", *words.split()])
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


CERTIFY = "certify --model verdict_models:{} --data {}.npz --out run --json "
BOUNDS = "--method ibp --threat linf:0.001"
VOTES = "--n 60 --n0 10 --sigma 0.5"


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("constant", BOUNDS),
        ("constant", VOTES),
        ("constant", VOTES + " --threat l2:0.1"),
        ("constant", VOTES + " --threat linf"),
        ("steep", VOTES + " --threat l2:1"),
        ("steep", "--n 20 --n0 5 --sigma 3"),
        ("constant+patchcleanser:patch2", "--method patch"),
    ],
)
def test_a_set_without_any_right_certificate_ends_with_a_report(
    model: str,
    options: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is right, or everything abstains: exit 0, rates of zero, a red light and a report."""
    words = CERTIFY.format(model, "colored") + options
    code, out, err = run(words, monkeypatch, capsys)
    assert (code, "Traceback" in err) == (0, False), err
    result = json.loads(out)
    assert result["certified_accuracy"]["rate"] == 0
    assert result["light"] == "red"
    assert "Certified accuracy of" in (place / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    "options",
    [
        *(f"--method {m} --threat linf:0.001" for m in ("ibp", "crown-ibp", "crown", "polytope")),
        "--method crown --threat l2:0.01",
        VOTES,
        VOTES + " --threat l2:0.05",
        "--method patch",
    ],
)
def test_gray_models_are_certified_by_every_method(
    options: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """as_model(channels=1) takes gray images as they are."""
    model = "gray+patchcleanser:patch1,masks6" if "patch" in options else "gray"
    code, out, err = run(CERTIFY.format(model, "gray") + options, monkeypatch, capsys)
    assert code == 0, err
    result = json.loads(out)
    assert result["image_size"] == "1x12x12"
    assert result["attacked"] > 0
    assert result["broken"] == 0


def test_gray_models_are_attacked(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So does an attack."""
    words = "attack --model verdict_models:gray --data gray.npz --attack pgd --threat linf:0.1"
    code, out, err = run(f"{words} --out run --json", monkeypatch, capsys)
    assert code == 0, err
    assert json.loads(out)


def test_an_unwrapped_gray_model_is_told_what_to_do(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names as_model(channels=1), by votes and by bounds."""
    for options in (BOUNDS, VOTES):
        words = CERTIFY.format("unwrapped_gray", "gray") + options
        code, _, err = run(words, monkeypatch, capsys)
        assert code == 1
        assert "channels=1" in err
        assert "Traceback" not in err


def too_high(*args: Any, **options: Any) -> BoundedMargins:
    """Bounds that are far too high."""
    found = verify_bounds(*args, **options)
    return BoundedMargins(found.predicted, found.margins + 1000.0)


def test_a_broken_certificate_ends_with_exit_code_1_and_a_reproducer(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong bound is found out; the files show each case without this program's proofs."""
    monkeypatch.setattr(certified_accuracy, "verify_bounds", too_high)
    options = "--method ibp --threat linf:0.3 --curve none"
    code, out, err = run(CERTIFY.format("colored", "colored") + options, monkeypatch, capsys)
    assert code == 1
    assert "certificate-broken" in err
    result = json.loads(out)
    assert result["attacked"] == 12
    assert result["broken"] > 0
    assert (
        f"Certified and broken: {result['broken']} of 12"
        in (place / "run" / "report.html").read_text()
    )
    rows = [r for r in read_rows(place / "run" / "rows.jsonl") if r["broken"]]
    assert len(rows) == result["broken"]

    import verdict_models  # type: ignore[import-not-found]

    with np.load(place / "run" / f"broken-{rows[0]['index']}.npz") as saved:
        image, adversarial = torch.tensor(saved["image"]), torch.tensor(saved["adversarial"])
        command = str(saved["command"])
    assert float((adversarial.double() - image.double()).abs().max()) <= 0.3
    net = verdict_models.colored().requires_grad_(False)
    margin = net(adversarial[None]).sort(1).values.diff(dim=1)[0, -1]
    assert float(margin) < 1000
    assert command.startswith("physadv certify --model verdict_models:colored --data colored.npz")


def test_no_attack_leaves_it_out(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--no-attack: the same certificates, and the report says that none was attacked."""
    words = CERTIFY.format("colored", "colored") + BOUNDS
    code, out, _ = run(f"{words} --no-attack", monkeypatch, capsys)
    assert code == 0
    assert json.loads(out)["attacked"] == 0
    assert not any("broken" in row for row in read_rows(place / "run" / "rows.jsonl"))
    assert "No certificate was attacked" in (place / "run" / "report.html").read_text()
