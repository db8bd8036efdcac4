"""The study of intervals and lines: bounds in their order, and none that an attack breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from study_runs import quick_page, rows_after_a_stop, small_images
from torch import nn

from physadv.certification.bounds.verify import METHODS, prepare_graph, verify_bounds
from physadv.studies.certificate_studies_config import IntervalsConfig
from physadv.studies.interval_bounds import STUDY, certified_by
from physadv.studies.interval_bounds_page import ALPHA, BOUNDS, certified_error
from physadv.studies.study import study_rows


def small_net() -> nn.Module:
    """Two hidden layers with weights of their own seed."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(4, 16),
            nn.ReLU(),
            nn.Linear(16, 16),
            nn.ReLU(),
            nn.Linear(16, 3),
        ).eval()


@pytest.mark.parametrize("eps", [0.02, 0.06, 0.12])
def test_what_is_left_out_changes_nothing(eps: float) -> None:
    """Bounding only what a looser bound left open certifies what bounding all images does."""
    net = small_net()
    images = torch.rand((30, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    labels = net(images).argmax(1)
    graph = prepare_graph(net, (1, 2, 2))
    found = certified_by(graph, images, labels, torch.ones(30, dtype=torch.bool), eps)
    for bound in BOUNDS:
        whole = verify_bounds(graph, images, labels, eps=eps, method=bound).certified
        assert torch.equal(found[bound], whole)


def test_broken_images_are_not_certified() -> None:
    """Nothing outside the open rows is certified, and no bound sees an empty batch."""
    net = small_net()
    images = torch.rand((6, 1, 2, 2))
    graph = prepare_graph(net, (1, 2, 2))
    none = torch.zeros(6, dtype=torch.bool)
    found = certified_by(graph, images, net(images).argmax(1), none, 0.01)
    assert not any(bool(each.any()) for each in found.values())


def test_bounds_are_known_to_the_verifier() -> None:
    """Each bound has a method of its name, after the one that it tightens."""
    names = list(BOUNDS)
    assert {*names, ALPHA} <= set(METHODS)
    assert all(not looser or names.index(looser) < names.index(b) for b, looser in BOUNDS.items())


def test_certified_error_counts_one_radius() -> None:
    """Rows of other radii do not count."""
    rows = [{"eps": 0.1, "ibp": True}, {"eps": 0.1, "ibp": False}, {"eps": 0.2, "ibp": False}]
    assert certified_error(rows, "ibp", 0.1).rate == 0.5
    assert certified_error(rows, "ibp", 0.2).n == 1


def test_a_quick_run_is_sound(tmp_path: Path) -> None:
    """No certified image is broken, tighter bounds certify no less, and figures have names."""
    data = small_images(tmp_path / "bands.npz")
    config = IntervalsConfig(data=str(data), quick=True)
    page = quick_page(STUDY, config, tmp_path / "run")
    rows = study_rows(STUDY, config, tmp_path / "run")
    assert rows_after_a_stop(STUDY, config, tmp_path / "again", 1) == rows
    for name, own in rows.items():
        for row in own:
            proofs = ["certified"] if name.startswith("errors") else [*BOUNDS, ALPHA]
            assert row["robust"] or not any(row.get(key) for key in proofs)
        if name.startswith("bounds"):
            assert all(row["crown"] or not row["ibp"] for row in own)
            optimized = [row for row in own if ALPHA in row]
            assert len(optimized) == config.optimized_images
            assert all(row[ALPHA] or not row["crown"] for row in optimized)
    names = [figure.name for figure in page.figures]
    assert len(set(names)) == len(names)
    assert page.comparisons
