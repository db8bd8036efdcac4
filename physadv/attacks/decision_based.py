"""Decision-based black-box attacks, which need predicted classes only: RayS and HopSkipJump.

Both look for the nearest adversarial image and succeed where it lies within ``eps``. Samples that
reach it take no more queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from physadv.attacks._classifier_step import check_batch, frozen_eval
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.score_based import Scores
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.criteria import Criterion, success_criterion
from physadv.threat.norms import Norm, lp_distance, parse_norm, step_toward

_STARTS = 50
"""Images of noise that are tried for a start."""


@dataclass
class DecisionOracle:
    """Classifies images as adversarial or not, with at most ``limit`` queries a sample.

    Attributes:
        model: Model that is asked; predicted classes alone are used.
        criterion: What counts as adversarial.
        used: Queries (b,) so far.
        limit: Most queries of a sample.
    """

    model: Scores
    criterion: Criterion
    used: Tensor
    limit: int

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return which of ``images``, one for each sample of ``rows``, are adversarial.

        False for samples at their limit of queries.
        """
        adversarial = torch.zeros(len(rows), dtype=torch.bool, device=images.device)
        queried = (self.used[rows] < self.limit).nonzero()[:, 0]
        if len(queried):
            self.used[rows[queried]] += 1
            criterion = self.criterion.pick(rows[queried])
            adversarial[queried] = criterion(self.model(images[queried]))
        return adversarial


def decision_oracle(
    model: Scores, labels: Tensor, images: Tensor, queries: int, targets: Tensor | None = None
) -> DecisionOracle:
    """Return the oracle of a batch of ``images`` (b, ...) with ``labels`` (b,), or ``targets`` (b,)
    to reach, that answers ``model``'s classes for ``queries`` images a sample beside the clean
    one."""
    return DecisionOracle(
        model,
        success_criterion(labels, targets),
        torch.zeros(len(images), dtype=torch.long, device=images.device),
        queries + 1,
    )


@open_inputs
def rays(
    model: Scores, images: Tensor, labels: Tensor, *, eps: float, queries: int = 2000
) -> AttackResult:
    """Attack in l_inf with RayS (Chen & Gu 2020), which needs predicted classes only.

    Searches for the direction of signs along which the decision boundary is nearest, block by
    block. The search is deterministic. A sample that fails keeps its clean image.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius within which an image counts as success, in units of [0, 1].
        queries: Largest number of queries a sample; the clean image takes one more.

    Returns:
        The adversarial images with success and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].

    Example:
        >>> import torch
        >>> from physadv.attacks import rays
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = rays(net, images, labels, eps=0.3, queries=100)
        >>> bool((result.queries <= 101).all())
        True
    """
    check_batch(images, labels)
    images = images.detach()

    with frozen_eval(model), torch.no_grad():
        oracle = decision_oracle(model, labels, images, queries)
        everyone = torch.arange(len(images), device=images.device)
        is_adversarial = oracle(images, everyone)

        search = _Rays(oracle, images, radius=torch.where(is_adversarial, 0.0, torch.inf).double())
        search.run(eps)

        success = is_adversarial | (search.radius <= eps)
        changed = _along(images, search.signs, torch.full_like(search.radius, eps))
        best = torch.where((success & ~is_adversarial).view(-1, 1, 1, 1), changed, images)
    return AttackResult(images=best, success=success, queries=oracle.used.cpu())


def _along(images: Tensor, signs: Tensor, radius: Tensor) -> Tensor:
    """Return the images ``radius`` along the signs, in [0, 1] and no farther after rounding."""
    return step_toward(images, radius.view(-1, 1, 1, 1) * signs.double()).clamp(0, 1)


