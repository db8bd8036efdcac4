"""The study `physadv study transfer`: adversarial examples of one network, given to others.

After Szegedy et al. (2013), who found that their examples fool networks of another architecture
and of disjoint training data, and Dong et al. (2018) and Xie et al. (2019), whose momentum and
diverse inputs make them do so more often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from physadv.attacks.gradient import fgsm
from physadv.attacks.transfer_based import DiverseInputs, mi_fgsm
from physadv.core.rows import Row
from physadv.core.wording import format_percent
from physadv.datasets.class_matching import match_classes
from physadv.evaluation.metrics.intervals import (
    RateInterval,
    clustered_interval,
    wilson_interval,
)
from physadv.models.architectures.cnn import SmallCNN
from physadv.models.load import load_undefended_model
from physadv.studies.attack_studies_config import TransferConfig
from physadv.studies.box_lbfgs import box_lbfgs
from physadv.studies.page import (
    Axis,
    Block,
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
from physadv.studies.small_architectures import (
    SmallResNet,
    SmallVisionTransformer,
    perceptron,
)
from physadv.studies.small_classifiers import (
    StudyData,
    accuracy,
    fit_classifier,
    predict,
    read_once,
)
from physadv.studies.study import Part, PartRows, Study, Workspace
from physadv.training.data import ImageSubset

PAPERS = (
    Paper("Szegedy et al.", 2013, "Intriguing properties of neural networks", "arXiv:1312.6199"),
    Paper("Dong et al.", 2017, "Boosting adversarial attacks with momentum", "arXiv:1710.06081"),
    Paper(
        "Xie et al.",
        2018,
        "Improving transferability of adversarial examples with input diversity",
        "arXiv:1803.06978",
    ),
)
ARCHITECTURES = ("linear", "perceptron", "small CNN", "ResNet", "transformer")
"""Kinds of networks that are trained on the data set."""
ATTACKS = {
    "noise": "random signs",
    "fgsm": "one step (FGSM)",
    "iterated": "iterated steps",
    "momentum": "with momentum",
    "diverse": "with diverse inputs",
    "both": "with both",
    "ensemble": "with both, on all other networks",
}
STEPS = 10
"""Steps of the iterated attacks, each of eps / 10."""
SIGNS_EPS = 8 / 255
"""Radius of the attacks on networks of traffic signs, in units of [0, 1]."""
HALVES = {
    "100-100, half 1": ((100, 100), 0),
    "123-456, half 1": ((123, 456), 0),
    "100-100, half 2": ((100, 100), 1),
}
"""Widths of the hidden layers, and half of the training images, of the paper's networks."""
AMPLIFIED = 0.1
"""Root mean square change to which the paper amplifies its examples."""
PUBLISHED_HALVES = {
    ("100-100, half 1", "123-456, half 1"): (0.262, 0.98),
    ("100-100, half 1", "100-100, half 2"): (0.059, 0.43),
}
"""Errors on the paper's examples, and on those amplified (table 4)."""


class _Chosen(NamedTuple):
    """Test images that all networks classify correctly, with a wrong class drawn for each."""

    images: Tensor
    labels: Tensor
    targets: Tensor


def build_architecture(kind: str, *, channels: int, side: int, classes: int) -> nn.Module:
    """Build an untrained network of one of ARCHITECTURES.

    Args:
        kind: One of ARCHITECTURES.
        channels: Channels of the images.
        side: Height and width of the images in px, a multiple of 4.
        classes: Number of classes.
    """
    values = channels * side**2
    builders: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: perceptron(values, (), classes),
        "perceptron": lambda: perceptron(values, (200, 200), classes),
        "small CNN": lambda: SmallCNN(channels, side, classes, (16, 32, 100), norm=False),
        "ResNet": lambda: SmallResNet(channels, classes),
        "transformer": lambda: SmallVisionTransformer(channels, side, classes),
    }
    return builders[kind]()


def _data(config: TransferConfig, work: Workspace) -> StudyData:
    return read_once(
        work,
        config.data,
        train=config.scaled(400, 10_000, 60_000),
        test=config.scaled(60, 1000, 10_000),
        seed=work.seed_of("data"),
    )


