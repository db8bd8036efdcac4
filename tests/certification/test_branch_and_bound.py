"""Branch and bound: the truth of a mixed-integer program on small nets, counterexamples that the
network confirms, and every form of property."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from physadv.certification.bounds import branch_and_bound, neuron_boxes, neuron_splits
from physadv.certification.bounds.alpha_crown import optimized_boxes
from physadv.certification.bounds.branch_and_bound import Clause, verify_clauses
from physadv.certification.bounds.clause_boxes import Domain, _NeuronForms, narrowed
from physadv.certification.bounds.crown import tightened_boxes
from physadv.certification.bounds.graph import LayerGraph, relaxed_nodes
from physadv.certification.bounds.input_ball import InputBall, InputBox
from physadv.certification.bounds.neuron_boxes import branched_boxes
from physadv.certification.bounds.neuron_splits import PartBounds, Problem
from physadv.certification.bounds.relaxations import Box
from physadv.certification.bounds.verify import margin_forms, prepare_graph, verify_bounds
from physadv.training.loop import seed_all

SHAPE = (1, 2, 3)
EPS = 0.12


def small_net(seed: int, widths: tuple[int, ...] = (8, 8)) -> nn.Module:
    """A dense net with weights large enough that its bounds are loose."""

    def build() -> nn.Module:
        sizes = [6, *widths, 3]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    net = seed_all(build, seed).eval().double().requires_grad_(False)
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.weight.mul_(1.8)
    return net


def least_value(net: nn.Module, lower: Tensor, upper: Tensor, row: Tensor) -> float:
    """The least value of ``row`` y over the box, by a mixed-integer program with big numbers from
    intervals."""
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    low, high = lower.flatten().numpy(), upper.flatten().numpy()
    ends, count = [(low, high)], len(low)
    for layer in layers:
        weight, bias = layer.weight.numpy(), layer.bias.numpy()
        middle, reach = (low + high) / 2, (high - low) / 2
        low, high = (
            weight @ middle + bias - np.abs(weight) @ reach,
            weight @ middle + bias + np.abs(weight) @ reach,
        )
        ends.append((low, high))
        low, high = np.maximum(low, 0), np.maximum(high, 0)

    # Variables: inputs, then for each hidden layer outputs z and signs d.
    hidden = [len(layer.bias) for layer in layers[:-1]]
    total = count + 2 * sum(hidden)
    rows, below, above = [], [], []
    bounds_low, bounds_high = np.full(total, 0.0), np.full(total, np.inf)
    bounds_low[:count], bounds_high[:count] = ends[0]
    whole = np.zeros(total)
    first, before = count, slice(0, count)
    for number, size in enumerate(hidden):
        weight, bias = layers[number].weight.numpy(), layers[number].bias.numpy()
        low, high = ends[number + 1]
        for i in range(size):
            z, d = first + i, first + size + i
            whole[d], bounds_high[d] = 1, 1
            for factor, low_end, high_end, sign in (
                (1.0, bias[i], np.inf, 0.0),  # z >= a
                (1.0, -np.inf, bias[i] - min(low[i], 0), -min(low[i], 0)),  # z <= a - l (1 - d)
            ):
                line = np.zeros(total)
                line[z], line[before], line[d] = factor, -weight[i], sign
                rows.append(line)
                below.append(low_end)
                above.append(high_end)
            line = np.zeros(total)  # z <= u d
            line[z], line[d] = 1, -max(high[i], 0)
            rows.append(line)
            below.append(-np.inf)
            above.append(0.0)
        before, first = slice(first, first + size), first + 2 * size
    cost = np.zeros(total)
    cost[before] = row.numpy() @ layers[-1].weight.numpy()
    found = milp(
        cost,
        constraints=LinearConstraint(np.array(rows), below, above),
        bounds=Bounds(bounds_low, bounds_high),
        integrality=whole,
    )
    return float(found.fun + row.numpy() @ layers[-1].bias.numpy())


@pytest.mark.parametrize("way", ["relus", "domains", "inputs"])
@pytest.mark.parametrize("seed", range(4))
def test_verdicts_are_those_of_an_exact_program(
    seed: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split by ReLUs, in domains of clauses and by inputs, every verdict agrees with the sign of
    the least margin, and alpha-CROWN lies between CROWN and it."""
    monkeypatch.setattr(branch_and_bound, "_FEW_INPUTS", 16 if way == "inputs" else 0)
    if way == "domains":
        monkeypatch.setattr(branch_and_bound, "_FIRST_PARTS", 0)
        monkeypatch.setattr(branch_and_bound, "_DOMAIN_PARTS", 0)
        monkeypatch.setattr(neuron_boxes, "_ROUNDS", 1)
    net = small_net(seed)
    images = torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(seed)).double()
    labels = net(images).argmax(1)
    graph = prepare_graph(net, SHAPE)
    found = verify_bounds(
        graph, images, labels, eps=EPS, method="bab", limits=None, time_limit=60, net=net
    )
    crown = verify_bounds(graph, images, labels, eps=EPS, method="crown", limits=None).margins
    alpha = verify_bounds(graph, images, labels, eps=EPS, method="alpha-crown", limits=None)
    forms = margin_forms(labels, 3, torch.float64)
    for i in range(3):
        ends = images[i] - EPS, images[i] + EPS
        truth = min(least_value(net, *ends, row) for row in forms[i])
        assert found.verdicts[i] == ("verified" if truth > 0 else "falsified")
        assert float(found.margins[i]) <= truth + 1e-6
        assert float(crown[i]) - 1e-9 <= float(alpha.margins[i]) <= truth + 1e-6


