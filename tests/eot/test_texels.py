"""Texels seen from afar and from near, beside 16 x 16 supersampling of squares of one color."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from physadv.core.random_streams import generator
from physadv.eot.warp import pose_homography, warp_texture

F64 = npt.NDArray[np.float64]
TEXELS, SIZE, TAPS = 64, 96, 16
RECTANGLE = torch.tensor([-50.0, -50.0, 100.0, 100.0])


def binary_patch() -> Tensor:
    """A mask of ones, and 15 channels of black and white texels: few px show a small patch."""
    texels = (torch.rand(1, 15, TEXELS, TEXELS, generator=generator(0, "texels")) > 0.5).float()
    return torch.cat([torch.ones_like(texels[:, :1]), texels], 1)


def seen_as(width_px: float, yaw: float = 0, pitch: float = 0, roll: float = 0) -> Tensor:
    """A camera at 5 patch widths that sees the patch ``width_px`` wide, off the pixels' raster."""
    angles = (torch.tensor([math.radians(a)]) for a in (yaw, pitch, roll))
    focal = torch.tensor([width_px * 5.0])
    center = torch.tensor([[SIZE / 2 + 0.37, SIZE / 2 - 0.21]])
    return pose_homography(torch.tensor([500.0]), *angles, focal_px=focal, center_px=center)


def supersampled(texture: Tensor, plane_to_px: Tensor) -> F64:
    """The mean of 16 x 16 points in each pixel, each the texel it falls into; float64 numpy."""
    fine = (np.arange(SIZE * TAPS) + 0.5) / TAPS
    xs, ys = np.meshgrid(fine, fine)
    inverse = np.linalg.inv(plane_to_px[0].double().numpy())
    x, y, w = np.tensordot(inverse, np.stack([xs, ys, np.ones_like(xs)]), 1)
    u, v = (x / w + 50) / 100 * TEXELS, (y / w + 50) / 100 * TEXELS
    inside = (u >= 0) & (u < TEXELS) & (v >= 0) & (v < TEXELS)
    column, row = (np.clip(p, 0, TEXELS - 1).astype(int) for p in (u, v))
    values = texture[0].double().numpy()[:, row, column] * inside
    return np.asarray(values.reshape(-1, SIZE, TAPS, SIZE, TAPS).mean((2, 4)))


def compared(plane_to_px: Tensor) -> tuple[float, float]:
    """Contrast over the oracle's, within the patch, and the RMS difference all over the picture."""
    patch = binary_patch()
    exact = supersampled(patch, plane_to_px)
    ours = warp_texture(patch, plane_to_px, RECTANGLE, (SIZE, SIZE))[0].double().numpy()
    whole = exact[0] > 0.999
    contrast = ours[1:, whole].std(1).mean() / exact[1:, whole].std(1).mean()
    return float(contrast), float(np.sqrt(np.square(ours - exact).mean()))


@pytest.mark.parametrize("width_px", [8, 11, 16, 23, 32, 46])
def test_contrast_from_afar_is_that_of_supersampling(width_px: float) -> None:
    """A frontal patch of 64 random texels keeps the contrast of its area average, and its edge."""
    contrast, error = compared(seen_as(width_px))
    assert contrast == pytest.approx(1, abs=0.03)
    assert error < 0.01


@pytest.mark.parametrize("width_px", [64, 90])
def test_texels_from_near_are_squares(width_px: float) -> None:
    """A magnified texel has hard edges, as the print shows them: nothing is interpolated."""
    contrast, error = compared(seen_as(width_px))
    assert contrast == pytest.approx(1, abs=0.02)
    assert error < 0.02


def test_an_enlarged_texel_is_one_color() -> None:
    """Eight px a texel: every px that lies within one texel has its very color."""
    texture = torch.rand(1, 3, 4, 4, generator=generator(0, "colors"))
    eight = torch.diag(torch.tensor([8.0, 8.0, 1.0]))[None]
    large = warp_texture(texture, eight, torch.tensor([0.0, 0.0, 4.0, 4.0]), (32, 32))
    squares = texture.repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(large, squares)


@settings(deadline=None, max_examples=25)
@given(
    width_px=st.floats(8, 90),
    yaw=st.floats(-60, 60),
    pitch=st.floats(-20, 20),
    roll=st.floats(-180, 180),
)
def test_turned_and_in_perspective(width_px: float, yaw: float, pitch: float, roll: float) -> None:
    """Under any turn and tilt the picture is near the supersampled one, and as contrasty."""
    contrast, error = compared(seen_as(width_px, yaw, pitch, roll))
    assert 0.92 <= contrast <= 1.03
    assert error < 0.03


def test_each_image_may_have_its_own_scale() -> None:
    """Images from near and from afar in one batch are those rendered alone, in their order."""
    patch = binary_patch()
    views = torch.cat([seen_as(w, 20, 5, 30) for w in (90, 12, 400, 30)])
    together = warp_texture(patch, views, RECTANGLE, (SIZE, SIZE))
    own = warp_texture(patch.expand(4, -1, -1, -1), views, RECTANGLE, (SIZE, SIZE))
    alone = [warp_texture(patch, view[None], RECTANGLE, (SIZE, SIZE)) for view in views]
    torch.testing.assert_close(together, torch.cat(alone))
    torch.testing.assert_close(own, together)


@pytest.mark.parametrize("width_px", [5.0, 40.0, 90.0])
def test_gradients_reach_the_texels(width_px: float) -> None:
    """The area average is differentiable in the texture (gradcheck), from afar and from near."""
    plane_to_px = seen_as(width_px, 25, 10, 40).double()
    texture = torch.rand(1, 2, 5, 7, dtype=torch.float64, generator=generator(0, "small"))

    def warped(texels: Tensor) -> Tensor:
        picture = warp_texture(texels, plane_to_px, RECTANGLE.double(), (SIZE, SIZE))
        return picture[..., 20:76:4, 20:76:4]

    assert torch.autograd.gradcheck(warped, (texture.requires_grad_(),))


def test_kornias_lookup_agrees_where_neither_averages() -> None:
    """Inside smooth textures and at one texel a px both show the same picture."""
    ramp = torch.linspace(0, 1, TEXELS).expand(1, 1, TEXELS, TEXELS)
    view = seen_as(TEXELS)
    own, kornias = (
        warp_texture(ramp, view, RECTANGLE, (SIZE, SIZE), backend=backend)[..., 20:76, 20:76]
        for backend in ("own", "kornia")  # type: ignore[misc]
    )
    torch.testing.assert_close(own, kornias, atol=1e-3, rtol=0)
