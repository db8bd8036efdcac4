"""EdgeFace-XS (George et al., 2024): EdgeNeXt X-Small (Maaz et al., 2022) with 512 outputs from an
aligned face of 112 px, 2.2 M parameters.

Depthwise convolutions of growing size, and in each later stage one block that splits its channels
into scales and lets channels attend to each other (cross-covariance attention, Ali et al., 2021).
Module names follow the published state dict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE, DIMENSION = 112, 512
_DEPTHS, _WIDTHS, _KERNELS = (3, 3, 9, 3), (32, 64, 100, 192), (3, 5, 7, 9)
_SCALES, _HEADS, _EXPANSION = (2, 2, 3, 4), 4, 4
_FREQUENCIES = 32
_EPSILON = 1e-6


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (b, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` (b, c, h, w) at each place."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Two linear layers with GELU between, on the last axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, _EXPANSION * channels)
        self.fc2 = nn.Linear(_EXPANSION * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., c) to the same shape."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class ConvBlock(nn.Module):
    """Depthwise convolution, layer norm and MLP, scaled and added to the input."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=_EPSILON)
        self.mlp = Mlp(channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, c, h, w) to the same shape."""
        y: Tensor = self.gamma * self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


class FourierPosition(nn.Module):
    """Sines and cosines of the position, projected to channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token_projection = nn.Conv2d(2 * _FREQUENCIES, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the encoding (1, c, h, w) of the places of ``x`` (b, c, h, w)."""
        height, width = x.shape[-2:]
        steps = torch.arange(_FREQUENCIES, device=x.device)
        wavelengths = 10_000 ** (2 * (steps // 2) / _FREQUENCIES)

        def waves(count: int) -> Tensor:
            """(count, frequencies): sine and cosine in turn, of places from 1 to ``count``."""
            place = torch.arange(1, count + 1, device=x.device) / (count + 1e-6) * 2 * math.pi
            angle = place[:, None] / wavelengths
            return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1)

        rows = waves(height)[:, None].expand(-1, width, -1)
        columns = waves(width)[None].expand(height, -1, -1)
        both = torch.cat([rows, columns], 2).permute(2, 0, 1)[None].to(x.dtype)
        encoding: Tensor = self.token_projection(both)
        return encoding


class CrossCovarianceAttention(nn.Module):
    """Attention between channels: the places of an image are its features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(_HEADS, 1, 1))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``x`` (b, n, c) to the same shape."""
        batch, count, channels = x.shape
        qkv = self.qkv(x).reshape(batch, count, 3, _HEADS, channels // _HEADS)
        query, key, value = qkv.permute(2, 0, 3, 4, 1)  # each (b, heads, c / heads, n)
        scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        mixed = (scores * self.temperature).softmax(-1) @ value
        y: Tensor = self.proj(mixed.permute(0, 3, 1, 2).reshape(batch, count, channels))
        return y


class SplitTransposeBlock(nn.Module):
    """Convolutions over a cascade of channel groups, then attention between channels and an MLP."""

    def __init__(self, channels: int, scales: int, *, position: bool) -> None:
        super().__init__()
        self.groups = max(2, scales)
        width = math.ceil(channels / scales)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(self.groups - 1)
        )
        self.pos_embd = FourierPosition(channels) if position else None
        self.norm_xca = nn.LayerNorm(channels, eps=_EPSILON)
        self.xca = CrossCovarianceAttention(channels)
        self.gamma_xca = nn.Parameter(torch.full((channels,), 1e-6))
        self.norm = nn.LayerNorm(channels, eps=_EPSILON)
        self.mlp = Mlp(channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, c, h, w) to the same shape."""
        batch, channels, height, width = x.shape
        groups = x.chunk(self.groups, 1)
        filtered = [self.convs[0](groups[0])]
        for group, conv in zip(groups[1:], list(self.convs)[1:], strict=False):
            filtered.append(conv(filtered[-1] + group))
        y: Tensor = torch.cat([*filtered, groups[-1]], 1)

        if self.pos_embd is not None:
            y = y + self.pos_embd(y)
        tokens = y.flatten(2).transpose(1, 2)
        tokens = tokens + self.gamma_xca * self.xca(self.norm_xca(tokens))
        tokens = self.gamma * self.mlp(self.norm(tokens))
        change: Tensor = tokens.transpose(1, 2).reshape(batch, channels, height, width)
        return x + change


class Stage(nn.Module):
    """Halving of the size, blocks of convolutions, and last, except in the first stage, one
    block with attention."""

    def __init__(self, index: int) -> None:
        super().__init__()
        width = _WIDTHS[index]
        self.downsample = (
            nn.Sequential(
                ChannelNorm(_WIDTHS[index - 1]), nn.Conv2d(_WIDTHS[index - 1], width, 2, 2)
            )
            if index
            else nn.Identity()
        )
        blocks: list[nn.Module] = [ConvBlock(width, _KERNELS[index]) for _ in range(_DEPTHS[index])]
        if index:
            blocks[-1] = SplitTransposeBlock(width, _SCALES[index], position=index == 1)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, c, h, w) to (b, width, h / 2, w / 2), or of the same size in the first."""
        y: Tensor = self.blocks(self.downsample(x))
        return y


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = ChannelNorm(_WIDTHS[-1])
        self.fc = nn.Linear(_WIDTHS[-1], DIMENSION)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.norm(x.mean((2, 3), keepdim=True)).flatten(1))
        return y


def merge_low_rank(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with each pair of low-rank linear layers, as Idiap publishes them, merged
    into the one layer that they make up.

    Example:
        >>> state = {"fc.linear1.weight": torch.ones(1, 3), "fc.linear2.weight": torch.ones(2, 1)}
        >>> {key: tuple(value.shape) for key, value in merge_low_rank(state).items()}
        {'fc.weight': (2, 3)}
    """
    merged = {}
    for key, value in state.items():
        if key.endswith(".linear1.weight"):
            continue
        first = state.get(key.replace(".linear2.weight", ".linear1.weight"))
        if key.endswith(".linear2.weight") and first is not None:
            value = value @ first
        merged[key.replace(".linear2.", ".")] = value
    return merged


class EdgeFace(nn.Module):
    """Aligned, normalized faces (b, 3, 112, 112) -> embeddings (b, 512), not yet of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, _WIDTHS[0], 4, 4), ChannelNorm(_WIDTHS[0]))
        self.stages = nn.Sequential(*(Stage(index) for index in range(len(_WIDTHS))))
        self.head = _Head()

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings (b, 512) of ``x`` (b, 3, 112, 112)."""
        return self.tail(self.trunk(x))

    def trunk(self, x: Tensor) -> Tensor:
        """Apply all but the last stage to ``x``: (b, 3, 112, 112) -> (b, 100, 7, 7)."""
        y: Tensor = self.stages[:-1](self.stem(x))
        return y

    def tail(self, features: Tensor) -> Tensor:
        """Apply the last stage and the head to ``features``: (b, 100, 7, 7) -> (b, 512)."""
        y: Tensor = self.head(self.stages[-1](features))
        return y
