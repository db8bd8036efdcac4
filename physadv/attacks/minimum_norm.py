"""Minimum-norm attacks: FAB, DeepFool and Carlini & Wagner's l_2 look for the nearest image the
victim gets wrong.

All follow one contract. Without ``eps`` the result is the nearest adversarial image found, and
``loss`` its distance. With ``eps`` an image counts as success only within that ball; what was found
beyond it is projected onto it and judged there, and samples drop out once broken. Points on a
decision boundary are at the mercy of rounding, so the last ``refine`` of the steps are a line
search judged by the model itself, never by its faster copy. ``speed``, ``levels``, ``targets`` and
the errors are as in :mod:`physadv.attacks.gradient`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.attacks._directions import per_sample
from physadv.attacks._fused_model import FusedModel, Speed
from physadv.attacks._hyperplane import project_to_plane
from physadv.attacks._minimum_norm_state import NearestAdversarial, change_length
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.threat.norms import Norm

_REFINE = 6


def fab(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    norm: Norm = "linf",
    steps: int = 100,
    targets: Tensor | None = None,
    classes: int = 10,
    overshoot: float = 1.05,
    backward: float = 0.9,
    pull: float = 0.1,
    refine: int = _REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Fast adaptive boundary attack (Croce & Hein 2020): steps to the linearized boundary, pulled
    to the clean image.

    Untargeted it takes the nearest of the planes to the ``classes`` classes with the highest
    logits, a backward pass each; towards ``targets`` (b,) one. ``backward`` is how far an
    adversarial point keeps of its change before the next step, ``pull`` the largest weight of the
    clean image's own projection. steps + 1 forwards a sample.
    """

    def move(x: Tensor, x0: Tensor, value: Tensor, slope: Tensor, is_adversarial: Tensor) -> Tensor:
        share = per_sample(torch.where(is_adversarial, backward, 1.0), x).double()
        base = x0.double() + share * (x.double() - x0.double())
        plane = value.double() + _inner(slope, base - x.double())
        own = value.double() + _inner(slope, x0.double() - x.double())
        step, own_step = (
            project_to_plane(base, slope, plane, norm),
            project_to_plane(x0, slope, own, norm),
        )
        far, own_far = change_length(step, norm), change_length(own_step, norm)
        weight = (far / (far + own_far).clamp_min(1e-30)).clamp(max=pull)
        weight = per_sample(weight, x)
        mixed = (1 - weight) * (base + overshoot * step) + weight * (
            x0.double() + overshoot * own_step
        )
        return mixed.clamp(0, 1).to(x.dtype)

    with frozen_eval(model):
        nearest = NearestAdversarial(model, images, labels, targets, eps, norm, speed)
        return _search(nearest, steps, refine, classes, levels, move, once=False)


def deepfool(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    norm: Norm = "l2",
    steps: int = 50,
    targets: Tensor | None = None,
    classes: int = 10,
    overshoot: float = 0.02,
    refine: int = _REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """DeepFool (Moosavi-Dezfooli et al. 2016): steps to the nearest linearized boundary until the
    class changes.

    Planes as in :func:`fab`, but without a pull; steps stay within [0, 1]. steps + 1 forwards a
    sample.
    """

    def move(x: Tensor, x0: Tensor, value: Tensor, slope: Tensor, is_adversarial: Tensor) -> Tensor:
        step = (1 + overshoot) * project_to_plane(x, slope, value, norm)
        return (x.double() + step * per_sample(~is_adversarial, x)).clamp(0, 1).to(x.dtype)

    with frozen_eval(model):
        nearest = NearestAdversarial(model, images, labels, targets, eps, norm, speed)
        return _search(nearest, steps, refine, classes, levels, move, once=True)


def cw_l2(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    searches: int = 5,
    steps: int = 100,
    rate: float = 0.02,
    weight: float = 1.0,
    confidence: float = 0.0,
    targets: Tensor | None = None,
    refine: int = _REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Carlini & Wagner 2017 in l_2: Adam on squared distance + c * margin, with [0, 1] kept by a
    tanh.

    c starts at ``weight`` and is bisected for each sample over ``searches`` runs of ``steps``
    steps. The margin is divided by its own gradient's scale at the clean image, so that logits of
    any scale meet the same c. searches * steps + refine + 1 forwards a sample.
    """
    if searches < 1 or steps < 1:
        raise OptionError(
            f"{searches} searches of {steps} steps", "at least 1 of each", "raise them"
        )
    with frozen_eval(model):
        nearest = NearestAdversarial(model, images, labels, targets, eps, "l2", speed)
        low, factor = torch.zeros_like(nearest.distance), torch.full_like(nearest.distance, weight)
        high, scale = torch.full_like(low, torch.inf), torch.zeros_like(low)
        for _ in range(searches):
            rows = nearest.open()
            if not len(rows):
                break
            is_adversarial, scale = _cw_run(
                nearest, rows, factor[rows], scale, steps, rate, confidence
            )
            high[rows] = torch.where(is_adversarial, factor[rows], high[rows])
            low[rows] = torch.where(is_adversarial, low[rows], factor[rows])
            factor = torch.where(high.isinf(), factor * 10, (low + high) / 2)
        return nearest.finish(refine, levels)


def _cw_run(
    nearest: NearestAdversarial,
    rows: Tensor,
    factor: Tensor,
    scales: Tensor,
    steps: int,
    rate: float,
    confidence: float,
) -> tuple[Tensor, Tensor]:
    """One run of Adam; returns which samples were ever adversarial, and the scale of every margin."""
    x0 = nearest.x0[rows].double()
    z = ((x0 * 2 - 1) * 0.999999).atanh()
    mean, square = torch.zeros_like(z), torch.zeros_like(z)
    ever = torch.zeros(len(rows), dtype=torch.bool, device=x0.device)
    for step in range(1, steps + 1):
        x = ((z.tanh() + 1) / 2).clamp(0, 1).to(nearest.x0.dtype)
        gap, slope, is_adversarial = nearest.look(rows, x)
        ever = ever | is_adversarial
        new = scales[rows] == 0
        scales[rows] = torch.where(new, change_length(slope, "l2").clamp_min(1e-30), scales[rows])
        active = factor * (gap / scales[rows] + confidence > 0) / scales[rows]
        grad = per_sample(active, x) * slope.double() + 2 * (x.double() - x0)
        grad = grad * (1 - z.tanh().square()) / 2
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad * grad
        z = z - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    return ever, scales


Move = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""From points, clean images, planes (value, slope) and what has won to the next points."""


def _search(
    nearest: NearestAdversarial,
    steps: int,
    refine: int,
    classes: int,
    levels: int | None,
    move: Move,
    once: bool,
) -> AttackResult:
    """steps - refine moves of all samples still open, then the line search; with ``once`` the first
    find is enough."""
    if steps <= refine or refine < 1:
        needed = f"more than the {refine} that refine a find (1 or more)"
        raise OptionError(f"steps {steps}", needed, f"use {max(refine, 1) + 1} steps or more")
    x, rows = nearest.x0, nearest.open()
    for _ in range(steps - refine):
        value, slope, is_adversarial = nearest.look(rows, x, classes)
        x = move(x, nearest.x0[rows], value, slope, is_adversarial)
        nearest.last[rows] = x
        left = ((~is_adversarial) if once else nearest.distance[rows] > nearest.reach).nonzero()[
            :, 0
        ]
        x, rows = x[left], rows[left]
        if not len(rows):
            break
    return nearest.finish(refine, levels)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)
