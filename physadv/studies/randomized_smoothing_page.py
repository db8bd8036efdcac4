"""Page of the study of randomized smoothing, computed from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from physadv.certification.smoothing.certify import ABSTAIN
from physadv.core.rows import Row
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.studies.certificate_studies_config import SmoothingStudyConfig
from physadv.studies.page import (
    Axis,
    Chart,
    Comparison,
    Formula,
    PageSections,
    Paper,
    Picture,
    Pictures,
    Plane,
    Point,
    Series,
    Shape,
    StudyPage,
    Table,
)
from physadv.studies.plane_regions import REGION_COLORS, circle
from physadv.studies.smoothing_bounds import cohen_radius, largest_radius, radius_quantiles
from physadv.studies.study import PartRows

ALPHA, PLANE_SIGMA, CLASSES = 0.001, 0.12, 3
"""Error of each certificate; noise and classes in the plane."""
PIXEL = 1 / 400
"""Width of a pixel of the plane's pictures, up to which distances in the plane are exact."""
RADIUS = 1.0
"""Radius of the answer."""
PUBLISHED = {
    ("0.25", 0.25): "60 %",
    ("0.25", 0.5): "43 %",
    ("0.25", 0.75): "27 %",
    ("0.50", 0.25): "55 %",
    ("0.50", 0.5): "41 %",
    ("0.50", 0.75): "32 %",
    ("0.50", 1.0): "23 %",
    ("0.50", 1.25): "15 %",
    ("0.50", 1.5): "9 %",
}
"""Certified accuracy by noise and radius in the table that Cohen et al. publish with their code."""


LI = Paper(
    "Li et al.", 2018, "Certified adversarial robustness with additive noise", "NeurIPS 2019"
)
COHEN = Paper(
    "Cohen et al.",
    2019,
    "Certified adversarial robustness via randomized smoothing",
    "ICML 2019, arXiv:1902.02918",
)
LECUYER = Paper(
    "Lecuyer et al.",
    2018,
    "Certified robustness to adversarial examples with differential privacy",
    "IEEE S&P 2019, arXiv:1802.03471",
)


def smoothing_page(config: SmoothingStudyConfig, parts: PartRows) -> StudyPage:
    """Compute the page of the study.

    Args:
        config: Configuration of the study.
        parts: Its rows by part.
    """
    nets = _nets(parts)
    sections = PageSections()
    _add_plane(sections, parts["plane"])
    _add_votes(sections, parts, config)
    _add_formulas(sections, parts["formulas"])
    _add_images(sections, nets)
    if "published" in parts:
        _add_published(sections, parts["published"])
    return StudyPage(
        answer=_answer(nets, parts["plane"][1:], config),
        sections=tuple(sections.sections),
        comparisons=tuple(_comparisons(nets, parts, config)),
        limits=(
            "A certificate is about the vote over all noise, not about the network itself nor "
            "about a vote of few samples.",
            f"Each certificate may be wrong with probability {ALPHA:g} over its noise: among a "
            "thousand images one false certificate is expected at most.",
            "Votes are those of a network as computers run it; the rounding of the noise itself "
            "is not covered.",
            "The distances in the plane are measured on a grid and are exact up to one of its "
            f"pixels, {PIXEL:g} wide.",
        ),
        terms=(
            ("base classifier f", "The network that answers each noisy copy."),
            ("smoothed classifier g", "The class that f gives most often under the noise."),
            ("sigma", "Standard deviation of the noise added to every number of the input."),
            ("l_2 radius", "Length of a change: the root of the sum of its squares."),
            (
                "certified accuracy at radius r",
                "Share of images whose class is right and proven for every change up to r.",
            ),
            ("abstain", "Say nothing, where the votes do not prove a majority."),
        ),
    )


def _nets(parts: PartRows) -> dict[float, Sequence[Row]]:
    """Return the rows of each network by the noise of its training."""
    names = [name for name in parts if name.startswith("images-")]
    return {float(name.removeprefix("images-")): parts[name] for name in names}


def certified_within(rows: Sequence[Row], radius: float) -> RateInterval:
    """Return the share of images that are right and certified within a radius.

    Args:
        rows: One row an image.
        radius: The radius; at 0 every right class not abstained on counts.
    """
    right = sum(row["predicted"] == row["label"] and row["radius"] >= radius for row in rows)
    return wilson_interval(right, len(rows))


