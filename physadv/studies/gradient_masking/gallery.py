"""Gallery of masked gradients: defenses that look robust to a plain attack, each with the attacks
that break it.

After Athalye et al. (2018), Carlini et al. (2019) and Tramer et al. (2020). Each defense is a small
version with the mechanism of its paper, without its training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from physadv.attacks._classifier_step import Classifier
from physadv.attacks._guarded_model import guarded
from physadv.attacks.decision_based import rays
from physadv.attacks.gradient import pgd
from physadv.attacks.obfuscated import bpda, expectation_model
from physadv.attacks.score_based import square_attack
from physadv.attacks.sparse import saliency_attack, sparse_search
from physadv.core.random_streams import derive
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.studies.gradient_masking import obfuscations
from physadv.studies.gradient_masking.adaptive_attacks import (
    AdaptiveAttack,
    DeepFoolAttack,
    JointLossAttack,
    MarginAttack,
    SaliencyAttack,
    TextbookAttack,
)
from physadv.studies.gradient_masking.asymmetric_training import (
    GuardedClassifier,
    JointMarginClassifier,
)

Remedy = Literal[
    "bpda",
    "eot",
    "bpda + eot",
    "logits",
    "scale-free loss",
    "one loss for both",
    "the solver's own gradient",
    "none needed",
]
Transform = Callable[[Tensor], Tensor]
DRAWS, WIDE = 8, 50
"""Draws of expectation over transformation, and pairs of estimated gradients."""
TEXTBOOK = "PGD on it as deployed"


@dataclass(frozen=True)
class MaskedDefense:
    """One defense: ``defended`` as deployed, ``adaptive`` with the same predictions and a usable
    gradient.

    Attributes:
        name: Name in tables.
        paper: Authors and year.
        hides: Mechanism that hides the gradient.
        remedy: How the gradient is recovered.
        defended: Classifier as deployed.
        adaptive: Classifier with the same predictions, for gradients.
        loss: Loss of the adaptive attack, "ce" or "margin".
        random: Whether predictions are random; then the majority over fresh draws counts.
        rejects: Whether the last logit is a rejection: wrong for a clean image, and no success for
            an attack.
        labels_only: Whether scores carry no information.
        plain: Attack that the authors used; None for textbook PGD on the deployed defense.
        plain_is: Description of ``plain``.
        further: Attacks for what the first adaptive one leaves.
        pixels: Where above 0, the threat is this number of pixels changed at will, as in the paper,
            and not an l_inf ball.
    """

    name: str
    paper: str
    hides: str
    remedy: Remedy
    defended: Classifier
    adaptive: Classifier
    loss: Literal["ce", "margin"] = "ce"
    random: bool = False
    rejects: bool = False
    labels_only: bool = False
    plain: AdaptiveAttack | None = None
    plain_is: str = TEXTBOOK
    further: tuple[AdaptiveAttack, ...] = ()
    pixels: int = 0


@dataclass(frozen=True)
class SurvivingImages:
    """Images (b,), bool, that the deployed defense still classifies correctly under each attack.

    Attributes:
        clean: Without an attack.
        plain: Under the plain attack.
        gradient: Under the adaptive attacks.
        black_box: Under the black-box attack alone; None where it was not run.
    """

    clean: Tensor
    plain: Tensor
    gradient: Tensor
    black_box: Tensor | None

    @property
    def real(self) -> Tensor:
        """Images correct under all attacks."""
        survived = self.clean & self.plain & self.gradient
        return survived if self.black_box is None else survived & self.black_box


@dataclass(frozen=True)
class MaskingMeasurement:
    """Accuracy (with n and interval) clean, under the plain attack and under all attacks, in the
    same threat."""

    name: str
    remedy: str
    clean: RateInterval
    plain: RateInterval
    adaptive: RateInterval

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def masked_defenses(
    model: nn.Module, images: Tensor, labels: Tensor, *, classes: int
) -> list[MaskedDefense]:
    """Build every defense of the gallery around one classifier.

    k-winners-take-all is left out where the model has no ReLU module.

    Args:
        model: Classifier: images (b, c, h, w) in [0, 1] to logits (b, classes).
        images: Images that the generative classifier is fitted to, which does not use ``model``.
        labels: Their classes.
        classes: Number of classes.
    """
    defenses = [
        one_hot_defense(model),
        saturated_softmax_defense(model),
        thermometer_defense(model),
        staircase_defense(model),
        sparse_recovery_defense(model, images),
        random_resizing_defense(model),
        matrix_completion_defense(model),
        generative_defense(images, labels, classes=classes),
    ]
    if any(isinstance(m, nn.ReLU) for m in model.modules()):
        defenses.append(k_winners_defense(model))
    return defenses


def one_hot_defense(model: Classifier) -> MaskedDefense:
    """Return a defense of ``model`` that gives out labels alone; an attacker who has the network
    reads the logits."""
    return MaskedDefense(
        "one-hot output",
        "label-only APIs",
        "argmax",
        "logits",
        obfuscations.OneHotOutput(model),
        model,
        labels_only=True,
    )


def saturated_softmax_defense(model: Classifier, factor: float = 1e5) -> MaskedDefense:
    """Return a defense that scales the logits of ``model`` by ``factor``, so that softmax is
    exactly 0 and 1.

    Defensive distillation saturates them the same way (Papernot et al. 2016).
    """
    scaled = obfuscations.ScaledLogits(model, factor)
    return MaskedDefense(
        "saturated softmax",
        "Papernot 2016",
        "float underflow",
        "scale-free loss",
        scaled,
        model,
        loss="margin",
    )


def thermometer_defense(model: Classifier, levels: int = 16) -> MaskedDefense:
    """Return a defense that quantizes pixels to a thermometer code of ``levels`` before ``model``
    (Buckman et al. 2018)."""
    transform = partial(obfuscations.thermometer_quantize, levels=levels)
    return _preprocessed("thermometer code", "Buckman 2018", "quantization", model, transform)


def staircase_defense(model: Classifier, levels: int = 16) -> MaskedDefense:
    """Return a defense that passes pixels through a deep smooth map to ``levels`` steps before
    ``model``.

    Its slope vanishes or explodes, as in PixelDefend (Song et al. 2018).
    """
    transform = partial(obfuscations.staircase_map, levels=levels)
    return _preprocessed(
        "very deep purifier",
        "PixelDefend, Song 2018",
        "vanishing and exploding slopes",
        model,
        transform,
    )


def sparse_recovery_defense(
    model: Classifier, like: Tensor, *, kept: float = 0.1, pixels: float = 0.025
) -> MaskedDefense:
    """Return a defense by iterative hard thresholding against a few corrupted pixels (Bafna et al.
    2018).

    Its authors attacked the network without the correction (JSMA, l_0 Carlini-Wagner) and corrected
    the result. The solver is a short chain of products and top-k, so its own gradient is available.

    Args:
        model: Classifier.
        like: Images (..., h, w) whose size decides the counts.
        kept: Share of cosine coefficients kept.
        pixels: Share of pixels that the attacker may change.
    """
    size = like.shape[-2] * like.shape[-1]
    budget = max(1, round(pixels * size))
    transform = partial(
        obfuscations.hard_threshold, kept=max(1, round(kept * size)), spoiled=budget
    )
    defended = _PreprocessedModel(model, transform)
    return MaskedDefense(
        "sparse Fourier recovery",
        "Bafna 2018",
        "a solver that no gradient was sent through",
        "the solver's own gradient",
        defended,
        defended,
        plain=SaliencyAttack(model, budget),
        pixels=budget,
        plain_is="greedy pixels (JSMA) on the net without the solver",
    )


def random_resizing_defense(
    model: Classifier, most: float = 1.3, fill: float = 0.5
) -> MaskedDefense:
    """Return a defense by random resizing and placement (Xie et al. 2018).

    Its authors let the attacker have the network, not the random layer ("vanilla"), and used
    DeepFool among other attacks.

    Args:
        model: Classifier.
        most: Largest factor by which images shrink.
        fill: Value in [0, 1] of the border.
    """
    defended = _PreprocessedModel(model, partial(obfuscations.random_resize, most=most, fill=fill))
    return MaskedDefense(
        "random resizing",
        "Xie 2018",
        "randomness",
        "eot",
        defended,
        expectation_model(defended, draws=4 * DRAWS),
        random=True,
        plain=DeepFoolAttack(model),
        plain_is="DeepFool on the net without the random layer",
        further=(TextbookAttack(model),),
    )


def matrix_completion_defense(model: Classifier) -> MaskedDefense:
    """Return a defense of ``model`` that drops pixels at random and fills them by low rank (ME-Net,
    Yang et al. 2019)."""
    defended = _PreprocessedModel(model, lambda x: obfuscations.complete_matrix(x).detach() + 0 * x)
    adaptive = _PreprocessedModel(model, bpda(obfuscations.complete_matrix))
    return MaskedDefense(
        "matrix completion",
        "ME-Net, Yang 2019",
        "randomness and an iterated solver",
        "bpda + eot",
        defended,
        expectation_model(adaptive, draws=DRAWS),
        random=True,
    )


def k_winners_defense(model: nn.Module, share: float = 0.4) -> MaskedDefense:
    """Return a defense of ``model`` with its ReLUs replaced by k-winners-take-all of ``share``
    (Xiao et al. 2020)."""
    return trained_k_winners_defense(
        obfuscations.with_k_winners(model, share, adaptive=False).eval(), share
    )


def trained_k_winners_defense(net: nn.Module, share: float = 0.2) -> MaskedDefense:
    """Return a defense of ``net`` that was trained with k-winners-take-all of ``share``.

    Its gradient is averaged over noise, and estimated from differences over many small changes
    (Tramer et al. 2020).
    """
    adaptive = expectation_model(
        obfuscations.NoisyModel(obfuscations.with_k_winners(net, share, adaptive=True).eval()),
        draws=DRAWS,
    )
    return MaskedDefense(
        "k winners take all",
        "Xiao 2020",
        "slopes that jump",
        "bpda + eot",
        net,
        adaptive,
        further=(MarginAttack(net), MarginAttack(net, pairs=WIDE)),
    )


def generative_defense(images: Tensor, labels: Tensor, *, classes: int) -> MaskedDefense:
    """Return a defense by class-conditional Gaussians (Schott et al. 2019).

    Args:
        images: Images (n, c, h, w) to fit.
        labels: Their classes (n,).
        classes: Number of classes.
    """
    net = obfuscations.GaussianClassifier(images, labels, classes=classes).eval()
    return MaskedDefense(
        "generative classifier",
        "Schott 2019",
        "likelihoods that saturate softmax",
        "scale-free loss",
        net,
        net,
        loss="margin",
    )


class _PreprocessedModel(nn.Module):
    """A classifier behind an image transform."""

    def __init__(self, model: Classifier, transform: Transform) -> None:
        super().__init__()
        self.model, self.transform = model, transform

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (b, classes) of transformed images."""
        return self.model(self.transform(images))


