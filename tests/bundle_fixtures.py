"""A small bundle for tests of what is done with one: printed, filmed, checked."""

from __future__ import annotations

from pathlib import Path

import torch

from physadv.patches.bundle import (
    CardPlacement,
    ModelInfo,
    PatchBundle,
    PatchCard,
    PatchInfo,
    PatchSize,
    write_bundle,
)


def demo_bundle(
    folder: Path,
    patch: torch.Tensor,
    *,
    size: tuple[float, float] = (120.0, 80.0),
    below: float = 180.0,
    mask: torch.Tensor | None = None,
) -> PatchBundle:
    """A sticker (1, 3, h, w) of ``size`` in mm, its center ``below`` mm under the stop sign's; the
    mask is full where none is given."""
    card = PatchCard(
        patch=PatchInfo("demo", "targeted", "stop", "priority road"),
        size=PatchSize(*size),
        placement=CardPlacement("stop", 762.0, (0.0, below), 0.02),
        victim=ModelInfo("signs", "classify"),
    )
    full = torch.ones(1, 1, *patch.shape[-2:])
    return write_bundle(folder, card=card, patch=patch, mask=full if mask is None else mask)
