"""Bounds of random graphs: no corner, random point or gradient attack goes below a bound.

``PHYSADV_FUZZ_SEED`` is the first seed and ``PHYSADV_FUZZ_GRAPHS`` the number of graphs; a failure
names its seed. ``python tests/certification/test_random_graphs.py`` prints the table of the docs.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from random_nets import CLASSES, LINEAR, SHAPE, RandomNet
from torch import Tensor, nn

from physadv.certification.bounds import neuron_boxes
from physadv.certification.bounds.alpha_crown import optimized_boxes
from physadv.certification.bounds.clause_boxes import Domain, narrowed
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.neuron_boxes import branched_boxes
from physadv.certification.bounds.neuron_splits import PartBounds, Problem
from physadv.certification.bounds.verify import (
    METHODS,
    margin_forms,
    prepare_graph,
    verify_bounds,
)
from physadv.core.errors import ModelError

EPS = {"linf": 0.06, "l2": 0.4}
FIRST_SEED = int(os.environ.get("PHYSADV_FUZZ_SEED", "0"))
IN_CI, NIGHTLY = 200, int(os.environ.get("PHYSADV_FUZZ_GRAPHS", "2000"))


def margins_of(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(b,) margins of the labels' logits over the best other one."""
    logits = net(images.clone())
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).max(1).values


def projected(step: Tensor, norm: str) -> Tensor:
    """The step cut to the ball of its norm."""
    if norm == "linf":
        return step.clamp(-EPS["linf"], EPS["linf"])
    size = step.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return step * (EPS["l2"] / size).clamp(max=1)


def least_margins(
    net: nn.Module, images: Tensor, labels: Tensor, norm: str, draw: torch.Generator
) -> Tensor:
    """The least margins over corners and random points of the ball, and gradient steps from
    them."""
    least = margins_of(net, images, labels).detach()
    for start in range(3):
        noise = torch.randn(images.shape, generator=draw, dtype=torch.float64).to(images)
        step = projected(noise.sign() * (EPS[norm] if norm == "linf" else 1), norm)
        if start == 0:
            step = projected(noise * EPS[norm] * 0.5, norm)
        for _ in range(8):
            point = (images + step).clamp(0, 1).requires_grad_(True)
            try:
                margin = margins_of(net, point, labels)
                (grad,) = torch.autograd.grad(margin.sum(), point)
            except RuntimeError:  # a step in place has no gradient, or no pixel matters
                break
            least = torch.minimum(least, margin.detach())
            ascent = grad.sign() if norm == "linf" else F.normalize(grad.flatten(1)).view_as(grad)
            step = projected(point.detach() - images - 0.5 * EPS[norm] * ascent, norm)
        point = (images + step).clamp(0, 1)
        with torch.no_grad():
            least = torch.minimum(least, margins_of(net, point, labels))
    return least


