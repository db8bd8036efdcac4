"""Smoothing at a fixed radius: samples in stages, so that easy images cost hundreds of samples and not 100,000.

The question is one-sided: is the top-class probability above what the radius needs? The error alpha is split over the
looks, so the certificates given are wrong with probability at most alpha, as Cohen's are (a union bound over looks).
Giving up early ("futility") only ever abstains, which no guarantee forbids. Horvath et al. (2022), Chen et al. (2022)
and Voracek (2024) spend samples per input in related ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log

import numpy as np
import numpy.typing as npt
from scipy import stats
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.defences.smoothing import ABSTAIN, Certificate, check_numbers
from physadv.defences.votes import Counts, Request, Sampler

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """When to look and what each look decides.

    After ``looks[k]`` samples: ``accept[k]`` votes or more certify, ``reject[k]`` or fewer give up, else go on. At the
    last look everything that is not accepted gives up. ``needed`` is the probability the radius asks for.
    """

    needed: float
    alpha: float
    looks: tuple[int, ...]
    accept: tuple[int, ...]
    reject: tuple[int, ...]


def make_plan(
    needed: float, *, n: int = 120_000, alpha: float = 0.001, growth: float = 1.5, last_share: float = 0.5,
    futility: float = 0.01,
) -> Plan:  # fmt: skip
    """A plan of at most ``n`` samples for p > ``needed``.

    Looks grow by ``growth`` from the first count at which unanimity would certify. The last look has ``last_share``
    of alpha and the others share the rest alike. An image is given up when, going by its votes so far, it would pass
    the last look with a probability below ``futility``. Raises OptionError for numbers out of range.
    """
    check_numbers(1, n, alpha)
    if not 0.5 <= needed < 1 or growth <= 1 or not 0 < last_share <= 1 or not 0 <= futility < 1:
        raise OptionError(
            f"needed p {needed:.6g}, growth {growth}, last share {last_share}, futility {futility}",
            "1/2 <= p < 1, growth > 1, 0 < share <= 1, 0 <= futility < 1",
            "lower the radius or raise the noise",
        )
    looks = _looks(needed, n, alpha, growth, last_share)
    shares = _shares(looks, alpha, last_share)
    accept = tuple(_least(needed, m, a) for m, a in zip(looks, shares, strict=True))
    reject = tuple(_hopeless(m, n, accept[-1], futility) for m in looks[:-1])
    return Plan(needed, alpha, looks, accept, (*reject, accept[-1] - 1))


def certify_at(
    sampler: Sampler, images: Sequence[Tensor], plan: Plan, *, radius: float, n0: int = 32,
    indices: Sequence[int] | None = None,
) -> list[Certificate]:  # fmt: skip
    """Certify each image (1, c, h, w) at ``radius``: certificates have that radius, or 0 and ABSTAIN.

    Images that still need samples share batches. ``indices`` name their noise (default 0, 1, ...). ``radius`` must be
    the one whose needed probability ``plan`` was made for.
    """
    names = list(range(len(images))) if indices is None else list(indices)
    picks = sampler.count([Request(image, i, "pick", 0, n0) for image, i in zip(images, names, strict=True)])
    tops = [int(p.argmax()) for p in picks]
    votes, taken = np.zeros(len(images), np.int64), np.zeros(len(images), np.int64)
    verdict = np.zeros(len(images), np.int64)
    for look, (first, last) in enumerate(_stages(plan)):
        waiting = [k for k in range(len(images)) if verdict[k] == 0]
        asked = [Request(images[k], names[k], "count", first, last - first) for k in waiting]
        for k, counts in zip(waiting, sampler.count(asked), strict=True):
            votes[k] += _votes_for(counts, tops[k])
            taken[k] = last
            verdict[k] = decide(plan, look, votes[k : k + 1])[0]
    return [
        Certificate(top, radius, plan.needed, n0 + int(n)) if v > 0 else Certificate(ABSTAIN, 0.0, 0.0, n0 + int(n))
        for top, v, n in zip(tops, verdict, taken, strict=True)
    ]


def decide(plan: Plan, look: int, votes: Ints) -> Ints:
    """What ``look`` decides on each count of votes: 1 certify, -1 give up, 0 go on."""
    return np.where(votes >= plan.accept[look], 1, np.where(votes <= plan.reject[look], -1, 0))


def simulate(plan: Plan, p: npt.NDArray[np.float64], rng: np.random.Generator) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Run the plan on images of known top-class probability: (certified, samples used) for each entry of ``p``."""
    votes, verdict = np.zeros(p.shape, np.int64), np.zeros(p.shape, np.int64)
    used = np.zeros(p.shape, np.int64)
    for look, (first, last) in enumerate(_stages(plan)):
        going = verdict == 0
        votes[going] += rng.binomial(last - first, p[going])
        used[going] = last
        verdict[going] = decide(plan, look, votes[going])
    return verdict > 0, used


def _stages(plan: Plan) -> Iterator[tuple[int, int]]:
    return zip((0, *plan.looks[:-1]), plan.looks, strict=True)


def _looks(needed: float, n: int, alpha: float, growth: float, last_share: float) -> tuple[int, ...]:
    """Geometric looks; the first is where unanimous votes certify, which depends on how many looks there are."""
    looks: list[int] = [n]
    for _ in range(20):
        spread = alpha * (1 - last_share) / max(len(looks) - 1, 1)
        first = ceil(log(spread) / log(needed)) + 1 if spread > 0 else n
        found: list[int] = []
        size = float(first)
        while size < n / growth**0.5:
            found.append(ceil(size))
            size *= growth
        if len(found) + 1 == len(looks):
            break
        looks = [*found, n]
    return tuple(looks)


def _shares(looks: tuple[int, ...], alpha: float, last_share: float) -> list[float]:
    early = len(looks) - 1
    return [alpha * (1 - last_share) / early] * early + [alpha * last_share] if early else [alpha]


def _least(needed: float, n: int, alpha: float) -> int:
    """The fewest votes of n whose Clopper-Pearson bound at alpha is above ``needed``; n + 1 where none is."""
    least = int(stats.binom.isf(alpha, n, needed)) + 1
    while least <= n and stats.binom.sf(least - 1, n, needed) > alpha:
        least += 1
    return min(least, n + 1)


def _hopeless(n: int, total: int, accept: int, futility: float) -> int:
    """The most votes of n after which ``accept`` of ``total`` is out of reach but for a chance of ``futility``.

    By the normal approximation to the predictive distribution: this decides only when to abstain.
    """
    votes = np.arange(n + 1)
    p = (votes + 0.5) / (n + 1)
    rest = total - n
    deviation = np.sqrt(rest * p * (1 - p) * (1 + rest / n))
    hopeless = stats.norm.sf((accept - 0.5 - votes - rest * p) / deviation) < futility
    return int(votes[hopeless].max(initial=-1))


def _votes_for(counts: Counts, top: int) -> int:
    return int(counts[top]) if top < len(counts) else 0
