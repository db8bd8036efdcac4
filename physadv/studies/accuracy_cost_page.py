"""Page of the study ``cost``: accuracy by size of the training set and by adversary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from physadv.core.rows import Row
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.metrics.intervals import (
    DifferenceInterval,
    RateInterval,
    difference_interval,
    wilson_interval,
)
from physadv.studies.learning_studies_config import CostConfig
from physadv.studies.odds_model import OddsModel
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
from physadv.studies.study import PartRows

TSIPRAS = Paper(
    "Tsipras et al.",
    2019,
    "Robustness May Be at Odds with Accuracy",
    "ICLR 2019, arXiv:1805.12152",
)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the vote that the strong coordinate gets."""
MODEL_RADII = (0.0, 1.0, 2.0, 4.0)
"""Radii of training in the theorem's model, in units of eta; the theorem's adversary has 2."""
MODEL_SIZES = (10, 30, 100, 300, 1000, 3000)


@dataclass(frozen=True)
class ImageSet:
    """A data set of the study.

    Args:
        name: Stem of its parts and figures.
        label: Name on the page.
        field: Field of the configuration that names it.
        radii: Radii of training in l_inf; the last one also attacks.
        side: Height and width of its images in px.
    """

    name: str
    label: str
    field: str
    radii: tuple[float, ...]
    side: int

    def in_words(self, eps: float) -> str:
        """Return the training at radius ``eps`` in words."""
        if not eps:
            return "standard"
        return f"eps {eps:g}" if self.field == "data" else f"eps {255 * eps:g}/255"


# At 0.2 these short trainings on MNIST end in one answer for all images, which says nothing of
# what robustness costs.
IMAGE_SETS = (
    ImageSet("digits", "MNIST", "data", (0.0, 0.05, 0.1), 28),
    ImageSet("signs", "GTSRB", "gtsrb_data", (0.0, 4 / 255, 8 / 255), 32),
)


def cost_page(config: CostConfig, rows: PartRows) -> StudyPage:
    """Compute the page of ``cost`` from the ``rows`` of a run of ``config``."""
    sets = [images for images in IMAGE_SETS if f"{images.name}-0" in rows]
    found = {
        images.name: [
            row for number in range(len(images.radii)) for row in rows[f"{images.name}-{number}"]
        ]
        for images in sets
    }
    sections = PageSections()
    for images in sets:
        own = found[images.name]
        sections.add(
            f"{images.label}: {_verdict(images, own)}",
            [_accuracy_chart(images, own), _words_on(images, own), _robust_chart(images, own)],
        )
    sections.add("A model where it can be proved", _model_blocks(config, rows))
    return StudyPage(
        " ".join(_sentence(images, found[images.name]) for images in sets),
        tuple(sections.sections),
        _comparisons(config, rows, sets, found),
        (
            "Intervals are of the test images; another training set of the same size or another "
            "seed would move the curves too, most where there are few images.",
            "The networks are small and trained for minutes; the paper trains residual networks "
            "to convergence.",
            "Robust accuracy is what one attack of 10 steps leaves, and so an upper bound.",
            "The theorem is about the limit of many samples in its model; it does not say that "
            "every data set has such a price.",
        ),
        (
            ("standard accuracy", "share of unchanged test images that are classified right"),
            ("robust accuracy", "share that is still right after the adversary's change"),
            ("eps", "largest change of a pixel or coordinate; pixels lie between 0 and 1"),
            (
                "adversarial training",
                "training on images that an attack has changed for the worse at every step",
            ),
        ),
    )


def _rate(rows: Sequence[Row], n: int, eps: float) -> RateInterval:
    row = next(row for row in rows if row["n"] == n and row["eps"] == eps)
    return wilson_interval(row["right"], row["tested"])


