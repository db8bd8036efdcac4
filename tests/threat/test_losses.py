"""Objectives: signs, scale, few classes, dtypes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from physadv.core.errors import ModelError, OptionError
from physadv.core.random_streams import generator
from physadv.threat.losses import (
    LOSSES,
    cross_entropy_loss,
    dlr_loss,
    log_odds_loss,
    margin_loss,
    objective_by_name,
    probability_margin_loss,
)


def some(
    classes: int = 5, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = generator(0, "logits", classes)
    logits = torch.randn((7, classes), generator=source, dtype=dtype) * 3
    labels = torch.randint(0, classes, (7,), generator=source)
    return logits, labels, (labels + 1) % classes


def test_ce_is_cross_entropy() -> None:
    """``ce`` is the negative cross-entropy of the label, and the cross-entropy of a target."""
    logits, labels, targets = some()
    torch.testing.assert_close(
        cross_entropy_loss(logits, labels), -F.cross_entropy(logits, labels, reduction="none")
    )
    torch.testing.assert_close(
        cross_entropy_loss(logits, labels, targets),
        F.cross_entropy(logits, targets, reduction="none"),
    )


@pytest.mark.parametrize("targeted", [False, True])
def test_log_odds_has_the_direction_of_ce(targeted: bool) -> None:
    """The gradients of ``log_odds`` and ``ce`` are parallel for each sample, and both order points
    alike."""
    logits, labels, targets = some()
    logits.requires_grad_()
    aim = targets if targeted else None
    (a,) = torch.autograd.grad(cross_entropy_loss(logits, labels, aim).sum(), logits)
    (b,) = torch.autograd.grad(log_odds_loss(logits, labels, aim).sum(), logits)
    assert (F.cosine_similarity(a, b) > 1 - 1e-9).all()
    assert torch.equal(
        cross_entropy_loss(logits, labels, aim).argsort(),
        log_odds_loss(logits, labels, aim).argsort(),
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_lower_is_better_for_the_attacker(name: str, classes: int) -> None:
    """A step down the gradient lowers the label's logit or raises the target's, with 2 classes and
    more."""
    logits, labels, targets = some(classes)
    logits = (logits + 9 * F.one_hot(labels, classes)).requires_grad_()
    (grad,) = torch.autograd.grad(LOSSES[name](logits, labels, None).sum(), logits)
    assert (grad.gather(1, labels[:, None]) > 0).all()
    (grad,) = torch.autograd.grad(LOSSES[name](logits, labels, targets).sum(), logits)
    assert (grad.gather(1, targets[:, None]) < 0).all()


@pytest.mark.parametrize("name", ["log_odds", "margin", "dlr"])
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_no_vanishing_at_scale(name: str, classes: int) -> None:
    """Confident logits, times 1000 and in float32, still give finite gradients that are not zero
    for any sample."""
    logits, labels, targets = some(classes, torch.float32)
    logits = (logits + 9 * F.one_hot(labels, classes)).mul(1000).requires_grad_()
    for aim in (None, targets):
        (grad,) = torch.autograd.grad(LOSSES[name](logits, labels, aim).sum(), logits)
        assert grad.isfinite().all()
        assert (grad.abs().amax(1) > 0).all()


def test_ce_does_not_cancel() -> None:
    """Where the softmax rounds to 1 in float32, the gradient of ``ce`` still has its true-class
    part."""
    logits = torch.tensor([[40.0, 0.0, -1.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(cross_entropy_loss(logits, torch.tensor([0])).sum(), logits)
    assert grad[0, 0] > 0
    assert float(grad.sum()) == pytest.approx(0, abs=1e-24)


def test_dlr_is_free_of_scale() -> None:
    """DLR of logits times 1000 is DLR of the logits."""
    logits, labels, targets = some()
    torch.testing.assert_close(dlr_loss(logits * 1000, labels), dlr_loss(logits, labels))
    torch.testing.assert_close(
        dlr_loss(logits * 1000, labels, targets), dlr_loss(logits, labels, targets)
    )


@pytest.mark.parametrize("name", LOSSES)
def test_tied_and_low_precision_logits(name: str) -> None:
    """Equal logits and bfloat16 logits give finite float32 losses and gradients."""
    labels = torch.tensor([0, 1])
    logits = torch.zeros(2, 5, dtype=torch.bfloat16, requires_grad=True)
    loss = LOSSES[name](logits, labels, None)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


def test_margin_and_pick() -> None:
    """The margin is negative exactly for misclassified samples; a part of an objective is about its
    own samples."""
    logits, labels, _ = some()
    goal = objective_by_name("margin", labels)
    assert torch.equal(goal(logits) < 0, logits.argmax(1) != labels)
    index = torch.tensor([5, 1])
    assert torch.equal(goal.pick(index)(logits[index]), margin_loss(logits, labels)[index])


def test_bad_input() -> None:
    """An unknown loss and an output that is no logits are errors with a remedy."""
    with pytest.raises(OptionError, match="margin"):
        objective_by_name("hinge", torch.tensor([0]))
    with pytest.raises(ModelError, match=r"\[-z, z\]"):
        cross_entropy_loss(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("targeted", [False, True])
def test_the_probability_margin_is_of_the_softmax(targeted: bool) -> None:
    """It lies in [-1, 1], has the margin's sign, and its gradient is the one of the softmax."""
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 5, generator=source, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(20) % 5
    targets = (labels + 1) % 5 if targeted else None
    found = probability_margin_loss(logits, labels, targets)
    assert found.abs().max() <= 1
    assert torch.equal(found.sign(), margin_loss(logits, labels, targets).sign())
    assert torch.autograd.gradcheck(
        lambda z: probability_margin_loss(z, labels, targets), logits, eps=1e-6
    )
