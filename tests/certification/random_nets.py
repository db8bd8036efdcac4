"""Random small nets for the bounds: views, shared readers, idle operations, nested residuals."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (3, 8, 8)
CLASSES = 4
Step = Callable[[list[Tensor]], Tensor]


class RandomNet(nn.Module):
    """A random program over a growing list of values; every step reads any earlier value.

    The logits are the sum of linear heads on the last few values, so that a step that misreads
    memory or a neighbor shows in them.
    """

    def __init__(self, seed: int, *, steps: int = 9, kinds: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        self.kinds = kinds or tuple(KINDS)
        self.rounds = False
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            self.layers = nn.ModuleList()
            self.steps: list[Step] = []
            self.words: list[str] = []
            values = [torch.rand(2, *SHAPE)]
            for _ in range(steps):
                self._extend(values)
            self.heads = [
                (i, self._layer(_head(values[i][0].numel(), self.draw, linear=bool(kinds))))
                for i in sorted({len(values) - 1, *self.draw.sample(range(len(values)), 2)})
            ]
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        values = [images]
        for step in self.steps:
            values.append(step(values))
        logits = [self.layers[head](values[i].flatten(1)) for i, head in self.heads]
        return _sum(logits)

    def _layer(self, module: nn.Module) -> int:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.3, 1.5)
            nn.init.normal_(module.weight)
        self.layers.append(module.eval())
        return len(self.layers) - 1

    def _extend(self, values: list[Tensor]) -> None:
        """Add one step that works on the values so far, and its value."""
        source = self.draw.choice([len(values) - 1, self.draw.randrange(len(values))])
        kind = self.draw.choice(self.kinds)
        step = KINDS[kind](self, source, values)
        if step is not None:
            self.steps.append(step)
            self.words.append(f"{kind}({source})")
            values.append(step(values))


def _head(inputs: int, draw: random.Random, *, linear: bool) -> nn.Module:
    """A linear layer, or a small dense net with a norm."""
    if linear or draw.random() < 0.7:
        return nn.Linear(inputs, CLASSES)
    norm = nn.BatchNorm1d(6)
    nn.init.uniform_(norm.running_var, 0.3, 1.5)
    nn.init.normal_(norm.running_mean, 0, 0.3)
    bias = draw.random() < 0.5
    return nn.Sequential(
        nn.Linear(inputs, 6, bias), norm, nn.ReLU(), nn.Dropout(), nn.Linear(6, CLASSES)
    )


def _sum(logits: list[Tensor]) -> Tensor:
    total = logits[0]
    for logit in logits[1:]:
        total = total + logit
    return total


def _conv(net: RandomNet, i: int, values: list[Tensor]) -> Step | None:
    channels, height, width = values[i].shape[1:]
    kernel, stride, padding, dilation = net.draw.choice(
        [(3, 1, 1, 1), (3, 2, 1, 1), (1, 1, 0, 1), (2, 2, 0, 1), (3, 1, 2, 2), (4, 2, 1, 1)]
    )
    if min(height, width) + 2 * padding < dilation * (kernel - 1) + 1:
        return None
    groups = net.draw.choice([g for g in (1, 2) if channels % g == 0])
    conv = nn.Conv2d(
        channels,
        net.draw.choice([2, 4, 6]),
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=net.draw.random() < 0.7,
    )
    layer = net._layer(conv)
    return lambda v: net.layers[layer](v[i])


def _functional(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    """Functions with weights of their own, positional and named."""
    channels, _, width = values[i].shape[1:]
    weight = torch.randn(channels, 1, 3, 3).double() / 3
    square = torch.randn(width, width).double() / 3
    wide = torch.randn(4, channels, 1, 1).double() / 2
    shift = torch.randn(4).double()
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda t: F.conv2d(t, weight.to(t.dtype), padding="same", groups=channels),
        lambda t: F.conv2d(t, wide.to(t.dtype), shift.to(t.dtype), padding="valid"),
        lambda t: torch.conv2d(t, wide.to(t.dtype), None, 1, 0),
        lambda t: F.linear(t, square.to(t.dtype)),
        lambda t: F.linear(input=t, weight=square.to(t.dtype), bias=None),
    ]
    function = net.draw.choice(forms)
    return lambda v: function(v[i])


def _norm(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    layer = net._layer(nn.BatchNorm2d(values[i].shape[1]))
    return lambda v: net.layers[layer](v[i])


def _relu(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    forms: list[Callable[[Tensor], Tensor]] = [F.relu, torch.relu, Tensor.relu, nn.ReLU()]
    forms.append(lambda t: F.relu(t + 0.1, inplace=True))
    relu = net.draw.choice(forms)
    return lambda v: relu(v[i])


def _view(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    channels, height, width = values[i].shape[1:]
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda t: t[:, :, ::2, ::2],
        lambda t: t[:, : (channels + 1) // 2],
        lambda t: t[..., 1:, :] if height > 1 else t[..., :1, :],
        lambda t: t.permute(0, 1, 3, 2),
        lambda t: t.transpose(2, 3),
        lambda t: t.reshape(len(t), channels * height, 1, width),
        lambda t: t.unsqueeze(1).squeeze(1),
        lambda t: t.flatten(2).unflatten(2, (height, width)),
        lambda t: t.reshape(len(t), channels, width, height),
        lambda t: t.chunk(2, 1)[-1],
        lambda t: t.split(3, 2)[0],
        lambda t: t.unbind(1)[0][:, None],
        lambda t: t.select(1, -1).unsqueeze(1),
        lambda t: t.narrow(3, 0, (width + 1) // 2),
        lambda t: t[:, :1].expand(-1, 2, -1, -1),
        lambda t: t.movedim(1, 3).contiguous().movedim(3, 1),
        lambda t: t[:, [0, channels - 1, 0]],
    ]
    view = net.draw.choice(forms)
    return lambda v: view(v[i])


def _reordered(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    """Choices of numbers by their places: mirrored, rolled, shuffled, repeated."""
    channels, height, width = values[i].shape[1:]
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(channels))
    columns = torch.arange(width).flip(0)
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda t: t.flip(1),
        lambda t: torch.flip(t, (2, 3)),
        torch.fliplr,  # the channels of a batch
        lambda t: t.flip([-1]),
        lambda t: t.roll(1, 1),
        lambda t: torch.roll(t, (1, -2), dims=(2, 3)),
        lambda t: t.index_select(1, order),
        lambda t: torch.index_select(t, 3, columns),
        lambda t: t[:, order],
        lambda t: t[:, list(range(channels))[::-1]],
        lambda t: torch.rot90(t, 1, (2, 3)),
        lambda t: t.repeat(1, 2, 1, 1),
        lambda t: t.tile((2, 1)),
        lambda t: t.repeat_interleave(2, dim=1),
        lambda t: t.gather(1, order.flip(0).view(1, -1, 1, 1).expand(t.shape)),
        lambda t: torch.take_along_dim(t, order.view(1, -1, 1, 1), 1),
        lambda t: F.channel_shuffle(t, 2) if channels % 2 == 0 else t.flip(1),
        lambda t: F.pixel_shuffle(t, 2) if channels % 4 == 0 else t.flip(3),
        lambda t: F.pixel_unshuffle(t, 2) if height % 2 + width % 2 == 0 else t.flip(2),
        lambda t: t.mT,
        lambda t: t.unfold(3, 1, 2).flatten(3),
        lambda t: t.diagonal(0, 2, 3).unsqueeze(2),
    ]
    reorder = net.draw.choice(forms)
    return lambda v: reorder(v[i])


def _idle(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda t: t * 1.0,
        lambda t: t + 0,
        lambda t: t / 1,
        lambda t: t - torch.zeros(1),
        lambda t: t.clone(),
        lambda t: t.contiguous(),
        lambda t: F.dropout(t, 0.5, training=False),
        lambda t: t.detach(),
        lambda t: t.to(t.dtype),
        lambda t: t.type_as(t),
        nn.Identity(),
        nn.Dropout2d().eval(),
    ]
    idle = net.draw.choice(forms)
    return lambda v: idle(v[i])


def _scaled(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    factor = torch.randn(values[i].shape[1], 1, 1).double()
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda t: t * factor.to(t.dtype),
        lambda t: 0.3 - t,
        lambda t: -t,
        lambda t: t + factor.to(t.dtype),
        lambda t: factor.to(t.dtype).abs() * t,
        lambda t: t * (factor > 0),
        lambda t: torch.sub(t, 0.2).mul(-0.7),
    ]
    scale = net.draw.choice(forms)
    return lambda v: scale(v[i])


def _pooled(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda t: F.adaptive_avg_pool2d(t, 2),
        lambda t: F.avg_pool2d(t, 2, ceil_mode=True),
        lambda t: F.avg_pool2d(t, 3, 1, 1),
        lambda t: t.mean((2, 3), keepdim=True),
        lambda t: F.pad(t, (1, 0, 0, 1)),
        lambda t: F.interpolate(t, size=4, mode="bilinear"),
        lambda t: F.interpolate(t, size=5, mode="nearest"),
    ]
    pool = net.draw.choice(forms)
    return lambda v: pool(v[i])


def _in_place(net: RandomNet, i: int, values: list[Tensor]) -> Step | None:
    """Change a value itself, so that views of it and later readers see it changed."""
    if values[i].untyped_storage().data_ptr() == values[0].untyped_storage().data_ptr():
        return None  # the caller's images
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda t: F.relu(t, inplace=True),
        lambda t: t.clone().relu_(),
        lambda t: t.mul_(0.5),
        lambda t: t.add_(0.1),
        lambda t: t[:, :1].relu_(),
        lambda t: t.detach().sub_(0.2),
    ]
    if 0 in values[i].stride():
        return None  # an expanded value, which cannot be written to
    change = net.draw.choice(forms)
    return lambda v: change(v[i])


def _cast(net: RandomNet, i: int, values: list[Tensor]) -> Step | None:
    """Round a value by a cast and back, which no bound covers."""
    if net.draw.random() < 0.8:
        return None
    dtype = net.draw.choice([torch.float16, torch.bfloat16, torch.float32])
    net.rounds = True
    return lambda v: v[i].to(dtype).to(v[0].dtype)


def _residual(net: RandomNet, i: int, values: list[Tensor]) -> Step | None:
    same = [j for j, v in enumerate(values) if v.shape == values[i].shape]
    j = net.draw.choice(same)
    if net.draw.random() < 0.3:
        return lambda v: v[i] - v[j]
    return lambda v: v[i] + v[j]


def _branch(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    """A residual block around a value, its shortcut a view taken before the branch."""
    channels = values[i].shape[1]
    first = net._layer(nn.Conv2d(channels, channels, 3, 2, 1))
    second = net._layer(nn.Conv2d(channels, channels, 3, 1, 1))

    def block(v: list[Tensor]) -> Tensor:
        shortcut = v[i][:, :, ::2, ::2]
        branch = net.layers[second](F.relu(net.layers[first](F.relu(v[i]))))
        return F.relu(shortcut + branch)

    return block


def _smooth(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    """A smooth activation, the value made larger before so that its bends matter."""
    forms: list[Callable[[Tensor], Tensor]] = [
        torch.tanh,
        Tensor.sigmoid,
        F.gelu,
        F.silu,
        nn.Softplus(),
        nn.Softplus(beta=2.0, threshold=12.0),
        nn.Tanh(),
        nn.GELU(),
    ]
    smooth, factor = net.draw.choice(forms), net.draw.choice([0.5, 2.0, 6.0])
    return lambda v: smooth(v[i] * factor - 0.4 * factor)


def _piecewise(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    """Leaky ReLUs, clips and absolute values."""
    prelu = nn.PReLU(values[i].shape[1])
    nn.init.uniform_(prelu.weight, -0.3, 1.2)
    layer = net._layer(prelu)
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda t: F.leaky_relu(t - 0.3, 0.2),
        lambda t: F.leaky_relu(input=t - 0.3, negative_slope=-0.1),
        lambda t: nn.LeakyReLU(0.1, inplace=True)(t - 0.3),
        lambda t: net.layers[layer](t - 0.3),
        lambda t: t.clamp(0.2, 0.6),
        lambda t: torch.clamp(t, max=0.4),
        lambda t: t.clamp_min(0.3),
        lambda t: torch.clip(t, min=0.3),
        lambda t: F.relu6(t * 20 - 8),
        lambda t: F.hardtanh(t * 2 - 1, -0.5, 0.4),
        lambda t: (t - 0.4).abs(),
    ]
    piecewise = net.draw.choice(forms)
    return lambda v: piecewise(v[i])


def _maximum(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    """Max pooling in all forms, and maxima of two values or over a dimension."""
    same = [j for j, v in enumerate(values) if v.shape == values[i].shape]
    j = net.draw.choice(same)
    forms: list[Callable[[list[Tensor]], Tensor]] = [
        lambda v: F.max_pool2d(v[i], 2, ceil_mode=True),
        lambda v: F.max_pool2d(v[i], 3, 1, 1),
        lambda v: nn.MaxPool2d(3, 2, 1, ceil_mode=True)(v[i]),
        lambda v: F.max_pool2d(v[i], (2, 1), 1, dilation=1) if v[i].shape[2] > 1 else v[i],
        lambda v: F.max_pool2d(v[i], 2, 1, 1, 2) if min(v[i].shape[2:]) > 1 else v[i],
        lambda v: F.adaptive_max_pool2d(v[i], (2, 1)),
        lambda v: v[i].amax((2, 3), keepdim=True),
        lambda v: v[i].amax(1)[:, None],
        lambda v: torch.maximum(v[i], v[j]),
        lambda v: torch.minimum(v[i], 0.9 - v[j]),
    ]
    return net.draw.choice(forms)


def _joined(net: RandomNet, i: int, values: list[Tensor]) -> Step:
    """Concatenation and stacking."""
    shape = values[i].shape
    fits = [j for j, v in enumerate(values) if v.shape[2:] == shape[2:]]
    same = [j for j, v in enumerate(values) if v.shape == shape]
    j, k = net.draw.choice(fits), net.draw.choice(same)
    forms: list[Callable[[list[Tensor]], Tensor]] = [
        lambda v: torch.cat([v[i], v[j]], 1),
        lambda v: torch.cat((v[j], v[i]), dim=1),
        lambda v: torch.concat([v[i], v[k]], -1),
        lambda v: torch.stack([v[k], v[i]], 1).flatten(1, 2),
    ]
    return net.draw.choice(forms)


def _bordered(net: RandomNet, i: int, values: list[Tensor]) -> Step | None:
    """Borders that repeat what is within, and constant ones."""
    if min(values[i].shape[2:]) < 2:
        return None
    channels = values[i].shape[1]
    layer = net._layer(nn.Conv2d(channels, 4, 3, 1, 1, padding_mode="reflect"))
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda t: F.pad(t, (1, 0, 1, 1), mode="reflect"),
        lambda t: F.pad(t, (1, 2, 0, 1), mode="replicate"),
        lambda t: F.pad(t, (1, 1, 1, 1), mode="circular"),
        lambda t: net.layers[layer](t),
    ]
    border = net.draw.choice(forms)
    return lambda v: border(v[i])


Maker = Callable[[RandomNet, int, list[Tensor]], Step | None]
KINDS: dict[str, Maker] = {
    "conv": _conv,
    "norm": _norm,
    "relu": _relu,
    "relu again": _relu,
    "view": _view,
    "reordered": _reordered,
    "idle": _idle,
    "scaled": _scaled,
    "pooled": _pooled,
    "residual": _residual,
    "residual again": _residual,
    "branch": _branch,
    "functional": _functional,
    "in place": _in_place,
    "cast": _cast,
    "smooth": _smooth,
    "piecewise": _piecewise,
    "maximum": _maximum,
    "joined": _joined,
    "bordered": _bordered,
}
LINEAR = (
    "conv",
    "functional",
    "norm",
    "view",
    "idle",
    "scaled",
    "pooled",
    "residual",
    "view",
    "reordered",
    "conv",
    "joined",
    "bordered",
)
"""Kinds without ReLU: every bound is exact."""
