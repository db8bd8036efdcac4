"""Fewest changed pixels: sigma-zero, a minimum-norm attack in l_0 (Cinà et al. 2024).

A pixel is one position with all its channels; of images of one channel that is the authors' count.
The contract is that of :mod:`physadv.attacks.minimum_norm`.
"""

from __future__ import annotations

from math import cos, pi

import torch
from torch import Tensor

from physadv.attacks._classifier_step import (
    Classifier,
    forward_count,
    frozen_eval,
    loss_and_gradient,
    loss_and_success,
)
from physadv.attacks._directions import per_sample, scale_by_largest
from physadv.attacks._fused_model import FusedModel, Speed
from physadv.attacks._inputs import open_inputs
from physadv.attacks._minimum_norm_state import NearestAdversarial, search_moves
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.threat.norms import by_pixel

SMOOTHING = 0.001
"""Squared length of a pixel's change at which it counts as half a pixel, as the authors chose."""
_TOLERANCE_STEP = 0.01
_MOMENTS = 0.9, 0.999
REFINE = 16
"""Forward passes that drop pixels from a result, unless another number is given."""


@open_inputs
def sigma_zero(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    steps: int = 300,
    rate: float = 1.0,
    tolerance: float = 0.3,
    targets: Tensor | None = None,
    refine: int = REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Find adversarial images with few changed pixels by sigma-zero (Cinà et al. 2024).

    Adam descends the margin and a smooth count of changed pixels together; changes below a
    tolerance are set back, and the tolerance grows while a sample is adversarial and falls while it
    is not. Pixels that a result can do without are then dropped, which the authors do not do. Takes
    steps + 1 forward passes a sample.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: Number of pixels within which an image counts as success; None to look for the fewest.
        steps: Forward passes of the search and of the dropping together, more than ``refine``.
        rate: Length of the first step, the largest change of an element; it falls to a tenth along
            a cosine.
        tolerance: Change of a pixel, in [0, 1), below which it is set back at first.
        targets: Target classes (b,) for a targeted attack.
        refine: Forward passes of the dropping, at least 2.
        levels: Round the images to k / levels (255 for 8 bits).
        speed: "plain", "fold", "bf16", "auto", "timed", or a copy of the model, for gradients.

    Returns:
        The adversarial images of fewest changed pixels; ``loss`` is that number.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range.
        ModelError: The output is no differentiable logits.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images = torch.rand(2, 3, 4, 4)
        >>> result = sigma_zero(net, images, net(images).argmax(1), steps=40)
        >>> result.images.shape
        torch.Size([2, 3, 4, 4])
    """
    moves = search_moves(steps, refine)
    if refine < 2:
        raise OptionError(f"refine {refine}", "at least 2, to rank and to confirm", "Use 16")
    if not 0 <= tolerance < 1:
        raise OptionError(f"tolerance {tolerance}", "from 0 to below 1", "Use 0.3")
    with frozen_eval(model):
        nearest = _FewestPixels(model, images, labels, targets, eps, "l0", speed)
        search = _Search(nearest.x0, tolerance)

        for number in range(moves):
            rows = nearest.open()
            if not len(rows):
                break
            x = search.images(rows).to(nearest.x0.dtype)
            value, slope, is_adversarial = nearest.linearize(rows, x)
            nearest.last[rows] = x

            length = rate * (0.1 + 0.9 * (1 + cos(pi * number / moves)) / 2)
            search.step(rows, slope * per_sample(value > 0, slope), is_adversarial, length)
        return nearest.finish(refine, levels)


class _Search:
    """Changes, moments and tolerances of all samples.

    Args:
        x0: Clean images (b, ...).
        tolerance: First tolerance of each.
    """

    def __init__(self, x0: Tensor, tolerance: float) -> None:
        self.x0 = x0.double()
        self.change = torch.zeros_like(self.x0)
        self.mean, self.square = torch.zeros_like(self.x0), torch.zeros_like(self.x0)
        self.tolerance = torch.full((len(x0),), tolerance, dtype=torch.float64, device=x0.device)
        self.count = torch.zeros_like(self.tolerance)

    def images(self, rows: Tensor) -> Tensor:
        """Return the iterates (k, ...) of the samples ``rows``."""
        return (self.x0[rows] + self.change[rows]).clamp(0, 1)

    def step(self, rows: Tensor, slope: Tensor, is_adversarial: Tensor, length: float) -> None:
        """Step down ``slope`` (k, ...) and the smooth count by at most ``length`` an element."""
        change = self.change[rows]
        gradient = scale_by_largest(slope.double() + _slope_of_count(change))

        # Adam, whose moments stand still for samples that are no longer searched.
        first, second = _MOMENTS
        mean = first * self.mean[rows] + (1 - first) * gradient
        square = second * self.square[rows] + (1 - second) * gradient.square()
        self.mean[rows], self.square[rows] = mean, square
        self.count[rows] += 1
        passed = per_sample(self.count[rows], mean)
        unbiased = (square / (1 - second**passed)).sqrt() + 1e-8
        moved = change - length * (mean / (1 - first**passed)) / unbiased

        clean = self.x0[rows]
        moved = (clean + moved).clamp(0, 1) - clean
        toward = torch.where(is_adversarial, 1.0, -1.0) * _TOLERANCE_STEP * length
        self.tolerance[rows] = (self.tolerance[rows] + toward).clamp(0, 1)
        kept = by_pixel(moved).abs().amax(1) > self.tolerance[rows][:, None]
        self.change[rows] = torch.where(_of_pixels(kept, moved), moved, 0)


def _slope_of_count(change: Tensor) -> Tensor:
    """Slope of the smooth count of changed pixels, as a share of all, at ``change`` (b, ...)."""
    squares = by_pixel(change).square().sum(1)
    weight = 2 * SMOOTHING / (squares + SMOOTHING).square() / squares.shape[1]
    return weight[:, None].expand_as(by_pixel(change)).reshape(change.shape) * change


def _of_pixels(pixels: Tensor, like: Tensor) -> Tensor:
    """Return ``pixels`` (b, n) spread over the channels of images of the shape of ``like``."""
    return pixels[:, None].expand_as(by_pixel(like)).reshape(like.shape)


class _FewestPixels(NearestAdversarial):
    """The images of fewest changed pixels so far, refined by dropping pixels."""

    def _refine(self, refine: int) -> Tensor:
        """Halve the range of how many pixels a result needs; return which the model confirms (b,).

        Pixels are ranked by what they do to the margin of a linear model. The first of the
        ``refine`` forward passes ranks, the second is at the result itself. Then one half looks for
        the fewest of its pixels that suffice, the other for the fewest where each goes to the
        corner of [0, 1] that the slope asks for.
        """
        confirmed = torch.zeros_like(self.distance, dtype=torch.bool)
        rows = self.distance.isfinite().nonzero()[:, 0]
        if not len(rows):
            return confirmed
        part, x0, found = self.task.pick(rows), self.x0[rows], self.best[rows]
        corners = self._corners(rows)
        changed = by_pixel(found != x0).any(1)
        ranks = self._rank(rows, found, corners[1], changed), self._rank(rows, *corners)

        candidate, kept_all = found, self.distance[rows].long()
        fewest, most = torch.zeros_like(kept_all), kept_all.clone()
        halves = refine - 2
        for turn in range(refine - 1):
            _, is_adversarial = loss_and_success(
                part.model, candidate, part.objective, part.criterion
            )
            self.queries[rows] += forward_count(part.model)
            if turn == 0:
                # Until the model confirms a result, its distance is only the faster copy's claim.
                self.distance[rows] = torch.inf
                middle = most
            confirmed[rows] |= is_adversarial
            self.update_best(rows, candidate, is_adversarial)
            most = torch.where(is_adversarial, middle, most)
            fewest = torch.where(is_adversarial, fewest, middle)
            if turn == halves // 2:
                fewest = torch.zeros_like(fewest)

            middle = torch.maximum((fewest + most) // 2, torch.ones_like(most))
            values, rank = (found, ranks[0]) if turn < halves // 2 else (corners[0], ranks[1])
            candidate = torch.where(_of_pixels(rank < middle[:, None], x0), values, x0)
        return confirmed

    def _corners(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the results (k, ...) with changed pixels at corners, and the margin's slope."""
        part, found = self.task.pick(rows), self.best[rows]
        _, _, slope = loss_and_gradient(part.gradient_model, found, part.objective)
        self.queries[rows] += forward_count(part.gradient_model)
        return torch.where(slope == 0, found, (slope < 0).to(found)), slope

    def _rank(
        self, rows: Tensor, values: Tensor, slope: Tensor, among: Tensor | None = None
    ) -> Tensor:
        """Return the rank (k, n) of each pixel at ``values``, the most useful ``among`` some
        first."""
        gain = by_pixel(slope.double() * (self.x0[rows].double() - values.double())).sum(1)
        gain = gain if among is None else gain.masked_fill(~among, -torch.inf)
        order = gain.argsort(dim=1, descending=True, stable=True)
        places = torch.arange(order.shape[1], device=order.device).expand_as(order)
        return torch.empty_like(order).scatter_(1, order, places)