def test_counterexamples_lie_in_the_ball_and_change_the_class() -> None:
    """In float32 too, for both norms; a wrong image is its own counterexample."""
    net = small_net(5).float()
    images = torch.rand((4, *SHAPE), generator=torch.Generator().manual_seed(5))
    labels = net(images).argmax(1)
    labels[3] = (labels[3] + 1) % 3
    graph = prepare_graph(net, SHAPE)
    for norm, eps in (("linf", 0.6), ("l2", 1.5)):
        found = verify_bounds(
            graph, images, labels, eps=eps, norm=norm, method="bab", net=net, time_limit=20
        )
        assert "falsified" in found.verdicts
        assert found.verdicts[3] == "falsified"
        assert torch.equal(found.counterexamples[3], images[3])
        for i, verdict in enumerate(found.verdicts):
            assert (verdict == "falsified") == (i in found.counterexamples)
        for i, point in found.counterexamples.items():
            step = (point - images[i]).flatten().double()
            size = step.abs().max() if norm == "linf" else step.norm()
            assert float(size) <= eps + 1e-6
            assert point.min() >= 0
            assert point.max() <= 1
            assert int(net(point[None]).argmax()) != int(labels[i])


@pytest.mark.parametrize("seed", range(3))
def test_a_search_finds_what_its_first_attack_misses(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that attack, values a little above the least one are found from the worst inputs of
    open parts, which lie in the region; the value just below is proven out of reach."""
    monkeypatch.setattr(branch_and_bound, "_FEW_INPUTS", 0)
    monkeypatch.setattr(branch_and_bound, "_attacked", lambda search, seed: None)
    net = small_net(seed)
    lower = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed)).double() / 2
    upper, row = lower + 0.4, torch.tensor([1.0, -1.0, 0.5]).double()
    least = least_value(net, lower, upper, row)

    def breaks(x: Tensor, _: int) -> bool:
        return bool((row @ net(x)[0]) <= least + 0.05)

    for above, verdict in ((0.05, "falsified"), (-1e-3, "verified")):
        clause = Clause(row[None], torch.tensor([-least - above]).double())
        found = verify_clauses(
            prepare_graph(net, SHAPE), InputBox.between(lower, upper), [clause], check=breaks
        )
        assert found.verdict == verdict
        if found.counterexample is not None:
            assert bool((found.counterexample >= lower - 1e-9).all())
            assert bool((found.counterexample <= upper + 1e-9).all())


def test_no_time_is_a_timeout_and_never_a_proof() -> None:
    """With no time left an image that bounds alone do not certify is undecided."""
    net = small_net(1, (16, 16))
    images = torch.rand((2, *SHAPE), generator=torch.Generator().manual_seed(1)).double()
    labels = net(images).argmax(1)
    graph = prepare_graph(net, SHAPE)
    found = verify_bounds(graph, images, labels, eps=0.2, method="bab", time_limit=1e-9)
    assert not found.certified.any()
    assert set(found.verdicts) <= {"timeout", "falsified"}


def test_several_rows_are_broken_together_alone() -> None:
    """A clause of two rows holds where one of them is positive everywhere it matters."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double().requires_grad_(False)
    net[1].weight.copy_(torch.eye(2))
    graph = prepare_graph(net, (1, 1, 2))
    box = InputBox.between(torch.zeros(1, 1, 1, 2).double(), torch.ones(1, 1, 1, 2).double())
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()

    def breaks(clause: Clause) -> str:
        def check(x: Tensor, _: int) -> bool:
            return bool(((clause.rows @ net(x)[0] + clause.shift) <= 0).all())

        return verify_clauses(graph, box, [clause], check=check, time_limit=20).verdict

    # y0 <= 0.4 and y0 >= 0.6 is never both; y0 <= 0.6 and y0 >= 0.4 is.
    assert breaks(Clause(rows, torch.tensor([-0.4, 0.6]).double())) == "verified"
    assert breaks(Clause(rows, torch.tensor([-0.6, 0.4]).double())) == "falsified"


def test_optimized_boxes_hold_and_are_never_looser() -> None:
    """Boxes inside the net hold random points, and lie in CROWN's."""
    net = small_net(2, (12, 12, 12))
    image = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(2)).double()
    graph, ball = prepare_graph(net, SHAPE), InputBall(image, EPS)
    crown, _ = tightened_boxes(graph, ball)
    tight = optimized_boxes(graph, ball).boxes
    points = image + EPS * (2 * torch.rand((500, *SHAPE)).double() - 1)
    points = ball.repeated(500).nearest(points)
    values = {0: points}
    narrower = 0
    for number, node in enumerate(graph.nodes[1:], 1):
        values[number] = node.layer.value(*(values[i] for i in node.inputs))
        if number in tight and number in crown:
            low, high = tight[number]
            assert (values[number] >= low - 1e-9).all()
            assert (values[number] <= high + 1e-9).all()
            assert (low >= crown[number][0] - 1e-9).all()
            assert (high <= crown[number][1] + 1e-9).all()
            narrower += int(((high - low) < (crown[number][1] - crown[number][0]) - 1e-6).sum())
    assert narrower > 0


