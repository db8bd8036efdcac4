"""Page of the study ``samples``: errors beside their formulas, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt

import numpy as np
from scipy.special import erfinv

from physadv.core.rows import Row
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.studies.learning_studies_config import SamplesConfig
from physadv.studies.page import (
    Axis,
    Chart,
    Comparison,
    Formula,
    PageSections,
    Paper,
    Point,
    Series,
    StudyPage,
)
from physadv.studies.sample_models import BernoulliModel, GaussianModel, power_of, samples_needed
from physadv.studies.study import PartRows

FACTOR, BERNOULLI_FACTOR = 0.6, 0.8
"""Constants c of sigma = c d^(1/4) and tau = c d^(-1/4), small enough for one sample to suffice."""
RADII = (0.25, 0.5)
TARGET = 0.01
"""Error that the theorems promise not to exceed."""
COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 26, 32, 40, 50)
FLOOR_COUNTS = (1, 2, 3, 4, 6, 10, 20, 40)
BERNOULLI_RADII = (0.0, 1.0, 1.5)
"""Radii of the adversary in units of tau; linear classifiers can resist less than 2 tau."""
CURVE = tuple(float(n) for n in np.geomspace(1, COUNTS[-1], 60).round(3))

SCHMIDT = Paper(
    "Schmidt et al.",
    2018,
    "Adversarially Robust Generalization Requires More Data",
    "NeurIPS 2018, arXiv:1804.11285",
)


def _measured(rows: Iterable[Row], label: str) -> Series:
    """Share of errors by number of samples, each with Wilson's interval."""
    points = []
    for row in rows:
        rate = wilson_interval(row["errors"], row["trials"])
        points.append(Point(row["n"], rate.rate, rate.low, rate.high, f"n = {row['n']}: {rate}"))
    return Series(label, tuple(points), "points")


def _formula(values: Iterable[tuple[float, float]], label: str, like: str = "") -> Series:
    return Series(label, tuple(Point(x, y) for x, y in values), "curve", "theory", like)


def _gaussian_chart(config: SamplesConfig, rows: Sequence[Row]) -> Chart:
    model = GaussianModel.at_scale(config.dimension, FACTOR)
    names = {0.0: "standard", **{eps: f"robust, eps {eps:g}" for eps in RADII}}
    series = []
    for eps, name in names.items():
        series.append(_measured((row for row in rows if row["eps"] == eps), name))
        curve = [(n, model.mean_error(n, eps)) for n in CURVE]
        series.append(_formula(curve, f"{name}: formula", name))
    caption = (
        f"Error of the classifier learned from n samples in {config.dimension:,} dimensions: "
        f"marks are {config.trials:,} simulated trials each with 95 % intervals, dashed lines the "
        "formula. One sample classifies well; against an adversary it does worse than guessing."
    )
    return Chart(
        "error-by-samples",
        caption,
        Axis("training samples n", "log"),
        Axis("share of test samples classified wrongly", low=0, high=1, percent=True),
        tuple(series),
    )


def _need_chart(config: SamplesConfig, rows: PartRows) -> Chart:
    found = [row for d in config.dimensions for row in rows[f"need-{d}"]]
    grid = [int(d) for d in np.geomspace(config.dimensions[0], config.dimensions[-1] * 10, 25)]
    series = []
    for eps in (0.0, *RADII):
        name = f"robust, eps {eps:g}" if eps else "standard"
        points = tuple(
            Point(row["d"], row["n"], row["low"], row["high"], f"{row['n']} samples")
            for row in found
            if row["eps"] == eps
        )
        series.append(Series(name, points, "points"))
        curve = [(d, float(_needed(d, eps))) for d in grid]
        series.append(_formula(curve, f"{name}: formula", name))
    bound = [(d, _bound_samples(d, RADII[-1])) for d in grid if _bound_samples(d, RADII[-1]) >= 1]
    if len(bound) > 1:
        series.append(_formula(bound, f"no learner below, eps {RADII[-1]:g}"))
    caption = (
        "Samples needed for an error of at most 1 %: one without an adversary in any dimension, "
        "a number that grows as the square root of the dimension against one. The lowest dashed "
        "line is the bound of the theorem: with fewer samples every learner errs on (1 - 1/d)/2."
    )
    return Chart(
        "samples-by-dimension",
        caption,
        Axis("dimension d", "log"),
        Axis("training samples needed", "log"),
        tuple(series),
    )


