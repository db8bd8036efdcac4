"""The study `physadv study boundary`: where a network changes its mind around an image.

After the picture of Madry et al. (2017): a boundary that separates points need not separate the
boxes of allowed changes around them. It is drawn in two dimensions, where all can be seen, and in
planes through images, for a standard, an adversarially trained and a smoothed network.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks.gradient import pgd
from physadv.certification.bounds.verify import prepare_graph, verify_bounds
from physadv.core.image_io import Array
from physadv.core.rows import Row
from physadv.core.wording import count_noun
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.evaluation.metrics.means import mean_interval
from physadv.models.architectures.cnn import SmallCNN
from physadv.studies.attack_studies_config import BoundaryConfig
from physadv.studies.page import (
    Axis,
    Block,
    Chart,
    Comparison,
    Formula,
    PageSections,
    Paper,
    Plane,
    Point,
    Series,
    Shape,
    StudyPage,
)
from physadv.studies.plane_pictures import (
    LOSS_COLORS,
    ImagePlane,
    loss_steps,
    paint,
    region_colors,
)
from physadv.studies.plane_regions import REGION_COLORS as PLANE_COLORS
from physadv.studies.plane_regions import (
    classes_on_grid,
    fit_points,
    painted_regions,
    plane_network,
)
from physadv.studies.small_classifiers import (
    StudyData,
    accuracy,
    fit_classifier,
    predict,
    read_once,
)
from physadv.studies.study import Part, PartRows, Study, Workspace
from physadv.training.methods.adversarial import PgdTraining
from physadv.training.methods.base import StandardTraining, TrainingMethod
from physadv.training.methods.noise_augmentation import GaussianAugmentation

PAPERS = (
    Paper(
        "Madry et al.",
        2017,
        "Towards deep learning models resistant to adversarial attacks",
        "arXiv:1706.06083",
    ),
    Paper(
        "Cohen et al.",
        2019,
        "Certified adversarial robustness via randomized smoothing",
        "arXiv:1902.02918",
    ),
)
BOX = 0.07
"""Half the side of the boxes in two dimensions."""
POINTS = 14
"""Number of points in two dimensions."""
PIXELS = 720
"""Height and width in px of the picture in two dimensions."""
SIGMA = 0.25
"""Standard deviation of the noise of the smoothed network."""
NETS = ("standard", "adversarially trained", "smoothed")
DIRECTIONS = {"adversarial": "adversarial direction", "random": "random direction"}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
"""Steps along a direction, in radii of the threat."""
LOSS_EDGES = (0.01, 0.1, 0.5, 1.0, 3.0)
"""Losses at which the color of a surface changes."""
PUBLISHED_RESTARTS = "93.2 % after one run of 40 steps, 90.4 % after 20 runs (eps 0.3)"
"""Accuracy of the paper's adversarially trained MNIST network (table 1)."""


class _Chosen(NamedTuple):
    """Test images that all networks classify correctly."""

    images: Tensor
    labels: Tensor


def separated_points(count: int, distance: float, generator: torch.Generator) -> Tensor:
    """Draw points of the unit square whose l_inf distances are at least ``distance``.

    Args:
        count: Number of points; the square must have room for about twice as many.
        distance: Least distance between any two, and twice that to the border.
        generator: Source of the draws.

    Returns:
        The points (n, 1, 1, 2), as images of two values.
    """
    points: list[Tensor] = []
    failures = 0
    while len(points) < count:
        point = distance / 2 + (1 - distance) * torch.rand(2, generator=generator)
        if all(float((point - other).abs().max()) >= distance for other in points):
            points.append(point)
            continue

        # Points drawn one by one can leave no room for the rest.
        failures += 1
        if failures % 300 == 0:
            points.clear()
    return torch.stack(points).view(count, 1, 1, 2)


def _toy_points(work: Workspace) -> tuple[Tensor, Tensor]:
    """Points and their classes, half of each."""
    draws = work.generator("points")
    return separated_points(POINTS, 2.3 * BOX, draws), torch.arange(POINTS) % 2


def _toy_net(config: BoundaryConfig, work: Workspace, name: str) -> nn.Module:
    method: TrainingMethod = StandardTraining()
    if name != "standard":
        method = PgdTraining(1.05 * BOX, steps=8)
    return work.net(
        f"plane-{name.split()[0]}",
        lambda: plane_network((100, 100), 2),
        lambda net: fit_points(
            net,
            *_toy_points(work),
            steps=config.scaled(60, 1000 if name == "standard" else 3000, 5000),
            seed=work.seed_of("plane", name),
            method=method,
        ),
    )