def _net(
    config: TransferConfig, work: Workspace, kind: str, data: StudyData, stem: str
) -> nn.Module:
    """A trained network of one kind."""
    epochs = {"linear": 6, "perceptron": 6, "small CNN": 5, "ResNet": 4, "transformer": 8}[kind]
    return work.net(
        f"{stem}-{kind.replace(' ', '-')}",
        lambda: build_architecture(
            kind, channels=data.channels, side=data.image_size, classes=len(data.classes)
        ),
        lambda net: fit_classifier(
            net,
            data.train,
            epochs=config.scaled(1, epochs, 2 * epochs),
            seed=work.seed_of("fit", stem, kind),
            lr=1e-3 if kind == "transformer" else 3e-3,
        ),
    )


def _nets(config: TransferConfig, work: Workspace) -> dict[str, nn.Module]:
    data = _data(config, work)
    return {kind: _net(config, work, kind, data, "all") for kind in ARCHITECTURES}


def _accuracy_rows(config: TransferConfig, work: Workspace, kind: str) -> list[Row]:
    """Train one network and measure it."""
    data = _data(config, work)
    rate = accuracy(_net(config, work, kind, data, "all"), *data.test.floats(slice(None)))
    return [{"net": kind, "correct": round(rate.rate * rate.n), "n": rate.n}]


def _correct_by_all(
    work: Workspace, nets: Mapping[str, nn.Module], test: ImageSubset, count: int, classes: int
) -> _Chosen:
    """The first ``count`` test images that all networks classify correctly; the first of all
    where there is none."""
    images, labels = test.floats(slice(None))
    right = torch.stack([predict(net, images) == labels for net in nets.values()]).all(0)
    rows = right.nonzero()[:count, 0] if bool(right.any()) else torch.tensor([0])
    offsets = torch.randint(1, classes, (len(labels),), generator=work.generator("targets"))
    return _Chosen(images[rows], labels[rows], ((labels + offsets) % classes)[rows])


def iterated_attack(
    nets: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    kind: str,
    seed: int,
    targets: Tensor | None = None,
) -> Tensor:
    """Attack networks in ten steps and return the last iterate, as transfer is measured.

    Args:
        nets: Networks whose normalized gradients are averaged.
        images: Clean images (n, c, h, w) in [0, 1].
        labels: True classes (n,).
        eps: Radius of the l_inf ball, in units of [0, 1].
        kind: "iterated", "momentum", "diverse" or "both".
        seed: Seed of the diverse inputs.
        targets: Target classes (n,) for a targeted attack.
    """
    return mi_fgsm(
        nets[0],
        images,
        labels,
        eps=eps,
        steps=STEPS,
        decay=1.0 if kind in ("momentum", "both") else 0.0,
        diverse=DiverseInputs(share=0.7, smallest=0.85) if kind in ("diverse", "both") else None,
        surrogates=list(nets),
        targets=targets,
        seed=seed,
    ).images


def _source_rows(config: TransferConfig, work: Workspace, source: str) -> list[Row]:
    """Attacks on one network by the ways of ATTACKS, given to all networks."""
    nets = _nets(config, work)
    classes = len(_data(config, work).classes)
    count = config.scaled(4, 300, 1000)
    chosen = _correct_by_all(work, nets, _data(config, work).test, count, classes)
    images, labels = chosen.images, chosen.labels
    attack = partial(
        iterated_attack,
        [nets[source]],
        images,
        labels,
        eps=config.eps,
        seed=work.seed_of("attack", source),
    )

    moved = {
        "fgsm": fgsm(nets[source], images, labels, eps=config.eps).images,
        **{kind: attack(kind=kind) for kind in ("iterated", "momentum", "diverse", "both")},
    }
    rows = [
        _row(way, source, target, predict(nets[target], pictures) != labels)
        for way, pictures in moved.items()
        for target in nets
    ]

    # Towards a chosen class: a hit is that very class.
    aimed = attack(kind="momentum", targets=chosen.targets)
    rows += [
        _row("targeted", source, target, predict(nets[target], aimed) == chosen.targets)
        for target in nets
    ]
    return rows


