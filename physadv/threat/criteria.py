"""Success criteria of attacks on classifiers, apart from the loss. Criteria compose with ``&``.

A model predicts the class of its largest logit. Where several are exactly equal it is the one of
the lowest number, as ``argmax`` has it. Where the largest logit is NaN or infinite the model
predicts no class, so that neither an attack nor a correct answer can be counted there. Attacks and
evaluations follow this one definition; exact ties are reported as a finding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.core.errors import ModelError

NO_CLASS = -1
"""Class predicted by logits with NaN, or whose largest is infinite."""


def predicted_classes(logits: Tensor) -> Tensor:
    """Return the class (b,) that each row of ``logits`` (b, classes) predicts.

    It is the lowest number among the largest logits, and :data:`NO_CLASS` where a logit is NaN or
    the largest infinite; -inf marks a class that is out of the question.

    Example:
        >>> import torch
        >>> from physadv.threat.criteria import predicted_classes
        >>> predicted_classes(torch.tensor([[0.0, 2.0, 2.0], [0.0, torch.inf, 1.0]])).tolist()
        [1, -1]
    """
    return logits.argmax(1).masked_fill(~logits.amax(1).isfinite(), NO_CLASS)


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
    """Success where a class is predicted that is not the true one.

    ``labels`` (b,) are the true classes.

    Example:
        >>> import torch
        >>> from physadv.threat.criteria import Misclassification
        >>> logits = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, torch.nan]])
        >>> Misclassification(torch.tensor([0, 0, 0]))(logits).tolist()
        [True, False, False]
    """

    labels: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Return success (b,) for ``logits`` (b, classes)."""
        predicted = predicted_classes(_checked(logits, self.labels))
        return (predicted != self.labels) & (predicted != NO_CLASS)

    def pick(self, index: Tensor) -> Misclassification:
        """Return the criterion for the samples ``index`` only."""
        return Misclassification(self.labels[index])


@dataclass(frozen=True)
class TargetedMisclassification(Criterion):
    """Success where the predicted class is the target; ``targets`` (b,) are the target classes."""

    targets: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Return success (b,) for ``logits`` (b, classes)."""
        return predicted_classes(_checked(logits, self.targets)) == self.targets

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
