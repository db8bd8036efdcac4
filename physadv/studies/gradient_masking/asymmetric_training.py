"""Asymmetric adversarial training (Yin et al. 2020): one detector a class, trained against images
moved towards it.

Detector k learns to tell images of class k from *other* images that were moved, within eps, to look
like class k. Only the other side is attacked, hence the name. Deployed, a classifier names a class
and that class's detector must agree, else the image is rejected. Tramer et al. (2020) broke it by
one attack on both at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.core.random_streams import generator
from physadv.training.methods._inner_maximization import random_start
from physadv.training.methods.base import Metrics, TrainingMethod, TrainingPosition, require_option


@dataclass
class AsymmetricTraining(TrainingMethod):
    """Training of a net whose output k is the logit of detector k, against ``steps`` of PGD within
    ``eps`` in l_inf."""

    eps: float
    steps: int = 7
    score: ClassVar[str] = "clean"
    recorded_as: ClassVar[str] = "Asymmetric"

    def __post_init__(self) -> None:
        require_option("eps", self.eps, self.eps >= 0, "write it like 0.1 or 8/255")
        require_option("steps", self.steps, self.steps >= 1, "use 7")

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """See :class:`Defence`. Each image is its own class's example, and another's, drawn at
        random, once moved."""
        classes = net(images[:1]).shape[1]
        ahead = torch.randint(1, classes, labels.shape, generator=at.generator).to(labels.device)
        others = (labels + ahead) % classes
        moved = self._towards(net, images, others)
        own = net(images).float().gather(1, labels[:, None])
        other = net(moved).float().gather(1, others[:, None])
        accepted = F.binary_cross_entropy_with_logits(own, torch.ones_like(own))
        refused = F.binary_cross_entropy_with_logits(other, torch.zeros_like(other))
        return accepted + refused, {
            "accepted": float(accepted.detach()),
            "refused": float(refused.detach()),
        }

    def _towards(self, net: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        x = images
        with frozen_eval(net):
            for _ in range(self.steps):
                x = x.detach().requires_grad_(True)
                (slope,) = torch.autograd.grad(net(x).gather(1, classes[:, None]).sum(), x)
                x = x.detach() + 2.5 * self.eps / self.steps * slope.sign()
                x = torch.maximum(torch.minimum(x, images + self.eps), images - self.eps).clamp(
                    0, 1
                )
        return x.detach()


class GuardedClassifier(nn.Module):
    """``model`` whose verdict counts only where the detector of its class gives ``threshold`` or
    more.

    Logits (b, classes + 1): the victim's, and last a rejection, above all others by as much as the
    detector's logit lies below the threshold.
    """

    def __init__(self, model: Classifier, detectors: Classifier, threshold: float = 0.0) -> None:
        super().__init__()
        self.model, self.detectors, self.threshold = model, detectors, threshold

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits, found = self.model(images), self.detectors(images)
        best, named = logits.max(1)
        refusal = best + self.threshold - found.gather(1, named[:, None])[:, 0]
        return torch.cat((logits, refusal[:, None]), 1)


class JointMarginClassifier(nn.Module):
    """The same verdicts as :class:`GuardedClassifier`, laid open: one number a class says how far it is from
    being accepted.

    Logits (b, classes + 1): for each class the smaller of its margin at the victim and its
    detector's logit over the threshold; the rejection is 0. A class is the verdict where its number
    is positive, and at most one can be.
    """

    def __init__(self, model: Classifier, detectors: Classifier, threshold: float = 0.0) -> None:
        super().__init__()
        self.model, self.detectors, self.threshold = model, detectors, threshold

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits, found = self.model(images), self.detectors(images) - self.threshold
        top = logits.topk(2, 1).values
        rival = torch.where(logits == top[:, :1], top[:, 1:], top[:, :1])
        reached = torch.minimum(logits - rival, found)
        return torch.cat((reached, reached.new_zeros(len(reached), 1)), 1)


def joint_loss_attack(
    model: Classifier,
    detectors: Classifier,
    threshold: float,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 100,
    seed: int = 0,
) -> Tensor:
    """Images (b, c, h, w) within ``eps`` in l_inf that another class's detector accepts too, where
    one is found.

    PGD towards every other class in turn, with two losses: the victim's margin, worth no more than
    CLEAR, and the detector's logit together; then, from a random start, the margin until it is won
    and the detector's logit from there on (Tramer et al. 2020). Images that are not broken come
    back as they were.
    """
    best, open_ = images.clone(), torch.arange(len(images))
    classes = detectors(images[:1]).shape[1]
    for loss in ("sum", "turns"):
        for ahead in range(1, classes):
            x0, targets = images[open_], ((labels[open_] + ahead) % classes)[:, None]
            draws = generator(seed, "both at once", ahead)
            start = x0 if loss == "sum" else random_start(x0, eps, "linf", draws)
            found, won = _toward_both(
                model, detectors, threshold, x0, start, targets, eps, steps, loss
            )
            best[open_[won]] = found[won]
            open_ = open_[~won]
    return best


CLEAR = 0.5


def _toward_both(
    model: Classifier,
    detectors: Classifier,
    threshold: float,
    x0: Tensor,
    x: Tensor,
    targets: Tensor,
    eps: float,
    steps: int,
    loss: str,
) -> tuple[Tensor, Tensor]:
    """The last iterate that both accept as ``targets`` (b, 1), and where there was one (b,)."""
    best, won = x0.clone(), torch.zeros(len(x0), dtype=torch.bool)
    with frozen_eval(model, detectors):
        for _ in range(steps if len(x0) else 0):
            x = x.detach().requires_grad_(True)
            logits = model(x)
            rival = logits.scatter(1, targets, -torch.inf).amax(1)
            margin = logits.gather(1, targets)[:, 0] - rival
            accepted = detectors(x).gather(1, targets)[:, 0] - threshold
            in_turns = torch.where(margin > 0.01, accepted, margin)
            aim = margin.clamp(max=CLEAR) + accepted if loss == "sum" else in_turns
            (slope,) = torch.autograd.grad(aim.sum(), x)
            now = (margin > 0) & (accepted > 0)
            best[now], won = x.detach()[now], won | now
            x = x.detach() + 2.5 * eps / steps * slope.sign()
            x = torch.maximum(torch.minimum(x, x0 + eps), x0 - eps).clamp(0, 1)
    return best, won


def acceptance_threshold(
    detectors: Classifier, images: Tensor, labels: Tensor, *, accept: float = 0.95
) -> float:
    """The threshold that accepts a share ``accept`` of these images at their own class's detector."""
    with torch.no_grad():
        own = detectors(images).gather(1, labels[:, None])[:, 0]
    return float(own.double().quantile(1 - accept))
