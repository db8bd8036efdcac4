"""The camera's geometry: focal length from the angle of view, and radial distortion of the lens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.eot.sampling import DrawStream, draw_uniform
from physadv.eot.stage import Range, Stage, StageRanges, span
from physadv.eot.transforms.light import sign_spot

if TYPE_CHECKING:
    from physadv.eot.scenes.scene_batch import SceneBatch


@dataclass(frozen=True)
class LensRanges(StageRanges):
    """Ranges of the lens's distortion."""

    lens_k1: Range = span(0, 0)
    """Radial distortion: a point half a picture's width from the middle moves by this share of that
    distance."""


def focal_length_px(width_px: float, field_of_view_deg: float) -> float:
    """Focal length in px of a pinhole camera whose picture is ``width_px`` wide and spans that
    angle."""
    return width_px / 2 / math.tan(math.radians(field_of_view_deg) / 2)


@dataclass(frozen=True)
class Radial:
    """Brown's radial distortion of b pictures; lengths in units of half the picture's width, origin
    at its middle."""

    k1: Tensor  # (b,)
    anchor_px: Tensor  # (b, 2) x, y that stay where they are: the camera is aimed so


def undistorted(
    xs: Tensor, ys: Tensor, radial: Radial, picture: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Where a pinhole camera sees what the lens shows at (xs, ys), (b, ...) px each, in pictures of
    (height, width).

    The lens maps r to r (1 + k1 r^2) (Brown 1966); its inverse is found by fixed-point steps,
    within 1e-3 px for
    |k1| <= 0.1 inside the picture.
    """
    center_x, center_y, half = picture[1] / 2, picture[0] / 2, picture[1] / 2
    k1 = radial.k1.to(xs).view(-1, *[1] * (xs.dim() - 1))
    u, v = (xs - center_x) / half, (ys - center_y) / half
    shrink = _inverse_scale(u**2 + v**2, k1)
    shift_x, shift_y = _aim(radial, xs, picture)
    return (u * shrink - shift_x) * half + center_x, (v * shrink - shift_y) * half + center_y


def distorted(
    xs: Tensor, ys: Tensor, radial: Radial, picture: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Where the lens shows what a pinhole camera sees at (xs, ys): the inverse of
    :func:`undistorted`."""
    center_x, center_y, half = picture[1] / 2, picture[0] / 2, picture[1] / 2
    k1 = radial.k1.to(xs).view(-1, *[1] * (xs.dim() - 1))
    shift_x, shift_y = _aim(radial, xs, picture)
    u, v = (xs - center_x) / half + shift_x, (ys - center_y) / half + shift_y
    grow = 1 + k1 * (u**2 + v**2)
    return u * grow * half + center_x, v * grow * half + center_y


def _aim(radial: Radial, like: Tensor, picture: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How far the pinhole's picture is shifted, in half widths, so that the anchor stays where it
    is."""
    half = picture[1] / 2
    x, y = ((radial.anchor_px[:, i].to(like) - picture[1 - i] / 2) / half for i in (0, 1))
    moved = _inverse_scale(x**2 + y**2, radial.k1.to(like)) - 1
    shape = (-1, *[1] * (like.dim() - 1))
    return (moved * x).view(shape), (moved * y).view(shape)


def _inverse_scale(distorted_squared: Tensor, k1: Tensor) -> Tensor:
    """r_u / r_d for r_d = r_u (1 + k1 r_u^2)."""
    scale = torch.ones_like(distorted_squared * k1)
    for _ in range(4):
        scale = 1 / (1 + k1 * distorted_squared * scale**2)
    return scale


@torch.no_grad()
def distort(light: Tensor, radial: Radial) -> Tensor:
    """What the lens makes of (b, 3, h, w) pinhole pictures; scenes only, so no gradient is kept."""
    height, width = light.shape[-2:]
    ys, xs = torch.meshgrid(
        torch.arange(height, device=light.device, dtype=light.dtype) + 0.5,
        torch.arange(width, device=light.device, dtype=light.dtype) + 0.5,
        indexing="ij",
    )
    shape = (len(light), height, width)
    x, y = undistorted(xs.expand(shape), ys.expand(shape), radial, (height, width))
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1)
    return F.grid_sample(light, grid, padding_mode="reflection", align_corners=False)


class LensDistortion(Stage[LensRanges, Radial]):
    """Radial distortion: of the scene here, and of the patch while it is placed."""

    encoding = "linear"
    acts_on = "geometry"

    def sample(self, batch: SceneBatch, ranges: LensRanges, stream: DrawStream) -> Radial | None:
        """Draw the distortion for ``batch`` within ``ranges`` from the ``stream`` "lens"."""
        if not ranges.acts("lens_k1"):
            return None
        k1 = draw_uniform(stream.named("lens"), ranges.lens_k1, len(batch.images))
        return Radial(k1, sign_spot(batch.homography).center_px)

    def apply(self, images: Tensor, params: Radial) -> Tensor:
        """Return pinhole pictures ``images`` as the lens of ``params`` shows them."""
        return distort(images, params)
