"""Transfer on a bundle's card: recorded with its controls, measured again, and never by running
code that a card names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from own_model import work_beside
from torch import Tensor, nn
from typer.testing import CliRunner

from physadv.core.errors import BundleError
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.patches.bundle import (
    ModelInfo,
    PatchBundle,
    TransferRecord,
    read_bundle,
    write_bundle,
    write_card,
)
from physadv.patches.card import card_lines
from physadv.patches.config import PatchConfig
from physadv.patches.patch_run import PatchRun
from physadv.patches.reverify import verify_bundle
from physadv.patches.transfer import (
    compare_transfer,
    record_transfer,
    recorded_models,
    transfer_matrix,
)
from physadv_cli.main import app

DRAWS = 4


class RedBlob(nn.Module):
    """A detector of one class: squares of two sizes all over a 96x96 input, whose scores say how
    red they are. ``layout`` names that of its output."""

    def __init__(self, layout: str = "pair") -> None:
        super().__init__()
        self.layout = layout

    def forward(self, images: Tensor) -> object:
        """Map (b, 3, 96, 96) to every candidate."""
        red = images[:, :1] - images[:, 1:].mean(1, keepdim=True)
        centers, sizes, scores = [], [], []
        for side in (24, 48):
            mean = F.avg_pool2d(red, side, 8)
            place = side / 2 + 8 * torch.arange(mean.shape[-1])
            y, x = torch.meshgrid(place, place, indexing="ij")
            centers.append(torch.stack((x, y), -1).flatten(0, 1))
            sizes.append(torch.full_like(centers[-1], side))
            scores.append((30 * (mean - 0.03)).sigmoid().flatten(1))

        score = torch.cat(scores, 1)[..., None]
        center, size = (torch.cat(c).expand(len(images), -1, 2) for c in (centers, sizes))
        boxes = torch.cat((center - size / 2, center + size / 2), -1)
        if self.layout == "pair":
            return boxes, score
        if self.layout == "mapping":
            return {"boxes": boxes, "scores": score}
        return torch.cat((center, size, score), -1).transpose(1, 2)


@pytest.fixture
def bundle(tmp_path: Path) -> PatchBundle:
    """A writable copy of a ready-made bundle, with few draws."""
    ready = read_bundle("stop-sticker-signs-v1")
    settings = {**ready.card.optimisation, "test_draws": DRAWS}
    return write_bundle(
        tmp_path / "sticker",
        card=replace(ready.card, optimisation=settings, transfer=()),
        patch=ready.patch,
        mask=ready.mask,
    )


def record(name: str, success: RateInterval, *, sha256: str = "") -> TransferRecord:
    return TransferRecord(
        ModelInfo(name, "classify", sha256), False, "untargeted", DRAWS, success, success, success
    )


def test_a_record_is_read_back_and_shown(bundle: PatchBundle) -> None:
    """What is measured stands on the card with both controls, and the fingerprint still holds; a
    second measurement takes the place of the first."""
    assert "transfer" not in bundle.card.to_toml()
    cells = list(transfer_matrix([bundle], ["signs"]))
    for _ in range(2):
        record_transfer(bundle, cells)
    card = read_bundle(bundle.folder).card
    (found,) = card.transfer
    assert cells[0].measured is not None
    assert found.success == cells[0].measured.success
    assert found.blank_success == cells[0].measured.blank_success
    assert found.clean_recognised.n == found.draws == DRAWS
    assert found.in_training
    assert found.victim.sha256 == card.victim.sha256
    (line,) = [text for text in card_lines(card) if text.startswith("signs (trained)")]
    assert f"{100 * found.success.rate:.0f} % [" in line
    assert line.split()[-1] == f"{DRAWS}"


def test_other_weights_of_the_same_architecture_were_not_trained_on(bundle: PatchBundle) -> None:
    """signs-masked has the classes of signs, not its weights."""
    (cell,) = transfer_matrix([bundle], ["signs-masked"], draws=2)
    assert cell.record is not None
    assert not cell.record.in_training


def test_a_second_measurement_agrees_with_the_card_or_differs(bundle: PatchBundle) -> None:
    """The same draws give the same rate; a card that claims another is told."""
    cells = list(transfer_matrix([bundle], ["signs"]))
    recorded = record_transfer(bundle, cells)
    again = list(transfer_matrix([recorded], recorded_models(recorded), as_recorded=True))
    (same,) = compare_transfer(recorded, again)
    assert same.agrees
    assert same.claimed == same.measured

    rate = wilson_interval(0 if same.measured.rate > 0.5 else 40, 40)
    boasting = replace(recorded.card, transfer=(record("signs", rate),))
    (other,) = compare_transfer(replace(recorded, card=boasting), again)
    assert not other.agrees


def test_other_weights_than_the_recorded_are_refused(bundle: PatchBundle) -> None:
    """A rate of other weights is no second measurement."""
    cells = list(transfer_matrix([bundle], ["signs"], draws=2))
    claimed = record("signs", wilson_interval(1, 2), sha256="0" * 64)
    changed = replace(bundle, card=replace(bundle.card, transfer=(claimed,)))
    with pytest.raises(BundleError, match="has weights with sha256"):
        compare_transfer(changed, cells)


def test_a_card_does_not_run_a_model_it_names(bundle: PatchBundle) -> None:
    """A module on the table is measured again where the user names it, and only there."""
    listed = replace(bundle.card, transfer=(record("bait:make", wilson_interval(1, 2)),))
    changed = replace(bundle, card=listed)
    with pytest.raises(BundleError, match="--model bait:make"):
        recorded_models(changed)
    assert recorded_models(changed, named_by_user=["bait:make"]) == ("bait:make",)
    with pytest.raises(BundleError, match="records no transfer"):
        recorded_models(bundle)


def test_the_command_records_verifies_and_shows(bundle: PatchBundle, tmp_path: Path) -> None:
    """--record, then --verify without a model, then a card that claims too much: exit code 1."""

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["patch", *words])
        words = f"{result.output} {result.exception or ''}"
        return result.exit_code, " ".join(words.split())

    folder = str(bundle.folder)
    out = ("--out", str(tmp_path / "out"), "--overwrite")
    assert run("transfer", folder, "--model", "signs", "--record", *out)[0] == 0
    code, words = run("transfer", folder, "--verify", *out)
    assert code == 0
    assert "on signs agrees" in words
    assert "signs (trained)" in run("show", folder)[1]

    card = read_bundle(folder).card
    (true,) = card.transfer
    rate = wilson_interval(0 if true.success.rate > 0.5 else 40, 40)
    write_card(replace(bundle, card=replace(card, transfer=(replace(true, success=rate),))))
    code, words = run("transfer", folder, "--verify", *out)
    assert code == 1
    assert "does not agree with the card's" in words
    for further, reason in (((), "No --model"), (("--verify", "--faces", "varied"), "own scenes")):
        code, words = run("transfer", folder, *further, *out)
        assert code == 1
        assert reason in words


def test_the_faces_of_an_older_card_can_be_varied(bundle: PatchBundle) -> None:
    """The card knows the plain face alone; with others its draws are in groups."""
    settings = {k: v for k, v in bundle.card.optimisation.items() if k != "faces"}
    bundle = replace(bundle, card=replace(bundle.card, optimisation=settings))
    plain, varied = (
        next(transfer_matrix([bundle], ["signs"], scenes=scenes))
        for scenes in ({}, {"faces": "varied"})
    )
    assert plain.measured is not None
    assert plain.measured.success.clusters is None
    assert varied.measured is not None
    assert (varied.measured.clean_recognised.clusters or 0) > 1


@pytest.mark.parametrize(
    ("way", "layout"), [("module", "pair"), ("exported", "mapping"), ("exported", "yolo")]
)
def test_a_strangers_detector_is_judged_whatever_its_output(
    bundle: PatchBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    layout: str,
) -> None:
    """As a torch.export archive with its sidecar and as module:factory: boxes and scores as a pair,
    as a mapping, or in the YOLO layout, on the same draws, give the same rates and controls."""
    monkeypatch.chdir(tmp_path)
    settings = 'task = "detect"\nclasses = ["stop sign"]\ninput_size = 96\nscore_threshold = 0.5\n'
    if way == "exported":
        name = "red.pt2"
        program = torch.export.export(RedBlob(layout).eval(), (torch.rand(1, 3, 96, 96),))
        torch.export.save(program, tmp_path / name)
        (tmp_path / "red.pt2.toml").write_text(settings)
    else:
        name = f"red_{layout}:make"
        (tmp_path / f"red_{layout}.py").write_text(
            "from physadv import as_model\n"
            "from test_transfer_record import RedBlob\n"
            "def make():\n"
            f"    return as_model(RedBlob({layout!r}), task='detect', input_size=96,\n"
            "                    classes=['stop sign'], score_threshold=0.5)\n"
        )

    (cell,) = transfer_matrix([bundle], [name])
    assert cell.reason == ""
    assert cell.record is not None
    assert cell.record.victim.name == name
    assert cell.record.score_threshold == 0.5
    assert cell.record.clean_recognised.n == DRAWS
    assert cell.record.clean_recognised.rate >= 0.5
    recorded = record_transfer(bundle, [cell])
    assert recorded.card.transfer[0].victim.task == "detect"


OWN = """
import torch
from physadv.models.load import as_model

