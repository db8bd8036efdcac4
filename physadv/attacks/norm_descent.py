"""Minimum-norm attacks that descend within a radius of their own: DDN and FMN.

The contract is that of :mod:`physadv.attacks.minimum_norm`. They take one gradient a step and no
search over a weight, and so reach near images with few steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.attacks._directions import per_sample, unit_direction
from physadv.attacks._fused_model import FusedModel, Speed
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

_TINY = 1e-12
_DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""Norms in which a slope tells the distance to a plane."""


@open_inputs
def ddn(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    steps: int = 100,
    rate: float = 1.0,
    shrink: float = 0.05,
    targets: Tensor | None = None,
    refine: int = REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Find near adversarial images in l_2 by decoupled direction and norm (Rony et al. 2019).

    Each step follows the gradient's direction, and then lies on a sphere around the clean image
    whose radius shrinks where the point was adversarial and grows where it was not. Takes
    steps + 1 forward passes a sample.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: l_2 radius within which an image counts as success; None to look for the nearest.
        steps: Forward passes of the search and the line search together, more than ``refine``.
        rate: Length of the first step; it falls to a hundredth along a cosine.
        shrink: Share by which the radius changes each step, in (0, 1).
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
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.rand(2, 3, 2, 2)
        >>> ddn(net, images, net(images).argmax(1), steps=20).images.shape
        torch.Size([2, 3, 2, 2])
    """
    moves = _moves(steps, refine, shrink)
    with frozen_eval(model):
        nearest = NearestAdversarial(model, images, labels, targets, eps, "l2", speed)
        change = torch.zeros_like(nearest.x0, dtype=torch.float64)
        radius = torch.ones_like(nearest.distance)

        for number in range(moves):
            rows = nearest.open()
            if not len(rows):
                break
            x = (nearest.x0[rows].double() + change[rows]).clamp(0, 1).to(nearest.x0.dtype)
            _, slope, is_adversarial = nearest.linearize(rows, x)
            nearest.last[rows] = x

            sign = torch.where(is_adversarial, 1 - shrink, 1 + shrink)
            radius[rows] = radius[rows] * sign
            length = cosine(rate, rate / 100, number, moves)
            moved = x.double() - nearest.x0[rows].double()
            moved = moved - length * unit_direction(slope.double(), "l2")
            change[rows] = unit_direction(moved, "l2") * per_sample(radius[rows], moved)
        return nearest.finish(refine, levels)


@open_inputs
def fmn(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    norm: Norm = "linf",
    steps: int = 100,
    rate: float = 1.0,
    shrink: float = 0.05,
    targets: Tensor | None = None,
    refine: int = REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Find near adversarial images by the fast minimum-norm attack (Pintor et al. 2021).

    Each step descends the margin within a ball whose radius is the distance to the linearized
    boundary until a sample is adversarial, and then shrinks and grows like that of DDN, ever
    slower. Takes steps + 1 forward passes a sample.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: Radius within which an image counts as success; None to look for the nearest.
        norm: "linf", "l2" or "l1".
        steps: Forward passes of the search and the line search together, more than ``refine``.
        rate: l_2 length of the first step; it falls to a hundredth along a cosine.
        shrink: Share by which the radius changes in the first step, in (0, 1); it falls to 0.001.
        targets: Target classes (b,) for a targeted attack.
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
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.rand(2, 3, 2, 2)
        >>> fmn(net, images, net(images).argmax(1), norm="l1", steps=20).images.shape
        torch.Size([2, 3, 2, 2])
    """
    moves = _moves(steps, refine, shrink)
    with frozen_eval(model):
        nearest = NearestAdversarial(model, images, labels, targets, eps, norm, speed)
        change = torch.zeros_like(nearest.x0, dtype=torch.float64)
        farthest = change_length(torch.maximum(nearest.x0, 1 - nearest.x0), norm)
        radius = torch.full_like(nearest.distance, torch.inf)

        for number in range(moves):
            rows = nearest.open()
            if not len(rows):
                break
            x = (nearest.x0[rows].double() + change[rows]).clamp(0, 1).to(nearest.x0.dtype)
            was_found = nearest.distance[rows].isfinite()
            value, slope, is_adversarial = nearest.linearize(rows, x)
            nearest.last[rows] = x

            part = cosine(shrink, min(shrink, 0.001), number, moves)
            moved = x.double() - nearest.x0[rows].double()
            to_boundary = value.nan_to_num().abs() / change_length(slope, _DUAL[norm]).clamp_min(
                _TINY
            )
            # Beyond the boundary by a share: where the model is linear, a step that ends on it
            # would come ever nearer from the wrong side.
            # And never less than before, since the edges of [0, 1] take a part of each step.
            reached = change_length(moved, norm) + to_boundary * (1 + shrink)
            grown = radius[rows] * (1 + part)
            first = radius[rows].isinf()
            outside = torch.where(
                was_found, grown, torch.where(first, reached, grown.maximum(reached))
            )
            inside = torch.minimum(radius[rows] * (1 - part), nearest.distance[rows])
            radius[rows] = torch.where(is_adversarial, inside, outside).minimum(farthest[rows])

            length = cosine(rate, rate / 100, number, moves)
            moved = moved - length * unit_direction(slope.double(), "l2")
            change[rows] = _within(moved, radius[rows], norm)
        return nearest.finish(refine, levels)


def _moves(steps: int, refine: int, shrink: float) -> int:
    """Number of gradient steps; raise OptionError for options out of range."""
    moves = search_moves(steps, refine)
    if not 0 < shrink < 1:
        raise OptionError(f"shrink {shrink}", "between 0 and 1", "Use 0.05")
    return moves


def _within(change: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """The point nearest to ``change`` (b, ...) in the ball of ``radius`` (b,) around 0."""
    if norm == "linf":
        most = per_sample(radius, change)
        return torch.minimum(torch.maximum(change, -most), most)
    length = change_length(change, norm).clamp_min(_TINY)
    if norm == "l2":
        return change * per_sample((radius / length).clamp_max(1), change)

    # Soft thresholding (Duchi et al. 2008): the threshold that leaves the length of the radius.
    sizes = change.abs().flatten(1).sort(1, descending=True).values
    excess = sizes.cumsum(1) - radius[:, None]
    counts = torch.arange(1, sizes.shape[1] + 1, device=sizes.device)
    kept = (sizes * counts > excess).sum(1).clamp_min(1)
    threshold = (excess.gather(1, kept[:, None] - 1)[:, 0] / kept).clamp_min(0)
    shrunk = (change.abs() - per_sample(threshold, change)).clamp_min(0) * change.sign()
    return torch.where(per_sample(length > radius, change), shrunk, change)