def test_a_bound_that_is_no_number_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN from an overflow leaves a part open, in both kinds of search."""
    net = small_net(1)
    image = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(1)).double()
    graph, label = prepare_graph(net, SHAPE), net(image).argmax(1)
    monkeypatch.setattr(
        neuron_splits.Problem, "closed", lambda problem, bound, clauses: bound.amax(1) * torch.nan
    )
    monkeypatch.setattr(
        _NeuronForms, "bounds", lambda forms, *_: torch.full((forms.count,), torch.nan).double()
    )
    for few in (0, 16):
        monkeypatch.setattr(branch_and_bound, "_FEW_INPUTS", few)
        found = verify_bounds(graph, image, label, eps=1e-3, method="bab", time_limit=2.0)
        assert found.verdicts == ("timeout",)


def values_at(graph: LayerGraph, points: Tensor) -> dict[int, Tensor]:
    """The values (n, size) of all nodes at points."""
    values = {0: points}
    for number, node in enumerate(graph.nodes[1:], 1):
        values[number] = node.layer.value(*(values[i] for i in node.inputs))
    return {i: v.flatten(1) for i, v in values.items()}


def test_branched_boxes_hold_and_are_narrower() -> None:
    """Boxes tightened neuron by neuron hold random points and corners, and lie in alpha-CROWN's."""
    net = small_net(2, (12, 12, 12))
    image = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(2)).double()
    graph, ball = prepare_graph(net, SHAPE), InputBall(image, EPS)
    nothing = torch.zeros(1, 1).double()
    problem = Problem(
        graph, graph.cast(torch.float32), ball, nothing[None].repeat(1, 1, 3), nothing, nothing
    )
    whole = optimized_boxes(graph, ball).boxes
    tight = branched_boxes(problem, deadline=float("inf")).boxes
    draw = torch.Generator().manual_seed(3)
    steps = 2 * torch.rand((4000, *SHAPE), generator=draw).double() - 1
    points = image + EPS * torch.cat([steps, steps.sign()])
    values = values_at(graph, ball.repeated(8000).nearest(points))
    narrower = 0.0
    for source in (graph.nodes[i].inputs[0] for i in relaxed_nodes(graph)):
        low, high = tight[source]
        assert (values[source] >= low - 1e-9).all()
        assert (values[source] <= high + 1e-9).all()
        gain = (whole[source][1] - whole[source][0]) - (high - low)
        assert (gain > -1e-6).all()
        narrower += float(gain.sum())
    assert narrower > 0.1


