"""The study of the convex outer polytope: sets that hold what is reached, in their order."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from study_runs import quick_page, rows_after_a_stop, small_images
from torch import nn

from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.studies.certificate_studies_config import PolytopeConfig
from physadv.studies.outer_polytope import POINTS, STUDY
from physadv.studies.outer_polytope_page import geometric_point
from physadv.studies.plane_regions import plane_network
from physadv.studies.polytope_geometry import (
    bound_support,
    box_about,
    directions,
    linear_program_support,
    polygon_area,
    polygon_of,
    random_network,
    reached_outputs,
    reached_pixels,
)
from physadv.studies.study import study_rows


@pytest.mark.parametrize("widths", [(6,), (12, 12), (10, 10, 10)])
def test_each_set_holds_the_next(widths: tuple[int, ...]) -> None:
    """Box, dual, linear program and what is reached lie inside each other in every direction."""
    for number in range(3):
        net = random_network(plane_network(widths, 2), generator(0, "sets", number))
        ball, rows = box_about((0.4, 0.6), 0.15), directions(16)
        outputs = reached_outputs(net, ball, 60)
        reached = (outputs @ rows.T).max(0)
        program = linear_program_support(net, ball, rows)
        dual = bound_support(net, ball, rows, "polytope")
        box = bound_support(net, ball, rows, "interval")

        slack = 1e-5 * np.abs(box).max()
        assert (reached <= program + slack).all()
        assert (program <= dual + slack).all()
        assert (dual <= box + slack).all()
        corners = np.array(polygon_of(rows, dual, outputs[len(outputs) // 2]))
        sides = bound_support(net, ball, directions(4), "interval")
        assert (corners @ directions(4).T <= sides + slack).all()


def test_without_relus_every_set_is_what_is_reached() -> None:
    """A linear network's image of a box is a parallelogram, and the bounds know it exactly."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).requires_grad_(False)
    ball, rows = box_about((0.5, 0.5), 0.2), directions(8)
    exact = (reached_outputs(net, ball, 2) @ rows.T).max(0)
    for kind in ("polytope", "crown"):
        assert bound_support(net, ball, rows, kind) == pytest.approx(exact, abs=1e-6)
    assert linear_program_support(net, ball, rows) == pytest.approx(exact, abs=1e-6)


def test_one_relu_has_the_triangle() -> None:
    """The linear program over one crossing ReLU reaches the corners of its triangle."""
    net = plane_network((2,), 2)
    for layer in (net[1], net[3]):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    net.requires_grad_(False)
    ball = box_about((0.1, 0.5), 0.3)  # the first number lies in [-0.2, 0.4]
    rows = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert linear_program_support(net, ball, rows) == pytest.approx([0.4, 0.0], abs=1e-7)
    # The dual's lower line has the chord's slope and reaches below zero.
    chord = 0.4 / 0.6
    dual = bound_support(net, ball, rows, "polytope")
    assert dual[0] == pytest.approx(0.4, abs=1e-6)
    assert 0 <= dual[1] <= chord * 0.2 + 1e-6


def test_an_unknown_bound_is_refused() -> None:
    """Only three bounds have a name."""
    with pytest.raises(OptionError, match="interval"):
        bound_support(plane_network((2,), 2), box_about((0, 0), 0.1), directions(4), "box")


def test_a_polygon_of_four_directions_is_a_box() -> None:
    """Corners and area of a rectangle are exact, wherever it lies."""
    corners = polygon_of(
        directions(4), np.array([103.0, 51.0, -100.0, -50.0]), np.array([101.0, 50.5])
    )
    expected = np.array([(100, 50), (103, 50), (103, 51), (100, 51)])
    assert np.array(corners) == pytest.approx(expected)
    assert polygon_area(corners) == pytest.approx(3.0)


def test_reached_pixels_begin_at_the_top() -> None:
    """An output lies in its pixel; those outside the picture are left out."""
    seen = reached_pixels(np.array([[0.1, 0.9], [5.0, 5.0]]), (0, 1), (0, 1), 10)
    assert seen[0, 1] or seen[1, 1]
    assert seen.sum() == 1


def test_a_geometric_mean_has_its_interval() -> None:
    """Equal values have no spread; others lie within their interval."""
    same = geometric_point(1, [log(4.0)] * 3)
    assert (same.y, same.low, same.high) == pytest.approx((4, 4, 4))
    spread = geometric_point(1, [log(1.0), log(4.0)])
    assert spread.y == pytest.approx(2)
    assert spread.low is not None
    assert spread.high is not None
    assert spread.low < 2 < spread.high


def test_a_quick_run_is_sound(tmp_path: Path) -> None:
    """Nothing reached lies outside a set, no certified point is broken, and figures are there."""
    data = small_images(tmp_path / "bands.npz")
    config = PolytopeConfig(data=str(data), quick=True)
    page = quick_page(STUDY, config, tmp_path / "run")
    rows = study_rows(STUDY, config, tmp_path / "run")
    assert rows_after_a_stop(STUDY, config, tmp_path / "again", 4) == rows

    assert all(row["outside"] == 0 for row in rows["sets"])
    for row in rows["sets"]:
        assert row["linear_area"] <= row["polytope_area"] <= row["interval_area"]
    for name in ("standard", "polytope"):
        final = [row for row in rows[f"points-{name}"] if "x" in row]
        assert len(final) == POINTS
        assert not any(row["certified"] and row["broken"] for row in final)
        assert not any(r["certified"] and not r["robust"] for r in rows[f"images-{name}"])
    names = [figure.name for figure in page.figures]
    assert len(set(names)) == len(names)
    assert "none of the outputs" in page.answer
    assert torch.is_grad_enabled()
