"""Bounds of random graphs: no corner, random point or gradient attack goes below a bound."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from random_nets import CLASSES, SHAPE, RandomNet
from torch import Tensor, nn

from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.verify import METHODS, prepare_graph, verify_bounds
from physadv.core.errors import ModelError

EPS = {"linf": 0.06, "l2": 0.4}
IN_CI, NIGHTLY = 120, 2000


def margins_of(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(b,) margins of the labels' logits over the best other one."""
    logits = net(images)
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
        noise = torch.randn(images.shape, generator=draw, dtype=images.dtype)
        step = projected(noise.sign() * (EPS[norm] if norm == "linf" else 1), norm)
        if start == 0:
            step = projected(noise * EPS[norm] * 0.5, norm)
        for _ in range(8):
            point = (images + step).clamp(0, 1).requires_grad_(True)
            margin = margins_of(net, point, labels)
            least = torch.minimum(least, margin.detach())
            if not margin.requires_grad:
                break
            (grad,) = torch.autograd.grad(margin.sum(), point)
            ascent = grad.sign() if norm == "linf" else F.normalize(grad.flatten(1)).view_as(grad)
            step = projected(point.detach() - images - 0.5 * EPS[norm] * ascent, norm)
        point = (images + step).clamp(0, 1)
        least = torch.minimum(least, margins_of(net, point, labels).detach())
    return least


def hold(seed: int) -> bool:
    """Assert every method and norm on the graph of one seed; whether the graph is bounded at
    all."""
    net = RandomNet(seed).double()
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand((3, *SHAPE), generator=draw, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (3,), generator=draw)
    try:
        graph = prepare_graph(net, SHAPE)
    except ModelError:
        return False

    for norm in EPS:
        attacked = least_margins(net, images, labels, norm, draw)
        for method in METHODS:
            bound = verify_bounds(graph, images, labels, eps=EPS[norm], norm=norm, method=method)
            gap = bound.margins - attacked
            where = f"seed {seed}, {method} {norm}: {' '.join(net.words)}"
            assert (gap <= 1e-9 * (1 + attacked.abs())).all(), f"{where}: {gap.max():.3g} too high"
    return True


def test_no_attack_goes_below_a_bound_on_random_graphs() -> None:
    """Every method and norm, on graphs with views, shared readers, idle steps and residuals."""
    bounded = sum(hold(seed) for seed in range(IN_CI))
    assert bounded >= 0.9 * IN_CI


@pytest.mark.slow
def test_no_attack_goes_below_a_bound_on_many_random_graphs() -> None:
    """The same on thousands of graphs of other seeds."""
    bounded = sum(hold(seed) for seed in range(IN_CI, IN_CI + NIGHTLY))
    assert bounded >= 0.9 * NIGHTLY


def test_a_bound_that_is_too_high_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The assertion can fail: boxes of half their width are found out."""
    whole_box = InputBall.box

    def half_box(ball: InputBall) -> tuple[Tensor, ...]:
        return tuple((ball.center + end) / 2 for end in whole_box(ball))

    monkeypatch.setattr(InputBall, "box", half_box)
    with pytest.raises(AssertionError, match="too high"):
        [hold(seed) for seed in range(IN_CI)]
