"""A bundle and its sheet, made once, for all twin tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from physadv.patches.bundle import (
    CardPlacement,
    ModelInfo,
    PatchCard,
    PatchInfo,
    PatchSize,
    write_bundle,
)
from physadv.printing.sheet import write_sheet

STRIPES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0.5))


@pytest.fixture(scope="session")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bundle folder and sheet of a sticker with four upright stripes: red, green, blue, gray."""
    folder = tmp_path_factory.mktemp("striped") / "patch"
    patch = (
        torch.tensor(STRIPES)
        .T.repeat_interleave(20, 1)[None, :, None]
        .expand(1, 3, 30, 80)
        .contiguous()
    )
    card = PatchCard(
        patch=PatchInfo("stripes", "targeted", "stop", "priority road"),
        size=PatchSize(400.0, 150.0),
        placement=CardPlacement("stop", 762.0, (0.0, 210.0), 0.12),
        victim=ModelInfo("signs", "classify"),
    )
    write_bundle(folder, card=card, patch=patch, mask=torch.ones(1, 1, 30, 80))
    write_sheet(
        write_bundle(folder, card=card, patch=patch, mask=torch.ones(1, 1, 30, 80)),
        folder / "s.pdf",
        paper="a2",
    )
    return folder, folder / "s.pdf"