def asymmetric_defense(model: Classifier, detectors: Classifier, threshold: float) -> MaskedDefense:
    """Return a defense in which an adversarially trained detector a class must accept the
    prediction (Yin et al. 2020).

    Args:
        model: Classifier.
        detectors: Network with one detector logit a class.
        threshold: Logit from which a detector accepts.
    """
    return MaskedDefense(
        "asymmetric adversarial training",
        "Yin 2020",
        "an attack on the classifier alone is rejected",
        "one loss for both",
        GuardedClassifier(model, detectors, threshold),
        JointMarginClassifier(model, detectors, threshold),
        loss="margin",
        rejects=True,
        further=(JointLossAttack(model, detectors, threshold),),
    )


def thermometer_net_defense(net: Classifier, levels: int = 16) -> MaskedDefense:
    """Return a defense of ``net`` that was trained on a thermometer code of ``levels``: (b, c *
    levels, h, w) to logits."""
    code = partial(obfuscations.thermometer_code, levels=levels)
    adaptive = _PreprocessedModel(
        net, bpda(code, partial(obfuscations.soft_thermometer_code, levels=levels))
    )
    return MaskedDefense(
        "thermometer code",
        "Buckman 2018",
        "quantization",
        "bpda",
        _PreprocessedModel(net, code),
        adaptive,
    )


