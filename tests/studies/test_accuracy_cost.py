"""Study ``cost``: the theorem holds in its model, and the page says what the rows say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physadv.core.random_streams import numpy_generator
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.studies.accuracy_cost import STUDY
from physadv.studies.learning_studies_config import CostConfig
from physadv.studies.odds_model import OddsModel, train_linear
from physadv.studies.study import run_study, study_rows


@pytest.fixture(scope="module")
def small_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noisy bars in an npz of train and test images."""
    draws = numpy_generator(0, "bars")
    file = tmp_path_factory.mktemp("bars") / "bars.npz"
    parts = {}
    for part, n in (("train", 320), ("test", 120)):
        labels = np.arange(n) % 3
        images = draws.integers(0, 60, (n, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[8 * label + 2 : 8 * label + 8] += 150
        parts |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels}
    np.savez(file, **parts)
    return file


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0])
def test_the_closed_form_agrees_with_moved_samples(share: float, factor: float) -> None:
    """The accuracy of a linear classifier lies within the interval of a simulation."""
    model = OddsModel(80)
    weights = model.mixed(share)
    draws = numpy_generator(1, round(10 * share))
    right = model.count_correct(weights, factor * model.eta, 4000, draws)
    rate = wilson_interval(right, 4000, 0.9999)
    assert rate.low <= model.accuracy(weights, factor * model.eta) <= rate.high


@given(
    st.integers(1, 60),
    st.floats(0.6, 0.99),
    st.integers(0, 2**31),
    st.floats(0, 3),
)
def test_no_linear_classifier_beats_the_bound(d: int, p: float, seed: int, lean: float) -> None:
    """Theorem 2.1: accuracy 1 - delta means robust accuracy of at most p / (1 - p) delta."""
    model = OddsModel(d, p)
    weights = np.random.default_rng(seed).standard_normal(d + 1) + lean
    standard, robust = model.accuracy(weights), model.accuracy(weights, model.eps)
    assert robust <= model.bound(standard) + 1e-9


def test_training_against_the_adversary_drops_the_weak_coordinates() -> None:
    """Theorem 2.2: the vote is the strong coordinate's; standard training is better and fragile."""
    model = OddsModel(60)
    samples = model.draw(2000, numpy_generator(2))
    robust = train_linear(*samples, model.eps, rate=0.05)
    standard = train_linear(*samples, 0.0, rate=0.05)
    assert robust[0] > 10 * np.abs(robust[1:]).sum()
    assert model.accuracy(robust, model.eps) > 0.94
    assert model.accuracy(standard) > model.accuracy(robust) + 0.02
    assert model.accuracy(standard, model.eps) < 0.3


def test_few_samples_favor_the_adversary_in_training() -> None:
    """With fewer samples than coordinates standard training fits noise."""
    model = OddsModel(1000)
    gains = []
    for repeat in range(2):
        samples = model.draw(100, numpy_generator(3, repeat))
        trained = [train_linear(*samples, eps, rate=0.05) for eps in (0.0, 4 * model.eta)]
        gains.append(model.accuracy(trained[1]) - model.accuracy(trained[0]))
    assert min(gains) > 0


def test_a_quick_run_makes_a_page_that_follows_its_rows(small_digits: Path, tmp_path: Path) -> None:
    """The heading and the answer turn with the rows: cost, help, or both."""
    config = CostConfig(data=str(small_digits), quick=True)
    list(run_study(STUDY, config, tmp_path))
    rows = study_rows(STUDY, config, tmp_path)
    page = STUDY.page(config, rows)
    assert [figure.name for figure in page.figures] == [
        *("digits-accuracy", "digits-robust", "tradeoff", "model-accuracy")
    ]
    few, many = sorted({row["n"] for row in rows["digits-0"]})
    for part, accuracies in (("digits-0", (0.4, 0.95)), ("digits-2", (0.8, 0.6))):
        for row in rows[part]:
            row |= {"tested": 1000, "right": round(1000 * accuracies[row["n"] == many])}
    changed = STUDY.page(config, rows)
    assert changed.sections[0].heading.endswith("helps with few images and costs with many")
    assert f"+40.0 points [+36.0, +43.8] with {few} training images" in changed.answer
    assert "by -35.0 points" in changed.answer
