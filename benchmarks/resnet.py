"""Network and images of the epsilon-ball benchmark: a small ResNet (0.7 M parameters) and CIFAR-10.

`scripts/train_benchmark_net.py` trains the network.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_cifar10(archive: Path, part: str, limit: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Read images of CIFAR-10 as a zip of JPEG files.

    Args:
        archive: Zip with folders train/<class>/ and test/<class>/.
        part: "train" or "test".
        limit: Number of images to draw.
        seed: Seed of the draw.

    Returns:
        Images (n, 3, 32, 32) in [0, 1] and their classes (n,).
    """
    with zipfile.ZipFile(archive) as file:
        names = sorted(n for n in file.namelist() if f"{part}/" in n and n.endswith(".jpg"))
        chosen = np.random.default_rng(seed).permutation(len(names))[:limit]
        pixels = np.stack(
            [np.asarray(Image.open(io.BytesIO(file.read(names[i]))).convert("RGB")) for i in chosen]
        )
    labels = [next(c for c, name in enumerate(CLASSES) if f"/{name}/" in names[i]) for i in chosen]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).contiguous(), torch.tensor(
        labels
    )


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features in, features out."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Images (b, 3, 32, 32) in [0, 1] to logits; owns its normalization."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, classes: int = 10, widths: tuple[int, ...] = (32, 64, 128), blocks: int = 2
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.225, 0.225, 0.225]).view(1, 3, 1, 1))
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        layers: list[nn.Module] = []
        before = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(Block(before, width, 2 if stage and not block else 1))
                before = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, classes)."""
        y: Tensor = self.layers(self.stem((x - self.mean) / self.std))
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits
