"""Examples for the report: once each, also where a batch is attacked again."""

from __future__ import annotations

from pathlib import Path

import torch

from physadv.evaluation.adversarial_examples import AdversarialExamples, strongest_example


class Brightness(torch.nn.Module):
    """Two classes, dark and bright."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean((1, 2, 3))
        return torch.stack([1 - level, level], 1)


def test_a_batch_attacked_again_adds_no_row(tmp_path: Path) -> None:
    """A kill after the examples and before the rows of a batch has it attacked once more."""
    clean = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for folder, killed_after in ((tmp_path / "whole", None), (tmp_path / "killed", 1)):
        for batch in (0, 1):
            keep = AdversarialExamples(folder, Brightness(), str, [0] * 8)
            attacked = clean * (0.5 + 0.2 * batch)
            keep([4 * batch + i for i in range(4)], clean, attacked)
            if batch == killed_after:
                again = AdversarialExamples(folder, Brightness(), str, [0] * 8)
                again([4 * batch + i for i in range(4)], clean, attacked)
    whole, killed = (tmp_path / n / "examples.jsonl" for n in ("whole", "killed"))
    assert killed.read_text() == whole.read_text()
    assert len(strongest_example(tmp_path / "whole")) == 6