def _needed(dimension: int, eps: float) -> int:
    """Samples that the formula needs for the mean of the samples to err on at most 1 %."""
    model = GaussianModel.at_scale(dimension, FACTOR)
    return samples_needed(lambda n: model.mean_error(n, eps), TARGET)


def _limit_exponent() -> float:
    """Exponent of d in the samples that the formula needs, in very high dimension."""
    dims = (10**9, 10**10)
    return power_of(dims, [_needed(d, RADII[-1]) for d in dims])


def _bound_samples(dimension: int, eps: float) -> float:
    """Number of samples up to which the floor of every learner is at least (1 - 1/d)/2."""
    sigma = GaussianModel.at_scale(dimension, FACTOR).sigma
    reach = sqrt(2) * float(erfinv((1 - 1 / dimension) ** (1 / dimension)))
    return sigma**2 / ((reach / eps) ** 2 - 1)


def _floor_chart(config: SamplesConfig, rows: Sequence[Row]) -> Chart:
    eps, model = RADII[-1], GaussianModel.at_scale(config.floor_dimension, FACTOR)
    halves = []
    for row in rows:
        rate = wilson_interval(row["blind"], row["trials"])
        hint = f"n = {row['n']}: half of {rate}"
        halves.append(Point(row["n"], rate.rate / 2, rate.low / 2, rate.high / 2, hint))
    curve = [float(n) for n in np.geomspace(1, FLOOR_COUNTS[-1], 60).round(3)]
    alike, best = "both classes made alike, halved", "best possible learner"
    series = (
        Series(alike, tuple(halves), "points"),
        _formula([(n, model.floor(n, eps)) for n in curve], "floor of the theorem", alike),
        _measured(rows, best),
        _formula([(n, model.best_error(n, eps)) for n in curve], "best possible: formula", best),
    )
    caption = (
        f"Robust error at eps {eps:g} in {config.floor_dimension:,} dimensions, below which no "
        "learner comes whatever it computes: where the adversary can move both classes onto each "
        f"other, it is 1/2. {config.floor_trials} trials a mark, 95 % intervals."
    )
    return Chart(
        "floor",
        caption,
        Axis("training samples n", "log", ticks=FLOOR_COUNTS),
        Axis("robust error", low=0, high=0.7, percent=True),
        series,
    )


def _bernoulli_chart(config: SamplesConfig, rows: Sequence[Row]) -> Chart:
    model = BernoulliModel.at_scale(config.dimension, BERNOULLI_FACTOR)
    series = []
    for share in BERNOULLI_RADII:
        name = f"linear, eps {share:g} tau" if share else "rounded to signs, any eps < 1"
        series.append(_measured((row for row in rows if row["share"] == share), name))
        curve = [(float(n), model.mean_error(n, share * model.tau)) for n in range(1, 51)]
        series.append(_formula(curve, f"{name}: formula", name))
    caption = (
        f"Bernoulli model in {config.dimension:,} dimensions, tau = {model.tau:.3f}. A linear "
        "classifier needs many samples against an adversary; rounding every coordinate to its sign "
        "first undoes the adversary, and one sample is enough again."
    )
    return Chart(
        "bernoulli",
        caption,
        Axis("training samples n", "log"),
        Axis("robust error", low=0, high=1, percent=True),
        tuple(series),
    )


def _exponent(config: SamplesConfig, rows: PartRows, eps: float) -> tuple[float, float, float]:
    """Exponent of d in the samples needed between the two largest dimensions, with its ends."""
    dims = config.dimensions[-2:]
    first, last = (next(row for row in rows[f"need-{d}"] if row["eps"] == eps) for d in dims)
    pairs = ((first["n"], last["n"]), (first["high"], last["low"]), (first["low"], last["high"]))
    middle, flat, steep = (power_of(dims, pair) for pair in pairs)
    return middle, min(flat, middle), max(steep, middle)


def _errors(rows: Sequence[Row], n: int, **same: float) -> str:
    """Error at ``n`` in words, of the row whose values are ``same``."""
    row = next(r for r in rows if r["n"] == n and all(r[k] == v for k, v in same.items()))
    return str(wilson_interval(row["errors"], row["trials"]))


