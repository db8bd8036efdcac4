"""The study `physadv study obfuscated`: three ways to hide a gradient, and what gives each away.

After Athalye et al. (2018), with defenses that Tramer et al. (2020) broke. Every defense is
attacked as deployed (apparent robustness) and with its gradient recovered (real robustness), and
the checks that Athalye et al. list are run on it. The gallery of defenses and the attacks are those
of `physadv study masked`, at a smaller budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier
from physadv.core.files import make_folder
from physadv.core.rows import Row
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.masking_checks import masking_findings
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.studies.attack_configs import ObfuscatedConfig
from physadv.studies.config import linf_radius
from physadv.studies.gradient_masking.adaptive_attacks import textbook_pgd
from physadv.studies.gradient_masking.gallery import (
    MaskedDefense,
    attack_defense,
    correct_verdicts,
)
from physadv.studies.gradient_masking.trained_nets import StudyNets, trained_gallery
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
from physadv.studies.small_classifiers import load_study_data, subset
from physadv.studies.study import Part, PartRows, Study, Workspace
from physadv.threat.losses import margin_loss
from physadv.training.data import TrainingData

ATHALYE = Paper(
    "Athalye, Carlini and Wagner",
    2018,
    "Obfuscated Gradients Give a False Sense of Security",
    "arXiv:1802.00420",
)
CARLINI = Paper("Carlini et al.", 2019, "On Evaluating Adversarial Robustness", "arXiv:1902.06705")
TRAMER = Paper(
    "Tramer et al.",
    2020,
    "On Adaptive Attacks to Adversarial Example Defenses",
    "arXiv:2002.08347",
)

CONTROL, SHATTERED, STOCHASTIC, VANISHING, OTHER = (
    "control",
    "shattered",
    "stochastic",
    "exploding or vanishing",
    "saturated or split loss",
)
KINDS = {
    "no defence": CONTROL,
    "one-hot output": SHATTERED,
    "random resizing": STOCHASTIC,
    "thermometer code": SHATTERED,
    "very deep purifier": VANISHING,
    "k winners take all": SHATTERED,
    "generative classifier": OTHER,
    "matrix completion": STOCHASTIC,
    "sparse Fourier recovery": OTHER,
    "asymmetric adversarial training": OTHER,
    "adversarial training": CONTROL,
}
"""What each defense of the gallery does to its gradient, in the gallery's order."""
OF_TRAMER = {
    "k winners take all": "k-Winners-Take-All",
    "generative classifier": "Are Generative Classifiers More Robust?",
    "sparse Fourier recovery": "Robust Sparse Fourier Transform",
    "matrix completion": "ME-Net",
    "asymmetric adversarial training": "Asymmetrical Adversarial Training",
}
"""Defenses that Tramer et al. broke, by their name here, with that of their section."""
SHOWN_NAMES = {
    "no defence": "no defense",
    "asymmetric adversarial training": "asymmetric training",
}
SIGNS = (
    "one step beats many",
    "black box beats white",
    "unbounded fails",
    "random points win",
    "larger eps no better",
)
"""Signs of hidden gradients, in the order of Athalye et al."""
SLACK = 0.05
"""Share of the images by which a sign must show."""
LINES = ("no defence", "thermometer code", "very deep purifier")
STEPS_OF_LINE = 81


def study_parts(config: ObfuscatedConfig) -> list[Part]:
    """Return the parts of a study: each defense, and the margin along a line."""

    def defense_part(name: str) -> Part:
        return Part(name, SHOWN_NAMES.get(name, name), lambda work: _rows(config, name, work))

    names = list(KINDS)[: config.scaled(5, len(KINDS), len(KINDS))]
    line = Part("line", "the margin along a line", lambda work: _line_rows(config, work))
    return [*(defense_part(name) for name in names), line]


@dataclass(frozen=True)
class _Images:
    """Images to train on, and those that are attacked."""

    training: TrainingData
    images: Tensor
    labels: Tensor


