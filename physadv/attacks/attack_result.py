"""The result type of every attack."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttackResult:
    """Adversarial images of a batch, with success, loss and query count for each sample.

    ``images`` (b, c, h, w) lie within the constraint and in [0, 1]. ``success`` (b,) is the
    criterion evaluated on exactly these images. ``loss`` (b,) is the attack's own objective, lower
    is better for the attacker. ``queries`` (b,) counts forward passes of the model.
    """

    images: Tensor
    success: Tensor
    loss: Tensor | None = None
    queries: Tensor | None = None
