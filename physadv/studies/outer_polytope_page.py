"""Page of the study of the convex outer polytope, computed from its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, inf, log
from statistics import mean, median

from scipy import stats

from physadv.core.rows import Row
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.studies.certificate_studies_config import PolytopeConfig
from physadv.studies.page import (
    Axis,
    Chart,
    Comparison,
    Formula,
    PageSections,
    Pair,
    Paper,
    Plane,
    Point,
    Series,
    Shape,
    StudyPage,
    Table,
)
from physadv.studies.plane_regions import REGION_COLORS
from physadv.studies.study import PartRows

EPS, PICTURE_EPS, POINT_EPS, MNIST_EPS = (0.05, 0.1, 0.25), 0.1, 0.08, 0.1
"""Radii of the wide network's pictures, of the small one's, of the points', and on images."""
NAMES = {
    "interval": "interval box",
    "polytope": "dual bound (Wong and Kolter)",
    "crown": "CROWN",
    "linear": "outer polytope (linear program)",
}
"""Bounds in words."""

WONG = Paper(
    "Wong and Kolter",
    2017,
    "Provable defenses against adversarial examples via the convex outer adversarial polytope",
    "ICML 2018, arXiv:1711.00851",
)
WONG_SCALING = Paper(
    "Wong et al.", 2018, "Scaling provable adversarial defenses", "NeurIPS 2018, arXiv:1805.12514"
)


def polytope_page(config: PolytopeConfig, parts: PartRows) -> StudyPage:
    """Compute the page of the study.

    Args:
        config: Configuration of the study.
        parts: Its rows by part.
    """
    sections = PageSections()
    _add_sets(sections, parts["sets"])
    _add_depths(sections, config, parts)
    _add_points(sections, parts)
    _add_images(sections, parts)
    _add_cost(sections, parts["cost"])
    return StudyPage(
        answer=_answer(parts),
        sections=tuple(sections.sections),
        comparisons=tuple(_comparisons(parts)),
        limits=(
            "The set that is truly reached is drawn from a grid of inputs: what lies between its "
            "points may be missed, so that true ratios are up to that much smaller.",
            "Random networks are looser than trained ones; the ratios by depth are of random "
            "weights of one kind.",
            "A point that is not certified is not thereby broken: the truth lies between what is "
            "certified and what the attack leaves.",
        ),
        terms=(
            ("l_inf ball", "All inputs whose every number differs by at most eps: a box."),
            ("reachable set", "Everything that the network answers to the inputs of a box."),
            (
                "convex outer polytope",
                "What remains possible when each ReLU is replaced by the triangle over its least "
                "and largest input. It is convex and holds the reachable set.",
            ),
            (
                "dual bound",
                "A limit on a linear function over that polytope, from one pass backward through "
                "the network; by duality it never lies below the linear program's.",
            ),
            ("certified", "Proven: no input of the box is given another class."),
            ("margin", "Output of the true class minus the largest other one."),
        ),
    )


def _answer(parts: PartRows) -> str:
    small = parts["sets"][0]
    ratios = {kind: small[f"{kind}_area"] / small["area"] for kind in NAMES}
    outside = sum(int(row["outside"]) for row in parts["sets"])
    kept = "none" if outside == 0 else str(outside)
    standard, robust = (_final(parts[f"points-{name}"]) for name in ("standard", "polytope"))
    images = {name: _errors(parts[f"images-{name}"])[2] for name in ("standard", "polytope")}
    return (
        f"The outer polytope has {ratios['linear']:.1f} times the area of what the small network "
        f"reaches, its dual bound {ratios['polytope']:.1f} and the interval box "
        f"{ratios['interval']:.0f} times, and {kept} of the outputs lies outside; training on the "
        f"bound certifies {sum(r['certified'] for r in robust)} of {len(robust)} points in the "
        f"plane (standard training {sum(r['certified'] for r in standard)}) and moves the "
        f"certified error of a small network at l_inf {MNIST_EPS:g} from "
        f"{format_percent(images['standard'].rate)} to {images['polytope'].of('image')}."
    )


def _final(rows: Sequence[Row]) -> list[Row]:
    """Rows of the points, after those of the training."""
    return [row for row in rows if "x" in row]