def _images(config: ObfuscatedConfig, workspace: Workspace) -> _Images:
    """Read the data once in a process; a tenth of the training images is held out."""

    def make() -> _Images:
        data = load_study_data(
            config.data,
            train=config.scaled(400, 6000, 10_000),
            test=config.scaled(10, 60, 200),
            seed=config.seed,
        )
        order = torch.arange(len(data.train))
        held_out = order % 10 == 0
        training = TrainingData(
            subset(data.train, order[~held_out]),
            subset(data.train, order[held_out]),
            data.classes,
            data.channels,
            data.image_size,
        )
        return _Images(training, *data.test.floats(slice(None)))

    return workspace.once("images", make)


def _defense(config: ObfuscatedConfig, name: str, workspace: Workspace) -> MaskedDefense:
    """Return a defense; nets of the gallery up to it are trained, or loaded from the folder."""

    def gallery() -> Iterator[MaskedDefense]:
        folder = workspace.folder / "nets"
        make_folder(folder)
        return trained_gallery(
            StudyNets(
                _images(config, workspace).training,
                folder,
                config.scaled(2, 3, 4),
                linf_radius(config.threat),
                config.seed,
                lambda net, share: workspace.tell(f"training {net} {format_percent(share, 0)}"),
            )
        )

    made: dict[str, MaskedDefense] = workspace.once("made", dict)
    rest = workspace.once("gallery", gallery)
    while name not in made:
        defense = next(rest)
        made[defense.name] = defense
    return made[name]


def _rows(config: ObfuscatedConfig, name: str, workspace: Workspace) -> Iterator[Row]:
    """Yield one row of what is left of a defense, and one of its diagnostics."""
    masked = _defense(config, name, workspace)
    data, eps = _images(config, workspace), linf_radius(config.threat)
    images, labels, steps = data.images, data.labels, config.scaled(3, 20, 40)
    seed = workspace.seed_of(name) % 2**31
    workspace.tell(f"attacking {name}")
    outcome = attack_defense(
        masked,
        images,
        labels,
        eps=eps,
        steps=steps,
        queries=config.scaled(12, 400, 1000),
        seed=seed,
    )
    black = outcome.clean if outcome.black_box is None else outcome.black_box
    yield {
        "paper": masked.paper,
        "hides": masked.hides,
        "remedy": masked.remedy,
        "plain_is": masked.plain_is,
        "pixels": masked.pixels,
        "n": len(labels),
        "clean": int(outcome.clean.sum()),
        "plain": int((outcome.clean & outcome.plain).sum()),
        "gradient": int((outcome.clean & outcome.gradient).sum()),
        "black_box": int((outcome.clean & black).sum()),
        "real": int(outcome.real.sum()),
    }

    workspace.tell(f"checking {name}")
    found = masking_findings(masked.defended, images[:16], labels[:16], eps=eps)
    yield {
        **_signs(masked, images, labels, outcome.clean, eps=eps, steps=steps, seed=seed),
        "black_box": int((outcome.clean & black).sum()),
        "findings": sorted({finding.name for finding in found}),
        **gradient_quality(masked.defended, images[:32], labels[:32], eps=eps, seed=seed),
    }


def _signs(
    masked: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    clean: Tensor,
    *,
    eps: float,
    steps: int,
    seed: int,
) -> Row:
    """Return how many images stay correct under what the signs compare."""

    def left(moved: Tensor) -> int:
        return int((clean & correct_verdicts(masked, moved, labels, seed, attacked=True)).sum())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        attacked = {
            key: left(textbook_pgd(masked.defended, images, labels, eps=radius, steps=count))
            for key, radius, count in (
                ("one_step", eps, 1),
                ("many_steps", eps, steps),
                ("double_eps", min(1.0, 2 * eps), steps),
                ("unbounded", 1.0, steps),
            )
        }

        # Corners of the box at random, as many as the iterated attack takes steps.
        survived = clean.clone()
        for _ in range(steps):
            corner = (images + eps * torch.randn_like(images).sign()).clamp(0, 1)
            survived &= correct_verdicts(masked, corner, labels, seed, attacked=True)
    return {**attacked, "random": int(survived.sum()), "clean": int(clean.sum())}


