"""From the print sheet to the check: printed pages are sorted into their blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pytest
import torch

from physadv.camera.open_source import open_frame_source
from physadv.check.locators import locator_for
from physadv.check.run_check import BlockSource, run_check
from physadv.core.image_io import save_png
from physadv.core.rows import read_rows
from physadv.patches.bundle import (
    CardPlacement,
    ModelInfo,
    PatchCard,
    PatchInfo,
    PatchSize,
    write_bundle,
)
from physadv.printing.sheet import write_sheet


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """The sheet and the three test signs of a small patch, as pictures of 58 dots an inch."""
    card = PatchCard(
        PatchInfo("blue", "untargeted", "stop"),
        PatchSize(100.0, 100.0),
        CardPlacement("stop", 762.0, (0.0, 0.0), 0.02),
        ModelInfo("colour", "classify"),
    )
    blue = torch.tensor([0.1, 0.1, 0.9])[None, :, None, None].expand(1, 3, 16, 16)
    bundle = write_bundle(tmp_path / "bundle", card=card, patch=blue, mask=torch.ones(1, 1, 16, 16))
    write_sheet(bundle, tmp_path / "sheet.pdf", test_signs=True)
    document = pypdfium2.PdfDocument(tmp_path / "sheet.pdf")
    for i in range(len(document)):
        save_png(
            tmp_path / "pages" / f"{i}.png",
            np.asarray(document[i].render(scale=0.8).to_pil().convert("RGB")),
        )
    return tmp_path / "pages"


def test_markers_sort_the_printed_pages(tmp_path: Path, pages: Path, color_model: Any) -> None:
    """Markers tell clean, blank and patch page apart; the sticker sheet is left out."""
    feeds = [BlockSource(open_frame_source(pages))]
    for _ in run_check(
        feeds,
        color_model,
        folder=tmp_path / "run",
        locator=locator_for(),
        goal="untargeted",
        true_class="stop",
    ):
        pass
    rows = list(read_rows(tmp_path / "run" / "rows.jsonl"))
    assert [(r["block"], r["located_by"]) for r in rows] == [
        (b, "fiducials") for b in ("clean", "blank", "patch")
    ]
    assert all(r["true"] for r in rows)  # signs are red, the patch is small
