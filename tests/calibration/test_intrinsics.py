"""The lens from rendered views of the board: within 1 % of the truth, or refused with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from charttwin import raster

from physadv.calibration.charuco_board import write_board
from physadv.calibration.intrinsics import (
    BoardView,
    calibrate_camera,
    find_board,
    is_new_view,
    tilt_deg,
)
from physadv.core.errors import CalibrationError
from physadv.eot.profiles import CameraProfile, read_camera_profile, write_profile

SIZE = (960, 720)
TRUE = CameraProfile(
    880.0, 874.0, 487.0, 353.0, (-0.21, 0.06, 0.001, -0.0008, 0.0), *SIZE, 0.0, 0, ""
)
TILTS = [
    (0, 0),
    (28, 0),
    (-28, 0),
    (0, 28),
    (0, -28),
    (25, 20),
    (-25, 20),
    (20, -25),
    (-22, -22),
    (35, 5),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    path = tmp_path_factory.mktemp("board") / "board.pdf"
    write_board(path)
    return raster(path, 110)


def photo(
    page: np.ndarray, tilt: tuple[float, float], shift: tuple[float, float] = (0, 0), seed: int = 0
) -> np.ndarray:
    """The page seen through TRUE, by tracing every sub-pixel back to the paper; noise and a little
    blur added."""
    fine = 2
    ys, xs = np.mgrid[0 : SIZE[1] * fine, 0 : SIZE[0] * fine].astype(np.float64)
    pixels = np.stack([(xs.ravel() + 0.5) / fine - 0.5, (ys.ravel() + 0.5) / fine - 0.5], -1)[
        :, None
    ]
    rays = cv2.undistortPoints(pixels, TRUE.opencv_matrix, np.array(TRUE.distortion))[:, 0]
    turn, _ = cv2.Rodrigues(np.radians([tilt[1], tilt[0], 5.0 * seed]))
    place = np.column_stack([turn[:, :2], np.array([shift[0], shift[1], 330.0])])
    mm = cv2.perspectiveTransform(rays[None], np.linalg.inv(place))[0]
    texel = (mm * 110 / 25.4 + np.array([page.shape[1], page.shape[0]]) / 2 - 0.5).astype(
        np.float32
    )
    x, y = texel.reshape(*xs.shape, 2).transpose(2, 0, 1)
    seen = cv2.remap(
        page,
        np.ascontiguousarray(x),
        np.ascontiguousarray(y),
        cv2.INTER_LINEAR,
        borderValue=(90, 90, 90),
    )
    small = cv2.GaussianBlur(
        cv2.resize(seen, SIZE, interpolation=cv2.INTER_AREA), (0, 0), 0.5
    ).astype(np.float64)
    noisy = small + np.random.default_rng(seed).normal(0, 2, small.shape)
    return np.asarray(noisy.clip(0, 255).round(), np.uint8)


@pytest.fixture(scope="module")
def views(page: np.ndarray) -> list[BoardView]:
    shifts = [
        (0, 0),
        (60, 30),
        (-60, -30),
        (60, -30),
        (-60, 30),
        (0, 45),
        (0, -45),
        (70, 0),
        (-70, 0),
        (20, 10),
    ]
    pairs = enumerate(zip(TILTS, shifts, strict=True))
    return [find_board(photo(page, tilt, shift, seed=i), f"view {i}") for i, (tilt, shift) in pairs]


def test_the_lens_is_found_within_one_per_cent(views: Sequence[BoardView], tmp_path: Path) -> None:
    """Focal lengths and center within 1 %, distorted rays within a pixel up to the corners; it
    survives the file."""
    found = calibrate_camera(views, camera="rendered")
    assert found.fx == pytest.approx(TRUE.fx, rel=0.01)
    assert found.fy == pytest.approx(TRUE.fy, rel=0.01)
    assert (found.cx, found.cy) == pytest.approx((TRUE.cx, TRUE.cy), abs=0.01 * SIZE[0])
    rays = np.stack(
        [*np.meshgrid(np.linspace(-0.5, 0.5, 9), np.linspace(-0.38, 0.38, 9)), np.ones((9, 9))], -1
    )
    none = np.zeros(3)
    both = [
        cv2.projectPoints(
            rays.reshape(-1, 1, 3), none, none, p.opencv_matrix, np.array(p.distortion)
        )[0]
        for p in (found, TRUE)
    ]
    assert float(np.abs(both[0] - both[1]).max()) < 2.0
    assert found.rms_px < 0.5
    assert read_camera_profile(write_profile(tmp_path / "c.json", found)) == found


def test_tilts_are_measured(views: Sequence[BoardView]) -> None:
    """The approximate tilt of a view, without distortion, is within seven degrees of the truth."""
    for view, (yaw, pitch) in zip(views, TILTS, strict=True):
        turn, _ = cv2.Rodrigues(np.radians([float(pitch), float(yaw), 0.0]))
        true = np.degrees(np.arccos(abs(turn[2, 2])))
        assert tilt_deg(view, TRUE.fx) == pytest.approx(true, abs=7)


def test_too_few_views_are_counted(views: Sequence[BoardView]) -> None:
    """The error names how many are missing."""
    with pytest.raises(CalibrationError, match="8 are needed: 3 more"):
        calibrate_camera(views[:5])


def test_views_without_tilt_are_refused(page: np.ndarray) -> None:
    """A board that is only shifted does not determine the focal length, and the error asks for
    tilt."""
    places = [(x, y) for x in (-50, 0, 50) for y in (-25, 0, 25)]
    flat = [
        find_board(photo(page, (1, -1), place, seed=i), f"{i}") for i, place in enumerate(places)
    ]
    with pytest.raises(CalibrationError, match=r"too much alike.*Tilt the board"):
        calibrate_camera(flat)


def test_a_picture_without_the_board_is_refused() -> None:
    """The error names the picture and the number of corners found."""
    with pytest.raises(CalibrationError, match=r"empty\.png: 0 of 54 board corners"):
        find_board(np.full((200, 300, 3), 120, np.uint8), "empty.png")


def test_standing_still_is_no_new_view(views: Sequence[BoardView]) -> None:
    """A frame like an earlier one is not a new view; another pose is."""
    assert not is_new_view(views[0], views)
    assert is_new_view(views[1], views[:1])


def test_the_same_views_give_the_same_lens(views: Sequence[BoardView]) -> None:
    """To the last digit, which OpenCV's threads would change from run to run; they are as many as
    before afterwards."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        found = {calibrate_camera(views).fx for _ in range(8)}
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)
    assert len(found) == 1
