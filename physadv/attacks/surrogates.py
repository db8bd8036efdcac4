"""Transfer: what was made on surrogates is shown to the victim, which is asked once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, check_batch, frozen_eval
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.threat.criteria import success_criterion
from physadv.threat.losses import margin_loss

Attack = Callable[[Classifier, Tensor, Tensor], AttackResult]
"""A white-box attack with its settings bound: ``partial(pgd, eps=8 / 255, steps=20)``."""


class SurrogateEnsemble:
    """Several surrogates as one: the mean of their log-probabilities, so that none prevails by its
    logits' scale.

    (Liu et al. 2017 average probabilities, Dong et al. 2018 logits.) All must have the same
    classes.
    """

    def __init__(self, surrogates: Sequence[Classifier]) -> None:
        if not surrogates:
            raise OptionError("0 surrogates", "at least one is needed", "name one")
        self.surrogates = list(surrogates)

    def __call__(self, images: Tensor) -> Tensor:
        """Mean log-probabilities (b, classes). Raises OptionError where the surrogates disagree on
        the classes."""
        logits = [surrogate(images) for surrogate in self.surrogates]
        counts = {part.shape[1] for part in logits}
        if len(counts) > 1:
            raise OptionError(
                f"surrogates of {sorted(counts)} classes",
                "one number is needed",
                "use the same classes",
            )
        return torch.stack([part.float().log_softmax(1) for part in logits]).mean(0)


def transfer_attack(
    model: Classifier,
    surrogates: Sequence[Classifier],
    images: Tensor,
    labels: Tensor,
    *,
    attack: Attack,
    targets: Tensor | None = None,
) -> AttackResult:
    """Run ``attack`` on the surrogates together and judge its images (b, c, h, w) by the model
    alone.

    ``success`` and ``loss`` (the margin) are the model's; ``queries`` is one a sample. With
    ``targets`` the attack must have been bound to the same.
    """
    check_batch(images, labels, targets)
    made = attack(SurrogateEnsemble(surrogates), images, labels).images
    with frozen_eval(model), torch.no_grad():
        logits = model(made)
    return AttackResult(
        images=made,
        success=success_criterion(labels, targets)(logits),
        loss=margin_loss(logits, labels, targets),
        queries=torch.ones(len(images), dtype=torch.long),
    )
