"""A small conv net, trained in a second on drawn shapes, that attacks are compared on, and a cache
folder of a test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


def shapes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 12, 12) of a bar, a block or a frame under noise, and their classes."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.35 + 0.1 * torch.randn(count, 3, 12, 12, generator=draws)
    for i, label in enumerate(labels.tolist()):
        top, left = (int(v) for v in torch.randint(0, 5, (2,), generator=draws))
        box = images[i, :, top : top + 7, left : left + 7]
        if label == 0:
            box[:, 2:5] += 0.3
        elif label == 1:
            box[:, :, 2:5] += 0.3
        else:
            box += 0.3
            box[:, 2:5, 2:5] -= 0.3
    return images.clamp(0, 1), labels


def trained(width: int, seed: int) -> nn.Module:
    """A conv net of ``width`` channels after 60 steps."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * width, 3),
        )
        images, labels = shapes(240, seed + 1)
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(60):
            loss = nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def trained_net() -> nn.Module:
    return trained(12, 0)


@pytest.fixture(scope="session")
def other_net() -> nn.Module:
    """Another net for the same classes, for transfer."""
    return trained(16, 5)


@pytest.fixture(scope="session")
def trained_images() -> Tensor:
    return shapes(24, 99)[0]


@pytest.fixture(scope="session")
def trained_labels(trained_net: nn.Module, trained_images: Tensor) -> Tensor:
    return trained_net(trained_images).argmax(1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own, not yet there: what is chosen is kept for no other."""
    monkeypatch.setenv("PHYSADV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
