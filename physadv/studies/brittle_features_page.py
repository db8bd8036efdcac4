"""Page of the study ``features``: what networks learn from parts of a training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from physadv.core.rows import Row
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import (
    DifferenceInterval,
    RateInterval,
    difference_interval,
    wilson_interval,
)
from physadv.studies.learning_studies_config import FeaturesConfig
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
from physadv.studies.study import PartRows

ILYAS = Paper(
    "Ilyas et al.",
    2019,
    "Adversarial Examples Are Not Bugs, They Are Features",
    "NeurIPS 2019, arXiv:1905.02175",
)
RADII = (0.25, 0.5)
"""Radii in l_2 at which networks are attacked, those of the paper."""
TRAINING_EPS = 0.5
"""Radius in l_2 of adversarial training, that of the paper for CIFAR-10."""
SHOWN = 6
"""Pictures of each training set on the page."""
TRAININGS = {
    "standard": "Standard training",
    "random-labels": "Mislabeled, labels drawn",
    "next-labels": "Mislabeled, next class",
    "adversarial": "Adversarial training",
    "robust-set": "Robust data set",
    "brittle-set": "Non-robust data set",
}
"""Trainings in words, in the order in which they are made."""


@dataclass(frozen=True)
class FeatureImages:
    """A data set of the study.

    Args:
        label: Name on the page.
        field: Field of the configuration that names it.
    """

    label: str
    field: str


IMAGE_SETS = {
    "objects": FeatureImages("CIFAR-10", "data"),
    "signs": FeatureImages("GTSRB", "gtsrb_data"),
}


def features_page(config: FeaturesConfig, rows: PartRows) -> StudyPage:
    """Compute the page of ``features`` from the ``rows`` of a run of ``config``."""
    sets = {
        name: {training: rows[f"{name}-{training}"][0] for training in TRAININGS}
        for name in IMAGE_SETS
        if f"{name}-standard" in rows
    }
    sections = PageSections()
    for name, own in sets.items():
        label = IMAGE_SETS[name].label
        sections.add(
            f"{label}: learning from images that look mislabeled",
            [_mislabel_chart(name, own), _mislabel_pictures(name, own), _mislabel_words(own)],
        )
        if name == next(iter(sets)):
            sections.add("How the mislabeled set is made", _mislabel_formulas(config))
        sections.add(
            f"{label}: a training set with robust features alone",
            [_robust_chart(name, own), _inverted_pictures(name, own), _inverted_words(own)],
        )
    sections.add("How the robust set is made", _inversion_formulas(config))
    sections.add("All networks", [_table(name, own) for name, own in sets.items()])
    return StudyPage(
        " ".join(_answer(name, own) for name, own in sets.items()),
        tuple(sections.sections),
        tuple(c for name, own in sets.items() for c in _comparisons(config, name, own)),
        (
            "Networks are small and trained for minutes, without augmentation; accuracies are "
            "far below the paper's, and directions are what can be compared.",
            "Each network is trained once; intervals are of the test images alone.",
            "Robust accuracy is what one attack of 10 steps leaves, and so an upper bound.",
            "Images of the robust set are approximate: the search for an image with given "
            f"features makes {config.inversion_steps} steps (1,000 in the paper).",
        ),
        (
            ("feature", "number that a network computes from an image and decides by"),
            ("robust feature", "feature that a small change of the image cannot turn around"),
            ("non-robust feature", "feature that it can turn around, for all its use"),
            ("eps in l_2", "largest length of the change, all pixels together, pixels in [0, 1]"),
            ("standard training", "training without an adversary"),
        ),
    )


def _accuracy(row: Row) -> RateInterval:
    return wilson_interval(row["right"], row["tested"])


def _withstood(row: Row, eps: float) -> RateInterval:
    return wilson_interval(row["withstood"][RADII.index(eps)], row["attacked"])


def _guess(row: Row) -> float:
    """Accuracy of naming the most frequent class of the test images always."""
    return float(row["most_frequent"] / row["tested"])


def _answer(name: str, own: dict[str, Row]) -> str:
    random = own["random-labels"]
    accuracy, guess = _accuracy(random), _guess(random)
    does = "generalizes" if accuracy.low > guess else "does not measurably generalize"
    robust = _withstood(own["robust-set"], RADII[0])
    over_standard, over_brittle = (
        difference_interval(_withstood(own[training], RADII[0]), robust)
        for training in ("standard", "brittle-set")
    )
    makes = "makes" if over_standard.low > 0 else "does not make"
    return (
        f"On {IMAGE_SETS[name].label} training on images that look mislabeled {does} to the true "
        f"test images ({accuracy.of('image')} right; {format_percent(guess)} for naming one class "
        f"always). The robust data set {makes} standard training more robust than the unchanged "
        f"one ({over_standard} at eps {RADII[0]:g}); beside the non-robust data set it is "
        f"{over_brittle}."
    )


def _claims(config: FeaturesConfig, name: str, own: dict[str, Row]) -> tuple[Comparison, ...]:
    """Return the paper's three claims beside this run, with the direction that each took."""
    chance = _guess(own["random-labels"])
    guess = RateInterval(chance, chance, chance, own["random-labels"]["tested"])
    standard, robust, brittle = (
        _withstood(own[training], RADII[0])
        for training in ("standard", "robust-set", "brittle-set")
    )
    seen = wilson_interval(*own["random-labels"]["seen_as"])
    shifted = wilson_interval(own["next-labels"]["next"], own["next-labels"]["tested"])
    train, at = own["standard"]["train"], f"at eps {RADII[0]:g}"

    few = f"Network 2 learns from {train:,} images (50,000 there), and network 1 is right on "
    few += f"{format_percent(_accuracy(own['standard']).rate)} (95.3 % there)."
    claims = []
    for letter, labels, published, why in (
        ("labels drawn", "random-labels", "63.3 %", f"Network 1 sees {seen} as labeled."),
        (
            "next class",
            "next-labels",
            "43.7 %",
            "The changed images show their true class as before, which teaches the class after it: "
            f"{shifted} of the test images are named so.",
        ),
    ):
        accuracy = _accuracy(own[labels])
        gain = difference_interval(guess, accuracy)
        claims.append(
            (
                f"(a) accuracy after training on mislabeled images, {letter}",
                "table 1",
                published,
                f"{accuracy}; beside naming one class always {gain}",
                _direction(gain, f"{why} {few}"),
            )
        )
    over_standard, over_brittle = (
        difference_interval(below, robust) for below in (standard, brittle)
    )
    short = f"The unchanged images, too, leave {format_percent(standard.rate)} {at} (4.5 % there), "
    short += "so that little is to be gained; the search for the set's images makes "
    short += f"{config.inversion_steps} steps (1,000 there)."
    claims.append(
        (
            "(b) standard training on the robust set is robust",
            "figure 2 and appendix",
            "85.40 % unchanged, 21.85 % at eps 0.5; more than with unchanged images",
            f"{_accuracy(own['robust-set'])} unchanged, {_withstood(own['robust-set'], RADII[1])} "
            f"at eps {RADII[1]:g}; {at} {over_standard} beside unchanged images",
            _direction(over_standard, short),
        )
    )
    claims.append(
        (
            "(c) standard training on the non-robust set is not",
            "figure 2",
            "less robust than with the robust set",
            f"{_accuracy(own['brittle-set'])} unchanged, {brittle} {at}; the robust set "
            f"{over_brittle} beside it",
            _direction(
                over_brittle,
                f"Few images ({train:,}) and few steps of the search ({config.inversion_steps}).",
            ),
        )
    )
    other = "" if name == "objects" else " The paper has no traffic signs; CIFAR-10 is beside."
    label = IMAGE_SETS[name].label
    return tuple(
        Comparison(
            f"{label}: {claim}", f"{ILYAS.cited}, {place}", published, here, direction + other
        )
        for claim, place, published, here, direction in claims
    )


