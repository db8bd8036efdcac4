"""The gallery of masked gradients: defenses that look robust to a plain attack, each beside those
that see through it.

After Athalye et al. (2018), Carlini et al. (2019) and Tramer et al. (2020). These are small honest
versions: each has the mechanism of its paper, none its training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from physadv.attacks._classifier_step import Classifier
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
Part = Callable[[Tensor], Tensor]
DRAWS, WIDE = 8, 50
TEXTBOOK = "PGD on it as deployed"


@dataclass(frozen=True)
class MaskedDefense:
    """One defense: ``defended`` as deployed, ``adaptive`` with the same verdicts and its gradient
    laid open.

    ``hides`` says how the gradient is hidden, ``remedy`` how it is found, ``loss`` what the
    adaptive attack climbs. ``random`` defenses are judged by their share of right verdicts over
    fresh draws. One that ``rejects`` has a last logit for it: wrong for a clean image, and no
    success for an attack. ``labels_only``: scores say nothing.

    ``plain`` is the attack its authors judged it by, in the words of ``plain_is``; without one it
    is textbook PGD on the deployed defense. ``further`` attacks try what the first adaptive one
    leaves. Where ``pixels`` is above 0 the threat is that many pixels changed at will, as in its
    paper, and not ``eps``.
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
    """Which images (b,) bool the deployed defense still reads rightly: clean, under the plain
    attack, under the adaptive ones, under the black box alone (None: not run), and under all of
    them."""

    clean: Tensor
    plain: Tensor
    gradient: Tensor
    black_box: Tensor | None

    @property
    def real(self) -> Tensor:
        """Right whatever was tried."""
        left = self.clean & self.plain & self.gradient
        return left if self.black_box is None else left & self.black_box


@dataclass(frozen=True)
class MaskingMeasurement:
    """Accuracy (with n and interval) clean, under the plain attack and under all of them, in the
    same threat."""

    name: str
    remedy: str
    clean: RateInterval
    plain: RateInterval
    adaptive: RateInterval

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def masked_defenses(
    model: nn.Module, images: Tensor, labels: Tensor, *, classes: int
) -> list[MaskedDefense]:
    """Every defense around ``model``, a classifier of (b, c, h, w) in [0, 1].

    ``images`` and ``labels`` fit the generative classifier, which stands on its own.
    k-winners-take-all is left out where the victim has no ReLU module.
    """
    found = [
        one_hot_defense(model),
        saturated_softmax_defense(model),
        thermometer_defense(model),
        staircase_defense(model),
        sparse_recovery_defense(model, images),
    ]
    found += [
        random_resizing_defense(model),
        matrix_completion_defense(model),
        generative_defense(images, labels, classes=classes),
    ]
    return (
        [*found, k_winners_defense(model)]
        if any(isinstance(m, nn.ReLU) for m in model.modules())
        else found
    )


def one_hot_defense(model: Classifier) -> MaskedDefense:
    """Labels alone are given out. Whoever has the net reads the logits behind them."""
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
    """Logits so large that softmax is exactly 0 and 1, as defensive distillation makes them
    (Papernot et al. 2016)."""
    hot = obfuscations.ScaledLogits(model, factor)
    return MaskedDefense(
        "saturated softmax",
        "Papernot 2016",
        "float underflow",
        "scale-free loss",
        hot,
        model,
        loss="margin",
    )


def thermometer_defense(model: Classifier, levels: int = 16) -> MaskedDefense:
    """Pixels pass through a thermometer code."""
    part = partial(obfuscations.thermometer_quantize, levels=levels)
    return _preprocessed("thermometer code", "Buckman 2018", "quantisation", model, part)


def staircase_defense(model: Classifier, levels: int = 16) -> MaskedDefense:
    """Pixels pass through a deep smooth map whose slope vanishes or explodes."""
    part = partial(obfuscations.staircase_map, levels=levels)
    return _preprocessed(
        "very deep purifier",
        "PixelDefend, Song 2018",
        "vanishing and exploding slopes",
        model,
        part,
    )


def sparse_recovery_defense(
    model: Classifier, like: Tensor, *, kept: float = 0.1, pixels: float = 0.025
) -> MaskedDefense:
    """Iterative hard thresholding against a few spoiled pixels; shares are of the pixels of images
    ``like`` (.., h, w).

    Its authors attacked the net without the correction (JSMA, l_0 Carlini-Wagner) and corrected the
    result. The solver is a dozen lines of products and top-k: its own gradient is there for the
    asking.
    """
    size = like.shape[-2] * like.shape[-1]
    budget = max(1, round(pixels * size))
    part = partial(obfuscations.hard_threshold, kept=max(1, round(kept * size)), spoiled=budget)
    defended = _PreprocessedModel(model, part)
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
    """A random size and place each time, on ``fill``.

    Its authors let the attacker know the net, not the random layer ("vanilla"), and counted
    DeepFool among the attacks.
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
    """Pixels are dropped at random and filled by low rank."""
    defended = _PreprocessedModel(model, lambda x: obfuscations.complete_matrix(x).detach() + 0 * x)
    open_one = _PreprocessedModel(model, bpda(obfuscations.complete_matrix))
    return MaskedDefense(
        "matrix completion",
        "ME-Net, Yang 2019",
        "randomness and an iterated solver",
        "bpda + eot",
        defended,
        expectation_model(open_one, draws=DRAWS),
        random=True,
    )


def k_winners_defense(model: nn.Module, share: float = 0.4) -> MaskedDefense:
    """k-winners-take-all activations in the place of a trained net's ReLU."""
    return trained_k_winners_defense(
        obfuscations.with_k_winners(model, share, adaptive=False).eval(), share
    )


