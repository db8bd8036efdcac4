"""Counting votes under noise: many images packed into one batch, and memory of one batch however
many samples.

Sample j of image i is the same noise whatever the batch size, the order or the company: it is drawn
in units of ``UNIT`` samples, each unit from its own named seed. So a run may be resumed, repacked
or moved and counts the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.certification.smoothing.noise import SmoothingNoise
from physadv.core.errors import ModelError, OptionError
from physadv.core.random_streams import generator
from physadv.core.types import Model

UNIT = 16
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SampleRequest:
    """Samples ``first`` to ``first + count`` of the stream ``name`` wanted for image ``index``."""

    image: Tensor
    index: int
    name: str
    first: int
    count: int


class NoiseSampler:
    """Adds noise to images and counts the classes a victim answers.

    ``batch`` bounds how many noisy images are in memory at once (rounded up to whole units of 16).
    Images are (1, c, h, w) in [0, 1], all of one size. ``tick`` is told the size of every batch
    answered. Modules are asked in eval mode and left as they were. Raises ModelError for a victim
    that is not a classifier.
    """

    def __init__(
        self,
        model: Model,
        noise: SmoothingNoise,
        *,
        seed: int = 0,
        batch: int = 256,
        tick: Callable[[int], None] | None = None,
    ) -> None:
        if batch < 1:
            raise OptionError(f"batch {batch}", "at least 1", "use 256")
        self.model, self.noise, self.seed, self.batch = model, noise, seed, batch
        self.tick = tick or (lambda count: None)

    def count(self, requests: Sequence[SampleRequest]) -> list[Counts]:
        """For each request the votes of each class; several requests share a batch."""
        totals: list[Counts | None] = [None] * len(requests)
        for owners, noisy in self._batches(requests):
            votes, classes = self._answers(noisy)
            self.tick(len(noisy))
            start = 0
            for owner, size in owners:
                found = np.bincount(votes[start : start + size], minlength=classes).astype(np.int64)
                have = totals[owner]
                totals[owner] = found if have is None else have + found
                start += size
        return [np.zeros(1, np.int64) if t is None else t for t in totals]

    def _batches(
        self, requests: Sequence[SampleRequest]
    ) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
        """Noisy images up to a batch at a time, with (request, how many) in their order."""
        owners: list[tuple[int, int]] = []
        pieces: list[Tensor] = []
        size = 0
        for owner, request in enumerate(requests):
            for piece in self._units(request):
                owners.append((owner, len(piece)))
                pieces.append(piece)
                size += len(piece)
                if size >= self.batch:
                    yield owners, torch.cat(pieces)
                    owners, pieces, size = [], [], 0
        if pieces:
            yield owners, torch.cat(pieces)

    def _units(self, request: SampleRequest) -> Iterator[Tensor]:
        last = request.first + request.count
        shape = (UNIT, *request.image.shape[1:])
        for unit in range(request.first // UNIT, -(-last // UNIT)):
            stream = generator(self.seed, request.name, request.index, unit)
            noise = self.noise.draw(shape, stream)
            inside = noise[max(request.first - unit * UNIT, 0) : last - unit * UNIT]
            yield request.image + inside.to(request.image)

    def _answers(self, noisy: Tensor) -> tuple[npt.NDArray[np.int64], int]:
        # in eval mode: a vote must not depend on the other images of its batch
        with frozen_eval(cast(Classifier, self.model)), torch.no_grad():
            logits = self.model(noisy)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ModelError(
                "this victim's output", "smoothing needs logits (b, classes)", "use a classifier"
            )
        if torch.isnan(logits).any():
            raise ModelError(
                "a logit that is not a number", "noisy images leave [0, 1]", "check the victim"
            )
        return logits.argmax(1).cpu().numpy().astype(np.int64), logits.shape[1]
