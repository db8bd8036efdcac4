"""Criteria: success is what the victim predicts, never the loss."""

from __future__ import annotations

import pytest
import torch

from physadv.core.errors import ModelError
from physadv.threat.criteria import (
    MinimumConfidence,
    Misclassification,
    TargetedMisclassification,
    success_criterion,
)

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.1, 0.2]])
LABELS = torch.tensor([0, 0, 0])


def test_misclassified_and_targeted() -> None:
    """Misclassified is another class than the label; targeted is the wanted class."""
    assert Misclassification(LABELS)(LOGITS).tolist() == [False, True, True]
    assert TargetedMisclassification(torch.tensor([1, 1, 1]))(LOGITS).tolist() == [
        False,
        True,
        False,
    ]
    assert success_criterion(LABELS, None)(LOGITS).tolist() == [False, True, True]
    assert success_criterion(LABELS, LABELS)(LOGITS).tolist() == [True, False, False]


def test_composition() -> None:
    """``&`` asks for both, and a part of it is about its own samples."""
    both = Misclassification(LABELS) & MinimumConfidence(0.9)
    assert both(LOGITS).tolist() == [False, True, False]
    index = torch.tensor([2, 1])
    assert both.pick(index)(LOGITS[index]).tolist() == [False, True]


def test_agrees_with_argmax_on_ties() -> None:
    """Ties go as the prediction goes, so that clean and robust accuracy count alike."""
    logits = torch.zeros(2, 3)
    labels = torch.tensor([0, 1])
    assert torch.equal(Misclassification(labels)(logits), logits.argmax(1) != labels)


def test_wrong_shape() -> None:
    """An output that is not (images, classes) is an error."""
    with pytest.raises(ModelError, match="logits"):
        Misclassification(LABELS)(torch.zeros(2, 3))
