"""dlib's face recognition network (29 convolutions, 128 outputs) and a reader of its
public-domain ``.dat`` file.

The file holds dlib's own serialization: a length-prefixed layer name, then its one tensor,
innermost layer first, which is the order of computation. Only names and tensors are read; nothing
in the file is ever executed.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.reading import foreign_errors
from physadv.core.text import read_file

SIZE, DIMENSION = 150, 128
MEAN_RGB = (122.782, 117.001, 104.298)
# Residual stages of dlib's face network, in order of computation: (channels, halves the side) per
# block.
_BLOCKS = (
    *((32, False),) * 3,
    *((64, True), (64, False), (64, False), (64, False)),
    *((128, True), (128, False), (128, False)),
    *((256, True), (256, False), (256, False)),
    (256, True),
)
_MOST_BYTES = 1 << 28
"""Most bytes of a file of dlib, whose nets have some 20 MB."""
_LAYER = re.compile(rb"\x01(?:\x05con_4|\x07affine_|\x04fc_2)")


class DlibBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; where the side is halved, the shortcut is an
    average pool."""

    def __init__(self, before: int, channels: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        stride, padding = (2, 0) if halves else (1, 1)
        self.first = nn.Conv2d(before, channels, 3, stride, padding)
        self.first_scale = ChannelAffine(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)
        self.second_scale = ChannelAffine(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, before, h, w) to (b, channels, h', w')."""
        y = self.second_scale(self.second(torch.relu(self.first_scale(self.first(x)))))
        return torch.relu(_add_padded(y, F.avg_pool2d(x, 2, 2) if self.halves else x))


class ChannelAffine(nn.Module):
    """A scale and a shift per channel: dlib's batch normalization, frozen."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift ``x`` (b, c, h, w); the shape stays."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class DlibResNet(nn.Module):
    """Aligned faces (b, 3, 150, 150), RGB in [0, 1] -> descriptors (b, 128), as dlib returns them
    (not normalized)."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN_RGB)[:, None, None] / 255)
        self.stem = nn.Conv2d(3, 32, 7, 2)
        self.stem_scale = ChannelAffine(32)
        before = (32, *(channels for channels, _ in _BLOCKS))
        self.blocks = nn.ModuleList(
            DlibBlock(b, c, halves) for b, (c, halves) in zip(before, _BLOCKS, strict=False)
        )
        self.head = nn.Linear(256, DIMENSION, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return descriptors (b, 128) of aligned faces ``x``; those of one person are mostly less
        than 0.6 apart."""
        return self.tail(self.trunk(x))

    def trunk(self, x: Tensor) -> Tensor:
        """Apply all but the last four blocks and the head to ``x``: (b, 3, 150, 150) -> (b, 128,
        8, 8)."""
        x = torch.relu(self.stem_scale(self.stem((x - self.mean) * (255 / 256))))
        x = F.max_pool2d(x, 3, 2)
        for block in self.blocks[:-4]:
            x = block(x)
        return x

    def tail(self, features: Tensor) -> Tensor:
        """Apply the last four blocks and the head to ``features``: (b, 128, 8, 8) -> (b, 128)."""
        for block in self.blocks[-4:]:
            features = block(features)
        out: Tensor = self.head(features.mean((2, 3)))
        return out


def load_dlib_resnet(path: str | Path) -> DlibResNet:
    """Read the network from ``path``, a ``dlib_face_recognition_resnet_model_v1.dat``.

    Raises:
        ModelError: The layers are others.
    """
    net = DlibResNet()
    tensors = _tensors(Path(path))
    layers: list[tuple[nn.Module, nn.Module]] = [(net.stem, net.stem_scale)]
    for block in net.blocks:
        assert isinstance(block, DlibBlock)
        layers += [(block.first, block.first_scale), (block.second, block.second_scale)]

    modules = [module for pair in layers for module in pair] + [net.head]
    if len(tensors) != len(modules):
        raise ModelError(
            f"{path}: {len(tensors)} layers",
            f"{len(modules)} are expected",
            "Use the file of 2017, v1",
        )

    with torch.no_grad():
        for number, (module, values) in enumerate(zip(modules, tensors, strict=True)):
            _fill(module, values, f"{path}: layer {number}")
    return net.eval().requires_grad_(False)


def _fill(module: nn.Module, values: Tensor, name: str) -> None:
    """Copy dlib's one flat tensor a layer (weights, then biases) into the module's parameters."""
    if isinstance(module, nn.Linear):  # dlib stores (inputs, outputs)
        values = values.reshape(module.in_features, module.out_features).T.reshape(-1)
    parameters = list(module.parameters())
    if sum(p.numel() for p in parameters) != values.numel():
        raise ModelError(
            f"{name}, {values.numel()} numbers", "do not fit the net", "Use the file of 2017, v1"
        )

    start = 0
    for parameter in parameters:
        parameter.copy_(values[start : start + parameter.numel()].reshape(parameter.shape))
        start += parameter.numel()


def _tensors(path: Path) -> list[Tensor]:
    """Return the tensor of every convolution, affine and linear layer, in order of computation."""
    data = read_file(path, most_bytes=_MOST_BYTES, error=ModelError)
    with foreign_errors(f"{path}", ModelError, "broken or of another version", "Fetch it again"):
        return _tensors_in(data, path)


def _tensors_in(data: bytes, path: Path) -> list[Tensor]:
    tensors, position = [], 0
    while match := _LAYER.search(data, position):
        at = match.end()
        if match.group().endswith(b"fc_2"):
            at = _skip_integers(data, at, 2)  # number of outputs, bias mode
        values, position = _tensor(data, at, path)
        tensors.append(values)
    return tensors


def _skip_integers(data: bytes, at: int, count: int) -> int:
    for _ in range(count):
        _, at = _integer(data, at)
    return at


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """Read a packed integer: a byte with sign (0x80) and length (0x0f), then little-endian
    bytes."""
    control = data[at]
    size = control & 0x0F
    value = int.from_bytes(data[at + 1 : at + 1 + size], "little")
    return (-value if control & 0x80 else value), at + 1 + size


def _tensor(data: bytes, at: int, path: Path) -> tuple[Tensor, int]:
    """Read one tensor: version 2, four sizes, then float32 little-endian."""
    header = []
    for _ in range(5):
        value, at = _integer(data, at)
        header.append(value)

    count = math.prod(header[1:])
    if header[0] != 2 or count < 0 or at + 4 * count > len(data):
        raise ModelError(f"{path}", "broken or of another version", "Fetch it again")
    return torch.from_numpy(np.frombuffer(data, "<f4", count, at).copy()), at + 4 * count


def _add_padded(first: Tensor, second: Tensor) -> Tensor:
    """Add as dlib does: the smaller one, in channels or in sides, counts as zero beyond its end."""
    sizes = [max(a, b) for a, b in zip(first.shape[1:], second.shape[1:], strict=True)]
    return _padded(first, sizes) + _padded(second, sizes)


def _padded(x: Tensor, sizes: list[int]) -> Tensor:
    c, h, w = (size - have for size, have in zip(sizes, x.shape[1:], strict=True))
    return F.pad(x, (0, w, 0, h, 0, c)) if c or h or w else x
