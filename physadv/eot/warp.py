"""Planes in perspective: pose to homography, and a warp of one texture into many images that is
anti-aliased.

Conventions. A sign is a plane in millimeters, origin at its center, x right, y down. Pixels are
continuous with the origin at the outer corner of the top-left pixel, so pixel (row 0, column 0) has
its center at (0.5, 0.5). A homography always maps plane millimeters to image pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from kornia.geometry.transform import get_perspective_transform
from torch import Tensor

from physadv.core.errors import GeometryError

FAR_MM = 1e9
"""Where points lie that the camera cannot see."""


def square_corners(
    width: float, height: float | None = None, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(4, 2) corners TL, TR, BR, BL of a rectangle centered on the origin."""
    x, y = width / 2, (width if height is None else height) / 2
    return torch.tensor([[-x, -y], [x, -y], [x, y], [-x, y]], dtype=dtype)


def homography_from_corners(plane_mm: Tensor, pixels: Tensor) -> Tensor:
    """(b, 3, 3) from four points each, (b, 4, 2) millimeters and (b, 4, 2) pixels. GeometryError
    where degenerate."""
    matrix: Tensor = get_perspective_transform(plane_mm.double(), pixels.double())
    if not bool(torch.isfinite(matrix).all()) or bool(
        (torch.linalg.det(matrix).abs() < 1e-12).any()
    ):
        raise GeometryError(
            "corners of the sign", "no three may lie on a line", "mark the four corners anew"
        )
    return matrix.to(pixels.dtype)


def pose_homography(
    distance_mm: Tensor,
    yaw: Tensor,
    pitch: Tensor,
    roll: Tensor,
    *,
    focal_px: Tensor,
    center_px: Tensor,
) -> Tensor:
    """Pinhole view of the sign plane: (b,) mm and radians, (b,) focal length in px, (b, 2) image of
    the sign's center.

    Yaw turns about the vertical axis, pitch about the horizontal one, roll about the optical axis;
    returns (b, 3, 3).
    """
    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    about_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).view(-1, 3, 3)
    about_x = torch.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], -1).view(-1, 3, 3)
    about_z = torch.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], -1).view(-1, 3, 3)
    rotation = about_z @ about_x @ about_y
    translation = torch.stack([zero, zero, distance_mm], -1)
    plane = torch.stack([rotation[:, :, 0], rotation[:, :, 1], translation], -1)
    intrinsics = torch.stack(
        [focal_px, zero, center_px[:, 0], zero, focal_px, center_px[:, 1], zero, zero, one], -1
    ).view(-1, 3, 3)
    return intrinsics @ plane


def apply_homography(matrix: Tensor, points: Tensor) -> Tensor:
    """Map (b, n, 2) points by (b, 3, 3)."""
    mapped = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ matrix.transpose(-1, -2)
    return mapped[..., :2] / mapped[..., 2:]


def mip_volume(texture: Tensor, levels: int | None = None) -> Tensor:
    """Stack a (1, c, h, w) texture and its 2x area averages, all at full size, as (1, c, levels, h,
    w).

    Sampling this volume with depth = log2(texels per pixel) is trilinear mip-mapping (Williams
    1983) in one call.
    """
    height, width = texture.shape[-2:]
    count = levels or max(1, int(math.log2(min(height, width))))
    stacked, level = [texture], texture
    for _ in range(count - 1):
        level = F.avg_pool2d(level, 2, ceil_mode=True, count_include_pad=False)
        stacked.append(
            F.interpolate(level, size=(height, width), mode="bilinear", align_corners=False)
        )
    return torch.stack(stacked, 2)


Lookup = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Bending = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def warp_texture(
    texture: Tensor,
    plane_to_px: Tensor,
    rectangle_mm: Tensor,
    size: tuple[int, int],
    *,
    at: tuple[Tensor, Tensor] | None = None,
    pinhole: Lookup | None = None,
    bending: Bending | None = None,
) -> Tensor:
    """See a texture, lying on the plane, in b images: (b, c, H, W), zero outside, anti-aliased.

    ``texture`` is (1, c, h, w), or (b, c, h, w) for one of its own in each image. ``plane_to_px``
    is (b, 3, 3); ``rectangle_mm`` is (4,): x0, y0, width, height of the texture on the plane. The
    level of detail follows the area one pixel covers, so a texture seen from afar is averaged, not
    sampled. Differentiable in the texture.

    ``at`` gives the pixel centers, (b, 1, W) and (b, H, 1), where they are not all of an image of
    ``size``; ``pinhole`` maps them to what a lens without distortion sees there; ``bending`` maps
    points of the plane in mm to points of the flat texture and the share of light that these get.
    """
    xs, ys = pixel_centers(size, plane_to_px) if at is None else at
    x, y, mm_per_px = plane_points(plane_to_px, xs, ys, pinhole)
    shade = None
    if bending is not None:
        x, y, shade = bending(x, y)
    volume = mip_volume(texture)
    levels, (height, width) = volume.shape[2], texture.shape[-2:]
    texel_mm = (rectangle_mm[2] * rectangle_mm[3] / (height * width)).sqrt()
    lod = (mm_per_px / texel_mm).clamp(1, 2.0 ** (levels - 1)).log2()
    u, v = ((p - rectangle_mm[i]) * (2 / rectangle_mm[2 + i]) - 1 for p, i in ((x, 0), (y, 1)))
    # align_corners=False along the levels as well.
    lookup = torch.stack([u, v, (2 * lod + 1) / levels - 1], -1).to(volume.dtype)
    own = texture.shape[0] > 1
    seen = F.grid_sample(
        volume, lookup[:, None] if own else lookup[None], padding_mode="zeros", align_corners=False
    )
    pictures = seen[:, :, 0] if own else seen[0].transpose(0, 1)
    return pictures if shade is None else pictures * shade[:, None]


def pixel_centers(size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """(1, 1, width) and (1, height, 1) pixel centers of an image of (height, width)."""
    xs, ys = (
        torch.arange(n, device=like.device, dtype=like.dtype) + 0.5 for n in (size[1], size[0])
    )
    return xs[None, None, :], ys[None, :, None]


def plane_points(
    plane_to_px: Tensor, xs: Tensor, ys: Tensor, pinhole: Lookup | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What each pixel sees of the plane: x and y in mm and mm per px, (b, H, W) each; far away
    behind the camera."""
    inverse = torch.linalg.inv(plane_to_px.double()).to(plane_to_px.dtype)
    if pinhole is not None:
        xs, ys = pinhole(xs, ys)
    m = inverse[..., None, None]
    depth = m[:, 2, 0] * xs + (m[:, 2, 1] * ys + m[:, 2, 2])
    # Behind the camera the plane reappears mirrored; the plane's origin tells which side is in
    # front.
    in_front = depth * plane_to_px[:, 2, 2, None, None] > 0
    per_depth = torch.where(in_front, depth, torch.full_like(depth, torch.inf)).reciprocal()
    x = torch.where(
        in_front,
        (m[:, 0, 0] * xs + (m[:, 0, 1] * ys + m[:, 0, 2])) * per_depth,
        torch.full_like(depth, FAR_MM),
    )
    y = (m[:, 1, 0] * xs + (m[:, 1, 1] * ys + m[:, 1, 2])) * per_depth
    # |d(plane)/d(pixel)| of a homography is det(H^-1) / w^3.
    area = torch.linalg.det(inverse).abs()[:, None, None] * per_depth.abs() ** 3
    return x, y, area.clamp(min=1e-12).sqrt()
