"""Study ``training``: the cost that is counted is the cost that the methods have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from physadv.core.random_streams import numpy_generator
from physadv.studies.learning_studies_config import TrainingStudyConfig
from physadv.studies.robust_training import STUDY, method_named
from physadv.studies.robust_training_page import FAMILIES, METHODS
from physadv.studies.study import run_study, study_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingStudyConfig, dict[str, Any]]:
    """A quick run on three classes of noisy bars."""
    folder = tmp_path_factory.mktemp("training")
    draws, parts = numpy_generator(0, "bars"), {}
    for part, n in (("train", 300), ("test", 60)):
        labels = np.arange(n) % 3
        images = draws.integers(0, 60, (n, 16, 16))
        for image, label in zip(images, labels, strict=True):
            image[5 * label + 1 : 5 * label + 5] += 150
        parts |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels}
    np.savez(folder / "bars.npz", **parts)
    config = TrainingStudyConfig(data=str(folder / "bars.npz"), quick=True)
    list(run_study(STUDY, config, folder / "run"))
    return config, study_rows(STUDY, config, folder / "run")


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("standard", 1),
        ("gradient", 1),
        ("free-4", 1),
        ("free-8", 1),
        ("fgsm", 3),
        ("pgd-1", 2),
        ("pgd-7", 8),
        ("trades-5", 8),
    ],
)
def test_passes_are_those_of_the_method(
    run: tuple[TrainingStudyConfig, dict[str, Any]], method: str, passes: float
) -> None:
    """k steps cost k passes more; TRADES three further ones; Free none; FGSM's clean loss one."""
    assert run[1][f"method-{method}"][0]["passes"] == pytest.approx(passes)


def test_every_method_is_in_one_series_and_can_be_built() -> None:
    """The chart shows each method once."""
    assert sorted(METHODS) == sorted(name for names in FAMILIES.values() for name in names)
    assert all(method_named(name, 0.1).settings() for name in METHODS)


def test_the_page_follows_its_rows(run: tuple[TrainingStudyConfig, dict[str, Any]]) -> None:
    """The answer turns with the rows: below PGD-7 or not, overfitted or not."""
    config, rows = run
    assert len(STUDY.page(config, rows).figures) == 5
    changed = {name: [dict(row) for row in own] for name, own in rows.items()}
    changed["method-free-4"][0] |= {"withstood": 50, "attacked": 400}
    changed["method-pgd-7"][0] |= {"withstood": 300, "attacked": 400}
    for row, broken in zip(changed["epochs"], (100, 60, 200), strict=True):
        row |= {"broken_test": broken, "attacked": 400}
    answer = STUDY.page(config, changed).answer
    assert "stays below PGD-7" in answer
    assert "rises by +35.0 points" in answer
    for row in changed["epochs"]:
        row["broken_test"] = 60
    changed["method-free-4"][0]["withstood"] = 305
    answer = STUDY.page(config, changed).answer
    assert "is not measurably below PGD-7" in answer
    assert "does not measurably rise" in answer
