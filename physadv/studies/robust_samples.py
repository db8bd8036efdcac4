"""Study ``samples``: how many samples robust learning needs (Schmidt et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from math import sqrt

from physadv.core.rows import Row
from physadv.studies.learning_studies_config import SamplesConfig
from physadv.studies.page import Paper
from physadv.studies.robust_samples_page import (
    BERNOULLI_FACTOR,
    BERNOULLI_RADII,
    COUNTS,
    FACTOR,
    FLOOR_COUNTS,
    RADII,
    SCHMIDT,
    TARGET,
    samples_page,
)
from physadv.studies.sample_models import BernoulliModel, GaussianModel, samples_needed
from physadv.studies.study import Part, Study, Workspace


def _measure_gaussian(config: SamplesConfig, workspace: Workspace) -> Iterable[Row]:
    """Yield the errors of the mean of n samples: standard, and at each radius."""
    model = GaussianModel.at_scale(config.dimension, FACTOR)
    learners = [("mean", eps) for eps in (0.0, *RADII)]
    for n in COUNTS:
        draws = workspace.numpy_generator("gaussian", n)
        errors = model.count_errors(n, learners, config.trials, draws)
        for (_, eps), (wrong, _) in zip(learners, errors, strict=True):
            yield {"n": n, "eps": eps, "errors": wrong, "trials": config.trials}


def _measure_need(dimension: int, config: SamplesConfig, workspace: Workspace) -> Iterable[Row]:
    """Yield the least n whose error is at most 1 % at each radius, with its interval."""
    model = GaussianModel.at_scale(dimension, FACTOR)
    # Errors vary less from training set to training set the more coordinates there are.
    trials = config.scaled(20, max(10, min(60, 6_000_000 // dimension)), 200)

    @cache
    def errors(n: int, eps: float) -> tuple[float, float]:
        draws = workspace.numpy_generator("need", dimension, n)
        values = model.exact_errors(n, eps, trials, draws)
        return float(values.mean()), float(values.std(ddof=1) / sqrt(trials))

    def error(n: int, eps: float, sides: float) -> float:
        """Mean error, shifted by ``sides`` standard errors."""
        mean, deviation = errors(n, eps)
        return mean + sides * deviation

    for eps in (0.0, *RADII):
        needed = [
            samples_needed(partial(error, eps=eps, sides=sides), TARGET)
            for sides in (0.0, -1.96, 1.96)
        ]
        yield dict(zip(("n", "low", "high"), needed, strict=True), d=dimension, eps=eps)


def _measure_floor(config: SamplesConfig, workspace: Workspace) -> Iterable[Row]:
    """Yield how often the adversary makes both classes alike, and the best learner's error."""
    eps, trials = RADII[-1], config.floor_trials
    model = GaussianModel.at_scale(config.floor_dimension, FACTOR)
    for n in FLOOR_COUNTS:
        draws = workspace.numpy_generator("floor", n)
        ((errors, blind),) = model.count_errors(n, [("best", eps)], trials, draws)
        yield {"n": n, "blind": blind, "errors": errors, "trials": trials}


def _measure_bernoulli(config: SamplesConfig, workspace: Workspace) -> Iterable[Row]:
    """Yield the errors of the mean of n samples of the Bernoulli model at each radius."""
    model = BernoulliModel.at_scale(config.dimension, BERNOULLI_FACTOR)
    trials = config.trials // 2
    radii = [share * model.tau for share in BERNOULLI_RADII]
    for n in COUNTS:
        draws = workspace.numpy_generator("bernoulli", n)
        errors = model.count_errors(n, radii, trials, draws)
        for share, wrong in zip(BERNOULLI_RADII, errors, strict=True):
            yield {"n": n, "share": share, "errors": wrong, "trials": trials}


def _parts(config: SamplesConfig) -> list[Part]:
    searches = [
        Part(
            f"need-{d}",
            f"samples needed in {d:,} dimensions",
            partial(_measure_need, d, config),
        )
        for d in config.dimensions
    ]
    return [
        Part("gaussian", "error against samples, Gaussian", partial(_measure_gaussian, config)),
        *searches,
        Part("floor", "the floor below every learner", partial(_measure_floor, config)),
        Part("bernoulli", "error against samples, Bernoulli", partial(_measure_bernoulli, config)),
    ]


STUDY = Study(
    name="samples",
    title="Robust learning needs more samples",
    question="How many training samples does a robust classifier need, beside a standard one?",
    config=SamplesConfig,
    papers=(
        SCHMIDT,
        Paper(
            "Bhagoji, Cullina and Mittal",
            2019,
            "Lower Bounds on Adversarial Robustness from Optimal Transport",
            "NeurIPS 2019, arXiv:1909.12272",
        ),
        Paper(
            "Dan, Wei and Ravikumar",
            2020,
            "Sharp Statistical Guarantees for Adversarially Robust Gaussian Classification",
            "ICML 2020, arXiv:2006.16384",
        ),
    ),
    parts=_parts,
    page=samples_page,
)
