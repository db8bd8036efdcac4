"""Brown's lens, forward and inverse, beside OpenCV's; a lens without an inverse is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from physadv.core.errors import GeometryError
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement, reached_px
from physadv.eot.presets import eot_preset
from physadv.eot.ranges import NOTHING
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.transforms.lens_distortion import (
    BrownLens,
    check_lens,
    distorted_points,
    focal_length_px,
    in_half_widths,
    undistorted_grid,
    undistorted_points,
)
from physadv.eot.warp import pixel_centers, pose_homography

DOUBLE = torch.float64
PICTURE = (180, 320)
F64 = npt.NDArray[np.float64]
LENSES = [
    (48, (-0.35, 0.0, 0.0, 0.0, 0.0)),
    (58, (-0.35, 0.0, 0.0, 0.0, 0.0)),
    (90, (-0.35, 0.15, 0.0, 0.0, 0.0)),
    (90, (-0.30, 0.10, 0.0010, -0.0007, -0.010)),
    (70, (-0.30, 0.11, 0.0008, -0.0006, -0.020)),
    (70, (0.20, 0.05, -0.0010, 0.0020, 0.020)),
    (90, (0.20, 0.00, 0.0000, 0.0000, 0.000)),
]
"""Angles of view and coefficients from a strong barrel to a strong pincushion."""


def camera(degrees: float) -> F64:
    """A camera matrix whose principal point is not the middle, nor its pixels square."""
    focal = focal_length_px(PICTURE[1], degrees)
    return np.array([[focal, 0, 163.0], [0, 1.002 * focal, 88.5], [0, 0, 1]])


def brown(matrix: F64, coefficients: tuple[float, ...]) -> BrownLens:
    height, width = PICTURE
    center = [[(matrix[0, 2] - width / 2) / (width / 2), (matrix[1, 2] - height / 2) / (width / 2)]]
    terms = in_half_widths(coefficients, width / 2 / matrix[0, 0])
    return BrownLens(
        torch.tensor([terms], dtype=DOUBLE),
        center=torch.tensor(center, dtype=DOUBLE),
        aspect=torch.tensor([matrix[1, 1] / matrix[0, 0]], dtype=DOUBLE),
    )


def all_pixels() -> tuple[Tensor, Tensor]:
    xs, ys = pixel_centers(PICTURE, torch.zeros(1, dtype=DOUBLE))
    return xs.expand(1, *PICTURE).contiguous(), ys.expand(1, *PICTURE).contiguous()


def as_points(x: Tensor, y: Tensor) -> F64:
    return torch.stack([x.flatten(), y.flatten()], 1).double().numpy()


def opencv_undistorted(points: F64, matrix: F64, coefficients: tuple[float, ...]) -> F64:
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-13)
    ideal = cv2.undistortPoints(
        points[:, None], matrix, np.array(coefficients), R=np.eye(3), P=matrix, criteria=criteria
    )
    return np.asarray(ideal[:, 0])


def test_field_of_view_gives_the_focal_length() -> None:
    """90 degrees over 1000 px is a focal length of 500 px."""
    assert focal_length_px(1000, 90) == pytest.approx(500)


@pytest.mark.parametrize(("degrees", "coefficients"), LENSES)
def test_forward_is_opencvs(degrees: float, coefficients: tuple[float, ...]) -> None:
    """Every point is shown where projectPoints and initUndistortRectifyMap put it."""
    matrix = camera(degrees)
    x, y = all_pixels()
    shown = as_points(*distorted_points(x, y, brown(matrix, coefficients), PICTURE))
    rays = (np.c_[as_points(x, y), np.ones(x.numel())]) @ np.linalg.inv(matrix).T
    expected = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), matrix, np.array(coefficients))[0]
    np.testing.assert_allclose(shown, expected[:, 0], atol=1e-6)

    # OpenCV's maps count from the center of the first pixel.
    shift = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    maps = cv2.initUndistortRectifyMap(
        matrix - shift,
        np.array(coefficients),
        np.eye(3),
        matrix - shift,
        PICTURE[::-1],
        cv2.CV_32FC1,
    )
    rectified = np.stack([m.ravel() for m in maps], 1) + 0.5
    np.testing.assert_allclose(shown, rectified, atol=1e-3)


@pytest.mark.parametrize(("degrees", "coefficients"), LENSES)
def test_inverse_is_opencvs(degrees: float, coefficients: tuple[float, ...]) -> None:
    """All over the picture the inverse is that of 500 of OpenCV's iterations, within 0.05 px."""
    matrix, (x, y) = camera(degrees), all_pixels()
    lens = brown(matrix, coefficients)
    check_lens(lens, PICTURE)
    expected = opencv_undistorted(as_points(x, y), matrix, coefficients)
    exact = as_points(*undistorted_points(x, y, lens, PICTURE))
    np.testing.assert_allclose(exact, expected, atol=1e-6)

    single = replace(lens, terms=lens.terms.float())
    grid = undistorted_grid(*pixel_centers(PICTURE, torch.zeros(1)), single, PICTURE)[:2]
    np.testing.assert_allclose(as_points(*grid), expected, atol=0.05)


@settings(deadline=None, max_examples=60)
@given(
    degrees=st.floats(30, 100),
    k1=st.floats(-0.35, 0.2),
    k2=st.floats(-0.1, 0.2),
    p1=st.floats(-0.003, 0.003),
    p2=st.floats(-0.003, 0.003),
    k3=st.floats(-0.05, 0.05),
)
def test_accepted_lenses_have_an_inverse(
    degrees: float, k1: float, k2: float, p1: float, p2: float, k3: float
) -> None:
    """What check_lens accepts comes back within 0.05 px from undistorting and distorting again."""
    lens = brown(camera(degrees), (k1, k2, p1, p2, k3))
    try:
        check_lens(lens, PICTURE)
    except GeometryError:
        assume(False)
    x, y = all_pixels()
    for ideal in (
        undistorted_points(x, y, lens, PICTURE),
        undistorted_grid(*pixel_centers(PICTURE, x), lens, PICTURE)[:2],
    ):
        again = as_points(*distorted_points(*ideal, lens, PICTURE))
        assert np.abs(again - as_points(x, y)).max() < 0.05


