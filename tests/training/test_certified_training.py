"""Training to a bound: exact on linear nets, Shi's start and statistics, and estimates that
estimate."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from linear import Linear, least_margin, samples
from torch import Tensor, nn

from physadv.certification.bounds.graph import relu_nodes
from physadv.certification.bounds.ibp import interval_boxes
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.relaxations import relu_lines
from physadv.certification.bounds.tracing import trace_graph
from physadv.certification.bounds.verify import margin_forms, prepare_graph, verify_bounds
from physadv.core.errors import OptionError
from physadv.core.process_group import ALONE
from physadv.core.random_streams import generator
from physadv.models.architectures.cnn import build_network
from physadv.training.loop import seed_all
from physadv.training.methods._ibp_initialization import (
    balance_loss,
    initialize_for_ibp,
    set_batch_statistics,
    tightness_loss,
)
from physadv.training.methods._random_projections import sketched_lines
from physadv.training.methods.base import TrainingPosition
from physadv.training.methods.by_name import DEFENSES, method_by_name
from physadv.training.methods.certified import (
    CrownIbpTraining,
    IbpTraining,
    PolytopeTraining,
    robust_cross_entropy,
)


def at(step: int = 99, total: int = 100) -> TrainingPosition:
    return TrainingPosition(step, total, generator(0, "test", step))


def net_and_batch(architecture: str = "small-cnn-bn") -> tuple[nn.Module, Tensor, Tensor]:
    net = seed_all(lambda: build_network(architecture, channels=1, side=12, classes=4), 1)
    images = torch.rand((16, 1, 12, 12), generator=generator(0, "certified"))
    return net, images, torch.arange(16) % 4


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", [IbpTraining, CrownIbpTraining, PolytopeTraining])
def test_on_a_linear_net_the_loss_is_the_exact_worst_case(
    kind: type[IbpTraining], norm: str
) -> None:
    """Two linear classes: the worst margin is known, so is the worst cross-entropy; l_2 balls need
    no polytope."""
    if kind is PolytopeTraining and norm == "l2":
        pytest.skip("projections serve l_inf")
    known = Linear(2, dtype=torch.float32, scale=3.0)
    images, _ = samples(known, 16, middle=True)
    labels = torch.arange(16) % 2
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 2))
    net[1].weight.data.copy_(known.weight.data)
    net[1].bias.data.zero_()
    loss, _ = kind(0.1, norm, grow=(0.0, 0.5)).loss(net, images, labels, at())
    worst = least_margin(known, images, labels, 0.1, norm).float()  # type: ignore[arg-type]
    assert float(loss.detach()) == pytest.approx(float(F.softplus(-worst).mean()), rel=1e-4)


@pytest.mark.parametrize("kind", [IbpTraining, CrownIbpTraining, PolytopeTraining])
def test_before_eps_grows_the_loss_is_the_standard_one(kind: type[IbpTraining]) -> None:
    """With batch statistics, as a forward pass in train mode has them; the stored ones move as it
    would move them."""
    net, images, labels = net_and_batch()
    twin = seed_all(
        lambda: build_network("small-cnn-bn", channels=1, side=12, classes=4), 1
    ).train()
    expected = F.cross_entropy(twin(images), labels)
    loss, metrics = kind(0.1, grow=(0.5, 1.0)).loss(net, images, labels, at(0))
    assert metrics == {"eps": 0.0}
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    loss.backward()
    expected.backward()
    for (name, mine), theirs in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5), name
    for (name, mine), theirs in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert "tracked" in name or torch.allclose(mine, theirs, atol=1e-6), name


@pytest.mark.parametrize("kind", [IbpTraining, CrownIbpTraining, PolytopeTraining])
def test_stretch_trains_at_a_larger_ball(kind: type[IbpTraining]) -> None:
    """Twice eps with half the radius is the same loss; less than the ball asked for is refused."""
    found = []
    for eps, stretch in ((0.1, 1.0), (0.05, 2.0)):
        net, images, labels = net_and_batch()
        found.append(kind(eps, grow=(0.0, 0.5), stretch=stretch).loss(net, images, labels, at())[0])
    assert float(found[0].detach()) == pytest.approx(float(found[1].detach()), rel=1e-5)
    with pytest.raises(OptionError, match="stretch"):
        kind(0.1, stretch=0.5)


@pytest.mark.parametrize("kind", [IbpTraining, CrownIbpTraining])
def test_the_loss_bounds_the_loss_of_every_image_in_the_ball(kind: type[IbpTraining]) -> None:
    """No random or attacked image of the ball has a larger cross-entropy under the same batch
    statistics."""
    net, images, labels = net_and_batch("small-cnn")
    loss, _ = kind(0.05, grow=(0.0, 1.0), regularize=0.0).loss(net, images, labels, at(50))
    eps = 0.05 * 0.5
    for draw in range(20):
        shift = torch.rand(images.shape, generator=generator(draw, "in")) * 2 - 1
        moved = (images + eps * shift.sign()).clamp(0, 1)
        assert float(F.cross_entropy(net(moved), labels).detach()) <= float(loss.detach()) + 1e-5


def test_crown_ibp_is_never_the_looser_one_at_its_start_and_ibp_at_its_end() -> None:
    """Its weight falls from 1 to 0 as eps grows: at full eps both losses agree."""
    net, images, labels = net_and_batch("small-cnn")
    settings = {"grow": (0.0, 0.5), "regularize": 0.0}
    early = [
        float(k(0.3, **settings).loss(net, images, labels, at(5))[0].detach())
        for k in (CrownIbpTraining, IbpTraining)
    ]
    late = [
        float(k(0.3, **settings).loss(net, images, labels, at(99))[0].detach())
        for k in (CrownIbpTraining, IbpTraining)
    ]
    assert early[0] < early[1]
    assert late[0] == late[1]


def test_initial_weights_keep_boxes_from_growing() -> None:
    """Six wide layers: with Shi's start each grows the boxes by about one, with torch's own they
    would shrink."""

    def deep() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(6):
            layers += [nn.Linear(400, 400), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(400, 10))

    growth = {}
    for name in ("shi", "torch"):
        net = seed_all(deep, 3)
        if name == "shi":
            initialize_for_ibp(net, generator(0, "begin"))
        graph = prepare_graph(net, (1, 20, 20))
        images = torch.rand((8, 1, 20, 20), generator=generator(0, "deep"))
        sources = [graph.nodes[i].inputs[0] for i in relu_nodes(graph)]
        found = interval_boxes(graph, InputBall(images, 0.05, limits=None), set(sources))
        widths = [float((found[i][1] - found[i][0]).mean()) for i in sources]
        growth[name] = [b / a for a, b in pairwise(widths)]
    assert all(0.8 < g < 1.35 for g in growth["shi"])
    assert all(g > 3 for g in growth["torch"])


def test_regularizers_are_zero_where_nothing_is_wrong() -> None:
    """Boxes no wider than twice the input's and evenly split cost nothing; wide or one-sided ones
    do."""
    center = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    narrow, wide = (center - 0.1, center + 0.1), (center - 0.9, center + 0.9)
    at = TrainingPosition(0, 1, generator(0))
    assert float(tightness_loss(narrow, [narrow], at)) == 0
    assert float(tightness_loss(narrow, [wide], at)) == pytest.approx((0.5 - 0.2 / 1.8) / 0.5)
    assert float(balance_loss([narrow], at)) == 0
    lopsided = torch.tensor([[9.0, -1.0, 9.0, -1.0]])
    assert float(balance_loss([(lopsided - 0.1, lopsided + 0.1)], at)) > 0


def test_on_batch_is_the_net_in_train_mode() -> None:
    """Residual blocks included: logits of the graph are those of the module with batch
    statistics."""
    net = seed_all(lambda: build_network("signnet", channels=3, side=64, classes=5), 2)
    images = torch.rand((4, 3, 64, 64), generator=generator(0, "res"))
    graph, logits = set_batch_statistics(trace_graph(net, (3, 64, 64)), images, ALONE)
    twin = seed_all(lambda: build_network("signnet", channels=3, side=64, classes=5), 2).train()
    expected = twin(images)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert torch.allclose(graph(images), expected, atol=1e-4)


def test_sketched_boxes_estimate_the_exact_ones() -> None:
    """With many projections the lines come near those of the exact zonotope; at the first ReLU that
    is the box."""
    net, images, _ = net_and_batch("small-cnn")
    graph = prepare_graph(net, (1, 12, 12))
    ball = InputBall(images, 0.05)
    found = sketched_lines(graph, ball, 2001, generator(0, "sketch"))
    first = next(iter(relu_nodes(graph)))
    exact = relu_lines(
        interval_boxes(graph, ball, {graph.nodes[first].inputs[0]})[graph.nodes[first].inputs[0]],
        parallel=True,
    )
    assert float((found[first].upper - exact.upper).abs().mean()) < 0.02
    shifts = found[first].upper_shift - exact.upper_shift
    assert float(shifts.abs().mean()) < 0.01 * float(exact.upper_shift.abs().max())


def test_polytope_margins_are_near_the_certified_ones() -> None:
    """Averaged over draws the training loss is near the loss of the true bound, not a different
    quantity."""
    net, images, labels = net_and_batch("small-cnn")
    truth = verify_bounds(
        prepare_graph(net, (1, 12, 12)), images, labels, eps=0.05, method="polytope"
    ).margins
    forms = margin_forms(labels, 4)
    defense = PolytopeTraining(0.05, grow=(0.0, 0.0), projections=100)
    graph = prepare_graph(net, (1, 12, 12))
    _, margins = defense._bounded(graph, InputBall(images, 0.05), forms, at())
    assert torch.allclose(
        margins.amin(1).detach(), truth, atol=0.02 + 0.1 * float(truth.abs().max())
    )


def test_robust_cross_entropy_of_margins_is_that_of_the_logits() -> None:
    """With the margins of plain logits it is plain cross-entropy."""
    logits = torch.randn((5, 4), generator=generator(0, "logits"))
    labels = torch.tensor([0, 1, 2, 3, 0])
    margins = torch.einsum("bkc,bc->bk", margin_forms(labels, 4), logits)
    assert float(robust_cross_entropy(margins)) == pytest.approx(
        float(F.cross_entropy(logits, labels)), rel=1e-5
    )


def test_every_defense_has_its_name_and_refuses_what_it_does_not_know() -> None:
    """All of the classic line are made by name; foreign settings and names are OptionErrors that
    say what there is."""
    asked = (
        "standard fgsm pgd free fast trades gradient-penalty gaussian smoothadv ibp crown-ibp "
        "polytope patch masked"
    )
    assert set(DEFENSES) == set(asked.split())
    for name in DEFENSES:
        assert method_by_name(name, {"eps": 0.1, "norm": None}).settings()["defence"] == (
            DEFENSES[name].recorded_as or DEFENSES[name].__name__
        )  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="beta for pgd"):
        method_by_name("pgd", {"beta": 3.0})
    with pytest.raises(OptionError, match="the defenses are standard"):
        method_by_name("magic", {})
    for bad in (
        lambda: IbpTraining(0.1, "l1"),
        lambda: IbpTraining(0.1, grow=(0.6, 0.2)),
        lambda: PolytopeTraining(0.1, "l2"),
    ):
        with pytest.raises(OptionError):
            bad()
