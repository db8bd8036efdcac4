"""Minimum-norm attacks, which look for the nearest adversarial image: FAB, DeepFool and its
successor, C&W.

All follow one contract. Without ``eps`` the result is the nearest adversarial image found, and
``loss`` its distance. With ``eps`` an image counts as success only within that ball; images
beyond it are projected onto it and evaluated there, and samples drop out once broken. Points on a
decision boundary change class by rounding, so the last ``refine`` of the steps are a line search
evaluated on the model itself, never on its faster copy.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.attacks._directions import per_sample
from physadv.attacks._fused_model import FusedModel, Speed
from physadv.attacks._hyperplane import project_to_plane
from physadv.attacks._inputs import open_inputs
from physadv.attacks._minimum_norm_state import (
    REFINE,
    NearestAdversarial,
    change_length,
    cosine,
    search_moves,
)
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.threat.norms import Norm

_STRAIGHT, _STRAIGHT_OVERSHOOT = 0.25, 1.05
"""Share of FAB's steps that go straight to the nearest boundary, and their overshoot."""
_POLISH = 2
"""Last steps of FAB, which go straight from the clean image to the plane at the nearest result."""
_LAST_OVERSHOOT = 1.02
"""Factor by which FAB's last step goes beyond the boundary."""
_EDGE = 0.95
"""Value of the tanh at the edges of [0, 1] in C&W."""


