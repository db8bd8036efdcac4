"""The study of transfer: pooled rates, attacks on several networks, and a run end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_small_classifiers import striped_digits
from torch import nn

from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.studies.attack_studies_config import TransferConfig
from physadv.studies.page import Matrix
from physadv.studies.study import run_study, study_rows
from physadv.studies.transfer_matrix import (
    ARCHITECTURES,
    STUDY,
    build_architecture,
    iterated_attack,
    pooled_rate,
)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_has_logits_and_gradients(kind: str) -> None:
    """Gray and color images of both usual sizes give finite logits and a gradient in each pixel's
    neighborhood."""
    for channels, side in ((1, 28), (3, 32)):
        net = build_architecture(kind, channels=channels, side=side, classes=7).eval()
        images = torch.rand((2, channels, side, side), generator=generator(0, kind))
        images.requires_grad_()
        logits = net(images)
        (slope,) = torch.autograd.grad(logits[:, 0].sum(), images)
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
        assert (slope != 0).float().mean() > 0.5


def test_an_image_counts_once_in_the_interval() -> None:
    """Pairs of networks are not trials: ten rows of the same outcomes widen nothing less than
    one."""
    row = {"fooled": "1100110010"}
    one, ten = pooled_rate([row]), pooled_rate([row] * 10)
    assert one.rate == ten.rate == 0.5
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))


def test_an_attack_stays_in_its_ball_and_repeats() -> None:
    """All kinds keep to the radius and to [0, 1], and give the same images for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2)]
    images = torch.rand((3, 1, 8, 8), generator=generator(0, "images"))
    labels = torch.tensor([0, 1, 2])
    for kind in ("iterated", "momentum", "diverse", "both"):
        moved, again = (
            iterated_attack(nets, images, labels, eps=0.1, kind=kind, seed=3) for _ in range(2)
        )
        assert float((moved - images).abs().max()) <= 0.1 + 1e-6
        assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
        assert torch.equal(moved, again)


def test_only_linf_is_studied() -> None:
    """Another norm, or a radius that allows any image, is refused."""
    for threat in ("l2:1", "linf:1.5"):
        with pytest.raises(OptionError):
            TransferConfig(data="set/", threat=threat)


def test_a_quick_run_fills_its_page(tmp_path: Path) -> None:
    """A quick run gives the full matrix; a network fools itself at least as often as noise does."""
    data = striped_digits(tmp_path / "set.npz", 300, test=60)
    config = TransferConfig(data=str(data), quick=True)
    folder = tmp_path / "run"
    *_, last = run_study(STUDY, config, folder)
    page = STUDY.page(config, study_rows(STUDY, config, folder))
    matrix = next(figure for figure in page.figures if isinstance(figure, Matrix))
    assert last.done == len(STUDY.parts(config))
    assert matrix.rows == ARCHITECTURES
    assert all(value is not None for line in matrix.values for value in line)
    assert len({figure.name for figure in page.figures}) == len(page.figures)