def _toy_rows(config: BoundaryConfig, work: Workspace, name: str) -> list[Row]:
    """Points, boxes and boundary in two dimensions."""
    net = _toy_net(config, work, name)
    points, labels = _toy_points(work)
    offsets = torch.linspace(-BOX, BOX, 61)
    steps = torch.cartesian_prod(offsets, offsets).view(-1, 1, 1, 2)
    proven = verify_bounds(
        prepare_graph(net, (1, 1, 2)), points, labels, eps=BOX, method="crown", limits=None
    ).certified

    rows: list[Row] = []
    for point, label, certified in zip(points, labels, proven, strict=True):
        wrong = (predict(net, point + steps) != label).nonzero()[:, 0]
        nearest = steps[wrong].abs().amax((1, 2, 3)).argmin() if len(wrong) else None
        error = None if nearest is None else (point + steps[wrong][nearest]).flatten().tolist()
        rows.append(
            {
                "x": float(point[0, 0, 0]),
                "y": float(point[0, 0, 1]),
                "label": int(label),
                "correct": int(net(point[None]).argmax()) == int(label),
                "error": error,
                "proven": bool(certified),
            }
        )
    picture = painted_regions(classes_on_grid(net, 0.0, 1.0, PIXELS))
    for row in rows:
        _draw_box(picture, row["x"], row["y"])
    return [{"file": work.save_picture(f"plane-{name.split()[0]}", picture)}, *rows]


def _draw_box(picture: Array, x: float, y: float) -> None:
    """Draw the border of the box around a point, in place."""
    side = len(picture) - 1
    left, right = (round((x + s * BOX) * side) for s in (-1, 1))
    top, bottom = (round((1 - y + s * BOX) * side) for s in (-1, 1))
    ends = [max(0, min(side, v)) for v in (left, right, top, bottom)]
    gray = 90
    picture[ends[2] : ends[3] + 1, [ends[0], ends[1]]] = gray
    picture[[ends[2], ends[3]], ends[0] : ends[1] + 1] = gray


def _data(config: BoundaryConfig, work: Workspace) -> StudyData:
    return read_once(
        work,
        config.data,
        train=config.scaled(400, 8000, 60_000),
        test=config.scaled(60, 1000, 10_000),
        seed=work.seed_of("data"),
    )


def _net(config: BoundaryConfig, work: Workspace, name: str) -> nn.Module:
    """One of NETS; the smoothed one is returned without its noise."""
    data = _data(config, work)
    methods: dict[str, TrainingMethod] = {
        "standard": StandardTraining(),
        "adversarially trained": PgdTraining(config.eps, steps=config.scaled(2, 7, 10)),
        "smoothed": GaussianAugmentation(SIGMA),
    }

    def build() -> nn.Module:
        widths = (16, 32, 100)
        return SmallCNN(data.channels, data.image_size, len(data.classes), widths, norm=False)

    def fit(net: nn.Module) -> None:
        # A network that starts from random weights may not learn against a strong adversary.
        if name == "adversarially trained":
            net.load_state_dict(_net(config, work, "standard").state_dict())
        fit_classifier(
            net,
            data.train,
            epochs=config.scaled(1, 5, 20),
            seed=work.seed_of("fit", name),
            method=methods[name],
        )

    return work.net(f"net-{name.split()[0]}", build, fit)