def measure_masking(
    masked: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 20,
    seed: int = 0,
    queries: int = 0,
) -> MaskingMeasurement:
    """Return accuracy clean, under the plain attack and under all attacks.

    Args:
        masked: Defense to measure.
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        eps: Radius of the l_inf ball, in units of [0, 1].
        steps: Steps of iterative attacks.
        seed: Seed of random draws.
        queries: Queries of a black-box attack; 0 runs none.
    """
    outcome = attack_defense(
        masked, images, labels, eps=eps, steps=steps, seed=seed, queries=queries
    )
    shares = [
        wilson_interval(int(survived.sum()), len(labels))
        for survived in (outcome.clean, outcome.clean & outcome.plain, outcome.real)
    ]
    return MaskingMeasurement(masked.name, masked.remedy, *shares)


def attack_defense(
    masked: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 20,
    seed: int = 0,
    queries: int = 0,
) -> SurvivingImages:
    """Attack the deployed defense with the plain attack, then with its adaptive ones.

    Textbook PGD and the first adaptive attack both start at the image itself, so that they differ
    in the gradient alone. All adversarial images are judged by the deployed defense. The global
    random generator is left as it was.

    Args:
        masked: Defense to attack.
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        eps: Radius of the l_inf ball, in units of [0, 1].
        steps: Steps of iterative attacks.
        seed: Seed of random draws.
        queries: Queries of a black-box attack (Square; RayS for labels alone; random search over
            pixels); 0 runs none. Random defenses get a quarter, as each query takes several draws.

    Returns:
        Images that survive each kind of attack.

    Example:
        >>> import torch
        >>> from physadv.studies.gradient_masking.gallery import attack_defense, one_hot_defense
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> net = net.requires_grad_(False)
        >>> images = torch.rand(8, 3, 2, 2)
        >>> outcome = attack_defense(one_hot_defense(net), images, net(images).argmax(1), eps=1.0)
        >>> int(outcome.plain.sum()), int(outcome.gradient.sum()) < 8
        (8, True)
    """
    clean = correct_verdicts(masked, images, labels, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "masked", masked.name))

        first = masked.plain or TextbookAttack(masked.defended)
        plain = correct_verdicts(
            masked,
            first(images, labels, eps=eps, steps=steps, seed=seed),
            labels,
            seed,
            attacked=True,
        )

        adaptive = correct_verdicts(
            masked,
            adaptive_images(masked, images, labels, eps=eps, steps=steps, seed=seed),
            labels,
            seed,
            attacked=True,
        )

        for attack in masked.further:
            rest = (clean & plain & adaptive).nonzero()[:, 0]
            if len(rest):
                moved = attack(images[rest], labels[rest], eps=eps, steps=steps, seed=seed)
                adaptive[rest] = correct_verdicts(masked, moved, labels[rest], seed, attacked=True)

        if not queries:
            return SurvivingImages(clean, plain, adaptive, None)
        per_image = queries // 4 if masked.random else queries
        moved = black_box_images(masked, images, labels, eps=eps, queries=per_image, seed=seed)
    return SurvivingImages(
        clean, plain, adaptive, correct_verdicts(masked, moved, labels, seed, attacked=True)
    )