def _answer(
    nets: dict[float, Sequence[Row]], points: Sequence[Row], config: SmoothingStudyConfig
) -> str:
    plain_rows = nets[0.0]
    sigma = float(plain_rows[0]["sigma"])
    best, plain = certified_within(nets[sigma], RADIUS), certified_within(plain_rows, RADIUS)
    crossing = _crossing(points)
    circles = "none" if crossing == 0 else str(crossing)
    return (
        f"A vote over {config.votes:,} noisy copies proves {best.of('test image')} right "
        f"within l_2 radius {RADIUS:g} (noise {sigma:g}, in training too; without it in training "
        f"{format_percent(plain.rate)}), and in the plane {circles} of {len(points)} certified "
        "circles reaches another class of the vote."
    )


def _crossing(points: Sequence[Row]) -> int:
    """Number of certified circles that reach another class, beyond the grid's resolution."""
    return sum(row["radius"] > row["nearest"] + PIXEL for row in points)


def _add_plane(sections: PageSections, rows: Sequence[Row]) -> None:
    scene, points = rows[0], rows[1:]
    center = (scene["center"][0], scene["center"][1])
    x, y = (Axis(name, low=0, high=1, ticks=(0, 0.5, 1)) for name in ("x", "y"))
    regions = tuple((f"class {k}", REGION_COLORS[k]) for k in range(CLASSES))
    dots = [
        Shape(
            f"noisy copies that f calls {k}",
            "points",
            tuple((a, b) for a, b, label in scene["dots"] if label == k),
        )
        for k in range(CLASSES)
    ]
    ball = Shape("certified circle", "polygon", circle(center, scene["radius"]))
    here = Shape("the point x", "points", (center,))
    way = format_percent(
        _mean(row["radius"] / row["nearest"] for row in points if row["radius"]), 0
    )
    sections.add(
        "A vote under noise",
        [
            f"A network f has learned {scene['points']} points of the plane, {scene['wrong']} of "
            f"them with a wrong class: it gives {scene['learned']} the class that it was taught, "
            "at the price of ragged regions. The smoothed classifier g asks f about many noisy "
            "copies of a point and takes the majority.",
            Plane(
                "base-regions",
                f"Regions of f, and {len(scene['dots'])} noisy copies of one point x: f calls "
                f"{format_percent(scene['share'])} of all of them class {scene['class']}.",
                x,
                y,
                (*dots, here),
                "pictures/base-regions.png",
                regions,
            ),
            Plane(
                "vote-regions",
                f"Regions of the vote g: {scene['pieces_vote']} connected pieces where f has "
                f"{scene['pieces_base']}; g differs from f on {format_percent(scene['changed'])} "
                f"of the square. The circle about x has the certified radius {scene['radius']:.3f};"
                f" the nearest point of another class of g lies at {scene['nearest']:.3f}.",
                x,
                y,
                (ball, here),
                "pictures/vote-regions.png",
                regions,
            ),
            Formula(
                r"g(x) = \mathrm{argmax}_c \, P(f(x + \eta) = c), \quad \eta \sim N(0, \sigma^2 I)",
                "g of x is the class c that f gives most often to x plus Gaussian noise.",
            ),
            Formula(
                r"R = \sigma \, \Phi^{-1}(p)",
                "The certified radius R is sigma times the inverse normal distribution function "
                "of p, the probability of the top class, the others together having 1 minus p.",
            ),
            f"Of {len(points)} random points, {_crossing(points)} have a certified circle that "
            "reaches another class of g. The certificate knows p alone and holds for the worst "
            "f with that p, whose classes are divided by a straight line; here the circle's "
            f"radius is on average {way} of the way to the next region.",
        ],
    )


def _mean(values: Iterable[float]) -> float:
    listed = [value for value in values if value < float("inf")]
    return sum(listed) / len(listed) if listed else float("nan")


