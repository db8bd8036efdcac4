"""Decision-based attacks by the geometry of the boundary: SurFree and GeoDA.

Both look for the nearest adversarial image by predicted classes alone, and take noise of low
frequencies, to which networks are most sensitive. The contract is that of
:mod:`physadv.attacks.decision_based`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, pi

import torch
from torch import Tensor

from physadv.attacks._directions import per_sample
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.decision_based import BoundaryWalk, walked
from physadv.attacks.score_based import Scores
from physadv.threat.norms import Norm, step_toward

_LOW, _LEAST = 0.5, 16
"""Share of the frequencies along each axis that noise is drawn from, the lowest ones; and how many
there are at least, so that small images get them all."""


@open_inputs
def surfree(
    model: Scores,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    queries: int = 2000,
    targets: Tensor | None = None,
    starts: Tensor | None = None,
    seed: int = 0,
) -> AttackResult:
    """Attack in l_2 with SurFree (Maho et al. 2021), which needs predicted classes only.

    No normal is estimated: in a random plane through the clean image and the nearest adversarial
    one the point moves along a circle, on which each angle is nearer, as far as it stays
    adversarial. A sample that fails keeps its clean image.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius within which an image counts as success, in units of [0, 1].
        queries: Largest number of queries a sample; the clean image takes one more.
        targets: Target classes (b,) for a targeted attack.
        starts: Images (b, c, h, w) to start from; noise where one is not adversarial.
        seed: Seed of every random choice.

    Returns:
        The adversarial images with success and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: ``starts`` have another shape than the images.

    Example:
        >>> import torch
        >>> from physadv.attacks import surfree
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = surfree(net, images, labels, eps=1.0, queries=100)
        >>> bool((result.queries <= 101).all())
        True
    """

    def run(walk: _Circles) -> None:
        walk.circle(eps)

    return walked(_Circles, run, model, images, labels, eps, "l2", queries, targets, starts, seed)


@open_inputs
def geoda(
    model: Scores,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "l2",
    queries: int = 2000,
    probes: int = 60,
    targets: Tensor | None = None,
    starts: Tensor | None = None,
    seed: int = 0,
) -> AttackResult:
    """Attack with GeoDA (Rahmati et al. 2020), which needs predicted classes only.

    Takes the boundary for a plane: estimates its normal from classes around the nearest adversarial
    image, and goes from the clean image along the normal, in the norm's own way, until the class
    changes. A sample that fails keeps its clean image.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius within which an image counts as success, in units of [0, 1].
        norm: "linf", "l2" or "l1".
        queries: Largest number of queries a sample; the clean image takes one more.
        probes: Queries for the first estimate of the normal; each later one takes half as many
            again.
        targets: Target classes (b,) for a targeted attack.
        starts: Images (b, c, h, w) to start from; noise where one is not adversarial.
        seed: Seed of every random choice.

    Returns:
        The adversarial images with success and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: ``starts`` have another shape than the images.

    Example:
        >>> import torch
        >>> from physadv.attacks import geoda
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = geoda(net, images, labels, eps=5.0, norm="l1", queries=100)
        >>> bool((result.queries <= 101).all())
        True
    """

    def run(walk: _Normals) -> None:
        walk.follow(eps, probes)

    return walked(_Normals, run, model, images, labels, eps, norm, queries, targets, starts, seed)


class _LowFrequencies(BoundaryWalk):
    """A walk whose noise has low frequencies alone."""

    def draw(self, kind: Callable[..., Tensor]) -> Tensor:
        """Return one draw (1, c, h, w), the same for all samples; of normal noise the low part."""
        noise = super().draw(kind)
        if kind is not torch.randn:
            return noise
        height, width = noise.shape[-2:]
        down, across = _cosines(height).to(noise), _cosines(width).to(noise)
        spectrum = noise[..., : len(down), : len(across)]
        return down.T @ spectrum @ across


class _Circles(_LowFrequencies):
    """State of SurFree: beside the nearest adversarial images, the largest angle that is tried."""

    widest, tries, rate, halvings, kept = 30.0, 3, 0.98, 7, 30

    def circle(self, eps: float) -> None:
        """Repeat: draw a direction, turn towards it as far as the class allows."""
        angle = torch.full_like(self.distance, self.widest)
        drawn: list[Tensor] = []
        while len(rows := self.alive(eps)):
            # Directions are drawn alike for all samples, each at right angles to those before.
            noise = self.draw(torch.randn)
            fresh = noise
            for other in drawn:
                fresh = fresh - (fresh * other).sum() * other
            if float(fresh.norm()) < 0.01 * float(noise.norm()):
                drawn = []  # every direction of a small image was drawn
                continue
            drawn = [*drawn, fresh / fresh.norm()][-self.kept :]

            turned = self._turn(rows, drawn[-1], angle[rows])
            factor = torch.where(turned, 1 / self.rate, self.rate)
            angle[rows] = (angle[rows] * factor).clamp_max(85)

    def _turn(self, rows: Tensor, direction: Tensor, widest: Tensor) -> Tensor:
        """Try angles either way, then widen the first that is adversarial; return which were."""
        clean, far = self.images[rows].double(), self.distance[rows]
        toward = (self.points[rows].double() - clean) / per_sample(far, clean)
        aside = direction.double().expand_as(clean)
        aside = aside - per_sample((aside * toward).flatten(1).sum(1), clean) * toward
        length = aside.flatten(1).norm(dim=1).clamp_min(1e-12)
        aside = aside / per_sample(length, clean)

        def at(angles: Tensor, part: Tensor) -> Tensor:
            radians = per_sample(angles[part] * (pi / 180), clean)
            change = radians.cos() * toward[part] + radians.sin() * aside[part]
            change = change * radians.cos() * per_sample(far[part], clean)
            return step_toward(self.images[rows[part]], change).clamp(0, 1)

        best, fails = torch.zeros_like(far), torch.zeros_like(far)
        for turn in range(self.tries):
            for sign in (1.0, -1.0):
                angles = sign * widest * (1 - turn / self.tries)
                part = (best == 0).nonzero()[:, 0]
                if not len(part):
                    break
                found = self.oracle(at(angles, part), rows[part])
                best[part[found]] = angles[part[found]]
                fails[part[found]] = angles[part[found]] + sign * widest[part[found]] / self.tries

        # The boundary lies between the best angle and the next one, which failed or is beyond.
        turned = best != 0
        fails = torch.where(turned, fails.clamp(-89, 89), fails)
        for _ in range(self.halvings):
            part = turned.nonzero()[:, 0]
            middle = (best + fails) / 2
            found = self.oracle(at(middle, part), rows[part])
            best[part[found]], fails[part[~found]] = middle[part[found]], middle[part[~found]]

        part = turned.nonzero()[:, 0]
        self.keep(at(best, part), rows[part])
        return turned


class _Normals(_LowFrequencies):
    """State of GeoDA."""

    def follow(self, eps: float, probes: int) -> None:
        """Repeat: estimate the normal, go along it from the clean image, return to the boundary."""
        count = float(probes)
        while len(rows := self.alive(eps)):
            normal = self._normal(rows, int(count))
            far, found = self._beyond(normal, rows)
            self._to_boundary(far[found], rows[found])
            count = min(1.5 * count, 1000.0)

    def _beyond(self, normal: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Go along the normal from the clean image, ever farther; return the first adversarial
        points (k, ...) and whether (k,) there are any."""
        far = self.points[rows].clone()
        found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        reach = self.distance[rows] * 0.7
        for _ in range(4):
            part = (~found).nonzero()[:, 0]
            if not len(part):
                break
            trial = _along(self.images[rows[part]], normal[part], reach[part], self.norm)
            adversarial = self.oracle(trial, rows[part])
            far[part[adversarial]], found[part[adversarial]] = trial[adversarial], True
            reach = reach * 1.4
        return far, found


