"""Bounds hold on nets with views, shared readers, idle operations and residuals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.certification.bounds.verify import METHODS, prepare_graph, verify_bounds
from physadv.core.errors import ModelError
from physadv.core.random_streams import generator

SIDE, CLASSES = 8, 4
GRAPHS = 60


class StridedShortcut(nn.Module):
    """A residual net whose shortcut is a view that is taken before its branch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.first, self.second = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Linear(8 * 7 * 7, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images)
        shortcut = hidden[:, :, ::2, ::2]
        branch = self.second(F.relu(self.first(F.relu(hidden))))
        return self.head(F.relu(shortcut + branch).flatten(1))


class RandomNet(nn.Module):
    """A net of random views, idle operations, normalizations and sums; ``seed`` decides."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        stream = generator(seed, "random net")

        def below(count: int) -> int:
            return int(torch.randint(count, (), generator=stream))

        torch.manual_seed(seed)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))
        for norm in self.norms:
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2)
        self.head = nn.Linear(4 * SIDE * SIDE, CLASSES)
        self.choices = [(below(4), below(4), below(3), below(2)) for _ in range(3)]

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images)
        for (view, idle, reader, order), convolution, norm in zip(
            self.choices, self.convolutions, self.norms, strict=True
        ):
            shortcut = _view(hidden, view)
            passed = _idle(hidden, idle)
            branch = convolution(F.relu(passed)) if order else F.relu(norm(convolution(passed)))
            if reader == 0:
                branch = norm(branch) + branch
            elif reader == 1:
                branch = branch + _idle(branch, idle)
            hidden = branch + _view(shortcut, view)
        return self.head(F.relu(hidden).flatten(1))


def _view(value: Tensor, kind: int) -> Tensor:
    """A view of ``value`` of the same shape; two of the same ``kind`` in a row are the value."""
    if kind == 1:
        return value.permute(0, 1, 3, 2)
    if kind == 2:
        return value.reshape(len(value), -1).reshape(value.shape)
    return value.unsqueeze(1).squeeze(1) if kind == 3 else value


def _idle(value: Tensor, kind: int) -> Tensor:
    """``value`` after an operation that changes nothing."""
    return (value, value * 1.0, value + 0, value / 1)[kind]


def _least_margin(net: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """The least margin (b,) that random points, corners and 10 signed steps find in the balls."""
    stream = generator(0, "attack")
    least = torch.full((len(images),), torch.inf)

    def margins(points: Tensor) -> Tensor:
        logits = net(points)
        label = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        return label - others

    for start in range(6):
        noise = 2 * torch.rand(images.shape, generator=stream, dtype=images.dtype) - 1
        point = (images + eps * (noise.sign() if start % 2 else noise)).clamp(0, 1)
        for _ in range(10):
            point = point.detach().requires_grad_()
            value = margins(point)
            least = torch.minimum(least, value.detach())
            (slope,) = torch.autograd.grad(value.sum(), point)
            step = point.detach() - eps / 4 * slope.sign()
            point = torch.clamp(torch.clamp(step, images - eps, images + eps), 0, 1)
        least = torch.minimum(least, margins(point.detach()).detach())
    return least


def _assert_sound(net: nn.Module, images: Tensor, eps: float, what: str) -> None:
    net = net.eval().double()
    images = images.double()
    labels = net(images).argmax(1)
    graph = prepare_graph(net, tuple(images.shape[1:]), torch.float64)
    least = _least_margin(net, images, labels, eps)
    for method in METHODS:
        bound = verify_bounds(graph, images, labels, eps=eps, method=method).margins
        assert bool((bound <= least + 1e-9).all()), f"{what}, {method}: an attack beats its bound"


def test_a_view_of_the_shortcut_is_not_written_over() -> None:
    """Every method's bound stays below what an attack reaches where a strided view is read late."""
    images = torch.rand(8, 3, 28, 28, generator=generator(0, "images"))
    _assert_sound(StridedShortcut(), images, 0.01, "strided shortcut")


@pytest.mark.parametrize("seed", range(GRAPHS))
def test_no_attack_beats_a_bound_on_random_graphs(seed: int) -> None:
    """Random points, corners and gradient steps stay above the bounds; the seed is the test's name."""
    images = torch.rand(4, 1, SIDE, SIDE, generator=generator(seed, "images"))
    _assert_sound(RandomNet(seed), images, 0.02, f"seed {seed}")


class Inexact(nn.Module):
    """A linear net with ``change`` on its way."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.head = change, nn.Linear(SIDE * SIDE, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.change(images.flatten(1)))


@pytest.mark.parametrize(
    "change",
    [lambda x: x.half().to(x.dtype), lambda x: x.bfloat16().float().to(x.dtype)],
    ids=["half", "bfloat16"],
)
def test_a_cast_to_half_precision_is_refused(change: Callable[[Tensor], Tensor]) -> None:
    """What is not exactly an identity has no bound here."""
    with pytest.raises(ModelError):
        prepare_graph(Inexact(change).eval(), (1, SIDE, SIDE))