def _row(attack: str, source: str, target: str, fooled: Tensor) -> Row:
    bits = "".join(str(int(hit)) for hit in fooled)
    return {"attack": attack, "source": source, "target": target, "fooled": bits}


def _other_rows(config: TransferConfig, work: Workspace) -> list[Row]:
    """Random signs as large as the attacks, and attacks on all networks but the target."""
    nets = _nets(config, work)
    classes = len(_data(config, work).classes)
    count = config.scaled(4, 300, 1000)
    chosen = _correct_by_all(work, nets, _data(config, work).test, count, classes)
    images, labels = chosen.images, chosen.labels
    draws = torch.rand(images.shape, generator=work.generator("noise"))
    noisy = (images + config.eps * torch.where(draws < 0.5, -1.0, 1.0)).clamp(0, 1)
    rows = []
    for target in nets:
        rows.append(_row("noise", "", target, predict(nets[target], noisy) != labels))
        others = [net for name, net in nets.items() if name != target]
        moved = iterated_attack(
            others,
            images,
            labels,
            eps=config.eps,
            kind="both",
            seed=work.seed_of("ensemble", target),
        )
        rows.append(_row("ensemble", "others", target, predict(nets[target], moved) != labels))
    return rows


def _half_net(config: TransferConfig, work: Workspace, name: str) -> nn.Module:
    data = _data(config, work)
    widths, half = HALVES[name]
    values = data.channels * data.image_size**2
    return work.net(
        name.replace(", ", "-").replace(" ", ""),
        lambda: perceptron(values, widths, len(data.classes), nn.Sigmoid),
        lambda net: fit_classifier(
            net,
            data.halves()[half],
            epochs=config.scaled(4, 30, 40),
            seed=work.seed_of("fit", name),
            weight_decay=1e-3,
        ),
    )


def _half_rows(config: TransferConfig, work: Workspace, source: str) -> list[Row]:
    """The paper's experiment: L-BFGS on one network, as found and amplified, given to the
    others."""
    data, net = _data(config, work), _half_net(config, work, source)
    nets = {name: _half_net(config, work, name) for name in HALVES}
    classes = len(data.classes)
    count = config.scaled(3, 60, 500)
    chosen = _correct_by_all(work, nets, data.test, count, classes)
    near = [
        box_lbfgs(net, image, int(target), searches=config.scaled(3, 8, 12))
        for image, target in zip(chosen.images, chosen.targets, strict=True)
    ]
    hit = [k for k, found in enumerate(near) if found is not None]
    if not hit:
        return [{"source": source, "found": 0, "n": len(near)}]

    clean, labels = chosen.images[hit], chosen.labels[hit]
    moved = torch.stack([found for found in near if found is not None])
    change = moved - clean
    size = change.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=work.generator("half-noise", source))
    ways = {
        "found": moved,
        "amplified": clean + AMPLIFIED * change / size.clamp_min(1e-9),
        "noise": clean + AMPLIFIED * noise,
    }
    rows: list[Row] = [
        {"source": source, "found": len(hit), "n": len(near), "rms": float(size.mean())}
    ]
    return rows + [
        _row(way, source, target, predict(nets[target], pictures) != labels)
        for way, pictures in ways.items()
        for target in nets
    ]


def _sign_rows(config: TransferConfig, work: Workspace) -> list[Row]:
    """Networks trained here on traffic signs and the packaged model, which was trained elsewhere,
    attacked with momentum and given to each other."""
    data = read_once(
        work,
        config.sign_data or "",
        train=config.scaled(2000, 6000, None),
        test=config.scaled(40, 600, 5000),
        seed=work.seed_of("signs"),
        image_size=32,
        name="signs",
    )
    packaged = load_undefended_model("signs")
    match = match_classes(data.classes, packaged.card.classes, model="signs", known="GTSRB")
    order = torch.tensor([-1 if number is None else number for number in match.numbers])
    nets: dict[str, nn.Module] = {
        kind: _net(config, work, kind, data, "signs") for kind in ("small CNN", "ResNet")
    }
    nets["model signs"] = _Reordered(packaged, order)
    chosen = _correct_by_all(work, nets, data.test, config.scaled(3, 150, 1000), len(data.classes))
    rows: list[Row] = []
    for source in nets:
        moved = iterated_attack(
            [nets[source]],
            chosen.images,
            chosen.labels,
            eps=SIGNS_EPS,
            kind="both",
            seed=work.seed_of("signs", source),
        )
        rows += [
            _row("both", source, target, predict(nets[target], moved) != chosen.labels)
            for target in nets
        ]
    return rows


