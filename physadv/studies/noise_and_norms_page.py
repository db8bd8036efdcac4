"""Page of the study of what noise pays for l_inf, computed from its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt

import numpy as np

from physadv.core.rows import Row
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.studies.certificate_studies_config import NormsConfig
from physadv.studies.linf_price import NOISES, fitted_exponent
from physadv.studies.page import (
    Axis,
    Chart,
    Comparison,
    Formula,
    PageSections,
    Paper,
    Picture,
    Pictures,
    Point,
    Series,
    StudyPage,
    Table,
)
from physadv.studies.smoothing_bounds import largest_radius
from physadv.studies.study import PartRows

ALPHA, SHARE, SIGMA, RADIUS = 0.001, 0.99, 0.5, 0.03
"""Error of each certificate; probability of the formulas; noise; radius of the comparison."""
FIXED, GROWING = "fixed", "growing"
"""Noise of one standard deviation, and of one that grows with the root of the dimensions."""
LARGE = 784
"""Dimensions from which exponents are fitted."""
WORDS = {
    "gaussian": "Gaussian",
    "laplace": "Laplace",
    "uniform": "uniform",
    "cube": "cube-shaped, exp(-max |x|)",
}
"""Noises in words."""

BLUM = Paper(
    "Blum et al.",
    2020,
    "Random smoothing might be unable to certify l_inf robustness for high-dimensional images",
    "JMLR 21, arXiv:2002.03517",
)
YANG = Paper(
    "Yang et al.",
    2020,
    "Randomized smoothing of all shapes and sizes",
    "ICML 2020, arXiv:2002.08118",
)


def norms_page(config: NormsConfig, parts: PartRows) -> StudyPage:
    """Compute the page of the study.

    Args:
        config: Configuration of the study.
        parts: Its rows by part.
    """
    sections = PageSections()
    _add_formulas(sections, parts)
    _add_images(sections, config, parts)
    return StudyPage(
        answer=_answer(config, parts),
        sections=tuple(sections.sections),
        comparisons=tuple(_comparisons(parts)),
        limits=(
            "Votes alone are used: a certificate that knows more of the network, as those by "
            "intervals do, does not pay this price.",
            "Enlarged images hold no more detail than small ones. A network can average over "
            "neighboring pixels and so remove noise that one pixel alone could not bear; on images "
            "whose pixels all differ it could not.",
            "The radius of Laplace noise takes a sum of many numbers as normal, and both it and "
            "that of the bound are largest radii, not ones that every classifier reaches.",
        ),
        terms=(
            ("l_inf radius", "Largest change of every number of an image."),
            ("l_2 radius", "Length of a change: the root of the sum of its squares."),
            ("d", "Number of numbers in an image: pixels times channels."),
            ("sigma", "Standard deviation of the noise on every number."),
            ("p", "Probability of the most frequent class under the noise."),
            (
                "corner",
                "A change by the radius up or down in every number: its l_2 length is the "
                "radius times the root of d.",
            ),
        ),
    )


def _own(config: NormsConfig, parts: PartRows, kind: str) -> list[Sequence[Row]]:
    """Rows of one kind of noise by the size of the images."""
    return [parts[f"{kind}-{side}"] for side in config.sides]


def _median(rows: Sequence[Row]) -> float:
    return float(np.median([row["radius"] for row in rows]))


def _certified(rows: Sequence[Row]) -> RateInterval:
    """Share of images that are right and certified within the radius of the comparison."""
    return wilson_interval(sum(row["radius"] >= RADIUS for row in rows), len(rows))


def exponents(rows: Sequence[Row]) -> dict[str, float]:
    """Return the power of the dimensions that each noise's radius follows.

    Args:
        rows: Rows of the formulas, one a number of dimensions.
    """
    large = [row for row in rows if row["dims"] >= LARGE]
    dims = [row["dims"] for row in large]
    return {noise: fitted_exponent(dims, [row[noise] for row in large]) for noise in NOISES}


def _answer(config: NormsConfig, parts: PartRows) -> str:
    rows = parts["formulas"]
    powers = exponents(rows)
    best = max(NOISES, key=lambda noise: rows[-1][noise])
    at = next(row for row in rows if row["dims"] == LARGE)
    fixed = _own(config, parts, FIXED)
    dims = [int(own[0]["dims"]) for own in (fixed[0], fixed[-1])]
    most = [SIGMA * largest_radius(config.votes, ALPHA) / sqrt(d) for d in dims]
    return (
        f"By votes alone the l_inf radius falls at best like d to the {powers[best]:.2f} "
        f"({WORDS[best]} noise: {at[best]:.3f} sigma at d = {LARGE} and "
        f"p = {format_percent(SHARE, 0)}; cube-shaped noise {at['cube']:.4f}); under noise "
        f"{SIGMA:g} unanimous votes prove {most[0]:.3f} at d = {dims[0]} and {most[1]:.3f} at "
        f"d = {dims[1]}, where the median of the digits reaches {_median(fixed[-1]):.3f}."
    )


def _add_formulas(sections: PageSections, parts: PartRows) -> None:
    rows = parts["formulas"]
    powers = exponents(rows)
    curves = [
        Series(
            WORDS[noise],
            tuple(Point(row["dims"], row[noise]) for row in rows),
            "line",
            "theory",
        )
        for noise in NOISES
    ]
    bound = Series(
        "no noise exceeds",
        tuple(Point(row["dims"], row["bound"]) for row in rows),
        "curve",
        "theory",
    )
    sections.add(
        "The price of the root of d",
        [
            Chart(
                "radius-by-dimension",
                f"Largest l_inf radius that noise of standard deviation 1 certifies when the top "
                f"class has p = {format_percent(SHARE, 0)}. From d = {LARGE} on the radii follow d "
                "to the " + ", ".join(f"{powers[noise]:.2f} ({noise})" for noise in NOISES) + ".",
                Axis("d, numbers in the input", "log"),
                Axis("l_inf radius [sigma]", "log"),
                (*curves, bound),
            ),
            "An l_inf ball of radius r reaches to corners at l_2 distance r times the root of d. "
            "There the noise must still hide where it started, so it must be larger by that "
            "root. Noise shaped like the ball itself does worse, since most of its volume lies at "
            "its faces.",
            Formula(
                r"R_{\infty} = \frac{\sigma \, \Phi^{-1}(p)}{\sqrt{d}}",
                "Gaussian noise: the l_inf radius is sigma times the inverse normal distribution "
                "function of p, over the root of d.",
            ),
            Formula(
                r"R_{\infty} = 2 \sqrt{3} \, \sigma \left(1 - \left(\frac{3}{2} - p"
                r"\right)^{1/d}\right)",
                "Uniform noise: two times the root of three sigma, times one minus the d-th root "
                "of three halves minus p.",
            ),
            Formula(
                r"R_{\infty} \le \frac{2 \sigma}{\sqrt{d \, (1 - p)}}",
                "Any noise: the l_inf radius is at most two sigma over the root of d times one "
                "minus p.",
            ),
            "The last line holds for noise of any shape. Take a random corner v of the ball and "
            "the classifier that compares the inner product of x and v with half its value at "
            "v. Over corners and noise that product has variance d r squared sigma squared, so "
            "by Chebyshev's inequality the classifier errs at the point and at v with "
            "probability at most four sigma squared over d r squared each, for at least one "
            "corner. Where that is 1 - p, the vote has p at the point and loses at v. Blum et al. "
            "and Yang et al. prove the same order.",
            _simulation(parts["simulated"]),
        ],
    )


def _simulation(rows: Sequence[Row]) -> Table:
    """Table of the simulated probabilities beside that of the formulas."""
    return Table(
        "simulated",
        f"The formulas' radii for p = {format_percent(SHARE, 0)}, and the p that the most powerful "
        "test of the corner needs by drawing the noise.",
        ("noise", "d", "radius [sigma]", "p, simulated"),
        tuple(
            (
                row["noise"],
                f"{row['dims']:,}",
                f"{row['radius']:.4f}",
                f"{format_percent(row['share'], 2)} [{format_percent(row['low'], 2)}, "
                f"{format_percent(row['high'], 2)}], n = {row['runs']:,}",
            )
            for row in rows
        ),
        (1, 2, 3),
    )


def _add_images(sections: PageSections, config: NormsConfig, parts: PartRows) -> None:
    fixed, growing = (_own(config, parts, kind) for kind in (FIXED, GROWING))
    ceiling = SIGMA * largest_radius(config.votes, ALPHA)
    sections.add(
        "On images of several sizes",
        [
            Pictures(
                "noisy-images",
                f"One digit at each size. Above noise {SIGMA:g} on every pixel, below noise that "
                "grows with the root of d, as the same l_inf radius asks for.",
                tuple(
                    tuple(
                        Picture(
                            f"pictures/noisy-{kind}-{side}.png",
                            f"{side} x {side}",
                            f"noise {rows[0]['sigma']:g}",
                        )
                        for side, rows in zip(config.sides, own, strict=True)
                    )
                    for kind, own in ((FIXED, fixed), (GROWING, growing))
                ),
                pixelated=True,
            ),
            Chart(
                "radius-on-images",
                f"Certified l_inf radius of {len(fixed[0])} test digits under noise {SIGMA:g}: "
                "median, bars hold the middle half of the images.",
                Axis("d, numbers in the image", "log", ticks=_dims(fixed)),
                Axis("l_inf radius", low=0),
                (
                    Series("measured", tuple(_quartiles(rows) for rows in fixed)),
                    Series(
                        "all votes agree",
                        tuple(
                            Point(rows[0]["dims"], ceiling / sqrt(rows[0]["dims"]))
                            for rows in fixed
                        ),
                        "curve",
                        "theory",
                    ),
                ),
            ),
            Chart(
                "accuracy-on-images",
                f"Share of digits right and certified within l_inf {RADIUS:g}, with 95 % "
                "intervals.",
                Axis("d, numbers in the image", "log", ticks=_dims(fixed)),
                Axis("certified accuracy", low=0, high=1, percent=True),
                (
                    Series(f"noise {SIGMA:g}", tuple(_rate(rows) for rows in fixed)),
                    Series(
                        "noise growing with the root of d",
                        tuple(_rate(rows) for rows in growing),
                    ),
                ),
            ),
            _images_in_words(fixed, growing),
        ],
    )


def _images_in_words(fixed: list[Sequence[Row]], growing: list[Sequence[Row]]) -> str:
    last, noisy = fixed[-1], growing[-1]
    lengths = ", ".join(f"{float(np.median([row['l2'] for row in rows])):.2f}" for rows in fixed)
    sizes = ", ".join(str(rows[0]["dims"]) for rows in fixed)
    return (
        f"Under noise {SIGMA:g} the median l_2 radius is {lengths} at d = {sizes}; the l_inf "
        "radius is that over the root of d. To keep "
        f"the l_inf radius the noise must grow, here to {noisy[0]['sigma']:g} on pixels from "
        f"0 to 1, where {_certified(noisy)} are certified within {RADIUS:g} (fixed noise: "
        f"{_certified(last)}). What the noise costs in accuracy depends on the images: these are "
        "small digits enlarged, whose neighboring pixels say the same."
    )


def _dims(own: list[Sequence[Row]]) -> tuple[float, ...]:
    return tuple(float(rows[0]["dims"]) for rows in own)


def _quartiles(rows: Sequence[Row]) -> Point:
    low, middle, high = np.quantile([row["radius"] for row in rows], (0.25, 0.5, 0.75))
    return Point(rows[0]["dims"], float(middle), float(low), float(high))


def _rate(rows: Sequence[Row]) -> Point:
    rate = _certified(rows)
    return Point(rows[0]["dims"], rate.rate, rate.low, rate.high)


def _comparisons(parts: PartRows) -> Iterator[Comparison]:
    powers = exponents(parts["formulas"])
    measured = ", ".join(f"{noise} {powers[noise]:.2f}" for noise in NOISES)
    for paper, figure in (
        (BLUM, "noise variance of order d times the squared radius at least: power -1/2"),
        (YANG, "no radius above the order of d to the -1/2"),
    ):
        yield Comparison(
            "power of d that the largest l_inf radius follows",
            paper.cited,
            figure,
            f"{measured} (formulas, d from {LARGE} to {parts['formulas'][-1]['dims']:,})",
        )
