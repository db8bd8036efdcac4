"""Randomised smoothing (Cohen, Rosenfeld and Kolter 2019): predict and certify by counting votes
under noise.

Counts are streamed: memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats
from torch import Tensor

from physadv.certification.smoothing.noise import SmoothingNoise
from physadv.certification.smoothing.sampler import NoiseSampler, SampleRequest
from physadv.core.errors import OptionError
from physadv.core.types import Model

ABSTAIN = -1


@dataclass(frozen=True)
class SmoothingCertificate:
    """What was certified for one image: with probability 1 - alpha over the noise, the class holds
    within ``radius``.

    ``predicted`` is ABSTAIN (-1), and the radius 0, where nothing could be certified. ``p_low`` is
    the lower bound of the class probability, ``samples`` how many noisy images were classified.
    """

    predicted: int
    radius: float
    p_low: float
    samples: int


def clopper_pearson_bound(successes: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson: a value that is below the true probability in at least 1 - alpha
    of all cases."""
    if not 0 <= successes <= n or n < 1:
        raise OptionError(
            f"{successes} of {n}", "0 <= successes <= n and n >= 1", "check the counts"
        )
    return float(stats.beta.ppf(alpha, successes, n - successes + 1)) if successes else 0.0


def certify_image(
    model: Model,
    image: Tensor,
    noise: SmoothingNoise,
    *,
    norm: str = "l2",
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
    index: int = 0,
    batch: int = 256,
) -> SmoothingCertificate:
    """Cohen's CERTIFY: ``n0`` samples pick the class, ``n`` others bound its probability, alpha is
    the error allowed.

    ``image`` is (1, c, h, w) in [0, 1]; ``index`` names its noise under ``seed``. Raises
    OptionError for numbers out of range and ModelError for a victim that does not return logits.
    """
    return certify_with_sampler(
        NoiseSampler(model, noise, seed=seed, batch=batch),
        image,
        norm=norm,
        n0=n0,
        n=n,
        alpha=alpha,
        index=index,
    )


def certify_with_sampler(
    sampler: NoiseSampler,
    image: Tensor,
    *,
    norm: str = "l2",
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    index: int = 0,
) -> SmoothingCertificate:
    """:func:`certify_image` with a sampler of one's own."""
    check_sample_counts(n0, n, alpha)
    (picks,) = sampler.count([SampleRequest(image, index, "pick", 0, n0)])
    top = int(picks.argmax())
    (counts,) = sampler.count([SampleRequest(image, index, "count", 0, n)])
    return certificate_from_votes(
        top, int(counts[top]), n0, n, alpha, sampler.noise, norm, image[0].numel()
    )


def certificate_from_votes(
    top: int,
    successes: int,
    n0: int,
    n: int,
    alpha: float,
    noise: SmoothingNoise,
    norm: str,
    dims: int,
) -> SmoothingCertificate:
    """The certificate of ``successes`` votes for class ``top`` among ``n`` samples taken after the
    pick."""
    low = clopper_pearson_bound(successes, n, alpha)
    if low <= 0.5:
        return SmoothingCertificate(ABSTAIN, 0.0, low, n0 + n)
    return SmoothingCertificate(top, noise.radius(low, norm, dims), low, n0 + n)


def predict_smoothed(
    model: Model,
    image: Tensor,
    noise: SmoothingNoise,
    *,
    n: int = 1000,
    alpha: float = 0.001,
    seed: int = 0,
    index: int = 0,
    batch: int = 256,
) -> int:
    """Cohen's PREDICT: the smoothed class, or ABSTAIN where a two-sided test cannot tell the top
    two classes apart.

    Wrong (not the smoothed classifier's class) with probability at most alpha.
    """
    check_sample_counts(1, n, alpha)
    (counts,) = NoiseSampler(model, noise, seed=seed, batch=batch).count(
        [SampleRequest(image, index, "predict_smoothed", 0, n)]
    )
    order = counts.argsort()[::-1]
    first = int(counts[order[0]])
    second = int(counts[order[1]]) if len(order) > 1 else 0
    return int(order[0]) if stats.binomtest(first, first + second, 0.5).pvalue <= alpha else ABSTAIN


def certified_accuracy(
    labels: Sequence[int], certificates: Sequence[SmoothingCertificate], radius: float
) -> float:
    """Share of images whose certified class is right within ``radius`` or more; at 0, of those not
    abstained on."""
    pairs = list(zip(labels, certificates, strict=True))
    return sum(c.predicted == label and c.radius >= radius for label, c in pairs) / max(
        len(pairs), 1
    )


def check_sample_counts(n0: int, n: int, alpha: float) -> None:
    """Raise OptionError for sample counts below 1 or an alpha outside (0, 1)."""
    if n0 < 1 or n < 1:
        raise OptionError(f"n0 {n0}, n {n}", "at least 1 sample each", "use n0 100 and n 100000")
    if not 0 < alpha < 1:
        raise OptionError(f"alpha {alpha}", "0 < alpha < 1", "use 0.001")
