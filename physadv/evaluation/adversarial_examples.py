"""Image files of adversarial examples: a few for the report, or all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.core.image_io import save_png
from physadv.core.memory_limit import MemoryLimit
from physadv.core.rows import Row, append_rows, read_rows
from physadv.core.tables import convert_value

_SHOWN, _GAIN = 8, 10
Names = Callable[[int], str]


class AdversarialExamples:
    """Saves, in each call, the adversarial images with the most confident wrong predictions.

    Writes ``<index>-{clean,adversarial,change}.png`` and ``examples.jsonl``. The change is shown 10
    times as strong, around middle gray. A batch that is attacked again, since a kill lost its
    result, adds no second row.

    Args:
        folder: Folder to write to.
        model: Model under test.
        name: Class number to class name.
        labels: True class of every position.
        each: Number of images saved in a call.
    """

    def __init__(
        self, folder: Path, model: Classifier, name: Names, labels: Sequence[int], *, each: int = 3
    ) -> None:
        self.folder, self.model, self.name = folder, model, name
        self.labels, self.each = labels, each
        self._memory = MemoryLimit()
        self._written: set[tuple[int, float]] | None = None

    def __call__(self, positions: Sequence[int], clean: Tensor, adversarial: Tensor) -> None:
        """Save the most confident of ``adversarial`` (b, c, h, w) beside their ``clean`` images.

        ``positions`` are the numbers of the samples.
        """
        before, before_class = self._confidences(clean)
        after, after_class = self._confidences(adversarial)
        order = after.argsort(dim=0, descending=True, stable=True)

        rows = []
        for i in order[: self.each].tolist():
            position = positions[i]
            change = (0.5 + _GAIN * (adversarial[i] - clean[i])).clamp(0, 1)
            images = {"clean": clean[i], "adversarial": adversarial[i], "change": change}
            for kind, image in images.items():
                save_png(self.folder / f"{position}-{kind}.png", image)
            rows.append(
                {
                    "index": position,
                    "label": self.name(self.labels[position]),
                    "clean": self.name(int(before_class[i])),
                    "clean_confidence": float(before[i]),
                    "verdict": self.name(int(after_class[i])),
                    "confidence": float(after[i]),
                }
            )
        file = self.folder / "examples.jsonl"
        if self._written is None:
            self._written = {_key(row) for row in _recorded_examples(file)}
        append_rows(file, (row for row in rows if _key(row) not in self._written))
        self._written |= set(map(_key, rows))

    def _confidences(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Highest probability (b,) of each image, and its class (b,)."""

        def part(first: int, last: int) -> Tensor:
            return self.model(images[first:last]).float().softmax(1)

        with frozen_eval(self.model), torch.no_grad():
            values, classes = torch.cat(self._memory.run(len(images), part)).max(1)
        return values, classes


def _key(row: Row) -> tuple[int, float]:
    """What tells two rows apart: one image may be shown under several attacks."""
    return row["index"], row["confidence"]


def strongest_example(folder: Path, count: int = _SHOWN) -> list[Row]:
    """Return the ``count`` most confident wrong predictions in ``folder``, one for each sample."""
    file = folder / "examples.jsonl"
    rows = {row["index"]: row for row in _recorded_examples(file)}
    return sorted(rows.values(), key=lambda row: (-row["confidence"], row["index"]))[:count]


@dataclass(frozen=True)
class _ExampleKeys:
    """Keys of an example's row."""

    index: int
    label: str
    clean: str
    clean_confidence: float
    verdict: str
    confidence: float


def _recorded_examples(file: Path) -> list[Row]:
    """The rows in ``file``; none without it.

    Raises:
        DataError: It holds something else.
    """
    if not file.is_file():
        return []
    rows = list(read_rows(file))
    for number, row in enumerate(rows, 1):
        convert_value(row, _ExampleKeys, name=f"{file}:{number}", remedy="Name another --out")
    return rows


class ExampleSaver:
    """Saves every adversarial image as ``<index>-<label>.png``.

    PNG has 8 bits, so the attack must round its images to them.

    Args:
        folder: Folder to write to.
        name: Class number to class name.
        labels: True class of every position.
    """

    def __init__(self, folder: Path, name: Names, labels: Sequence[int]) -> None:
        self.folder, self.name, self.labels = folder, name, labels

    def __call__(self, positions: Sequence[int], clean: Tensor, adversarial: Tensor) -> None:
        """Save the ``adversarial`` images of the samples at ``positions``; ``clean`` is unused."""
        for position, image in zip(positions, adversarial, strict=True):
            label = "".join(c if c.isalnum() else "-" for c in self.name(self.labels[position]))
            save_png(self.folder / f"{position:06d}-{label}.png", image)
