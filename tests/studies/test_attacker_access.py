"""The study of what attackers must see of a net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.core.rows import read_rows
from physadv.report.study_report import study_chapter, write_study_report
from physadv.studies.attack_configs import ThreatsConfig
from physadv.studies.attacker_access import (
    ATTACKS,
    STUDY,
    _Attack,
    _Setting,
    queries_for_share,
    success_within,
)
from physadv.studies.small_classifiers import StudyData
from physadv.studies.study import run_study, study_rows
from physadv.training.data import ImageSubset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of gray bars, as folders of classes with a train and a test part."""
    root = tmp_path_factory.mktemp("bars")
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 8)):
        for name in range(3):
            folder = root / part / f"bar{name}"
            folder.mkdir(parents=True)
            for k in range(count):
                picture = rng.integers(0, 60, (12, 12))
                picture[:, 4 * name : 4 * name + 4] += 120
                Image.fromarray(picture.astype(np.uint8)).save(folder / f"{k}.png")
    return root


class Halves(nn.Module):
    """Whether the left or the right half of a picture is brighter."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, 2)."""
        return 8 * torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))], 1)


def setting() -> _Setting:
    """Pictures whose halves differ by 0.1: within eps 0.2 all can be turned, within 0.01 none."""
    images = torch.full((6, 1, 8, 8), 0.45)
    images[:3, ..., :4] += 0.1
    images[3:, ..., 4:] += 0.1
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    subset = ImageSubset(images.mul(255).byte(), labels, ("",) * 6)
    return _Setting(
        StudyData(subset, subset, ("left", "right"), 1, 8), Halves(), Halves(), images, labels
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_success_lies_in_the_box_and_is_misclassified(attack: _Attack) -> None:
    """What an attack calls a success is one, within eps, and within the box of a far smaller
    radius there is none."""
    case = setting()
    outcome = attack.run(case, 0.2, 400, 0)
    assert (outcome.images - case.images).abs().max() <= 0.2 + 1e-6
    assert outcome.success.all()
    assert ((case.net(outcome.images).argmax(1) != case.labels) == outcome.success).all()
    assert outcome.queries.min() >= 1
    assert not attack.run(case, 0.01, 50, 0).success.any()


def test_estimated_gradients_are_paid_for() -> None:
    """One step along an estimated gradient costs both ends of every pair, and two looks."""
    nes = next(attack for attack in ATTACKS if attack.name == "NES")
    queries = nes.run(setting(), 0.2, 400, 0).queries
    assert ((queries - 1) % 51 == 0).all()
    assert queries.min() == 52


def test_shares_count_all_images() -> None:
    """Images that were not broken count in every share, and more queries never break fewer."""
    rows: list[dict[str, Any]] = [{"success": q < 50, "queries": q} for q in (2, 3, 9, 40, 99)]
    rates = [success_within(rows, q).rate for q in range(1, 120)]
    assert rates == sorted(rates)
    assert rates[-1] == 0.8
    assert queries_for_share(rows, 0.6) == 9
    assert queries_for_share(rows, 0.61) == 40
    assert queries_for_share(rows, 0.81) is None


def test_the_radii_lie_below_one() -> None:
    """The largest radius is 1.5 times that of the threat, which is in l_inf."""
    for threat in ("linf:0.7", "l2:0.5"):
        with pytest.raises(OptionError, match="l_inf"):
            ThreatsConfig(data="x", threat=threat)


def test_a_quick_run_makes_a_page_and_resumes(data: Path, tmp_path: Path) -> None:
    """Every part has rows, the page its figures; a run cut short goes on to the same rows."""
    config = ThreatsConfig(data=str(data), quick=True)
    steps = run_study(STUDY, config, tmp_path / "cut")
    for _ in range(3):
        next(steps)
    steps.close()
    for folder in ("cut", "whole"):
        assert [step.done for step in run_study(STUDY, config, tmp_path / folder)][-1] == 9

    first, second = (
        [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in read_rows(tmp_path / folder / "rows.jsonl")
        ]
        for folder in ("cut", "whole")
    )
    assert first == second
    assert write_study_report(study_chapter(STUDY, config, tmp_path / "whole")).is_file()

    page = STUDY.page(config, study_rows(STUDY, config, tmp_path / "whole"))
    assert "Against a net that reads" in page.answer
    assert len(page.figures) == 5