def adaptive_images(
    masked: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    seed: int,
    random_start: bool = False,
) -> Tensor:
    """Return the best images that the adaptive gradient finds: untargeted, or towards each of up to
    nine likely classes where a rejection is no success.

    Args:
        masked: Defense to attack.
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        eps: Radius of the l_inf ball, in units of [0, 1].
        steps: Steps of PGD.
        seed: Seed of random draws.
        random_start: Whether PGD begins at a random point of the ball, not at the image itself.
    """
    options: dict[str, Any] = {
        "eps": eps,
        "steps": steps,
        "random_start": random_start,
        "speed": "plain",
        "seed": seed,
    }

    if masked.pixels:
        return saliency_attack(
            guarded(masked.adaptive), images, labels, pixels=masked.pixels
        ).images
    if not masked.rejects:
        return pgd(guarded(masked.adaptive), images, labels, loss=masked.loss, **options).images
    with torch.no_grad():
        logits = masked.defended(images)[:, :-1].scatter(1, labels[:, None], -torch.inf)

    # A rejection is no success, so each likely class is tried as a target.
    best, success = images.clone(), torch.zeros(len(images), dtype=torch.bool)
    for targets in logits.topk(min(9, logits.shape[1] - 1), 1).indices.T:
        result = pgd(
            guarded(masked.adaptive),
            images,
            labels,
            targets=targets.contiguous(),
            loss=masked.loss,
            **options,
        )
        best[result.success & ~success] = result.images[result.success & ~success]
        success |= result.success
    return best


