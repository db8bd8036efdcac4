"""Pictures of what was broken: a few to look at, or all of them to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.core.image_io import save_png
from physadv.core.rows import Row, append_rows, read_rows

SHOWN, GAIN = 8, 10
Names = Callable[[int], str]


class AdversarialExamples:
    """Keeps, from each call, the broken images whose wrong verdict is the surest: picture, change
    and verdicts.

    ``folder`` gets ``<index>-{clean,adversarial,change}.png`` and ``examples.jsonl``. ``name``
    turns a class number into its name. The change is shown ``GAIN`` times as strong, around middle
    gray.
    """

    def __init__(
        self, folder: Path, model: Classifier, name: Names, labels: Sequence[int], *, each: int = 3
    ) -> None:
        self.folder, self.model, self.name, self.labels, self.each = (
            folder,
            model,
            name,
            labels,
            each,
        )

    def __call__(self, positions: Sequence[int], clean: Tensor, found: Tensor) -> None:
        """Look at clean and adversarial images (b, c, h, w) of the samples at ``positions``."""
        with frozen_eval(self.model), torch.no_grad():
            before, after = (
                self.model(clean).float().softmax(1).max(1),
                self.model(found).float().softmax(1).max(1),
            )
        surest = after.values.argsort(dim=0, descending=True, stable=True)[: self.each].tolist()
        rows = []
        for i in surest:
            position = positions[i]
            change = (0.5 + GAIN * (found[i] - clean[i])).clamp(0, 1)
            for part, image in (("clean", clean[i]), ("adversarial", found[i]), ("change", change)):
                save_png(self.folder / f"{position}-{part}.png", image)
            rows.append(
                {
                    "index": position,
                    "label": self.name(self.labels[position]),
                    "clean": self.name(int(before.indices[i])),
                    "clean_confidence": float(before.values[i]),
                    "verdict": self.name(int(after.indices[i])),
                    "confidence": float(after.values[i]),
                }
            )
        append_rows(self.folder / "examples.jsonl", rows)


def strongest_example(folder: Path, count: int = SHOWN) -> list[Row]:
    """The surest wrong verdicts among the examples kept, each sample once."""
    file = folder / "examples.jsonl"
    rows = {row["index"]: row for row in read_rows(file)} if file.is_file() else {}
    return sorted(rows.values(), key=lambda row: (-row["confidence"], row["index"]))[:count]


class ExampleSaver:
    """Writes every broken image as ``<index>-<label>.png``: 8 bit, so the attack must have been
    8-bit legal."""

    def __init__(self, folder: Path, name: Names, labels: Sequence[int]) -> None:
        self.folder, self.name, self.labels = folder, name, labels

    def __call__(self, positions: Sequence[int], clean: Tensor, found: Tensor) -> None:
        """Write the adversarial images of the samples at ``positions``."""
        for position, image in zip(positions, found, strict=True):
            label = "".join(c if c.isalnum() else "-" for c in self.name(self.labels[position]))
            save_png(self.folder / f"{position:06d}-{label}.png", image)
