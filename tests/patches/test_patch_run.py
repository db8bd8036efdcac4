"""A sticker from settings to bundle: resumable, reproducible, re-verifiable; the user's own model
in ten lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from own_model import MODEL, work_beside

from physadv.core.errors import BundleError, GeometryError, OptionError
from physadv.core.image_io import save_png
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.patches.bundle import read_bundle
from physadv.patches.config import PatchConfig
from physadv.patches.patch_run import PatchRun
from physadv.patches.reverify import verify_bundle


@pytest.fixture
def settings(own_model: str) -> PatchConfig:
    return PatchConfig(
        model=own_model, faces="plain", steps=12, draws=4, test_draws=60, resolution=16, lr=0.1
    )


def finished(settings: PatchConfig, out: Path) -> PatchRun:
    run = PatchRun(settings, out)
    for _ in run.steps(validate_every=6):
        pass
    return run


def test_a_sticker_beats_the_blank_and_keeps_its_card(
    settings: PatchConfig, tmp_path: Path
) -> None:
    """On a victim that counts red the sticker turns away from red, and the card says what was
    measured."""
    bundle, measured = finished(settings, tmp_path / "out").finish()
    assert measured.patch_recognised.rate <= measured.blank_recognised.rate
    red, green, blue = (float(bundle.patch[:, c].mean()) for c in range(3))
    assert red < 0.2 < min(green, blue)
    card = read_bundle(bundle.folder).card
    assert card.heldout["success"] == measured.success.as_dict()
    assert card.placement.area_share == pytest.approx(190 * 150 / (0.8284 * 457**2), abs=1e-3)
    assert card.eot["jpeg_quality"] == [45.0, 95.0]


def test_same_seed_same_patch(settings: PatchConfig, tmp_path: Path) -> None:
    """The same settings give the same pixels; another seed gives others."""
    settings = replace(settings, steps=3)
    first, second = (finished(settings, tmp_path / name).finish()[0].patch for name in ("a", "b"))
    other = finished(replace(settings, seed=1), tmp_path / "c").finish()[0].patch
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_stopped_run_goes_on_as_if_it_had_not(settings: PatchConfig, tmp_path: Path) -> None:
    """Stopped after its first checkpoint and started again, it ends with the pixels of the
    uninterrupted run."""
    whole = finished(settings, tmp_path / "whole").finish()[0].patch
    for step in PatchRun(settings, tmp_path / "cut").steps(validate_every=6):
        if step.step == 7:
            break
    again = finished(settings, tmp_path / "cut")
    assert again.resumed_at == 6
    assert torch.equal(again.finish()[0].patch, whole)


OWN = """
import torch
from physadv.models.load import as_model

class Weighted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = GAIN
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        red = (x[:, 0] - x[:, 1:].mean(1)).mean((1, 2))
        return torch.stack([self.gain * red, self.gain * (0.12 - 0 * red)], 1)

def make():
    return as_model(Weighted(), classes=["stop", "other"], input_size=32)
"""


def assert_goes_on_alone(
    own: Callable[[], PatchRun], other: Callable[[], PatchRun], saved: int, *, refused: str
) -> None:
    """The run of ``own`` goes on where it was stopped behind step ``saved``, that of ``other`` in
    the same folder begins anew, and neither replaces the other's bundle."""
    for step in own().steps(validate_every=saved):
        if step.step == saved + 1:
            break
    begun = other()
    next(iter(begun.steps(validate_every=saved)))
    assert begun.resumed_at == 0
    first = own()
    for _ in first.steps(validate_every=saved):
        pass
    assert first.resumed_at == saved
    first.finish()
    own()
    with pytest.raises(OptionError, match=refused):
        other()


