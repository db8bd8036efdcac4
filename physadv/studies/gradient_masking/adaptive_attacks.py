"""The attacks of the gallery of masked gradients that are made for one defense, or that its authors
judged it by.

Each is a callable of its own settings; all have the signature of :class:`AdaptiveAttack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from physadv.attacks._classifier_step import Classifier
from physadv.attacks.gradient import pgd
from physadv.attacks.minimum_norm import deepfool
from physadv.attacks.score_based import EstimatedGradient
from physadv.attacks.sparse import saliency_attack
from physadv.studies.gradient_masking.asymmetric_training import joint_loss_attack
from physadv.training.methods._inner_maximization import ascend_loss


class AdaptiveAttack(Protocol):
    """An attack made for one defense: images (b, c, h, w), ``eps`` in l_inf away or less, or a few
    pixels apart."""

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """The images to be judged by the deployed defense."""
        ...


@dataclass(frozen=True)
class SaliencyAttack:
    """Pixels one after the other by their slope."""

    model: Classifier
    pixels: int

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """See :class:`AdaptiveAttack`."""
        return saliency_attack(self.model, images, labels, pixels=self.pixels).images


@dataclass(frozen=True)
class DeepFoolAttack:
    """The nearest misread images within ``eps`` in l_inf."""

    model: Classifier

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """See :class:`AdaptiveAttack`."""
        return deepfool(self.model, images, labels, eps=eps, norm="linf", speed="plain").images


@dataclass(frozen=True)
class TextbookAttack:
    """PGD on another net than the deployed one."""

    model: Classifier

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """See :class:`AdaptiveAttack`."""
        return textbook_pgd(self.model, images, labels, eps=eps, steps=steps)


@dataclass(frozen=True)
class MarginAttack:
    """PGD on the margin that keeps the best; with ``pairs`` the slope is estimated by differences
    over ``sigma``."""

    model: Classifier
    pairs: int = 0
    sigma: float = 0.1

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """See :class:`AdaptiveAttack`."""
        asked: Classifier = self.model
        if self.pairs:
            asked, steps = (
                EstimatedGradient(asked, pairs=self.pairs, sigma=self.sigma, seed=seed),
                max(1, steps // 2),
            )
        found = pgd(
            asked, images, labels, eps=eps, steps=steps, loss="margin", speed="plain", seed=seed
        )
        return found.images


@dataclass(frozen=True)
class JointLossAttack:
    """Two joint losses, 2.5 times the steps each."""

    model: Classifier
    detectors: Classifier
    threshold: float

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """See :class:`AdaptiveAttack`."""
        made = self.model, self.detectors, self.threshold
        return joint_loss_attack(
            *made, images, labels, eps=eps, steps=round(2.5 * steps), seed=seed
        )


def textbook_pgd(
    model: Classifier, images: Tensor, labels: Tensor, *, eps: float, steps: int
) -> Tensor:
    """PGD as it is most often written: the sign of the gradient of the cross entropy, the last
    iterate returned.

    What it cannot see is what the gallery is about; attack with
    :func:`physadv.attacks.gradient.pgd` instead.
    """
    size = 2.5 * eps / max(1, steps)
    return ascend_loss(
        lambda x: F.cross_entropy(model(x), labels, reduction="sum"),
        images,
        eps=eps,
        norm="linf",
        steps=steps,
        step_size=size,
    )