def black_box_images(
    masked: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    queries: int,
    seed: int,
) -> Tensor:
    """Return the best images of a search without gradients: Square, RayS for labels alone, or a
    random search over pixels.

    Args:
        masked: Defense to attack.
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        eps: Radius of the l_inf ball, in units of [0, 1].
        queries: Queries for each image.
        seed: Seed of random draws.
    """
    model: Classifier = masked.defended
    if masked.random:
        model = expectation_model(masked.defended, draws=DRAWS // 2, seed=seed)

    if masked.pixels:
        return sparse_search(
            guarded(model), images, labels, pixels=masked.pixels, queries=queries, seed=seed
        ).images
    if masked.labels_only:
        return rays(guarded(model), images, labels, eps=eps, queries=queries).images
    if not masked.rejects:
        return square_attack(
            guarded(model), images, labels, eps=eps, queries=queries, seed=seed
        ).images

    # A rejection is no success: climb towards the acceptance of any other class. Which number is
    # left out depends on the label, so each class is searched by itself.
    best = images.clone()
    for label in sorted(set(labels.tolist())):
        own = (labels == label).nonzero()[:, 0]
        accepted = _OtherAcceptance(masked.adaptive, label)
        rejected = torch.full_like(own, accepted(images[:1]).shape[1] - 1)
        best[own] = square_attack(
            guarded(accepted), images[own], rejected, eps=eps, queries=queries, seed=seed
        ).images
    return best


class _OtherAcceptance(nn.Module):
    """The joint margins of a rejecting defense, the rejection last, without those of one class."""

    def __init__(self, model: Classifier, left_out: int) -> None:
        super().__init__()
        self.model, self.left_out = model, left_out

    def forward(self, images: Tensor) -> Tensor:
        """Return the joint margins (b, classes) of ``images``."""
        joint = self.model(images)
        return torch.cat((joint[:, : self.left_out], joint[:, self.left_out + 1 :]), 1)


@torch.no_grad()
def correct_verdicts(
    masked: MaskedDefense, images: Tensor, labels: Tensor, seed: int, *, attacked: bool = False
) -> Tensor:
    """Return (b,) bool whether the deployed defense classifies images correctly.

    A random defense must do so in most of 9 fresh draws.

    Args:
        masked: Defense.
        images: Images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        seed: Seed of the draws.
        attacked: Whether a rejection counts as correct, since the attack failed.
    """
    if not masked.random:
        predicted = masked.defended(images).argmax(1)
        correct = predicted == labels
        if masked.rejects and attacked:
            correct |= predicted == masked.defended(images[:1]).shape[1] - 1
        return correct

    draws = expectation_model(masked.defended, draws=9, seed=seed + 1).eot_draws()
    return torch.stack([draw(images).argmax(1) == labels for draw in draws]).float().mean(0) > 0.5


def _preprocessed(
    name: str, paper: str, hides: str, model: Classifier, transform: Transform
) -> MaskedDefense:
    return MaskedDefense(
        name,
        paper,
        hides,
        "bpda",
        _PreprocessedModel(model, transform),
        _PreprocessedModel(model, bpda(transform)),
    )