def _add_sets(sections: PageSections, rows: Sequence[Row]) -> None:
    small = rows[0]
    right, top, left, bottom = (v * s for v, s in zip(small["box"], (1, 1, -1, -1), strict=True))
    box = ((left, bottom), (right, bottom), (right, top), (left, top))
    half = 0.55 * max(right - left, top - bottom)
    x, y = (right + left) / 2, (top + bottom) / 2
    overview = Plane(
        "box-and-polytope",
        f"Two hidden layers of 20 ReLUs, random weights, all inputs within l_inf {small['eps']:g} "
        "of a point: the interval box, and in it the sets of the picture above.",
        Axis("first output", low=x - half, high=x + half),
        Axis("second output", low=y - half, high=y + half),
        (
            _outline("interval", box),
            _outline("polytope", _corners(small, "polytope")),
            _outline("linear", _corners(small, "linear")),
        ),
    )
    sections.add(
        "What can be reached, and what holds it",
        [
            _set_plane(
                small,
                "Two hidden layers of 20 ReLUs, random weights, inputs within l_inf "
                f"{small['eps']:g}.",
            ),
            overview,
            "Each ReLU bends space, so that the set is not convex. Replacing every ReLU by the "
            "triangle over its range gives a convex set that holds it, the outer polytope; a "
            "linear program finds how far it reaches. The dual of that program needs one pass "
            "backward and is a little larger. Intervals forget how neurons move together.",
            Formula(
                r"0 \le z, \quad \hat{z} \le z, \quad z \le \frac{u (\hat{z} - l)}{u - l}",
                "The triangle over a ReLU: its output z is at least zero and at least its input, "
                "and at most the line from the lower end l to the upper end u of the input.",
            ),
            *(
                _set_plane(row, f"Four hidden layers of 100 ReLUs, eps {row['eps']:g}.")
                for row in rows[1:]
            ),
            Table(
                "areas",
                "Areas of the sets that hold what is reached, over its own area.",
                ("network", "eps", *NAMES.values()),
                tuple(
                    (
                        "20, 20" if row["name"] == "small" else "100, 100, 100, 100",
                        f"{row['eps']:g}",
                        *(f"{row[f'{kind}_area'] / row['area']:,.1f}" for kind in NAMES),
                    )
                    for row in rows
                ),
                (1, 2, 3, 4, 5),
            ),
            f"Of {sum(int(r['outputs']) for r in rows):,} outputs on grids of inputs, "
            f"{sum(int(r['outside']) for r in rows)} lie outside one of the sets.",
        ],
    )


def _corners(row: Row, kind: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in row[kind])


def _set_plane(row: Row, caption: str) -> Plane:
    """A picture of what is reached with the polygons about it."""
    low, high = row["low"], row["high"]
    return Plane(
        f"set-{row['name'].replace('.', '-')}",
        f"{caption} Shaded: outputs of a grid of {int(row['outputs']):,} inputs.",
        Axis("first output", low=low[0], high=high[0]),
        Axis("second output", low=low[1], high=high[1]),
        (
            _outline("polytope", _corners(row, "polytope")),
            _outline("linear", _corners(row, "linear")),
        ),
        f"pictures/reached-{row['name']}.png",
        (("reached", "#8fb0cf"),),
    )


def _outline(kind: str, corners: tuple[Pair, ...]) -> Shape:
    """A bound's polygon, in its color on all figures of the page."""
    return Shape(NAMES[kind], "polygon", corners, color=list(NAMES).index(kind))


def geometric_point(x: float, logs: Sequence[float]) -> Point:
    """Return the geometric mean with Student's 95 % interval of the mean of the logarithms.

    Args:
        x: Position of the point.
        logs: Logarithms of the values.
    """
    middle = mean(logs)
    if len(logs) < 2:
        return Point(x, exp(middle))
    reach = float(stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs))
    return Point(x, exp(middle), exp(middle - reach), exp(middle + reach))


def _add_depths(sections: PageSections, config: PolytopeConfig, parts: PartRows) -> None:
    rows = {depth: parts[f"depth-{depth}"] for depth in config.depths}
    points = {
        kind: [geometric_point(depth, [r[kind] for r in own]) for depth, own in rows.items()]
        for kind in NAMES
    }
    first, last = config.depths[0], config.depths[-1]
    sections.add(
        "Looser with every layer",
        [
            Chart(
                "width-by-depth",
                f"Width of the bound on an output over its true width, {len(rows[first])} random "
                "networks of 50 ReLUs a layer for each depth; geometric means with 95 % "
                "intervals.",
                Axis("hidden layers", ticks=tuple(float(d) for d in config.depths)),
                Axis("width over true width", "log"),
                tuple(Series(NAMES[kind], tuple(points[kind])) for kind in NAMES),
            ),
            f"From {first} to {last} hidden layers the interval box goes from "
            f"{points['interval'][0].y:,.0f} to {points['interval'][-1].y:,.0f} times the true "
            f"width, the dual bound from {points['polytope'][0].y:.2f} to "
            f"{points['polytope'][-1].y:.2f}, the linear program from "
            f"{points['linear'][0].y:.2f} to {points['linear'][-1].y:.2f}.",
        ],
    )


