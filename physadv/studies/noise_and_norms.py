"""Study of what noise pays for l_inf: certified radii against the number of dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import sqrt

import numpy as np
import torch.nn.functional as F
from scipy import stats

from physadv.certification.smoothing.certify import certify_with_sampler
from physadv.certification.smoothing.noise import GaussianNoise
from physadv.certification.smoothing.sampler import NoiseSampler
from physadv.core.rows import Row
from physadv.models.architectures.cnn import build_network
from physadv.studies.certificate_studies_config import NormsConfig
from physadv.studies.linf_price import NOISES, any_noise_bound, linf_radius, needed_share
from physadv.studies.noise_and_norms_page import (
    ALPHA,
    BLUM,
    FIXED,
    GROWING,
    SHARE,
    SIGMA,
    YANG,
    norms_page,
)
from physadv.studies.randomized_smoothing_page import COHEN
from physadv.studies.small_classifiers import StudyData, fit_classifier, read_once
from physadv.studies.study import Part, Study, Workspace
from physadv.training.methods.noise_augmentation import GaussianAugmentation

SHOWN = 128
"""Height and width in px of the pictures of noisy images."""


def study_parts(config: NormsConfig) -> list[Part]:
    """Return the parts of the study.

    Args:
        config: Its configuration.
    """
    parts = [
        Part("formulas", "radii of four noises", _formula_rows),
        Part("simulated", "simulating the noises", partial(_simulated_rows, config)),
    ]
    for side in config.sides:
        for kind in (FIXED, GROWING):
            note = f"images of {side} px, {kind} noise"
            run = partial(_image_rows, config, side, kind)
            parts.append(Part(f"{kind}-{side}", note, run))
    return parts


def sigma_of(kind: str, side: int) -> float:
    """Return the standard deviation of the noise on square images.

    Args:
        kind: "fixed", the same for all, or "growing", like the root of the number of pixels, equal
            to the fixed one at 16 px.
        side: Height and width in px.
    """
    return SIGMA if kind == FIXED else SIGMA * side / 16


def _formula_rows(workspace: Workspace) -> Iterator[Row]:
    """Radius of each noise and the bound of all, against the dimensions."""
    for dims in (16, 64, 256, 784, 3072, 12_288, 49_152, 150_528):
        radii = {noise: linf_radius(noise, SHARE, dims) for noise in NOISES}
        yield {"dims": dims, "bound": any_noise_bound(SHARE, dims), **radii}


def _simulated_rows(config: NormsConfig, workspace: Workspace) -> Iterator[Row]:
    """Probability that the radius of the formula needs, by drawing the noise."""
    for dims in config.scaled((64,), (64, 784, 3072), (64, 784, 3072, 12_288)):
        for noise in ("gaussian", "laplace", "uniform"):
            radius = linf_radius(noise, SHARE, dims)
            runs = config.scaled(50, 200, 2000)
            source = workspace.numpy_generator("draws", noise, dims)
            # The spread of batches holds that of the test's threshold too.
            shares = [needed_share(noise, radius, dims, runs, source) for _ in range(10)]
            middle = float(np.mean(shares))
            reach = float(stats.t.ppf(0.975, 9) * stats.sem(shares))
            yield {
                "dims": dims,
                "noise": noise,
                "radius": radius,
                "share": middle,
                "low": max(0.0, middle - reach),
                "high": min(1.0, middle + reach),
                "runs": 10 * runs,
            }


def _data(config: NormsConfig, side: int, workspace: Workspace) -> StudyData:
    return read_once(
        workspace,
        config.data,
        train=config.scaled(300, 6000, 60_000),
        test=config.scaled(4, 60, 500),
        seed=config.seed,
        image_size=side,
        name=f"data-{side}",
    )


def _image_rows(config: NormsConfig, side: int, kind: str, workspace: Workspace) -> Iterator[Row]:
    """Train on images of one size under noise, and certify l_inf radii of test images."""
    data = _data(config, side, workspace)
    sigma = sigma_of(kind, side)
    net = workspace.net(
        f"{kind}-{side}",
        lambda: build_network(
            "small-cnn", channels=data.channels, side=side, classes=len(data.classes)
        ),
        lambda fresh: fit_classifier(
            fresh,
            data.train,
            method=GaussianAugmentation(sigma),
            epochs=config.scaled(1, 4, 20),
            seed=workspace.seed_of("train", kind, side),
        ),
    )
    images, labels = data.test.floats(slice(None))
    noise = GaussianNoise(sigma)
    draw = noise.draw(tuple(images[0].shape), workspace.generator("picture", kind, side))
    noisy = F.interpolate((images[0] + draw).clamp(0, 1)[None], size=(SHOWN, SHOWN))[0]
    workspace.save_picture(f"noisy-{kind}-{side}", noisy.expand(3, -1, -1))

    sampler = NoiseSampler(net, noise, seed=workspace.seed_of("certify", kind, side), batch=256)
    for index, label in enumerate(labels.tolist()):
        workspace.tell(f"{side} px, image {index + 1} of {len(labels)}")
        found = certify_with_sampler(
            sampler,
            images[index : index + 1],
            norm="linf",
            n0=50,
            n=config.votes,
            alpha=ALPHA,
            index=index,
        )
        yield {
            "dims": images[0].numel(),
            "sigma": sigma,
            "right": found.predicted == label,
            "radius": found.radius if found.predicted == label else 0.0,
            "l2": found.radius * sqrt(images[0].numel()),
        }


STUDY = Study(
    name="norms",
    title="What noise pays for l_inf",
    question="Can a vote under noise prove anything against small changes of every pixel?",
    config=NormsConfig,
    papers=(COHEN, BLUM, YANG),
    parts=study_parts,
    page=norms_page,
)
