"""Study of the convex outer polytope: what a network can reach, and convex sets that hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import log

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from physadv.attacks.gradient import pgd
from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.linear_forms import DenseForms
from physadv.certification.bounds.polytope import polytope_margins
from physadv.certification.bounds.verify import margin_forms, prepare_graph, verify_bounds
from physadv.core.image_io import Array
from physadv.core.rows import Row
from physadv.models.architectures.cnn import build_network
from physadv.models.architectures.wongkolter import mnist_network
from physadv.models.loading import load_state, read_state
from physadv.studies.certificate_studies_config import PolytopeConfig
from physadv.studies.outer_polytope_page import (
    EPS,
    MNIST_EPS,
    PICTURE_EPS,
    POINT_EPS,
    WONG,
    WONG_SCALING,
    polytope_page,
)
from physadv.studies.plane_regions import (
    POINT_COLORS,
    classes_on_grid,
    painted_regions,
    plane_network,
    rgb,
)
from physadv.studies.polytope_geometry import (
    bound_support,
    box_about,
    directions,
    linear_program_support,
    polygon_area,
    polygon_of,
    random_network,
    reached_outputs,
    reached_pixels,
    widths_along,
)
from physadv.studies.small_classifiers import StudyData, fit_classifier, predict, read_once
from physadv.studies.study import Part, Study, Workspace
from physadv.training.loop import TrainingSchedule, train_model
from physadv.training.methods._random_projections import sketched_lines
from physadv.training.methods.base import StandardTraining, TrainingMethod
from physadv.training.methods.certified import PolytopeTraining

PIXELS, REACHED, REST = 420, "#8fb0cf", "#f4f4f1"
"""Pixels of the pictures, and their colors."""
POINTS, APART = 12, 0.18
"""Points of the training in the plane, and their least distance in l_inf."""
KINDS = ("interval", "polytope", "crown")
"""Bounds of one backward pass, or none; the linear program stands beside them."""


def study_parts(config: PolytopeConfig) -> list[Part]:
    """Return the parts of the study.

    Args:
        config: Its configuration.
    """
    parts = [Part("sets", "reachable sets", partial(_set_rows, config))]
    for depth in config.depths:
        note = f"bounds of {depth} hidden layer{'s' * (depth > 1)}"
        parts.append(Part(f"depth-{depth}", note, partial(_depth_rows, config, depth)))
    parts.append(Part("cost", "cost by width", partial(_cost_rows, config)))
    for name in ("standard", "polytope"):
        run = partial(_point_rows, config, name)
        parts.append(Part(f"points-{name}", f"{name} training in the plane", run))
    for name in ("standard", "polytope", *(("published",) if config.published_weights else ())):
        run = partial(_image_rows, config, name)
        parts.append(Part(f"images-{name}", f"images, {name} network", run))
    return parts


def _set_rows(config: PolytopeConfig, workspace: Workspace) -> Iterator[Row]:
    """Sets of one small network for a box, and close-ups of a wide one for three boxes."""
    small = random_network(plane_network((20, 20), 2), workspace.generator("small"))
    yield _sets("small", small, PICTURE_EPS, config, workspace)
    wide = random_network(plane_network((100,) * 4, 2), workspace.generator("wide"))
    for eps in config.scaled(EPS[:1], EPS, EPS):
        yield _sets(f"wide-{eps:g}", wide, eps, config, workspace)


def _sets(
    name: str, net: nn.Sequential, eps: float, config: PolytopeConfig, workspace: Workspace
) -> Row:
    """Draw what a network reaches, and return the polygons about it."""
    ball = box_about((0.5, 0.5), eps)
    outputs = reached_outputs(net, ball, config.scaled(120, 700, 2000))
    rows = directions(config.scaled(16, 48, 96))
    middle = outputs[len(outputs) // 2]
    largest = {kind: bound_support(net, ball, rows, kind) for kind in KINDS}
    largest["linear"] = linear_program_support(net, ball, rows)
    polygons = {kind: polygon_of(rows, bounds, middle) for kind, bounds in largest.items()}

    low, high = _window(polygons["polytope"])
    seen = reached_pixels(outputs, (low[0], high[0]), (low[1], high[1]), PIXELS)
    picture = np.where(seen[..., None], np.array(rgb(REACHED)), np.array(rgb(REST)))
    workspace.save_picture(f"reached-{name}", picture.astype(np.uint8))
    return {
        "name": name,
        "eps": eps,
        "low": list(low),
        "high": list(high),
        "area": float(seen.mean()) * (high[0] - low[0]) * (high[1] - low[1]),
        "box": [float(value) for value in bound_support(net, ball, directions(4), "interval")],
        "outside": sum(
            int((outputs @ rows.T > bounds + 1e-5 * np.abs(bounds).max()).any(1).sum())
            for bounds in largest.values()
        ),
        "outputs": len(outputs),
        **{f"{kind}_area": polygon_area(corners) for kind, corners in polygons.items()},
        **{
            kind: [[round(x, 6), round(y, 6)] for x, y in polygons[kind]]
            for kind in ("linear", "polytope")
        },
    }


def _window(
    corners: Sequence[tuple[float, float]],
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the lower left and the upper right corner of a square picture about a polygon."""
    numbers = np.array(corners)
    middle = (numbers.max(0) + numbers.min(0)) / 2
    half = 0.55 * float((numbers.max(0) - numbers.min(0)).max())
    low, high = middle - half, middle + half
    return (float(low[0]), float(low[1])), (float(high[0]), float(high[1]))


