"""The study `physadv study threats`: what an attacker achieves who sees gradients, scores, labels,
or nothing of a model but its final verdict.

The same images of the same net are attacked under the same bound on the change. What differs is
what the attacker may read, and what it costs is counted in queries: images that the net is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from physadv.attacks.decision_based import hopskipjump, rays
from physadv.attacks.gradient import fgsm, pgd
from physadv.attacks.score_based import EstimatedGradient, square_attack
from physadv.attacks.transfer_based import mi_fgsm
from physadv.core.rows import Row
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.models.architectures.cnn import build_network
from physadv.studies.attack_configs import ThreatsConfig
from physadv.studies.page import (
    UNCHECKED,
    Axis,
    Chart,
    Comparison,
    Formula,
    Matrix,
    PageSections,
    Paper,
    Picture,
    Pictures,
    Point,
    Series,
    StudyPage,
    Table,
)
from physadv.studies.small_classifiers import (
    StudyData,
    accuracy,
    fit_classifier,
    load_study_data,
    predict,
    subset,
)
from physadv.studies.study import Part, PartRows, Study, Workspace
from physadv.training.data import ImageSubset

PAIRS, SIGMA = 25, 0.01
"""Pairs of differences in an estimated gradient, and their length in units of [0, 1]."""
SHOWN = 3
"""Number of images that the page shows under every attack."""
PAPERNOT = Paper(
    "Papernot et al.",
    2016,
    "Practical Black-Box Attacks against Machine Learning",
    "arXiv:1602.02697",
)
NES = Paper(
    "Ilyas et al.",
    2018,
    "Black-box Adversarial Attacks with Limited Queries and Information",
    "arXiv:1804.08598",
)
SQUARE = Paper(
    "Andriushchenko et al.",
    2019,
    "Square Attack: a query-efficient black-box adversarial attack via random search",
    "arXiv:1912.00049",
)
RAYS = Paper(
    "Chen and Gu",
    2020,
    "RayS: A Ray Searching Method for Hard-label Adversarial Attack",
    "arXiv:2006.12792",
)
HOP_SKIP_JUMP = Paper(
    "Chen, Jordan and Wainwright",
    2019,
    "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack",
    "arXiv:1904.02144",
)


@dataclass(frozen=True)
class _Setting:
    """The net under attack, correctly classified test images, and a net of the attacker's own."""

    data: StudyData
    net: nn.Module
    own: nn.Module
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class _Outcome:
    """Adversarial images, their success, and the queries up to it."""

    images: Tensor
    success: Tensor
    queries: Tensor


@dataclass(frozen=True)
class _Attack:
    """An attack and what it reads.

    Args:
        name: Name in rows and on the page.
        reads: What the attacker sees of the net: gradients, scores, labels or nothing.
        run: Attacks all images of a setting within a radius, with a budget of queries and a seed.
    """

    name: str
    reads: str
    run: Callable[[_Setting, float, int, int], _Outcome]


def _fgsm(setting: _Setting, eps: float, queries: int, seed: int) -> _Outcome:
    result = fgsm(setting.net, setting.images, setting.labels, eps=eps)
    return _Outcome(result.images, result.success, torch.full_like(setting.labels, 2))


def _pgd(setting: _Setting, eps: float, queries: int, seed: int) -> _Outcome:
    result = pgd(
        setting.net,
        setting.images,
        setting.labels,
        eps=eps,
        steps=min(40, queries),
        random_start=False,
        speed="plain",
        seed=seed,
    )
    return _Outcome(result.images, result.success, _counted(result.queries))


def _square(setting: _Setting, eps: float, queries: int, seed: int) -> _Outcome:
    result = square_attack(
        setting.net, setting.images, setting.labels, eps=eps, queries=queries, seed=seed
    )
    return _Outcome(result.images, result.success, _counted(result.queries))


