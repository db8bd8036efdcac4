"""Asymmetric adversarial training (Yin et al. 2020): one detector a class, trained against images moved towards it.

Detector k learns to tell images of class k from *other* images that were moved, within eps, to look like class k. Only
the other side is attacked, hence the name. Deployed, a classifier names a class and that class's detector must agree,
else the image is rejected. Tramer et al. (2020) broke it by one attack on both at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks.logits import Classifier, quiet
from physadv.training.defence import Defence, Metrics, Position, need


@dataclass
class Asymmetric(Defence):
    """Training of a net whose output k is the logit of detector k, against ``steps`` of PGD within ``eps`` in l_inf."""

    eps: float
    steps: int = 7
    score: ClassVar[str] = "clean"

    def __post_init__(self) -> None:
        need("eps", self.eps, self.eps >= 0, "write it like 0.1 or 8/255")
        need("steps", self.steps, self.steps >= 1, "use 7")

    def loss(self, net: nn.Module, images: Tensor, labels: Tensor, at: Position) -> tuple[Tensor, Metrics]:
        """See :class:`Defence`. Each image is its own class's example, and another's, drawn at random, once moved."""
        classes = net(images[:1]).shape[1]
        ahead = torch.randint(1, classes, labels.shape, generator=at.generator).to(labels.device)
        others = (labels + ahead) % classes
        moved = self._towards(net, images, others)
        own = net(images).float().gather(1, labels[:, None])
        other = net(moved).float().gather(1, others[:, None])
        accepted = F.binary_cross_entropy_with_logits(own, torch.ones_like(own))
        refused = F.binary_cross_entropy_with_logits(other, torch.zeros_like(other))
        return accepted + refused, {"accepted": float(accepted.detach()), "refused": float(refused.detach())}

    def _towards(self, net: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        x = images
        with quiet(net):
            for _ in range(self.steps):
                x = x.detach().requires_grad_(True)
                (slope,) = torch.autograd.grad(net(x).gather(1, classes[:, None]).sum(), x)
                x = x.detach() + 2.5 * self.eps / self.steps * slope.sign()
                x = torch.maximum(torch.minimum(x, images + self.eps), images - self.eps).clamp(0, 1)
        return x.detach()


class Guarded(nn.Module):
    """``victim`` whose verdict counts only where the detector of its class gives ``threshold`` or more.

    Logits (b, classes + 1): the victim's, and last a rejection, above all others by as much as the detector's logit
    lies below the threshold.
    """

    def __init__(self, victim: Classifier, detectors: Classifier, threshold: float = 0.0) -> None:
        super().__init__()
        self.victim, self.detectors, self.threshold = victim, detectors, threshold

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits, found = self.victim(images), self.detectors(images)
        best, named = logits.max(1)
        refusal = best + self.threshold - found.gather(1, named[:, None])[:, 0]
        return torch.cat((logits, refusal[:, None]), 1)


class BothAtOnce(nn.Module):
    """The same verdicts as :class:`Guarded`, laid open: one number a class says how far it is from being accepted.

    Logits (b, classes + 1): for each class the smaller of its margin at the victim and its detector's logit over the
    threshold; the rejection is 0. A class is the verdict where its number is positive, and at most one can be.
    """

    def __init__(self, victim: Classifier, detectors: Classifier, threshold: float = 0.0) -> None:
        super().__init__()
        self.victim, self.detectors, self.threshold = victim, detectors, threshold

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits, found = self.victim(images), self.detectors(images) - self.threshold
        top = logits.topk(2, 1).values
        rival = torch.where(logits == top[:, :1], top[:, 1:], top[:, :1])
        reached = torch.minimum(logits - rival, found)
        return torch.cat((reached, reached.new_zeros(len(reached), 1)), 1)


def threshold_for(detectors: Classifier, images: Tensor, labels: Tensor, *, accept: float = 0.95) -> float:
    """The threshold that accepts a share ``accept`` of these images at their own class's detector."""
    with torch.no_grad():
        own = detectors(images).gather(1, labels[:, None])[:, 0]
    return float(own.double().quantile(1 - accept))