def _gaps(images: ImageSet, rows: Sequence[Row], eps: float) -> dict[int, DifferenceInterval]:
    """Accuracy of training at ``eps`` less that of standard training, by number of images."""
    sizes = sorted({row["n"] for row in rows})
    return {n: difference_interval(_rate(rows, n, 0.0), _rate(rows, n, eps)) for n in sizes}


def _verdict(images: ImageSet, rows: Sequence[Row]) -> str:
    """Say in words how the gap of the strongest adversary moves with the number of images."""
    gaps = list(_gaps(images, rows, images.radii[-1]).values())
    helps, costs = any(g.low > 0 for g in gaps), gaps[-1].high < 0
    if helps and costs:
        return "it helps with few images and costs with many"
    if helps:
        return "it helps with few images"
    return "it costs accuracy" if costs else "no clear cost"


def _sentence(images: ImageSet, rows: Sequence[Row]) -> str:
    """One sentence of the answer: gaps at both ends."""
    eps = images.radii[-1]
    gaps = _gaps(images, rows, eps)
    fewest, most = min(gaps), max(gaps)
    best = max(gaps, key=lambda n: gaps[n].value)
    words = (
        f"On {images.label} training at {images.in_words(eps)} changes the accuracy on unchanged "
        f"images by {gaps[fewest]} with {count_noun(fewest, 'training image')} and by "
        f"{gaps[most]} with {most:,}"
    )
    if best not in (fewest, most) and gaps[best].value > max(0, gaps[fewest].value):
        words += f"; it is highest, {gaps[best]}, with {best:,}"
    return words + "."


def _words_on(images: ImageSet, rows: Sequence[Row]) -> str:
    """Where the curves of each adversary cross, in words."""
    parts = []
    for eps in images.radii[1:]:
        gaps = _gaps(images, rows, eps)
        sizes = sorted(gaps)
        crossing = [(a, b) for a, b in pairwise(sizes) if gaps[a].value > 0 >= gaps[b].value]
        where = (
            f"crosses that of standard training between {crossing[-1][0]:,} and "
            f"{count_noun(crossing[-1][1], 'image')}"
            if crossing
            else "does not cross that of standard training"
        )
        parts.append(f"the curve of {images.in_words(eps)} {where}")
    return (
        "One reading of a crossing: with few images the adversary keeps the network from learning "
        "accidental details, those that eps can change; with many images nothing is "
        f"accidental any more, and what is kept away is missed. Here {' and '.join(parts)}."
    )


def _accuracy_chart(images: ImageSet, rows: Sequence[Row]) -> Chart:
    series = []
    for eps in images.radii:
        own = [row for row in rows if row["eps"] == eps]
        rates = [(row["n"], wilson_interval(row["right"], row["tested"])) for row in own]
        points = tuple(
            Point(n, r.rate, r.low, r.high, f"{count_noun(n, 'image')}: {r}") for n, r in rates
        )
        series.append(Series(images.in_words(eps), points))
    caption = (
        f"Accuracy on unchanged test images of {images.label} by number of training images, for "
        "each strength of the adversary in training; 95 % intervals of the test images."
    )
    return Chart(
        f"{images.name}-accuracy",
        caption,
        Axis("training images", "log"),
        Axis("standard accuracy", percent=True),
        tuple(series),
    )


def _robust_chart(images: ImageSet, rows: Sequence[Row]) -> Chart:
    series = []
    for eps in images.radii:
        own = [row for row in rows if row["eps"] == eps]
        rates = [(row["n"], wilson_interval(row["withstood"], row["attacked"])) for row in own]
        points = tuple(
            Point(n, r.rate, r.low, r.high, f"{count_noun(n, 'image')}: {r}") for n, r in rates
        )
        series.append(Series(images.in_words(eps), points))
    caption = (
        f"Accuracy of the same networks under attack, {images.in_words(images.radii[-1])}; 95 % "
        "intervals of the test images."
    )
    return Chart(
        f"{images.name}-robust",
        caption,
        Axis("training images", "log"),
        Axis("robust accuracy", low=0, high=1, percent=True),
        tuple(series),
    )


