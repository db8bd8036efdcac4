"""A patch's gradient in parts, for want of memory, is that of all draws at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from physadv.attacks._optimizers import CosineAdam
from physadv.attacks.patch_loop import PatchStep, Victim, View, descend_patch
from physadv.core.errors import OptionError
from physadv.core.memory_limit import MemoryLimit
from physadv.core.process_group import ProcessGroup

DRAWS = 7


def views(*, most: int, divisible: bool = True) -> list[View]:
    """Two models that judge noisy copies of a patch; some scenes have no object, some have two. Of
    more than ``most`` copies at once the memory runs out."""
    torch.manual_seed(0)
    noise, owner = torch.randn(DRAWS, 3, 4, 4), torch.tensor([0, 1, 1, 4, 5, 6])
    weights = torch.randn(2, 48)

    def render(patch: Tensor, step: int, rows: slice | None = None) -> tuple[Tensor, Any]:
        own = rows or slice(0, DRAWS)
        if own.stop - own.start > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        inside = (owner >= own.start) & (owner < own.stop)
        return patch + (1 + step) * noise[own], owner[inside] - own.start

    def victim(weight: Tensor) -> Victim:
        return Victim(
            lambda images: (images.flatten(1) @ weight).tanh(),  # type: ignore[arg-type, return-value]
            lambda scores, objects: scores[objects],  # type: ignore[index]
            lambda scores, objects: scores[objects] < 0,  # type: ignore[index, operator]
        )

    return [View(render, [victim(w) for w in weights], DRAWS if divisible else None)]


def steps(chosen: list[View], **options: Any) -> list[PatchStep]:
    return list(
        descend_patch(
            torch.full((1, 3, 4, 4), 0.5),
            views=chosen,
            regularizer=lambda patch: patch.square().sum(),
            project=lambda patch: patch.clamp(0, 1),
            update=CosineAdam(0.05, 5),
            steps=5,
            **options,
        )
    )


@pytest.mark.parametrize("most", [1, 2, 3])
def test_halved_batches_take_the_same_steps(most: int) -> None:
    """However small the parts, patches agree, and the limit says what happened."""
    memory = MemoryLimit()
    whole, parts = steps(views(most=DRAWS)), steps(views(most=most), memory=memory)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other.patch, one.patch, rtol=1e-5, atol=1e-7)
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
    assert memory.first_failed == DRAWS
    assert "memory ran out at 7" in memory.in_words()


def test_what_cannot_be_divided_is_refused_in_several_processes() -> None:
    """A pipeline with a foreign stage needs all draws at once."""
    with pytest.raises(OptionError, match="in 2 processes"):
        steps(views(most=DRAWS, divisible=False), processes=ProcessGroup(1, 2))
