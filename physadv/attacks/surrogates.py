"""Transfer attacks: adversarial images of surrogates, evaluated once on the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, check_batch, frozen_eval
from physadv.attacks._guarded_model import guarded
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.models.outputs import read_logits
from physadv.threat.criteria import success_criterion
from physadv.threat.losses import margin_loss

Attack = Callable[[Classifier, Tensor, Tensor], AttackResult]
"""A white-box attack with its options bound: ``partial(pgd, eps=8 / 255, steps=20)``."""


class SurrogateEnsemble:
    """Several surrogate models as one: the mean of their log-probabilities.

    No model prevails by the scale of its logits (Liu et al. 2017 average probabilities, Dong et al.
    2018 logits).

    Args:
        surrogates: Models of the same classes, at least one.

    Raises:
        OptionError: There is no surrogate.

    Example:
        >>> import torch
        >>> nets = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)) for _ in "ab"]
        >>> SurrogateEnsemble(nets)(torch.rand(2, 3, 4, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, surrogates: Sequence[Classifier]) -> None:
        if not surrogates:
            raise OptionError("0 surrogates", "at least one is needed", "Name one")
        self.surrogates = list(surrogates)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the mean log-probabilities (b, classes) for ``images`` (b, c, h, w).

        Raises:
            OptionError: The surrogates differ in their number of classes.
        """
        logits = [read_logits(net(images.clone()), len(images)) for net in self.surrogates]
        counts = {output.shape[1] for output in logits}
        if len(counts) > 1:
            raise OptionError(
                f"surrogates of {sorted(counts)} classes",
                "all must have the same number of classes",
                "Choose surrogates of the same classes",
            )

        return torch.stack([output.float().log_softmax(1) for output in logits]).mean(0)


@open_inputs
def transfer_attack(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    surrogates: Sequence[Classifier],
    attack: Attack,
    targets: Tensor | None = None,
) -> AttackResult:
    """Attack surrogates together and evaluate the result on the model, which is queried once.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        surrogates: Models to attack, or their names.
        attack: White-box attack with its settings bound, such as ``partial(pgd, eps=8 / 255)``.
        targets: Target classes (b,), the same that ``attack`` is bound to.

    Returns:
        The images of ``attack``; ``success`` and ``loss`` (the margin) are of the model.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: There is no surrogate, or they differ in the number of classes.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from physadv.attacks import pgd, transfer_attack
        >>> nets = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)) for _ in "ab"]
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> attack = partial(pgd, eps=8 / 255, steps=5)
        >>> result = transfer_attack(nets[0], images, labels, surrogates=nets[1:], attack=attack)
        >>> result.queries.tolist()
        [1, 1]
    """
    check_batch(images, labels, targets)
    adversarial = attack(guarded(SurrogateEnsemble(surrogates)), images, labels).images
    with frozen_eval(model), torch.no_grad():
        logits = model(adversarial)

    return AttackResult(
        images=adversarial,
        success=success_criterion(labels, targets)(logits),
        loss=margin_loss(logits, labels, targets),
        queries=torch.ones(len(images), dtype=torch.long),
    )