def _nes(setting: _Setting, eps: float, queries: int, seed: int) -> _Outcome:
    gradient = 2 * PAIRS + 1
    result = pgd(
        EstimatedGradient(setting.net, pairs=PAIRS, sigma=SIGMA, seed=seed),
        setting.images,
        setting.labels,
        eps=eps,
        steps=max(1, queries // gradient),
        loss="margin",
        random_start=False,
        speed="plain",
        seed=seed,
    )
    # Every pass but the last, which shows the success, is followed by one gradient.
    return _Outcome(result.images, result.success, (_counted(result.queries) - 1) * gradient + 1)


def _rays(setting: _Setting, eps: float, queries: int, seed: int) -> _Outcome:
    result = rays(setting.net, setting.images, setting.labels, eps=eps, queries=queries)
    return _Outcome(result.images, result.success, _counted(result.queries))


def _hop_skip_jump(setting: _Setting, eps: float, queries: int, seed: int) -> _Outcome:
    result = hopskipjump(
        setting.net,
        setting.images,
        setting.labels,
        eps=eps,
        norm="linf",
        queries=queries,
        seed=seed,
    )
    return _Outcome(result.images, result.success, _counted(result.queries))


def _transfer(setting: _Setting, eps: float, queries: int, seed: int) -> _Outcome:
    moved, success = _transferred(setting, setting.own, eps, seed)
    return _Outcome(moved, success, torch.ones_like(setting.labels))


def _transferred(setting: _Setting, own: nn.Module, eps: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return images made on ``own`` alone, and whether each fools the net under attack."""
    result = mi_fgsm(
        own,
        setting.images,
        setting.labels,
        eps=eps,
        steps=20,
        step_size=eps / 10,
        surrogates=[own],
        seed=seed,
    )
    return result.images, predict(setting.net, result.images) != setting.labels


def _counted(queries: Tensor | None) -> Tensor:
    assert queries is not None  # these attacks count them
    return queries.cpu()


ATTACKS = (
    _Attack("PGD", "gradients", _pgd),
    _Attack("FGSM", "gradients", _fgsm),
    _Attack("Square", "scores", _square),
    _Attack("NES", "scores", _nes),
    _Attack("RayS", "labels", _rays),
    _Attack("HopSkipJump", "labels", _hop_skip_jump),
    _Attack("transfer", "nothing", _transfer),
)
READS = {
    "gradients": "architecture and weights, hence gradients",
    "scores": "a number for each class",
    "labels": "the predicted class alone",
    "nothing": "nothing; a net of the attacker's own",
}


def study_parts(config: ThreatsConfig) -> list[Part]:
    """Return the parts of a study: the nets, each attack, and bought labels."""

    def attack_part(attack: _Attack) -> Part:
        return Part(
            attack.name,
            f"{attack.name} ({attack.reads})",
            lambda workspace: _attack_rows(config, attack, workspace),
        )

    return [
        Part("nets", "training two nets", lambda workspace: _net_rows(config, workspace)),
        *(attack_part(attack) for attack in ATTACKS),
        Part(
            "bought labels",
            "training nets on labels of the model",
            lambda workspace: _bought_rows(config, workspace),
        ),
    ]


def _setting(config: ThreatsConfig, workspace: Workspace) -> _Setting:
    """Return the nets and images of the study, made once in a process."""

    def make() -> _Setting:
        data = load_study_data(
            config.data,
            train=config.scaled(600, 12_000, 60_000),
            test=config.scaled(16, 210, 1050),
            seed=config.seed,
        )
        first, second = data.halves()
        net = _trained(config, workspace, "attacked", "small-cnn", data, first)
        own = _trained(config, workspace, "attacker", "wide-cnn", data, second)

        # An image that is wrong as it is needs no attack.
        images, labels = data.test.floats(slice(None))
        right = predict(net, images) == labels
        return _Setting(data, net, own, images[right], labels[right])

    return workspace.once("setting", make)


def _trained(
    config: ThreatsConfig,
    workspace: Workspace,
    name: str,
    architecture: str,
    data: StudyData,
    images: ImageSubset,
    epochs: int | None = None,
) -> nn.Module:
    return workspace.net(
        name,
        lambda: build_network(
            architecture,
            channels=data.channels,
            side=data.image_size,
            classes=len(data.classes),
        ),
        lambda net: fit_classifier(
            net, images, epochs=epochs or config.scaled(16, 4, 6), seed=workspace.seed_of(name)
        ),
    )


def _net_rows(config: ThreatsConfig, workspace: Workspace) -> Iterator[Row]:
    setting = _setting(config, workspace)
    images, labels = setting.data.test.floats(slice(None))
    for name, net in (("attacked", setting.net), ("attacker", setting.own)):
        rate = accuracy(net, images, labels)
        yield {"net": name, "right": round(rate.rate * rate.n), "n": rate.n}

    own, foreign = setting.data.halves()
    yield {"net": "data", "own": len(own), "foreign": len(foreign)}
    for number in range(min(SHOWN, len(setting.images))):
        yield {
            "net": "image",
            "image": number,
            "class": setting.data.classes[int(setting.labels[number])],
            "picture": workspace.save_picture(f"clean-{number}", setting.images[number]),
        }


def _attack_rows(config: ThreatsConfig, attack: _Attack, workspace: Workspace) -> Iterator[Row]:
    """Yield a row for each radius and image, and save the pictures of the first images."""
    setting = _setting(config, workspace)
    for eps in config.radii:
        workspace.tell(f"{attack.name}, eps {eps:.3g}")
        seed = workspace.seed_of(attack.name) % 2**31
        outcome = attack.run(setting, eps, config.queries, seed)
        predicted = predict(setting.net, outcome.images)
        within = outcome.queries <= config.queries
        for number in range(len(setting.labels)):
            row: Row = {
                "eps": eps,
                "image": number,
                "success": bool(outcome.success[number] & within[number]),
                "queries": int(outcome.queries[number]),
            }
            if eps == config.radii[1] and number < SHOWN:
                stem = f"{attack.name.lower()}-{number}"
                row["picture"] = workspace.save_picture(stem, outcome.images[number])
                row["read_as"] = setting.data.classes[int(predicted[number])]
            yield row


def _bought_rows(config: ThreatsConfig, workspace: Workspace) -> Iterator[Row]:
    """Yield what nets transfer that were trained on labels which the attacked net gave."""
    setting = _setting(config, workspace)
    foreign = setting.data.halves()[1]
    test, _ = setting.data.test.floats(slice(None))
    for count in config.labels_bought:
        few = subset(foreign, torch.arange(min(count, len(foreign))))
        named = ImageSubset(
            few.images, predict(setting.net, few.floats(slice(None))[0]), few.groups
        )
        # About as many steps for each number of labels.
        epochs = max(config.scaled(16, 4, 6), -(-400 * min(128, len(named)) // (2 * len(named))))
        own = _trained(
            config,
            workspace,
            f"bought-{len(named)}",
            "wide-cnn",
            setting.data,
            named,
            min(epochs, config.scaled(16, 200, 200)),
        )

        agrees = int((predict(own, test) == predict(setting.net, test)).sum())
        for eps in config.radii:
            success = _transferred(setting, own, eps, workspace.seed_of("bought") % 2**31)[1]
            yield {
                "labels": len(named),
                "eps": eps,
                "success": int(success.sum()),
                "n": len(success),
                "agrees": agrees,
                "of": len(test),
            }


def success_within(rows: Sequence[Row], queries: int) -> RateInterval:
    """Return the share of images that were broken in at most ``queries`` queries.

    Args:
        rows: A row for each image, with ``success`` and ``queries``.
        queries: Number of queries.

    Example:
        >>> rows = [{"success": True, "queries": q} for q in (2, 40)]
        >>> success_within([*rows, {"success": False, "queries": 9}], 10).rate == 1 / 3
        True
    """
    hits = sum(bool(row["success"]) and int(row["queries"]) <= queries for row in rows)
    return wilson_interval(hits, len(rows))


def queries_for_share(rows: Sequence[Row], share: float) -> int | None:
    """Return the least number of queries within which a share of all images was broken.

    Args:
        rows: A row for each image, with ``success`` and ``queries``.
        share: Share of the images, in (0, 1].

    Returns:
        The number; None where fewer were broken in all.

    Example:
        >>> rows = [{"success": True, "queries": q} for q in (9, 2, 4, 3)]
        >>> queries_for_share(rows, 0.5), queries_for_share(rows, 1.0)
        (3, 9)
    """
    broken = sorted(int(row["queries"]) for row in rows if row["success"])
    needed = max(1, -(-round(share * len(rows) * 1e6) // 1_000_000))
    return broken[needed - 1] if len(broken) >= needed else None


def study_page(config: ThreatsConfig, rows: PartRows) -> StudyPage:
    """Return the page of a study.

    Args:
        config: Its configuration.
        rows: Rows of all parts.
    """
    eps = config.radii[1]
    by_attack = {attack.name: _at(rows[attack.name], eps) for attack in ATTACKS}

    sections = PageSections()
    sections.add(
        "Success against queries",
        [
            "One net, the same images, the same bound on the change of every pixel. The only "
            "thing that differs between the curves is what the attacker is shown. A query is one "
            "image given to the net; with gradients, one pass forward and back counts as one.",
            _curves(config, by_attack),
            _cost_table(by_attack, config.queries),
        ],
    )
    sections.add("What is changed", [_pictures(config, rows)])
    sections.add("Other radii", [_radius_matrix(config, rows)])
    sections.add(
        "Labels bought beforehand",
        [
            "An attacker without a training set has the model label pictures, trains a net of its "
            "own on them, and attacks that. The labels are bought once and serve for every "
            "later image, each of which is then shown to the model a single time.",
            _bought_chart(config, rows),
        ],
    )
    sections.add("How each attack works", _formulas())

    return StudyPage(
        answer=_answer(config, rows, by_attack),
        sections=tuple(sections.sections),
        comparisons=_comparisons(config, rows, by_attack),
        limits=(
            "The net is small and trained without a defense; a robust one needs more queries of "
            "every kind and lets fewer images through at all.",
            "The attacker's own nets are trained on images of the same kind. Papernot's attacker "
            "begins with a handful and makes further ones from them.",
            "A model that counts queries or refuses similar ones, as a service may, is not "
            "simulated.",
            "Attacks on labels search for the nearest adversarial image and stop inside the bound; "
            "their published figures are often the distance after a number of queries instead.",
        ),
        terms=(
            ("query", "one image given to the model, whatever it gives back."),
            ("white box", "the attacker has architecture and weights, hence exact gradients."),
            ("scores", "the model's number for each class, from which its answer is the largest."),
            ("transfer", "an image made against one net that also fools another."),
            ("l_inf", "the largest change of any one pixel; pixels go from 0 to 1."),
        ),
    )


def _at(rows: Sequence[Row], eps: float) -> list[Row]:
    return [row for row in rows if row["eps"] == eps]


def _grid(queries: int) -> list[int]:
    """Return numbers of queries at which curves are drawn, about evenly on a log axis."""
    steps = {round(10 ** (k / 6)) for k in range(0, 60)}
    return [*sorted(step for step in steps if step < queries), queries]


def _curves(config: ThreatsConfig, by_attack: Mapping[str, Sequence[Row]]) -> Chart:
    """Return the chart of success against queries."""
    series = []
    for attack in ATTACKS:
        rows = by_attack[attack.name]
        single = attack.name in ("FGSM", "transfer")
        first = min((int(row["queries"]) for row in rows), default=1)
        last = 40 if attack.name == "PGD" else config.queries
        points = [
            _rate_point(at, success_within(rows, at), f"{attack.name}, {count_noun(at, 'query')}")
            for at in ([first] if single else [q for q in _grid(last) if q >= 1])
        ]
        label = f"{attack.name} ({attack.reads})" if attack.reads != "nothing" else "transfer"
        series.append(Series(label, tuple(points), "points" if single else "curve"))
    n = len(next(iter(by_attack.values())))
    return Chart(
        "success-against-queries",
        f"Share of {n} correctly classified test images that are misclassified after so many "
        f"queries each, l_inf {config.radii[1]:.3g}. FGSM takes one gradient and one look; "
        "transfer shows the net one image, made on another net.",
        Axis("queries for an image", "log", 1, config.queries),
        Axis("misclassified", low=0, high=1, percent=True),
        tuple(series),
    )


def _rate_point(x: float, rate: RateInterval, hint: str) -> Point:
    return Point(x, rate.rate, rate.low, rate.high, f"{hint}: {rate}")


def _cost_table(by_attack: Mapping[str, Sequence[Row]], budget: int) -> Table:
    """Return the table of queries that break a share of the images."""

    def cost(rows: Sequence[Row], share: float) -> str:
        needed = queries_for_share(rows, share)
        return "not reached" if needed is None else f"{needed}"

    return Table(
        "cost",
        f"Queries until a share of the images is misclassified, and the share within {budget} "
        "(95 % Wilson intervals).",
        ("attack", "the attacker sees", "half after", "nine in ten after", "broken in all"),
        tuple(
            (
                attack.name,
                READS[attack.reads],
                cost(by_attack[attack.name], 0.5),
                cost(by_attack[attack.name], 0.9),
                str(success_within(by_attack[attack.name], budget)),
            )
            for attack in ATTACKS
        ),
        (2, 3),
    )


def _pictures(config: ThreatsConfig, rows: PartRows) -> Pictures:
    """Return the first images under every attack."""
    lines = []
    for clean in (row for row in rows["nets"] if row["net"] == "image"):
        line = [Picture(clean["picture"], "as it is", f"read as {clean['class']}")]
        for attack in ATTACKS:
            row = _at(rows[attack.name], config.radii[1])[clean["image"]]
            asked = count_noun(row["queries"], "query")
            verdict = f"read as {row['read_as']}" if row["success"] else "not broken"
            line.append(Picture(row["picture"], attack.name, f"{verdict}, {asked}"))
        lines.append(tuple(line))
    return Pictures(
        "images",
        f"The first {count_noun(len(lines), 'image')}, each changed by at most "
        f"{config.radii[1]:.3g} a pixel. Attacks with gradients change every pixel a little "
        "differently; those that search with squares, blocks and random directions leave their "
        "pattern behind.",
        tuple(lines),
        pixelated=True,
    )


def _radius_matrix(config: ThreatsConfig, rows: PartRows) -> Matrix:
    """Return the share broken by attack and radius."""
    rates = [
        [success_within(_at(rows[attack.name], eps), config.queries) for eps in config.radii]
        for attack in ATTACKS
    ]
    halves = [
        [queries_for_share(_at(rows[attack.name], eps), 0.5) for eps in config.radii]
        for attack in ATTACKS
    ]
    return Matrix(
        "radii",
        f"Share misclassified within {count_noun(config.queries, 'query')}, by radius, n = "
        f"{rates[0][0].n}; below it, the queries until half of the images are.",
        tuple(f"{attack.name} ({attack.reads})" for attack in ATTACKS),
        tuple(f"l_inf {eps:.3g}" for eps in config.radii),
        tuple(tuple(rate.rate for rate in line) for line in rates),
        "attack",
        "radius",
        notes=tuple(
            tuple("half not reached" if half is None else f"half after {half}" for half in line)
            for line in halves
        ),
    )


def _bought_chart(config: ThreatsConfig, rows: PartRows) -> Chart:
    """Return the chart of transfer against the labels bought."""
    series = []
    for eps in config.radii:
        points = tuple(
            _rate_point(
                row["labels"],
                wilson_interval(row["success"], row["n"]),
                f"{count_noun(row['labels'], 'label')}, l_inf {eps:.3g}",
            )
            for row in _at(rows["bought labels"], eps)
        )
        series.append(Series(f"fooled, l_inf {eps:.3g}", points))
    agreement = tuple(
        _rate_point(row["labels"], wilson_interval(row["agrees"], row["of"]), "agreement")
        for row in _at(rows["bought labels"], config.radii[1])
    )
    series.append(Series("the two nets agree on test images", agreement, "curve"))
    return Chart(
        "bought-labels",
        "Share of images made on a net trained on bought labels that fool the net which gave "
        "them, at first sight.",
        Axis("labels bought", "log"),
        Axis("share", low=0, high=1, percent=True),
        tuple(series),
    )


def _formulas() -> list[Formula | str]:
    return [
        "Gradients: step along the sign of the loss's gradient and clip back into the box.",
        Formula(
            r"x_{t+1} = \Pi_{\|x - x_0\|_\infty \le \epsilon}"
            r"\left(x_t + \alpha \, \mathrm{sign} \nabla_x L(f(x_t), y)\right)",
            "The next point is the last plus alpha times the sign of the gradient of the loss, "
            "projected back into the box of radius epsilon around the image.",
        ),
        "Scores: Square repaints a random window with plus or minus eps and keeps it where the "
        "margin falls. NES estimates the gradient from differences along random directions.",
        Formula(
            r"\hat g = \frac{1}{2 \sigma m} \sum_{i=1}^{m} "
            r"\left(L(x + \sigma u_i) - L(x - \sigma u_i)\right) u_i, \quad u_i \sim N(0, I)",
            "The estimate is the mean over m random directions of the difference of the loss "
            "along each, times the direction, divided by two sigma.",
        ),
        "Labels: RayS looks for the direction of signs along which the class changes nearest, "
        "found by halving; HopSkipJump walks along the boundary, whose normal it estimates from "
        "classes around a point.",
        Formula(
            r"r(d) = \min \{ r > 0 : \mathrm{class}(x + r d) \ne y \}, \quad d \in \{-1, 1\}^n",
            "The radius of a direction of signs is the least distance at which the class changes.",
        ),
        "Nothing: momentum steps on the attacker's own net, and one look whether the other is "
        "fooled too.",
    ]


def _answer(config: ThreatsConfig, rows: PartRows, by_attack: Mapping[str, Sequence[Row]]) -> str:
    """Return the result in a sentence."""
    attacked = next(row for row in rows["nets"] if row["net"] == "attacked")
    halves = {
        reads: min(
            (
                half
                for attack in ATTACKS
                if attack.reads == reads
                and (half := queries_for_share(by_attack[attack.name], 0.5)) is not None
            ),
            default=None,
        )
        for reads in ("gradients", "scores", "labels")
    }
    parts = [
        f"{'not within ' + str(config.queries) if half is None else 'after ' + str(half)} "
        f"queries with {reads}"
        for reads, half in halves.items()
    ]
    transfer = success_within(by_attack["transfer"], 1)
    return (
        f"Against a net that reads {format_percent(attacked['right'] / attacked['n'])} of the test "
        f"images, half of them fall to changes of at most {config.radii[1]:.3g} a pixel "
        f"{parts[0]}, {parts[1]} and {parts[2]}; an attacker who sees nothing of it and shows it "
        f"one image, made on another net, fools it on {transfer.of('image')}."
    )


def _comparisons(
    config: ThreatsConfig, rows: PartRows, by_attack: Mapping[str, Sequence[Row]]
) -> tuple[Comparison, ...]:
    largest = config.radii[-1]
    bought = max(_at(rows["bought labels"], largest), key=lambda row: int(row["labels"]))
    square = by_attack["Square"]
    nes = by_attack["NES"]
    return (
        Comparison(
            "Images made on a net trained on bought labels fool the net that gave them",
            PAPERNOT.cited,
            "84.24 % after 6,400 labels (a hosted digit classifier; abstract)",
            f"{wilson_interval(bought['success'], bought['n'])}, after "
            f"{count_noun(bought['labels'], 'label')}, l_inf {largest:.3g}",
            "Another net; momentum steps here, one gradient step there; real images labeled here, "
            "made ones there.",
        ),
        Comparison(
            "Mean queries of the Square attack on images that it breaks",
            SQUARE.cited,
            "73, and no failure (ResNet-50 on ImageNet, l_inf 0.05; table 2)",
            f"{_mean_queries(square)}, and "
            f"{format_percent(1 - success_within(square, config.queries).rate)} failures "
            f"(n = {len(square)}, l_inf {config.radii[1]:.3g})",
            "An image of 28 x 28 or 32 x 32 px has fewer directions to search, but the net is "
            "wrong in fewer of them, and its class changes later.",
        ),
        Comparison(
            "Success and median queries with estimated gradients",
            NES.cited,
            "99.2 %, 11,550 queries (targeted, Inception v3 on ImageNet, l_inf 0.05; table 1). "
            f"{UNCHECKED}",
            f"{success_within(nes, config.queries)}; median "
            f"{queries_for_share([row for row in nes if row['success']], 0.5) or 'none'}",
            "Untargeted here, which is far easier, on a smaller image.",
        ),
    )


def _mean_queries(rows: Sequence[Row]) -> str:
    broken = [int(row["queries"]) for row in rows if row["success"]]
    return f"{sum(broken) / len(broken):.0f}" if broken else "none broken"


STUDY = Study(
    name="threats",
    title="What an attacker must see",
    question="How much harder is an attack when the attacker sees scores, labels or nothing of "
    "the model in place of its gradients?",
    config=ThreatsConfig,
    papers=(PAPERNOT, NES, HOP_SKIP_JUMP, SQUARE, RAYS),
    parts=study_parts,
    page=study_page,
)