class SmoothedVotes(nn.Module):
    """Shares of votes of a network under Gaussian noise, the same draws for all images.

    Args:
        net: Network: images to logits.
        noise: Noise (n, c, h, w).
    """

    def __init__(self, net: nn.Module, noise: Tensor) -> None:
        super().__init__()
        self.net, self.noise = net, noise

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the shares of votes (b, classes) of ``images`` (b, c, h, w)."""
        shares = []
        for part in torch.split(images, 20):
            noisy = (part[:, None] + self.noise).flatten(0, 1)
            logits = self.net(noisy)
            votes = F.one_hot(logits.argmax(1), logits.shape[1]).float()
            shares.append(votes.view(len(part), len(self.noise), -1).mean(1))
        return torch.cat(shares)


def _deployed(config: BoundaryConfig, work: Workspace, name: str, draws: int) -> nn.Module:
    """A network as it is used: the smoothed one by the majority of its votes."""
    net = _net(config, work, name)
    if name != "smoothed":
        return net
    data = _data(config, work)
    shape = (draws, data.channels, data.image_size, data.image_size)
    return SmoothedVotes(net, SIGMA * torch.randn(shape, generator=work.generator("votes")))


def _net_rows(config: BoundaryConfig, work: Workspace, name: str) -> list[Row]:
    """Train one network and measure it on clean and attacked images."""
    images, labels = _data(config, work).test.floats(slice(0, config.scaled(20, 300, 1000)))
    deployed = _deployed(config, work, name, config.scaled(5, 50, 500))
    rate = accuracy(deployed, images, labels)
    row: Row = {"net": name, "clean": round(rate.rate * rate.n), "n": rate.n}
    if name == "smoothed":
        return [row]
    net = _net(config, work, name)
    for runs in (1, 20):
        result = pgd(
            net,
            images,
            labels,
            eps=config.eps,
            steps=config.scaled(3, 40, 40),
            restarts=config.scaled(min(runs, 2), runs, runs),
            loss="ce",
            seed=work.seed_of("restarts"),
        )
        row[f"robust_{runs}"] = int((~result.success).sum())
    return [row]


def _chosen(config: BoundaryConfig, work: Workspace, count: int) -> _Chosen:
    """The first test images that all networks, as they are used, classify correctly."""
    images, labels = _data(config, work).test.floats(slice(0, 2 * count + 20))
    draws = config.scaled(5, 50, 500)
    right = torch.stack(
        [predict(_deployed(config, work, name, draws), images) == labels for name in NETS]
    ).all(0)
    rows = right.nonzero()[:count, 0] if bool(right.any()) else torch.tensor([0])
    return _Chosen(images[rows], labels[rows])


def _directions(
    config: BoundaryConfig, work: Workspace, net: nn.Module, chosen: _Chosen
) -> dict[str, Tensor]:
    """The adversarial direction of each image, found by PGD at one radius, and a random direction
    of the same length in each value's sign; both of length 1 in l_inf."""
    moved = pgd(
        net,
        chosen.images,
        chosen.labels,
        eps=config.eps,
        steps=config.scaled(3, 20, 40),
        random_start=False,
        drop_broken=False,
        keep="loss",
    ).images
    signs = torch.rand(chosen.images.shape, generator=work.generator("signs"))
    return {
        "adversarial": (moved - chosen.images) / config.eps,
        "random": torch.where(signs < 0.5, -1.0, 1.0),
    }


