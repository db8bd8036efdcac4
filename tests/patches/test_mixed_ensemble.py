"""One sticker made on a classifier, shown crops, and on a detector, shown frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from own_model import MODEL, work_beside

from physadv.core.types import Detections
from physadv.eot.scenes.load import PLAIN_NOTE, STREETS_NOTE
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import training_views
from physadv.patches.patch_run import PatchRun
from physadv.patches.reverify import recorded_plain, verify_bundle
from physadv.patches.task import PatchTask, sample_scenes

DETECTOR = """

from physadv.core.types import Detections

class RedCells(torch.nn.Module):
    # One candidate a cell of grids of 2 to 6 a side; a stop sign scores by its red.
    def forward(self, x):
        b, _, h, w = x.shape
        boxes, scores = [], []
        for n in range(2, 7):
            cells = torch.nn.functional.adaptive_avg_pool2d(x, n).flatten(2)
            y, x0 = torch.meshgrid(torch.arange(float(n)), torch.arange(float(n)), indexing="ij")
            corners = [x0 * w / n, y * h / n, (x0 + 1) * w / n, (y + 1) * h / n]
            boxes.append(torch.stack(corners, -1).view(1, n * n, 4).expand(b, -1, 4))
            scores.append(torch.sigmoid(30 * (cells[:, 0] - cells[:, 1:].mean(1)) - 3))
        score = torch.cat(scores, 1)
        return Detections(torch.cat(boxes, 1), torch.stack([0 * score, score], 2))

def detector():
    return as_model(RedCells(), classes=["car", "stop sign"], input_size=96, task="detect")
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PatchConfig:
    work_beside("mixed_models", MODEL + DETECTOR, tmp_path, monkeypatch)
    return PatchConfig(
        model="mixed_models:make",
        ensemble=("mixed_models:detector",),
        size_mm=(190, 190),
        center_mm=(0, 0),
        steps=12,
        draws=8,
        lr=0.1,
        resolution=8,
        test_draws=80,
    )


def test_each_kind_is_shown_its_own_pictures(settings: PatchConfig) -> None:
    """Crops of 32 px to the classifier and a quarter as many frames of 96 px to the detector, both
    with the patch in them, each judged by the class numbers of its model."""
    task = PatchTask.from_config(settings)
    assert [goal.true_class for goal in task.goals] == [0, 1]
    crops, frames = training_views(task, draws=8)
    patch = torch.full((1, 3, *task.mask.shape[-2:]), 0.5, requires_grad=True)
    for view, count, side in ((crops, 8, 32), (frames, 2, 96)):
        images, annotations = view.render(patch, 0)
        assert images.shape == (count, 3, side, side)
        assert len(annotations.boxes) == count
        (gradient,) = torch.autograd.grad(images.sum(), patch)
        assert bool(gradient.any())
    assert isinstance(frames.victims[0].model(frames.render(patch, 0)[0]), Detections)


def test_one_sticker_beats_both(settings: PatchConfig, tmp_path: Path) -> None:
    """The card has the rates of both models on their own pictures, and the sticker does better than
    the blank one on each."""
    run = PatchRun(settings, tmp_path / "out", force=True)
    list(run.steps(validate_every=12))
    held = run.finish()[0].card.heldout
    for rates in (held, held["further_victims"]["mixed_models:detector"]):
        assert rates["success"]["n"] > 10
        assert rates["success"]["rate"] > rates["blank_success"]["rate"] + 0.2


def test_frames_have_streets_behind_their_signs(settings: PatchConfig) -> None:
    """A detector's frames show drawn streets, a classifier's crops and older cards' frames plain
    pictures, and each card says which."""
    detector = replace(settings, model="mixed_models:detector", ensemble=())
    crops = replace(settings, ensemble=())
    tasks = {
        "frames": PatchTask.from_config(detector),
        "older": PatchTask.from_config(detector, plain_backgrounds=True),
        "crops": PatchTask.from_config(crops),
    }
    notes = {name: task.scene_sources.notes for name, task in tasks.items()}
    assert STREETS_NOTE in notes["frames"]
    assert PLAIN_NOTE in notes["older"]
    assert PLAIN_NOTE in notes["crops"]

    shown = {n: sample_scenes(t, t.scene_sources.test, 2, "s").images for n, t in tasks.items()}
    assert float((shown["frames"] - shown["older"]).abs().mean()) > 0.02


def test_an_older_card_is_verified_on_its_own_pictures(
    settings: PatchConfig, tmp_path: Path
) -> None:
    """A card that notes plain backgrounds is measured before these, another before streets."""
    run = PatchRun(
        replace(settings, model="mixed_models:detector", ensemble=(), steps=1, test_draws=4),
        tmp_path / "out",
        force=True,
    )
    list(run.steps(validate_every=1))
    bundle = run.finish()[0]
    assert not recorded_plain(bundle)
    notes = [note.replace(STREETS_NOTE, PLAIN_NOTE) for note in bundle.card.heldout["notes"]]
    card = replace(bundle.card, heldout={**bundle.card.heldout, "notes": notes})
    assert recorded_plain(replace(bundle, card=card))
    named = {"model": "mixed_models:detector"}
    assert verify_bundle(bundle, given=named).agrees
