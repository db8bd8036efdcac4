"""Smoothing at a fixed radius: samples in stages, so that easy images cost hundreds of samples and
not 100,000.

The question is one-sided: is the top-class probability above what the radius needs? A :class:`SequentialPlan`
says when to look and keeps the error of all looks together at alpha, as Cohen's is; the proof
stands in :mod:`physadv.certification.smoothing.sequential_plan`. Giving up early ("futility") only
ever abstains, which no guarantee forbids. Horvath et al. (2022), Chen et al. (2022) and Voracek
(2024) spend samples per input in related ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from physadv.certification.smoothing.certify import ABSTAIN, SmoothingCertificate
from physadv.certification.smoothing.sampler import Counts, NoiseSampler, SampleRequest
from physadv.certification.smoothing.sequential_plan import SequentialPlan
from physadv.core.errors import OptionError

Ints = npt.NDArray[np.int64]


def certify_at_radius(
    sampler: NoiseSampler,
    images: Sequence[Tensor],
    plan: SequentialPlan,
    *,
    radius: float,
    norm: str = "l2",
    n0: int = 32,
    indices: Sequence[int] | None = None,
) -> list[SmoothingCertificate]:
    """Certify each image (1, c, h, w) at ``radius``: certificates have that radius, or 0 and
    ABSTAIN.

    Images that still need samples share batches. ``indices`` name their noise (default 0, 1, ...).
    Raises OptionError for a ``radius`` in ``norm`` that needs a greater probability than the one
    ``plan`` was made for.
    """
    if images and sampler.noise.needed(radius, norm, images[0].numel()) > plan.needed + 1e-12:
        raise OptionError(
            f"radius {radius} in {norm}",
            f"the plan is for p > {plan.needed:.6g}, which does not reach it",
            "make the plan for noise.needed(radius, norm, dims)",
        )
    names = list(range(len(images))) if indices is None else list(indices)
    picks = sampler.count(
        [SampleRequest(image, i, "pick", 0, n0) for image, i in zip(images, names, strict=True)]
    )
    tops = [int(p.argmax()) for p in picks]
    votes, taken = np.zeros(len(images), np.int64), np.zeros(len(images), np.int64)
    verdict = np.zeros(len(images), np.int64)
    for look, (first, last) in enumerate(_stages(plan)):
        waiting = [k for k in range(len(images)) if verdict[k] == 0]
        asked = [SampleRequest(images[k], names[k], "count", first, last - first) for k in waiting]
        for k, counts in zip(waiting, sampler.count(asked), strict=True):
            votes[k] += _votes_for(counts, tops[k])
            taken[k] = last
            verdict[k] = _decide(plan, look, votes[k : k + 1])[0]
    return [
        SmoothingCertificate(top, radius, plan.needed, n0 + int(n))
        if v > 0
        else SmoothingCertificate(ABSTAIN, 0.0, 0.0, n0 + int(n))
        for top, v, n in zip(tops, verdict, taken, strict=True)
    ]


def _decide(plan: SequentialPlan, look: int, votes: Ints) -> Ints:
    """What ``look`` decides on each count of votes: 1 certify, -1 give up, 0 go on."""
    return np.where(votes >= plan.accept[look], 1, np.where(votes <= plan.reject[look], -1, 0))


def simulate_plan(
    plan: SequentialPlan, p: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Run the plan on images of known top-class probability: (certified, samples used) for each
    entry of ``p``."""
    votes, verdict = np.zeros(p.shape, np.int64), np.zeros(p.shape, np.int64)
    used = np.zeros(p.shape, np.int64)
    for look, (first, last) in enumerate(_stages(plan)):
        going = verdict == 0
        votes[going] += rng.binomial(last - first, p[going])
        used[going] = last
        verdict[going] = _decide(plan, look, votes[going])
    return verdict > 0, used


def _stages(plan: SequentialPlan) -> Iterator[tuple[int, int]]:
    return zip((0, *plan.looks[:-1]), plan.looks, strict=True)


def _votes_for(counts: Counts, top: int) -> int:
    return int(counts[top]) if top < len(counts) else 0
