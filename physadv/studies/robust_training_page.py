"""Page of the study ``training``: robust accuracy against cost, epochs and width."""

from __future__ import annotations

from collections.abc import Sequence

from physadv.core.rows import Row
from physadv.evaluation.metrics.intervals import (
    DifferenceInterval,
    RateInterval,
    difference_interval,
    wilson_interval,
)
from physadv.studies.learning_studies_config import TrainingStudyConfig
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
    Table,
)
from physadv.studies.study import PartRows

FREE = Paper(
    "Shafahi et al.", 2019, "Adversarial Training for Free!", "NeurIPS 2019, arXiv:1904.12843"
)
METHODS = {
    "standard": "standard",
    "gradient": "gradient penalty",
    "fgsm": "FGSM",
    "fast": "fast (FGSM from a random start)",
    "free-4": "Free-4",
    "free-8": "Free-8",
    "pgd-1": "PGD-1",
    "pgd-3": "PGD-3",
    "pgd-7": "PGD-7",
    "trades-5": "TRADES, 5 steps",
}
"""Training methods in words, from the cheapest to the dearest."""
FAMILIES = {
    "standard": ("standard",),
    "gradient penalty": ("gradient",),
    "FGSM": ("fgsm",),
    "fast": ("fast",),
    "Free-m, m = 4, 8": ("free-4", "free-8"),
    "PGD-k, k = 1, 3, 7": ("pgd-1", "pgd-3", "pgd-7"),
    "TRADES": ("trades-5",),
}
"""Methods of each series of the chart."""
WIDTH_TRAININGS = {"standard": "standard", "fgsm": "FGSM", "pgd": "PGD"}
"""Trainings of each width."""
PHOTO_EPS = 8 / 255
"""Radius in l_inf for CIFAR-10."""
_DEAREST = "pgd-7"


def training_page(config: TrainingStudyConfig, rows: PartRows) -> StudyPage:
    """Compute the page of ``training`` from the ``rows`` of a run of ``config``."""
    methods = {name: rows[f"method-{name}"][0] for name in METHODS}
    epochs = rows["epochs"]
    widths = [row for width in config.widths for row in rows[f"width-{width}"]]
    sections = PageSections()
    sections.add(
        "What robustness costs in computing",
        [
            _cost_chart(config, methods),
            _method_table(config, methods),
            *_method_words(config),
        ],
    )
    sections.add("Robust overfitting", [_epoch_chart(config, epochs), *_epoch_words(epochs)])
    sections.add(
        "Capacity", [_width_chart(config, widths), _width_table(widths), _width_words(widths)]
    )
    return StudyPage(
        _answer(config, methods, epochs),
        tuple(sections.sections),
        _comparisons(config, methods, epochs, widths),
        (
            "Each network is trained once and briefly; intervals are of the test images alone.",
            f"Robust accuracy is what FGSM and one run of PGD with {config.test_steps} steps "
            "leave, and so an upper bound.",
            "Cost is counted in forward passes, each with its backward pass; the gradient penalty "
            "goes backward twice and so costs more than its passes say.",
            "The fast training has a guard here that restores the network and takes more steps "
            "when it has overfitted to the single step.",
        ),
        (
            ("eps", "largest change of a pixel; pixels lie between 0 and 1"),
            ("pass", "one computation of the network and its gradient for one image"),
            ("epoch", "one round through the training images"),
            ("robust error", "share of images that are wrong after the attack"),
            ("PGD-k", "k gradient steps, each followed by projection to within eps"),
        ),
    )


def _clean(row: Row) -> RateInterval:
    return wilson_interval(row["right"], row["tested"])


def _robust(row: Row) -> RateInterval:
    return wilson_interval(row["withstood"], row["attacked"])


