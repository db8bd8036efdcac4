"""ALMA, a minimum-norm attack by an augmented Lagrangian.

The contract is that of :mod:`physadv.attacks.minimum_norm`. The weight of the constraint, that the
image be misclassified, is found along the way, so that one run does what C&W needs a search for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.attacks._directions import per_sample
from physadv.attacks._fused_model import FusedModel, Speed
from physadv.attacks._inputs import open_inputs
from physadv.attacks._minimum_norm_state import (
    REFINE,
    NearestAdversarial,
    change_length,
    search_moves,
)
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.threat.norms import Norm

_CHECK = 10
"""Steps between two looks at whether the constraint has improved."""
_IMPROVED = 0.95
"""Share of its value below which the constraint has improved."""
_FALL = 1e-4
"""Share of its rate that a step has at the end."""
_WEIGHTS = (1e-6, 1e12)
"""Least and largest weight of the constraint."""


@open_inputs
def alma(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    norm: Norm = "l2",
    steps: int = 200,
    rate: float = 0.8,
    momentum: float = 0.15,
    growth: float = 1.2,
    targets: Tensor | None = None,
    refine: int = REFINE,
    levels: int | None = None,
    speed: Speed | FusedModel = "fold",
) -> AttackResult:
    """Find near adversarial images by an augmented Lagrangian (ALMA, Rony et al. 2021).

    Each step descends distance + penalty(difference-of-logits ratio) with RMSProp and momentum.
    The penalty's weight follows its own slope at the constraint, its curvature grows while a sample
    is not adversarial and does not come nearer to it. Takes steps + 1 forward passes a sample.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1].
        labels: True classes (b,), int64.
        eps: Radius within which an image counts as success; None to look for the nearest.
        norm: "l2" or "l1".
        steps: Forward passes of the search and the line search together, more than ``refine``.
        rate: Length of a step, the change of an element; from a sample's first success on it falls
            to a ten-thousandth by the end. The paper's 0.1 looks less far for other boundaries.
        momentum: Weight of the past, from 0 to below 1, in the mean slope, in its square and in the
            penalty's weight. The paper's 0.9 asks for 1,000 steps.
        growth: Factor by which the penalty's curvature grows, above 1.
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
        >>> from physadv.attacks import alma
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.rand(2, 3, 2, 2)
        >>> alma(net, images, net(images).argmax(1), norm="l1", steps=40).images.shape
        torch.Size([2, 3, 2, 2])
    """
    moves = search_moves(steps, refine)
    if norm not in ("l2", "l1"):
        raise OptionError(f"norm {norm!r}", "'l2' or 'l1'", "Use fab or fmn for others")
    if not 0 <= momentum < 1 or growth <= 1:
        raise OptionError(
            f"momentum {momentum}, growth {growth}",
            "from 0 to below 1, and above 1",
            "Use 0.15 and 1.2",
        )
    with frozen_eval(model):
        nearest = NearestAdversarial(model, images, labels, targets, eps, norm, speed, loss="dlr")
        search = _Lagrangian(nearest, moves, rate, momentum, growth)
        for number in range(moves):
            rows = nearest.open()
            if not len(rows):
                break
            search.step(rows, number)
        return nearest.finish(refine, levels)


class _Lagrangian:
    """Changes, moments and multipliers of all samples.

    Args:
        nearest: What the attack has found so far.
        moves: Steps in all.
        rate: Length of a step at first.
        momentum: Weight of the past.
        growth: Factor by which the curvature grows.
    """

    def __init__(
        self,
        nearest: NearestAdversarial,
        moves: int,
        rate: float,
        momentum: float,
        growth: float,
    ) -> None:
        self.nearest, self.moves, self.rate = nearest, moves, rate
        self.momentum, self.growth = momentum, growth
        self.change = torch.zeros_like(nearest.x0, dtype=torch.float64)
        self.velocity, self.square = torch.zeros_like(self.change), torch.ones_like(self.change)

        self.weight = torch.ones_like(nearest.distance)
        self.curvature, self.before = torch.ones_like(self.weight), torch.zeros_like(self.weight)
        self.scale = torch.ones_like(self.weight)
        self.first = torch.full_like(self.weight, moves)

    def step(self, rows: Tensor, number: int) -> None:
        """Evaluate the samples ``rows``, update their multipliers and move them."""
        x0 = self.nearest.x0[rows].double()
        x = (x0 + self.change[rows]).clamp(0, 1).to(self.nearest.x0.dtype)
        value, slope, is_adversarial = self.nearest.linearize(rows, x)
        self.nearest.last[rows] = x

        # Of two classes there is no ratio: the clean image's margin is the unit.
        if number == 0 and self.nearest.classes < 3:
            self.scale[rows] = value.abs().clamp_min(1e-30)
        value = (value / self.scale[rows]).nan_to_num(0.0, 1.0, -1.0)
        slope = slope.double() / per_sample(self.scale[rows], x)
        self._update_multipliers(rows, value, is_adversarial, number)

        # Without a change there is no distance to descend.
        pull = self._penalty_slope(rows, value)
        gradient = per_sample(pull, x) * slope + self._distance_slope(x.double() - x0)
        self._move(rows, x0, gradient, number)

    def _update_multipliers(
        self, rows: Tensor, value: Tensor, is_adversarial: Tensor, number: int
    ) -> None:
        """Let each weight follow the penalty's slope, and raise curvatures that did not help."""
        found = self.first[rows] < self.moves
        if number == 0:
            self.before[rows] = value
        elif (number + 1) % _CHECK == 0:
            improved = value < _IMPROVED * self.before[rows]
            stiffer = self.curvature[rows] * self.growth
            self.curvature[rows] = torch.where(found | improved, self.curvature[rows], stiffer)
            self.before[rows] = value

        if number:
            target = self._penalty_slope(rows, value)
            weight = self.momentum * self.weight[rows] + (1 - self.momentum) * target
            self.weight[rows] = weight.clamp(*_WEIGHTS)
        self.first[rows] = torch.where(is_adversarial & ~found, number, self.first[rows])

    def _penalty_slope(self, rows: Tensor, value: Tensor) -> Tensor:
        """Slope (k,) of the penalty P2 of Birgin et al. (2005) at the constraint's ``value``."""
        weight, curvature = self.weight[rows], self.curvature[rows]
        outside, inside = value.clamp_min(0), value.clamp_max(0)
        beyond = weight * (1 + 2 * curvature * outside) + (curvature * outside).square() / 2
        within = weight / (1 - curvature * inside).square()
        return torch.where(value >= 0, beyond, within)

    def _distance_slope(self, change: Tensor) -> Tensor:
        """Slope (k, ...) of the distance at each ``change``, 0 where there is none."""
        if self.nearest.norm == "l1":
            return change.sign()
        length = change_length(change, "l2")
        return change / per_sample(torch.where(length > 0, length, 1), change)

    def _move(self, rows: Tensor, x0: Tensor, gradient: Tensor, number: int) -> None:
        """One step of RMSProp with momentum, within [0, 1]."""
        past = self.momentum
        square = past * self.square[rows] + (1 - past) * gradient.square()
        velocity = past * self.velocity[rows] + gradient / (square.sqrt() + 1e-8)
        self.square[rows], self.velocity[rows] = square, velocity

        # The rate falls from a sample's first success on.
        since, rest = number - self.first[rows], self.moves - self.first[rows]
        length = self.rate * _FALL ** (since.clamp_min(0) / rest.clamp_min(1))
        moved = self.change[rows] - per_sample(length, x0) * velocity
        self.change[rows] = (x0 + moved).clamp(0, 1) - x0
