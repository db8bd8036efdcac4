"""Label-only black box: the victim's decisions are asked, its scores are not; every question is
counted.

Both attacks look for the nearest adversarial image and succeed where it lies within ``eps``.
Samples that got there are asked about no further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.attacks._classifier_step import check_batch, frozen_eval
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.score_based import Scores
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.criteria import Misclassification
from physadv.threat.norms import Norm, lp_distance, parse_norm, step_toward


@dataclass
class _DecisionOracle:
    """Answers "is this image misread?" and counts the questions per sample, ``limit`` at most.
    ``used`` is (b,)."""

    model: Scores
    labels: Tensor
    used: Tensor
    limit: int

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        """Which of ``images`` (those of samples ``rows``, in order) the victim misreads; no, where
        the limit is met."""
        answer = torch.zeros(len(rows), dtype=torch.bool, device=images.device)
        if len(ask := self.open(rows)):
            self.used[rows[ask]] += 1
            answer[ask] = Misclassification(self.labels[rows[ask]])(self.model(images[ask]))
        return answer

    def open(self, rows: Tensor) -> Tensor:
        """Positions in ``rows`` of the samples that may still ask."""
        return (self.used[rows] < self.limit).nonzero()[:, 0]


def _oracle(model: Scores, labels: Tensor, images: Tensor, queries: int) -> _DecisionOracle:
    return _DecisionOracle(
        model,
        labels,
        torch.zeros(len(images), dtype=torch.long, device=images.device),
        queries + 1,
    )


@open_inputs
def rays(
    model: Scores, images: Tensor, labels: Tensor, *, eps: float, queries: int = 2000
) -> AttackResult:
    """Attack by labels alone: search for the l_inf direction of signs with the nearest boundary.

    RayS (Chen & Gu 2020) flips signs block by block and draws nothing at random. A sample that
    fails keeps its clean image.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius within which an image counts as success, in units of [0, 1].
        queries: Largest number of labels requested a sample, one more for the clean image.

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
        oracle = _oracle(model, labels, images, queries)
        everyone = torch.arange(len(images), device=images.device)
        is_adversarial = oracle(images, everyone)
        search = _Rays(oracle, images, radius=torch.where(is_adversarial, 0.0, torch.inf).double())
        search.run(eps)
        success = is_adversarial | (search.radius <= eps)
        found = _along(images, search.signs, torch.full_like(search.radius, eps))
        best = torch.where((success & ~is_adversarial).view(-1, 1, 1, 1), found, images)
    return AttackResult(images=best, success=success, queries=oracle.used.cpu())


def _along(images: Tensor, signs: Tensor, radius: Tensor) -> Tensor:
    """The image ``radius`` along the signs, in [0, 1] and never a rounding farther."""
    return step_toward(images, radius.view(-1, 1, 1, 1) * signs.double()).clamp(0, 1)


