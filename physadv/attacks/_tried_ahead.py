"""Proposals of a random search tried several at once, where few samples are left.

A random search asks for one image of each sample at a time. Of few samples that is a small batch,
which takes as long as a larger one. So the next proposals are tried together, all from the same
point: up to the first that is kept the search went as it would have one by one, and what came after
it is tried again from the new point. The result is the same, for more passes; queries are counted
as one by one, so that they do not depend on how many samples share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.threat.criteria import Criterion
from physadv.threat.losses import Objective

Proposal = Callable[[Tensor, Tensor], Tensor]
"""From clean images and best points of the samples still searched to the next points to try."""
_RARE = 3
"""So many times as many proposals are expected for one that is kept as are tried at once."""
_SLOWNESS = 0.9


class LookAhead:
    """Number of proposals to try at once, by how many samples are left and how many are kept.

    Args:
        images: Number of images that a batch may have; 0 tries one proposal at a time.
    """

    def __init__(self, images: int) -> None:
        self.images, self._kept = images, 1.0

    def count(self, samples: int, most: int) -> int:
        """Return how many proposals to try for ``samples`` samples, at most ``most``."""
        if not self.images:
            return 1
        rare = int(1 / (_RARE * max(self._kept, 1e-9)))
        return max(1, min(self.images // samples, rare, most))

    def note(self, kept: float, tried: int) -> None:
        """Note the share ``kept`` of the last ``tried`` proposals of each sample."""
        weight: float = _SLOWNESS**tried
        self._kept = weight * self._kept + (1 - weight) * kept


@dataclass
class Points:
    """Best points (n, c, h, w) of the samples searched, their losses (n,), whether they are broken
    (n,), the queries that one by one takes (n,), and the number of proposals kept."""

    images: Tensor
    loss: Tensor
    broken: Tensor
    asked: Tensor
    kept: int = 0


def try_ahead(
    model: Callable[[Tensor], Tensor],
    proposals: Sequence[Proposal],
    clean: Tensor,
    points: Tensor,
    loss: Tensor,
    goal: Objective,
    criterion: Criterion,
) -> Points:
    """Try several proposals at once, with the result of trying one after the other.

    Args:
        model: Images to logits.
        proposals: Proposals in their order.
        clean: Clean images (n, c, h, w).
        points: Best points so far.
        loss: Their losses (n,).
        goal: Loss of these samples.
        criterion: Success of these samples.

    Returns:
        What is best after all proposals; a broken sample is tried on no more.
    """
    count = len(points)
    best = Points(
        points.clone(),
        loss.clone(),
        torch.zeros(count, dtype=torch.bool, device=points.device),
        torch.full((count,), len(proposals), device=points.device),
    )
    start = torch.zeros_like(best.asked)
    due = torch.arange(count, device=points.device)

    while len(due):
        rows, numbers, trials = [], [], []
        for number in range(int(start[due].min()), len(proposals)):
            some = due[start[due] <= number]
            whole = len(some) == count
            rows.append(some)
            numbers.append(torch.full_like(some, number))
            trials.append(
                proposals[number](
                    clean if whole else clean[some], best.images if whole else best.images[some]
                )
            )

        row, number_of, trial = torch.cat(rows), torch.cat(numbers), torch.cat(trials)
        logits = model(trial)
        score, broken = goal.pick(row)(logits), criterion.pick(row)(logits)
        better = broken | (score < best.loss[row]) & score.isfinite()

        # The first that is better is kept; what follows it was tried from a point left behind.
        first = torch.full_like(start, len(proposals))
        first = first.scatter_reduce(0, row[better], number_of[better], "amin")
        kept = better & (number_of == first[row])
        best.images[row[kept]] = trial[kept]
        best.loss[row[kept]] = score[kept]
        best.broken[row[kept]] = broken[kept]
        ends = kept & broken
        best.asked[row[ends]] = number_of[ends] + 1
        best.kept += int(kept.sum())
        start = (first + 1).masked_fill(best.broken, len(proposals))
        due = (start < len(proposals)).nonzero()[:, 0]
    return best
