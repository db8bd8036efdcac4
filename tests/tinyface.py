"""A small seeded embedder and a drawn face at a known place, so that the cloak's tests need no
weights and no time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from physadv.core.random_streams import generator
from physadv.models.faces.embedders import EmbedderCard, FaceEmbedder
from physadv.models.faces.face_detection import TEMPLATES, DetectedFace


class TinyNet(nn.Module):
    """Local contrasts, pooled to 4 x 4, mixed to 16 numbers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = generator(seed, "tiny")
        self.filters = nn.Parameter(torch.randn(12, 3, 5, 5, generator=draw))
        self.mix = nn.Parameter(torch.randn(12 * 16, 16, generator=draw))

    def forward(self, x: Tensor) -> Tensor:
        filters = self.filters - self.filters.mean((2, 3), keepdim=True)
        maps = torch.tanh(nn.functional.conv2d(x, filters, stride=2))
        return nn.functional.adaptive_avg_pool2d(maps, 4).flatten(1) @ self.mix


def tiny_embedder(seed: int = 0, name: str = "tiny", threshold: float = 0.5) -> FaceEmbedder:
    card = EmbedderCard(
        name=name, size=32, dimension=16, licence="test", thresholds={0.01: threshold}, sha256=name
    )
    return FaceEmbedder(TinyNet(seed).eval(), card).requires_grad_(False)


def face_at(x: float, y: float, side: float) -> DetectedFace:
    """A face whose ArcFace square has its corner at (x, y)."""
    return DetectedFace(0.99, {"arc5": TEMPLATES["arcface", "arc5"] * side + [x, y]})


def drawn_photo(
    height: int, width: int, face: DetectedFace, *, person: int = 0, shot: int = 0
) -> np.ndarray:
    """A photo with a blotchy head: ``person`` decides its features, ``shot`` light and grain."""
    rng = np.random.default_rng(person)
    x0, y0, x1, y1 = face.box(height, width)
    coarse = rng.uniform(60, 200, (9, 9, 3))
    rows = np.linspace(0, 8, y1 - y0).round().astype(int)
    columns = np.linspace(0, 8, x1 - x0).round().astype(int)
    take = np.random.default_rng(1000 + 97 * person + shot)
    photo = take.uniform(90, 130, (height, width, 3))
    photo[y0:y1, x0:x1] = coarse[rows][:, columns] * take.uniform(0.9, 1.1)
    return (photo + take.normal(0, 6, photo.shape)).clip(0, 255).round().astype(np.uint8)


class KnownFinder:
    """Says what it was told: one face at a fixed share of every photo."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def __call__(self, rgb: np.ndarray) -> list[DetectedFace]:
        height, width = rgb.shape[:2]
        side = self.share * min(height, width)
        return [face_at((width - side) / 2, (height - side) / 2, side)]