def samples_page(config: SamplesConfig, rows: PartRows) -> StudyPage:
    """Compute the page of ``samples`` from the ``rows`` of a run of ``config``."""
    eps = RADII[-1]
    largest = config.dimensions[-1]
    need = {row["eps"]: row for row in rows[f"need-{largest}"]}
    exponent, flat, steep = _exponent(config, rows, eps)
    answer = (
        f"In {largest:,} dimensions {_samples(need[0.0]['n'])} for a standard error of at "
        f"most 1 %, {need[RADII[0]]['n']} against an adversary of eps {RADII[0]:g} and "
        f"{need[eps]['n']} at eps {eps:g}"
    )
    # In few dimensions no number of samples is enough, and there is no power of the dimension.
    if exponent > 0:
        answer += (
            "; between the two largest dimensions that number grows as the dimension to the power "
            f"{exponent:.2f}"
        )
    answer += "."
    sections = PageSections()
    sections.add(
        "One sample is enough, until someone interferes",
        [
            _gaussian_chart(config, rows["gaussian"]),
            "A hidden vector theta tells two classes apart: samples of class y (+1 or -1) scatter "
            "around y theta. The learner averages its samples, each times its label, and "
            "classifies by the sign of the inner product with that average.",
            Formula(
                r"\theta \sim N(0, I_d), \quad x \sim N(y\,\theta, \sigma^2 I_d), \quad "
                r"\sigma = c\, d^{1/4}, \quad w = \frac{1}{n}\sum_{i=1}^{n} y_i x_i",
                "theta is normal, a sample is normal around y theta with standard deviation sigma, "
                "which is c times the fourth root of d; w is the mean of the signed samples",
            ),
            "The adversary shifts every coordinate of a test sample by up to eps. Against a "
            "linear classifier its best shift costs exactly eps times the sum of the absolute "
            "weights:",
            Formula(
                r"\min_{\|\delta\|_\infty \le \varepsilon} y \langle w, x + \delta \rangle = "
                r"y \langle w, x \rangle - \varepsilon \|w\|_1",
                "the least of y times the inner product of w and x plus delta equals y times the "
                "inner product of w and x, minus eps times the l_1 norm of w",
            ),
            "A weight of the average is right in its sign only a little more often than wrong. The "
            "errors of d weights cancel in a test sample, but the adversary uses each of them.",
        ],
    )
    sections.add(
        "The price is the square root of the dimension",
        [
            _need_chart(config, rows),
            Formula(
                r"\mathrm{err}(n) \approx \Phi\!\left(-\sqrt{d}\;\frac{1 - \varepsilon "
                r"\sqrt{2/\pi}\,\sqrt{1 + \sigma^2/n}}{\sqrt{V}}\right), \quad "
                r"V = 2 + s + \sigma^2 (1 + s) + \ldots, \quad s = \sigma^2/n",
                "the error at n samples is about Phi of minus the root of d times one minus eps "
                "root two over pi root of one plus sigma squared over n, over the root of V",
            ),
            "The numerator turns positive once n exceeds about (2 / pi) eps^2 sigma^2, which is "
            "proportional to eps^2 times the square root of d. The dots stand for terms in eps "
            "that vanish beside the others in high dimension; the curves contain them.",
        ],
    )
    sections.add(
        "No learner escapes",
        [
            _floor_chart(config, rows["floor"]),
            "The bound holds for every learner and every kind of classifier. What is known "
            "about theta after n samples is a normal distribution around a mean vector m. Where "
            "no coordinate of m exceeds eps, the adversary shifts samples of both classes by m "
            "toward each other; they then have one distribution, and the best guess is a coin.",
            Formula(
                r"\mathrm{err} \ge \tfrac12 P(\|m\|_\infty \le \varepsilon) = "
                r"\tfrac12 \left(2 \Phi(\varepsilon \sqrt{1 + \sigma^2/n}) - 1\right)^d",
                "the error is at least half the probability that the largest coordinate of m is at "
                "most eps, which is (2 Phi(eps root(1 + sigma squared over n)) - 1) to the power d",
            ),
            "The best possible learner is known here too: it shrinks every coordinate of m toward "
            "0 by eps and uses what is left as weights (Bhagoji et al. 2019, Dan et al. 2020). It "
            "lies above the floor, and below the plain average.",
        ],
    )
    sections.add(
        "It depends on the data, and on the classifier",
        [
            _bernoulli_chart(config, rows["bernoulli"]),
            "In the second model coordinates are only +1 or -1. Linear classifiers pay as before. "
            "But a change of less than 1 cannot turn a sign, so a classifier that rounds first "
            "has the same error with and without the adversary.",
        ],
    )
    return StudyPage(
        answer,
        tuple(sections.sections),
        _comparisons(config, rows, (exponent, flat, steep)),
        (
            "The theorems hold up to constants that the paper does not give; the constants here "
            f"(sigma = {FACTOR:g} d^(1/4), tau = {BERNOULLI_FACTOR:g} d^(-1/4)) were chosen so "
            "that one sample suffices without an adversary.",
            "The formulas are exact as the dimension grows; the marks are of the dimension named.",
            "The mean of n normal samples is drawn from its own normal distribution, which is the "
            "same as drawing n samples and averaging.",
            "Photos are not normal: that robust learning of them needs more data is measured by "
            "the study of cost, not proved here.",
        ),
        (
            ("Phi", "distribution function of the normal distribution with mean 0, variance 1"),
            ("standard error", "share of unchanged test samples that are classified wrongly"),
            ("robust error", "the same share after the adversary's best change of each"),
            ("l_inf, eps", "the adversary may change every coordinate by up to eps"),
            ("posterior mean", "mean of what the training samples leave possible for theta"),
        ),
    )