def _depth_rows(config: PolytopeConfig, depth: int, workspace: Workspace) -> Iterator[Row]:
    """Width of each bound over the true width, for random networks of one depth."""
    rows = directions(4)
    for number in range(config.scaled(2, 8, 30)):
        source = workspace.generator("depth", depth, number)
        net = plane_network((50,) * depth, 2)
        random_network(net, source)
        point = (0.2 + 0.6 * torch.rand(2, generator=source)).tolist()
        ball = box_about(point, PICTURE_EPS)
        true = widths_along(reached_outputs(net, ball, config.scaled(40, 160, 400)))
        largest = {kind: bound_support(net, ball, rows, kind) for kind in KINDS}
        largest["linear"] = linear_program_support(net, ball, rows)
        yield {
            "depth": depth,
            **{
                kind: log(float(np.mean((bounds[:2] + bounds[2:]) / true)))
                for kind, bounds in largest.items()
            },
        }


def _cost_rows(config: PolytopeConfig, workspace: Workspace) -> Iterator[Row]:
    """Multiplications of the exact bound and of the sketched one, over those of a forward pass."""
    for width in config.scaled((8, 16), (16, 32, 64, 128, 256), (16, 32, 64, 128, 256, 512)):
        net = plane_network((width,) * 3, 2)
        random_network(net, workspace.generator("cost", width))
        yield {"width": width, **_costs(net, workspace.generator("sketch", width))}


@torch.no_grad()
def _costs(net: nn.Module, source: torch.Generator) -> dict[str, float]:
    """Operations of both bounds of one margin, over those of a forward pass."""
    graph = prepare_graph(net, (1, 1, 2))
    ball = box_about((0.5, 0.5), PICTURE_EPS)
    forms = margin_forms(torch.tensor([0]), 2)

    def sketched() -> Tensor:
        lines = sketched_lines(graph, ball, 10, source)
        return backward_bounds(graph, ball, len(graph.nodes) - 1, DenseForms(forms), lines)

    plain = _operations(lambda: net(ball.center))
    exact = _operations(lambda: polytope_margins(graph, ball, forms))
    return {"exact": exact / plain, "sketched": _operations(sketched) / plain}


def _operations(run: Callable[[], object]) -> int:
    """Number of floating-point operations in the matrix products of a call."""
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return int(counter.get_total_flops())


