"""``physadv study all``: what becomes of a study that cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from physadv.core.errors import ModelError, PhysadvError
from physadv.studies import registry
from physadv_cli.commands import study_command
from physadv_cli.main import app


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Two photos with boxes, as YOLO keeps them."""
    for folder in ("images", "labels"):
        (tmp_path / "boxes" / folder).mkdir(parents=True)
    for k in range(2):
        pixels = np.full((64, 64, 3), 90 * k + 60, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "boxes" / "images" / f"{k}.png")
        (tmp_path / "boxes" / "labels" / f"{k}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "boxes" / "data.yaml").write_text("names: [person]\ntrain: images\nval: images\n")
    return tmp_path / "boxes"


def test_a_study_without_its_model_is_left_out(
    tmp_path: Path, boxes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are bound all the same, and the booklet says why one is missing; one that
    ``--study`` names is an error."""
    chosen = tuple(e for e in registry.ENTRIES if e.name in ("patches", "samples"))
    monkeypatch.setattr(registry, "ENTRIES", chosen)
    monkeypatch.setenv("PHYSADV_CACHE", str(tmp_path / "empty"))
    words = ["study", "all", "--quick", "--boxes-data", str(boxes), "--json", "--out"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "all")])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert [study["study"] for study in result["studies"]] == ["samples"]
    assert "models fetch fastestdet" in result["left_out"]["patches"]
    assert "models fetch fastestdet" in (tmp_path / "all" / "booklet.html").read_text("utf-8")

    (tmp_path / "all" / "booklet.html").unlink()
    assert CliRunner().invoke(app, ["report", str(tmp_path / "all")]).exit_code == 0
    assert "models fetch fastestdet" in (tmp_path / "all" / "booklet.html").read_text("utf-8")
    assert CliRunner().invoke(app, ["report", str(tmp_path / "all" / "samples")]).exit_code == 0

    named = CliRunner().invoke(app, [*words, str(tmp_path / "named"), "--study", "patches"])
    assert named.exit_code == 1
    assert isinstance(named.exception, ModelError) or "models fetch fastestdet" in named.output


def test_a_study_of_the_folder_is_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder from elsewhere leads a study nowhere else."""
    chosen = tuple(e for e in registry.ENTRIES if e.name == "samples")
    monkeypatch.setattr(registry, "ENTRIES", chosen)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "samples").symlink_to(tmp_path / "elsewhere")
    failed = CliRunner().invoke(app, ["study", "all", "--quick", "--out", str(tmp_path / "all")])
    assert isinstance(failed.exception, PhysadvError)
    assert "link" in str(failed.exception)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "time"),
    [(["samples"], "minutes of CPU time"), (["norms", "--data", "."], "hours on a CPU")],
)
def test_the_full_scale_says_first_what_it_takes(
    words: list[str], time: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins days of work knows it before the first part; ``--quick`` says nothing."""
    monkeypatch.setattr(study_command, "_watch_study", lambda *run: False)
    run = ["study", *words, "--out", str(tmp_path / "run")]
    assert time in CliRunner().invoke(app, [*run, "--full"]).stderr
    assert "CPU" not in CliRunner().invoke(app, [*run, "--quick", "--overwrite"]).stderr
