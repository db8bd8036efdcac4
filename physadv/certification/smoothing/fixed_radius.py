"""Smoothing at a fixed radius: samples in stages, so that easy images cost hundreds of samples, not
100,000.

The question is one-sided: does the top-class probability exceed what the radius needs? A
:class:`SequentialPlan` fixes the looks and keeps the error of all looks together at alpha, as in
Cohen et al. (2019); the proof stands in :mod:`physadv.certification.smoothing.sequential_plan`.
Stopping early for futility only ever abstains, which keeps the guarantee. Horvath et al. (2022),
Chen et al. (2022) and Voracek (2024) spend samples per input in related ways.
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
    """Certify images at one radius, drawing samples only until each image is decided.

    Images that still need samples share batches.

    Args:
        sampler: Sampler that owns the model, the noise and the seed.
        images: Images, each (1, c, h, w) in [0, 1].
        plan: Looks and their decisions, made for the probability that ``radius`` needs.
        radius: Radius to certify, in units of [0, 1].
        norm: Norm of the radius.
        n0: Samples that pick the class.
        indices: Numbers that name the images' noise; 0, 1, ... by default.

    Returns:
        A certificate each, with this radius, or with 0 and ABSTAIN.

    Raises:
        OptionError: The radius needs a larger probability than the plan was made for.
    """
    if images and sampler.noise.needed(radius, norm, images[0].numel()) > plan.needed + 1e-12:
        raise OptionError(
            f"radius {radius} in {norm}",
            f"needs a larger probability than the plan's {plan.needed:.6g}",
            "Make the plan for noise.needed(radius, norm, dims)",
        )
    names = list(range(len(images))) if indices is None else list(indices)
    picks = sampler.count(
        [SampleRequest(image, i, "pick", 0, n0) for image, i in zip(images, names, strict=True)]
    )
    tops = [int(p.argmax()) for p in picks]

    votes, used = np.zeros(len(images), np.int64), np.zeros(len(images), np.int64)
    decision = np.zeros(len(images), np.int64)
    for look, (first, last) in enumerate(_stages(plan)):
        undecided = [k for k in range(len(images)) if decision[k] == 0]
        requests = [
            SampleRequest(images[k], names[k], "count", first, last - first) for k in undecided
        ]
        for k, counts in zip(undecided, sampler.count(requests), strict=True):
            votes[k] += _votes_for(counts, tops[k])
            used[k] = last
            decision[k] = _decide(plan, look, votes[k : k + 1])[0]

    return [
        SmoothingCertificate(top, radius, plan.needed, n0 + int(n))
        if v > 0
        else SmoothingCertificate(ABSTAIN, 0.0, 0.0, n0 + int(n))
        for top, v, n in zip(tops, decision, used, strict=True)
    ]


def _decide(plan: SequentialPlan, look: int, votes: Ints) -> Ints:
    """Return for each count of votes 1 (certify), -1 (give up) or 0 (go on), at a look of the
    plan."""
    return np.where(votes >= plan.accept[look], 1, np.where(votes <= plan.reject[look], -1, 0))


def simulate_plan(
    plan: SequentialPlan, p: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Simulate the plan on images of known top-class probability.

    Args:
        plan: Plan to run.
        p: Top-class probabilities, of any shape.
        rng: Source of the simulated votes.

    Returns:
        Whether each is certified, and the number of samples used, both of the shape of ``p``.
    """
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