@pytest.mark.parametrize("name", ["relu", "tanh", "max_pool"])
@pytest.mark.parametrize("seed", range(3))
def test_boxes_of_a_clause_hold_what_breaks_it(seed: int, name: str) -> None:
    """Points below a value lie in the boxes, also within limits of neurons; boxes shrink the more
    the fewer there are, and below the least value, by an exact program, there is nothing."""
    net = small_net(seed, (10, 10))
    if name != "relu":
        net = Identity(lambda a, b: ZEROS[name](a, b) + F.relu(a) - torch.tanh(b))
    shape = SHAPE if name == "relu" else (2, 4, 4)
    draw = torch.Generator().manual_seed(seed)
    image = 0.3 + 0.4 * torch.rand((1, *shape), generator=draw).double()
    graph, ball = prepare_graph(net, shape), InputBall(image, 0.3)
    steps = 2 * torch.rand((6000, *shape), generator=draw).double() - 1
    points = ball.repeated(12000).nearest(image + 0.3 * torch.cat([steps, steps.sign()]))
    values = values_at(graph, points)
    rows = torch.zeros(1, 1, graph.classes).double()
    rows[0, 0, 0], rows[0, 0, 1] = 1, -1
    margins = values[len(graph.nodes) - 1] @ rows[0, 0]
    nothing = torch.zeros(1, 1).double()
    boxes = optimized_boxes(graph, ball)
    widths = []
    for share in (0.002, 0.5):
        shift = -margins.quantile(share).view(1, 1)
        problem = Problem(graph, graph.cast(torch.float32), ball, rows, shift, nothing)
        domain = narrowed(problem, Domain(0, boxes), deadline=float("inf"))
        assert domain is not None
        breaks = margins + shift[0, 0] <= 0
        holds(domain, values, breaks)
        sources = [graph.nodes[i].inputs[0] for i in relaxed_nodes(graph)]
        widths.append(sum(float((b[1] - b[0]).sum()) for b in map(domain.tight.boxes.get, sources)))  # type: ignore[index]

        for limits in halves_of(problem, domain):
            half = narrowed(problem, domain.within(problem, limits), deadline=float("inf"))
            inside = breaks.clone()
            for source, (floor, ceiling) in limits.items():
                inside &= ((values[source] >= floor) & (values[source] <= ceiling)).all(1)
            if half is None:
                assert not inside.any()
            else:
                holds(half, values, inside)
    assert widths[0] < widths[1]

    if name == "relu":
        least = least_value(net, *ball.box(), rows[0, 0])
        problem = Problem(
            graph, graph.cast(torch.float32), ball, rows, nothing - least - 1e-3, nothing
        )
        assert narrowed(problem, Domain(0, boxes), deadline=float("inf")) is not None


def halves_of(problem: Problem, domain: Domain) -> list[dict[int, Box]]:
    """Limits of the domain's halves, split by the neuron that costs its bound most."""
    bounds = PartBounds(problem, domain.tight, domain.limits)
    if not bounds.neurons:
        return []
    whole = bounds.whole(torch.zeros(1, dtype=torch.long))
    halves = bounds.split(whole, bounds.scores(whole).argmax(1))
    return [bounds.limits(halves, i) for i in range(2)]


def holds(domain: Domain, values: dict[int, Tensor], chosen: Tensor) -> None:
    """Check that the chosen points have all their values in the boxes."""
    for number, (low, high) in domain.tight.boxes.items():
        assert (values[number][chosen] >= low.flatten(1) - 1e-9).all()
        assert (values[number][chosen] <= high.flatten(1) + 1e-9).all()


class Identity(nn.Module):
    """Logits whose margin is 0.1 for every input, by an identity of the activation."""

    def __init__(self, zero: Callable[[Tensor, Tensor], Tensor], margin: float = 0.1) -> None:
        super().__init__()
        self.zero, self.margin = zero, margin
        self.linear = seed_all(lambda: nn.Linear(32, 2), 7).double().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (4 * self.linear(x.flatten(1))).chunk(2, 1)
        zero = self.zero(first, second)
        return torch.cat([zero + self.margin, zero - zero], 1)


