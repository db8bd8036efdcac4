"""Measurements of a page in a frame in closed form, and the advice that follows from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physadv.calibration.live_advice import (
    BOARD_LIMITS,
    BOARD_TARGETS,
    CHART_LIMITS,
    Advice,
    advise,
    advise_search,
    best_target,
    chart_targets,
    is_moved,
)
from physadv.calibration.page_measures import (
    FOCAL,
    PageExposure,
    PageMeasures,
    edge_spread_px,
    page_angles,
    page_exposure,
    page_motion,
    reached_cells,
)
from physadv.core.color import linear_to_srgb

SIZE = (1280, 720)
SQUARE = np.array([[300.0, 100], [980, 100], [980, 620], [300, 620]])


def projected(yaw: float, pitch: float, roll: float, distance: float = 500.0) -> np.ndarray:
    """Corners in px of a 180 x 230 mm page, its right side ``yaw`` degrees farther, its lower side
    ``pitch`` degrees farther, then turned clockwise by ``roll`` on its own plane first."""
    plane = np.array([[-90.0, -115, 0], [90, -115, 0], [90, 115, 0], [-90, 115, 0]])
    r = np.radians(roll)
    plane = plane @ np.array([[np.cos(r), np.sin(r), 0], [-np.sin(r), np.cos(r), 0], [0, 0, 1]])
    # The normal towards the camera of a plane z = ax + by is (a, b, -1).
    a, b = np.tan(np.radians([yaw, pitch]))
    across = np.array([1, 0, a]) / np.hypot(1, a)
    normal = np.array([a, b, -1.0]) / np.linalg.norm([a, b, 1])
    down = np.cross(across, normal)
    down *= np.sign(down[1])
    points = plane[:, :1] * across + plane[:, 1:2] * down + np.array([0, 0, distance])
    focal = FOCAL * SIZE[0]
    return np.asarray(points[:, :2] / points[:, 2:] * focal + np.array(SIZE) / 2)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-179, 179))
@settings(max_examples=50, deadline=None)
def test_angles_are_those_of_the_plane(yaw: float, pitch: float, roll: float) -> None:
    """Yaw and pitch of a projected page come out, whichever way it is turned."""
    found = page_angles(projected(yaw, pitch, roll), (180.0, 230.0), SIZE)
    assert found[:2] == pytest.approx((yaw, pitch), abs=0.05)


def test_the_roll_is_that_of_the_top_edge() -> None:
    """A page that faces the camera, turned clockwise by 30 degrees, has a roll of 30."""
    assert page_angles(projected(0, 0, 30), (180.0, 230.0), SIZE) == pytest.approx(
        (0, 0, 30), abs=1e-3
    )


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_the_spread_of_an_edge_is_its_blur(sigma: float) -> None:
    """Squares blurred by a Gaussian have edges of its standard deviation; a flat page has none."""
    board = np.kron(np.indices((6, 8)).sum(0) % 2, np.ones((60, 60))) * 180 + 40
    picture = np.repeat(cv2.GaussianBlur(board, (0, 0), sigma)[..., None], 3, 2).astype(np.uint8)
    corners = np.array([[0.0, 0], [479, 0], [479, 359], [0, 359]])
    assert edge_spread_px(picture, corners) == pytest.approx(sigma, rel=0.12)
    assert edge_spread_px(np.full_like(picture, 90), corners) == float("inf")


@given(st.floats(0.1, 1.0), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_light_is_compared_as_the_camera_sees_it(dim: float, turns: int) -> None:
    """A right half with ``dim`` times the light is found so, however the page is turned."""
    level = linear_to_srgb(np.array([0.7, 0.7 * dim])) * 255
    picture = np.full((720, 1280, 3), round(level[0]), np.uint8)
    picture[:, 640:] = round(level[1])
    seen = page_exposure(picture, np.roll(SQUARE, turns, axis=0))
    assert seen.right_to_left == pytest.approx(dim, rel=0.06)
    assert seen.bottom_to_top == pytest.approx(1.0, rel=0.02)
    assert seen.paper == round(level[0])


def test_what_is_clipped_is_counted_inside_the_page() -> None:
    """A quarter of the page over-exposed is a clipped share of a quarter; what lies outside does
    not count."""
    picture = np.full((720, 1280, 3), 200, np.uint8)
    picture[:100] = 255
    picture[100:360, 300:640, 0] = 255
    assert page_exposure(picture, SQUARE).clipped == pytest.approx(0.25, abs=0.02)


def test_motion_is_picture_widths_a_second() -> None:
    """A corner that moves by 64 of 1280 px in half a second moves by a tenth a second."""
    moved = SQUARE.copy()
    moved[2] += [64, 0]
    assert page_motion(moved, SQUARE, 1280, 0.5) == pytest.approx(0.1)


def test_points_reach_the_cells_they_lie_in() -> None:
    """Points outside the picture reach none."""
    points = np.array([[10.0, 10], [1270, 710], [640, 360], [-5, 10], [1300, 10]])
    assert reached_cells(points, SIZE) == {(0, 0), (3, 3), (2, 2)}


GOOD = PageMeasures(SQUARE, SIZE, PageExposure(215.0, 0.0, 1.0, 1.0), 1.2, 25.0, 0.0, 0.0, 0.0, 0.0)
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"cell_px": 7.0}, "Closer", "7 px, 11 are needed"),
    ({"corners": SQUARE * 1.9}, "Farther away", "leaves the picture"),
    ({"exposure": PageExposure(90, 0, 1, 1)}, "Too dark", "90 of 255, 158 are needed"),
    ({"exposure": PageExposure(255, 0.3, 1, 1)}, "Too bright", "30 % of the chart"),
    ({"exposure": PageExposure(215, 0, 2.5, 1)}, "More light from the left", "2.5 times"),
    ({"exposure": PageExposure(215, 0, 0.4, 1)}, "More light from the right", "2.5 times"),
    ({"exposure": PageExposure(215, 0, 1, 2.0)}, "More light from above", "2.0 times"),
    ({"exposure": PageExposure(215, 0, 1, 0.5)}, "More light from below", "2.0 times"),
    ({"yaw_deg": -60.0}, "Face the chart to the camera", "60 degrees, at most 45"),
    ({"motion": 0.2}, "Hold still", "20 % of the picture a second"),
    ({"motion": None}, "Hold still", ""),
    ({"edge_px": 6.0}, "Out of focus", "6.0 px wide, at most 2.2"),
]


@pytest.mark.parametrize(("changes", "words", "why"), FAULTS, ids=[f[1] for f in FAULTS])
def test_each_fault_has_its_advice(changes: dict[str, Any], words: str, why: str) -> None:
    """The advice names the fault, the measured value and the limit; without it the frame is
    ready."""
    assert advise(GOOD, CHART_LIMITS) == Advice("Hold it", "", True)
    advice = advise(replace(GOOD, **changes), CHART_LIMITS)
    assert (advice.words, advice.ready) == (words, False)
    assert why in advice.why


def test_dim_paper_is_taken_with_a_hint() -> None:
    """Between what is refused and what is good the frame is taken, and more light suggested."""
    advice = advise(replace(GOOD, exposure=PageExposure(170, 0, 1, 1)), CHART_LIMITS)
    assert advice.ready
    assert "over 200 is better" in advice.why


def test_who_has_to_move_is_not_told_to_hold_still() -> None:
    """A goal comes before motion and blur, and after light."""
    goal = Advice("Turn the page upside down")
    assert advise(replace(GOOD, motion=0.5), CHART_LIMITS, goal) == goal
    dark = replace(GOOD, motion=0.5, exposure=PageExposure(40, 0, 1, 1))
    assert advise(dark, CHART_LIMITS, goal).words == "Too dark"


def test_a_page_not_found_has_a_reason() -> None:
    """Darkness, a part of the page, or no page."""
    assert advise_search(0, 6, 30, "chart").words == "Too dark"
    assert "4 of its points" in advise_search(4, 6, 200, "chart").why
    assert advise_search(0, 6, 200, "board").words == "Hold the board before the camera"


def board_measures(yaw: float, pitch: float, distance: float, shift: np.ndarray) -> PageMeasures:
    corners = projected(yaw, pitch, 0, distance) + shift
    reached = reached_cells(
        np.stack(np.meshgrid(*(np.linspace(c.min(), c.max(), 9) for c in corners.T)), -1).reshape(
            -1, 2
        ),
        SIZE,
    )
    return replace(GOOD, corners=corners, yaw_deg=yaw, pitch_deg=pitch, reached=reached)


def test_poses_as_instructed_are_the_views_wanted() -> None:
    """Twelve poses, one for each instruction, take all targets of the board."""
    none = np.zeros(2)
    poses = [
        *((0, 0, 330, none), (-30, 0, 450, none), (30, 0, 450, none), (0, -30, 450, none)),
        *((0, 30, 450, none), (0, 0, 700, np.array([-420, -100]))),
        *((0, 0, 700, np.array([420, -100])), (0, 0, 700, np.array([420, 100]))),
        *((0, 0, 700, np.array([-420, 100])), (-22, -22, 450, none), (22, 22, 450, none)),
        (0, 0, 900, none),
    ]
    waiting = list(BOARD_TARGETS)
    for pose, expected in zip(poses, BOARD_TARGETS, strict=True):
        measures = board_measures(*pose)
        assert advise(measures, BOARD_LIMITS).ready
        target = best_target(waiting, measures, None)
        assert target is not None
        assert target == expected
        waiting.remove(target)
    assert waiting == []


def test_half_of_the_charts_views_are_upside_down() -> None:
    """Of five views three are as the first and two turned by more than a right angle; before the
    first none is upside down."""
    lying, turned = chart_targets(5)[0], chart_targets(5)[-1]
    assert chart_targets(5) == [lying] * 3 + [turned] * 2
    assert lying.fits(GOOD, None)
    assert not turned.fits(GOOD, None)
    assert turned.fits(replace(GOOD, roll_deg=-175.0), 10.0)
    assert lying.fits(replace(GOOD, roll_deg=80.0), 10.0)
    assert best_target([turned], GOOD, 0.0) is None


def test_standing_still_is_no_other_place() -> None:
    """A corner has to move by 4 % of the picture's width."""
    assert is_moved(SQUARE, [], 1280)
    assert not is_moved(SQUARE + 40, [SQUARE], 1280)
    assert is_moved(SQUARE + 60, [SQUARE], 1280)


def test_limits_and_targets_can_be_met() -> None:
    """No target of the board lies outside the limits of tilt."""
    most = BOARD_LIMITS.max_tilt_deg
    for target in BOARD_TARGETS:
        for least, largest in (target.yaw_deg, target.pitch_deg):
            assert max(least, -most) < min(largest, most)
