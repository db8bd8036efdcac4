"""Stations of the demo: each takes the folder of the run and writes its product there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from physadv.check.check_task import CheckTask
from physadv.check.config import CheckConfig
from physadv.check.session import CheckProgress
from physadv.patches.bundle import read_bundle
from physadv.patches.config import PatchConfig
from physadv.printing.layout import smallest_paper
from physadv.printing.sheet import write_sheet
from physadv.twin.simulate import ClipDone, simulate_clips


def demo_settings(*, steps: int = 300, seed: int = 0, device: str = "auto") -> PatchConfig:
    """Return the configuration of a sticker below the word, which fits an A4 or Letter sheet.

    Args:
        steps: Optimization steps.
        seed: Named seed of the run.
        device: Where to compute: auto, cpu, cuda, mps.

    Returns:
        The configuration.

    Example:
        >>> demo_settings(steps=50).model
        'signs'
    """
    return PatchConfig(
        center_mm=(0.0, 95.0),
        steps=steps,
        seed=seed,
        device=device,
        test_draws=300,
        name="demo-stop-sticker",
    )


def lay_out(folder: Path) -> Path:
    """Write sheet.pdf of the bundle in ``folder`` on the smallest paper that takes it.

    Three test signs for a webcam follow the sticker. Returns the PDF's path.
    """
    bundle = read_bundle(folder / "bundle")
    size = bundle.card.size
    path = folder / "sheet.pdf"
    write_sheet(bundle, path, paper=smallest_paper(size.width_mm, size.height_mm), test_signs=True)
    return path


def film(folder: Path, sheet: Path, *, clips: int, frames: int, seed: int) -> Iterator[ClipDone]:
    """Print and film the bundle in simulation.

    Args:
        folder: Folder of the run.
        sheet: The print sheet.
        clips: Clips of each block.
        frames: Frames of each clip.
        seed: Named seed of the run.

    Returns:
        An iterator that films one clip of each block at every step.
    """
    return simulate_clips(
        folder / "bundle", sheet, folder / "twin", clips=clips, frames=frames, seed=seed
    )


def judge(folder: Path, settings: PatchConfig) -> Iterator[CheckProgress]:
    """Check the filmed clips in ``folder`` with the model, weights and device of ``settings``.

    Yields the progress; an earlier check of the same run is replaced.
    """
    target = folder / "check"
    if target.exists():
        shutil.rmtree(target)

    task = CheckTask.from_config(
        CheckConfig(
            source=str(folder / "twin"),
            bundle=str(folder / "bundle"),
            model=settings.model,
            weights=settings.weights,
            locate="truth",
            seed=settings.seed,
            device=settings.device,
        )
    )
    with ExitStack() as stack:
        yield from task.run(task.open_sources(stack), target)
