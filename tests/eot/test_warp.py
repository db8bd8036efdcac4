"""Homographies and the anti-aliased warp."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physadv.core.errors import GeometryError
from physadv.eot.warp import (
    apply_homography,
    homography_from_corners,
    pose_homography,
    square_corners,
    warp_texture,
)


def scaling(scale: float, shift: float) -> torch.Tensor:
    return torch.tensor([[[scale, 0.0, shift], [0.0, scale, shift], [0.0, 0.0, 1.0]]])


@settings(deadline=None, max_examples=25)
@given(
    yaw=st.floats(-60, 60),
    pitch=st.floats(-45, 45),
    roll=st.floats(-180, 180),
    meters=st.floats(1, 30),
)
def test_corners_return_their_homography(
    yaw: float, pitch: float, roll: float, meters: float
) -> None:
    """Four projected corners give back the homography that projected them, up to scale."""
    angles = [torch.tensor([math.radians(a)], dtype=torch.float64) for a in (yaw, pitch, roll)]
    one = torch.ones(1, dtype=torch.float64)
    matrix = pose_homography(
        1000 * meters * one,
        *angles,
        focal_px=900 * one,
        center_px=torch.tensor([[320.0, 240.0]]).double(),
    )
    plane = square_corners(762, dtype=torch.float64)[None]
    again = homography_from_corners(plane, apply_homography(matrix, plane))
    torch.testing.assert_close(
        again / again[:, 2:, 2:], matrix / matrix[:, 2:, 2:], rtol=1e-6, atol=1e-6
    )


def test_distance_is_true_to_scale() -> None:
    """A frontal 762 mm sign at 7.62 m under f = 1000 px is 100 px wide, centered where it is
    put."""
    one, zero = torch.ones(1), torch.zeros(1)
    matrix = pose_homography(
        7620 * one, zero, zero, zero, focal_px=1000 * one, center_px=torch.tensor([[50.0, 60.0]])
    )
    seen = apply_homography(matrix, square_corners(762)[None])[0]
    torch.testing.assert_close(
        seen, torch.tensor([[0.0, 10.0], [100.0, 10.0], [100.0, 110.0], [0.0, 110.0]])
    )


def test_collinear_corners_are_refused() -> None:
    """Corners on one line have no homography and are named."""
    line = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]])
    with pytest.raises(GeometryError, match="corners"):
        homography_from_corners(square_corners(1.0)[None], line)


def test_identity_warp_returns_the_texture() -> None:
    """One texel a pixel is copied exactly."""
    texture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    same = warp_texture(texture, scaling(1.0, 0.0), torch.tensor([0.0, 0.0, 16.0, 16.0]), (16, 16))
    torch.testing.assert_close(same, texture, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("factor", "limit"), [(3, 0.08), (5, 0.05), (10, 0.05)])
def test_minification_is_the_area_average(factor: int, limit: float) -> None:
    """Seen from afar noise is averaged, not sampled: RMSE to the area average <= 0.05 at 10x;
    bilinear has more."""
    size = 32 * factor
    texture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    exact = torch.nn.functional.avg_pool2d(texture, factor)
    seen = warp_texture(
        texture, scaling(1 / factor, 0.0), torch.tensor([0.0, 0.0, size, size]), (32, 32)
    )
    bilinear = torch.nn.functional.interpolate(
        texture, size=(32, 32), mode="bilinear", align_corners=False
    )

    def error(picture: torch.Tensor) -> float:
        return float((picture - exact)[..., 1:-1, 1:-1].square().mean().sqrt())

    assert error(seen) < limit < error(bilinear)


def test_outside_the_texture_is_nothing() -> None:
    """Pixels that do not see the texture are zero, also behind the camera."""
    texture = torch.ones(1, 4, 8, 8)
    seen = warp_texture(texture, scaling(1.0, 10.0), torch.tensor([0.0, 0.0, 8.0, 8.0]), (32, 32))
    assert float(seen[..., :9, :9].abs().max()) == 0
    assert float(seen[..., 12:16, 12:16].min()) == pytest.approx(1)


def test_gradients_reach_the_texture() -> None:
    """The warp is differentiable in the texture (gradcheck, float64), in perspective."""
    one = torch.ones(2, dtype=torch.float64)
    matrix = pose_homography(
        40 * one,
        0.5 * one,
        -0.2 * one,
        0.1 * one,
        focal_px=30 * one,
        center_px=torch.full((2, 2), 4.0).double(),
    )
    rectangle = torch.tensor([-6.0, -6.0, 12.0, 12.0], dtype=torch.float64)
    texture = torch.rand(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t: warp_texture(t, matrix, rectangle, (8, 8)), (texture,)
    )
