"""The victim with a closed-form optimum: linear logits, so that what an attack must reach is known exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physadv.core.seeds import generator
from physadv.threat.projections import Norm

SHAPE = (3, 6, 6)


class Linear(nn.Module):
    """Logits = W x + b for images (b, 3, 6, 6); counts its calls and the images it saw."""

    def __init__(
        self, classes: int = 2, *, scale: float = 1.0, seed: int = 0, dtype: torch.dtype = torch.float64
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


def samples(victim: Linear, n: int = 8, *, seed: int = 0, middle: bool = False) -> tuple[Tensor, Tensor]:
    """Images with pixels near both ends of [0, 1] (or all near 0.5) and the classes the victim gives them."""
    source = generator(seed, "linear-images")
    x = torch.rand((n, *SHAPE), generator=source, dtype=torch.float64)
    x = (0.45 + 0.1 * x if middle else x).to(victim.weight.dtype)
    with torch.no_grad():
        return x, victim(x).argmax(1)


def least_margin(victim: Linear, x0: Tensor, labels: Tensor, eps: float, norm: Norm) -> Tensor:
    """The lowest margin (b,) any image of the ball within [0, 1] has: the least over the rival classes, each linear."""
    weight, bias = victim.weight.detach().double(), victim.bias.detach().double()
    best = torch.full((len(x0),), torch.inf, dtype=torch.float64)
    for rival in range(len(weight)):
        slope = weight[labels] - weight[rival]
        offset = bias[labels] - bias[rival]
        value = torch.stack([_least(w, x, eps, norm) for w, x in zip(slope, x0.double().flatten(1), strict=True)])
        best = torch.where(labels == rival, best, torch.minimum(best, value + offset))
    return best


def _least(w: Tensor, x: Tensor, eps: float, norm: Norm) -> Tensor:
    """Minimum of <w, z> over the ball around x within [0, 1]."""
    room = torch.where(w > 0, x, 1 - x)
    if norm == "linf":
        return w @ x - (w.abs() * room.clamp(max=eps)).sum()
    if norm == "l1":
        order = w.abs().argsort(descending=True)
        left, gain = eps, torch.zeros((), dtype=torch.float64)
        for i in order:
            move = min(left, float(room[i]))
            left, gain = left - move, gain + move * w[i].abs()
        return w @ x - gain
    low, high = 0.0, 1e6
    for _ in range(200):
        scale = (low + high) / 2
        long = float(torch.minimum(scale * w.abs(), room).norm()) > eps
        low, high = (low, scale) if long else (scale, high)
    return w @ x - (w.abs() * torch.minimum(low * w.abs(), room)).sum()


def least_distance(victim: Linear, x0: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """Distance (b,) to the nearest image of another class within [0, 1], by bisection over eps."""
    low, high = torch.zeros(len(x0), dtype=torch.float64), torch.full((len(x0),), 1e3, dtype=torch.float64)
    for _ in range(60):
        eps = (low + high) / 2
        reached = torch.cat(
            [least_margin(victim, x0[i : i + 1], labels[i : i + 1], float(e), norm) for i, e in enumerate(eps)]
        )
        high, low = torch.where(reached < 0, eps, high), torch.where(reached < 0, low, eps)
    return high
