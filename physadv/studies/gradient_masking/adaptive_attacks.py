"""Attacks made for one defense each, or used by its authors to evaluate it.

Each is a callable dataclass of its own settings with the signature of :class:`AdaptiveAttack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from physadv.attacks._classifier_step import Classifier
from physadv.attacks._guarded_model import guarded
from physadv.attacks.gradient import pgd
from physadv.attacks.minimum_norm import deepfool
from physadv.attacks.score_based import EstimatedGradient
from physadv.attacks.sparse import saliency_attack
from physadv.studies.gradient_masking.asymmetric_training import joint_loss_attack
from physadv.training.methods._inner_maximization import ascend_loss


class AdaptiveAttack(Protocol):
    """Protocol of an attack made for one defense."""

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """Return adversarial images to be judged by the deployed defense.

        Args:
            images: Clean images (b, c, h, w) in [0, 1].
            labels: True classes (b,).
            eps: Radius of the l_inf ball; attacks on few pixels ignore it.
            steps: Steps of iterative attacks.
            seed: Seed of random draws.
        """
        ...


@dataclass(frozen=True)
class SaliencyAttack:
    """Greedy change of up to ``pixels`` pixels in the order of their gradients (JSMA, Papernot et
    al. 2016)."""

    model: Classifier
    pixels: int

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """Return ``images`` with a few pixels changed away from ``labels``; ``eps``, ``steps`` and
        ``seed`` are not used."""
        return saliency_attack(guarded(self.model), images, labels, pixels=self.pixels).images


@dataclass(frozen=True)
class DeepFoolAttack:
    """Nearest misclassified images within ``eps`` in l_inf (DeepFool, Moosavi-Dezfooli et al.
    2016)."""

    model: Classifier

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """Return ``images`` moved off ``labels`` within ``eps``; ``steps`` and ``seed`` are not
        used."""
        return deepfool(
            guarded(self.model), images, labels, eps=eps, norm="linf", speed="plain"
        ).images


@dataclass(frozen=True)
class TextbookAttack:
    """Plain PGD, on the deployed network or on another one."""

    model: Classifier

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """Return ``images`` moved off ``labels`` within ``eps`` in ``steps``; ``seed`` is not
        used."""
        return textbook_pgd(self.model, images, labels, eps=eps, steps=steps)


@dataclass(frozen=True)
class MarginAttack:
    """PGD on the margin that keeps the best iterate; with ``pairs`` the gradient is estimated by
    differences over ``sigma``."""

    model: Classifier
    pairs: int = 0
    sigma: float = 0.1

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """Return ``images`` moved off ``labels`` within ``eps`` in ``steps``, with draws of
        ``seed``."""
        model: Classifier = self.model
        if self.pairs:
            model = EstimatedGradient(model, pairs=self.pairs, sigma=self.sigma, seed=seed)
            steps = max(1, steps // 2)

        return pgd(
            guarded(model),
            images,
            labels,
            eps=eps,
            steps=steps,
            loss="margin",
            speed="plain",
            seed=seed,
        ).images


@dataclass(frozen=True)
class JointLossAttack:
    """Two joint losses on classifier and detectors, each with 2.5 times the steps; ``restart``
    begins both at a random start."""

    model: Classifier
    detectors: Classifier
    threshold: float
    restart: bool = False

    def __call__(
        self, images: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int
    ) -> Tensor:
        """Return ``images`` moved off ``labels`` within ``eps`` in ``steps``, with draws of
        ``seed``."""
        return joint_loss_attack(
            self.model,
            self.detectors,
            self.threshold,
            images,
            labels,
            eps=eps,
            steps=round(2.5 * steps),
            seed=seed,
            restart=self.restart,
        )


def textbook_pgd(
    model: Classifier, images: Tensor, labels: Tensor, *, eps: float, steps: int
) -> Tensor:
    """Attack by PGD as it is most often written: sign of the cross-entropy's gradient, last iterate
    returned.

    The study measures what this attack misses; to attack, use :func:`physadv.attacks.gradient.pgd`.

    Args:
        model: Classifier: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        eps: Radius of the l_inf ball, in units of [0, 1].
        steps: Number of steps.
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