@settings(deadline=None, max_examples=60)
@given(degrees=st.floats(30, 110), k1=st.floats(-0.35, -0.05))
def test_folding_lenses_are_refused(degrees: float, k1: float) -> None:
    """With k1 alone the farthest radius that a lens shows is 2 / (3 sqrt(-3 k1)) focal lengths."""
    matrix = camera(degrees)
    corners = np.array([[0, 0], [320, 0], [0, 180], [320, 180.0]])
    rays = (np.c_[corners, np.ones(4)]) @ np.linalg.inv(matrix).T
    farthest = np.linalg.norm(rays[:, :2], axis=1).max()
    limit = 2 / (3 * math.sqrt(-3 * k1))
    lens = brown(matrix, (k1,))
    if farthest > limit:
        with pytest.raises(GeometryError, match=r"k1 .* folds inside the picture"):
            check_lens(lens, PICTURE)
    elif farthest < 0.98 * limit:
        check_lens(lens, PICTURE)


def test_ranges_that_fold_are_refused() -> None:
    """A stage whose ranges reach a folding lens raises before anything is drawn."""
    scenes = scene_batch((64, 64))
    for names in ({"lens_k1": (-0.3, 0.1)}, {"lens_k1": (0.0, 0.0), "lens_k3": (-0.2, 0.0)}):
        with pytest.raises(GeometryError, match="folds inside"):
            Pipeline.from_ranges(replace(NOTHING, **names)).sample(
                scenes, torch.Generator().manual_seed(0)
            )
    drawn = Pipeline.from_ranges(eot_preset("camera")).sample(
        scenes, torch.Generator().manual_seed(0)
    )
    assert "LensDistortion" in drawn.params


def scene_batch(picture: tuple[int, int]) -> SceneBatch:
    one = torch.ones(2)
    pose = pose_homography(
        4000 * one,
        0 * one,
        0 * one,
        0 * one,
        focal_px=100 * one,
        center_px=torch.full((2, 2), 30.0),
    )
    blank = torch.full((2, 3, *picture), 0.5)
    return SceneBatch(blank, pose, torch.ones(2, 3), torch.zeros(2, 3), one, ())


def test_kornias_inverse_is_the_same() -> None:
    """Where kornia's fixed-point steps converge, both backends agree within 0.05 px."""
    lens = brown(camera(70), (-0.2, 0.05, 0.001, -0.002, 0.0))
    grid = pixel_centers(PICTURE, torch.zeros(1))
    own = undistorted_grid(*grid, lens, PICTURE)
    theirs = undistorted_grid(*grid, replace(lens, backend="kornia"), PICTURE)
    torch.testing.assert_close(own, theirs, atol=0.05, rtol=0)


def test_the_sign_stays_in_its_place() -> None:
    """The anchor is not moved by the lens, and nothing is without distortion."""
    lens = brown(camera(70), (-0.3, 0.11, 0.001, -0.002, -0.02))
    anchor = torch.tensor([[30.0, 150.0]], dtype=DOUBLE)
    aimed = replace(lens, anchor_px=anchor)
    place = torch.cat(undistorted_points(anchor[:, :1], anchor[:, 1:], aimed, PICTURE), 1)
    torch.testing.assert_close(place, anchor)

    xs, ys = all_pixels()
    there = distorted_points(*undistorted_points(xs, ys, aimed, PICTURE), aimed, PICTURE)
    torch.testing.assert_close(there, (xs, ys))
    none = BrownLens(torch.zeros(1, 5), anchor)
    same = undistorted_grid(*pixel_centers(PICTURE, torch.zeros(1)), none, PICTURE)[:2]
    torch.testing.assert_close(same, (xs.float(), ys.float()), atol=1e-4, rtol=0)


def test_what_a_lens_shows_of_a_patch_lies_in_its_box() -> None:
    """A patch beyond the fold, outside of the picture, gives the whole picture."""
    lens = BrownLens(torch.tensor([[-0.1, 0.0, 0.0, 0.0, 0.0]]))
    one = torch.ones(1)
    near, far = (
        pose_homography(
            5000 * one,
            0 * one,
            0 * one,
            0 * one,
            focal_px=500 * one,
            center_px=torch.tensor([[x, 90.0]]),
        )
        for x in (160.0, 700.0)
    )
    patch = Placement(200, 200)
    box = reached_px(patch, near, None, lens, PICTURE)[0]
    assert (box[2:] - box[:2]).tolist() == pytest.approx([26, 26], abs=1)
    assert reached_px(patch, far, None, lens, PICTURE)[0].tolist() == [0, 0, 320, 180]


def test_gradients_are_true() -> None:
    """Forward and inverse pass gradcheck in the points and in all coefficients."""
    points = torch.tensor([[[20.0, 300.0], [160.0, 10.0]]], dtype=DOUBLE).requires_grad_()
    lens = brown(camera(70), (-0.3, 0.11, 0.001, -0.002, -0.02))
    terms = lens.terms.clone().requires_grad_()
    for act in (distorted_points, undistorted_points):
        assert torch.autograd.gradcheck(
            lambda p, t, act=act: act(p[:, 0], p[:, 1], replace(lens, terms=t), PICTURE),
            (points, terms),
        )
