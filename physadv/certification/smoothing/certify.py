"""Randomized smoothing (Cohen, Rosenfeld and Kolter 2019): prediction and certification by counting
votes under noise.

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
"""Predicted class where nothing could be certified."""


@dataclass(frozen=True)
class SmoothingCertificate:
    """Certificate of one image: with probability 1 - alpha over the noise, the class holds within
    ``radius``.

    Attributes:
        predicted: Certified class, or ABSTAIN (-1) where nothing could be certified.
        radius: Certified radius, in units of [0, 1]; 0 for ABSTAIN.
        p_low: Lower confidence bound of the class probability.
        samples: Number of noisy images classified.
    """

    predicted: int
    radius: float
    p_low: float
    samples: int


def clopper_pearson_bound(successes: int, n: int, alpha: float) -> float:
    """Return the one-sided Clopper-Pearson bound, below the true probability in at least 1 - alpha
    of all cases.

    Args:
        successes: Number of successes.
        n: Number of trials, at least 1.
        alpha: Probability of error allowed.

    Raises:
        OptionError: The counts are impossible.

    Example:
        >>> from physadv.certification.smoothing.certify import clopper_pearson_bound
        >>> round(clopper_pearson_bound(99, 100, alpha=0.001), 3)
        0.911
    """
    if not 0 <= successes <= n or n < 1:
        raise OptionError(
            f"{successes} of {n}", "is no count of successes", "Give 0 <= successes <= n, n >= 1"
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
    """Certify one image with CERTIFY of Cohen et al. (2019).

    Args:
        model: Classifier: images to logits (b, classes).
        image: Image (1, c, h, w) in [0, 1].
        noise: Noise added to the image.
        norm: Norm of the radius, "l1", "l2" or "linf"; which ones are served depends on the noise.
        n0: Samples that pick the class.
        n: Samples that bound its probability.
        alpha: Probability of a wrong certificate.
        seed: Seed of the noise.
        index: Number that names the image's noise under ``seed``.
        batch: Largest number of noisy images in one pass.

    Returns:
        The class and its certified radius, or ABSTAIN.

    Raises:
        OptionError: A number is out of range or the noise does not serve the norm.
        ModelError: The output is no logits.

    Example:
        >>> import torch
        >>> from physadv.certification.smoothing.certify import certify_image
        >>> from physadv.certification.smoothing.noise import GaussianNoise
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> torch.nn.init.constant_(net[1].bias[0], 100.0).item()
        100.0
        >>> found = certify_image(net, torch.rand(1, 3, 2, 2), GaussianNoise(0.25), n=1000)
        >>> found.predicted, round(found.radius, 2)
        (0, 0.62)
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
    """Certify one image like :func:`certify_image`, with a given sampler.

    Args:
        sampler: Sampler that owns the model, the noise and the seed.
        image: Image (1, c, h, w) in [0, 1].
        norm: Norm of the radius.
        n0: Samples that pick the class.
        n: Samples that bound its probability.
        alpha: Probability of a wrong certificate.
        index: Number that names the image's noise.
    """
    check_sample_counts(n0, n, alpha)

    top = pick_class(sampler, image, n0, index)
    (counts,) = sampler.count([SampleRequest(image, index, "count", 0, n)])
    return certificate_from_votes(
        top, int(counts[top]), n0, n, alpha, sampler.noise, norm, image[0].numel()
    )


def pick_class(sampler: NoiseSampler, image: Tensor, n0: int, index: int) -> int:
    """Return the class with the most votes, from samples of its own: reusing them for its bound
    would bias it.

    Args:
        sampler: Sampler that owns the model, the noise and the seed.
        image: Image (1, c, h, w) in [0, 1].
        n0: Number of samples.
        index: Number that names the image's noise.
    """
    (picks,) = sampler.count([SampleRequest(image, index, "pick", 0, n0)])
    return int(picks.argmax())


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
    """Return the certificate for a count of votes.

    Args:
        top: Class picked before.
        successes: Votes for ``top``.
        n0: Samples that picked the class.
        n: Samples of the count.
        alpha: Probability of a wrong certificate.
        noise: Noise the samples were drawn from.
        norm: Norm of the radius.
        dims: Number of input values (c h w).
    """
    low = clopper_pearson_bound(successes, n, alpha)
    return certificate_from_bound(top, low, n0 + n, noise, norm, dims)


def certificate_from_bound(
    top: int, p_low: float, samples: int, noise: SmoothingNoise, norm: str, dims: int
) -> SmoothingCertificate:
    """Return the certificate for a bound of the class probability; ABSTAIN up to 1/2.

    Args:
        top: Class picked before.
        p_low: Lower bound of its probability.
        samples: Number of noisy images classified.
        noise: Noise the samples were drawn from.
        norm: Norm of the radius.
        dims: Number of input values (c h w).
    """
    if p_low <= 0.5:
        return SmoothingCertificate(ABSTAIN, 0.0, p_low, samples)
    return SmoothingCertificate(top, noise.radius(p_low, norm, dims), p_low, samples)


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
    """Predict the smoothed class with PREDICT of Cohen et al. (2019).

    Args:
        model: Classifier: images to logits (b, classes).
        image: Image (1, c, h, w) in [0, 1].
        noise: Noise added to the image.
        n: Number of samples.
        alpha: Probability of returning another class than the smoothed classifier's.
        seed: Seed of the noise.
        index: Number that names the image's noise under ``seed``.
        batch: Largest number of noisy images in one pass.

    Returns:
        The class, or ABSTAIN where a two-sided test does not separate the top two classes.
    """
    check_sample_counts(1, n, alpha)
    (counts,) = NoiseSampler(model, noise, seed=seed, batch=batch).count(
        [SampleRequest(image, index, "predict_smoothed", 0, n)]
    )

    order = counts.argsort()[::-1]
    first = int(counts[order[0]])
    second = int(counts[order[1]]) if len(order) > 1 else 0
    significant = stats.binomtest(first, first + second, 0.5).pvalue <= alpha
    return int(order[0]) if significant else ABSTAIN


def certified_accuracy(
    labels: Sequence[int], certificates: Sequence[SmoothingCertificate], radius: float
) -> float:
    """Return the share of images whose certified class is right within a radius.

    Args:
        labels: True classes.
        certificates: Certificates of the same images.
        radius: Smallest radius that counts; at 0, every right class not abstained on counts.
    """
    pairs = list(zip(labels, certificates, strict=True))
    correct = sum(c.predicted == label and c.radius >= radius for label, c in pairs)
    return correct / max(len(pairs), 1)


def check_sample_counts(n0: int, n: int, alpha: float) -> None:
    """Raise OptionError for sample counts ``n0`` or ``n`` below 1 or an ``alpha`` outside (0,
    1)."""
    if n0 < 1 or n < 1:
        raise OptionError(f"n0 {n0}, n {n}", "must be at least 1 each", "Use n0 100 and n 100000")
    if not 0 < alpha < 1:
        raise OptionError(f"alpha {alpha}", "must lie between 0 and 1", "Use 0.001")
