"""What every attack returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttackResult:
    """Adversarial images and what is known of them, one entry a sample.

    ``images`` (b, c, h, w) are within the constraint and in [0, 1]; ``success`` (b,) is the
    criterion on exactly these; ``loss`` (b,) is the attack's own objective, lower is better for the
    attacker; ``queries`` (b,) counts what a black box was asked.
    """

    images: Tensor
    success: Tensor
    loss: Tensor | None = None
    queries: Tensor | None = None
