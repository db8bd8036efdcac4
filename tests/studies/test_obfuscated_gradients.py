"""The study of hidden gradients: what gives each kind away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from physadv.report.study_report import study_chapter, write_study_report
from physadv.studies.attack_configs import ObfuscatedConfig
from physadv.studies.gradient_masking.obfuscations import staircase_map, thermometer_quantize
from physadv.studies.obfuscated_gradients import (
    KINDS,
    OF_TRAMER,
    SIGNS,
    STUDY,
    DefenseResult,
    defense_results,
    gradient_quality,
)
from physadv.studies.study import run_study, study_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of gray bars, as folders of classes with a train and a test part."""
    root = tmp_path_factory.mktemp("bars")
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 4)):
        for name in range(3):
            folder = root / part / f"bar{name}"
            folder.mkdir(parents=True)
            for k in range(count):
                picture = rng.integers(0, 60, (12, 12))
                picture[:, 4 * name : 4 * name + 4] += 120
                Image.fromarray(picture.astype(np.uint8)).save(folder / f"{k}.png")
    return root


def linear_net() -> nn.Module:
    """A linear classifier of 3 x 4 x 4 pixels."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nn.init.normal_(net[1].weight)
    return net.double().requires_grad_(False)


def quality(transform: nn.Module) -> dict[str, float]:
    """The gradient's quality of a linear net behind a transform."""
    source = torch.Generator().manual_seed(0)
    images = torch.rand(16, 3, 4, 4, generator=source).double() * 0.6 + 0.2
    net = nn.Sequential(transform, linear_net())
    return gradient_quality(net, images, net(images).argmax(1), eps=0.1, seed=0)


class Through(nn.Module):
    """A function of images as a module."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """The transformed images."""
        if self.kind == "code":
            return thermometer_quantize(x, 16)
        if self.kind == "stairs":
            return staircase_map(x, 16)
        return x * (torch.rand_like(x) < 0.5) if self.kind == "random" else x


def test_a_smooth_net_keeps_what_its_gradient_promises() -> None:
    """Without a defense the gradient is there, the same twice, and true for small steps."""
    plain = quality(Through("none"))
    assert plain["zero"] == 0
    assert plain["agreement"] == pytest.approx(1)
    assert plain["kept"] == pytest.approx(1, abs=0.02)


def test_each_kind_shows_in_its_own_number() -> None:
    """A code has no gradient; random pixels give two different ones; stairs break the promise."""
    assert quality(Through("code"))["zero"] == 1
    assert quality(Through("random"))["agreement"] < 0.8
    stairs = quality(Through("stairs"))
    assert stairs["zero"] == 1 or abs(stairs["kept"] - 1) > 0.2


def test_signs_compare_counts() -> None:
    """Each sign follows from its two counts, and none shows in a net that hides nothing."""
    honest = {
        **{"one_step": 12, "many_steps": 4, "double_eps": 0, "unbounded": 0},
        **{"random": 20, "black_box": 5},
    }
    left = {"n": 20}
    assert DefenseResult("x", "control", left, honest).signs() == (False,) * len(SIGNS)
    for changed, sign in (
        ({"one_step": 1}, 0),
        ({"black_box": 1}, 1),
        ({"unbounded": 3}, 2),
        ({"random": 2}, 3),
        ({"double_eps": 4}, 4),
    ):
        signs = DefenseResult("x", "control", left, honest | changed).signs()
        assert signs.index(True) == sign
        assert sum(signs) == 1


def test_five_defenses_of_tramer_are_named() -> None:
    """Each is in the gallery, and hides its gradient."""
    assert len(OF_TRAMER) == 5
    assert all(KINDS[name] != "control" for name in OF_TRAMER)


def test_a_quick_run_measures_each_kind(data: Path, tmp_path: Path) -> None:
    """Real robustness is never above what any attack leaves; the page has its figures; a second
    run computes nothing more."""
    config = ObfuscatedConfig(data=str(data), quick=True)
    total = [step.total for step in run_study(STUDY, config, tmp_path)][-1]
    assert total == 6
    rows = study_rows(STUDY, config, tmp_path)
    results = defense_results(rows)
    assert {result.kind for result in results} >= {
        *("shattered", "stochastic", "exploding or vanishing", "control"),
    }
    for result in results:
        others = [result.left[column] for column in ("clean", "plain", "gradient", "black_box")]
        assert result.left["real"] <= min(others)

    before = (tmp_path / "rows.jsonl").read_bytes()
    list(run_study(STUDY, config, tmp_path))
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert write_study_report(study_chapter(STUDY, config, tmp_path)).is_file()
    assert "apparent" in STUDY.page(config, rows).answer