def _direction(gain: DifferenceInterval, why: str) -> str:
    """Return in words which direction a claim took, whose ``gain`` is above 0 in the paper, and
    ``why`` where it is another one."""
    if gain.low > 0:
        return "Direction: the paper's. The size is that of fewer images and a smaller network."
    opposite = "the opposite" if gain.high < 0 else "not told apart from none"
    return f"Direction: {opposite}. {why}"


def _bars(label: str, rates: Sequence[RateInterval]) -> Series:
    points = tuple(
        Point(k + 1, rate.rate, rate.low, rate.high, f"{label}: {rate}")
        for k, rate in enumerate(rates)
    )
    return Series(label, points, "bars")


def _mislabel_chart(name: str, own: dict[str, Row]) -> Chart:
    trainings = ("standard", "random-labels", "next-labels")
    guess = _guess(own["standard"])
    series = (
        _bars("true class", [_accuracy(own[t]) for t in trainings]),
        _bars(
            "class after it",
            [wilson_interval(own[t]["next"], own[t]["tested"]) for t in trainings],
        ),
        Series(
            "naming the most frequent class",
            (Point(1, guess), Point(3, guess)),
            "curve",
            "theory",
        ),
    )
    caption = (
        f"Predictions on unchanged test images of {IMAGE_SETS[name].label}. The labels that "
        "network 2 learned are unrelated to what its images show; those of network 3 are all wrong."
    )
    return Chart(
        f"{name}-mislabeled",
        caption,
        Axis("1: standard, 2: labels drawn, 3: next class", ticks=(1, 2, 3)),
        Axis("share of test images", low=0, high=1, percent=True),
        series,
    )


def _robust_chart(name: str, own: dict[str, Row]) -> Chart:
    series = []
    for training in ("standard", "adversarial", "robust-set", "brittle-set"):
        row = own[training]
        rates = [(0.0, _accuracy(row)), *((eps, _withstood(row, eps)) for eps in RADII)]
        points = tuple(Point(eps, r.rate, r.low, r.high, str(r)) for eps, r in rates)
        series.append(Series(TRAININGS[training], points))
    caption = (
        f"Accuracy on {IMAGE_SETS[name].label} against the length of the change. The last two "
        "networks were trained without any adversary, on images that hold the features of a "
        "robust and of a standard network."
    )
    return Chart(
        f"{name}-robust",
        caption,
        Axis("eps in l_2", ticks=(0, *RADII)),
        Axis("accuracy", low=0, high=1, percent=True),
        tuple(series),
    )


