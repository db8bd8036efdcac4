"""Bundles and run folders of somebody else show, read and write no file outside themselves."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from PIL import Image
from typer.testing import CliRunner, Result

from physadv.core.errors import PhysadvError
from physadv.core.package_data import bundle_folder
from physadv.patches.bundle import read_bundle
from physadv.privacy.batch import _rows
from physadv.report.design import member_uri
from physadv_cli.main import app

SECRET = "the user's own secret"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a bundle and a check in it, and a secret beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(tmp_path / "secret.png")
    shutil.copytree(bundle_folder(Path("stop-sticker-signs-v1")), "bundle")
    Path("run/examples").mkdir(parents=True)
    facts = {"victim": {"name": "signs"}, "goal": "untargeted", "true_class": "stop"}
    Path("run/check.json").write_text(json.dumps(facts), encoding="utf-8")
    Path("run/rows.jsonl").write_text("", encoding="utf-8")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def refused(result: Result) -> str:
    """The command ended with an error of ours, and nothing of the secret was shown."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, PhysadvError), result.exception
    assert SECRET not in result.output
    return str(result.exception)


def index(name: object) -> None:
    entry = {"file": name, "block": "patch", "success": True, "verdict": "x"}
    Path("run/examples/index.json").write_text(json.dumps([entry]), encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../../../secret",
        "../../../secret.png",
        "..\\secret",
        "file:///etc/passwd",
        "a\x00b",
        "x" * 5000,
        None,
        7,
        {"a": 1},
    ],
    ids=lambda name: ascii(name)[:20],
)
def test_a_report_shows_no_file_that_an_index_names_outside(name: object) -> None:
    """Absolute, upwards, an address, no name at all."""
    index(name)
    refused(invoke("report", "run"))
    assert not Path("run/report.html").exists()


def test_a_report_shows_pictures_alone() -> None:
    """The check's own files that are no pictures stay out of the page."""
    index("notes.txt")
    Path("run/examples/notes.txt").write_text(SECRET, encoding="utf-8")
    assert "PNG" in refused(invoke("report", "run"))


def test_a_picture_that_is_gone_is_left_out() -> None:
    """As before: the rest of the page is shown."""
    index("gone.png")
    facts = json.loads(Path("run/check.json").read_text(encoding="utf-8"))
    Path("run/check.json").write_text(json.dumps({**facts, "simulation": False}), encoding="utf-8")
    assert invoke("report", "run").exit_code == 0


@pytest.mark.parametrize(
    "facts", [{}, {"victim": 1}, {"victim": [], "goal": {}}, {"bundle": "x"}, {"sources": [1]}]
)
def test_a_record_that_says_nothing_is_one_line(facts: dict[str, object]) -> None:
    """check.json of another form."""
    Path("run/check.json").write_text(json.dumps(facts), encoding="utf-8")
    refused(invoke("report", "run"))


LINKS = [
    "check.json",
    "rows.jsonl",
    "report.html",
    "report.json",
    "examples",
    "examples/index.json",
]


@pytest.mark.parametrize("name", LINKS)
def test_a_report_follows_no_link(tmp_path: Path, name: str) -> None:
    """Neither to read nor to write; what the link leads to is as it was."""
    index("gone.png")
    link = Path("run", name)
    target = tmp_path / ("folder" if name == "examples" else "secret")
    (tmp_path / "folder").mkdir()
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(target)
    assert "link" in refused(invoke("report", "run"))
    assert (tmp_path / "secret").read_text(encoding="utf-8") == SECRET