def _spread_points(source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points of the unit square that keep their distance, and a class for each."""
    kept: list[Tensor] = []
    tries = 0
    while len(kept) < POINTS:
        point = 0.1 + 0.8 * torch.rand(2, generator=source)
        if all(float((point - other).abs().max()) >= APART for other in kept):
            kept.append(point)
        tries += 1
        if tries % 200 == 0:  # no room may be left: start anew
            kept.clear()
    points = torch.stack(kept)
    return points, torch.randint(2, (len(points),), generator=source)


def _point_rows(config: PolytopeConfig, name: str, workspace: Workspace) -> Iterator[Row]:
    """Train on a few points of the plane; rows of the bound while training, then of each point."""
    points, labels = _spread_points(workspace.generator("points"))
    inputs = points.view(-1, 1, 1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workspace.seed_of("initial") % 2**63)
        net = plane_network((100,) * 4, 2)
    method: TrainingMethod = (
        StandardTraining()
        if name == "standard"
        else PolytopeTraining(POINT_EPS, grow=(0.1, 0.6), projections=20)
    )
    steps = config.scaled(40, 600, 2000)
    schedule = TrainingSchedule(1, steps, lr=3e-3, weight_decay=0.0, average=0.9, precision="fp32")

    count = config.scaled(2, 12, 24)
    looks = {round(steps * k / count) for k in range(1, count + 1)}
    mean: nn.Module = net
    for step in train_model(
        net, lambda number: (inputs, labels), schedule, defense=method, seed=workspace.seed_of(name)
    ):
        mean = step.average
        if step.number in looks:
            shares = _spent_margins(mean, inputs, labels)
            yield {"step": step.number, "spent": [round(float(s), 4) for s in shares]}
    yield from _final_points(config, name, mean, points, labels, workspace)


def _spent_margins(net: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return how much of each point's margin the bound over its box takes away; below 1 is
    certified."""
    graph = prepare_graph(net, (1, 1, 2))
    with torch.no_grad():
        clean = (margin_forms(labels, 2) @ net(inputs)[..., None])[:, 0, 0]
        bound = verify_bounds(graph, inputs, labels, eps=POINT_EPS, method="polytope", limits=None)
    # A wrong point has no margin to spend.
    return torch.where(clean > 0, (clean - bound.margins) / clean.clamp_min(1e-9), torch.inf)


def _final_points(
    config: PolytopeConfig,
    name: str,
    net: nn.Module,
    points: Tensor,
    labels: Tensor,
    workspace: Workspace,
) -> Iterator[Row]:
    """Draw the regions with the boxes, and return what happens in each box."""
    regions = painted_regions(classes_on_grid(net, 0, 1, PIXELS))
    for point, label in zip(points.tolist(), labels.tolist(), strict=True):
        _draw_box(regions, point, POINT_EPS, rgb(POINT_COLORS[label]))
    workspace.save_picture(f"points-{name}", regions)

    spent = _spent_margins(net, points.view(-1, 1, 1, 2), labels)
    side = config.scaled(30, 120, 300)
    for point, label, share in zip(points.tolist(), labels.tolist(), spent.tolist(), strict=True):
        outputs = reached_outputs(net, box_about(point, POINT_EPS), side)
        wrong = outputs.argmax(1) != label
        yield {
            "x": point[0],
            "y": point[1],
            "label": label,
            "wrong": bool(wrong[len(wrong) // 2]),
            "broken": bool(wrong.any()),
            "certified": share < 1,
        }


def _draw_box(
    picture: Array, point: Sequence[float], eps: float, color: tuple[int, int, int]
) -> None:
    """Draw a square's border, three pixels wide, into a picture of the unit square."""
    left, right = (round((point[0] + sign * eps) * PIXELS) for sign in (-1, 1))
    top, bottom = (round((1 - point[1] + sign * eps) * PIXELS) for sign in (-1, 1))
    inside = np.zeros(picture.shape[:2], bool)
    inside[max(top, 0) : bottom, max(left, 0) : right] = True
    border: npt.NDArray[np.bool_] = inside.copy()
    border[max(top, 0) + 3 : bottom - 3, max(left, 0) + 3 : right - 3] = False
    picture[border] = color


def _data(config: PolytopeConfig, workspace: Workspace) -> StudyData:
    return read_once(
        workspace,
        config.data,
        train=config.scaled(300, 6000, 60_000),
        test=config.scaled(4, 150, 10_000),
        seed=config.seed,
    )


def _image_net(config: PolytopeConfig, name: str, workspace: Workspace) -> nn.Module:
    """Return a network on the images: trained, or the published one."""
    if name == "published":
        net: nn.Module = mnist_network()
        file = str(config.published_weights)
        load_state(net, read_state(file), name=file)
        return net.eval().requires_grad_(False)

    data = _data(config, workspace)
    robust = name == "polytope"
    method = PolytopeTraining(MNIST_EPS, grow=(0.0, 0.6), projections=10)
    return workspace.net(
        name,
        lambda: build_network(
            "small-cnn", channels=data.channels, side=data.image_size, classes=len(data.classes)
        ),
        lambda fresh: fit_classifier(
            fresh,
            data.train,
            method=method if robust else None,
            epochs=config.scaled(1, 4, 60),
            seed=workspace.seed_of("train", name),
        ),
    )


def _image_rows(config: PolytopeConfig, name: str, workspace: Workspace) -> Iterator[Row]:
    """Predict, attack and certify each test image."""
    net = _image_net(config, name, workspace)
    images, labels = _data(config, workspace).test.floats(slice(None))
    clean = predict(net, images) == labels
    attacked = pgd(
        net, images, labels, eps=MNIST_EPS, steps=40, seed=workspace.seed_of("attack", name)
    )
    graph = prepare_graph(net, tuple(images.shape[1:]))
    for first in range(0, len(images), 10):
        workspace.tell(f"image {first + 1} of {len(images)}")
        piece = slice(first, first + 10)
        bounds = verify_bounds(
            graph, images[piece], labels[piece], eps=MNIST_EPS, method="polytope", limits=None
        )
        for k, certified in enumerate(bounds.certified.tolist(), first):
            yield {
                "right": bool(clean[k]),
                "robust": bool(clean[k]) and not bool(attacked.success[k]),
                "certified": certified,
            }


STUDY = Study(
    name="polytope",
    title="The convex outer polytope",
    question="What is everything that a network can answer to all small changes of an input?",
    config=PolytopeConfig,
    papers=(WONG, WONG_SCALING),
    parts=study_parts,
    page=polytope_page,
)