def _model_blocks(config: CostConfig, rows: PartRows) -> list[str | Formula | Chart]:
    model = OddsModel(config.weak)
    return [
        "Take one strong coordinate, which agrees with the label in 95 of 100 samples, and "
        f"{model.weak:,} weak ones, each of which barely leans toward the label. Together the weak "
        "ones are right more often than the strong one; but an adversary of eps = 2 eta turns the "
        "leaning of all of them around.",
        Formula(
            r"x_1 = \begin{cases} y & p \\ -y & 1 - p \end{cases}, \quad "
            r"x_2, \ldots, x_{d+1} \sim N(\eta y, 1), \quad \eta = 2/\sqrt{d}, \quad "
            r"\varepsilon = 2 \eta",
            "x one is y with probability p and minus y otherwise; the d others are normal with "
            "mean eta y and variance one; eta is two over the root of d; eps is two eta",
        ),
        _plane_chart(config, rows["plane"]),
        Formula(
            r"\mathrm{acc} \ge 1 - \delta \;\Rightarrow\; \mathrm{acc}_{\mathrm{robust}} \le "
            r"\frac{p}{1 - p}\, \delta",
            "a standard accuracy of at least one minus delta means a robust accuracy of at most p "
            "over one minus p, times delta",
        ),
        "To be right more often than the strong coordinate a classifier must listen to the weak "
        "ones, and with them to the adversary. This holds for all classifiers, not only linear "
        "ones, and for any number of samples.",
        _model_chart(config, rows["model"]),
        _words_on_model(rows["model"]),
    ]


def _words_on_model(rows: Sequence[Row]) -> str:
    """Where the strongest adversary in training helps in the model, in words."""
    found = {(row["n"], row["factor"]): row for row in rows}
    gains = {}
    for n in sorted({row["n"] for row in rows}):
        robust, standard = found[n, MODEL_RADII[-1]], found[n, 0.0]
        doubt = 1.96 * (robust["deviation"] ** 2 + standard["deviation"] ** 2) ** 0.5
        gains[n] = (robust["accuracy"] - standard["accuracy"], doubt)
    best = max(gains, key=lambda n: gains[n][0])
    gain, doubt = gains[best]
    last, last_doubt = gains[max(gains)]
    end = f"with {count_noun(max(gains), 'sample')} it changes it by {100 * last:+.1f} points"
    end += f" [{100 * (last - last_doubt):+.1f}, {100 * (last + last_doubt):+.1f}]"
    interval = f"[{100 * (gain - doubt):+.1f}, {100 * (gain + doubt):+.1f}]"
    if gain - doubt <= 0:
        return f"With few samples no training set shows a clear gain in this model; {end}."
    return (
        "With few samples it can be the other way around in this model too: standard training "
        "fits the noise of the weak coordinates, which an adversary larger than that noise "
        f"switches off. Training at {MODEL_RADII[-1]:g} eta changes the accuracy by "
        f"{100 * gain:+.1f} points {interval} with {count_noun(best, 'sample')}; {end}."
    )


