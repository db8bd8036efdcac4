"""Markers that lie on no one page, and poses that fit no lens, are refused instead of recorded."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from physadv.camera.frames import CameraFrame
from physadv.camera.lens import lens_for
from physadv.camera.localization.by_markers import NOT_ONE_PAGE, by_fiducials
from physadv.camera.localization.location import PointMatches, SignLocation
from physadv.camera.localization.pose import rotation_matrix
from physadv.camera.localization.with_pose import NO_POSE, with_pose
from physadv.check.guidance import FilmingGuide
from physadv.check.view_coverage import ViewPlan
from physadv.printing.aruco_markers import FIDUCIALS, marker_modules, test_sign_layout

WIDTH_MM, FOCAL, SIZE = 180.0, 900.0, (1280, 720)
LAYOUT = test_sign_layout()


def seen_corners(
    sag_mm: float, barrel: float, yaw: float, distance_mm: float, focal: float = FOCAL
) -> np.ndarray:
    """Corners (4, 4, 2) in px of the markers of a page bent like a roof tile, before a lens."""
    flat = (LAYOUT.reshape(-1, 2) - 0.5) * WIDTH_MM
    out = sag_mm * (flat[:, 0] / np.abs(flat[:, 0]).max()) ** 2
    points = np.column_stack([flat, out]) @ rotation_matrix(yaw, 10, 0).T + [0, 0, distance_mm]
    camera = np.array([[focal, 0, SIZE[0] / 2], [0, focal, SIZE[1] / 2], [0, 0, 1]])
    lens = np.array([barrel, 0, 0, 0, 0])
    return np.asarray(cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera, lens)[0]).reshape(
        LAYOUT.shape
    )


def picture(corners: np.ndarray, block: str = "clean") -> CameraFrame:
    """The markers of ``block`` drawn at ``corners`` on white."""
    image = np.full((SIZE[1], SIZE[0]), 250, np.uint8)
    for marker, four in zip(FIDUCIALS[block], corners, strict=True):
        modules = cv2.resize(
            np.where(marker_modules(marker), 15, 250).astype(np.uint8),
            (120, 120),
            interpolation=cv2.INTER_NEAREST,
        )
        square = np.array([[0, 0], [120, 0], [120, 120], [0, 120]], np.float32) - 0.5
        turn = cv2.getPerspectiveTransform(square, (four - 0.5).astype(np.float32))
        cv2.warpPerspective(modules, turn, SIZE, image, borderMode=cv2.BORDER_TRANSPARENT)
    return CameraFrame(np.stack([image] * 3, -1), 0.0, "clip", None, 0)


@pytest.mark.parametrize("sag_mm", [0.0, 15.0, 30.0])
@pytest.mark.parametrize("barrel", [0.0, -0.3])
@pytest.mark.parametrize("yaw", [0.0, 50.0])
def test_a_bent_page_before_a_poor_lens_is_one_page(
    sag_mm: float, barrel: float, yaw: float
) -> None:
    """Paper held by hand bends, and a lens without a profile shifts the edges: both are used."""
    place = with_pose(by_fiducials(), sign_width_mm=WIDTH_MM, lens=lens_for(focal_px=FOCAL))(
        picture(seen_corners(sag_mm, barrel, yaw, 400))
    )
    assert place is not None
    assert (place.refused, place.pose_by) == (None, "fiducials")
    assert place.poses[0].error_px < 0.25 * (place.marker_px or 0)


@pytest.mark.parametrize("seed", range(6))
def test_markers_that_are_scattered_are_no_page(seed: int) -> None:
    """Each somewhere in the picture, turned anyhow, as pasted on a wall: no pose is recorded, and
    the one at the camera is told what to do."""
    draw = np.random.default_rng(seed)
    turns = draw.uniform(0, 2 * np.pi, 4)
    square = np.array([[-40, -40], [40, -40], [40, 40], [-40, 40]])
    around = np.array([[200, 180], [900, 200], [400, 520], [1080, 560]]) + draw.normal(
        0, 30, (4, 2)
    )
    corners = np.stack(
        [
            square @ np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]) + at
            for t, at in zip(turns, draw.permutation(around), strict=True)
        ]
    )
    place = with_pose(by_fiducials(), sign_width_mm=WIDTH_MM, lens=lens_for(focal_px=FOCAL))(
        picture(corners)
    )
    assert place is not None
    assert (place.refused, place.poses, place.yaw_deg) == (NOT_ONE_PAGE, (), None)
    advice = FilmingGuide(width=0.1, plan=ViewPlan((0.4, 1.0))).advise({}, place, "clean")
    assert "one flat page" in advice.move
    assert "loser" not in f"{advice}"


def test_a_pose_through_another_lens_is_none() -> None:
    """Through a lens of twice the focal length a tilted page fits no pose that this one could see:
    its distance stays unknown, and a warning says why; frontal pages fit as ever."""
    locate = with_pose(by_fiducials(), sign_width_mm=WIDTH_MM, lens=lens_for(focal_px=FOCAL))
    place = locate(picture(seen_corners(0, 0, 60, 700, 2 * FOCAL)))
    assert place is not None
    assert (place.refused, place.distance_m, place.note) == (None, None, NO_POSE)
    place = locate(picture(seen_corners(0, 0, 0, 900, 2 * FOCAL)))
    assert place is not None
    assert place.pose_by == "fiducials"


def test_an_error_of_thousands_of_pixels_is_no_pose() -> None:
    """Correspondences that no plane explains, whatever found them."""
    draw = np.random.default_rng(5)
    matches = PointMatches(LAYOUT.reshape(-1, 2) - 0.5, draw.uniform(0, 5000, (16, 2)))
    square = np.array([[300, 200], [500, 200], [500, 400], [300, 400]], np.float64)
    found = SignLocation(square, "features", "clean", matches=matches)
    frame = CameraFrame(np.zeros((720, 1280, 3), np.uint8), 0.0, "clip", None, 0)
    locate = with_pose(lambda _: found, sign_width_mm=WIDTH_MM, lens=lens_for(focal_px=FOCAL))
    place = locate(frame)
    assert place is not None
    assert (place.poses, place.distance_m, place.note) == ((), None, NO_POSE)
