"""What the attacker wants of a classifier, as a loss per sample: lower is better for the attacker,
always.

``labels`` are the true classes; with ``targets`` the attacker wants exactly these classes. Logits
of any float dtype are taken to float32 at least. Two families:

* ``ce`` is the cross-entropy itself. Use it where losses of several samples or draws are added up:
  a sample that is
  already won stops to count.
* ``log_odds``, ``margin`` and ``dlr`` keep their gradient however large the logits are.
  ``log_odds`` orders the images
  of one sample exactly as ``ce`` does and has its gradient up to a positive factor, so attacks that
  use the direction
  of the gradient only (sign, normalized) take it in the place of ``ce``.
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
LossName = Literal["ce", "log_odds", "margin", "dlr"]


@dataclass(frozen=True)
class Objective:
    """One loss function with the classes it is about; calling it on logits (b, classes) gives the
    loss (b,)."""

    loss: LossFunction
    labels: Tensor
    targets: Tensor | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (b, classes) to losses (b,)."""
        return self.loss(logits, self.labels, self.targets)

    def pick(self, index: Tensor) -> Objective:
        """The same for a part of the samples."""
        targets = None if self.targets is None else self.targets[index]
        return replace(self, labels=self.labels[index], targets=targets)


def objective_by_name(name: str, labels: Tensor, targets: Tensor | None = None) -> Objective:
    """The objective called ``name``: ce, log_odds, margin or dlr. Raises OptionError for another
    name."""
    if name not in LOSSES:
        raise OptionError(f"loss {name!r}", f"one of {', '.join(LOSSES)}", "choose one of these")
    return Objective(LOSSES[name], labels, targets)


def cross_entropy_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Negative cross-entropy of the true class (b,), or the cross-entropy of the target.

    Written as softplus of the log-odds, so its gradient is exact to the last float even where the
    softmax rounds to 1.
    """
    odds = log_odds_loss(logits, labels, targets)
    return F.softplus(odds) if targets is not None else -F.softplus(-odds)


def log_odds_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """log p(label) - log(1 - p(label)) (b,), or the negative of that for the target; never
    saturates."""
    logits = _wide(logits, labels)
    wanted = labels if targets is None else targets
    odds = _at(logits, wanted) - torch.logsumexp(_without(logits, wanted), 1)
    return odds if targets is None else -odds


def margin_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Logit of the true class less the best other (Carlini & Wagner 2017), or the best other less
    the target."""
    logits = _wide(logits, labels)
    wanted = labels if targets is None else targets
    gap = _at(logits, wanted) - _without(logits, wanted).amax(1)
    return gap if targets is None else -gap


def dlr_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020): the margin over the spread of the top logits,
    free of scale.

    It is made for four classes and more. With three it divides by the first less the third logit,
    taken as a number (the ratio's own gradient vanishes where these two classes decide it); with
    two, where every ratio is constant, it is the margin. Where the true class comes third the
    untargeted loss is constant: such a sample is won already.
    """
    logits = _wide(logits, labels)
    classes = logits.shape[1]
    if classes < 3:
        return margin_loss(logits, labels, targets)
    top = logits.topk(min(4, classes), 1).values
    if classes == 3:
        spread = _positive(top[:, 0] - top[:, 2], top).detach()
        return (
            margin_loss(logits, labels)
            if targets is None
            else _at(logits, labels) - _at(logits, targets)
        ) / spread
    if targets is None:
        return margin_loss(logits, labels) / _positive(top[:, 0] - top[:, 2], top)
    spread = _positive(top[:, 0] - (top[:, 2] + top[:, 3]) / 2, top)
    return (_at(logits, labels) - _at(logits, targets)) / spread


LOSSES: dict[str, LossFunction] = {
    "ce": cross_entropy_loss,
    "log_odds": log_odds_loss,
    "margin": margin_loss,
    "dlr": dlr_loss,
}


def _wide(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits in float32 or float64; raises ModelError for what is not (b, classes >= 2) logits of
    these labels."""
    if logits.ndim != 2 or logits.shape[1] < 2 or len(logits) != len(labels):
        raise ModelError(
            f"output of shape {tuple(logits.shape)} for {len(labels)} images",
            "logits (images, classes) with at least 2 classes",
            "wrap the model so that it returns logits; for one logit z return [-z, z]",
        )
    return logits if logits.dtype == torch.float64 else logits.float()


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _without(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.scatter(1, classes[:, None], -torch.inf)


def _positive(spread: Tensor, top: Tensor) -> Tensor:
    """The spread, kept off zero where the top logits tie."""
    tiny = torch.finfo(top.dtype).eps
    return torch.maximum(spread, tiny * top.detach().abs().amax(1) + torch.finfo(top.dtype).tiny)