def _along(clean: Tensor, normal: Tensor, reach: Tensor, norm: Norm) -> Tensor:
    """The point of [0, 1] at most ``reach`` (b,) from ``clean`` that lies farthest along
    ``normal``."""
    if norm == "linf":
        change = normal.sign() * per_sample(reach, clean)
    elif norm == "l2":
        change = normal * per_sample(reach, clean)
    else:
        start, weight = clean.double().flatten(1), normal.double().flatten(1)
        room = torch.where(weight > 0, 1 - start, start)
        order = weight.abs().argsort(1, descending=True)
        rooms = room.gather(1, order)
        left = (reach[:, None] - (rooms.cumsum(1) - rooms)).clamp_min(0)
        sizes = torch.zeros_like(room).scatter(1, order, torch.minimum(rooms, left))
        change = (sizes * weight.sign()).view(clean.shape)
    return step_toward(clean, change).clamp(0, 1)


def _cosines(length: int) -> Tensor:
    """The lowest rows (k, length) of the orthonormal discrete cosine transform."""
    count = min(length, max(_LEAST, ceil(length * _LOW)))
    place = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    waves = (torch.arange(count, dtype=torch.float64)[:, None] * place * pi).cos()
    waves[0] *= 0.5**0.5
    scaled: Tensor = waves * (2 / length) ** 0.5
    return scaled