def _answer(config: TrainingStudyConfig, methods: dict[str, Row], epochs: Sequence[Row]) -> str:
    free, dear, standard = (methods[k] for k in ("free-4", _DEAREST, "standard"))
    gap = difference_interval(_robust(dear), _robust(free))
    relation = (
        "is not measurably below" if gap.high >= 0 >= gap.low or gap.low > 0 else "stays below"
    )
    _, rise = _overfitting(epochs)
    after = (
        f"robust test error rises by {rise} after its best epoch"
        if rise.low > 0
        else f"robust test error does not measurably rise after its best epoch ({rise})"
    )
    return (
        f"At eps {config.eps:g} the attack leaves {_robust(standard).of('image')} right after "
        f"standard training, {_robust(dear).of('image')} after PGD-7 at "
        f"{dear['passes'] / standard['passes']:.1f} times the cost, and "
        f"{_robust(free).of('image')} after Free-4 at "
        f"{free['passes'] / standard['passes']:.1f} times, which {relation} PGD-7; in a "
        f"long training on few images {after}."
    )


def _cost_chart(config: TrainingStudyConfig, methods: dict[str, Row]) -> Chart:
    base = methods["standard"]["passes"]
    series = []
    for label, names in FAMILIES.items():
        points = []
        for name in names:
            rate, cost = _robust(methods[name]), methods[name]["passes"] / base
            hint = f"{METHODS[name]}: {rate} at {cost:.1f} times the cost"
            points.append(Point(cost, rate.rate, rate.low, rate.high, hint))
        series.append(Series(label, tuple(points), "line" if len(points) > 1 else "points"))
    caption = (
        f"Robust accuracy at eps {config.eps:g} against the cost of training in multiples of "
        f"standard training, {methods['standard']['train']:,} images and {config.epochs} epochs "
        "each. Up and to the left is better."
    )
    return Chart(
        "cost",
        caption,
        Axis("passes of the network, standard training = 1", "log", ticks=(1, 2, 4, 8)),
        Axis("robust accuracy", low=0, high=1, percent=True),
        tuple(series),
    )


def _method_table(config: TrainingStudyConfig, methods: dict[str, Row]) -> Table:
    base = methods["standard"]["passes"]
    rows = tuple(
        (
            words,
            f"{methods[name]['passes'] / base:.1f}",
            str(_clean(methods[name])),
            str(wilson_interval(methods[name]["withstood_fgsm"], methods[name]["attacked"])),
            str(_robust(methods[name])),
        )
        for name, words in METHODS.items()
    )
    return Table(
        "methods",
        f"Accuracy of each training on unchanged images, after one step (FGSM), and after FGSM and "
        f"{config.test_steps} steps of PGD, eps {config.eps:g}; 95 % intervals.",
        ("training", "cost", "unchanged", "FGSM", "PGD"),
        rows,
        (1, 2, 3, 4),
    )


def _method_words(config: TrainingStudyConfig) -> list[str | Formula]:
    return [
        "Adversarial training minimizes the loss at the worst point within eps of each image, and "
        "so solves a problem within a problem:",
        Formula(
            r"\min_\theta \; E_{(x, y)} \max_{\|\delta\|_\infty \le \varepsilon} "
            r"L(\theta, x + \delta, y)",
            "minimize over theta the mean of the largest loss within eps of x",
        ),
        "PGD-k makes k steps for the inner maximum and pays k passes more for every step of "
        "training. FGSM makes one. Free-m replays each batch m times; one backward pass gives the "
        "gradient for the weights and for the image, and the change of the image is kept:",
        Formula(
            r"\theta \leftarrow \theta - \tau \nabla_\theta L(\theta, x + \delta, y), \quad "
            r"\delta \leftarrow \mathrm{clip}_\varepsilon(\delta + \varepsilon\, "
            r"\mathrm{sign}\, \nabla_x L(\theta, x + \delta, y))",
            "theta goes down its gradient, delta goes up along the sign of its own, clipped to eps",
        ),
        "TRADES keeps the loss of the unchanged image and adds beta times the divergence between "
        "both predictions. The gradient penalty adds the squared length of the input gradient "
        "and never attacks:",
        Formula(
            r"L(\theta, x, y) + \beta \max_\delta \mathrm{KL}\left(f(x) \,\|\, f(x + "
            r"\delta)\right), \qquad L(\theta, x, y) + \lambda \|\nabla_x L(\theta, x, y)\|_2^2",
            "loss plus beta times the largest divergence; loss plus lambda times the squared norm "
            "of the input gradient",
        ),
    ]


