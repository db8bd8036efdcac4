"""State of a minimum-norm attack: nearest adversarial images, boundary planes, line search."""

from __future__ import annotations

from math import cos, pi

import torch
from torch import Tensor

from physadv.attacks._classifier_step import (
    Classifier,
    build_task,
    check_batch,
    forward_count,
    loss_and_success,
    modules_of,
)
from physadv.attacks._directions import per_sample
from physadv.attacks._fused_model import FusedModel, Speed, gradient_model_for
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import to_memory_format
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.models.cards import require_gradient
from physadv.threat.constraints import LpBall
from physadv.threat.norms import Norm, lp_distance, parse_norm
from physadv.threat.parsing import largest_radius

_KICK = 0.05
"""Distance in l_inf to the plane that stands in for one where the model is flat."""
REFINE = 6
"""Forward passes of the line search, unless another number is given."""


def search_moves(steps: int, refine: int) -> int:
    """Return how many of ``steps`` forward passes are left to the search beside ``refine`` of the
    line search.

    Raises:
        OptionError: There is none, or the line search has none.
    """
    if steps <= refine or refine < 1:
        needed = f"more than the {refine} that refine a result (1 or more)"
        raise OptionError(f"steps {steps}", needed, f"Use {max(refine, 1) + 1} steps or more")
    return steps - refine


def cosine(first: float, last: float, number: int, count: int) -> float:
    """Return the value at step ``number`` of ``count`` on a cosine from ``first`` to ``last``."""
    return last + (first - last) * (1 + cos(pi * number / count)) / 2


