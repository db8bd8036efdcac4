"""Quick runs of studies on small data, shared by their tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from physadv.core.rows import Row
from physadv.studies.page import StudyPage
from physadv.studies.study import ROWS, Study, run_study, study_rows


def small_images(file: Path, *, side: int = 8, classes: int = 3, count: int = 60) -> Path:
    """Write gray images (side, side) whose class is a bright band, with a train and a test part."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part in ("train", "test"):
        labels = np.arange(count) % classes
        pictures = rng.integers(0, 60, (count, side, side))
        for image, label in zip(pictures, labels, strict=True):
            first = label * side // classes
            image[:, first : first + side // classes] += 180
        arrays |= {f"{part}_images": pictures.astype(np.uint8), f"{part}_labels": labels}
    np.savez(file, **arrays)
    return file


def quick_page(study: Study[Any], config: Any, folder: Path) -> StudyPage:
    """Run a study to its end in ``folder`` and return its page."""
    for _ in run_study(study, config, folder):
        pass
    return study.page(config, study_rows(study, config, folder))


def rows_after_a_stop(
    study: Study[Any], config: Any, folder: Path, parts: int
) -> dict[str, list[Row]]:
    """Stop a run in ``folder`` after some parts, cut into the next one, and resume it to its
    end."""
    for step in run_study(study, config, folder):
        if step.done == parts:
            break
    with (folder / ROWS).open("a") as file:
        file.write('{"part": "' + study.parts(config)[parts].name + '", "cut')
    for _ in run_study(study, config, folder):
        pass
    return study_rows(study, config, folder)