def _add_votes(sections: PageSections, parts: PartRows, config: SmoothingStudyConfig) -> None:
    rows = parts["votes"]
    share = float(rows[0]["share"])
    last = parts["animation"][-1]
    grid = [10 * 10 ** (k / 6) for k in range(25)]
    quantiles = [radius_quantiles(share, round(n), ALPHA) for n in grid]
    series = (
        Series(
            f"this run, {rows[0]['runs']} runs each",
            tuple(Point(r["votes"], r["mean"], r["low"], r["high"]) for r in rows),
            "points",
        ),
        Series(
            f"median for p = {share:.3f}",
            tuple(Point(n, q[1]) for n, q in zip(grid, quantiles, strict=True)),
            "curve",
            "theory",
        ),
        Series(
            "all votes agree",
            tuple(Point(n, largest_radius(round(n), ALPHA)) for n in grid),
            "curve",
            "theory",
        ),
        Series(
            "if p were known",
            tuple(Point(n, cohen_radius(share)) for n in (grid[0], grid[-1])),
            "curve",
            "theory",
        ),
    )
    above = sum(int(r["above"]) for r in rows)
    runs = sum(int(r["runs"]) for r in rows)
    sections.add(
        "What few votes cost",
        [
            "The probability p is not known. It is bounded from below by counting, so that the "
            f"bound is wrong with probability {ALPHA:g} at most (Clopper and Pearson 1934).",
            Pictures(
                "vote-animation",
                f"Votes one by one: the circle is certified by {last['votes']} votes in the end, "
                f"with radius {last['radius']:.3f}.",
                (
                    (
                        Picture("pictures/votes.gif", "votes one by one"),
                        Picture("pictures/votes-last.png", "all of them"),
                    ),
                ),
            ),
            Chart(
                "radius-by-votes",
                "Certified radius against the number of votes, at the point of the figures "
                "above; bars hold the middle 95 % of the runs.",
                Axis("votes", "log"),
                Axis("certified radius [sigma]", low=0),
                series,
            ),
            f"Of {runs} certificates {above} exceed the radius for the true p, where {ALPHA:g} of "
            f"them may. Even unanimous votes certify {largest_radius(100_000, ALPHA):.2f} sigma "
            "with 100,000 of them, and no more.",
            Formula(
                r"R_n = \sigma \, \Phi^{-1}\left(\alpha^{1/n}\right)",
                "The largest radius that n votes certify is sigma times the inverse normal "
                "distribution function of alpha to the power one over n.",
            ),
        ],
    )


def _add_formulas(sections: PageSections, rows: Sequence[Row]) -> None:
    kinds = (
        ("cohen", "Cohen et al. 2019 (tight)"),
        ("li", "Li et al. 2018"),
        ("lecuyer", "Lecuyer et al. 2018"),
    )
    at = next(row for row in rows if row["p"] == 0.99)
    sections.add(
        "Three proofs for one vote",
        [
            Chart(
                "three-bounds",
                "Radius that three papers prove for the same vote.",
                Axis("probability p of the top class", low=0.5, high=1, percent=True),
                Axis("certified radius [sigma]", low=0),
                tuple(
                    Series(label, tuple(Point(r["p"], r[key]) for r in rows), "line", "theory")
                    for key, label in kinds
                ),
            ),
            f"At p = 99 % they prove {at['lecuyer']:.2f}, {at['li']:.2f} and {at['cohen']:.2f} "
            "sigma: the same classifier, a better proof. The last is the largest that holds for "
            "every f, since the half-plane attains it.",
            Formula(
                r"R_{Li} = \sup_{a > 1} \sqrt{-\frac{2 \sigma^2}{a} \log\left(2 \left("
                r"\frac{p^{1-a} + (1-p)^{1-a}}{2}\right)^{\frac{1}{1-a}}\right)}",
                "The radius of Li and others: the supremum over a above 1 of the root of minus "
                "2 sigma squared over a times the logarithm of twice the power mean of p and "
                "1 minus p of order 1 minus a.",
            ),
        ],
    )


def _add_images(sections: PageSections, nets: dict[float, Sequence[Row]]) -> None:
    first = next(iter(nets.values()))
    radii = [k / 8 for k in range(25)]
    series = [
        Series(
            f"noise {rows[0]['sigma']:g}" + ("" if trained else ", trained without"),
            tuple(_curve_point(rows, r) for r in radii if r == 0 or _reaches(rows, r)),
        )
        for trained, rows in nets.items()
    ]
    table = [
        (
            "none" if trained == 0 else f"{trained:g}",
            f"{rows[0]['sigma']:g}",
            str(wilson_interval(sum(r["clean"] == r["label"] for r in rows), len(rows))),
            *(str(certified_within(rows, r)) for r in (0.0, 0.5, 1.0)),
            f"{sum(r['predicted'] == ABSTAIN for r in rows)}",
        )
        for trained, rows in nets.items()
    ]
    sections.add(
        "Noise against accuracy",
        [
            Chart(
                "accuracy-by-radius",
                f"Certified accuracy on {len(first)} test images against the l_2 radius, with 95 "
                "% intervals.",
                Axis("l_2 radius", low=0),
                Axis("certified accuracy", low=0, high=1, percent=True),
                tuple(series),
            ),
            _noise_in_words(nets),
            Table(
                "accuracy-by-noise",
                "Accuracy of f on unchanged images, and certified accuracy of the vote.",
                (
                    "noise in training",
                    "noise of the vote",
                    "f, no noise",
                    "vote right",
                    "certified at 0.5",
                    "certified at 1",
                    "abstained",
                ),
                tuple(table),
                (2, 3, 4, 5, 6),
            ),
        ],
    )