def _add_points(sections: PageSections, parts: PartRows) -> None:
    planes, series, table = [], [], []
    for name in ("standard", "polytope"):
        rows = parts[f"points-{name}"]
        final = _final(rows)
        certified, broken, wrong = (
            sum(bool(r[key]) for r in final) for key in ("certified", "broken", "wrong")
        )
        planes.append(_point_plane(name, final))
        looks = [(row["step"], median(row["spent"])) for row in rows if "step" in row]
        series.append(
            Series(
                f"{name} training",
                tuple(Point(step, spent) for step, spent in looks if 0 < spent < inf),
            )
        )
        table.append((name, *(f"{n} of {len(final)}" for n in (certified, broken, wrong))))
    sections.add(
        "Training shrinks it",
        [
            *planes,
            "The bound is differentiable in the weights. Training on it, in place of the output "
            "itself, asks for a network whose polytopes are small and whose boundary keeps away "
            "from the boxes.",
            Formula(
                r"\min_w \; \sum_i L\left(-J(x_i, e_{y_i} 1^T - I), \; y_i\right)",
                "The training minimizes the sum of the losses L of the dual bounds J on all "
                "margins of each point, in place of the losses of its outputs.",
            ),
            Chart(
                "spent-margin",
                "How much of a point's margin the bound over its box takes away, median of the "
                "points: below 1 the point is certified.",
                Axis("step"),
                Axis("margin lost over margin", "log", ticks=(0.3, 1.0, 3.0, 10.0)),
                tuple(series),
            ),
            Table(
                "points",
                f"Points of the plane and their boxes of l_inf {POINT_EPS:g}.",
                ("training", "certified", "boundary within the box", "point itself wrong"),
                tuple(table),
                (1, 2, 3),
            ),
        ],
    )


def _point_plane(name: str, rows: Sequence[Row]) -> Plane:
    x, y = (Axis(axis, low=0, high=1, ticks=(0, 0.5, 1)) for axis in ("x", "y"))
    return Plane(
        f"points-{name}",
        f"Regions after {name} training, with the boxes of l_inf {POINT_EPS:g} about the "
        f"training points: the boundary runs through {sum(bool(r['broken']) for r in rows)} of "
        f"{len(rows)} boxes.",
        x,
        y,
        tuple(
            Shape(
                f"points of class {label}",
                "points",
                tuple((r["x"], r["y"]) for r in rows if r["label"] == label),
            )
            for label in (0, 1)
        ),
        f"pictures/points-{name}.png",
        tuple((f"class {label}", REGION_COLORS[label]) for label in (0, 1)),
    )


def _errors(rows: Sequence[Row]) -> tuple[RateInterval, RateInterval, RateInterval]:
    """Error of images, error under attack, and certified error."""
    right, robust, certified = (
        wilson_interval(sum(not row[key] for row in rows), len(rows))
        for key in ("right", "robust", "certified")
    )
    return right, robust, certified


def _add_images(sections: PageSections, parts: PartRows) -> None:
    names = {
        "standard": "standard training",
        "polytope": "training on the bound",
        "published": "network of Wong and Kolter",
    }
    present = [name for name in names if f"images-{name}" in parts]
    sections.add(
        "On images",
        [
            Table(
                "image-errors",
                f"Errors on test images at l_inf {MNIST_EPS:g}, balls not cut to [0, 1].",
                ("network", "error", "error under PGD, 40 steps", "certified error"),
                tuple(
                    (names[name], *(str(rate) for rate in _errors(parts[f"images-{name}"])))
                    for name in present
                ),
                (1, 2, 3),
            ),
            "The true error under attack lies between that of PGD and the certified one.",
        ],
    )


def _add_cost(sections: PageSections, rows: Sequence[Row]) -> None:
    first, last = rows[0], rows[-1]
    power = log(last["exact"] / first["exact"]) / log(last["width"] / first["width"])
    sections.add(
        "What it costs",
        [
            Chart(
                "cost-by-width",
                "Operations of the bound over those of one forward pass: three hidden layers, "
                "random weights.",
                Axis("ReLUs a layer", "log", ticks=tuple(float(r["width"]) for r in rows)),
                Axis("operations over a forward pass", "log"),
                (
                    Series("exact", tuple(Point(r["width"], r["exact"]) for r in rows)),
                    Series(
                        "10 random projections",
                        tuple(Point(r["width"], r["sketched"]) for r in rows),
                    ),
                ),
            ),
            "Every undecided ReLU needs a pass backward of its own, so that the cost over a "
            f"forward pass grows with the width: here like its power {power:.2f}, to "
            f"{last['exact']:,.0f} passes at {last['width']} ReLUs. Random projections (Wong et "
            f"al. 2018) estimate all of them at once with {last['sketched']:.0f}; estimates serve "
            "training, not certification.",
        ],
    )


def _comparisons(parts: PartRows) -> Iterator[Comparison]:
    settings = {
        "published": "the published weights, on part of the test images",
        "polytope": "the same layers, trained for a few epochs on part of the images",
    }
    for name, reason in settings.items():
        if f"images-{name}" not in parts:
            continue
        right, robust, certified = _errors(parts[f"images-{name}"])
        for claim, published, measured in (
            ("error", "1.80 %", right),
            ("error under PGD", "4.11 %", robust),
            ("certified error", "5.82 %", certified),
        ):
            yield Comparison(
                f"{claim} on MNIST, l_inf 0.1, {'same' if name == 'published' else 'our'} network",
                WONG.cited,
                published,
                str(measured),
                reason,
            )