class _Rays:
    """The state of RayS: a direction of signs and the radius at which it is adversarial, per
    sample."""

    def __init__(self, oracle: _DecisionOracle, images: Tensor, radius: Tensor) -> None:
        self.oracle, self.images, self.radius = oracle, images, radius
        self.signs = torch.ones_like(images)

    def alive(self, eps: float) -> Tensor:
        """Samples not yet within ``eps`` that may still ask."""
        return ((self.radius > eps) & (self.oracle.used < self.oracle.limit)).nonzero()[:, 0]

    def run(self, eps: float) -> None:
        """Try the whole direction, then flip halves, quarters ... of it, over and over with finer
        blocks."""
        size = self.images[0].numel()
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
        """Ask at the present radius (1 while none is known); where it is adversarial, halve down to
        the boundary."""
        radius = self.radius[rows].clamp(max=1)
        hit = self.oracle(_along(self.images[rows], signs, radius), rows)
        rows, signs, high = rows[hit], signs[hit], radius[hit]
        # within eps is what is asked: one question there spares the search
        inside = self.oracle(_along(self.images[rows], signs, torch.full_like(high, eps)), rows)
        high = torch.where(inside, torch.full_like(high, eps), high)
        low = torch.where(inside, high, torch.full_like(high, eps))
        while len(
            open_ := ((high - low > 1e-3) & (self.oracle.used[rows] < self.oracle.limit)).nonzero()[
                :, 0
            ]
        ):
            middle = (low[open_] + high[open_]) / 2
            hit = self.oracle(_along(self.images[rows[open_]], signs[open_], middle), rows[open_])
            high[open_] = torch.where(hit, middle, high[open_])
            low[open_] = torch.where(hit, low[open_], middle)
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
    seed: int = 0,
) -> AttackResult:
    """Attack by labels alone: walk along the decision boundary (Chen, Jordan & Wainwright 2020).

    The direction of each step is estimated from the labels around a boundary point. A sample that
    fails keeps its clean image.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius within which an image counts as success, in units of [0, 1].
        norm: "l2" or "linf".
        queries: Largest number of labels requested a sample, one more for the clean image.
        probes: Labels requested for the first direction; later ones take more, by the root of the
            step.
        seed: Seed of every random choice.

    Returns:
        The adversarial images with success and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: The norm is l1.

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
        raise OptionError(f"norm {norm}", "HopSkipJump knows l2 and linf", "choose one of these")
    check_batch(images, labels)
    images = images.detach()
    with frozen_eval(model), torch.no_grad():
        oracle = _oracle(model, labels, images, queries)
        everyone = torch.arange(len(images), device=images.device)
        is_adversarial = oracle(images, everyone)
        walk = _Walk(oracle, images, norm, seed)
        walk.start(everyone[~is_adversarial])
        walk.run(eps, probes)
        success = is_adversarial | (walk.distance <= eps)
        best = torch.where((success & ~is_adversarial).view(-1, 1, 1, 1), walk.points, images)
    return AttackResult(images=best, success=success, queries=oracle.used.cpu())


class _Walk:
    """The state of HopSkipJump: the nearest misread image so far, per sample, and its distance."""

    def __init__(self, oracle: _DecisionOracle, images: Tensor, norm: Norm, seed: int) -> None:
        self.oracle, self.images, self.norm = oracle, images, norm
        self.points, self.source = images.clone(), generator(seed, "hopskipjump")
        self.distance = torch.full(
            (len(images),), torch.inf, device=images.device, dtype=torch.float64
        )

    def draw(self, kind: Callable[..., Tensor]) -> Tensor:
        """One draw (1, c, h, w), the same for all samples."""
        return kind((1, *self.images.shape[1:]), generator=self.source).to(self.images)

    def start(self, rows: Tensor) -> None:
        """Draw a random image that is misclassified for each of ``rows``; go to the boundary."""
        for _ in range(50):
            noise = self.draw(torch.rand).expand(len(rows), *self.images.shape[1:])
            hit = self.oracle(noise, rows)
            self._to_boundary(noise[hit], rows[hit])
            rows = rows[~hit]
            if not len(rows):
                return

    def _blend(self, far: Tensor, rows: Tensor, part: Tensor) -> Tensor:
        """Between the clean image (``part`` 0) and ``far`` (1): along the line, or in l_inf by
        clipping the change."""
        clean, part = self.images[rows], part.view(-1, 1, 1, 1)
        change = far.double() - clean.double()
        if self.norm == "l2":
            return step_toward(clean, part * change)
        reach = part * change.abs().amax((1, 2, 3), keepdim=True)
        return step_toward(clean, torch.minimum(torch.maximum(change, -reach), reach))

    def _to_boundary(self, far: Tensor, rows: Tensor) -> None:
        """Bisect from a misread image to the boundary; keep the result where it is nearer than what
        was known."""
        low, high = torch.zeros_like(self.distance[rows]), torch.ones_like(self.distance[rows])
        for _ in range(12):
            middle = (low + high) / 2
            hit = self.oracle(self._blend(far, rows, middle), rows)
            high, low = torch.where(hit, middle, high), torch.where(hit, low, middle)
        found = self._blend(far, rows, high)
        length = lp_distance(found, self.images[rows], self.norm)
        nearer = length < self.distance[rows]
        self.points[rows[nearer]], self.distance[rows[nearer]] = found[nearer], length[nearer]

    def run(self, eps: float, probes: int) -> None:
        """Estimate the boundary's normal from labels around the point, step along it, go back to
        the boundary."""
        step = 0
        while True:
            step += 1
            near = (self.distance > eps) & self.distance.isfinite()
            rows = (near & (self.oracle.used < self.oracle.limit)).nonzero()[:, 0]
            if not len(rows):
                return
            normal = self._normal(rows, int(probes * step**0.5))
            self._jump(normal, rows, step)

    def _normal(self, rows: Tensor, probes: int) -> Tensor:
        """Direction (len(rows), c, h, w) into the misread side, from ``probes`` labels at a small
        radius."""
        size = self.images[0].numel()
        radius = (self.distance[rows] / size**0.5).clamp_min(1e-4).view(-1, 1, 1, 1).to(self.images)
        if self.norm == "linf":
            radius = radius * size**0.5 / 10
        total, signs, shift = (
            torch.zeros_like(self.images[rows]),
            [],
            torch.zeros_like(self.images[rows]),
        )
        for _ in range(probes):
            noise = self.draw(torch.randn)
            noise = noise / noise.norm() * (1.0 if self.norm == "l2" else size**0.5)
            trial = (self.points[rows] + radius * noise).clamp(0, 1)
            vote = self.oracle(trial, rows).to(total.dtype) * 2 - 1
            actual = (trial - self.points[rows]) / radius
            total, shift = total + vote.view(-1, 1, 1, 1) * actual, shift + actual
            signs.append(vote)
        # the mean vote as baseline lowers the variance where one side prevails
        mean = torch.stack(signs).mean(0).view(-1, 1, 1, 1)
        normal = torch.where(mean.abs() < 1, total - mean * shift, total)
        if self.norm == "linf":
            return normal.sign()
        length: Tensor = torch.linalg.vector_norm(normal.flatten(1), dim=1).clamp_min(1e-12)
        return normal / length.view(-1, 1, 1, 1)

    def _jump(self, normal: Tensor, rows: Tensor, step: int) -> None:
        """Halve the step until the point is misread, then go to the boundary from there."""
        reach = (self.distance[rows] / step**0.5).to(self.images)
        far = self.points[rows].clone()
        todo = torch.arange(len(rows), device=rows.device)
        for _ in range(10):
            trial = (self.points[rows[todo]] + reach[todo].view(-1, 1, 1, 1) * normal[todo]).clamp(
                0, 1
            )
            hit = self.oracle(trial, rows[todo])
            far[todo[hit]] = trial[hit]
            todo = todo[~hit]
            reach[todo] /= 2
        self._to_boundary(far, rows)
