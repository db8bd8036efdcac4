"""Patch search by scores alone: no gradient is asked for, losses fall, runs resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from physadv.attacks._optimizers import CosineAdam
from physadv.attacks.patch_loop import PatchStep, Victim, View
from physadv.attacks.patch_search import HELD_STEPS, METHODS, PAIRS, queries_of, search_patch
from physadv.core.errors import ModelError, OptionError


class Judge:
    """A model whose score is the patch's distance from a target; it counts what it is shown."""

    def __init__(self) -> None:
        self.target = torch.zeros(1, 3, 16, 16)
        self.target[:, 0, 8:] = 1.0
        self.shown = 0

    def __call__(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.shown += len(images)
        return (images - self.target).square().mean((1, 2, 3))


def search(judge: Judge, method: str, steps: int, **settings: Any) -> list[PatchStep]:
    victim = Victim(lambda x: judge(x), lambda p, _: p, lambda p, _: p < 0.01)
    noise = torch.Generator()

    def render(patch: Tensor, step: int) -> tuple[Tensor, None]:
        noise.manual_seed(step)
        return patch + 0.01 * torch.randn((4, 3, 16, 16), generator=noise), None

    return list(
        search_patch(
            settings.pop("patch", torch.full((1, 3, 16, 16), 0.5)),
            views=[View(render, [victim])],
            regularizer=lambda patch: 0 * patch.sum(),
            project=lambda patch: patch.clamp(0, 1),
            update=CosineAdam(0.05, steps),
            steps=steps,
            method=method,  # type: ignore[arg-type]
            **settings,
        )
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_by_far(method: str) -> None:
    """To less than half, and the patch stays in [0, 1]."""
    judge = Judge()
    steps = search(judge, method, 200)
    first, last = 0.25, float((steps[-1].patch - judge.target).square().mean())
    assert last < first / 2
    assert steps[-1].patch.min() >= 0
    assert steps[-1].patch.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_the_pictures_shown_are_those_announced(method: str) -> None:
    """So that a budget can be judged before the run."""
    judge = Judge()
    search(judge, method, 12)
    assert judge.shown == queries_of(method, 12, 4)  # type: ignore[arg-type]
    assert queries_of("evolution", 1, 1) == 2 * PAIRS
    assert queries_of("square", HELD_STEPS, 1) == HELD_STEPS + 1


def test_a_resumed_search_gives_the_same_patch() -> None:
    """From the middle of held draws as well: the loss of the patch itself is asked for again."""
    whole = search(Judge(), "square", 14)
    for at in (5, 7):
        rest = search(Judge(), "square", 14, start=at, patch=whole[at - 1].patch)
        assert torch.equal(rest[-1].patch, whole[-1].patch)


def test_what_is_wrong_is_named() -> None:
    """A method that is not known, and scores that are no numbers."""
    with pytest.raises(OptionError, match="square, evolution"):
        search(Judge(), "gradient", 1)
    judge = Judge()
    judge.target = judge.target * float("nan")
    with pytest.raises(ModelError, match="finite"):
        search(judge, "square", 1)
