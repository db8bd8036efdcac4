"""Counting of votes under noise: many images share one batch, and memory stays that of one batch.

Sample j of image i is the same noise whatever the batch size, the order or the other images: it is
drawn in units of ``UNIT`` samples, each unit from its own named seed. So a run may be resumed or
repacked and counts the same. Noise is drawn on the device of the images; each kind of device has
numbers of its own.
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
from physadv.certification.fixed_network import check_fixed
from physadv.certification.smoothing.noise import SmoothingNoise
from physadv.core.errors import ModelError, OptionError, is_out_of_memory
from physadv.core.memory_limit import MemoryLimit
from physadv.core.random_streams import generator
from physadv.core.types import Model
from physadv.models.failures import failure_of

UNIT = 16
"""Samples drawn from one named seed."""
_CHECKED = 4
"""Noisy images on which a model is compared with itself."""
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SampleRequest:
    """Request for samples ``first`` to ``first + count`` of the stream ``name`` for image
    ``index``."""

    image: Tensor
    index: int
    name: str
    first: int
    count: int


class NoiseSampler:
    """Adds noise to images and counts the classes that a model predicts.

    Modules run in eval mode and are left as they were.

    Args:
        model: Classifier: images to logits (b, classes).
        noise: Noise to add.
        seed: Seed of the noise.
        batch: Largest number of noisy images in memory at once, rounded up to whole units of 16.
        tick: Called with the size of every batch classified.

    Raises:
        OptionError: ``batch`` is below 1.

    Example:
        >>> import torch
        >>> from physadv.certification.smoothing.noise import GaussianNoise
        >>> from physadv.certification.smoothing.sampler import NoiseSampler, SampleRequest
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> image = torch.rand(1, 3, 2, 2)
        >>> request = SampleRequest(image, index=0, name="count", first=0, count=40)
        >>> int(NoiseSampler(net, GaussianNoise(0.5)).count([request])[0].sum())
        40
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
            raise OptionError(f"batch {batch}", "must be at least 1", "Use e.g. 256")
        self.model, self.noise, self.seed, self.batch = model, noise, seed, batch
        self.memory = MemoryLimit()
        self.tick = tick or (lambda count: None)

    def check_model(self, image: Tensor) -> None:
        """Check on noisy copies of ``image`` (1, c, h, w) that votes do not depend on each other.

        Raises:
            ModelError: The model's answer to an image depends on the others of its batch, it
                changes a buffer, or the output is no logits (b, classes) of two classes or more.
        """
        request = SampleRequest(image, 0, "check", 0, _CHECKED)
        ((_, noisy),) = self._batches([request])
        self._classify(noisy)  # refuses other outputs first, in words of its own
        with frozen_eval(cast(Classifier, self.model)):
            check_fixed(self.model, noisy, may_be_random=True)

    def clean_classes(self, images: Tensor) -> list[int]:
        """Return the model's own class of each of ``images`` (b, c, h, w), without noise.

        Raises:
            ModelError: The output is no logits (b, classes), or not a number.
        """
        with torch.random.fork_rng():  # a random model draws from the caller's generator
            votes, _ = self._classify_in_parts(images)
        return [int(vote) for vote in votes]

    def count(self, requests: Sequence[SampleRequest]) -> list[Counts]:
        """Return the votes of each class for each of ``requests``; several requests share a batch.

        Images are (1, c, h, w) in [0, 1], all of one size.

        Raises:
            ModelError: The output is no logits (b, classes), or not a number.
        """
        totals: list[Counts | None] = [None] * len(requests)
        for owners, noisy in self._batches(requests):
            votes, classes = self._classify_in_parts(noisy)
            self.tick(len(noisy))
            start = 0
            for owner, size in owners:
                counts = np.bincount(votes[start : start + size], minlength=classes)
                total = totals[owner]
                totals[owner] = counts.astype(np.int64) + (0 if total is None else total)
                start += size
        return [np.zeros(1, np.int64) if t is None else t for t in totals]

    def _batches(
        self, requests: Sequence[SampleRequest]
    ) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
        """Yield noisy images up to a batch at a time, with (request, number of images) in their
        order."""
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
            home = request.image.device
            stream = generator(self.seed, request.name, request.index, unit, device=home)
            noise = self.noise.draw(shape, stream)
            requested = noise[max(request.first - unit * UNIT, 0) : last - unit * UNIT]
            yield request.image + requested.to(request.image)

    def _classify_in_parts(self, noisy: Tensor) -> tuple[npt.NDArray[np.int64], int]:
        """Classify images at once, or in parts where memory does not hold them."""
        parts = self.memory.run(len(noisy), lambda first, last: self._classify(noisy[first:last]))
        return np.concatenate([votes for votes, _ in parts]), parts[0][1]

    def _classify(self, noisy: Tensor) -> tuple[npt.NDArray[np.int64], int]:
        # Eval mode: a vote must not depend on the other images of its batch.
        with frozen_eval(cast(Classifier, self.model)), torch.no_grad():
            try:
                logits = self.model(noisy)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                if is_out_of_memory(error):
                    raise
                raise failure_of(self.model, noisy, error) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ModelError(
                "this model's output", "smoothing needs logits (b, classes)", "Use a classifier"
            )
        if torch.isnan(logits).any():
            raise ModelError(
                "a logit that is not a number",
                "noisy images leave [0, 1], and the model must accept that",
                "Check the model outside [0, 1]",
            )
        return logits.argmax(1).cpu().numpy().astype(np.int64), logits.shape[1]