@open_inputs
def fab(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    norm: Norm = "linf",
    steps: int = 200,
    targets: Tensor | None = None,
    classes: int = 10,
    overshoot: float = 3.0,
    backward: float = 0.9,
    pull: float = 0.1,
    refine: int = REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Find near adversarial images with the fast adaptive boundary attack (Croce & Hein 2020).

    Each step goes to the linearized decision boundary and is pulled towards the clean image; from
    an adversarial point the next one starts back on the way to the clean image. A quarter of the
    steps goes straight to the nearest boundary; the others begin again, overshoot it far at first,
    so that they reach other bends of it, and little at the end. Takes steps + 1 forward passes a
    sample, two of them a step.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: Radius within which an image counts as success; None to look for the nearest.
        norm: "linf", "l2" or "l1".
        steps: Forward passes of the search and the line search together, more than ``refine``.
        targets: Target classes (b,) for a targeted attack.
        classes: Untargeted, the number of classes with the highest logits whose boundaries are
            compared, a backward pass each.
        overshoot: Largest factor by which a step goes beyond the boundary, at least 1; it falls to
            1.02 along a cosine. The paper's is 1.05 throughout.
        backward: Share of its change that an adversarial point keeps before the next step, 0 to 1.
        pull: Largest weight of the clean image's own projection, 0 to 1.
        refine: Forward passes of the line search, at least 1.
        levels: Round the images to k / levels (255 for 8 bits).
        speed: "plain", "fold", "bf16", "auto", "timed", or a copy of the model, for gradients.

    Returns:
        The nearest adversarial images; ``loss`` is their distance.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range.
        ModelError: The output is no differentiable logits.

    Example:
        >>> import torch
        >>> from physadv.attacks.minimum_norm import fab
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.rand(2, 3, 2, 2)
        >>> result = fab(net, images, net(images).argmax(1), norm="l2", steps=20)
        >>> result.loss.shape
        torch.Size([2])
    """
    # A step takes two passes; where one alone is left, the line search lends another.
    spare = search_moves(steps, refine)
    refine = refine - 1 if spare == 1 and refine > 1 else refine
    moves = search_moves(steps, refine) // 2
    if not moves:
        raise OptionError(f"steps {steps}", "at least 3", "Raise steps")
    with frozen_eval(model):
        nearest = NearestAdversarial(model, images, labels, targets, eps, norm, speed)
        x, rows, straight = nearest.x0, nearest.open(), ceil(_STRAIGHT * moves)
        for number in range(moves):
            # The nearest boundary of the clean image's own plane first; then once more from the
            # clean image, with a wide view.
            beyond = min(overshoot, _STRAIGHT_OVERSHOOT)
            if number >= straight:
                past, rest = number - straight, moves - straight
                x = nearest.x0[rows] if past == 0 else x
                beyond = cosine(overshoot, min(overshoot, _LAST_OVERSHOOT), past, rest)

            # At last straight from the clean image to the plane at the nearest boundary: where that
            # is flat, this is the nearest point of all.
            polish = number >= moves - _POLISH
            if polish:
                x = nearest.best[rows]
                beyond = 1 + 10.0 ** (number - moves - 1)
            value, slope, _ = nearest.linearize(rows, x, classes, any_rival=not polish)
            x = _boundary_step(x, nearest.x0[rows], value, slope, norm, beyond, pull, polish)

            # The next plane is taken back where the point was adversarial, not extended to there:
            # where the model bends, as certified nets do much, the two differ.
            share = torch.where(nearest.check(rows, x), backward, 1.0)
            nearest.last[rows] = x
            clean = nearest.x0[rows].double()
            x = (clean + per_sample(share, x) * (x.double() - clean)).to(x.dtype)

            unfinished = nearest.distance[rows] > nearest.reach
            x, rows = x[unfinished], rows[unfinished]
            if not len(rows):
                break
        return nearest.finish(refine, levels)


def _boundary_step(
    x: Tensor,
    x0: Tensor,
    value: Tensor,
    slope: Tensor,
    norm: Norm,
    overshoot: float,
    pull: float,
    polish: bool,
) -> Tensor:
    """FAB's next points: projections of ``x`` and, up to a weight of ``pull``, of ``x0``; of ``x0``
    alone in the last steps (``polish``)."""
    base, clean = x.double(), x0.double()
    own = value.double() + _inner(slope, clean - base)
    # From the adversarial side a step ends before the plane, so that it stays there.
    ahead, own_ahead = (
        per_sample(torch.where(side.double() < 0, 1 / overshoot, overshoot), x)
        for side in (value, own)
    )
    step = project_to_plane(x, slope, value, norm)
    own_step = project_to_plane(x0, slope, own, norm)
    far, own_far = change_length(step, norm), change_length(own_step, norm)

    # The closer the clean image's own plane, the more weight its projection gets.
    weight = (far / (far + own_far).clamp_min(1e-30)).clamp(max=pull)
    weight = per_sample(torch.ones_like(weight) if polish else weight, x)
    mixed = (1 - weight) * (base + ahead * step) + weight * (clean + own_ahead * own_step)
    return mixed.clamp(0, 1).to(x.dtype)


@open_inputs
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
    refine: int = REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Find near adversarial images with DeepFool (Moosavi-Dezfooli et al. 2016).

    Steps go to the nearest linearized decision boundary until the class changes, and stay within
    [0, 1]. Takes steps + 1 forward passes a sample.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: Radius within which an image counts as success; None to look for the nearest.
        norm: "linf", "l2" or "l1".
        steps: Forward passes of the search and the line search together, more than ``refine``.
        targets: Target classes (b,) for a targeted attack.
        classes: Untargeted, the number of classes with the highest logits whose boundaries are
            compared, a backward pass each.
        overshoot: Share of its length by which a step goes beyond the boundary, at least 0.
        refine: Forward passes of the line search, at least 1.
        levels: Round the images to k / levels (255 for 8 bits).
        speed: "plain", "fold", "bf16", "auto", "timed", or a copy of the model, for gradients.

    Returns:
        The nearest adversarial images; ``loss`` is their distance.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range.
        ModelError: The output is no differentiable logits.

    Example:
        >>> import torch
        >>> from physadv.attacks.minimum_norm import deepfool
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.rand(2, 3, 2, 2)
        >>> deepfool(net, images, net(images).argmax(1), eps=0.5).images.shape
        torch.Size([2, 3, 2, 2])
    """

    def move(x: Tensor, x0: Tensor, value: Tensor, slope: Tensor, is_adversarial: Tensor) -> Tensor:
        step = (1 + overshoot) * project_to_plane(x, slope, value, norm)
        return (x.double() + step * per_sample(~is_adversarial, x)).clamp(0, 1).to(x.dtype)

    with frozen_eval(model):
        nearest = NearestAdversarial(model, images, labels, targets, eps, norm, speed)
        return _search(nearest, steps, refine, classes, levels, move, once=True)


@open_inputs
def superdeepfool(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    steps: int = 50,
    targets: Tensor | None = None,
    classes: int = 10,
    overshoot: float = 0.02,
    refine: int = REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Find near adversarial images in l_2 with SuperDeepFool (Abdolahpourrostam et al. 2024).

    DeepFool's steps lead over the boundary; there the change is projected onto the boundary's
    normal, to which the shortest change is parallel, and DeepFool goes on from that point. It is
    their SDF(infinity, 1), which ends with the steps rather than with the first projection that
    stays adversarial. Takes steps + 1 forward passes a sample.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: l_2 radius within which an image counts as success; None to look for the nearest.
        steps: Forward passes of the search and the line search together, more than ``refine``.
        targets: Target classes (b,) for a targeted attack.
        classes: Untargeted, the number of classes with the highest logits whose boundaries are
            compared, a backward pass each.
        overshoot: Share of its length by which a step goes beyond the boundary, at least 0.
        refine: Forward passes of the line search, at least 1.
        levels: Round the images to k / levels (255 for 8 bits).
        speed: "plain", "fold", "bf16", "auto", "timed", or a copy of the model, for gradients.

    Returns:
        The nearest adversarial images; ``loss`` is their l_2 distance.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range.
        ModelError: The output is no differentiable logits.

    Example:
        >>> import torch
        >>> from physadv.attacks.minimum_norm import superdeepfool
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.rand(2, 3, 2, 2)
        >>> superdeepfool(net, images, net(images).argmax(1), steps=20).images.shape
        torch.Size([2, 3, 2, 2])
    """

    def move(x: Tensor, x0: Tensor, value: Tensor, slope: Tensor, is_adversarial: Tensor) -> Tensor:
        wide, clean = x.double(), x0.double()
        step = (1 + overshoot) * project_to_plane(x, slope, value, "l2")

        # Along the normal alone; the part across it brings nothing.
        normal = slope.double()
        share = _inner(slope, wide - clean) / _inner(slope, normal).clamp_min(1e-30)
        projected = clean + per_sample(share, x) * normal
        moved = torch.where(per_sample(is_adversarial, x), projected, wide + step)
        return moved.clamp(0, 1).to(x.dtype)

    with frozen_eval(model):
        nearest = NearestAdversarial(model, images, labels, targets, eps, "l2", speed)
        return _search(nearest, steps, refine, classes, levels, move, once=False)


@open_inputs
def cw_l2(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    searches: int = 5,
    steps: int = 100,
    rate: float | None = None,
    weight: float = 10.0,
    confidence: float = 0.0,
    targets: Tensor | None = None,
    refine: int = REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Find near adversarial images in l_2 by penalty descent (Carlini & Wagner 2017).

    Adam minimizes squared distance + c * margin, with images kept in [0, 1] by a tanh. c is
    bisected for each sample. The margin is divided by the scale of its gradient at the clean image,
    so that logits of any scale meet the same c. Takes searches * steps + refine + 1 forward passes
    a sample.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: l_2 radius within which an image counts as success; None to look for the nearest.
        searches: Values of c to try, at least 1.
        steps: Steps of Adam for each c, at least 1.
        rate: Learning rate of Adam in the tanh's argument; None for 0.05, or more where there are
            few steps.
        weight: First value of c.
        confidence: Margin, in the scale of the gradient, that the attack aims beyond.
        targets: Target classes (b,) for a targeted attack.
        refine: Forward passes of the line search, at least 1.
        levels: Round the images to k / levels (255 for 8 bits).
        speed: "plain", "fold", "bf16", "auto", "timed", or a copy of the model, for gradients.

    Returns:
        The nearest adversarial images; ``loss`` is their l_2 distance.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range.
        ModelError: The output is no differentiable logits.

    Example:
        >>> import torch
        >>> from physadv.attacks.minimum_norm import cw_l2
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.rand(2, 3, 2, 2)
        >>> cw_l2(net, images, net(images).argmax(1), searches=2, steps=20).images.shape
        torch.Size([2, 3, 2, 2])
    """
    if searches < 1 or steps < 1:
        raise OptionError(
            f"{searches} searches of {steps} steps", "at least 1 of each", "Raise them"
        )
    rate = max(0.05, 4 / steps) if rate is None else rate
    with frozen_eval(model):
        nearest = NearestAdversarial(model, images, labels, targets, eps, "l2", speed)

        # Bisection of c for every sample: raised tenfold until the attack succeeds once.
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
    """Run Adam once; return which samples were ever adversarial and the scale of every margin."""
    x0 = nearest.x0[rows].double()
    # The factor keeps 0 and 1, where many pixels begin, in reach of few steps.
    z = ((x0 * 2 - 1) * _EDGE).atanh()
    optimizer = torch.optim.Adam([z], lr=rate)
    ever_adversarial = torch.zeros(len(rows), dtype=torch.bool, device=x0.device)

    for number in range(steps):
        # The rate falls to a tenth: what is near is found with small steps.
        optimizer.param_groups[0]["lr"] = rate * (1 - 0.9 * number / steps)
        x = ((z.tanh() / _EDGE + 1) / 2).clamp(0, 1).to(nearest.x0.dtype)
        gap, slope, is_adversarial = nearest.linearize(rows, x)
        ever_adversarial |= is_adversarial

        # The first, clean point sets the scale of each sample's margin.
        unscaled = scales[rows] == 0
        length = change_length(slope, "l2").clamp_min(1e-30)
        scales[rows] = torch.where(unscaled, length, scales[rows])

        active = factor * (gap / scales[rows] + confidence > 0) / scales[rows]
        grad = per_sample(active, x) * slope.double() + 2 * (x.double() - x0)
        z.grad = grad * (1 - z.tanh().square()) / (2 * _EDGE)
        optimizer.step()
    return ever_adversarial, scales


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
    """Make steps - refine moves of all open samples, then the line search.

    With ``once`` a sample's search ends with its first adversarial point.
    """
    moves = search_moves(steps, refine)
    x, rows = nearest.x0, nearest.open()
    for _ in range(moves):
        value, slope, is_adversarial = nearest.linearize(rows, x, classes)
        x = move(x, nearest.x0[rows], value, slope, is_adversarial)
        nearest.last[rows] = x

        unfinished = ~is_adversarial if once else nearest.distance[rows] > nearest.reach
        x, rows = x[unfinished], rows[unfinished]
        if not len(rows):
            break
    return nearest.finish(refine, levels)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)
