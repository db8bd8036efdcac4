"""Asymmetric adversarial training (Yin et al. 2020): one detector a class, trained against images
moved towards it.

Detector k learns to tell images of class k from *other* images that were moved, within eps, to look
like class k. Only the other side is attacked, hence the name. In deployment a classifier predicts a
class and that class's detector must accept, else the image is rejected. Tramer et al. (2020) broke
it by one attack on both at once.
"""

from __future__ import annotations

import math
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
    """Training of a network whose output k is the logit of detector k, against PGD in l_inf.

    Args:
        eps: Radius of the ball, in units of [0, 1].
        steps: Steps of PGD, at least 1.
    """

    eps: float
    steps: int = 7
    score: ClassVar[str] = "clean"
    recorded_as: ClassVar[str] = "Asymmetric"

    def __post_init__(self) -> None:
        require_option("eps", self.eps, self.eps >= 0, "Write it like 0.1 or 8/255")
        require_option("steps", self.steps, self.steps >= 1, "Use e.g. 7")

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the detectors' loss of ``net`` on a batch.

        Each image is an example of its own class in ``labels``, and after the attack a
        counterexample of another class, drawn from ``at``. ``images`` are (b, c, h, w) in [0, 1].
        """
        classes = net(images[:1]).shape[1]
        offset = torch.randint(1, classes, labels.shape, generator=at.generator).to(labels.device)
        others = (labels + offset) % classes
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
        """Return images moved to raise the logit of their detector in ``classes``."""
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
    """A classifier whose prediction counts only where the detector of its class reaches
    ``threshold``.

    Logits (b, classes + 1): those of ``model``, and last a rejection, which exceeds all others by
    as much as the logit in ``detectors`` lies below the threshold.
    """

    def __init__(self, model: Classifier, detectors: Classifier, threshold: float = 0.0) -> None:
        super().__init__()
        self.model, self.detectors, self.threshold = model, detectors, threshold

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (b, classes + 1) of ``images``."""
        logits, detections = self.model(images), self.detectors(images)
        best, predicted = logits.max(1)
        refusal = best + self.threshold - detections.gather(1, predicted[:, None])[:, 0]
        return torch.cat((logits, refusal[:, None]), 1)


class JointMarginClassifier(nn.Module):
    """The same predictions as :class:`GuardedClassifier`, with a usable gradient: one number a
    class measures its distance from acceptance.

    Logits (b, classes + 1): for each class the smaller of its margin at the classifier and its
    detector's logit over the threshold; the rejection is 0. A class is predicted where its number
    is positive, and at most one can be.
    """

    def __init__(self, model: Classifier, detectors: Classifier, threshold: float = 0.0) -> None:
        super().__init__()
        self.model, self.detectors, self.threshold = model, detectors, threshold

    def forward(self, images: Tensor) -> Tensor:
        """Return the joint margins (b, classes + 1) of ``images``."""
        logits, excess = self.model(images), self.detectors(images) - self.threshold
        top = logits.topk(2, 1).values
        rival = torch.where(logits == top[:, :1], top[:, 1:], top[:, :1])
        joint = torch.minimum(logits - rival, excess)
        return torch.cat((joint, joint.new_zeros(len(joint), 1)), 1)


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
    restart: bool = False,
) -> Tensor:
    """Attack classifier and detectors at once (Tramer et al. 2020).

    PGD towards every other class in turn, with two losses: first the margin at the classifier,
    worth no more than CLEAR, plus the detector's logit; then, from a random start, the margin until
    it is positive and the detector's logit from there on.

    Args:
        model: Classifier.
        detectors: Network with one detector logit a class.
        threshold: Logit from which a detector accepts.
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        eps: Radius of the l_inf ball, in units of [0, 1].
        steps: Steps of each run of PGD.
        seed: Seed of the random starts.
        restart: Whether the first loss begins at a random start too, and not at the image.

    Returns:
        Adversarial images; those that were not broken are returned unchanged.
    """
    best, unbroken = images.clone(), torch.arange(len(images))
    classes = detectors(images[:1]).shape[1]
    for loss in ("sum", "turns"):
        for offset in range(1, classes):
            x0, targets = images[unbroken], ((labels[unbroken] + offset) % classes)[:, None]
            draws = generator(seed, "both at once", offset)
            start = (
                x0
                if loss == "sum" and not restart
                else random_start(x0, eps, "linf", TrainingPosition(0, 1, draws))
            )
            moved, success = _attack_jointly(
                model, detectors, threshold, x0, start, targets, eps, steps, loss
            )
            best[unbroken[success]] = moved[success]
            unbroken = unbroken[~success]

    return best


CLEAR = 0.5
"""Margin at the classifier beyond which a larger one is worth nothing."""


def _attack_jointly(
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
    """Return the last iterates that both accept as ``targets`` (b, 1), and (b,) whether there was
    one."""
    best, success = x0.clone(), torch.zeros(len(x0), dtype=torch.bool)
    with frozen_eval(model, detectors):
        for step in range(steps if len(x0) else 0):
            x = x.detach().requires_grad_(True)
            logits = model(x)
            rival = logits.scatter(1, targets, -torch.inf).amax(1)
            margin = logits.gather(1, targets)[:, 0] - rival
            accepted = detectors(x).gather(1, targets)[:, 0] - threshold
            in_turns = torch.where(margin > 0.01, accepted, margin)
            objective = margin.clamp(max=CLEAR) + accepted if loss == "sum" else in_turns
            (slope,) = torch.autograd.grad(objective.sum(), x)

            now = (margin > 0) & (accepted > 0)
            best[now], success = x.detach()[now], success | now
            x = x.detach() + _step_size(eps, step, steps) * slope.sign()
            x = torch.maximum(torch.minimum(x, x0 + eps), x0 - eps).clamp(0, 1)

    return best, success


def _step_size(eps: float, step: int, steps: int) -> float:
    """Size of a step: from the whole width of the ball, 2 ``eps``, to nothing along a cosine.

    Steps of one size, 2.5 ``eps / steps``, leave 66 of 98 images where these leave 60
    (benchmarks/masked.md).
    """
    return eps * (1 + math.cos(math.pi * step / steps))


def acceptance_threshold(
    detectors: Classifier, images: Tensor, labels: Tensor, *, accept: float = 0.95
) -> float:
    """Return the threshold that accepts a share of images at their own class's detector.

    Args:
        detectors: Network with one detector logit a class.
        images: Images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        accept: Share to accept, between 0 and 1.

    Example:
        >>> import torch
        >>> from physadv.studies.gradient_masking.asymmetric_training import acceptance_threshold
        >>> images, labels = torch.linspace(0, 1, 101).view(-1, 1, 1, 1), torch.zeros(101).long()
        >>> round(acceptance_threshold(torch.nn.Flatten(), images, labels, accept=0.9), 2)
        0.1
    """
    with torch.no_grad():
        own = detectors(images).gather(1, labels[:, None])[:, 0]
    return float(own.double().quantile(1 - accept))