class _Reordered(nn.Module):
    """A model whose logits are put in the order of another set's classes."""

    def __init__(self, model: nn.Module, order: Tensor) -> None:
        super().__init__()
        self.model, self.order = model, order

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, classes of the data) of ``images``."""
        logits: Tensor = self.model(images)[:, self.order]
        return logits


def transfer_parts(config: TransferConfig) -> list[Part]:
    """Return the parts of the study; traffic signs only where their data are named."""
    parts = [
        *(
            Part(f"net {kind}", f"training {kind}", partial(_accuracy_rows, config, kind=kind))
            for kind in ARCHITECTURES
        ),
        *(
            Part(f"from {kind}", f"attacking {kind}", partial(_source_rows, config, source=kind))
            for kind in ARCHITECTURES
        ),
        Part("others", "attacking all but one", partial(_other_rows, config)),
        *(
            Part(f"half {name}", f"L-BFGS on {name}", partial(_half_rows, config, source=name))
            for name in HALVES
        ),
    ]
    if config.sign_data:
        parts.append(Part("signs", "attacking traffic sign nets", partial(_sign_rows, config)))
    return parts


def transfer_page(config: TransferConfig, rows: PartRows) -> StudyPage:
    """Return the page of the study.

    Args:
        config: Configuration of the study.
        rows: Rows by part.
    """
    between = [row for kind in ARCHITECTURES for row in rows[f"from {kind}"]] + list(rows["others"])
    halves = {name: rows[f"half {name}"] for name in HALVES}
    sections = PageSections()
    sections.add("Made for one network, given to another", _matrix_blocks(config, between))
    sections.add("What makes examples transfer", _way_blocks(config, between))
    sections.add("Networks that share no training image", _half_blocks(halves))
    if "signs" in rows:
        sections.add("A model trained elsewhere", _sign_blocks(rows["signs"]))
    sections.add("The networks", [_net_table(rows)])
    return StudyPage(
        answer=_answer(between),
        sections=tuple(sections.sections),
        comparisons=_comparisons(between, halves),
        limits=_limits(config),
        terms=TERMS,
    )


def _answer(rows: Sequence[Row]) -> str:
    own = _own(rows, "iterated")
    return (
        f"Iterated steps that fool the network they are made for on {own.of('image')} "
        f"fool another network on {_between(rows, 'iterated').of('image')}, with momentum and "
        f"diverse inputs on {_between(rows, 'both').of('image')}; random signs of the same size "
        f"fool it on {_between(rows, 'noise').of('image')}."
    )


def pooled_rate(rows: Sequence[Row]) -> RateInterval:
    """Return the share of fooled (network, image) pairs, with images as the trials of the interval.

    Args:
        rows: Rows of one attack whose ``fooled`` has one character an image, all in one order.
    """
    outcomes = [bit == "1" for row in rows for bit in row["fooled"]]
    clusters = [k for row in rows for k in range(len(row["fooled"]))]
    return clustered_interval(outcomes, clusters)


def _between(rows: Sequence[Row], attack: str) -> RateInterval:
    """Rate on networks other than the source."""
    own = [r for r in rows if r["attack"] == attack and r["source"] != r["target"]]
    return pooled_rate(own)


def _own(rows: Sequence[Row], attack: str) -> RateInterval:
    """Rate on the source itself."""
    return pooled_rate([r for r in rows if r["attack"] == attack and r["source"] == r["target"]])


def _rate(row: Row) -> RateInterval:
    return wilson_interval(row["fooled"].count("1"), len(row["fooled"]))


def _matrix(
    name: str, caption: str, rows: Sequence[Row], names: Sequence[str], attack: str
) -> Matrix:
    """Error of each network on the examples of each."""
    rates = {(r["source"], r["target"]): _rate(r) for r in rows if r["attack"] == attack}
    cells = [[rates.get((source, target)) for target in names] for source in names]
    return Matrix(
        name,
        caption,
        tuple(names),
        tuple(names),
        tuple(tuple(None if c is None else c.rate for c in line) for line in cells),
        "made for",
        "given to",
        notes=tuple(
            tuple("" if c is None else cell_ends(c.low, c.high) for c in line) for line in cells
        ),
    )


def _matrix_blocks(config: TransferConfig, rows: Sequence[Row]) -> list[Block | str]:
    n = len(rows[0]["fooled"])
    return [
        "Each network is attacked by its own gradient. The resulting images are then given to the "
        "other networks, whose weights the attack never saw. On the diagonal stands the network "
        "that was attacked.",
        _matrix(
            "matrix",
            f"Errors of the network of each column on {n} images attacked on the network of each "
            f"row: {STEPS} steps within l_inf {config.eps:g}. Second line: 95 % interval. All "
            "networks classify the clean images correctly.",
            rows,
            ARCHITECTURES,
            "iterated",
        ),
        _matrix(
            "matrix-both",
            "The same with momentum and diverse inputs.",
            rows,
            ARCHITECTURES,
            "both",
        ),
    ]


def _way_blocks(config: TransferConfig, rows: Sequence[Row]) -> list[Block | str]:
    ways = list(ATTACKS)
    own = [way for way in ways if way not in ("noise", "ensemble")]
    to_others = [(k, _between(rows, way)) for k, way in enumerate(ways)]
    to_itself = [(ways.index(way), _own(rows, way)) for way in own]
    targeted, aimed = _between(rows, "targeted"), _own(rows, "targeted")
    return [
        "An attack that takes many steps fits one network closely, and so transfers less than it "
        "could. Momentum lets each step follow a running sum of gradients; diverse inputs take "
        "each gradient at a randomly shrunken and shifted copy; an ensemble averages the gradients "
        "of several networks.",
        Formula(
            r"g_{k+1} = \mu \, g_k + \frac{\nabla_x L(x_k, y)}{\|\nabla_x L(x_k, y)\|_1} \qquad "
            r"x_{k+1} = x_k + \alpha \, \mathrm{sign}(g_{k+1})",
            "The new direction is mu times the old one plus the gradient divided by its l 1 norm; "
            "the image moves by alpha along its sign.",
        ),
        Chart(
            "ways",
            f"Errors by way of attack within l_inf {config.eps:g}, over all pairs of networks, "
            "with 95 % intervals over images: "
            + "; ".join(f"{k} {ATTACKS[way]}" for k, way in enumerate(ways))
            + ".",
            Axis("way of attack", low=-0.5, high=len(ways) - 0.5, ticks=tuple(range(len(ways)))),
            Axis("errors", percent=True, low=0.0, high=1.0),
            (
                Series("other networks", _points(to_others, ways), "bars"),
                Series("the network attacked", _points(to_itself, ways), "points"),
            ),
        ),
        f"Towards a chosen class transfer is harder: with momentum {aimed} of the images become "
        f"that class for the network attacked, and {targeted} for another one.",
    ]


def _points(rates: Sequence[tuple[int, RateInterval]], ways: Sequence[str]) -> tuple[Point, ...]:
    return tuple(
        Point(k, rate.rate, rate.low, rate.high, f"{ATTACKS[ways[k]]}: {rate}") for k, rate in rates
    )


def _half_blocks(halves: Mapping[str, Sequence[Row]]) -> list[Block | str]:
    found = [r for own in halves.values() for r in own if "n" in r]
    rows = [r for own in halves.values() for r in own if "fooled" in r]
    count = sum(r["found"] for r in found)
    tried = sum(r["n"] for r in found)
    blocks: list[Block | str] = [
        "The training images are split into two halves. Two networks of different widths learn "
        "from the first half, a third one from the second. L-BFGS looks for the nearest image of a "
        f"class drawn at random, which it found for {count} of {tried} images and networks.",
    ]
    if rows:
        blocks += [
            _matrix("halves", "Errors on the images as found.", rows, tuple(HALVES), "found"),
            _matrix(
                "halves-amplified",
                f"Errors after each change is scaled to a root mean square of {AMPLIFIED}, as in "
                "the paper.",
                rows,
                tuple(HALVES),
                "amplified",
            ),
            "Gaussian noise of that size causes "
            f"{pooled_rate([r for r in rows if r['attack'] == 'noise'])} errors.",
        ]
    return blocks


def _sign_blocks(rows: Sequence[Row]) -> list[Block | str]:
    names = tuple(dict.fromkeys(r["source"] for r in rows))
    n = len(rows[0]["fooled"])
    return [
        "Two networks trained here on photographed traffic signs, beside the packaged model "
        "`signs`, whose architecture, input size and training differ: it saw photographs of such "
        "signs, but also drawn ones and changed light.",
        _matrix(
            "signs",
            f"Errors on {n} photographs of signs, attacked with momentum and diverse inputs within "
            "l_inf 8/255.",
            rows,
            names,
            "both",
        ),
    ]


def _net_table(rows: PartRows) -> Table:
    lines = []
    for kind in ARCHITECTURES:
        own = rows[f"net {kind}"][0]
        lines.append((kind, str(wilson_interval(own["correct"], own["n"]))))
    return Table(
        "networks",
        "Accuracy of the networks on clean test images.",
        ("network", "accuracy"),
        tuple(lines),
        numeric=(1,),
    )


def _comparisons(
    rows: Sequence[Row], halves: Mapping[str, Sequence[Row]]
) -> tuple[Comparison, ...]:
    found = [
        Comparison(
            "Errors of another network under iterated steps, without and with momentum",
            f"{PAPERS[1].cited}, table 1",
            "22.8 % and 48.8 % (Inception v3 to v4, ImageNet, l_inf 16/255)",
            f"{_between(rows, 'iterated')} and {_between(rows, 'momentum')}",
            "Small networks on small images, and another radius: sizes cannot be compared, the "
            "direction can.",
        )
    ]
    for (source, target), published in PUBLISHED_HALVES.items():
        for way, value in zip(("found", "amplified"), published, strict=True):
            own = [
                r for r in halves[source] if r.get("attack") == way and r.get("target") == target
            ]
            size = "" if way == "found" else f", amplified to a change of {AMPLIFIED}"
            found.append(
                Comparison(
                    f"Errors of {target} on examples made for {source}{size}",
                    f"{PAPERS[0].cited}, table 4",
                    f"{format_percent(value)} (MNIST, halves of 30,000)",
                    str(_rate(own[0])) if own else "no example was found",
                    "The paper does not state how images of all attempts were kept; here only "
                    "images that all three networks classify correctly are attacked.",
                )
            )
    return tuple(found)


def _limits(config: TransferConfig) -> tuple[str, ...]:
    limits = [
        "One training of each network; another seed gives other rates.",
        "All networks of the matrix learned from the same images; the halves show what remains "
        "without that.",
    ]
    if not config.sign_data:
        limits.append("No model trained elsewhere was attacked: name traffic signs by --sign-data.")
    return tuple(limits)


TERMS = (
    ("transfer", "An adversarial example made for one network fools another one, too."),
    ("l_inf 0.2", "No pixel changes by more than 0.2, where black is 0 and white is 1."),
    ("ResNet", "Network of convolutions, each block of which adds a correction to its input."),
    ("transformer", "Network that cuts the image into patches and lets each look at all others."),
    ("perceptron", "Layers of weighted sums of all inputs, each followed by a bend (ReLU)."),
    ("momentum", "A running sum of past gradients that smooths the direction of the steps."),
    ("L-BFGS", "A method of minimization that estimates curvature from the last few gradients."),
)

STUDY = Study(
    name="transfer",
    title="Examples made for one network fool another",
    question="How often does an adversarial example of one network fool a network it never saw?",
    config=TransferConfig,
    papers=PAPERS,
    parts=transfer_parts,
    page=transfer_page,
)
