"""What counts as success for a classifier's attacker; never the loss. Criteria compose with ``&``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.core.errors import ModelError


class Criterion:
    """Logits (b, classes) -> success (b,) bool."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (b, classes) to success (b,)."""
        raise NotImplementedError

    def pick(self, index: Tensor) -> Criterion:
        """The same criterion for a part of the samples."""
        raise NotImplementedError

    def __and__(self, other: Criterion) -> Criterion:
        return AllOf(self, other)


@dataclass(frozen=True)
class Misclassification(Criterion):
    """The prediction, ``argmax`` of the logits, is not the true class; ties go as ``argmax`` breaks
    them."""

    labels: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (b, classes) to success (b,)."""
        return _checked(logits, self.labels).argmax(1) != self.labels

    def pick(self, index: Tensor) -> Misclassification:
        """The same criterion for a part of the samples."""
        return Misclassification(self.labels[index])


@dataclass(frozen=True)
class TargetedMisclassification(Criterion):
    """The prediction is the target."""

    targets: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (b, classes) to success (b,)."""
        return _checked(logits, self.targets).argmax(1) == self.targets

    def pick(self, index: Tensor) -> TargetedMisclassification:
        """The same criterion for a part of the samples."""
        return TargetedMisclassification(self.targets[index])


@dataclass(frozen=True)
class MinimumConfidence(Criterion):
    """The predicted class has a softmax probability of at least ``least``: composes with the other
    two."""

    least: float

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (b, classes) to success (b,)."""
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return wide.softmax(1).amax(1) >= self.least

    def pick(self, index: Tensor) -> MinimumConfidence:
        """Itself: it is about every sample alike."""
        return self


@dataclass(frozen=True)
class AllOf(Criterion):
    """Two criteria at once."""

    first: Criterion
    second: Criterion

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (b, classes) to success (b,)."""
        return self.first(logits) & self.second(logits)

    def pick(self, index: Tensor) -> AllOf:
        """Both for a part of the samples."""
        return AllOf(self.first.pick(index), self.second.pick(index))


def success_criterion(labels: Tensor, targets: Tensor | None) -> Criterion:
    """Misclassification of ``labels``, or the targets where there are any."""
    return Misclassification(labels) if targets is None else TargetedMisclassification(targets)


def _checked(logits: Tensor, classes: Tensor) -> Tensor:
    if logits.ndim != 2 or len(logits) != len(classes):
        raise ModelError(
            f"output of shape {tuple(logits.shape)} for {len(classes)} images",
            "logits (images, classes)",
            "wrap the model so that it returns logits",
        )
    return logits