def points(seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, torch.Generator]:
    """Three images, their labels and the generator they came from."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand((3, *SHAPE), generator=draw, dtype=torch.float64).to(dtype)
    return images, torch.randint(0, CLASSES, (3,), generator=draw), draw


def methods_for(seed: int) -> list[str]:
    """The methods tried on the graph of a seed: those that cost more on fewer graphs."""
    cheap = [method for method in METHODS if method != "alpha-crown"]
    return [*cheap, *["alpha-crown"] * (seed % 5 == 0), *["bab"] * (seed % 10 == 0)]


def hold(seed: int) -> str:
    """Assert every method and norm on the graph of one seed; return what became of the graph.

    Every fourth net runs in float32, where bounds are lowered by its rounding.
    """
    dtype = torch.float32 if seed % 4 == 3 else torch.float64
    net = RandomNet(seed).to(dtype)
    images, labels, draw = points(seed, dtype)
    try:
        graph = prepare_graph(net, SHAPE)
    except ModelError as error:
        return "rounds, refused" if net.rounds else str(error).partition(": ")[2]

    for norm in EPS:
        attacked = least_margins(net, images, labels, norm, draw)
        for method in methods_for(seed):
            bound = verify_bounds(
                graph, images, labels, eps=EPS[norm], norm=norm, method=method, time_limit=0.5
            )
            gap = bound.margins - attacked
            where = f"PHYSADV_FUZZ_SEED={seed}, {method} {norm}: {' '.join(net.words)}"
            rounding = 1e-9 if dtype == torch.float64 else 1e-5
            allowed = rounding * (1 + attacked.abs())
            assert (gap <= allowed).all(), f"{where}: {gap.max():.3g} too high"
            assert not (bound.certified & (attacked <= 0)).any(), f"{where}: certified and broken"
    return "bounded"


def values_in(ball: InputBall, graph: LayerGraph, draw: torch.Generator) -> dict[int, Tensor]:
    """The values of every node, by its number, at 400 random points and corners of a ball."""
    noise = torch.randn((400, *SHAPE), generator=draw, dtype=torch.float64)
    noise[::2] = noise[::2].sign()
    values = {0: ball.repeated(400).nearest(ball.center + ball.eps * noise)}
    for number, node in enumerate(graph.nodes[1:], 1):
        values[number] = node.layer.value(*(values[i] for i in node.inputs))
    return values


def parts_hold(seed: int) -> bool:
    """Assert that on the graph of one seed, split into parts by random neurons, no point has a
    margin below the bound of a part it lies in; False where the graph is refused."""
    net = RandomNet(seed).double()
    images, labels, draw = points(seed, torch.float64)
    try:
        graph = prepare_graph(net, SHAPE)
    except ModelError:
        return False

    norm = list(EPS)[seed % 2]
    ball = InputBall(images[:1], EPS[norm], norm)
    rows = margin_forms(labels[:1], CLASSES, torch.float64)[0][:, None]
    none = torch.zeros(rows.shape[:2], dtype=torch.float64)
    problem = Problem(graph, graph.cast(torch.float32), ball, rows, none, none)
    bounds = PartBounds(problem, optimized_boxes(graph, ball, steps=0))
    parts = bounds.whole(torch.arange(len(rows)))
    for step in range(4 if bounds.neurons else 0):
        scores = bounds.scores(parts)
        noise = torch.rand(scores.shape, generator=draw) * scores.max()
        parts = bounds.split(parts, (scores + noise * (step % 2)).argmax(1))
    for table in (parts.slopes, parts.multipliers):
        for numbers in table.values():
            numbers += 0.1 * torch.randn(numbers.shape, generator=draw)
    bound = bounds.exact_bound(bounds.optimized(parts, (2,)))[:, 0]

    values = values_in(ball, graph, draw)
    margins = torch.einsum("mc,nc->mn", rows[parts.clauses, 0], values[len(graph.nodes) - 1])
    inside = torch.ones_like(margins, dtype=torch.bool)
    for source, neurons in bounds.neurons.items():
        own = values[source].reshape(400, -1)[:, neurons.places]
        inside &= (own >= parts.floors[source][:, None] - 1e-9).all(2)
        inside &= (own <= parts.ceilings[source][:, None] + 1e-9).all(2)
    assert inside.any(0).all(), f"PHYSADV_FUZZ_SEED={seed}: parts do not cover the ball"
    gap = torch.where(inside, bound[:, None] - margins, -torch.inf).max()
    assert gap <= 1e-9 * (1 + margins.abs().max()), f"PHYSADV_FUZZ_SEED={seed}, {norm}: {gap:.3g}"
    return True


def boxes_hold(seed: int) -> bool:
    """Assert that on the graph of one seed every point lies in the boxes that splits tighten, and
    every point below a margin in those that this clause tightens, in halves too; False where the
    graph is refused."""
    net = RandomNet(seed).double()
    images, labels, draw = points(seed, torch.float64)
    try:
        graph = prepare_graph(net, SHAPE)
    except ModelError:
        return False

    norm = list(EPS)[seed % 2]
    ball = InputBall(images[:1], EPS[norm], norm)
    values = values_in(ball, graph, draw)
    rows = margin_forms(labels[:1], CLASSES, torch.float64)[0, :1][:, None]
    margins = values[len(graph.nodes) - 1] @ rows[0, 0]
    shift, none = -margins.quantile(0.1).view(1, 1), torch.zeros(1, 1, dtype=torch.float64)
    problem = Problem(graph, graph.cast(torch.float32), ball, rows, shift, none)
    domain = Domain(0, branched_boxes(problem, steps=2, deadline=time.monotonic() + 0.3))
    assert_inside(domain, values, margins < torch.inf, seed)
    breaks = margins + shift[0, 0] <= 0
    narrow = narrowed(problem, domain, deadline=time.monotonic() + 0.3)
    assert narrow is not None, f"PHYSADV_FUZZ_SEED={seed}: what breaks the clause is left out"
    assert_inside(narrow, values, breaks, seed)

    bounds = PartBounds(problem, narrow.tight)
    if bounds.neurons:
        whole = bounds.whole(torch.zeros(1, dtype=torch.long))
        halves = bounds.split(whole, bounds.scores(whole).argmax(1))
        for i in range(2):
            inside = breaks.clone()
            limits = bounds.limits(halves, i)
            for source, (floor, ceiling) in limits.items():
                own = values[source].flatten(1)
                inside &= ((own >= floor) & (own <= ceiling)).all(1)
            half = narrowed(problem, narrow.within(problem, limits), deadline=time.monotonic() + 1)
            assert half is not None or not inside.any(), f"PHYSADV_FUZZ_SEED={seed}: left out"
            if half is not None:
                assert_inside(half, values, inside, seed)
    return True


def assert_inside(domain: Domain, values: dict[int, Tensor], chosen: Tensor, seed: int) -> None:
    """Assert that the chosen points have all their values in the boxes of a domain."""
    for number, (low, high) in domain.tight.boxes.items():
        own = values[number][chosen]
        slack = 1e-9 * (1 + torch.maximum(low.abs(), high.abs()))
        held = ((own >= low - slack) & (own <= high + slack)).all()
        assert held, f"PHYSADV_FUZZ_SEED={seed}: a value of node {number} lies outside its box"


def exact_on(seed: int) -> None:
    """Assert that on the linear graph of one seed every bound is the closed form."""
    net = RandomNet(seed, kinds=LINEAR).double()
    images, labels, _ = points(seed, torch.float64)
    graph = prepare_graph(net, SHAPE)
    forms = margin_forms(labels, CLASSES, torch.float64)
    margins = torch.einsum("bkc,bc->bk", forms, net(images.clone()))
    unit = torch.eye(images[0].numel(), dtype=torch.float64).view(-1, *SHAPE)
    matrix = net(unit.clone()) - net(torch.zeros_like(unit))
    slopes = torch.einsum("bkc,nc->bkn", forms, matrix)
    for norm, dual in (("linf", 1), ("l2", 2)):
        wanted = (margins - EPS[norm] * slopes.norm(p=dual, dim=2)).min(1).values
        for method in methods_for(seed):
            if method == "bab":
                continue
            found = verify_bounds(
                graph, images, labels, eps=EPS[norm], norm=norm, method=method, limits=None
            ).margins
            where = f"PHYSADV_FUZZ_SEED={seed}, {method} {norm}: {' '.join(net.words)}"
            assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9), where


def outcomes(count: int) -> Counter[str]:
    """What became of ``count`` graphs from the first seed on; the seeds are printed."""
    sys.stdout.write(f"random graphs of seeds {FIRST_SEED} to {FIRST_SEED + count - 1}\n")
    return Counter(named_fate(seed) for seed in range(FIRST_SEED, FIRST_SEED + count))


def named_fate(seed: int) -> str:
    """What became of the graph of one seed, which an error of any kind names."""
    try:
        return hold(seed)
    except RuntimeError as error:
        raise AssertionError(f"PHYSADV_FUZZ_SEED={seed} failed: {error}") from error


def assert_enough_bounded(found: Counter[str]) -> None:
    """Most graphs must be bounded, not refused, and those that round must all be refused."""
    assert found["bounded"] >= 0.7 * found.total(), found
    assert found["rounds, refused"] > 0, found


def test_no_attack_goes_below_a_bound_on_random_graphs() -> None:
    """Every method and norm, on graphs with views, shared readers, idle steps and residuals."""
    assert_enough_bounded(outcomes(IN_CI))


@pytest.mark.slow
def test_no_attack_goes_below_a_bound_on_many_random_graphs() -> None:
    """The same on thousands of graphs."""
    assert_enough_bounded(outcomes(NIGHTLY))


def test_no_point_goes_below_the_bound_of_a_part_of_a_random_graph() -> None:
    """Parts by limits of neurons before every kind of layer, as branch and bound makes them."""
    held = [parts_hold(seed) for seed in range(FIRST_SEED, FIRST_SEED + 40)]
    assert sum(held) >= 25


@pytest.mark.slow
def test_no_point_goes_below_the_bound_of_a_part_of_many_random_graphs() -> None:
    """The same on many graphs."""
    assert sum(parts_hold(seed) for seed in range(FIRST_SEED, FIRST_SEED + NIGHTLY // 4)) > 0


def test_no_value_leaves_the_tightened_boxes_of_a_random_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Boxes by neurons' own splits and by a clause, with every kind of nonlinear layer."""
    monkeypatch.setattr(neuron_boxes, "_ROUNDS", 1)
    held = [boxes_hold(seed) for seed in range(FIRST_SEED, FIRST_SEED + 8)]
    assert sum(held) > 4


@pytest.mark.slow
def test_no_value_leaves_the_tightened_boxes_of_many_random_graphs() -> None:
    """The same on more graphs."""
    assert sum(boxes_hold(seed) for seed in range(FIRST_SEED, FIRST_SEED + NIGHTLY // 8)) > 0


def test_bounds_are_exact_on_random_linear_graphs() -> None:
    """Without ReLU every method gives margin - eps * dual norm of the gradient."""
    for seed in range(FIRST_SEED, FIRST_SEED + 60):
        exact_on(seed)


def test_a_bound_that_is_too_high_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The assertion can fail: boxes of half their width are found out."""
    whole_box = InputBall.box

    def half_box(ball: InputBall) -> tuple[Tensor, ...]:
        return tuple((ball.center + end) / 2 for end in whole_box(ball))

    monkeypatch.setattr(InputBall, "box", half_box)
    with pytest.raises(AssertionError, match="too high"):
        [hold(seed) for seed in range(IN_CI)]


if __name__ == "__main__":
    for fate, graphs in outcomes(NIGHTLY).most_common():
        sys.stdout.write(f"{graphs:5d} {fate}\n")
