"""Pointwise attack in l_0: from noise that fools the model, pixels get their clean values back.

The contract is that of :mod:`physadv.attacks.decision_based`: predicted classes alone are used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.decision_based import BoundaryWalk, DecisionOracle, walked
from physadv.attacks.score_based import Scores
from physadv.core.random_streams import generator
from physadv.threat.norms import Norm

_DRAWS, _LEVELS = 5, 8
"""Draws of noise at each number of pixels, and numbers of pixels: each twice the one before."""


@open_inputs
def pointwise(
    model: Scores,
    images: Tensor,
    labels: Tensor,
    *,
    pixels: int,
    queries: int = 2000,
    targets: Tensor | None = None,
    starts: Tensor | None = None,
    seed: int = 0,
) -> AttackResult:
    """Attack a number of pixels with the Pointwise attack (Schott et al. 2018), by classes alone.

    Starts at salt-and-pepper noise on as few pixels as were found to fool the model, and gives
    changed pixels their clean values back in random order, groups before single ones, as long as
    the class stays wrong. Where no pixel can be given back it begins anew in another order. A
    sample that fails keeps its clean image.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        pixels: Number of changed pixels within which an image counts as success, at least 1.
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
        >>> from physadv.attacks import pointwise
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = pointwise(net, images, labels, pixels=3, queries=100)
        >>> bool((result.queries <= 101).all())
        True
    """

    def run(walk: _ChangedPixels) -> None:
        walk.give_back(pixels)

    return walked(
        _ChangedPixels, run, model, images, labels, pixels, "l0", queries, targets, starts, seed
    )


class _ChangedPixels(BoundaryWalk):
    """State of the Pointwise attack. All samples get the same draws, so that a sample's result does
    not depend on its batch."""

    def __init__(self, oracle: DecisionOracle, images: Tensor, norm: Norm, seed: int) -> None:
        super().__init__(oracle, images, norm, seed)
        self.order = generator(seed, "pointwise", "order")
        self.noise = generator(seed, "pointwise", "noise")

    def start(self, rows: Tensor, starts: Tensor | None = None) -> None:
        """Find an adversarial image for each sample of ``rows``, among ``starts`` (b, ...) or by
        noise on more and more pixels."""
        if starts is not None and len(rows):
            rows = self._remaining(starts[rows].to(self.images), rows)
        size = self.images.shape[2:].numel()
        for draw in range(_DRAWS * _LEVELS):
            if not len(rows):
                return
            count = max(1, size >> (_LEVELS - 1 - draw // _DRAWS))
            rows = self._remaining(self._noisy(rows, count), rows)

    def _remaining(self, points: Tensor, rows: Tensor) -> Tensor:
        """Keep the ``points`` that are adversarial; return the other samples of ``rows``."""
        adversarial = self.oracle(points, rows)
        self.keep(points[adversarial], rows[adversarial])
        return rows[~adversarial]

    def _noisy(self, rows: Tensor, count: int) -> Tensor:
        """The clean images of ``rows`` with ``count`` pixels at 0 or 1 in each channel."""
        shape = self.images.shape[1:]
        chosen = torch.randperm(shape[1:].numel(), generator=self.noise)[:count]
        corners = torch.randint(0, 2, (shape[0], count), generator=self.noise)
        points = self.images[rows].flatten(2)
        points[:, :, chosen.to(points.device)] = corners.to(points)
        return points.view(-1, *shape)

    def give_back(self, pixels: int) -> None:
        """Give pixels back until at most ``pixels`` are changed, or no query is left."""
        first, current = self.points.clone(), self.points.clone()
        group = torch.ones_like(self.oracle.used)
        failures = torch.full_like(group, torch.iinfo(torch.int64).max)  # each begins

        while len(rows := self.alive(pixels)):
            stuck = rows[failures[rows] > 2 * self._changed(current, rows).sum(1)]
            current[stuck], failures[stuck] = first[stuck], 0
            group[stuck] = (self._changed(first, stuck).sum(1) // 4).clamp_min(1)

            changed = self._changed(current, rows)
            returned = self._drawn(changed, group[rows]).view(-1, 1, *self.images.shape[2:])
            trial = torch.where(returned, self.images[rows], current[rows])
            adversarial = self.oracle(trial, rows)
            self.keep(trial[adversarial], rows[adversarial])
            current[rows[adversarial]] = trial[adversarial]

            # Alone, a pixel that cannot be given back is a failure; a group was too large.
            single = group[rows] == 1
            failures[rows] = torch.where(adversarial, 0, failures[rows] + single)
            group[rows] = torch.where(adversarial, group[rows], group[rows] // 2).clamp_min(1)

    def _changed(self, points: Tensor, rows: Tensor) -> Tensor:
        """Which pixels (k, h * w) of ``rows`` differ from the clean ones."""
        return (points[rows] != self.images[rows]).any(1).flatten(1)

    def _drawn(self, changed: Tensor, count: Tensor) -> Tensor:
        """Draw ``count`` (k,) of the ``changed`` (k, n) pixels, all where there are fewer."""
        ranks = torch.rand(1, changed.shape[1], generator=self.order).to(changed.device)
        ranks = ranks.masked_fill(~changed, -1)
        least = ranks.sort(1, descending=True).values.gather(1, count[:, None] - 1)
        return changed & (ranks >= least)