def _picture_row(row: Row, first: str) -> tuple[Picture, ...]:
    return tuple(
        Picture(file, label, first if k == 0 else "")
        for k, (file, label) in enumerate(zip(row["pictures"], row["shown_labels"], strict=True))
    )


def _mislabel_pictures(name: str, own: dict[str, Row]) -> Pictures:
    trainings = ("standard", "random-labels", "next-labels")
    return Pictures(
        f"{name}-mislabeled-images",
        "Training images with the label that they are learned with: unchanged, changed toward a "
        "drawn label, changed toward the next class.",
        tuple(_picture_row(own[t], TRAININGS[t].lower()) for t in trainings),
        pixelated=True,
    )


def _inverted_pictures(name: str, own: dict[str, Row]) -> Pictures:
    trainings = ("standard", "robust-set", "brittle-set")
    return Pictures(
        f"{name}-inverted-images",
        "Training images, and those found for them from unrelated images: with the features of a "
        "robust network, and with those of a standard one.",
        tuple(_picture_row(own[t], TRAININGS[t].lower()) for t in trainings),
        pixelated=True,
    )


def _mislabel_words(own: dict[str, Row]) -> str:
    random, following = own["random-labels"], own["next-labels"]
    seen = wilson_interval(*random["seen_as"])
    shifted = wilson_interval(following["next"], following["tested"])
    return (
        f"The first network sees {seen} of the changed images as their new label. What a second "
        "network can learn from them about true images must come through the change, since the "
        "rest of the image says nothing about a drawn label. Where the new label is the class "
        "after the true one, the rest of the image speaks for a wrong answer: the second network "
        f"names the class after the true one on {shifted} of the test images, and the true one on "
        f"{_accuracy(following)}."
    )


def _inverted_words(own: dict[str, Row]) -> str:
    parts = [
        f"{TRAININGS[t].lower()} {_accuracy(own[t])} unchanged and "
        f"{_withstood(own[t], RADII[1])} at eps {RADII[1]:g}"
        for t in ("standard", "robust-set", "brittle-set", "adversarial")
    ]
    return (
        "Ilyas et al. find that its data decide whether a network becomes robust, as well as its "
        f"training. Here: {'; '.join(parts)}."
    )


def _mislabel_formulas(config: FeaturesConfig) -> list[str | Formula]:
    return [
        "A network f is trained as usual. Every training image x gets a new label t and the small "
        "change that makes f see t:",
        Formula(
            r"x' = \mathrm{argmin}_{\|x' - x\|_2 \le \varepsilon} L(f(x'), t), \qquad t \sim "
            r"\mathrm{uniform} \quad \mathrm{or} \quad t = y + 1",
            "x prime is the point within eps of x, in l_2, with the least loss of f for the label "
            "t, which is drawn uniformly or is the class after the true one",
        ),
        f"Here eps = {config.mislabel_eps:g} and {config.mislabel_steps} steps. A new network is "
        "trained on the pairs (x', t) and tested on true images with their true labels.",
    ]


def _inversion_formulas(config: FeaturesConfig) -> list[str | Formula]:
    return [
        "Let g be the features of a network in front of its last layer. For every training image "
        "x an image with the same features is searched from an unrelated one, and labeled as x:",
        Formula(
            r"x_R = \mathrm{argmin}_{z} \|g(z) - g(x)\|_2, \quad "
            r"z \ \mathrm{starts\ at\ another\ image}",
            "x R is the image whose features are nearest to those of x, searched from another "
            "image",
        ),
        "With g of a network trained against an adversary the result is the robust set, with g of "
        "a standard network the non-robust set. The adversarially trained network was trained at "
        f"eps = {TRAINING_EPS:g} in l_2 with {config.training_steps} steps.",
    ]


def _table(name: str, own: dict[str, Row]) -> Table:
    columns = ("training", "unchanged", *(f"eps {eps:g}" for eps in RADII))
    return Table(
        f"{name}-networks",
        f"Accuracy of each network on test images of {IMAGE_SETS[name].label}; 95 % intervals.",
        columns,
        tuple(
            (
                words,
                str(_accuracy(own[training])),
                *(str(_withstood(own[training], eps)) for eps in RADII),
            )
            for training, words in TRAININGS.items()
        ),
        (1, 2, 3),
    )


def _comparisons(config: FeaturesConfig, name: str, own: dict[str, Row]) -> tuple[Comparison, ...]:
    train = own["standard"]["train"]
    smaller = f"{train:,} training images and a small network here, 50,000 and a ResNet-50 there."
    other = "" if name == "objects" else "The paper has no traffic signs; CIFAR-10 is beside. "
    standard = Comparison(
        f"{IMAGE_SETS[name].label}: accuracy of standard training",
        f"{ILYAS.cited}, table 1",
        "95.3 %",
        str(_accuracy(own["standard"])),
        other + smaller,
    )
    return standard, *_claims(config, name, own)