def gradient_quality(
    model: Classifier, images: Tensor, labels: Tensor, *, eps: float, seed: int
) -> Row:
    """Return what the gradient of the margin is worth at some images.

    Args:
        model: Classifier as deployed.
        images: Images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        eps: Radius of the threat; a tenth of it is the step of the comparison.
        seed: Seed of a random model's draws.

    Returns:
        ``zero``: share of images without a gradient; ``agreement``: mean cosine of two gradients at
        the same image; ``kept``: median of the margin's actual change along the gradient's sign
        over what the gradient promises; 1 for a linear model; ``spread``: decades between the
        smallest and the largest gradient.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).double()
        >>> images = torch.full((2, 3, 2, 2), 0.5).double()
        >>> quality = gradient_quality(net, images, torch.tensor([0, 1]), eps=0.1, seed=0)
        >>> quality["zero"], quality["agreement"], round(quality["kept"], 3)
        (0.0, 1.0, 1.0)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, margin = _margin_gradient(model, images, labels)
        second, _ = _margin_gradient(model, images, labels)
        step = 0.1 * eps
        moved = (images - step * first.sign()).clamp(0, 1)
        after = _margin_gradient(model, moved, labels)[1]

    a, b = first.flatten(1).double(), second.flatten(1).double()
    length = a.norm(dim=1)
    alive = (length > 0) & length.isfinite()
    if not alive.any():
        return {"zero": 1.0, "agreement": None, "kept": None, "spread": None}

    cosine = torch.nn.functional.cosine_similarity(a[alive], b[alive], dim=1)
    promised = (a * (moved - images).flatten(1)).sum(1)[alive]
    kept = ((after - margin)[alive].double() / promised).median()
    lengths = length[alive].log10()
    return {
        "zero": round(1 - float(alive.double().mean()), 4),
        "agreement": round(float(cosine.mean()), 4),
        "kept": round(float(kept), 4) if bool(kept.isfinite()) else None,
        "spread": round(float(lengths.max() - lengths.min()), 3),
    }


def _margin_gradient(model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient (b, c, h, w) and the value (b,) of the margin."""
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        margin = margin_loss(model(leaf), labels)
        if not margin.requires_grad:
            return torch.zeros_like(images), margin.detach()
        (slope,) = torch.autograd.grad(margin.sum(), leaf, allow_unused=True)
    return torch.zeros_like(images) if slope is None else slope, margin.detach()


def _line_rows(config: ObfuscatedConfig, workspace: Workspace) -> Iterator[Row]:
    """Yield margins along the line from the first image in the direction in which that of the
    plain net falls."""
    data, eps = _images(config, workspace), linf_radius(config.threat)
    plain = _defense(config, "no defence", workspace).defended
    right = (plain(data.images).argmax(1) == data.labels).nonzero()[:, 0]
    at = int(right[0]) if len(right) else 0
    image, label = data.images[at : at + 1], data.labels[at : at + 1]
    direction = -_margin_gradient(plain, image, label)[0].sign()
    places = torch.linspace(-eps / 2, eps, STEPS_OF_LINE)
    points = (image + places.view(-1, 1, 1, 1) * direction).clamp(0, 1)
    truth = label.expand(len(points))

    for name in LINES:
        model = _defense(config, name, workspace).defended
        with torch.no_grad():
            margins = margin_loss(model(points), truth)
        yield {"name": name, "at": _rounded(places), "margin": _rounded(margins)}
    random = _defense(config, "random resizing", workspace).defended
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for draw in range(2):
            torch.manual_seed(workspace.seed_of("line", draw) % 2**63)
            each = torch.cat([margin_loss(random(p[None]), label) for p in points])
            yield {
                "name": f"random resizing, pass {draw + 1}",
                "at": _rounded(places),
                "margin": _rounded(each),
            }


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