@pytest.mark.parametrize("name", ["card.toml", "patch.png", "mask.png"])
@pytest.mark.parametrize(
    "words",
    [
        ("patch", "show", "bundle"),
        ("patch", "verify", "bundle", "--test-draws", "2"),
        ("patch", "transfer", "bundle", "--model", "signs", "--test-draws", "2"),
        ("print", "bundle", "--out", "sheet.pdf"),
        ("check", "clip.mp4", "--bundle", "bundle"),
        ("report", "bundle"),
    ],
    ids=lambda words: " ".join(words[:2]) if isinstance(words, tuple) else words,
)
def test_no_part_of_a_bundle_is_a_link(tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    """Card, picture and mask, in every command that reads a bundle."""
    Path("clip.mp4").write_bytes(b"")
    Path("bundle", name).unlink()
    Path("bundle", name).symlink_to(tmp_path / "secret")
    assert "link" in refused(invoke(*words))


@pytest.mark.parametrize("inner", ["photos", "photos/a.png"])
def test_no_folder_in_a_bundle_leads_out(tmp_path: Path, inner: str) -> None:
    """Photos that a card names beside itself, at any depth."""
    Path("bundle", inner).parent.mkdir(exist_ok=True)
    Path("bundle", inner).symlink_to(tmp_path)
    assert "link" in refused(invoke("patch", "verify", "bundle", "--test-draws", "2"))


@pytest.mark.parametrize("name", ["preview.png", "report.html"])
def test_the_report_of_a_bundle_follows_no_link(tmp_path: Path, name: str) -> None:
    """The preview is shown and the page is written."""
    Path("bundle", name).unlink(missing_ok=True)
    Path("bundle", name).symlink_to(tmp_path / "secret.png")
    before = (tmp_path / "secret.png").read_bytes()
    assert "link" in refused(invoke("report", "bundle"))
    assert (tmp_path / "secret.png").read_bytes() == before


def test_a_preview_that_is_no_picture_is_not_shown() -> None:
    """A text in its place."""
    Path("bundle/preview.png").write_text(SECRET, encoding="utf-8")
    assert "PNG" in refused(invoke("report", "bundle"))


@pytest.mark.parametrize("field", ["backgrounds", "photos", "boxes", "content", "profile"])
@pytest.mark.parametrize("name", ["/etc", "../secret.png", "a/../../secret.png", "..", "/"])
def test_a_card_names_no_file_outside(field: str, name: str) -> None:
    """patch verify looks in the working folder, the data folder and the bundle alone."""
    card = Path("bundle/card.toml")
    table = tomllib.loads(card.read_text(encoding="utf-8"))
    table["patch"].pop("sha256")
    table["optimisation"][field] = name
    card.write_text(tomli_w.dumps(table), encoding="utf-8")
    said = refused(invoke("patch", "verify", "bundle", "--test-draws", "2"))
    assert "lies elsewhere" in said or "not found" in said


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "clips/../../../secret"])
def test_a_twin_names_no_video_outside(name: str) -> None:
    """check of a folder whose truth.jsonl names the videos."""
    Path("twin").mkdir()
    row = {"clip": "patch-01", "block": "patch", "file": name, "frame": 0}
    Path("twin/truth.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert "its own" in refused(invoke("check", "twin", "--bundle", "bundle", "--out", "out"))


@pytest.mark.parametrize("name", ["truth.jsonl", "twin.json"])
def test_a_twin_follows_no_link(tmp_path: Path, name: str) -> None:
    """Truth and record of a twin, beside a photo."""
    Path("twin").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("twin/patch.png")
    row = {"clip": "patch-01", "block": "patch", "file": "patch.png", "frame": 0}
    Path("twin/truth.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    Path("twin", name).unlink(missing_ok=True)
    Path("twin", name).symlink_to(tmp_path / "secret")
    assert "link" in refused(invoke("check", "twin", "--bundle", "bundle", "--out", "out"))


def test_a_simulated_print_follows_no_link(tmp_path: Path) -> None:
    """twin reads card and mask by itself."""
    Path("bundle/mask.png").unlink()
    Path("bundle/mask.png").symlink_to(tmp_path / "secret.png")
    Path("sheet.pdf").write_bytes(b"%PDF-1.4")
    words = ("twin", "bundle", "--sheet", "sheet.pdf", "--out", "out")
    assert "link" in refused(invoke(*words))


def test_a_resumed_check_takes_no_picture_from_outside() -> None:
    """The index of an interrupted run."""
    from physadv.check.example_frames import ExampleFrames

    index("../../../secret.png")
    with pytest.raises(PhysadvError, match="its own"):
        ExampleFrames(seed=0).resume(Path("run/examples"), [])


def test_a_manifest_of_a_cloak_is_no_link(tmp_path: Path) -> None:
    """Its rows decide what is replaced."""
    Path("cloaked").mkdir()
    Path("cloaked/cloak-manifest.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(PhysadvError, match="link"):
        _rows(Path("cloaked"))


def test_pictures_of_other_reports_are_members() -> None:
    """evaluate, cloak check: names made of what rows hold."""
    for name in ("examples/../../../secret.png", "../secret.png-before.png"):
        with pytest.raises(PhysadvError, match="its own"):
            member_uri(Path("run"), name)


def test_a_sound_bundle_is_read() -> None:
    """Nothing of this is in the way of an ordinary one."""
    assert read_bundle("bundle").card.patch.goal
    assert invoke("report", "bundle").exit_code == 0
