"""The gallery of masked gradients: defences that look robust to plain PGD, each beside the attack that sees through it.

After Athalye et al. (2018), Carlini et al. (2019) and Tramer et al. (2020). These are small honest versions: each has
the mechanism of its paper, none its training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks.gradient import pgd
from physadv.attacks.logits import Classifier
from physadv.attacks.wrappers import bpda, eot
from physadv.core.seeds import derive
from physadv.defences import hiding
from physadv.evaluation.intervals import Rate, wilson

Remedy = Literal["bpda", "eot", "bpda + eot", "logits", "scale-free loss"]
Part = Callable[[Tensor], Tensor]
DRAWS = 8


@dataclass(frozen=True)
class Masked:
    """One defence: ``defended`` as deployed, ``adaptive`` with the same verdicts and its gradient laid open.

    ``hides`` says how the gradient is hidden, ``remedy`` how it is found, ``loss`` what the adaptive attack climbs.
    ``random`` defences are judged by their share of right verdicts over fresh draws.
    """

    name: str
    paper: str
    hides: str
    remedy: Remedy
    defended: Classifier
    adaptive: Classifier
    loss: Literal["ce", "margin"] = "ce"
    random: bool = False


@dataclass(frozen=True)
class Unmasked:
    """Accuracy (with n and interval) clean, under plain PGD and under the adaptive attack at the same eps and steps."""

    name: str
    remedy: str
    clean: Rate
    plain: Rate
    adaptive: Rate

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def gallery(victim: nn.Module, images: Tensor, labels: Tensor, *, classes: int) -> list[Masked]:
    """Every defence around ``victim``, a classifier of (b, c, h, w) in [0, 1].

    ``images`` and ``labels`` fit the generative classifier, which stands on its own. k-winners-take-all is left out
    where the victim has no ReLU module.
    """
    found = [one_hot(victim), confident(victim), thermometer(victim), staircase(victim), fourier(victim)]
    found += [resized(victim), matrix_completion(victim), generative(images, labels, classes=classes)]
    return [*found, winners(victim)] if any(isinstance(m, nn.ReLU) for m in victim.modules()) else found


def one_hot(victim: Classifier) -> Masked:
    """Labels alone are given out. Whoever has the net reads the logits behind them."""
    return Masked("one-hot output", "label-only APIs", "argmax", "logits", hiding.OneHot(victim), victim)


def confident(victim: Classifier, factor: float = 1e5) -> Masked:
    """Logits so large that softmax is exactly 0 and 1, as defensive distillation makes them (Papernot et al. 2016)."""
    hot = hiding.Scaled(victim, factor)
    return Masked(
        "saturated softmax", "Papernot 2016", "float underflow", "scale-free loss", hot, victim, loss="margin"
    )


def thermometer(victim: Classifier, levels: int = 16) -> Masked:
    """Pixels pass through a thermometer code."""
    part = partial(hiding.thermometer, levels=levels)
    return _preprocessed("thermometer code", "Buckman 2018", "quantisation", victim, part)


def staircase(victim: Classifier, levels: int = 16) -> Masked:
    """Pixels pass through a deep smooth map whose slope vanishes or explodes."""
    part = partial(hiding.staircase, levels=levels)
    return _preprocessed("very deep purifier", "PixelDefend, Song 2018", "vanishing and exploding slopes", victim, part)


def fourier(victim: Classifier, share: float = 0.1) -> Masked:
    """Weak Fourier coefficients are removed."""
    part = partial(hiding.sparse_fourier, share=share)
    return _preprocessed("Fourier sparsification", "Bafna 2018", "hard threshold", victim, part)


def resized(victim: Classifier, most: float = 1.15) -> Masked:
    """A random size and place each time."""
    defended = Behind(victim, lambda x: hiding.random_resize(x, most))
    return Masked("random resizing", "Xie 2018", "randomness", "eot", defended, eot(defended, draws=DRAWS), random=True)


def matrix_completion(victim: Classifier) -> Masked:
    """Pixels are dropped at random and filled by low rank."""
    defended = Behind(victim, lambda x: hiding.completed(x).detach() + 0 * x)
    open_one = Behind(victim, bpda(hiding.completed))
    return Masked(
        "matrix completion", "ME-Net, Yang 2019", "randomness and an iterated solver", "bpda + eot", defended,
        eot(open_one, draws=DRAWS), random=True,
    )  # fmt: skip


def winners(victim: nn.Module, share: float = 0.4) -> Masked:
    """k-winners-take-all activations."""
    plain, adaptive = (hiding.with_winners(victim, share, adaptive=a).eval() for a in (False, True))
    return Masked("k winners take all", "Xiao 2020", "slopes that jump", "bpda", plain, adaptive)


def generative(images: Tensor, labels: Tensor, *, classes: int) -> Masked:
    """Class-conditional Gaussians fitted to ``images``."""
    model = hiding.Gaussians(images, labels, classes=classes).eval()
    return Masked(
        "generative classifier", "Schott 2019", "likelihoods that saturate softmax", "scale-free loss", model, model,
        loss="margin",
    )  # fmt: skip


class Behind(nn.Module):
    """``victim`` on the output of ``part``."""

    def __init__(self, victim: Classifier, part: Part) -> None:
        super().__init__()
        self.victim, self.part = victim, part

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        return self.victim(self.part(images))


def unmask(
    masked: Masked, images: Tensor, labels: Tensor, *, eps: float, steps: int = 20, seed: int = 0
) -> Unmasked:  # fmt: skip
    """Attack the deployed defence by textbook PGD in l_inf, then by PGD through its adaptive counterpart.

    Both start at the image itself, so that the difference is the gradient's alone; adversarial images of either are
    judged by the deployed defence. The adaptive share also counts what textbook PGD broke. The caller's global
    generator stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "masked", masked.name))
        plain = textbook_pgd(masked.defended, images, labels, eps=eps, steps=steps)
    adaptive = pgd(
        masked.adaptive, images, labels, eps=eps, steps=steps, random_start=False, speed="plain", loss=masked.loss,
        seed=seed,
    )  # fmt: skip
    clean = right(masked, images, labels, seed)
    left = right(masked, plain, labels, seed) & clean
    after = right(masked, adaptive.images, labels, seed) & left
    shares = [wilson(int(r.sum()), len(labels)) for r in (clean, left, after)]
    return Unmasked(masked.name, masked.remedy, *shares)


def textbook_pgd(victim: Classifier, images: Tensor, labels: Tensor, *, eps: float, steps: int) -> Tensor:
    """PGD as it is most often written: the sign of the gradient of the cross entropy, the last iterate returned.

    What it cannot see is what the gallery is about; attack with :func:`physadv.attacks.gradient.pgd` instead.
    """
    x = images.clone()
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        loss = F.cross_entropy(victim(x), labels, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x)
        x = x.detach() + 2.5 * eps / steps * grad.sign()
        x = torch.maximum(torch.minimum(x, images + eps), images - eps).clamp(0, 1)
    return x.detach()


@torch.no_grad()
def right(masked: Masked, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """(b,) bool: the deployed defence reads the image rightly; a random one in most of 9 fresh draws."""
    if not masked.random:
        return masked.defended(images).argmax(1) == labels
    draws = eot(masked.defended, draws=9, seed=seed + 1).eot_draws()
    return torch.stack([draw(images).argmax(1) == labels for draw in draws]).float().mean(0) > 0.5


def _preprocessed(name: str, paper: str, hides: str, victim: Classifier, part: Part) -> Masked:
    return Masked(name, paper, hides, "bpda", Behind(victim, part), Behind(victim, bpda(part)))
