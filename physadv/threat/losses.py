"""Losses of attacks on classifiers, one value a sample; lower is always better for the attacker.

Each loss takes logits (b, classes), true classes ``labels`` (b,) and optionally ``targets`` (b,),
the classes of a targeted attack. Logits are converted to float32 at least. There are two families:

* ``ce`` is the cross-entropy itself. Use it where losses of several samples or draws are summed: a
  sample that is already misclassified loses weight.
* ``pm``, a margin of probabilities, is a part of both: bounded, and weighted by nearness.
* ``log_odds``, ``margin`` and ``dlr`` keep their gradient however large the logits are.
  ``log_odds`` orders the images of one sample exactly as ``ce`` does and has its gradient up to a
  positive factor, so that attacks that use only the direction of the gradient (sign, normalized)
  take it in place of ``ce``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.errors import ModelError, OptionError

LossFunction = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
LossName = Literal["ce", "log_odds", "margin", "dlr", "pm"]


@dataclass(frozen=True)
class Objective:
    """A loss function bound to the classes of a batch: logits (b, classes) to losses (b,).

    ``labels`` (b,) are the true classes, ``targets`` (b,) the target classes of a targeted attack.
    """

    loss: LossFunction
    labels: Tensor
    targets: Tensor | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the losses (b,) for ``logits`` (b, classes)."""
        return self.loss(logits, self.labels, self.targets)

    def pick(self, index: Tensor) -> Objective:
        """Return the objective for the samples ``index`` only."""
        targets = None if self.targets is None else self.targets[index]
        return replace(self, labels=self.labels[index], targets=targets)


def objective_by_name(name: str, labels: Tensor, targets: Tensor | None = None) -> Objective:
    """Return an objective by the name of its loss.

    Args:
        name: "ce", "log_odds", "margin", "dlr" or "pm".
        labels: True classes (b,).
        targets: Target classes (b,) for a targeted attack.

    Raises:
        OptionError: The name is unknown.

    Example:
        >>> import torch
        >>> from physadv.threat.losses import objective_by_name
        >>> objective_by_name("margin", torch.tensor([0]))(torch.tensor([[3.0, 1.0]])).tolist()
        [2.0]
    """
    return Objective(loss_by_name(name), labels, targets)


def loss_by_name(name: str) -> LossFunction:
    """Return the loss called ``name``.

    Raises:
        OptionError: The name is unknown.
    """
    if name not in LOSSES:
        raise OptionError(f"loss {name!r}", f"one of {', '.join(LOSSES)}", "Choose one of these")
    return LOSSES[name]


def cross_entropy_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the negative cross-entropy (b,) of the true class, or the cross-entropy of the target.

    Computed as softplus of the log-odds, so that its gradient is exact even where the softmax
    rounds to 1.

    Args:
        logits: Logits (b, classes).
        labels: True classes (b,).
        targets: Target classes (b,) for a targeted attack.

    Raises:
        ModelError: The logits are not (b, classes) with 2 classes or more.

    Example:
        >>> import torch
        >>> from physadv.threat.losses import cross_entropy_loss
        >>> cross_entropy_loss(torch.zeros(1, 4), torch.tensor([0])).exp().tolist()
        [0.25]
    """
    odds = log_odds_loss(logits, labels, targets)
    return F.softplus(odds) if targets is not None else -F.softplus(-odds)


def log_odds_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the log-odds (b,) of the true class, or the negative log-odds of the target.

    The log-odds are log p - log(1 - p) and never saturate.

    Args:
        logits: Logits (b, classes).
        labels: True classes (b,).
        targets: Target classes (b,) for a targeted attack.

    Raises:
        ModelError: The logits are not (b, classes) with 2 classes or more.

    Example:
        >>> import torch
        >>> from physadv.threat.losses import log_odds_loss
        >>> log_odds_loss(torch.tensor([[1000.0, 0.0]]), torch.tensor([0])).tolist()
        [1000.0]
    """
    logits = _wide(logits, labels)
    classes = labels if targets is None else targets
    odds = _at(logits, classes) - torch.logsumexp(_without(logits, classes), 1)
    return odds if targets is None else -odds


