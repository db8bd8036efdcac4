"""Study ``samples``: formulas against simulation, and simulation against drawing everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from physadv.core.random_streams import numpy_generator
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.studies.learning_studies_config import SamplesConfig
from physadv.studies.robust_samples import STUDY
from physadv.studies.sample_models import BernoulliModel, GaussianModel, power_of, samples_needed
from physadv.studies.study import run_study, study_rows

CONFIDENCE = 0.9999
"""Of the intervals that a formula must lie in, so that a right one practically never fails."""


def literal_errors(model: GaussianModel, samples: int, eps: float, trials: int) -> int:
    """Errors where every sample is drawn, averaged, and the test sample is really moved."""
    draws, errors = numpy_generator(0, "literal"), 0
    for _ in range(trials):
        theta = draws.standard_normal(model.dimension)
        labels = draws.choice([-1, 1], samples)
        noise = model.sigma * draws.standard_normal((samples, model.dimension))
        w = (labels[:, None] * (labels[:, None] * theta + noise)).mean(0)
        label = draws.choice([-1, 1])
        x = label * theta + model.sigma * draws.standard_normal(model.dimension)
        moved = x - label * eps * np.sign(w)
        errors += int(label * (moved @ w) < 0)
    return errors


@pytest.mark.parametrize(("samples", "eps"), [(1, 0.0), (2, 0.25), (5, 0.25), (8, 0.5)])
def test_the_simulation_agrees_with_drawing_everything(samples: int, eps: float) -> None:
    """Drawing the mean from its law and the margin as one number changes no error rate."""
    model = GaussianModel.at_scale(400, 0.9)
    literal = wilson_interval(literal_errors(model, samples, eps, 600), 600, CONFIDENCE)
    draws = numpy_generator(0, "fast")
    ((errors, _),) = model.count_errors(samples, [("mean", eps)], 20_000, draws)
    assert literal.low <= errors / 20_000 <= literal.high


@pytest.mark.parametrize("samples", [1, 3, 8, 20])
@pytest.mark.parametrize("eps", [0.0, 0.25, 0.5])
def test_the_formula_of_the_mean_agrees_with_simulation(samples: int, eps: float) -> None:
    """The central limit formula lies within the interval, up to 2 % of the finite dimension."""
    model = GaussianModel.at_scale(4000, 0.6)
    draws = numpy_generator(1, "mean", samples)
    ((errors, _),) = model.count_errors(samples, [("mean", eps)], 1500, draws)
    rate = wilson_interval(errors, 1500, CONFIDENCE)
    assert rate.low - 0.02 <= model.mean_error(samples, eps) <= rate.high + 0.02
    exact = model.exact_errors(samples, eps, 200, numpy_generator(2, "exact", samples)).mean()
    assert abs(exact - model.mean_error(samples, eps)) < 0.03


@pytest.mark.parametrize("samples", [1, 2, 4, 8])
def test_no_learner_is_better_than_the_best_and_that_is_above_the_floor(samples: int) -> None:
    """floor <= best <= mean, in the formulas and in trials that all learners share."""
    model, eps = GaussianModel.at_scale(20_000, 0.6), 0.5
    floor, best = model.floor(samples, eps), model.best_error(samples, eps)
    assert floor <= best <= model.mean_error(samples, eps) + 1e-9
    draws = numpy_generator(3, "order", samples)
    (best_errors, guesses), (mean_errors, _) = model.count_errors(
        samples, [("best", eps), ("mean", eps)], 600, draws
    )
    assert best_errors <= mean_errors
    blind, wrong = (wilson_interval(k, 600, CONFIDENCE) for k in (guesses, best_errors))
    assert blind.low <= 2 * floor <= blind.high + 1e-9
    assert wrong.low - 0.02 <= best <= wrong.high + 0.02


def test_the_best_weights_solve_the_adversarys_game() -> None:
    """No direction has a larger margin per length against the adversary than the shrunk mean."""
    model, eps = GaussianModel(30, 1.0), 0.3
    mean = numpy_generator(4).standard_normal((1, 30)).astype(np.float32)
    posterior = mean[0] * 4 / (4 + model.sigma**2)

    def value(w: np.ndarray) -> float:
        return float((w @ posterior - eps * np.abs(w).sum()) / np.linalg.norm(w))

    best = model.weights("best", mean, 4, eps)[0]
    others = numpy_generator(5).standard_normal((2000, 30)) * 0.3 + best
    assert all(value(best) >= value(w) for w in others)


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("samples", [1, 4, 16])
def test_the_bernoulli_formula_agrees_with_simulation(samples: int, share: float) -> None:
    """The central limit formula lies within the interval, up to 4 % of the finite dimension."""
    model = BernoulliModel.at_scale(2500, 0.8)
    eps = share * model.tau
    (errors,) = model.count_errors(samples, [eps], 600, numpy_generator(6, samples))
    rate = wilson_interval(errors, 600, CONFIDENCE)
    assert rate.low - 0.04 <= model.mean_error(samples, eps) <= rate.high + 0.04


def test_the_price_grows_as_the_root_of_the_dimension() -> None:
    """By the formula one sample suffices in any dimension, and robust learning needs sqrt(d)."""
    dims = (10**9, 10**11)
    models = [GaussianModel.at_scale(d, 0.6) for d in dims]
    assert all(samples_needed(lambda n, m=m: m.mean_error(n, 0.0), 0.01) == 1 for m in models)
    needed = [samples_needed(lambda n, m=m: m.mean_error(n, 0.25), 0.01) for m in models]
    assert 0.45 < power_of(dims, needed) <= 0.51


def test_the_floor_is_reached_with_too_few_samples() -> None:
    """In high dimension the bound of one sample is (1 - 1/d)/2, and it vanishes with many."""
    model = GaussianModel.at_scale(1_000_000, 0.6)
    assert model.floor(1, 0.5) >= (1 - 1e-6) / 2
    assert model.floor(50, 0.5) < 1e-6


def test_a_quick_run_makes_a_page_that_follows_its_rows(tmp_path: Path) -> None:
    """The answer holds the numbers of the rows, and changes with them."""
    config = SamplesConfig(quick=True)
    list(run_study(STUDY, config, tmp_path))
    rows = study_rows(STUDY, config, tmp_path)
    page = STUDY.page(config, rows)
    assert len(page.figures) == 4
    assert "one sample suffices" in page.answer
    for row in rows["need-3000"]:
        row["n"] += 1
    assert "2 samples are needed" in STUDY.page(config, rows).answer