class NearestAdversarial:
    """The nearest adversarial image of each sample so far.

    Args:
        model: Model under attack; decides on success.
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        targets: Target classes (b,), or None.
        eps: Radius within which an image counts as success; None to look for the nearest image.
        norm: Norm of the distance.
        speed: Gradient model, as in :mod:`physadv.attacks.gradient`.
        loss: Loss whose zero is the boundary: "margin" or "dlr".
    """

    classes: int
    """Number of the model's classes, known from the first forward pass on."""

    def __init__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        eps: float | None,
        norm: Norm,
        speed: Speed | FusedModel,
        *,
        loss: str = "margin",
    ) -> None:
        check_batch(images, labels, targets)
        self.classes = 0
        self.norm, self.eps = parse_norm(norm, sparse=True), eps
        self.images, self.targets = images, targets
        self.reach = -1.0 if eps is None else LpBall(norm, eps).eps

        gradient_model = gradient_model_for(model, speed, images)
        self.x0 = to_memory_format(images, gradient_model)
        self.task = build_task(model, gradient_model, loss, labels, targets)

        self.best, self.last = self.x0.clone(), self.x0.clone()
        self.distance = torch.full(
            (len(images),), torch.inf, dtype=torch.float64, device=images.device
        )
        self.clean_gap = torch.full_like(self.distance, torch.nan)
        self.queries = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.draws = generator(0, "plateaus")

    def open(self) -> Tensor:
        """Return the rows (k,) of samples still searched: those without a result within ``eps``.

        Without ``eps`` that is every sample, since the nearest image is asked for.
        """
        return (self.distance > self.reach).nonzero()[:, 0]

    def linearize(
        self, rows: Tensor, x: Tensor, classes: int = 0, *, any_rival: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Linearize each sample's nearest decision boundary in one forward pass.

        Args:
            rows: Rows (k,) of the samples.
            x: Their iterates (k, ...); kept where they are adversarial and nearer than before.
            classes: Number of rival classes whose boundaries are compared, a backward pass each;
                with targets, or fewer than 2, the boundary to the best rival is taken.
            any_rival: Compare them where ``x`` is adversarial too; else the predicted class's
                boundary is taken there.

        Returns:
            The boundary's value (k,), positive where the sample is not adversarial; its slope
            (k, ...); and whether ``x`` is adversarial (k,).

        Raises:
            ModelError: The output does not depend on the input differentiably.
        """
        part = self.task.pick(rows)
        x = x.detach().requires_grad_()
        logits = part.gradient_model(x)
        require_gradient(logits, modules_of(part.gradient_model))
        is_adversarial = part.criterion(logits.detach())

        self.classes = logits.shape[1]
        rivals = min(classes, self.classes - 1)
        if self.targets is not None or rivals < 2:
            value = part.objective(logits)
            (slope,) = torch.autograd.grad(value.sum(), x)
        else:
            value, slope = _nearest_plane(
                logits,
                x,
                part.objective.labels,
                rivals,
                is_adversarial & (not any_rival),
                self.norm,
            )

        # The gap at the first, clean point is one end of the line search in finish().
        self.queries[rows] += forward_count(part.gradient_model)
        gap = part.objective(logits.detach()).double()
        self.clean_gap[rows] = torch.where(self.clean_gap[rows].isnan(), gap, self.clean_gap[rows])
        self.update_best(rows, x.detach(), is_adversarial)
        slope = torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)
        value = value.detach().double()
        return value, self._off_plateaus(slope, value, ~is_adversarial), is_adversarial

    def _off_plateaus(self, slope: Tensor, value: Tensor, stuck: Tensor) -> Tensor:
        """Return ``slope`` (k, ...), random signs where it is 0 on a sample that is ``stuck``.

        Nets trained for a certificate have images at which every unit is dead. A plane with such a
        slope lies :data:`_KICK` away in l_inf, so that each attack leaves the plateau in its own
        way. All samples share the draws: a sample's result does not depend on its batch.
        """
        flat = stuck & ~slope.flatten(1).any(1)
        if not bool(flat.any()):
            return slope
        signs = torch.randint(0, 2, slope.shape[1:], generator=self.draws) * 2 - 1
        size = value.abs().nan_to_num(posinf=1.0).clamp_min(1e-6) / (_KICK * signs.numel())
        kick = per_sample(size, slope).to(slope.dtype) * signs.to(slope)
        return torch.where(per_sample(flat, slope), kick, slope)

    def check(self, rows: Tensor, x: Tensor) -> Tensor:
        """Return whether the iterates ``x`` (k, ...) are adversarial (k,), in one forward pass.

        They are kept where they are, and nearer than before.
        """
        part = self.task.pick(rows)
        _, is_adversarial = loss_and_success(part.gradient_model, x, part.objective, part.criterion)
        self.queries[rows] += forward_count(part.gradient_model)
        self.update_best(rows, x, is_adversarial)
        return is_adversarial

    def update_best(self, rows: Tensor, x: Tensor, is_adversarial: Tensor) -> None:
        """Keep iterates ``x`` of the samples ``rows`` that are adversarial and nearer than before.

        ``is_adversarial`` (k,) tells which are adversarial.
        """
        far = lp_distance(x, self.x0[rows], self.norm)
        nearer = is_adversarial & (far < self.distance[rows])
        self.best[rows[nearer]], self.distance[rows[nearer]] = x[nearer], far[nearer]

    def finish(self, refine: int, levels: int | None) -> AttackResult:
        """Refine every result along its line and evaluate what is returned on the model itself.

        ``refine`` is the number of forward passes of the line search; with ``levels`` images are
        rounded to that grid.
        """
        confirmed = self._refine(refine)
        candidates = torch.where(per_sample(confirmed, self.x0), self.best, self.last)

        # Without eps no ball limits the result: one that holds all images in [0, 1] stands in.
        radius = self.eps
        if radius is None:
            radius = largest_radius(self.norm, self.x0.shape[1:].numel())
        ball = LpBall(self.norm, radius, levels)
        images = ball.quantized(ball.project(candidates, self.x0), self.x0)

        _, success = loss_and_success(
            self.task.model, images, self.task.objective, self.task.criterion
        )
        self.queries += forward_count(self.task.model)
        distance = lp_distance(images, self.x0, self.norm).to(torch.float32)
        return AttackResult(
            torch.empty_like(self.images).copy_(images), success, distance, self.queries
        )

    def _refine(self, refine: int) -> Tensor:
        """Move each result along its line to the boundary; return which the model confirms (b,).

        The first of the ``refine`` forward passes is at the result itself. While the model is not
        fooled the search goes outwards; then false position and bisection take turns.
        """
        rows = self.distance.isfinite().nonzero()[:, 0]
        confirmed = torch.zeros_like(self.distance, dtype=torch.bool)
        part, x0 = self.task.pick(rows), self.x0[rows]
        change = self.best[rows].double() - x0.double()
        low, low_gap = torch.zeros_like(self.distance[rows]), self.clean_gap[rows]
        high, high_gap = torch.ones_like(low), torch.zeros_like(low)

        fraction = high
        for turn in range(refine if len(rows) else 0):
            x = (x0.double() + per_sample(fraction, x0) * change).clamp(0, 1).to(x0.dtype)
            gap, is_adversarial = loss_and_success(part.model, x, part.objective, part.criterion)
            self.queries[rows] += forward_count(part.model)

            # Until the model confirms a result, its distance is only the faster copy's claim.
            self.distance[rows[is_adversarial & ~confirmed[rows]]] = torch.inf
            self.update_best(rows, x, is_adversarial)
            confirmed[rows] |= is_adversarial

            gap = gap.double()
            low = torch.where(is_adversarial, low, fraction)
            low_gap = torch.where(is_adversarial, low_gap, gap)
            high = torch.where(is_adversarial, fraction, high)
            high_gap = torch.where(is_adversarial, gap, high_gap)
            within = _next_fraction(low, low_gap, high, high_gap, turn)
            fraction = torch.where(confirmed[rows], within, 3 * fraction - 1.98)
        return confirmed


def _next_fraction(
    low: Tensor, low_gap: Tensor, high: Tensor, high_gap: Tensor, turn: int
) -> Tensor:
    """The next point: just beyond the zero of the line through both gaps, or halfway in odd turns.

    False position alone can creep from one side; bisection in between bounds the number of steps.
    """
    zero = low + (high - low) * (low_gap / (low_gap - high_gap).clamp_min(1e-30) + 0.002)
    usable = zero.isfinite() & (zero > low) & (zero < high) & (turn % 2 == 0)
    return torch.where(usable, zero, (low + high) / 2)


def _nearest_plane(
    logits: Tensor, x: Tensor, labels: Tensor, rivals: int, is_adversarial: Tensor, norm: Norm
) -> tuple[Tensor, Tensor]:
    """Margin to the rival class whose linearized boundary is nearest, and its slope.

    Where the sample is adversarial, the rival is the predicted class.
    """
    dual: Norm = {"linf": "l1", "l2": "l2", "l1": "linf"}[norm]  # type: ignore[assignment]
    wide = logits if logits.dtype == torch.float64 else logits.float()
    own = wide.gather(1, labels[:, None])
    others = wide.detach().scatter(1, labels[:, None], -torch.inf).topk(rivals, 1).indices
    gaps = own - wide.gather(1, others)

    shortest = torch.full_like(gaps[:, 0], torch.inf).detach()
    value, slope = torch.zeros_like(shortest), torch.zeros_like(x)
    for i in range(rivals):
        (gradient,) = torch.autograd.grad(gaps[:, i].sum(), x, retain_graph=i + 1 < rivals)

        # The distance to a hyperplane is its value over the dual norm of its normal.
        gap = gaps[:, i].detach()
        distance = gap.abs() / change_length(gradient, dual).to(value).clamp_min(1e-30)
        nearer = (distance < shortest) & (~is_adversarial | (i == 0))
        shortest = torch.where(nearer, distance, shortest)
        value = torch.where(nearer, gap, value)
        slope = torch.where(per_sample(nearer, x), gradient, slope)
    return value, slope.detach()


def change_length(change: Tensor, norm: Norm) -> Tensor:
    """Return the length (b,), float64, of each ``change`` (b, ...) in ``norm``."""
    return lp_distance(change.detach(), torch.zeros_like(change), norm)
