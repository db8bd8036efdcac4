"""Quick runs of studies on small data, shared by their tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from physadv.studies.page import StudyPage
from physadv.studies.study import Study, run_study, study_rows


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