def larger(a: Tensor, b: Tensor) -> Tensor:
    """The larger of two values, by max pooling."""
    return F.max_pool2d(torch.stack([a, b], 2).unsqueeze(1), (1, 2)).flatten(1)


ZEROS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max_pool": lambda a, b: larger(a, b) - F.relu(a - b) - b,
    "maximum": lambda a, b: torch.maximum(a, b) - F.relu(b - a) - a,
    "tanh": lambda a, b: torch.tanh(a) + torch.tanh(-a),
    "sigmoid": lambda a, b: torch.sigmoid(b) + torch.sigmoid(-b) - 1,
    "gelu": lambda a, b: F.gelu(a) - F.gelu(-a) - a,
    "silu": lambda a, b: F.silu(a) - F.silu(-a) - a,
    "softplus": lambda a, b: F.softplus(b) - F.softplus(-b) - b,
}


@pytest.mark.parametrize("name", ZEROS)
def test_splits_of_neurons_prove_an_identity_that_lines_do_not(name: str) -> None:
    """The margin is 0.1 (or -0.01) everywhere: CROWN and alpha-CROWN prove neither, the search
    proves the one and never the other. More inputs than are split leave the neurons alone."""
    image = torch.full((1, 2, 4, 4), 0.5).double()
    label = torch.zeros(1, dtype=torch.long)
    net = Identity(ZEROS[name])
    graph = prepare_graph(net, (2, 4, 4))
    for method in ("crown", "alpha-crown"):
        assert not verify_bounds(graph, image, label, eps=0.3, method=method).certified.any()
    found = verify_bounds(graph, image, label, eps=0.3, method="bab", net=net, time_limit=20)
    assert found.verdicts == ("verified",)
    assert 0 < float(found.margins) <= 0.1

    wrong = Identity(ZEROS[name], -0.01)
    found = verify_bounds(
        prepare_graph(wrong, (2, 4, 4)), image, label, eps=0.3, method="bab", net=wrong
    )
    assert found.verdicts == ("falsified",)


@pytest.mark.parametrize("name", ZEROS)
def test_limits_of_neurons_leave_bounds_below_every_point(name: str) -> None:
    """Random splits, slopes and multipliers: no point of a part has a value below its bound."""
    net = Identity(lambda a, b: ZEROS[name](a, b) + F.relu(a) - torch.tanh(a))
    graph = prepare_graph(net, (2, 4, 4))
    ball = InputBall(torch.full((1, 2, 4, 4), 0.5).double(), 0.3)
    rows = torch.tensor([[[1.0, -1.0]]]).double()
    none = torch.zeros(1, 1).double()
    problem = Problem(graph, graph.cast(torch.float32), ball, rows, none, none)
    bounds = PartBounds(problem, optimized_boxes(graph, ball, steps=0))
    draw = torch.Generator().manual_seed(11)
    parts = bounds.whole(torch.zeros(1, dtype=torch.long))
    for _ in range(5):
        scores = bounds.scores(parts)
        assert (scores >= 0).any(1).all()
        parts = bounds.split(parts, (scores + torch.rand(scores.shape, generator=draw)).argmax(1))
    for table in (parts.slopes, parts.multipliers):
        for numbers in table.values():
            numbers += torch.randn(numbers.shape, generator=draw)
    least = bounds.exact_bound(parts)[:, 0]

    points = ball.repeated(4000).nearest(
        0.2 + 0.6 * torch.rand((4000, 2, 4, 4), generator=draw).double()
    )
    values = {0: points}
    for number, node in enumerate(graph.nodes[1:], 1):
        values[number] = node.layer.value(*(values[i] for i in node.inputs))
    margins = (values[len(graph.nodes) - 1] @ rows[0, 0]).flatten()
    inside = torch.ones((len(parts), 4000), dtype=torch.bool)
    for source, neurons in bounds.neurons.items():
        own = values[source].reshape(4000, -1)[:, neurons.places]
        inside &= (own >= parts.floors[source][:, None].double() - 1e-9).all(2)
        inside &= (own <= parts.ceilings[source][:, None].double() + 1e-9).all(2)
    assert inside.any(0).all()  # the parts cover the region
    assert (margins + 1e-9 >= torch.where(inside, least[:, None], -torch.inf)).all()