def _overfitting(epochs: Sequence[Row]) -> tuple[Row, DifferenceInterval]:
    """The epoch of least robust test error, and how much the error rises from it to the end."""
    best = min(epochs, key=lambda row: row["broken_test"])
    rates = [wilson_interval(row["broken_test"], row["attacked"]) for row in (best, epochs[-1])]
    return best, difference_interval(rates[0], rates[1])


def _epoch_chart(config: TrainingStudyConfig, epochs: Sequence[Row]) -> Chart:
    series = []
    for label, wrong, of in (
        ("training images, attacked", "broken_train", "attacked"),
        ("test images, attacked", "broken_test", "attacked"),
        ("test images, unchanged", "wrong", "tested"),
    ):
        rates = [(row["epoch"], wilson_interval(row[wrong], row[of])) for row in epochs]
        points = tuple(Point(n, r.rate, r.low, r.high, f"epoch {n}: {r}") for n, r in rates)
        series.append(Series(label, points))
    caption = (
        f"Errors during PGD-{config.pgd_steps} training on {epochs[0]['train']:,} images of "
        f"{_long_set(config)} at eps {_eps_in_words(epochs[0]['eps'])}. Training images are "
        "learned by heart together with their worst changes; test images are not helped."
    )
    return Chart(
        "epochs",
        caption,
        Axis("epoch", low=0),
        Axis("share wrong", low=0, high=1, percent=True),
        tuple(series),
    )


def _long_set(config: TrainingStudyConfig) -> str:
    return "MNIST" if config.cifar10_data is None else "CIFAR-10"


def _eps_in_words(eps: float) -> str:
    return f"{255 * eps:g}/255" if abs(eps - PHOTO_EPS) < 1e-9 else f"{eps:g}"


def _epoch_words(epochs: Sequence[Row]) -> list[str | Formula]:
    best, rise = _overfitting(epochs)
    last = epochs[-1]
    train, test = (
        wilson_interval(last[f"broken_{part}"], last["attacked"]) for part in ("train", "test")
    )
    return [
        "In standard training more epochs rarely hurt the error on test images. In adversarial "
        "training they do: the gap between training and test images is far wider, and the robust "
        "test error has its best long before the end, so that stopping early is worth as much as "
        "most refinements (Rice et al. 2020).",
        f"In this run the robust test error is lowest after epoch {best['epoch']} and changes by "
        f"{rise} up to epoch {last['epoch']}, where {train} of the training images and {test} of "
        "the test images are broken.",
    ]


def _width_chart(config: TrainingStudyConfig, widths: Sequence[Row]) -> Chart:
    series = []
    for training, words in WIDTH_TRAININGS.items():
        own = [row for row in widths if row["training"] == training]
        rates = [(row["width"], _robust(row)) for row in own]
        points = tuple(Point(w, r.rate, r.low, r.high, f"width {w}: {r}") for w, r in rates)
        series.append(Series(f"{words}: attacked", points))
    own = [row for row in widths if row["training"] == "pgd"]
    rates = [(row["width"], _clean(row)) for row in own]
    points = tuple(Point(w, r.rate, r.low, r.high, f"width {w}: {r}") for w, r in rates)
    series.append(Series("PGD: unchanged", points))
    caption = (
        "Accuracy by width of the network, 2 w and 4 w filters in its two convolutions, trained "
        f"in three ways and attacked by PGD at eps {config.eps:g}."
    )
    return Chart(
        "width",
        caption,
        Axis("width w", "log", ticks=config.widths),
        Axis("accuracy", low=0, high=1, percent=True),
        tuple(series),
    )