def margin_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the margin (b,): the true logit less the best other (Carlini & Wagner 2017).

    With targets it is the best other logit less the target's. Negative where the attack succeeds.

    Args:
        logits: Logits (b, classes).
        labels: True classes (b,).
        targets: Target classes (b,) for a targeted attack.

    Raises:
        ModelError: The logits are not (b, classes) with 2 classes or more.

    Example:
        >>> import torch
        >>> from physadv.threat.losses import margin_loss
        >>> logits, labels = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])
        >>> margin_loss(logits, labels).tolist()
        [1.0]
        >>> margin_loss(logits, labels, torch.tensor([1])).tolist()
        [2.0]
    """
    logits = _wide(logits, labels)
    classes = labels if targets is None else targets
    gap = _at(logits, classes) - _without(logits, classes).amax(1)
    return gap if targets is None else -gap


def dlr_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the difference-of-logits ratio (b,) (Croce & Hein 2020), which has no scale.

    It is the margin over the spread of the largest logits, defined for four classes or more. For
    three, the divisor is the first less the third logit as a constant, since the ratio's own
    gradient vanishes where these two classes decide it. For two, where every ratio is constant, it
    is the margin. Where the true class ranks third the untargeted loss is constant: such a sample
    is already misclassified.

    Args:
        logits: Logits (b, classes).
        labels: True classes (b,).
        targets: Target classes (b,) for a targeted attack.

    Raises:
        ModelError: The logits are not (b, classes) with 2 classes or more.

    Example:
        >>> import torch
        >>> from physadv.threat.losses import dlr_loss
        >>> logits, labels = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([0])
        >>> dlr_loss(logits, labels).tolist(), dlr_loss(1000 * logits, labels).tolist()
        ([0.5], [0.5])
    """
    logits = _wide(logits, labels)
    classes = logits.shape[1]
    if classes < 3:
        return margin_loss(logits, labels, targets)

    if targets is None:
        gap = margin_loss(logits, labels)
    else:
        gap = _at(logits, labels) - _at(logits, targets)
    top = logits.topk(min(4, classes), 1).values

    if classes == 3:
        return gap / _positive(top[:, 0] - top[:, 2], top).detach()
    if targets is None:
        return gap / _positive(top[:, 0] - top[:, 2], top)
    return gap / _positive(top[:, 0] - (top[:, 2] + top[:, 3]) / 2, top)


def probability_margin_loss(
    logits: Tensor, labels: Tensor, targets: Tensor | None = None
) -> Tensor:
    """Return the margin (b,) of probabilities (Probability Margin Attack, Ma et al. 2024).

    It is the true class's probability less the largest other one, with targets the largest other
    one less the target's. It weighs samples near the boundary most, and its gradient vanishes where
    the softmax saturates.

    Args:
        logits: Logits (b, classes).
        labels: True classes (b,).
        targets: Target classes (b,) for a targeted attack.

    Raises:
        ModelError: The logits are not (b, classes) with 2 classes or more.

    Example:
        >>> import torch
        >>> from physadv.threat.losses import probability_margin_loss
        >>> probability_margin_loss(torch.zeros(1, 4), torch.tensor([0])).tolist()
        [0.0]
    """
    classes = labels if targets is None else targets
    shares = _wide(logits, labels).softmax(1)
    gap = _at(shares, classes) - _without(shares, classes).amax(1)
    return gap if targets is None else -gap


LOSSES: dict[str, LossFunction] = {
    "ce": cross_entropy_loss,
    "log_odds": log_odds_loss,
    "margin": margin_loss,
    "dlr": dlr_loss,
    "pm": probability_margin_loss,
}


def _wide(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits in float32 or float64.

    Raises:
        ModelError: The logits are not (b, classes) with 2 classes or more.
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or len(logits) != len(labels):
        raise ModelError(
            f"output of shape {tuple(logits.shape)} for {len(labels)} images",
            "logits (images, classes) with at least 2 classes",
            "Wrap the model so that it returns logits; for one logit z return [-z, z]",
        )
    return logits if logits.dtype == torch.float64 else logits.float()


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _without(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.scatter(1, classes[:, None], -torch.inf)


def _positive(spread: Tensor, top: Tensor) -> Tensor:
    """Return ``spread``, raised above zero where the largest logits tie."""
    tiny = torch.finfo(top.dtype).eps
    return torch.maximum(spread, tiny * top.detach().abs().amax(1) + torch.finfo(top.dtype).tiny)
