"""The study of decision boundaries: planes, pictures, boxes, votes, and a run end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_small_classifiers import striped_digits
from torch import nn

from physadv.core.random_streams import generator
from physadv.studies.attack_studies_config import BoundaryConfig
from physadv.studies.decision_boundary import (
    BOX,
    NETS,
    STUDY,
    SmoothedVotes,
    separated_points,
)
from physadv.studies.page import Plane
from physadv.studies.plane_pictures import ImagePlane, loss_steps, paint, region_colors
from physadv.studies.study import run_study, study_rows


def test_points_keep_their_distance() -> None:
    """No two points are nearer than asked for in l_inf, so that boxes of half that do not meet."""
    points = separated_points(14, 2.3 * BOX, generator(0, "points")).view(14, 2)
    apart = (points[:, None] - points[None]).abs().amax(2) + torch.eye(14)
    assert float(apart.min()) >= 2.3 * BOX
    assert float(points.min()) >= BOX
    assert float(points.max()) <= 1 - BOX


def test_a_plane_goes_through_its_image() -> None:
    """The middle point is the image, the right edge lies along the first direction, and the top
    along the second."""
    image, first, second = (torch.rand((1, 3, 3), generator=generator(0, k)) for k in range(3))
    plane = ImagePlane(image, first, second, reach=0.5, side=5)
    points = plane.points().view(5, 5, 1, 3, 3)
    assert torch.allclose(points[2, 2], image)
    assert torch.allclose(points[2, 4], image + 0.5 * first)
    assert torch.allclose(points[0, 2], image + 0.5 * second)
    means = plane.evaluate(lambda x: x.mean((1, 2, 3)), batch=7)
    assert torch.allclose(means, points.mean((2, 3, 4)))


def test_the_border_of_the_ball_has_its_radius() -> None:
    """Each corner of the polygon is an image at exactly the radius in l_inf."""
    first = torch.rand((1, 4, 4), generator=generator(0, "first"))
    second = torch.where(torch.rand((1, 4, 4), generator=generator(0, "second")) < 0.5, -1.0, 1.0)
    plane = ImagePlane(torch.zeros(1, 4, 4), first, second, reach=1.0, side=3)
    for a, b in plane.ball(0.2, corners=16):
        assert float((a * first + b * second).abs().max()) == pytest.approx(0.2, rel=1e-5)


def test_pictures_show_each_number_in_its_color() -> None:
    """Colors go to classes by frequency; painted points have them away from the lines."""
    classes = torch.tensor([[3, 3], [3, 1]])
    (first, second) = region_colors(classes, ["a", "b", "c", "d"])
    assert (first[0], first[1]) == (3, "d")
    assert (second[0], second[1]) == (1, "b")
    picture = paint(classes, [(3, "#ff0000"), (1, "#0000ff")], enlarge=6)
    assert picture.shape == (12, 12, 3)
    assert np.array_equal(picture[2, 2], [255, 0, 0])
    assert np.array_equal(picture[10, 10], [0, 0, 255])
    assert loss_steps(torch.tensor([0.0, 0.5, 2.0]), (0.1, 1.0)).tolist() == [0, 1, 2]


def test_votes_of_a_linear_network_follow_the_normal_distribution() -> None:
    """A linear network's share of votes is the normal distribution function of its distance from
    the boundary over the noise."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net[1].weight.data = torch.tensor([[0.0, 0, 0, 0], [1.0, 0, 0, 0]])
    net[1].bias.data.zero_()
    noise = 0.25 * torch.randn((20_000, 1, 2, 2), generator=generator(0, "votes"))
    image = torch.zeros(1, 1, 2, 2)
    image[0, 0, 0, 0] = 0.25
    (shares,) = SmoothedVotes(net, noise)(image)
    assert float(shares[1]) == pytest.approx(0.8413, abs=0.015)
    assert float(shares.sum()) == pytest.approx(1)


def test_a_quick_run_fills_its_page(tmp_path: Path) -> None:
    """All planes have their pictures, and no box that is proven whole has an error in it."""
    data = striped_digits(tmp_path / "set.npz", 200, test=60)
    config = BoundaryConfig(data=str(data), quick=True)
    folder = tmp_path / "run"
    *_, last = run_study(STUDY, config, folder)
    rows = study_rows(STUDY, config, folder)
    page = STUDY.page(config, rows)
    assert last.done == len(STUDY.parts(config))
    planes = [figure for figure in page.figures if isinstance(figure, Plane)]
    assert len(planes) == 7
    assert all((folder / plane.background).is_file() for plane in planes)
    for name in NETS[:2]:
        boxes = rows[f"boxes {name}"][1:]
        assert not any(box["proven"] and box["error"] is not None for box in boxes)
