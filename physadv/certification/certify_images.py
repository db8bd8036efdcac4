"""Certificates from a model and images alone: randomized smoothing and bound propagation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from physadv.certification.bounds.graph_check import number_of
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.verify import (
    BRANCH_AND_BOUND,
    METHODS,
    TIME_LIMIT,
    prepare_graph,
    verify_bounds,
)
from physadv.certification.smoothing.certify import ABSTAIN, certify_with_sampler
from physadv.certification.smoothing.noise import noise_by_name
from physadv.certification.smoothing.sampler import NoiseSampler
from physadv.certification.smoothing.settled_radius import certify_until_settled
from physadv.core.errors import ImageError, ModelError, OptionError
from physadv.core.tensors import (
    ImagesLike,
    LabelsLike,
    as_class_numbers,
    as_float_images,
    device_of,
    exact_device,
)
from physadv.core.wording import count_noun
from physadv.models.load import resolve_classifier
from physadv.threat.parsing import NormLike, parse_eps, parse_norm

CertifiedModel = nn.Module | Callable[[Tensor], Tensor] | str | Path
"""A classifier, or what :func:`physadv.load_model` loads one by."""

_CHECKED_IMAGES = 16
"""Most images about which a graph is compared with its network."""


@dataclass(frozen=True)
class SmoothingCertificates:
    """Certificates of a smoothed classifier, one an image.

    With probability 1 - alpha over the noise, each for itself, the smoothed classifier predicts
    ``predicted`` everywhere within ``radius``.

    Attributes:
        predicted: Class numbers (b,); -1 where the procedure abstains.
        radius: Certified radii (b,) in ``norm``; 0 where it abstains.
        lower_probability: Lower bounds (b,) on the probability of the class under noise.
        samples: Noisy images (b,) classified.
        norm: Norm of the radii.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
        >>> found = certify_smoothing(net, torch.rand(2, 3, 4, 4), sigma=0.25, n0=20, n=100)
        >>> found.abstained.shape
        torch.Size([2])
    """

    predicted: Int[Tensor, " b"]
    radius: Float[Tensor, " b"]
    lower_probability: Float[Tensor, " b"]
    samples: Int[Tensor, " b"]
    norm: str

    @property
    def abstained(self) -> Bool[Tensor, " b"]:
        """Whether (b,) no class could be certified."""
        return self.predicted == ABSTAIN


@dataclass(frozen=True)
class BoundCertificates:
    """Certificates by bound propagation, one an image.

    Attributes:
        certified: Whether (b,) no image of the ball is classified as anything but its label.
        margin: Lower bounds (b,) over the ball on the logit of the label minus the best other one.
        predicted: Classes (b,) of the images themselves.
        method: Method that computed the bounds.
        verdicts: For "bab" each image's "verified", "falsified" or "timeout"; else empty.
        counterexamples: For "bab" images (c, h, w) of the ball that the model classifies as
            something else than the label, by place.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
        >>> found = certify_bounds(net, torch.rand(2, 3, 4, 4), [0, 1], eps=0.01)
        >>> bool((found.certified == (found.margin > 0)).all())
        True
    """

    certified: Bool[Tensor, " b"]
    margin: Float[Tensor, " b"]
    predicted: Int[Tensor, " b"]
    method: str
    verdicts: tuple[str, ...] = ()
    counterexamples: dict[int, Tensor] = field(default_factory=dict)


def certify_smoothing(
    model: CertifiedModel,
    images: ImagesLike,
    *,
    sigma: float,
    norm: NormLike = "l2",
    noise: str = "gaussian",
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    decline: float = 0.0,
    seed: int = 0,
    batch: int = 256,
) -> SmoothingCertificates:
    """Certify the smoothed classifier of a model (Cohen, Rosenfeld & Kolter 2019).

    ``n0`` noisy copies of each image choose the class, ``n`` others bound its probability. Models
    certify well that were trained under the same noise.

    Args:
        model: Model, its name or its file: images to logits (b, classes).
        images: Images (b, c, h, w) in [0, 1]; a tensor or an array.
        sigma: Scale of the noise in units of [0, 1]: the standard deviation of Gaussian noise, the
            scale of Laplace noise, half the width of uniform noise. Above 0.
        norm: Norm of the radii: "l2" or "linf" for Gaussian noise, "l1" for the others.
        noise: "gaussian", "laplace" (Teng et al. 2020) or "uniform" (Yang et al. 2020).
        n0: Samples an image to choose the class, at least 1.
        n: Samples an image to bound its probability, at least 1.
        alpha: Probability that a certificate is wrong, in (0, 1).
        decline: Share of an image's radius, in [0, 0.9], that may be lost by stopping before ``n``
            samples (after Chen et al. 2022); 0 draws them all.
        seed: Seed of the noise; image i has its own stream, whatever the batch.
        batch: Largest number of noisy images at once, at least 1.

    Returns:
        Classes, radii and lower bounds, one an image.

    Raises:
        ImageError: Images lie outside [0, 1] or have no batch axis.
        OptionError: A number is out of range, or the noise does not serve the norm.
        ModelError: The model cannot be loaded or does not return logits.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
        >>> nn.init.constant_(net[1].weight, 0.0).shape, nn.init.ones_(net[1].bias[:1]).shape
        (torch.Size([3, 48]), torch.Size([1]))
        >>> found = certify_smoothing(net, torch.rand(2, 3, 4, 4), sigma=0.25, n0=20, n=200)
        >>> found.predicted.shape, bool((found.radius >= 0).all())
        (torch.Size([2]), True)
    """
    classifier = resolve_classifier(model)
    pixels = _checked_images(images, classifier)
    order = parse_norm(norm)
    kind = noise_by_name(noise, sigma)
    kind.needed(0.0, order, pixels[0].numel())  # refuses a norm that the noise does not serve
    sampler = NoiseSampler(classifier, kind, seed=seed, batch=batch)
    sampler.check_model(pixels[:1])

    certify = partial(certify_until_settled, decline=decline) if decline else certify_with_sampler
    found = [
        certify(sampler, pixels[i : i + 1], norm=order, n0=n0, n=n, alpha=alpha, index=i)
        for i in range(len(pixels))
    ]
    return SmoothingCertificates(
        torch.tensor([c.predicted for c in found], dtype=torch.long),
        torch.tensor([c.radius for c in found], dtype=torch.float64),
        torch.tensor([c.p_low for c in found], dtype=torch.float64),
        torch.tensor([c.samples for c in found], dtype=torch.long),
        order,
    )


def certify_bounds(
    model: nn.Module | str | Path,
    images: ImagesLike,
    labels: LabelsLike,
    *,
    eps: float | str,
    norm: NormLike = "linf",
    method: str = "crown",
    batch: int = 64,
    time_limit: float = TIME_LIMIT,
) -> BoundCertificates:
    """Certify images by bounds on a model's margins over balls around them.

    Bounds hold for the model in evaluation mode and for images in [0, 1]. What rounding of the
    model may change is taken off a positive bound.

    Args:
        model: Module of supported layers, its name or its file: images to logits (b, classes).
        images: Images (b, c, h, w) in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius of the balls, at least 0: a number or text such as "8/255".
        norm: "linf" or "l2".
        method: "ibp" (Gowal et al. 2018), "crown-ibp" (Zhang et al. 2020), "crown" (Zhang et al.
            2018), "polytope" (Wong & Kolter 2018) or "alpha-crown" (Xu et al. 2021): later ones are
            tighter and cost more. "bab" searches by branch and bound (Wang et al. 2021) for a proof
            or a counterexample.
        batch: Images at once, at least 1.
        time_limit: Seconds an image after which "bab" gives up.

    Returns:
        Which images are certified, and the lower bounds on their margins.

    Raises:
        ImageError: Images lie outside [0, 1] or have no batch axis.
        OptionError: A label, the radius, the norm or the method is not allowed.
        ModelError: The model cannot be loaded, is no module, or has an operation without bounds.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> images = torch.rand(2, 3, 4, 4)
        >>> labels = net(images).argmax(1)
        >>> certify_bounds(net, images, labels, eps=0.0).certified.tolist()
        [True, True]
    """
    net = resolve_classifier(model)
    if not isinstance(net, nn.Module):
        raise ModelError(
            f"A model of type {type(net).__name__}",
            "Bounds need a torch.nn.Module, whose layers they pass",
            "Wrap the function in a module",
        )
    known = [*METHODS, BRANCH_AND_BOUND]
    if method not in known:
        raise OptionError(f"Method {method!r}", f"One of {', '.join(known)}", "Use crown")
    if batch < 1:
        raise OptionError(f"Batch {batch}", "At least 1 is needed", "Use 64")

    pixels = _checked_images(images, net, exact=True)
    pixels = pixels.to(number_of(net, pixels).dtype)
    truth = as_class_numbers(labels, pixels.device)
    if truth.shape != pixels.shape[:1]:
        raise OptionError(
            f"Labels of shape {tuple(truth.shape)} for {count_noun(len(pixels), 'image')}",
            "One class number an image is needed",
            "Give labels (b,)",
        )

    order = parse_norm(norm)
    radius = parse_eps(eps, order)
    ball = InputBall(pixels[:_CHECKED_IMAGES], radius, order)
    graph = prepare_graph(net, tuple(pixels.shape[1:]), ball=ball)
    parts = [
        verify_bounds(
            graph,
            pixels[i : i + batch],
            truth[i : i + batch],
            eps=radius,
            method=method,
            norm=order,
            time_limit=time_limit,
        )
        for i in range(0, len(pixels), batch)
    ]
    margin = torch.cat([part.margins for part in parts])
    predicted = torch.cat([part.predicted for part in parts])
    verdicts = tuple(verdict for part in parts for verdict in part.verdicts)
    found = {
        i * batch + place: image
        for i, part in enumerate(parts)
        for place, image in part.counterexamples.items()
    }
    return BoundCertificates(margin > 0, margin, predicted, method, verdicts, found)


def _checked_images(
    images: ImagesLike, model: Callable[[Tensor], Tensor], *, exact: bool = False
) -> Tensor:
    """The images as floats on the device of the model, with ``exact`` on the CPU where that has no
    float64; ImageError where they cannot be used."""
    home = device_of(model)
    if exact and home is not None:
        home = exact_device(home)
    pixels = as_float_images(images, home).detach()
    if not len(pixels) or pixels.ndim not in (2, 4) or not pixels.is_floating_point():
        raise ImageError(
            f"Images of shape {tuple(pixels.shape)} and type {pixels.dtype}",
            "At least one image (b, c, h, w), or vector (b, n), of floats is needed",
            "Add a batch axis, and divide 8-bit images by 255",
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise ImageError(
            f"Images from {low:g} to {high:g}", "[0, 1] is needed", "Scale them to [0, 1]"
        )
    return pixels
