"""The demo's stations: each takes the folder of the run and leaves its product there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from physadv.camera.open_source import open_frame_source
from physadv.check.locators import locator_for
from physadv.check.run_check import BlockSource, CheckProgress, run_check
from physadv.defenses.load_model import load_model
from physadv.patches.bundle import read_bundle
from physadv.patches.config import PatchConfig
from physadv.printing.layout import smallest_paper
from physadv.printing.sheet import write_sheet
from physadv.twin.simulate import ClipDone, simulate_clips


def demo_settings(*, steps: int = 300, seed: int = 0) -> PatchConfig:
    """The default sticker, which fits an A4 or Letter sheet."""
    return PatchConfig(steps=steps, seed=seed, test_draws=300, name="demo-stop-sticker")


def lay_out(folder: Path) -> Path:
    """Write sheet.pdf of the run's bundle, with the three test signs for a webcam, on the smallest
    paper that fits."""
    bundle = read_bundle(folder / "bundle")
    size = bundle.card.size
    path = folder / "sheet.pdf"
    write_sheet(bundle, path, paper=smallest_paper(size.width_mm, size.height_mm), test_signs=True)
    return path


def film(folder: Path, sheet: Path, *, clips: int, frames: int, seed: int) -> Iterator[ClipDone]:
    """Print and film the bundle in simulation."""
    return simulate_clips(
        folder / "bundle", sheet, folder / "twin", clips=clips, frames=frames, seed=seed
    )


def judge(folder: Path, settings: PatchConfig) -> Iterator[CheckProgress]:
    """Check the filmed clips with the victim; an earlier check of the same run is replaced."""
    target = folder / "check"
    if target.exists():
        shutil.rmtree(target)
    card = read_bundle(folder / "bundle").card
    model = load_model(settings.model, weights=settings.weights)
    about = {
        "bundle": {
            "name": card.patch.name,
            "sha256": card.patch.sha256,
            "folder": str(folder / "bundle"),
            "heldout": card.heldout,
            "sign_width_mm": card.placement.sign_width_mm,
        }
    }
    with open_frame_source(str(folder / "twin")) as source:
        yield from run_check(
            [BlockSource(source)],
            model,
            folder=target,
            locator=locator_for("truth"),
            goal=card.patch.goal,
            true_class=card.patch.true_class,
            target_class=card.patch.target_class,
            seed=settings.seed,
            about=about,
        )
