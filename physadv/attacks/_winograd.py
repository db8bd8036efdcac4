"""Convolutions of 3x3 by Winograd's minimal filtering, a quarter of the multiplications.

Tiles of 4x4 outputs are computed of tiles of 6x6 inputs as 36 matrix products over the channels
(Winograd 1980; Lavin and Gray 2016, F(4x4, 3x3)). Products of float32 round differently from those
of a convolution, by about 1e-5 of the largest output. On CPUs that have no such kernel of their own
it pays where there are many channels; GPUs' libraries do it themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from physadv.attacks._layer_swaps import replace_layers

_TILE, _REACH = 4, 6
"""Side of a tile of outputs, and of the inputs that it depends on."""
_CHANNELS = 160
"""Fewest channels in and out, of which the products outweigh the transforms."""
_PIXELS = 256
"""Fewest pixels in a batch for which the transformed weights are worth reading."""
_MOST_BYTES = 1 << 30
"""Most memory for the transformed weights of a model, which take four times that of its own."""
_CHUNK = 1 << 20
"""Most numbers of the transformed inputs at a time, so that they stay in a processor's cache."""

_INPUT = torch.tensor(
    [
        [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
        [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
        [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
    ],
    dtype=torch.float64,
)
_WEIGHT = torch.tensor(
    [
        [1 / 4, 0.0, 0.0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0.0, 0.0, 1.0],
    ],
    dtype=torch.float64,
)
_OUTPUT = torch.tensor(
    [
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
        [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
    ],
    dtype=torch.float64,
)


class WinogradConv2d(nn.Module):
    """A convolution of 3x3 with frozen weights, by Winograd's method where there are pixels enough.

    Args:
        conv: Convolution that :func:`fits` holds of; not changed.

    Attributes:
        fewest_pixels: Pixels of a batch from which on it is done so; for fewer the convolution
            itself is taken.
    """

    fewest_pixels = _PIXELS
    products: Tensor
    into: Tensor
    out_of: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        weight = conv.weight.detach().permute(2, 3, 1, 0).reshape(9, -1)
        products = (torch.kron(_WEIGHT, _WEIGHT) @ weight.double()).to(weight)
        shape = (_REACH**2, conv.in_channels, conv.out_channels)
        self.register_buffer("products", products.view(shape))
        self.register_buffer("into", torch.kron(_INPUT, _INPUT).to(weight))
        self.register_buffer("out_of", torch.kron(_OUTPUT, _OUTPUT).to(weight))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the convolution returns for ``x`` (b, c, h, w)."""
        pixels = len(x) * x.shape[-2:].numel()
        if x.ndim != 4 or pixels < self.fewest_pixels or x.dtype != self.products.dtype:
            out: Tensor = self.conv(x)
            return out
        filtered: Tensor = _Filter.apply(  # type: ignore[no-untyped-call]
            x, self.products, self.into, self.out_of
        )
        return filtered if self.conv.bias is None else filtered + self.conv.bias.view(-1, 1, 1)


class _Filter(torch.autograd.Function):
    """Outputs of the inputs, and the inputs' gradient of the outputs'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, products: Tensor, into: Tensor, out_of: Tensor) -> Tensor:
        ctx.save_for_backward(products, into, out_of)
        return _filtered(x, products, into, out_of)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _transposed(gradient, *ctx.saved_tensors), None, None, None


def use_winograd(module: nn.Module) -> int:
    """Replace the convolutions of ``module`` that gain by it, in place; return their number."""
    chosen = [m for m in module.modules() if isinstance(m, nn.Conv2d) and fits(m)]
    size = sum(conv.weight.numel() * conv.weight.element_size() for conv in chosen)
    if size * _REACH**2 > _MOST_BYTES * 9:
        return 0
    made = {conv: WinogradConv2d(conv) for conv in chosen}
    replace_layers(module, made)
    return len(made)


def undo_winograd(module: nn.Module) -> None:
    """Put back, in place, the convolutions that :func:`use_winograd` has replaced."""
    replace_layers(module, {m: m.conv for m in module.modules() if isinstance(m, WinogradConv2d)})


@contextmanager
def any_number_of_pixels(module: nn.Module) -> Iterator[None]:
    """Run Winograd's method on however few pixels within, so that a comparison meets it."""
    layers = [m for m in module.modules() if isinstance(m, WinogradConv2d)]
    for layer in layers:
        layer.fewest_pixels = 0
    try:
        yield
    finally:
        for layer in layers:
            layer.fewest_pixels = _PIXELS


def fits(conv: nn.Conv2d) -> bool:
    """Return whether ``conv`` is a plain one of 3x3 on a CPU, with channels enough to gain."""
    return (
        type(conv) is nn.Conv2d
        and conv.weight.device.type == "cpu"
        and conv.weight.dtype == torch.float32
        and (conv.kernel_size, conv.stride, conv.dilation) == ((3, 3), (1, 1), (1, 1))
        and conv.padding in ((1, 1), 1, "same")
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= _CHANNELS
    )


def _filtered(x: Tensor, products: Tensor, into: Tensor, out_of: Tensor) -> Tensor:
    """Outputs (b, o, h, w)."""
    count, channels, height, width = x.shape
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    low, right = rows * _TILE - height + 1, columns * _TILE - width + 1
    out = _channels_last(x, products.shape[2])
    for part in _chunks(count, rows * columns * max(products.shape[1:])):
        padded = F.pad(x[part].permute(0, 2, 3, 1), (0, 0, 1, right, 1, low)).contiguous()
        image, row, column, _ = padded.stride()
        tiles = padded.as_strided(
            (_REACH, _REACH, len(padded), rows, columns, channels),
            (row, column, image, _TILE * row, _TILE * column, 1),
        )
        spectrum = into @ tiles.reshape(_REACH**2, -1)
        spectrum = torch.bmm(spectrum.view(_REACH**2, -1, channels), products)
        blocks = out_of @ spectrum.view(_REACH**2, -1)
        blocks = blocks.view(_TILE, _TILE, len(padded), rows, columns, -1).permute(2, 3, 0, 4, 1, 5)
        place = out[part].permute(0, 2, 3, 1)
        if rows * _TILE == height and columns * _TILE == width:
            place.view(blocks.shape).copy_(blocks)
        else:
            whole = blocks.reshape(len(padded), rows * _TILE, columns * _TILE, -1)
            place.copy_(whole[:, :height, :width])
    return out


def _transposed(gradient: Tensor, products: Tensor, into: Tensor, out_of: Tensor) -> Tensor:
    """The transposed map of :func:`_filtered`: gradients (b, c, h, w) of the inputs."""
    count, channels, height, width = gradient.shape
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    low, right = rows * _TILE - height, columns * _TILE - width
    out = _channels_last(gradient, products.shape[1])
    for part in _chunks(count, rows * columns * max(products.shape[1:])):
        padded = gradient[part].permute(0, 2, 3, 1)
        if low or right:
            padded = F.pad(padded, (0, 0, 0, right, 0, low))
        blocks = padded.reshape(len(padded), rows, _TILE, columns, _TILE, channels)
        spectrum = out_of.t() @ blocks.permute(2, 4, 0, 1, 3, 5).reshape(_TILE**2, -1)
        spectrum = torch.bmm(spectrum.view(_REACH**2, -1, channels), products.transpose(1, 2))
        shape = (_REACH, _REACH, len(padded), rows, columns, -1)
        tiles = (into.t() @ spectrum.view(_REACH**2, -1)).view(shape)
        images = _overlapped(tiles)[:, 1 : height + 1, 1 : width + 1]
        out[part] = images.permute(0, 3, 1, 2)
    return out


def _overlapped(tiles: Tensor) -> Tensor:
    """Add up tiles (6, 6, b, rows, columns, c), each 4 beyond the one before, to images."""
    _, _, count, rows, columns, channels = tiles.shape
    out = tiles.new_zeros((count, rows + 1, _TILE, columns + 1, _TILE, channels))
    grid, rest = out.permute(2, 4, 0, 1, 3, 5), _REACH - _TILE
    grid[:, :, :, :-1, :-1] = tiles[:_TILE, :_TILE]
    grid[:rest, :, :, 1:, :-1] += tiles[_TILE:, :_TILE]
    grid[:, :rest, :, :-1, 1:] += tiles[:_TILE, _TILE:]
    grid[:rest, :rest, :, 1:, 1:] += tiles[_TILE:, _TILE:]
    return out.view(count, (rows + 1) * _TILE, (columns + 1) * _TILE, channels)


def _channels_last(like: Tensor, channels: int) -> Tensor:
    """Room for images of ``channels``. It is no view, which layers in place would not take."""
    count, _, height, width = like.shape
    return torch.empty(
        (count, channels, height, width),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def _chunks(count: int, numbers: int) -> list[slice]:
    """Slices of ``count`` images whose tiles of 1 x 1 hold ``numbers`` each, of as many as stay
    within :data:`_CHUNK`."""
    size = max(1, _CHUNK // (_REACH**2 * numbers))
    return [slice(first, first + size) for first in range(0, count, size)]