def _plane_chart(config: CostConfig, rows: Sequence[Row]) -> Chart:
    model = OddsModel(config.weak)
    mixed = [row for row in rows if row["kind"] == "mixed"]
    grid = [0.9 + 0.001 * k for k in range(100)]
    points = []
    for row in mixed:
        right = wilson_interval(row["right_attacked"], row["trials"])
        hint = f"{format_percent(row['share'], 0)} of the vote to the strong coordinate: {right}"
        at = row["right"] / row["trials"]
        points.append(Point(at, right.rate, right.low, right.high, hint))
    curve = [
        (model.accuracy(weights), model.accuracy(weights, model.eps))
        for weights in (model.mixed(k / 100) for k in range(101))
    ]
    trained = [
        Series(
            f"trained at {row['factor']:g} eta" if row["factor"] else "standard training",
            (Point(row["standard"], row["robust"]),),
            "points",
        )
        for row in rows
        if row["kind"] == "trained"
    ]
    limit = tuple(Point(a, model.bound(a)) for a in grid)
    caption = (
        "Standard against robust accuracy in the theorem's model. No classifier lies above the "
        "upper dashed line. Marks along the lower one give the strong coordinate more and more "
        f"of the vote, {count_noun(mixed[0]['trials'], 'simulated sample')} each; the others are "
        "trained."
    )
    return Chart(
        "tradeoff",
        caption,
        Axis("standard accuracy", percent=True, low=0.93, high=1.0),
        Axis("robust accuracy at eps = 2 eta", percent=True, low=0, high=1),
        (
            Series("votes mixed", tuple(points), "points"),
            Series(
                "votes mixed: formula",
                tuple(Point(a, b) for a, b in curve),
                "curve",
                "theory",
                "votes mixed",
            ),
            Series("bound of the theorem", limit, "curve", "theory"),
            *trained,
        ),
    )


def _model_chart(config: CostConfig, rows: Sequence[Row]) -> Chart:
    series = []
    for factor in MODEL_RADII:
        points = [
            Point(
                row["n"],
                row["accuracy"],
                row["accuracy"] - 1.96 * row["deviation"],
                row["accuracy"] + 1.96 * row["deviation"],
            )
            for row in rows
            if row["factor"] == factor
        ]
        name = f"trained at {factor:g} eta" if factor else "standard training"
        series.append(Series(name, tuple(points)))
    caption = (
        "Standard accuracy of trained linear classifiers in the theorem's model by number of "
        f"samples, {config.weak:,} weak coordinates: means of {rows[0]['repeats']} training sets "
        f"({rows[-1]['repeats']} at the right end) with 95 % intervals, each accuracy exact."
    )
    return Chart(
        "model-accuracy",
        caption,
        Axis("training samples", "log"),
        Axis("standard accuracy", percent=True),
        tuple(series),
    )


def _comparisons(
    config: CostConfig,
    rows: PartRows,
    sets: Sequence[ImageSet],
    found: dict[str, list[Row]],
) -> tuple[Comparison, ...]:
    model = OddsModel(config.weak)
    trained = [row for row in rows["plane"] if row["kind"] == "trained"]
    gap = max(row["robust"] - model.bound(row["standard"]) for row in rows["plane"])
    verdict = "none lies above it" if gap <= 1e-9 else f"one lies {format_percent(gap)} above it"
    made = [
        Comparison(
            f"{images.label}: few and many training images",
            f"{TSIPRAS.cited}, figure 1",
            "on MNIST robust training helps with few images; with many it lowers standard "
            "accuracy (shown as curves)",
            _sentence(images, found[images.name]),
            "Another norm (l_inf; l_2 in figure 1), smaller networks, shorter trainings"
            + ("." if images.field == "data" else ", and a data set that the paper does not have."),
        )
        for images in sets
    ]
    return (
        *made,
        Comparison(
            "Robust accuracy of a classifier of accuracy 1 - delta, theorem's model",
            f"{TSIPRAS.cited}, theorem 2.1",
            "at most p / (1 - p) delta",
            f"of {len(rows['plane'])} classifiers {verdict}",
        ),
        Comparison(
            "Adversarial training finds the strong coordinate, theorem's model",
            f"{TSIPRAS.cited}, theorem 2.2",
            "a linear classifier trained against eps = 2 eta has robust accuracy p",
            f"{format_percent(trained[-1]['robust'])} robust and "
            f"{format_percent(trained[-1]['standard'])} standard, beside "
            f"{format_percent(trained[0]['robust'])} and {format_percent(trained[0]['standard'])} "
            "of standard training (exact for the trained weights)",
        ),
    )