def trained_k_winners_defense(net: nn.Module, share: float = 0.2) -> MaskedDefense:
    """A net that was trained with k-winners-take-all. Its slope is averaged over noise, and
    estimated from differences over many small changes (Tramer et al. 2020)."""
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
    """Class-conditional Gaussians fitted to ``images``."""
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
    """``model`` on the output of ``part``."""

    def __init__(self, model: Classifier, part: Part) -> None:
        super().__init__()
        self.model, self.part = model, part

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        return self.model(self.part(images))


def asymmetric_defense(model: Classifier, detectors: Classifier, threshold: float) -> MaskedDefense:
    """A detector a class, trained adversarially, must agree with the classifier."""
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
    """A net trained on the thermometer code itself: ``net`` takes (b, c * levels, h, w)."""
    code = partial(obfuscations.thermometer_code, levels=levels)
    adaptive = _PreprocessedModel(
        net, bpda(code, partial(obfuscations.soft_thermometer_code, levels=levels))
    )
    return MaskedDefense(
        "thermometer code",
        "Buckman 2018",
        "quantisation",
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
    """The shares of :func:`attack_defense`; the adaptive one counts what any of the attacks broke."""
    found = attack_defense(masked, images, labels, eps=eps, steps=steps, seed=seed, queries=queries)
    shares = [
        wilson_interval(int(r.sum()), len(labels))
        for r in (found.clean, found.clean & found.plain, found.real)
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
    """Attack the deployed defense by the plain attack, then by its adaptive ones.

    Textbook PGD and the first adaptive attack both start at the image itself, so that the
    difference is the gradient's alone; all adversarial images are judged by the deployed defense.
    With ``queries`` a black box (Square, RayS where labels alone are given out, random search over
    pixels) is tried too; random defenses, asked for several draws a query, get a quarter of them.
    The caller's global generator stays as it was.
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
            masked, _adaptive(masked, images, labels, eps, steps, seed), labels, seed, attacked=True
        )
        for attack in masked.further:
            left = (clean & plain & adaptive).nonzero()[:, 0]
            if len(left):
                moved = attack(images[left], labels[left], eps=eps, steps=steps, seed=seed)
                adaptive[left] = correct_verdicts(masked, moved, labels[left], seed, attacked=True)
        if not queries:
            return SurvivingImages(clean, plain, adaptive, None)
        moved = _black_box(
            masked, images, labels, eps, queries // 4 if masked.random else queries, seed
        )
    return SurvivingImages(
        clean, plain, adaptive, correct_verdicts(masked, moved, labels, seed, attacked=True)
    )


def _adaptive(
    masked: MaskedDefense, images: Tensor, labels: Tensor, eps: float, steps: int, seed: int
) -> Tensor:
    """The best the adaptive counterpart's gradient finds: untargeted, or towards each of up to nine
    nearest classes."""
    options: dict[str, Any] = {
        "eps": eps,
        "steps": steps,
        "random_start": False,
        "speed": "plain",
        "seed": seed,
    }
    if masked.pixels:
        return saliency_attack(masked.adaptive, images, labels, pixels=masked.pixels).images
    if not masked.rejects:
        return pgd(masked.adaptive, images, labels, loss=masked.loss, **options).images
    with torch.no_grad():
        logits = masked.defended(images)[:, :-1].scatter(1, labels[:, None], -torch.inf)
    best, done = images.clone(), torch.zeros(len(images), dtype=torch.bool)
    for targets in logits.topk(min(9, logits.shape[1] - 1), 1).indices.T:
        found = pgd(
            masked.adaptive,
            images,
            labels,
            targets=targets.contiguous(),
            loss=masked.loss,
            **options,
        )
        best[found.success & ~done] = found.images[found.success & ~done]
        done |= found.success
    return best


def _black_box(
    masked: MaskedDefense, images: Tensor, labels: Tensor, eps: float, queries: int, seed: int
) -> Tensor:
    asked: Classifier = (
        expectation_model(masked.defended, draws=DRAWS // 2, seed=seed)
        if masked.random
        else masked.defended
    )
    if masked.rejects:
        asked = _Scores(masked.adaptive)
    if masked.pixels:
        return sparse_search(
            asked, images, labels, pixels=masked.pixels, queries=queries, seed=seed
        ).images
    if masked.labels_only:
        return rays(asked, images, labels, eps=eps, queries=queries).images
    return square_attack(asked, images, labels, eps=eps, queries=queries, seed=seed).images


class _Scores(nn.Module):
    """The numbers of a rejecting defense with the rejection left out: a search climbs towards
    acceptance."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(b, classes), 0 at least for none."""
        return self.model(images)[:, :-1]


@torch.no_grad()
def correct_verdicts(
    masked: MaskedDefense, images: Tensor, labels: Tensor, seed: int, *, attacked: bool = False
) -> Tensor:
    """(b,) bool: the deployed defense reads the image rightly; a random one in most of 9 fresh
    draws.

    An ``attacked`` image that is rejected counts as right: the attack did not get through.
    """
    if not masked.random:
        verdicts = masked.defended(images).argmax(1)
        rejected = verdicts == masked.defended(images[:1]).shape[1] - 1
        return (
            (verdicts == labels) | rejected if masked.rejects and attacked else verdicts == labels
        )
    draws = expectation_model(masked.defended, draws=9, seed=seed + 1).eot_draws()
    return torch.stack([draw(images).argmax(1) == labels for draw in draws]).float().mean(0) > 0.5


def _preprocessed(
    name: str, paper: str, hides: str, model: Classifier, part: Part
) -> MaskedDefense:
    return MaskedDefense(
        name,
        paper,
        hides,
        "bpda",
        _PreprocessedModel(model, part),
        _PreprocessedModel(model, bpda(part)),
    )