class _Rays:
    """State of RayS: each sample's direction of signs and the radius where it is adversarial."""

    def __init__(self, oracle: DecisionOracle, images: Tensor, radius: Tensor) -> None:
        self.oracle, self.images, self.radius = oracle, images, radius
        self.signs = torch.ones_like(images)

    def alive(self, eps: float) -> Tensor:
        """Return the samples not yet within ``eps`` that have queries left."""
        return ((self.radius > eps) & (self.oracle.used < self.oracle.limit)).nonzero()[:, 0]

    def run(self, eps: float) -> None:
        """Try the whole direction, then flip halves, quarters, ever finer blocks, and repeat."""
        size = self.images.shape[1:].numel()
        self._try(self.signs[self.alive(eps)], self.alive(eps), eps)

        blocks, index = 1, 0
        while len(rows := self.alive(eps)):
            width = -(-size // blocks)
            if index * width >= size or index >= blocks:
                blocks, index = (blocks * 2 if blocks < size else 1), 0
                continue

            trial = self.signs[rows].flatten(1).clone()
            trial[:, index * width : (index + 1) * width] *= -1
            self._try(trial.view(len(rows), *self.images.shape[1:]), rows, eps)
            index += 1

    def _try(self, signs: Tensor, rows: Tensor, eps: float) -> None:
        """Test ``signs`` at the best radius so far; where adversarial, bisect to the boundary.

        The radius is 1 for samples that have none yet.
        """
        radius = self.radius[rows].clamp(max=1)
        adversarial = self.oracle(_along(self.images[rows], signs, radius), rows)
        rows, signs, high = rows[adversarial], signs[adversarial], radius[adversarial]

        # Any radius within eps will do: one query there can save the bisection.
        within = self.oracle(_along(self.images[rows], signs, torch.full_like(high, eps)), rows)
        high = torch.where(within, torch.full_like(high, eps), high)
        low = torch.where(within, high, torch.full_like(high, eps))

        while True:
            has_queries = self.oracle.used[rows] < self.oracle.limit
            wide = ((high - low > 1e-3) & has_queries).nonzero()[:, 0]
            if not len(wide):
                break
            middle = (low[wide] + high[wide]) / 2
            trial = _along(self.images[rows[wide]], signs[wide], middle)
            adversarial = self.oracle(trial, rows[wide])
            high[wide] = torch.where(adversarial, middle, high[wide])
            low[wide] = torch.where(adversarial, low[wide], middle)

        self.signs[rows], self.radius[rows] = signs, high


@open_inputs
def hopskipjump(
    model: Scores,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "l2",
    queries: int = 2000,
    probes: int = 50,
    targets: Tensor | None = None,
    starts: Tensor | None = None,
    seed: int = 0,
) -> AttackResult:
    """Attack with HopSkipJump (Chen, Jordan & Wainwright 2020), which needs predicted classes only.

    Walks along the decision boundary, whose normal is estimated from classes around the point. A
    sample that fails keeps its clean image. Noise is seldom of a target's class: a targeted attack
    needs ``starts`` most often.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius within which an image counts as success, in units of [0, 1].
        norm: "l2" or "linf".
        queries: Largest number of queries a sample; the clean image takes one more.
        probes: Queries for the first estimate of the normal; step k takes probes * sqrt(k).
        targets: Target classes (b,) for a targeted attack.
        starts: Images (b, c, h, w) to start from, such as some of the target's class; noise where
            one is not adversarial, and without them.
        seed: Seed of every random choice.

    Returns:
        The adversarial images with success and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: The norm is l1, or ``starts`` have another shape than the images.

    Example:
        >>> import torch
        >>> from physadv.attacks import hopskipjump
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = hopskipjump(net, images, labels, eps=1.0, queries=100)
        >>> bool((result.queries <= 101).all())
        True
    """
    if parse_norm(norm) == "l1":
        raise OptionError(
            f"norm {norm!r}", "HopSkipJump supports l2 and linf", "Choose one of these"
        )

    def run(walk: BoundaryWalk) -> None:
        walk.run(eps, probes)

    return walked(
        BoundaryWalk, run, model, images, labels, eps, norm, queries, targets, starts, seed
    )


_SomeWalk = TypeVar("_SomeWalk", bound="BoundaryWalk")


def walked(
    kind: Callable[[DecisionOracle, Tensor, Norm, int], _SomeWalk],
    run: Callable[[_SomeWalk], None],
    model: Scores,
    images: Tensor,
    labels: Tensor,
    eps: float,
    norm: Norm,
    queries: int,
    targets: Tensor | None,
    starts: Tensor | None,
    seed: int,
) -> AttackResult:
    """Run an attack that moves along the decision boundary, from its start to its result.

    Args:
        kind: Class of the walk.
        run: The attack's own moves, from points on the boundary.
        model: Model under attack.
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        eps: Radius within which an image counts as success.
        norm: Norm of the distance.
        queries: Largest number of queries a sample, one more for the clean image.
        targets: Target classes (b,), or None.
        starts: Images (b, c, h, w) to start from, or None.
        seed: Seed of every random choice.

    Returns:
        The nearest adversarial images within ``eps``, clean ones elsewhere, with queries.

    Raises:
        OptionError: ``starts`` have another shape than the images.
    """
    check_batch(images, labels, targets)
    if starts is not None and starts.shape != images.shape:
        raise OptionError(
            f"starts of shape {tuple(starts.shape)}", f"{tuple(images.shape)}", "Give one an image"
        )
    images = images.detach()

    with frozen_eval(model), torch.no_grad():
        oracle = decision_oracle(model, labels, images, queries, targets)
        everyone = torch.arange(len(images), device=images.device)
        is_adversarial = oracle(images, everyone)

        walk = kind(oracle, images, norm, seed)
        walk.start(everyone[~is_adversarial], starts)
        run(walk)

        success = is_adversarial | (walk.distance <= eps)
        best = torch.where((success & ~is_adversarial).view(-1, 1, 1, 1), walk.points, images)
    return AttackResult(images=best, success=success, queries=oracle.used.cpu())


class BoundaryWalk:
    """State of HopSkipJump: each sample's nearest adversarial image so far, and its distance."""

    def __init__(self, oracle: DecisionOracle, images: Tensor, norm: Norm, seed: int) -> None:
        self.oracle, self.images, self.norm = oracle, images, norm
        self.points, self.source = images.clone(), generator(seed, "hopskipjump")
        self.distance = torch.full(
            (len(images),), torch.inf, device=images.device, dtype=torch.float64
        )

    def draw(self, kind: Callable[..., Tensor]) -> Tensor:
        """Return one draw (1, c, h, w) of ``kind``, the same for all samples."""
        return kind((1, *self.images.shape[1:]), generator=self.source).to(self.images)

    def start(self, rows: Tensor, starts: Tensor | None = None) -> None:
        """Find an adversarial image for each sample of ``rows``, among ``starts`` (b, ...) or by
        drawing noise, then go to the boundary."""
        if starts is not None and len(rows):
            given = starts[rows].to(self.images)
            adversarial = self.oracle(given, rows)
            self._to_boundary(given[adversarial], rows[adversarial])
            rows = rows[~adversarial]
        # How many draws the batch takes here must not change what its samples get later.
        state = None if starts is None else self.source.get_state()
        for _ in range(_STARTS if len(rows) else 0):
            noise = self.draw(torch.rand).expand(len(rows), *self.images.shape[1:])
            state = self.source.get_state() if state is None else state
            adversarial = self.oracle(noise, rows)
            self._to_boundary(noise[adversarial], rows[adversarial])
            rows = rows[~adversarial]
            if not len(rows):
                break
        if state is not None:
            self.source.set_state(state)

    def _blend(self, far: Tensor, rows: Tensor, part: Tensor) -> Tensor:
        """Return the point at ``part`` between the clean image (0) and ``far`` (1).

        Along the line in l_2; in l_inf by clipping the change.
        """
        clean, part = self.images[rows], part.view(-1, 1, 1, 1)
        change = far.double() - clean.double()
        if self.norm != "linf":
            return step_toward(clean, part * change)
        reach = part * change.abs().amax((1, 2, 3), keepdim=True)
        return step_toward(clean, torch.minimum(torch.maximum(change, -reach), reach))

    def _to_boundary(self, far: Tensor, rows: Tensor) -> None:
        """Bisect from misclassified images to the boundary; keep the results that are nearer."""
        low, high = torch.zeros_like(self.distance[rows]), torch.ones_like(self.distance[rows])
        for _ in range(12):
            middle = (low + high) / 2
            adversarial = self.oracle(self._blend(far, rows, middle), rows)
            high = torch.where(adversarial, middle, high)
            low = torch.where(adversarial, low, middle)

        self.keep(self._blend(far, rows, high), rows)

    def keep(self, points: Tensor, rows: Tensor) -> None:
        """Keep adversarial ``points``, one for each sample of ``rows``, where they are nearer than
        the nearest so far."""
        length = lp_distance(points, self.images[rows], self.norm)
        nearer = length < self.distance[rows]
        self.points[rows[nearer]], self.distance[rows[nearer]] = points[nearer], length[nearer]

    def alive(self, eps: float) -> Tensor:
        """Return the samples (k,) on the boundary, not yet within ``eps``, that have queries."""
        open_ = (self.distance > eps) & self.distance.isfinite()
        return (open_ & (self.oracle.used < self.oracle.limit)).nonzero()[:, 0]

    def run(self, eps: float, probes: int) -> None:
        """Repeat: estimate the boundary's normal, step along it, return to the boundary."""
        step = 0
        while True:
            step += 1
            rows = self.alive(eps)
            if not len(rows):
                return
            normal = self._normal(rows, int(probes * step**0.5))
            self._jump(normal, rows, step)

    def _normal(self, rows: Tensor, probes: int) -> Tensor:
        """Estimate the direction (k, c, h, w) into the misclassified side of the boundary.

        Takes ``probes`` queries at a small radius for each sample of ``rows`` (k,).
        """
        size = self.images.shape[1:].numel()
        radius = (self.distance[rows] / size**0.5).clamp_min(1e-4).view(-1, 1, 1, 1).to(self.images)
        if self.norm == "linf":
            radius = radius * size**0.5 / 10

        total, shift = torch.zeros_like(self.images[rows]), torch.zeros_like(self.images[rows])
        votes = []
        for _ in range(probes):
            noise = self.draw(torch.randn)
            noise = noise / noise.norm() * (1.0 if self.norm == "l2" else size**0.5)
            trial = (self.points[rows] + radius * noise).clamp(0, 1)
            vote = self.oracle(trial, rows).to(total.dtype) * 2 - 1
            actual = (trial - self.points[rows]) / radius
            total, shift = total + vote.view(-1, 1, 1, 1) * actual, shift + actual
            votes.append(vote)

        # The mean vote as baseline lowers the variance where one side prevails.
        mean = torch.stack(votes).mean(0).view(-1, 1, 1, 1)
        normal = torch.where(mean.abs() < 1, total - mean * shift, total)
        if self.norm == "linf":
            return normal.sign()
        length: Tensor = torch.linalg.vector_norm(normal.flatten(1), dim=1).clamp_min(1e-12)
        return normal / length.view(-1, 1, 1, 1)

    def _jump(self, normal: Tensor, rows: Tensor, step: int) -> None:
        """Halve the step until the point is misclassified, then go to the boundary from there."""
        reach = (self.distance[rows] / step**0.5).to(self.images)
        far = self.points[rows].clone()
        pending = torch.arange(len(rows), device=rows.device)

        for _ in range(10):
            step_change = reach[pending].view(-1, 1, 1, 1) * normal[pending]
            trial = (self.points[rows[pending]] + step_change).clamp(0, 1)
            adversarial = self.oracle(trial, rows[pending])
            far[pending[adversarial]] = trial[adversarial]
            pending = pending[~adversarial]
            reach[pending] /= 2

        self._to_boundary(far, rows)