@dataclass(frozen=True)
class DefenseResult:
    """What the rows of one defense say.

    Args:
        name: Name of the defense.
        kind: What it does to its gradient.
        left: Row of the images that stay correct.
        checks: Row of its diagnostics.
    """

    name: str
    kind: str
    left: Row
    checks: Row

    @property
    def shown(self) -> str:
        """Name on the page."""
        return SHOWN_NAMES.get(self.name, self.name)

    def rate(self, column: str) -> RateInterval:
        """Return the share of images that stay correct under ``column``."""
        return wilson_interval(int(self.left[column]), int(self.left["n"]))

    def signs(self) -> tuple[bool, ...]:
        """Return whether each of ``SIGNS`` shows, by more than ``SLACK`` of the images."""
        c = self.checks
        slack = max(1.0, SLACK * int(self.left["n"]))
        return (
            c["many_steps"] - c["one_step"] >= slack,
            c["many_steps"] - c["black_box"] >= slack,
            c["unbounded"] >= slack,
            c["many_steps"] - c["random"] >= slack,
            c["many_steps"] >= slack and c["double_eps"] > c["many_steps"] - slack,
        )


def defense_results(rows: PartRows) -> list[DefenseResult]:
    """Return the result of each defense in ``rows``, in the gallery's order."""
    return [
        DefenseResult(name, kind, rows[name][0], rows[name][1])
        for name, kind in KINDS.items()
        if name in rows
    ]


def study_page(config: ObfuscatedConfig, rows: PartRows) -> StudyPage:
    """Return the page of a study.

    Args:
        config: Its configuration.
        rows: Rows of all parts.
    """
    results = defense_results(rows)
    sections = PageSections()
    sections.add(
        "Apparent and real",
        [
            "An attack that follows gradients fails where there are none to follow, and the "
            "defense looks robust. The remedy gives the same predictions another gradient.",
            _accuracy_matrix(results),
        ],
    )
    sections.add("Why the gradient misleads", [*_kinds_in_words(rows), _line_chart(rows)])
    sections.add(
        "What gives each away",
        [
            "Five signs that Athalye et al. list. One of them is enough to distrust a figure; a "
            "robust model shows none. They are of the plain attack in l_inf on the deployed "
            "defense, whatever its authors used.",
            _sign_matrix(results),
            _gradient_table(results),
        ],
    )
    tramer = [result for result in results if result.name in OF_TRAMER]
    if tramer:
        sections.add(
            "Defenses that adaptive attacks broke",
            [
                f"{len(tramer)} of the thirteen defenses of Tramer et al., each as a small version "
                "with the mechanism of its paper.",
                _tramer_table(tramer),
            ],
        )
    sections.add("How a gradient is recovered", _formulas())
    return StudyPage(
        answer=_answer(config, results),
        sections=tuple(sections.sections),
        comparisons=_comparisons(config, results),
        limits=(
            "Real is what no attack here broke: an upper bound, which longer attacks lower. "
            "`physadv study masked` attacks on until doubling the budget breaks nothing more.",
            "Each defense is a small version with the mechanism of its paper on another data set; "
            "the figures are not those of its authors.",
            "A defense without these signs is not thereby robust: signs speak against a figure, "
            "never for it.",
        ),
        terms=(
            ("apparent robustness", "the share that a plain attack leaves correct."),
            ("real robustness", "the share that no attack here broke."),
            ("shattered", "a gradient that is missing, zero, or jumps from point to point."),
            ("stochastic", "a gradient of one random draw, where the next pass draws anew."),
            (
                "exploding or vanishing",
                "a product of many slopes that is almost nothing, or far too large.",
            ),
            ("margin", "score of the true class less the highest of the others; below 0 is wrong."),
            (
                "BPDA",
                "backward pass differentiable approximation: the exact function forward, the "
                "gradient of a smooth one backward.",
            ),
            ("EOT", "expectation over transformation: the gradient's mean over random draws."),
        ),
    )


COLUMNS = (
    ("clean", "no attack"),
    ("plain", "plain (apparent)"),
    ("gradient", "adaptive"),
    ("black_box", "black box"),
    ("real", "all (real)"),
)


