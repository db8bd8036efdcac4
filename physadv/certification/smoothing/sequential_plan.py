"""Sequential test of a smoothing count at a fixed radius: the looks, and the decision at each.

The hypothesis to reject is "the class's probability is ``needed`` or less". A plan is a walk with
two barriers: enough votes at a look certify, too few give up ("futility").

Guarantee: an image whose probability is not above ``needed`` is certified with probability at most
alpha over the noise. For p <= needed draw each vote as U < p and as U < needed with the same U: the
second count is never smaller at any look, so whatever certifies under p certifies under ``needed``,
and the probability at ``needed``, computed here exactly by recursion over the looks, bounds them
all. The share of alpha spent by each look is fixed beforehand (Lan and DeMets 1983; Jennison and
Turnbull 2000, chapters 7, 12).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from scipy import stats

from physadv.certification.smoothing.certify import check_sample_counts
from physadv.certification.smoothing.sampler import UNIT
from physadv.core.errors import OptionError

FIRST = 64
"""Samples before the first look, which can only give up unless the radius is small."""
TAIL, SLACK = 1e-14, 1e-11
"""Tails of a binomial cut off at each look, and the part of alpha reserved for them and for
rounding."""


@dataclass(frozen=True)
class SequentialPlan:
    """Looks of a sequential test and the decision at each.

    After ``looks[k]`` samples ``accept[k]`` votes or more certify, ``reject[k]`` or fewer give up,
    and anything between goes on. At the last look everything that is not accepted gives up.

    Attributes:
        needed: Probability that the radius needs.
        alpha: Probability of a wrong certificate.
        looks: Numbers of samples at which to decide, ascending.
        accept: Fewest votes that certify, by look.
        reject: Most votes that give up, by look.
    """

    needed: float
    alpha: float
    looks: tuple[int, ...]
    accept: tuple[int, ...]
    reject: tuple[int, ...]


def make_sequential_plan(
    needed: float,
    *,
    n: int = 120_000,
    alpha: float = 0.001,
    growth: float = 1.25,
    futility: float = 0.003,
) -> SequentialPlan:
    """Make a plan of at most ``n`` samples that certifies p > ``needed``.

    Looks grow geometrically in whole units of noise. After m samples a share m / n of alpha may
    have been spent.

    Args:
        needed: Probability to exceed, in [1/2, 1).
        n: Largest number of samples of an image.
        alpha: Probability of a wrong certificate.
        growth: Ratio of the sample counts of neighboring looks, above 1.
        futility: An image is given up when its predictive probability of passing the last look is
            below this.

    Raises:
        OptionError: A number is out of range.

    Example:
        >>> from physadv.certification.smoothing.sequential_plan import make_sequential_plan
        >>> from physadv.certification.smoothing.sequential_plan import plan_prospects
        >>> plan = make_sequential_plan(0.84, n=10_000)
        >>> certified, samples = plan_prospects(plan, 0.95)
        >>> certified > 0.99, samples < 1000
        (True, True)
    """
    check_sample_counts(1, n, alpha)
    if not 0.5 <= needed < 1 or growth <= 1 or not 0 <= futility < 1:
        raise OptionError(
            f"needed p {needed:.6g}, growth {growth}, futility {futility}",
            "outside 1/2 <= p < 1, growth > 1, 0 <= futility < 1",
            "Lower the radius or raise the noise",
        )

    looks = _looks(n, growth)
    goal = n - int(stats.binom.ppf(alpha, n, 1 - needed)) + 1
    walk, spent = _Walk(), 0.0
    accept, reject = [], []
    for first, last in zip((0, *looks[:-1]), looks, strict=True):
        walk.draw(last - first, 1 - needed)
        fewest = walk.within(alpha * last / n - spent - SLACK)
        spent += walk.certify(fewest)
        hopeless = _hopeless(last, n, goal, futility) if last < n else last - fewest - 1
        walk.give_up(last - hopeless)

        accept.append(last - fewest)
        reject.append(min(hopeless, last - fewest - 1))
    return SequentialPlan(needed, alpha, looks, tuple(accept), tuple(reject))


def plan_prospects(plan: SequentialPlan, p: float) -> tuple[float, float]:
    """Return the probability that an image of top-class probability ``p`` is certified by ``plan``,
    and the mean number of samples.

    Exact but for tails of 1e-14 a look.
    """
    walk, certified, samples = _Walk(), 0.0, 0.0

    for first, last, accept, reject in zip(
        (0, *plan.looks[:-1]), plan.looks, plan.accept, plan.reject, strict=True
    ):
        samples += (last - first) * float(walk.mass.sum())
        walk.draw(last - first, 1 - p)
        certified += walk.certify(last - accept)
        walk.give_up(last - reject)

    return certified, samples


class _Walk:
    """Distribution of the images still undecided by their count of failures (votes not for the
    class).

    ``mass[i]`` is the probability of ``lowest`` + i failures.
    """

    def __init__(self) -> None:
        self.lowest, self.mass = 0, np.ones(1)

    def draw(self, count: int, q: float) -> None:
        """Draw ``count`` more samples, each a failure with probability ``q``."""
        if not len(self.mass):
            return
        low, high = (max(int(stats.binom.ppf(t, count, q)), 0) for t in (TAIL, 1 - TAIL))
        self.mass = np.convolve(self.mass, stats.binom.pmf(np.arange(low, high + 1), count, q))
        self.lowest += low

    def within(self, chance: float) -> int:
        """Return the most failures such that so many or fewer have at most this ``chance``; -1
        where none have."""
        states = int(np.searchsorted(np.cumsum(self.mass), chance, side="right"))
        return self.lowest + states - 1 if states else -1

    def certify(self, failures: int) -> float:
        """Remove the images with so many ``failures`` or fewer, and return their probability."""
        states = max(failures + 1 - self.lowest, 0)
        certified = float(self.mass[:states].sum())
        self.mass, self.lowest = self.mass[states:], self.lowest + states
        return certified

    def give_up(self, failures: int) -> None:
        """Remove the images with so many ``failures`` or more."""
        self.mass = self.mass[: max(failures - self.lowest, 0)]


def _looks(n: int, growth: float) -> tuple[int, ...]:
    """Return geometric looks in whole units of noise, the last at ``n``."""
    looks: list[int] = []
    size = float(FIRST)
    while size < n / growth**0.5:
        looks.append(-(-ceil(size) // UNIT) * UNIT)
        size = max(size * growth, looks[-1] + 1.0)
    return (*(m for m in looks if m < n), n)


def _hopeless(n: int, total: int, accept: int, futility: float) -> int:
    """Return the most votes of ``n`` after which ``accept`` of ``total`` has a probability below
    ``futility``.

    By the normal approximation to the predictive distribution: this decides only when to abstain.
    """
    votes = np.arange(n + 1)
    p = (votes + 0.5) / (n + 1)

    rest = total - n
    deviation = np.sqrt(rest * p * (1 - p) * (1 + rest / n))
    hopeless: npt.NDArray[np.bool_] = (
        stats.norm.sf((accept - 0.5 - votes - rest * p) / deviation) < futility
    )
    return int(votes[hopeless].max(initial=-1))
