"""The result type of every attack."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from physadv.core.findings import Finding
from physadv.core.notebook_html import result_html
from physadv.core.wording import count_noun


@dataclass(frozen=True)
class AttackResult:
    """Adversarial images of a batch, with success, loss and query count for each sample.

    Attributes:
        images: Images (b, c, h, w) within the constraint and in [0, 1].
        success: Whether (b,) the criterion holds on exactly these images, judged by the untouched
            model after the attack; for one that is random or depends on the batch, in each pass.
        loss: The attack's own objective (b,), lower is better for the attacker; None without one.
        queries: Forward passes (b,) of the model by the attack; None where they are not counted.
        findings: Reasons not to believe the success; a FindingWarning names them too.

    Example:
        >>> import torch
        >>> from physadv import attacks
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> result = attacks.fgsm(net, torch.rand(2, 3, 4, 4), [0, 1], eps=0.1)
        >>> result.success.dtype
        torch.bool
    """

    images: Tensor
    success: Tensor
    loss: Tensor | None = None
    queries: Tensor | None = None
    findings: tuple[Finding, ...] = ()

    def _repr_html_(self) -> str:
        """The result in a notebook, with the first images."""
        won = int(self.success.sum())
        facts = {} if self.queries is None else {"Forward passes": int(self.queries.sum())}
        words = ("adversarial" if bool(hit) else "not broken" for hit in self.success)
        return result_html(
            f"{won} of {count_noun(len(self.success), 'image')} became adversarial",
            facts,
            notes=self.findings,
            pictures=zip(words, self.images.detach().cpu(), strict=True),
        )
