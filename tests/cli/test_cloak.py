"""`physadv cloak`: both spellings work, dry runs write nothing, runs resume, JSON is alone on
stdout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinyface import KnownFinder, drawn_photo, tiny_embedder
from typer.testing import CliRunner, Result

from physadv.core.errors import ImageError, ModelError, OptionError
from physadv.privacy.check.embeddings import EmbeddingPlan
from physadv.privacy.check.run_cloak_check import run_cloak_check
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.config import MODE_NAMES, CloakCheckConfig, CloakConfig
from physadv_cli.main import app
from physadv_cli.runs import record_config

QUICK = ["--threads", "1", "--embedder", "mobilefacenet"]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cloak", *arguments])


@pytest.fixture
def photos(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos of one person, and one without a face."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for source in sorted((shared_data / "faces" / "Al_Gore").iterdir())[:2]:
        shutil.copy(source, folder)
    Image.fromarray(np.full((80, 80, 3), 90, np.uint8)).save(folder / "wall.png")
    return folder


@pytest.fixture
def weights(shared_data: Path) -> list[str]:
    root = shared_data / "weights"
    return [
        "--embedder-weights",
        f"mobilefacenet={root / 'mobilefacenet_foamliu.pt'}",
        "--detector-weights",
        str(root / "facedet_slim_biubug6.pth"),
    ]


def test_help_shows_both_ways() -> None:
    """The group's help names the photos and the check; both have an example."""
    text = invoke("--help").output
    assert "PHOTOS" in text
    assert "check" in text
    photos, check = (
        " ".join(invoke(word, "--help").output.split()) for word in ("photos", "check")
    )
    assert "physadv cloak photos/ --mode" in photos
    assert "physadv cloak check photos-cloaked" in check


@pytest.mark.parametrize("installed", [True, False])
def test_errors_are_known_ones(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong in the command is said first, with or without the extra `faces`, and nothing is
    written."""
    if not installed:
        monkeypatch.setattr("physadv.models.faces.face_detection._dlib", _absent)
        monkeypatch.setattr("physadv.models.faces.face_detection.cached_weights", lambda card: None)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    for arguments, met, kind in (
        ((str(tmp_path / "no"),), "no", ImageError),
        ((str(tmp_path), "--mode", "max"), "max", OptionError),
        ((str(tmp_path), "--out", str(tmp_path)), "originals", OptionError),
        ((str(tmp_path), "--embedder-weights", "dlib"), "NAME=FILE", OptionError),
        (
            ("check", str(tmp_path), "--originals", str(tmp_path), "--embedder-weights", "dlib"),
            "NAME=FILE",
            OptionError,
        ),
    ):
        error = invoke(*arguments).exception
        assert isinstance(error, kind), (arguments, error)
        assert met in str(error)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


def test_without_the_extra_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing wrong but the extra `faces` missing, the error names what to install."""
    monkeypatch.setattr("physadv.models.faces.face_detection._dlib", _absent)
    monkeypatch.setattr("physadv.models.faces.face_detection.cached_weights", lambda card: None)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    error = invoke(str(tmp_path)).exception
    assert isinstance(error, ModelError)
    assert "physadv[faces]" in str(error)


def _absent() -> None:
    raise ModelError("dlib", "is not installed", "pip install 'physadv[faces]'")


def test_dry_run_writes_nothing(photos: Path, weights: list[str]) -> None:
    """It counts the faces and leaves no file behind."""
    done = invoke(str(photos), "--dry-run", "--json", *QUICK, *weights)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["faces"] == 2
    assert [p.name for p in photos.parent.iterdir()] == ["photos"]


def test_preview_draws_boxes_and_cloaks_nothing(photos: Path, weights: list[str]) -> None:
    """A copy of each photo with its faces' boxes, in a folder of its own; the photos stay alone."""
    done = invoke(str(photos), "--preview", "--json", *QUICK, *weights)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["faces"], [len(row["boxes"]) for row in said["photos"]]) == (2, [1, 1, 0])
    drawn = sorted(p.name for p in (photos.parent / "photos-preview").iterdir())
    assert drawn == [f"{p.name}-preview.png" for p in sorted(photos.iterdir())]
    assert {p.name for p in photos.parent.iterdir()} == {"photos", "photos-preview"}


