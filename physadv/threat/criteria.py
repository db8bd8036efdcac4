"""Success criteria of attacks on classifiers, apart from the loss. Criteria compose with ``&``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.core.errors import ModelError


class Criterion:
    """Base of success criteria: logits (b, classes) to success (b,) bool.

    Example:
        >>> import torch
        >>> from physadv.threat.criteria import MinimumConfidence, Misclassification
        >>> criterion = Misclassification(torch.tensor([0, 0])) & MinimumConfidence(0.9)
        >>> criterion(torch.tensor([[0.0, 5.0], [0.0, 1.0]])).tolist()
        [True, False]
    """

    def __call__(self, logits: Tensor) -> Tensor:
        """Return success (b,) for ``logits`` (b, classes)."""
        raise NotImplementedError

    def pick(self, index: Tensor) -> Criterion:
        """Return the criterion for the samples ``index`` only."""
        raise NotImplementedError

    def __and__(self, other: Criterion) -> Criterion:
        return _AllOf(self, other)


@dataclass(frozen=True)
class Misclassification(Criterion):
    """Success where the predicted class, ``argmax`` of the logits, is not the true class.

    ``labels`` (b,) are the true classes. Ties are broken as ``argmax`` breaks them.
    """

    labels: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Return success (b,) for ``logits`` (b, classes)."""
        return _checked(logits, self.labels).argmax(1) != self.labels

    def pick(self, index: Tensor) -> Misclassification:
        """Return the criterion for the samples ``index`` only."""
        return Misclassification(self.labels[index])


@dataclass(frozen=True)
class TargetedMisclassification(Criterion):
    """Success where the predicted class is the target; ``targets`` (b,) are the target classes."""

    targets: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Return success (b,) for ``logits`` (b, classes)."""
        return _checked(logits, self.targets).argmax(1) == self.targets

    def pick(self, index: Tensor) -> TargetedMisclassification:
        """Return the criterion for the samples ``index`` only."""
        return TargetedMisclassification(self.targets[index])


@dataclass(frozen=True)
class MinimumConfidence(Criterion):
    """Success where the softmax probability of the predicted class is at least ``least``.

    For use with another criterion: ``Misclassification(labels) & MinimumConfidence(0.9)``.
    """

    least: float

    def __call__(self, logits: Tensor) -> Tensor:
        """Return success (b,) for ``logits`` (b, classes)."""
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return wide.softmax(1).amax(1) >= self.least

    def pick(self, index: Tensor) -> MinimumConfidence:
        """Return the criterion itself, for any ``index``: it is the same for every sample."""
        return self


@dataclass(frozen=True)
class _AllOf(Criterion):
    """Success where both criteria hold."""

    first: Criterion
    second: Criterion

    def __call__(self, logits: Tensor) -> Tensor:
        """Return success (b,) for ``logits`` (b, classes)."""
        return self.first(logits) & self.second(logits)

    def pick(self, index: Tensor) -> _AllOf:
        """Return both criteria for the samples ``index`` only."""
        return _AllOf(self.first.pick(index), self.second.pick(index))


def success_criterion(labels: Tensor, targets: Tensor | None) -> Criterion:
    """Return misclassification of ``labels`` (b,), or of ``targets`` (b,) where there are any.

    Example:
        >>> import torch
        >>> from physadv.threat.criteria import success_criterion
        >>> logits, labels = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0])
        >>> success_criterion(labels, None)(logits).tolist()
        [True]
        >>> success_criterion(labels, torch.tensor([1]))(logits).tolist()
        [False]
    """
    return Misclassification(labels) if targets is None else TargetedMisclassification(targets)


def _checked(logits: Tensor, classes: Tensor) -> Tensor:
    if logits.ndim != 2 or len(logits) != len(classes):
        raise ModelError(
            f"output of shape {tuple(logits.shape)} for {len(classes)} images",
            "logits (images, classes) are needed",
            "Wrap the model so that it returns logits",
        )
    return logits
