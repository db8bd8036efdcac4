"""The victim with a closed-form optimum: linear logits, so that what an attack must reach is known
exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physadv.core.random_streams import generator
from physadv.threat.norms import Norm

SHAPE = (3, 6, 6)


class Linear(nn.Module):
    """Logits = W x + b for images (b, 3, 6, 6); counts its calls and the images it saw."""

    def __init__(
        self,
        classes: int = 2,
        *,
        scale: float = 1.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        n = torch.Size(SHAPE).numel()
        source = generator(seed, "linear", classes)
        weight = torch.randn((classes, n), generator=source, dtype=torch.float64) / n**0.5
        self.weight = nn.Parameter((weight * scale).to(dtype))
        self.bias = nn.Parameter(torch.zeros(classes, dtype=dtype))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, classes)."""
        self.calls += 1
        return x.flatten(1) @ self.weight.T + self.bias


def samples(
    model: Linear, n: int = 8, *, seed: int = 0, middle: bool = False
) -> tuple[Tensor, Tensor]:
    """Images with pixels near both ends of [0, 1] (or all near 0.5) and the classes the victim
    gives them."""
    source = generator(seed, "linear-images")
    x = torch.rand((n, *SHAPE), generator=source, dtype=torch.float64)
    x = (0.45 + 0.1 * x if middle else x).to(model.weight.dtype)
    with torch.no_grad():
        return x, model(x).argmax(1)


def least_margin(
    model: Linear, x0: Tensor, labels: Tensor, eps: float | Tensor, norm: Norm
) -> Tensor:
    """The lowest margin (b,) any image of the ball within [0, 1] has: the least over the rival
    classes, each linear."""
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    radius = torch.as_tensor(eps, dtype=torch.float64).expand(len(x0))[:, None]
    values = [
        _least(weight[labels] - weight[rival], x0.double().flatten(1), radius, norm)
        + bias[labels]
        - bias[rival]
        for rival in range(len(weight))
    ]
    own = torch.nn.functional.one_hot(labels, len(weight)).bool()
    return torch.stack(values, 1).masked_fill(own, torch.inf).amin(1)


def _least(w: Tensor, x: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """Minimum (b,) of <w, z> over the balls of radius ``eps`` (b, 1) around x (b, n) within [0,
    1]."""
    room, size = torch.where(w > 0, x, 1 - x), w.abs()
    if norm == "linf":
        move = torch.minimum(room, eps)
    elif norm == "l1":
        order = size.argsort(1, descending=True)
        ordered = room.gather(1, order)
        before = ordered.cumsum(1) - ordered
        move = torch.zeros_like(room).scatter(
            1, order, torch.minimum(ordered, (eps - before).clamp_min(0))
        )
    else:
        low, high = torch.zeros_like(eps), torch.full_like(eps, 1e6)
        for _ in range(100):
            scale = (low + high) / 2
            long = torch.minimum(scale * size, room).norm(dim=1, keepdim=True) > eps
            low, high = torch.where(long, low, scale), torch.where(long, scale, high)
        move = torch.minimum(low * size, room)
    return (w * x).sum(1) - (size * move).sum(1)


def least_distance(model: Linear, x0: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """Distance (b,) to the nearest image of another class within [0, 1], by bisection over eps."""
    low, high = (
        torch.zeros(len(x0), dtype=torch.float64),
        torch.full((len(x0),), 100.0, dtype=torch.float64),
    )
    for _ in range(40):
        eps = (low + high) / 2
        reached = least_margin(model, x0, labels, eps, norm) < 0
        high, low = torch.where(reached, eps, high), torch.where(reached, low, eps)
    return high
