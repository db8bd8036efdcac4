"""The optimization keeps its best patch and trains on what will be printed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.patches import optimize
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import PatchProgress, optimize_patch
from physadv.patches.task import PatchTask
from physadv.threat.printability import PatchAppearance


@pytest.fixture
def task(own_model: str) -> PatchTask:
    chosen = PatchConfig(model=own_model, steps=4, draws=2, resolution=8, palette="#000,#fff,#c00")
    return PatchTask.from_config(chosen)


def progress(task: PatchTask, count: int) -> Iterator[PatchProgress]:
    return optimize_patch(task, steps=count, draws=2, validate_every=1, validation_draws=2)


def test_the_best_patch_is_kept_when_later_ones_are_worse(
    task: PatchTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four validations the second is the highest: its patch is the one kept to the end."""
    scores = iter([0.2, 0.9, 0.1, 0.8])
    monkeypatch.setattr(optimize, "validation_success", lambda *_: next(scores))
    steps = list(progress(task, 4))
    assert [step.best_success for step in steps] == [0.2, 0.9, 0.9, 0.9]
    assert torch.equal(steps[-1].best, steps[1].patch)
    assert not torch.equal(steps[-1].best, steps[-1].patch)


def test_a_tie_is_broken_by_the_models_doubt(
    task: PatchTask,
) -> None:
    """Two patches that win equally often are told apart by the confidence in the truth: the one
    nearer
    to winning scores higher."""
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, *task.mask.shape[-2:])
    free = replace(task, appearance=PatchAppearance())
    scores = [optimize.validation_success(free, patch, 16) for patch in (red, 0.9 * red)]
    wins = [round(score, 2) for score in scores]
    assert wins[0] == wins[1]
    assert scores[1] > scores[0]


def test_every_training_scene_shows_the_palette(
    task: PatchTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is photographed in a step consists of the printable colors alone."""
    shown: list[Tensor] = []
    real = optimize.StepDraws.render

    def watched(self: optimize.StepDraws, patch: Tensor, rows: slice | None = None) -> object:
        shown.append(patch.detach().clone())
        return real(self, patch, rows)

    monkeypatch.setattr(optimize.StepDraws, "render", watched)
    monkeypatch.setattr(optimize, "validation_success", lambda *_: 0.0)
    monkeypatch.setattr(optimize, "validation_rate", lambda *_: wilson_interval(0, 1))
    list(progress(task, 3))
    assert task.appearance.palette is not None
    colors = {tuple(c) for c in (task.appearance.palette * 255).round().int().tolist()}
    assert len(shown) == 3
    for patch in shown:
        pixels = (patch[0].flatten(1).T * 255).round().int().tolist()
        assert {tuple(p) for p in pixels} <= colors