class Weighted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(GAIN))

    def forward(self, x):
        red = (x[:, 0] - x[:, 1:].mean(1)).mean((1, 2))
        return torch.stack([self.gain * red, self.gain * (0.12 - 0 * red)], 1)

def make():
    return as_model(Weighted(), classes=["stop", "other"], input_size=32)
"""


def test_models_without_a_file_are_known_by_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factory trained anew under its name was not trained on, the one of before under another
    name was; and a card is not verified on the former."""
    work_beside("trained", OWN.replace("GAIN", "60.0"), tmp_path, monkeypatch)
    changes = {"model": "trained:make", "true_class": "stop", "center_mm": (0.0, 0.0)}
    few = {"steps": 1, "draws": 2, "test_draws": DRAWS, "resolution": 16, "search": "none"}
    run = PatchRun(PatchConfig(**changes, **few), tmp_path / "own")  # type: ignore[arg-type]
    for _ in run.steps():
        pass
    own, _ = run.finish()

    work_beside("trained", OWN.replace("GAIN", "60.0"), tmp_path, monkeypatch)
    (same,) = transfer_matrix([own], ["trained:make"], draws=2)
    assert same.record is not None
    assert same.record.in_training
    assert same.as_row()["same_victim"]

    work_beside("renamed", OWN.replace("GAIN", "60.0"), tmp_path, monkeypatch)
    _, renamed = transfer_matrix([own], ["trained:make", "renamed:make"], draws=2)
    assert renamed.record is not None
    assert renamed.record.in_training

    work_beside("trained", OWN.replace("GAIN", "50.0"), tmp_path, monkeypatch)
    (other,) = transfer_matrix([own], ["trained:make"], draws=2)
    assert other.record is not None
    assert not other.record.in_training
    assert not other.as_row()["same_victim"]
    with pytest.raises(BundleError, match="Let its factory load those weights"):
        verify_bundle(own, given={"model": "trained:make"})
