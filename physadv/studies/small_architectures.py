"""Small networks of different kinds, for studies that compare architectures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from physadv.models.architectures.signnet import ResidualBlock


def perceptron(
    inputs: int, widths: Sequence[int], classes: int, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Return a multilayer perceptron; without ``widths`` a linear classifier.

    Args:
        inputs: Number of values of an image.
        widths: Width of each hidden layer.
        classes: Number of classes.
        activation: Class of the layers between; the paper of 2013 used the sigmoid.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(inputs, width), activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class SmallResNet(nn.Module):
    """Residual network of a stem and three blocks, with batch normalization and mean pooling.

    Args:
        channels: Channels of the images.
        classes: Number of classes.
        width: Channels of the stem; the last block has four times as many.
    """

    def __init__(self, channels: int, classes: int, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            ResidualBlock(width, width),
            ResidualBlock(width, 2 * width, 2),
            ResidualBlock(2 * width, 4 * width, 2),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) of ``images`` (b, c, h, w) in [0, 1]."""
        logits: Tensor = self.head(self.layers(images * 2 - 1).mean((2, 3)))
        return logits


class SmallVisionTransformer(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2020) of a few layers, with mean pooling.

    Args:
        channels: Channels of the images.
        side: Height and width of the images in px, a multiple of ``patch``.
        classes: Number of classes.
        patch: Side of a patch in px.
        width: Length of a patch's vector, a multiple of four.
        depth: Number of layers.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        classes: int,
        *,
        patch: int = 4,
        width: int = 48,
        depth: int = 3,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.place = nn.Parameter(torch.randn((side // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(AttentionBlock(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) of ``images`` (b, c, h, w) in [0, 1]."""
        patches = self.embed(images * 2 - 1).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.norm(self.blocks(patches + self.place)).mean(1))
        return logits


class AttentionBlock(nn.Module):
    """Self-attention with four heads and a perceptron, each behind a layer normalization.

    Args:
        width: Length of a patch's vector, a multiple of four.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Return the vectors (b, n, width) of the next layer for ``patches`` (b, n, width)."""
        b, n, width = patches.shape
        split = self.queries_keys_values(self.first(patches)).view(b, n, 3, 4, width // 4)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(queries, keys, values)
        patches = patches + self.mixed(seen.transpose(1, 2).reshape(b, n, width))
        result: Tensor = patches + self.perceptron(self.second(patches))
        return result
