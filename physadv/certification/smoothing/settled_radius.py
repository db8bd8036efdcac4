"""Full radii with fewer samples: sampling stops when more of it would hardly enlarge the radius.

Chen et al. (2022) choose the number of samples for each input. Here the count is looked at several
times. The lower bounds of all looks hold at once with probability 1 - alpha, since their shares of
alpha add up to it, so the largest of them may be used, and sampling may stop at any look for any
reason: the guarantee is that of Cohen et al. (2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scipy import stats
from torch import Tensor

from physadv.certification.smoothing.certify import (
    SmoothingCertificate,
    certificate_from_bound,
    check_sample_counts,
    clopper_pearson_bound,
    pick_class,
)
from physadv.certification.smoothing.sampler import UNIT, NoiseSampler, SampleRequest
from physadv.core.errors import OptionError

_FIRST = 500
"""Fewest samples before the first look."""
_HOPELESS = 1e-3
"""Chance, under a probability of 1/2, of votes so few that sampling stops."""


@dataclass(frozen=True)
class SettledBound:
    """Lower bound of a class probability, and the samples it took.

    Attributes:
        p_low: Bound, below the probability in at least 1 - alpha of all cases.
        samples: Number of samples drawn.
    """

    p_low: float
    samples: int


def settled_bound(
    draw: Callable[[int, int], int],
    radius: Callable[[float], float],
    *,
    n: int = 100_000,
    alpha: float = 0.001,
    decline: float = 0.05,
) -> SettledBound:
    """Bound a class probability until the radius it certifies is settled.

    Args:
        draw: Returns the votes for the class among ``count`` samples from number ``first`` on,
            called as draw(first, count).
        radius: Radius that a probability certifies, rising.
        n: Most samples.
        alpha: Probability that the bound is above the true probability.
        decline: Share of the radius expected of all ``n`` samples that may be lost by stopping, in
            [0, 1).

    Returns:
        The bound and the samples drawn.

    Raises:
        OptionError: A number is out of range.

    Example:
        >>> from physadv.certification.smoothing.settled_radius import settled_bound
        >>> found = settled_bound(lambda first, count: count * 9 // 10, lambda p: p - 0.5)
        >>> found.samples < 20_000, round(found.p_low, 2)
        (True, 0.88)
    """
    check_sample_counts(1, n, alpha)
    if not 0 <= decline < 1:
        raise OptionError(f"decline {decline}", "is a share below 1", "Use e.g. 0.05")
    looks = looks_of(n)
    votes, best = 0, 0.0
    last = 0
    for first, last in zip((0, *looks[:-1]), looks, strict=True):
        votes += draw(first, last - first)
        best = max(best, clopper_pearson_bound(votes, last, alpha * last / sum(looks)))
        if last == n:
            break

        # What all n samples would give if they went on as they did so far.
        expected = clopper_pearson_bound(round(votes / last * n), n, alpha * n / sum(looks))
        hopeless = best <= 0.5 and stats.binom.cdf(votes, last, 0.5) <= _HOPELESS
        if hopeless or (best > 0.5 and radius(best) >= (1 - decline) * radius(expected)):
            break
    return SettledBound(best, last)


def certify_until_settled(
    sampler: NoiseSampler,
    image: Tensor,
    *,
    norm: str = "l2",
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    decline: float = 0.05,
    index: int = 0,
) -> SmoothingCertificate:
    """Certify one image at its full radius, with no more samples than it takes to settle it.

    Args:
        sampler: Sampler that owns the model, the noise and the seed.
        image: Image (1, c, h, w) in [0, 1].
        norm: Norm of the radius.
        n0: Samples that pick the class.
        n: Most samples that bound its probability.
        alpha: Probability of a wrong certificate.
        decline: Share of the radius expected of all ``n`` samples that may be lost.
        index: Number that names the image's noise.
    """
    check_sample_counts(n0, n, alpha)
    top, dims = pick_class(sampler, image, n0, index), image[0].numel()

    def draw(first: int, count: int) -> int:
        (counts,) = sampler.count([SampleRequest(image, index, "count", first, count)])
        return int(counts[top])

    def radius(p: float) -> float:
        return sampler.noise.radius(p, norm, dims)

    found = settled_bound(draw, radius, n=n, alpha=alpha, decline=decline)
    samples = n0 + found.samples
    return certificate_from_bound(top, found.p_low, samples, sampler.noise, norm, dims)


def looks_of(n: int) -> tuple[int, ...]:
    """Return the numbers of samples at which to look: doubling, in whole units of noise, the last
    at ``n``.

    Example:
        >>> from physadv.certification.smoothing.settled_radius import looks_of
        >>> looks_of(4000)
        (512, 1008, 2000, 4000)
    """
    looks = [n]
    while looks[0] >= 2 * _FIRST:
        looks.insert(0, -(-looks[0] // (2 * UNIT)) * UNIT)
    return tuple(looks)
