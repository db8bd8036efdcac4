"""YOLOX-Nano's ONNX file from patch to check, as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commandline import physadv


@pytest.mark.slow
def test_yolox_as_onnx_is_attacked_filmed_and_checked(tmp_path: Path, shared_data: Path) -> None:
    """A sticker of a few steps, its twin and its check, all on the file itself."""
    shutil.copyfile(shared_data / "weights/yolox_nano_coco.onnx", tmp_path / "victim.onnx")
    quick = ["--steps", "3", "--draws", "4", "--test-draws", "8", "--force"]
    place = ["--goal", "vanish", "--size", "190x150", "--center", "0,95", "--out", "sticker"]
    done = physadv(tmp_path, "patch", "--model", "victim.onnx", *place, *quick, "--json")
    assert done.returncode == 0, done.stderr
    assert "sticker" in json.loads(done.stdout)["bundle"]

    filmed = physadv(tmp_path, "twin", "sticker", "--clips", "1", "--frames", "3", "--out", "twin")
    assert filmed.returncode == 0, filmed.stderr
    assert "--bundle sticker --model YOUR-MODEL" in " ".join(filmed.stderr.split())
    words = ["check", "twin", "--bundle", "sticker", "--out", "check", "--json"]
    refused = physadv(tmp_path, *words)
    assert refused.returncode == 1
    assert "name the file or module" in refused.stderr.replace("\n", " ")
    checked = physadv(tmp_path, *words, "--model", "victim.onnx")
    assert checked.returncode == 0, checked.stderr
    rows = (tmp_path / "check/rows.jsonl").read_text().splitlines()
    assert len(rows) >= 9
    assert (tmp_path / "check/report.html").is_file()