@pytest.mark.parametrize(
    "kind", ["torch.nn.Parameter(torch.tensor({}))", "{}"], ids=["parameter", "attribute"]
)
def test_a_folder_belongs_to_the_weights_of_its_victim(
    settings: PatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A factory trained anew, or with another plain number, between two starts of one command: what
    was optimized on the old one is not resumed, and the finished bundle is not replaced unless that
    is asked for. A counter of calls is no hindrance."""

    def run_on(gain: float) -> PatchRun:
        source = OWN.replace("GAIN", kind.format(gain))
        work_beside("weighted", source, tmp_path, monkeypatch)
        return PatchRun(replace(settings, model="weighted:make"), tmp_path / "out")

    assert_goes_on_alone(lambda: run_on(60.0), lambda: run_on(50.0), 6, refused="other weights")


def test_a_folder_belongs_to_the_photos_of_its_scenes(
    settings: PatchConfig, tmp_path: Path
) -> None:
    """A background replaced under its name: the optimization begins anew, and the finished bundle
    is not replaced unless that is asked for."""

    def run_on(number: int) -> PatchRun:
        for i in range(4):
            drawn = synthetic_background(i + number * (i == 2), height=64, width=64)
            save_png(tmp_path / "photos" / f"{i}.png", drawn)
        config = replace(settings, backgrounds=str(tmp_path / "photos"), steps=6)
        return PatchRun(config, tmp_path / "out")

    assert_goes_on_alone(lambda: run_on(0), lambda: run_on(9), 3, refused="other photos or boxes")


def test_a_bundle_verifies_and_a_false_card_does_not(settings: PatchConfig, tmp_path: Path) -> None:
    """Measured again the success lies in the card's interval; a card that claims more is found
    out."""
    bundle, _ = finished(settings, tmp_path / "out").finish()
    own = {"model": settings.model}
    assert verify_bundle(bundle, given=own).agrees
    assert verify_bundle(bundle, given=own, fresh=True).agrees
    assert verify_bundle(bundle, given=own, draws=7).agrees, (
        "a few of the card's own draws are judged by their own wide interval"
    )
    claimed = {"rate": 0.999, "low": 0.99, "high": 1.0, "n": 60}
    boasting = replace(
        bundle, card=replace(bundle.card, heldout={**bundle.card.heldout, "success": claimed})
    )
    assert not verify_bundle(boasting, given=own).agrees
    empty = replace(bundle, card=replace(bundle.card, optimisation={}))
    with pytest.raises(BundleError, match="no configuration"):
        verify_bundle(empty)


@pytest.mark.parametrize("center", [(0.0, 300.0), (0.0, -180.0), (180.0, 0.0), (-180.0, 0.0)])
def test_a_sticker_beyond_the_sign_is_refused(
    center: tuple[float, float], settings: PatchConfig, tmp_path: Path
) -> None:
    """A placement that hangs over any edge of the sign, its center on it or not, names both
    sizes."""
    with pytest.raises(GeometryError, match="beyond the sign"):
        PatchRun(replace(settings, center_mm=center), tmp_path / "out")


def command(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(cwd)}
    return subprocess.Popen(
        [sys.executable, "-m", "physadv_cli.main", *arguments],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_command_survives_a_kill(own_model: str, tmp_path: Path) -> None:
    """Killed after a checkpoint and started again, `physadv patch` resumes, and prints one JSON
    object on stdout."""
    arguments = [
        "patch",
        "--victim",
        own_model,
        "--faces",
        "plain",
        "--steps",
        "400",
        "--draws",
        "2",
        "--test-draws",
        "20",
        "--resolution",
        "16",
        "--out",
        "out",
        "--json",
    ]
    first = command(*arguments, cwd=tmp_path)
    for _ in range(600):
        if (tmp_path / "out" / "checkpoint.safetensors").exists() or first.poll() is not None:
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "out" / "card.toml").exists()
    second = command(*arguments, cwd=tmp_path)
    stdout, stderr = second.communicate(timeout=300)
    assert second.returncode == 0, stderr
    assert "resumed at step" in stderr
    assert Path(tmp_path / json.loads(stdout)["bundle"] / "patch.png").is_file()


def test_ctrl_c_keeps_the_best_patch(own_model: str, tmp_path: Path) -> None:
    """Interrupted after a checkpoint, `physadv patch` measures and writes the best patch so far and
    exits 0."""
    arguments = [
        "patch",
        "--victim",
        own_model,
        "--faces",
        "plain",
        "--steps",
        "3000",
        "--draws",
        "2",
        "--test-draws",
        "20",
        "--resolution",
        "16",
        "--out",
        "out",
        "--json",
    ]
    run = command(*arguments, cwd=tmp_path)
    for _ in range(600):
        if (tmp_path / "out" / "checkpoint.safetensors").exists() or run.poll() is not None:
            break
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    stdout, stderr = run.communicate(timeout=120)
    assert run.returncode == 0, stderr
    assert json.loads(stdout)["stopped"] is True, stderr
    assert 0 < read_bundle(tmp_path / "out").card.optimisation["steps_done"] < 3000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--signs", "nowhere"], "nowhere"),
        (["--size", "0x10"], "over 0 mm"),
        (["--mask", "blob.png"], "blob.png"),
        (["--goal", "targeted"], "--target"),
        (["--class", "lorry"], "lorry"),
        (["--victim", "nosuch"], "nosuch"),
        (["--weights", "absent.pth", "--victim", "fastestdet"], "absent.pth"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(
    own_model: str, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """Every bad value is named in one line on stderr, with exit code 1 and no traceback."""
    run = command("patch", "--victim", own_model, "--steps", "1", *arguments, cwd=tmp_path)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 1
    lines = [line for line in stderr.splitlines() if line.startswith("physadv:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in stderr


@pytest.mark.parametrize("kind", ["nan", "softmax", "truncated", "empty folder", "no sign"])
def test_bad_models_and_photos_are_named(own_model: str, tmp_path: Path, kind: str) -> None:
    """NaN, softmax instead of logits, a truncated photo and folders without use end in one line
    that says so."""
    import numpy as np
    from PIL import Image

    arguments, said = ["--victim", "bad:make"], kind
    if kind == "nan":
        (tmp_path / "bad.py").write_text(MODEL.replace("60 * red,", "red * float('nan'),"))
        said = "NaN"
    elif kind == "softmax":
        (tmp_path / "bad.py").write_text(MODEL.replace("* red)], 1)", "* red)], 1).softmax(1)"))
    else:
        photos = tmp_path / "photos"
        photos.mkdir()
        arguments, said = ["--victim", own_model, "--signs", "photos"], "photos"
        if kind == "truncated":
            Image.fromarray(np.full((90, 90, 3), 99, np.uint8)).save(photos / "a.png")
            (photos / "a.png").write_bytes((photos / "a.png").read_bytes()[:60])
            said = "a.png"
        elif kind == "no sign":
            Image.fromarray(np.full((90, 90, 3), 99, np.uint8)).save(photos / "a.png")
    run = command("patch", "--steps", "1", *arguments, cwd=tmp_path)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 1, stderr
    assert "Traceback" not in stderr
    assert said.lower() in stderr.lower()