def _note(rate: RateInterval) -> str:
    return cell_ends(rate.low, rate.high)


def _accuracy_matrix(results: Sequence[DefenseResult]) -> Matrix:
    rates = [[result.rate(column) for column, _ in COLUMNS] for result in results]
    return Matrix(
        "apparent-and-real",
        f"Share of {count_noun(results[0].left['n'], 'test image')} classified correctly under "
        "each attack; below, the 95 % Wilson interval.",
        tuple(result.shown for result in results),
        tuple(words for _, words in COLUMNS),
        tuple(tuple(rate.rate for rate in line) for line in rates),
        "defense",
        "attack",
        notes=tuple(tuple(_note(rate) for rate in line) for line in rates),
    )


def _kinds_in_words(rows: PartRows) -> list[str]:
    lines = rows["line"]
    below = [min(row["margin"]) < 0 for row in lines]
    fall = "All of them go" if all(below) else f"{sum(below)} of {len(lines)} go"
    end = ": the adversarial image is there, only the way is hidden." if any(below) else "."
    return [
        "Shattered: a code, a rounding or a switch between neurons makes the gradient zero or "
        "random from point to point. Stochastic: every pass draws anew, and one gradient is of "
        "one draw. Exploding or vanishing: a deep or repeated map multiplies many slopes, which "
        "die out on its steps and burst between them.",
        "The curves show the same walk away from one image. That of the plain net slopes; the "
        "others fall in steps, whose slope is zero where one stands, or differ from pass to pass. "
        f"{fall} below zero{end}",
    ]


def _line_chart(rows: PartRows) -> Chart:
    """Return the margins along a line, each in units of its mean size."""
    series = []
    for row in rows["line"]:
        places, margins = row["at"], row["margin"]
        size = sum(abs(margin) for margin in margins) / len(margins) or 1.0
        points = tuple(Point(x, y / size) for x, y in zip(places, margins, strict=True))
        name = str(row["name"])
        series.append(Series(SHOWN_NAMES.get(name, name), points, "curve"))
    return Chart(
        "margin-along-a-line",
        "Margin of the true class along the direction in which that of the plain net falls, over "
        "its mean size on the line; below 0 the image is misread.",
        Axis("change of every pixel"),
        Axis("margin / its mean size"),
        tuple(series),
        verticals=((0.0, "image"),),
    )


def _sign_matrix(results: Sequence[DefenseResult]) -> Matrix:
    def notes(result: DefenseResult) -> tuple[str, ...]:
        c = result.checks
        return (
            f"{c['one_step']} : {c['many_steps']}",
            f"{c['black_box']} : {c['many_steps']}",
            f"{c['unbounded']}",
            f"{c['random']} : {c['many_steps']}",
            f"{c['double_eps']} : {c['many_steps']}",
        )

    return Matrix(
        "signs",
        "Signs of hidden gradients (100 % where one shows). Below, how many of "
        f"{count_noun(results[0].left['n'], 'image')} stayed correct under one step, the black "
        "box, an unbounded attack, random corners of the box, or twice the eps, against the "
        "plain attack's number.",
        tuple(result.shown for result in results),
        SIGNS,
        tuple(tuple(float(sign) for sign in result.signs()) for result in results),
        "defense",
        "sign",
        notes=tuple(notes(result) for result in results),
    )


def _gradient_table(results: Sequence[DefenseResult]) -> Table:
    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return Table(
        "gradients",
        "The gradient of the margin at 32 images at most: how often it is zero, how alike it is in "
        "two passes over the same image (cosine), which part of the change that it promises comes "
        "about along a tenth of eps, and how many powers of ten its lengths span. Last, what "
        "`physadv evaluate` reports of the defense.",
        ("defense", "kind", "zero", "two passes", "promise kept", "decades", "findings"),
        tuple(
            (
                result.shown,
                result.kind,
                format_percent(result.checks["zero"], 0),
                cell(result.checks["agreement"], ".2f"),
                cell(result.checks["kept"], ".2f"),
                cell(result.checks["spread"], ".1f"),
                ", ".join(result.checks["findings"]) or "none",
            )
            for result in results
        ),
        (2, 3, 4, 5),
    )