def _noise_in_words(nets: dict[float, Sequence[Row]]) -> str:
    """Return what noise in training, and more of it, changes in this run."""
    least, most = min(s for s in nets if s), max(nets)
    near = [certified_within(nets[s], 0.0).rate for s in (least, most)]
    far = [certified_within(nets[s], RADIUS).rate for s in (least, most)]
    same = float(nets[0.0][0]["sigma"])
    trained, untrained = (
        format_percent(certified_within(nets[key], RADIUS).rate, 0) for key in (same, 0.0)
    )
    words = (
        "The vote is only as good as f is on noisy images, so the noise is added in training too. "
        f"At noise {same:g}, {trained} are certified within radius {RADIUS:g} with it and "
        f"{untrained} without."
    )
    if least == most:
        return words
    return (
        f"{words} From noise {least:g} to {most:g} the vote's accuracy goes from "
        f"{format_percent(near[0], 0)} to {format_percent(near[1], 0)}, and what is certified "
        f"within radius {RADIUS:g} from {format_percent(far[0], 0)} to {format_percent(far[1], 0)}."
    )


def _curve_point(rows: Sequence[Row], radius: float) -> Point:
    found = certified_within(rows, radius)
    return Point(radius, found.rate, found.low, found.high)


def _reaches(rows: Sequence[Row], radius: float) -> bool:
    """Return whether a curve is drawn at a radius: up to the first where it is 0."""
    return certified_within(rows, radius - 1 / 8).rate > 0


def published_shares(rows: Sequence[Row]) -> dict[tuple[str, float], RateInterval]:
    """Return the certified accuracy of published rows by noise and radius.

    Args:
        rows: One row an image of the logs.
    """
    by_sigma: dict[str, list[Row]] = {}
    for row in rows:
        by_sigma.setdefault(str(row["sigma"]), []).append(row)
    return {
        (sigma, radius): wilson_interval(
            sum(bool(r["correct"]) and r["radius"] >= radius for r in own), len(own)
        )
        for sigma, own in by_sigma.items()
        for radius in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    }


def _add_published(sections: PageSections, rows: Sequence[Row]) -> None:
    shares = published_shares(rows)
    sigmas = sorted({sigma for sigma, _ in shares})
    sections.add(
        "Published rows",
        [
            "The authors publish the certificate of every image. The table and the curve below "
            "are recomputed from these rows.",
            Chart(
                "published-rows",
                "Certified accuracy of ResNet-110 on CIFAR-10 from the rows of Cohen et al.",
                Axis("l_2 radius", low=0),
                Axis("certified accuracy", low=0, high=1, percent=True),
                tuple(
                    Series(
                        f"noise {float(sigma):g}",
                        tuple(
                            Point(radius, share.rate, share.low, share.high)
                            for (own, radius), share in shares.items()
                            if own == sigma
                        ),
                        "line",
                        "published",
                    )
                    for sigma in sigmas
                ),
            ),
        ],
    )


def _comparisons(
    nets: dict[float, Sequence[Row]], parts: PartRows, config: SmoothingStudyConfig
) -> Iterator[Comparison]:
    shares = published_shares(parts["published"]) if "published" in parts else {}
    for (sigma, radius), figure in PUBLISHED.items():
        if (sigma, radius) in shares:
            yield Comparison(
                f"certified accuracy on CIFAR-10 at radius {radius:g}, noise {float(sigma):g}",
                COHEN.cited,
                figure,
                str(shares[sigma, radius]),
                "recomputed from the authors' own rows",
            )
    reason = (
        "digits instead of photos, a small network, and "
        f"{config.votes:,} votes instead of 100,000; the direction is the claim"
    )
    for noise, figures in ((0.25, "60 %, 0 %"), (0.5, "55 %, 23 %"), (1.0, "39 %, 22 %")):
        if noise in nets:
            near, far = (certified_within(nets[noise], r) for r in (0.25, 1.0))
            yield Comparison(
                f"certified accuracy at radius 0.25 and at 1, noise {noise:g}",
                COHEN.cited,
                f"{figures} (CIFAR-10)",
                f"{near}; {far}",
                reason,
            )