def test_cloak_then_resume_then_check(photos: Path, weights: list[str]) -> None:
    """A first run cloaks, a second one skips, and the check reads the settings beside the
    photos."""
    first = invoke(str(photos), "--mode", "low", "--json", *QUICK, *weights)
    assert first.exit_code == 0, first.output
    said = json.loads(first.stdout)
    assert (said["cloaked"], said["no face"], said["failed"]) == (2, 1, 0)
    assert 0 < said["linf_max"] <= MODES["low"].linf
    assert 0 < said["dssim_max"] <= MODES["low"].dssim
    again = json.loads(invoke(str(photos), "--mode", "low", "--json", *QUICK, *weights).stdout)
    assert (again["cloaked"], again["already done"]) == (0, 3)
    out = photos.parent / "photos-cloaked"
    settings = (out / "cloak-settings.json").read_bytes()
    other = invoke(str(photos), "--mode", "high", *QUICK, *weights)
    assert isinstance(other.exception, OptionError)
    assert "mode" in str(other.exception)
    assert "--overwrite" in str(other.exception)
    assert (out / "cloak-settings.json").read_bytes() == settings
    config = CloakConfig.from_toml(out / "config.toml")
    assert (config.photos, config.mode) == ((str(photos),), "low")
    repeated = invoke("--config", str(out / "config.toml"), "--threads", "1", "--json")
    assert json.loads(repeated.stdout)["already done"] == 3
    assert CloakConfig.from_toml(out / "config.toml") == config

    check = ("check", "--originals", str(photos), "--no-baselines", "--json", "--out")
    checked = invoke(*check, "run", str(out), *QUICK, *weights)
    assert checked.exit_code == 0, checked.output
    result = json.loads(checked.stdout)
    assert result["recognisers"][0]["role"] == "surrogate"
    assert result["verdict"]["light"] in ("amber", "red")
    assert (photos.parent / "run" / "report.html").is_file()

    recorded = (photos.parent / "run" / "config.toml").read_text()
    assert CloakCheckConfig.from_toml("run/config.toml").baselines is False
    other = invoke(*check, "run", str(out), *QUICK, *weights, "--seed", "1")
    assert "--seed 0 -> 1" in str(other.exception)
    repeated = invoke(*check, "run", str(out), *QUICK, *weights)
    assert "this check is finished" in repeated.stderr
    assert json.loads(repeated.stdout)["verdict"] == result["verdict"]
    assert (photos.parent / "run" / "config.toml").read_text() == recorded
    again = invoke("check", "--config", "run/config.toml", "--out", "again", "--json")
    assert json.loads(again.stdout)["verdict"] == result["verdict"]


def test_a_check_ends_by_its_requirement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3 where too few recognizers are independent, whatever they match, and 0 where two
    keep the limit; a figure of another command is refused."""
    monkeypatch.chdir(tmp_path)
    for person in range(10):
        for shot in range(2):
            photo = drawn_photo(140, 140, KnownFinder()(np.zeros((140, 140, 3)))[0], person=person)
            file = tmp_path / "photos" / f"p{person}" / f"{shot}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo).save(file)
    for name, surrogates, limit, code in (
        ("own", ["a"], "<= 100%", 3),
        ("held", [], "<= 100%", 0),
        ("high", [], "<= 0.2", 3),
    ):
        (tmp_path / name).mkdir()
        record_config(tmp_path / name, CloakCheckConfig(cloaked="photos", originals="photos"))
        run_cloak_check(
            "photos",
            "photos",
            [tiny_embedder(0, "a"), tiny_embedder(1, "b")],
            [KnownFinder()],
            folder=tmp_path / name,
            plan=EmbeddingPlan(channels=("png",), baselines=False),
            surrogates=surrogates,
            adaptive=False,
        )
        check = ("check", "photos", "--originals", "photos", "--out", name, "--json", "--require")
        done = invoke(*check, f"matched {limit}")
        assert done.exit_code == code, done.output
        (outcome,) = json.loads(done.stdout)["requirements"]
        assert outcome["met"] == (code == 0)
        assert ("1 of the 2 recognizers" in outcome["words"]) == (name == "own")
        assert (tmp_path / name / "requirements.xml").is_file()
    assert "this command measures matched" in str(invoke(*check, "robust >= 0.5").exception)


def test_the_help_names_every_mode() -> None:
    """The configuration, which must not import torch, has the names of the modes."""
    assert tuple(MODES) == MODE_NAMES