def _tramer_table(results: Sequence[DefenseResult]) -> Table:
    return Table(
        "adaptive",
        "Plain is the attack of the defense's authors where they used another than PGD on it as "
        "deployed; the threat is that of the run, or a number of pixels changed at will.",
        ("defense", "paper", "hides by", "plain attack", "apparent", "seen through by", "real"),
        tuple(
            (
                OF_TRAMER[result.name],
                result.left["paper"],
                result.left["hides"],
                result.left["plain_is"]
                + (f", {result.left['pixels']} px" if result.left["pixels"] else ""),
                str(result.rate("plain")),
                result.left["remedy"],
                str(result.rate("real")),
            )
            for result in results
        ),
    )


def _formulas() -> list[Formula | str]:
    return [
        "Shattered and vanishing gradients: run the function g forward as it is, and take the "
        "gradient of a smooth function h that is near it (BPDA), often h(x) = x.",
        Formula(
            r"\nabla_x f(g(x)) \approx \nabla_x f(h(x)) \Big|_{h(x) := g(x)}, \quad h \approx g",
            "The gradient of f after g is approximated by that through a smooth h near g, "
            "evaluated at g of x.",
        ),
        "Stochastic gradients: the mean over draws.",
        Formula(
            r"\nabla_x \mathbb{E}_{t} f(t(x)) = \mathbb{E}_{t} \nabla_x f(t(x)) \approx "
            r"\frac{1}{m} \sum_{i=1}^{m} \nabla_x f(t_i(x))",
            "The gradient of the expectation is the expectation of the gradient, estimated by the "
            "mean over m draws.",
        ),
    ]


def _answer(config: ObfuscatedConfig, results: Sequence[DefenseResult]) -> str:
    """Return the result in a sentence."""
    hidden = [result for result in results if result.kind != CONTROL]
    parts = []
    for kind in dict.fromkeys(result.kind for result in hidden):
        own = [result for result in hidden if result.kind == kind]
        apparent, real = (
            sum(result.rate(column).rate for result in own) / len(own)
            for column in ("plain", "real")
        )
        parts.append(
            f"{kind} {format_percent(apparent, 0)} apparent and {format_percent(real, 0)} real"
        )
    betrayed = sum(any(result.signs()) for result in hidden)
    controls = [result for result in results if result.kind == CONTROL]
    falsely = sum(any(result.signs()) for result in controls)
    return (
        f"Accuracy under attack (l_inf {linf_radius(config.threat):.3g}, means over the defenses "
        f"of a kind, n = {count_noun(results[0].left['n'], 'image')} each): {'; '.join(parts)}. "
        f"At least one of five signs gives away {betrayed} of {len(hidden)} defenses, and shows "
        f"in {falsely} of {count_noun(len(controls), 'net')} that hide nothing."
    )


PUBLISHED = {
    "thermometer code": "0 % (CIFAR-10, l_inf 0.031; table 1)",
    "random resizing": "0 % (ImageNet, l_inf 0.031; table 1)",
    "very deep purifier": "9 % (PixelDefend, CIFAR-10, l_inf 0.031; table 1)",
    "adversarial training": "47 % (CIFAR-10, l_inf 0.031; table 1)",
}


def _comparisons(
    config: ObfuscatedConfig, results: Sequence[DefenseResult]
) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(
            f"Accuracy left by adaptive attacks: {result.name}",
            ATHALYE.cited,
            PUBLISHED[result.name],
            f"{result.rate('real')}, l_inf {linf_radius(config.threat):.3g}",
            "A small version on another data set; the order is what can be compared.",
        )
        for result in results
        if result.name in PUBLISHED
    )


STUDY = Study(
    name="obfuscated",
    title="Hidden gradients",
    question="Which defenses only hide the gradient, and what gives them away?",
    config=ObfuscatedConfig,
    papers=(ATHALYE, CARLINI, TRAMER),
    parts=study_parts,
    page=study_page,
)
