"""Page of the study of intervals and lines, computed from its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from physadv.core.rows import Row
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.studies.certificate_studies_config import IntervalsConfig
from physadv.studies.page import (
    Axis,
    Chart,
    Comparison,
    Formula,
    Matrix,
    PageSections,
    Paper,
    Point,
    Series,
    StudyPage,
    Table,
    cell_ends,
)
from physadv.studies.study import PartRows


@dataclass(frozen=True)
class _Net:
    """A network of the study.

    Args:
        words: Its training, in words.
        short: The same, shorter.
        eps: Radius of the training, or of its largest curve where it had none.
    """

    words: str
    short: str
    eps: float


NETS = {
    "standard": _Net("standard training", "standard", 0.03),
    "ibp-0.1": _Net("IBP training at 0.1", "IBP", 0.1),
    "ibp-0.3": _Net("IBP training at 0.3", "IBP", 0.3),
    "crown-ibp-0.3": _Net("CROWN-IBP training at 0.3", "CROWN-IBP", 0.3),
}
"""Networks by name."""
BOUNDS = {"ibp": "", "crown-ibp": "", "crown": "ibp"}
"""Bounds from cheapest to tightest, each with one that it is never looser than."""
ALPHA = "alpha-crown"
"""The bound with optimized lines, for some of the images."""
WORDS = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN", "alpha-crown": "alpha-CROWN"}
"""Bounds in words."""

MIRMAN = Paper(
    "Mirman et al.",
    2018,
    "Differentiable abstract interpretation for provably robust neural networks",
    "ICML 2018",
)
GOWAL = Paper(
    "Gowal et al.",
    2018,
    "On the effectiveness of interval bound propagation for training verifiably robust models",
    "arXiv:1810.12715",
)
ZHANG_CROWN = Paper(
    "Zhang et al.",
    2018,
    "Efficient neural network robustness certification with general activation functions",
    "NeurIPS 2018, arXiv:1811.00866",
)
ZHANG = Paper(
    "Zhang et al.",
    2019,
    "Towards stable and efficient training of verifiably robust neural networks",
    "ICLR 2020, arXiv:1906.06316",
)


def intervals_page(config: IntervalsConfig, parts: PartRows) -> StudyPage:
    """Compute the page of the study.

    Args:
        config: Configuration of the study.
        parts: Its rows by part.
    """
    names = [name for name in NETS if f"bounds-{name}" in parts]
    sections = PageSections()
    _add_curves(sections, names, parts)
    _add_matrix(sections, names, parts)
    _add_training(sections, names, parts)
    return StudyPage(
        answer=_answer(names, parts),
        sections=tuple(sections.sections),
        comparisons=tuple(_comparisons(parts)),
        limits=(
            "An image that is not certified may still be robust: the true error lies between that "
            "of the attack and the certified one.",
            "Networks are small and trained for a few epochs on part of the images; the papers' "
            "are larger and train for a hundred epochs and more.",
            "Bounds hold for the network in exact arithmetic; they are lowered by an estimate of "
            "what rounding changes.",
        ),
        terms=(
            ("eps", "Largest change of every number of an image: l_inf radius."),
            (
                "IBP",
                "Interval bound propagation: an interval for every neuron, from layer to layer.",
            ),
            (
                "CROWN",
                "Each ReLU is enclosed between two lines; one pass backward gives a linear bound "
                "of the output in the input. CROWN-IBP takes the ranges of the ReLUs from "
                "intervals, alpha-CROWN also improves the lower lines by gradient steps.",
            ),
            ("certified error", "Share of images that are wrong or not proven robust."),
            ("PGD", "An attack by projected gradient steps; what it breaks is not robust."),
        ),
    )


def certified_error(rows: Sequence[Row], key: str, eps: float) -> RateInterval:
    """Return the share of images that are not certified, or broken, at a radius.

    Args:
        rows: One row an image and radius.
        key: Name of a bound, or "robust" for the error under attack.
        eps: The radius.
    """
    own = [row for row in rows if row["eps"] == eps and key in row]
    return wilson_interval(sum(not row[key] for row in own), len(own))


def _radii(rows: Sequence[Row]) -> list[float]:
    return sorted({float(row["eps"]) for row in rows})


def _answer(names: Sequence[str], parts: PartRows) -> str:
    plain, trained = "standard", names[1]
    rows = parts[f"bounds-{plain}"]
    eps = max(_radii(rows), key=lambda r: _gain(rows, r))
    loose, tight = (certified_error(rows, bound, eps).rate for bound in ("ibp", "crown"))
    at = NETS[trained].eps
    own = parts[f"errors-{trained}"]
    error = wilson_interval(sum(not row["certified"] for row in own), len(own))
    bounds = parts[f"bounds-{trained}"]
    gain = 100 * (
        certified_error(bounds, "ibp", at).rate - certified_error(bounds, "crown", at).rate
    )
    return (
        f"On a network trained without bounds, intervals leave {format_percent(loose, 0)} of the "
        f"images unproven at eps {eps:g} where CROWN leaves {format_percent(tight, 0)}; trained "
        f"with intervals at eps {at:g}, intervals alone leave {error.of('image')} unproven, "
        f"and CROWN proves {gain:.1f} points more."
    )


def _gain(rows: Sequence[Row], eps: float) -> float:
    """What CROWN certifies beyond intervals at a radius."""
    return certified_error(rows, "ibp", eps).rate - certified_error(rows, "crown", eps).rate


def _add_curves(sections: PageSections, names: Sequence[str], parts: PartRows) -> None:
    charts = []
    for name in names:
        rows = parts[f"bounds-{name}"]
        radii = _radii(rows)
        few = sum(ALPHA in row for row in rows if row["eps"] == radii[0])
        keys = {bound: WORDS[bound] for bound in BOUNDS}
        keys |= {ALPHA: f"{WORDS[ALPHA]} (n = {few})"} if few else {}
        keys |= {"robust": "broken by PGD"}
        count = len(rows) // len(radii)
        charts.append(
            Chart(
                f"error-{name.replace('.', '-')}",
                f"Certified error of the network with {NETS[name].words}, "
                f"{count_noun(count, 'test image')}, 95 % intervals. Below the lowest line no "
                "bound can go.",
                Axis("eps (l_inf)", low=0),
                Axis("certified error", low=0, high=1, percent=True),
                tuple(Series(label, _points(rows, key)) for key, label in keys.items()),
                () if name == "standard" else ((NETS[name].eps, "training"),),
            )
        )
    sections.add(
        "Certified error against the radius",
        [
            *charts,
            "An interval for every neuron costs two passes and forgets that neurons move "
            "together. Lines keep them together, at the cost of a pass backward for each neuron "
            "whose sign is not decided.",
            _optimized_in_words(names, parts),
            Formula(
                r"\mu_{k} = W \mu_{k-1} + b, \quad r_{k} = |W| \, r_{k-1}",
                "Intervals: the center of a layer is the layer applied to the center before, and "
                "its radius the absolute weights applied to the radius before.",
            ),
            Formula(
                r"\alpha z \le \mathrm{ReLU}(z) \le \frac{u (z - l)}{u - l}, \quad 0 \le \alpha "
                r"\le 1",
                "Lines: a ReLU of an input between l and u lies above alpha times its input, for "
                "any alpha from 0 to 1, and below the chord.",
            ),
        ],
    )


def _points(rows: Sequence[Row], key: str) -> tuple[Point, ...]:
    """Certified error at each radius at which the bound was computed."""
    rates = {eps: certified_error(rows, key, eps) for eps in _radii(rows)}
    return tuple(Point(eps, r.rate, r.low, r.high) for eps, r in rates.items() if r.n)


def _optimized_in_words(names: Sequence[str], parts: PartRows) -> str:
    """What optimized lines prove of the images that CROWN leaves open."""
    rows = [row for name in names for row in parts[f"bounds-{name}"] if ALPHA in row]
    left = [row for row in rows if row["robust"] and not row["crown"]]
    return (
        "alpha-CROWN optimizes the lower lines. It was tried up to the radius of the training, "
        f"where CROWN and PGD leave {count_noun(len(left), 'case')} open, and proves "
        f"{sum(bool(row[ALPHA]) for row in left)} of them."
    )


def _add_matrix(sections: PageSections, names: Sequence[str], parts: PartRows) -> None:
    keys = [*BOUNDS, "robust"]
    rates = [
        [certified_error(parts[f"bounds-{name}"], key, NETS[name].eps) for key in keys]
        for name in names
    ]
    sections.add(
        "Which bound suits which training",
        [
            Matrix(
                "bounds-by-training",
                "Certified error, each network at its own eps; in the last column what PGD breaks.",
                tuple(f"{NETS[name].short}, {NETS[name].eps:g}" for name in names),
                tuple(WORDS.get(key, "PGD") for key in keys),
                tuple(tuple(rate.rate for rate in row) for row in rates),
                "training, eps",
                "bound",
                notes=tuple(tuple(cell_ends(rate.low, rate.high) for rate in row) for row in rates),
            ),
            "A network learns to be simple for the bound that it is trained with: that is why a "
            "loose bound can be the better one to train with.",
        ],
    )


def _add_training(sections: PageSections, names: Sequence[str], parts: PartRows) -> None:
    table = []
    for name in names:
        rows = parts[f"errors-{name}"]
        rates = [
            wilson_interval(sum(not row[key] for row in rows), len(rows))
            for key in ("right", "robust", "certified")
        ]
        table.append((NETS[name].words, f"{NETS[name].eps:g}", *(str(rate) for rate in rates)))
    sections.add(
        "Training with bounds",
        [
            Table(
                "training-errors",
                "Errors on test images.",
                ("network", "eps", "error", "error under PGD", "certified error by IBP"),
                tuple(table),
                (1, 2, 3, 4),
            ),
            "The first column of errors tells what the training costs on unchanged images.",
        ],
    )


def _comparisons(parts: PartRows) -> Iterator[Comparison]:
    published = (
        ("ibp-0.1", GOWAL, "2.23 % (abstract)"),
        ("ibp-0.3", GOWAL, "8.05 % (abstract)"),
        ("crown-ibp-0.3", ZHANG, "7.02 % (abstract)"),
    )
    for name, paper, figure in published:
        if f"errors-{name}" not in parts:
            continue
        rows = parts[f"errors-{name}"]
        error = wilson_interval(sum(not row["certified"] for row in rows), len(rows))
        yield Comparison(
            f"certified error on MNIST, {NETS[name].words}",
            paper.cited,
            figure,
            str(error),
            "a smaller network, part of the images and few epochs",
        )