def _width_table(widths: Sequence[Row]) -> Table:
    rows = tuple(
        (
            str(row["width"]),
            WIDTH_TRAININGS[row["training"]],
            str(_clean(row)),
            str(wilson_interval(row["withstood_fgsm"], row["attacked"])),
            str(_robust(row)),
        )
        for row in widths
    )
    return Table(
        "widths",
        "Accuracy of each network on unchanged images, after one step, and after many.",
        ("width", "training", "unchanged", "FGSM", "PGD"),
        rows,
        (0, 2, 3, 4),
    )


def _width_words(widths: Sequence[Row]) -> str:
    own = [row for row in widths if row["training"] == "pgd"]
    gain = difference_interval(_robust(own[0]), _robust(own[-1]))
    plain = [row for row in widths if row["training"] == "standard"]
    clean = difference_interval(_clean(plain[0]), _clean(plain[-1]))
    return (
        "A boundary that keeps its distance from all images is more winding than one that only "
        "separates them, and a small network cannot bend so far. From the narrowest to the widest "
        f"network the robust accuracy of PGD training changes by {gain}, the accuracy of standard "
        f"training on unchanged images by {clean}."
    )


def _comparisons(
    config: TrainingStudyConfig,
    methods: dict[str, Row],
    epochs: Sequence[Row],
    widths: Sequence[Row],
) -> tuple[Comparison, ...]:
    base = methods["standard"]["passes"]
    dear, free, fast = (methods[k] for k in (_DEAREST, "free-8", "fast"))
    best, rise = _overfitting(epochs)
    narrow = next(row for row in widths if row["training"] == "pgd")
    shorter = (
        f"eps {config.eps:g}, {dear['train']:,} images and {config.epochs} epochs here; eps 0.3, "
        "60,000 images and a larger network trained to convergence there."
    )
    return (
        Comparison(
            "PGD training on MNIST",
            "Madry et al. (2017), table 1",
            "98.8 % unchanged, 93.2 % under PGD with 40 steps",
            f"{_clean(dear)} unchanged, {_robust(dear)} under attack",
            shorter,
        ),
        Comparison(
            "Cost and robustness of Free-8 beside PGD-7",
            f"{FREE.cited}, table 1, CIFAR-10",
            "785 minutes and 46.8 % under PGD-20, beside 5,418 minutes and 45.8 %; standard "
            "training 780 minutes",
            f"{free['passes'] / base:.1f} and {dear['passes'] / base:.1f} times the passes of "
            f"standard training, {_robust(free)} and {_robust(dear)}",
            f"MNIST here, and {config.epochs} epochs: Free-8 replays each batch 8 times and meets "
            f"each image only {config.epochs / 8:g} times as a new one.",
        ),
        Comparison(
            "Fast training",
            "Wong, Rice and Kolter (2020), abstract, CIFAR-10",
            "as robust as PGD training at the cost of two passes, unless it overfits to its step",
            f"{_robust(fast)} at {fast['passes'] / base:.1f} times, PGD-7 {_robust(dear)} at "
            f"{dear['passes'] / base:.1f} times",
            "The guard of the training here takes more steps where one step stops being enough.",
        ),
        Comparison(
            "Robust test error over epochs",
            "Rice, Wong and Kolter (2020)",
            "lowest shortly after the learning rate first falls, then rising to the end (shown as "
            "curves)",
            f"lowest after epoch {best['epoch']}, then {rise}",
            f"{epochs[0]['train']:,} training images and a small network.",
        ),
        Comparison(
            "PGD training of the narrowest network",
            "Madry et al. (2017), figure 4",
            "fails to learn anything useful",
            f"{_clean(narrow)} unchanged, {_robust(narrow)} under attack",
            shorter,
        ),
    )