def _samples(n: int) -> str:
    return "one sample suffices" if n == 1 else f"{n} samples are needed"


def _comparisons(
    config: SamplesConfig, rows: PartRows, exponent: tuple[float, float, float]
) -> tuple[Comparison, ...]:
    d, paper = config.dimension, SCHMIDT.cited
    middle, flat, steep = (f"{end:.2f}" for end in exponent)
    # The numbers of samples are whole: where theirs agree, the ends say nothing of the exponent.
    ends = f" [{flat}, {steep}]" if flat != steep else ""
    first = rows["floor"][0]
    blind = wilson_interval(first["blind"], first["trials"])
    floor = GaussianModel.at_scale(config.floor_dimension, FACTOR).floor(1, RADII[-1])
    return (
        Comparison(
            "Standard error of one sample, Gaussian model",
            f"{paper}, section 2.1",
            "at most 1 % with high probability, for sigma <= c d^(1/4)",
            f"{_errors(rows['gaussian'], 1, eps=0.0)} at d = {d:,}",
        ),
        Comparison(
            "Samples needed against an adversary, growth with d",
            f"{paper}, section 2.1",
            "order of eps^2 sqrt(d): exponent 1/2",
            f"exponent {middle}{ends} between d = "
            f"{config.dimensions[-2]:,} and {config.dimensions[-1]:,} at eps {RADII[-1]:g}",
            "The exponent approaches 1/2 from below, since the way from an error of 1/2 to one of "
            "1 % takes relatively fewer samples in high dimension: by the formula it is "
            f"{_limit_exponent():.2f} between 10^9 and 10^10 dimensions.",
        ),
        Comparison(
            "Robust error of any learner with too few samples",
            f"{paper}, section 2.1",
            "at least (1 - 1/d)/2 for n <= c eps^2 sqrt(d) / log d",
            f"at least {format_percent(floor, 4)} by the formula with n = 1; in {blind} of the "
            f"trials the classes could be made alike, d = {config.floor_dimension:,}",
        ),
        Comparison(
            "Bernoulli model, signs taken first, one sample",
            f"{paper}, section 2.2",
            "robust error at most 1 % for any eps < 1",
            f"{_errors(rows['bernoulli'], 1, share=0.0)} at d = {d:,}",
        ),
        Comparison(
            "Bernoulli model, linear classifier, one sample",
            f"{paper}, section 2.2",
            "at least 1/2 - gamma for n <= c eps^2 gamma^2 d / log(d / gamma)",
            f"{_errors(rows['bernoulli'], 1, share=1.0)} at eps = tau, d = {d:,}",
        ),
    )
