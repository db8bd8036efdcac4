"""Self-checks of an evaluation, each for one way in which robustness is only apparent.

They follow the lists of Athalye et al. (2018), Carlini et al. (2019) and Croce et al. (2022). A
check never raises for what it finds: it returns a :class:`Finding` that names the remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks._classifier_step import frozen_eval, modules_of
from physadv.attacks._gate import (
    OTHER_BATCH,
    check_ties,
    difference,
    in_other_batches,
    spread_of,
)
from physadv.core.errors import ModelError
from physadv.core.findings import Finding as Finding
from physadv.core.tensors import device_of
from physadv.core.types import Model
from physadv.core.wording import count_noun, format_percent
from physadv.models.black_box import black_box_within
from physadv.models.outputs import read_logits
from physadv.models.preserved_state import preserved_state


def masking_findings(
    model: Model, images: Tensor, labels: Tensor, *, eps: float, norm: str = "linf"
) -> list[Finding]:
    """Run the checks that need only the model and a few images: 4 forwards and 2 gradients.

    They run in eval mode, as attacks do; modes, buffers and parameters of the model and the global
    random states stay as they are.

    Args:
        model: Model under test.
        images: Images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        eps: Radius of the threat.
        norm: Norm of the threat.

    Returns:
        The findings; empty where nothing was found.

    Raises:
        ModelError: The output is no finite logits (b, classes).
    """
    findings = [*check_images(images), *check_mode(model)]
    with preserved_state(*modules_of(model), device=images.device), frozen_eval(model):
        with torch.no_grad():
            first, second = checked_logits(model, images), checked_logits(model, images)
            other = in_other_batches(partial(checked_logits, model), images, images)
        findings += check_outputs(first)
        random = list(check_random(first, second))
        findings += random or check_batch(first, other)
        findings += check_gradients(model, images, labels, eps=eps, norm=norm)
    return findings


def checked_logits(model: Model, images: Tensor) -> Tensor:
    """Return the logits (b, classes) of ``images`` by ``model``, which gets a copy of them. Raises
    ModelError for another shape, one class, or NaN and infinity."""
    logits = read_logits(model(images.clone()), len(images)).clone()
    logits = logits if logits.is_floating_point() else logits.float()
    if not logits.isfinite().all():
        raise ModelError(
            "NaN or infinity in the logits",
            "finite values are needed",
            "check weights and normalization",
        )

    return logits


@torch.no_grad()
def count_classes(model: nn.Module, images: Tensor) -> int:
    """Return the number of classes that a model returns logits of, and check that its card agrees.

    Random parts of the model draw from a copy of the caller's generator.

    Args:
        model: The classifier.
        images: Images (b, c, h, w) in [0, 1].

    Returns:
        The number of classes, at least 2.

    Raises:
        ModelError: The output is no finite (b, classes) logits, or of another number of classes
            than the model's card names.
    """
    device = device_of(model) or images.device
    with torch.random.fork_rng():
        count = checked_logits(model, images.to(device)).shape[1]
    card = getattr(model, "card", None)
    if card is not None and card.classes and len(card.classes) != count:
        raise ModelError(
            f"{card.name}: {count} logits",
            f"its card names {count_noun(len(card.classes), 'class')}",
            "give the card one name for each logit",
        )
    return count


def check_images(images: Tensor) -> Iterator[Finding]:
    """Report ``images`` that leave [0, 1], or that were divided by 255 twice."""
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        yield Finding(
            "inputs-out-of-range",
            f"pixel values reach from {low:.3g} to {high:.3g}, outside [0, 1]",
            "Hand over images in [0, 1] and let the model normalize; eps means nothing otherwise",
        )
    elif high <= 1 / 128:
        yield Finding(
            "inputs-out-of-range",
            f"the brightest pixel is {high:.3g}",
            "The images were divided by 255 twice",
        )


def check_outputs(logits: Tensor) -> Iterator[Finding]:
    """Report ``logits`` that are probabilities, or the same for every image."""
    values = logits.double()
    sums = values.sum(1)

    if values.min() >= 0 and ((sums - 1).abs() < 1e-3).all():
        yield Finding(
            "softmax-output",
            "the outputs are probabilities (no value below 0, each row sums to 1)",
            "Return logits: softmax flattens the gradients of every attack; the ensemble here "
            "used their logarithm",
        )
    if len(values) > 1 and (values - values[:1]).abs().max() == 0:
        yield Finding(
            "constant-output",
            "all images get the same output",
            "Check the weights and the normalization",
        )
    yield from check_ties(logits)


def check_batch(first: Tensor, other: Tensor | None) -> Iterator[Finding]:
    """Report outputs ``first`` (b, classes) that are ``other`` in another composition of the batch,
    which is None for a model that takes no other."""
    if other is not None and difference(first, other) > OTHER_BATCH * spread_of(first):
        flipped = int((first.argmax(1) != other.argmax(1)).sum())
        yield Finding(
            "batch-dependent",
            "the output for an image depends on the other images of its batch "
            f"({flipped} of {len(first)} decisions flip)",
            "Make the model use no statistics of the batch; a rate holds for these batches alone",
        )


def check_random(first: Tensor, second: Tensor) -> Iterator[Finding]:
    """Report two forward passes, ``first`` and ``second``, of the same images that differ."""
    change = float((first - second).abs().max())
    if change > 1e-4 * spread_of(first):
        flipped = float((first.argmax(1) != second.argmax(1)).double().mean())
        yield Finding(
            "random-output",
            f"two forwards of the same images differ by {change:.2g} ({format_percent(flipped)} "
            "of the "
            "decisions flip)",
            "Attack the expectation (--eot-draws 16, or wrap the model in eot), and read the "
            "rate as one draw",
        )


def check_mode(model: Model) -> Iterator[Finding]:
    """Report layers of ``model`` that are in training mode."""
    if isinstance(model, nn.Module):
        kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
        active = sum(part.training for part in model.modules() if isinstance(part, kinds))
        if active:
            yield Finding(
                "training-mode",
                f"{active} batch-norm or dropout layers are in training mode",
                "Call model.eval(), as is done here: the batch and chance decide otherwise",
            )


def check_gradients(
    model: Model, images: Tensor, labels: Tensor, *, eps: float, norm: str
) -> Iterator[Finding]:
    """Report gradients that do not reach the image or are of no use.

    Args:
        model: Model under test.
        images: Images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        eps: Radius of the threat.
        norm: Norm of the threat.

    Returns:
        The findings, for the cross-entropy and for the margin.
    """
    # A pixel moves by at most 1 in each of its elements, so that in l_0 the largest slopes count.
    ball = {"linf": 1.0, "l2": 2.0, "l1": torch.inf, "l0": torch.inf}[norm]
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = checked_logits(model, leaf)
        own = logits.gather(1, labels[:, None])[:, 0]
        margin = own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        slopes = [
            _slope(loss, leaf)
            for loss in (margin, F.cross_entropy(logits, labels, reduction="none"))
        ]

    if slopes[0] is None or slopes[1] is None:
        if any(black_box_within(module) for module in modules_of(model)):
            remedy = "The model is only asked: the figure holds for black-box attacks alone"
        else:
            remedy = (
                "White-box attacks cannot run: wrap the part that cuts it (BPDA) or trust the "
                "black-box attacks alone"
            )
        yield Finding("no-gradient", "the output carries no gradient to the image", remedy)
        return

    by_margin, by_ce = slopes[0].flatten(1).double(), slopes[1].flatten(1)
    right = margin.detach() > 0
    if not right.any():
        return

    dead = ~((by_margin != 0) & by_margin.isfinite()).any(1)[right]
    flat = ~((by_ce != 0) & by_ce.isfinite()).any(1)[right] & ~dead
    reach = eps * by_margin.norm(ball, dim=1)[right] / margin.detach()[right].double()
    yield from _gradient_findings(dead, flat, reach, float(margin.detach()[right].median()))


def _slope(loss: Tensor, leaf: Tensor) -> Tensor | None:
    """Return the gradient of the summed loss at the images, None where there is no path."""
    if not loss.requires_grad:
        return None
    return torch.autograd.grad(loss.sum(), leaf, retain_graph=True, allow_unused=True)[0]


def _gradient_findings(dead: Tensor, flat: Tensor, reach: Tensor, gap: float) -> Iterator[Finding]:
    n = len(dead)
    if dead.double().mean() > 0.05:
        yield Finding(
            "zero-gradient",
            f"the gradient of the margin is zero or not finite for {int(dead.sum())} of "
            f"{count_noun(n, 'image')}",
            "A step, a clamp or a rounding hides it: use BPDA or a gradient estimate, and trust "
            "the black box more",
        )

    if flat.double().mean() > 0.05:
        yield Finding(
            "saturated-cross-entropy",
            f"cross-entropy has a gradient of exactly zero for {int(flat.sum())} of "
            f"{count_noun(n, 'image')} (median gap {gap:.3g})",
            "Use a scale-free loss (margin, dlr), as the ensemble here does; plain CE attacks "
            "would see robustness",
        )
    weak = (reach < 1e-3)[~dead]
    if len(weak) and weak.double().mean() > 0.5:
        yield Finding(
            "vanishing-gradient",
            "a first-order step of eps changes the margin by less than 0.1 % for "
            f"{int(weak.sum())} of {count_noun(n, 'image')}",
            "Gradients are masked: use BPDA, a gradient estimate or transfer, and read Square's "
            "part of the result",
        )


def check_blackbox(
    broken: Mapping[str, Sequence[bool]], white: Sequence[str], black: Sequence[str]
) -> Iterator[Finding]:
    """Report samples that a black-box attack broke and every white-box attack left.

    Args:
        broken: Outcomes by attack, on the same samples in the same order.
        white: Names of white-box attacks.
        black: Names of black-box attacks.

    Returns:
        The findings.
    """
    size = max((len(v) for v in broken.values()), default=0)
    by_white = [any(broken[name][i] for name in white if name in broken) for i in range(size)]
    for name in black:
        extra = sum(
            hit and not seen for hit, seen in zip(broken.get(name, ()), by_white, strict=False)
        )
        if extra > max(1, 0.01 * size):
            yield Finding(
                "blackbox-beats-whitebox",
                f"{name} broke {extra} of {count_noun(size, 'image')} that the gradient attacks "
                "had left whole",
                "The gradients mislead: adapt the attack to this model (BPDA, EOT, a gradient "
                "estimate)",
            )


def check_steps(
    few: Sequence[bool], many: Sequence[bool], steps: tuple[int, int]
) -> Iterator[Finding]:
    """Report an attack that breaks fewer samples in ``many`` than in ``few`` outcomes; ``steps``
    are both numbers of steps."""
    lost = sum(a and not b for a, b in zip(few, many, strict=True))
    won = sum(b and not a for a, b in zip(few, many, strict=True))
    if lost - won > max(1, 0.02 * len(few)):
        yield Finding(
            "more-steps-worse",
            f"{count_noun(steps[1], 'step')} broke {sum(many)} of "
            f"{count_noun(len(many), 'image')}, {count_noun(steps[0], 'step')} {sum(few)}",
            "The attack does not ascend: check for random output, rounding or a masked gradient",
        )


def check_unbounded(broken: Sequence[bool], eps: float) -> Iterator[Finding]:
    """Report an attack within a large ``eps`` that leaves samples: ``broken`` are its outcomes."""
    unbroken = len(broken) - sum(broken)
    if unbroken > max(0, 0.02 * len(broken)):
        yield Finding(
            "unbounded-attack-fails",
            f"{unbroken} of {count_noun(len(broken), 'image')} withstood eps = {eps:.3g}, which "
            "leaves nothing of them",
            "No honest classifier does: the gradients are masked; use BPDA, EOT or a gradient "
            "estimate",
        )


def check_curve(rates: Mapping[float, float]) -> Iterator[Finding]:
    """Report robust accuracies ``rates`` by radius that rise anywhere."""
    ordered = sorted(rates.items())
    for (a, high), (b, low) in pairwise(ordered):
        if low > high + 1e-9:
            yield Finding(
                "curve-rises",
                f"robust accuracy rises from {format_percent(high)} at eps {a:.4g} to "
                f"{format_percent(low)} at {b:.4g}",
                "The attack is too weak at the larger eps: give it more steps or restarts",
            )