def _plane_rows(config: BoundaryConfig, work: Workspace, name: str) -> list[Row]:
    """Decision regions and loss in a plane through the first image."""
    chosen = _chosen(config, work, config.scaled(2, 100, 500))
    image = _Chosen(chosen.images[:1], chosen.labels[:1])
    net = _net(config, work, name)
    ways = _directions(config, work, net, image)
    side = config.scaled(9, 81 if name != "smoothed" else 61, 161)
    plane = ImagePlane(
        image.images[0], ways["adversarial"][0], ways["random"][0], 3 * config.eps, side
    )
    names = _data(config, work).classes
    deployed = _deployed(config, work, name, config.scaled(3, 50, 500))
    classes = plane.evaluate(partial(predict, deployed))
    regions = region_colors(classes, names)
    stem, enlarge = name.split()[0], max(1, 486 // side)
    picture = paint(classes, [(k, color) for k, _, color in regions], enlarge)
    row: Row = {
        "regions": work.save_picture(f"regions-{stem}", picture),
        "legend": [[title, color] for _, title, color in regions],
        "ball": plane.ball(config.eps),
        "class": names[int(image.labels)],
    }
    if name != "smoothed":
        losses = plane.evaluate(partial(_losses, net, int(image.labels)))
        steps = loss_steps(losses, LOSS_EDGES)
        picture = paint(steps, tuple(enumerate(LOSS_COLORS)), enlarge)
        row["losses"] = work.save_picture(f"losses-{stem}", picture)
    return [row]


@torch.no_grad()
def _losses(net: nn.Module, label: int, images: Tensor) -> Tensor:
    return F.cross_entropy(net(images), torch.full((len(images),), label), reduction="none")


def _along_rows(config: BoundaryConfig, work: Workspace, name: str) -> list[Row]:
    """The share of images that are misclassified after steps along both directions."""
    chosen = _chosen(config, work, config.scaled(2, 100, 500))
    ways = _directions(config, work, _net(config, work, name), chosen)
    deployed = _deployed(config, work, name, config.scaled(3, 50, 500))
    rows = []
    for way, direction in ways.items():
        for share in SHARES:
            points = chosen.images + share * config.eps * direction
            wrong = int((predict(deployed, points) != chosen.labels).sum())
            rows.append({"way": way, "share": share, "wrong": wrong, "n": len(chosen.labels)})
    return rows


def _restart_rows(config: BoundaryConfig, work: Workspace) -> list[Row]:
    """The loss at the end of PGD from many random starts, for a few images."""
    chosen = _chosen(config, work, config.scaled(2, 100, 500))
    count = config.scaled(1, 5, 5)
    starts = config.scaled(3, 40, 200)
    rows = []
    for name in NETS[:2]:
        net = _net(config, work, name)
        for number in range(min(count, len(chosen.labels))):
            images = chosen.images[number : number + 1].repeat(starts, 1, 1, 1)
            labels = chosen.labels[number].repeat(starts)
            moved = pgd(
                net,
                images,
                labels,
                eps=config.eps,
                steps=config.scaled(3, 40, 100),
                drop_broken=False,
                keep="loss",
                seed=work.seed_of("starts", number),
            ).images
            losses = _losses(net, int(chosen.labels[number]), moved)
            rows.append({"net": name, "image": number, "losses": losses.tolist()})
    return rows


def boundary_parts(config: BoundaryConfig) -> list[Part]:
    """Return the parts of the study."""
    return [
        *(
            Part(f"boxes {name}", f"two dimensions, {name}", partial(_toy_rows, config, name=name))
            for name in NETS[:2]
        ),
        *(
            Part(f"net {name}", f"training: {name}", partial(_net_rows, config, name=name))
            for name in NETS
        ),
        *(
            Part(f"plane {name}", f"drawing: {name}", partial(_plane_rows, config, name=name))
            for name in NETS
        ),
        *(
            Part(f"along {name}", f"walking: {name}", partial(_along_rows, config, name=name))
            for name in NETS
        ),
        Part("restarts", "starting at random", partial(_restart_rows, config)),
    ]


def boundary_page(config: BoundaryConfig, rows: PartRows) -> StudyPage:
    """Return the page of the study.

    Args:
        config: Configuration of the study.
        rows: Rows by part.
    """
    sections = PageSections()
    sections.add("Points, boxes, boundaries", _toy_blocks(rows))
    sections.add("Decision regions around an image", _region_blocks(config, rows))
    sections.add("One step further in either direction", _along_blocks(config, rows))
    sections.add("The loss surface", _loss_blocks(config, rows))
    return StudyPage(
        answer=_answer(config, rows),
        sections=tuple(sections.sections),
        comparisons=_comparisons(config, rows),
        limits=LIMITS,
        terms=TERMS,
    )


def _boxes(rows: PartRows, name: str) -> list[Row]:
    return list(rows[f"boxes {name}"][1:])


def _crossed(rows: PartRows, name: str) -> int:
    return sum(row["error"] is not None for row in _boxes(rows, name))


def _wrong(rows: PartRows, name: str, way: str, share: float) -> RateInterval:
    (row,) = [r for r in rows[f"along {name}"] if r["way"] == way and r["share"] == share]
    return wilson_interval(row["wrong"], row["n"])


def _answer(config: BoundaryConfig, rows: PartRows) -> str:
    standard, robust = NETS[:2]
    return (
        f"In two dimensions the standard boundary crosses {_crossed(rows, standard)} of {POINTS} "
        f"boxes and the adversarially trained one {_crossed(rows, robust)}; on images a step of "
        f"l_inf {config.eps:g} in the adversarial direction makes the standard network wrong on "
        f"{_wrong(rows, standard, 'adversarial', 1.0).of('image')} and the adversarially trained "
        f"one on {_wrong(rows, robust, 'adversarial', 1.0).of('image')}; a step in a random "
        f"direction makes the standard one wrong on "
        f"{_wrong(rows, standard, 'random', 1.0).of('image')}."
    )


def _toy_blocks(rows: PartRows) -> list[Block | str]:
    blocks: list[Block | str] = [
        f"{POINTS} points of two classes in a square. Around each point stands the box of all "
        "points that differ from it by no more than eps in either coordinate: the l_inf ball. A "
        "network that classifies all points may still cut through boxes, and every piece cut "
        "off is full of adversarial examples. Adversarial training minimizes the loss at the worst "
        "point of each box.",
        Formula(
            r"\min_\theta \; \frac{1}{n} \sum_{i=1}^{n} \; \max_{\|\delta\|_\infty \le \epsilon} "
            r"L(\theta, x_i + \delta, y_i)",
            "Minimize over the weights the mean over the points of the largest loss at a change "
            "delta of at most epsilon in the l infinity norm.",
        ),
    ]
    for name in NETS[:2]:
        own = _boxes(rows, name)
        proven = sum(row["proven"] for row in own)
        right = sum(row["correct"] for row in own)
        blocks.append(
            Plane(
                f"boxes-{name.split()[0]}",
                f"Decision regions of the {name} network: {right} of {POINTS} points right, "
                f"{_crossed(rows, name)} of {POINTS} boxes crossed on a grid of 61 x 61 points "
                f"each, {proven} boxes proven whole by CROWN.",
                Axis("first coordinate", low=0.0, high=1.0),
                Axis("second coordinate", low=0.0, high=1.0),
                _toy_shapes(own),
                background=rows[f"boxes {name}"][0]["file"],
                regions=(("class A", PLANE_COLORS[0]), ("class B", PLANE_COLORS[1])),
            )
        )
    return blocks


def _toy_shapes(rows: Sequence[Row]) -> tuple[Shape, ...]:
    shapes = [
        Shape(
            f"points of class {'AB'[label]}",
            "points",
            tuple((r["x"], r["y"]) for r in rows if r["label"] == label),
        )
        for label in (0, 1)
    ]
    errors = tuple((r["error"][0], r["error"][1]) for r in rows if r["error"] is not None)
    if errors:
        shapes.append(Shape("nearest error in a box", "points", errors))
    return tuple(shapes)


def _image_plane(
    config: BoundaryConfig,
    row: Row,
    name: str,
    caption: str,
    file: str,
    regions: tuple[tuple[str, str], ...],
) -> Plane:
    reach = 3 * config.eps
    ball = tuple((float(a), float(b)) for a, b in row["ball"])
    return Plane(
        name,
        caption,
        Axis("step in the adversarial direction", low=-reach, high=reach),
        Axis("step in a random direction", low=-reach, high=reach),
        (
            Shape("the image", "points", ((0.0, 0.0),)),
            Shape(f"ball of l_inf {config.eps:g}", "polygon", ball),
        ),
        background=row[file],
        regions=regions,
    )


def _region_blocks(config: BoundaryConfig, rows: PartRows) -> list[Block | str]:
    blocks: list[Block | str] = [
        "A plane through one test image: to the right the direction that PGD finds for the "
        "network, upwards random signs. Steps are in l_inf: one of 0.1 in either direction changes "
        "no pixel by more than a tenth of the way from black to white. Two steps add up where they "
        "change a pixel alike, so that the box of the threat, cut by this plane, is a diamond. "
        "Colors tell the class that the network sees. Points outside [0, 1] are no pictures, but "
        "the network answers all the same.",
    ]
    for name in NETS:
        (row,) = rows[f"plane {name}"]
        words = {
            "smoothed": f", the majority of its votes under noise of standard deviation {SIGMA}"
        }.get(name, "")
        legend = tuple((title, color) for title, color in row["legend"])
        blocks.append(
            _image_plane(
                config,
                row,
                f"regions-{name.split()[0]}",
                f"Decision regions of the {name} network{words}, around an image of class "
                f"{row['class']}.",
                "regions",
                legend,
            )
        )
    return blocks


def _along_blocks(config: BoundaryConfig, rows: PartRows) -> list[Block | str]:
    series = []
    for name in NETS:
        for way, label in DIRECTIONS.items():
            points = []
            for share in SHARES:
                rate = _wrong(rows, name, way, share)
                points.append(Point(share * config.eps, rate.rate, rate.low, rate.high))
            series.append(Series(f"{name}, {label}", tuple(points)))
    (first, *_) = rows[f"along {NETS[0]}"]
    return [
        f"The same walk for {count_noun(first['n'], 'image')} that all three networks classify "
        "correctly. The adversarial direction of each image is found once, within the radius of "
        "the threat, and then followed further; the smoothed network's is that of the network "
        "under the noise.",
        Chart(
            "along",
            "Share of images misclassified after a step, with 95 % intervals.",
            Axis("length of the step in l_inf"),
            Axis("images wrong", percent=True, low=0.0, high=1.0),
            tuple(series),
            verticals=((config.eps, "threat"),),
        ),
    ]


def _loss_blocks(config: BoundaryConfig, rows: PartRows) -> list[Block | str]:
    names = [f"below {LOSS_EDGES[0]:g}", *(f"from {edge:g}" for edge in LOSS_EDGES)]
    legend = tuple(zip(names, LOSS_COLORS, strict=True))
    blocks: list[Block | str] = [
        "The loss tells how wrong the network is. Attack and training climb and lower this "
        "surface. Madry et al. found that attacks from many random starts end at nearly the same "
        "loss, so that one of them tells what all would."
    ]
    for name in NETS[:2]:
        (row,) = rows[f"plane {name}"]
        blocks.append(
            _image_plane(
                config,
                row,
                f"losses-{name.split()[0]}",
                f"Loss of the {name} network in the same plane.",
                "losses",
                legend,
            )
        )
    series = []
    for name in NETS[:2]:
        points = [
            Point(float(r["image"] + 1), float(value))
            for r in rows["restarts"]
            if r["net"] == name
            for value in r["losses"]
        ]
        series.append(Series(name, tuple(points), "points"))
    (first, *_) = rows["restarts"]
    blocks += [
        Chart(
            "restarts",
            f"Loss at the end of PGD from {len(first['losses'])} random starts, for each of "
            f"{len({r['image'] for r in rows['restarts']})} images.",
            Axis("image", ticks=tuple(sorted({r["image"] + 1.0 for r in rows["restarts"]}))),
            Axis("loss", low=0.0),
            tuple(series),
        ),
        _spread_words(rows["restarts"]),
    ]
    return blocks


def _spread_words(rows: Sequence[Row]) -> str:
    words = []
    for name in NETS[:2]:
        spreads = []
        for row in rows:
            if row["net"] == name:
                losses = torch.tensor(row["losses"])
                spreads.append(float(losses.std() / losses.mean().clamp_min(1e-9)))
        words.append(f"{mean_interval(spreads)} for the {name} network")
    return (
        "Standard deviation of these losses in parts of their mean, averaged over the images: "
        f"{'; '.join(words)}."
    )


def _comparisons(config: BoundaryConfig, rows: PartRows) -> tuple[Comparison, ...]:
    (row,) = rows[f"net {NETS[1]}"]
    one, many = (wilson_interval(row[f"robust_{runs}"], row["n"]) for runs in (1, 20))
    clean = wilson_interval(row["clean"], row["n"])
    cited = f"{PAPERS[0].cited}, table 1"
    return (
        Comparison(
            "Accuracy of the adversarially trained network on clean images",
            cited,
            "98.8 % (MNIST)",
            str(clean),
            "A smaller network, fewer images and epochs, and another radius.",
        ),
        Comparison(
            "Accuracy under PGD from one start, and from 20",
            cited,
            PUBLISHED_RESTARTS,
            f"{one} and {many} (eps {config.eps:g})",
            "Another radius and a smaller network; that more starts change little is the claim.",
        ),
    )


LIMITS = (
    "A plane shows two of hundreds of directions; a region that looks safe in it need not be.",
    "The regions of the smoothed network are of a finite number of votes, the same noise at every "
    "point.",
    "A box that no point of the grid leaves may still be crossed between its points; a box that is "
    "proven whole is not.",
)

TERMS = (
    ("decision boundary", "Where the class that the network sees changes."),
    ("l_inf ball, box", "All images whose pixels differ from the image's by no more than eps."),
    ("PGD", "Projected gradient descent: many small steps up the loss, kept within the box."),
    (
        "adversarial training",
        "Training on the worst points that PGD finds, in place of the images themselves.",
    ),
    (
        "smoothed network",
        "The class that wins the vote when the network sees the image many times "
        "under random noise.",
    ),
    ("CROWN", "A calculation of bounds that hold for a whole box: a proof, not a search."),
)

STUDY = Study(
    name="boundary",
    title="Boundaries and boxes",
    question="Does the boundary between classes cross the boxes of allowed changes?",
    config=BoundaryConfig,
    papers=PAPERS,
    parts=boundary_parts,
    page=boundary_page,
)
