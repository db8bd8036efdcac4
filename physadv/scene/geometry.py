"""Planes in perspective: pose to homography, and a warp of one texture into many images that is anti-aliased.

Conventions. A sign is a plane in millimetres, origin at its centre, x right, y down. Pixels are continuous with the
origin at the outer corner of the top-left pixel, so pixel (row 0, column 0) has its centre at (0.5, 0.5). A homography
always maps plane millimetres to image pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from kornia.geometry.transform import get_perspective_transform
from torch import Tensor

from physadv.core.errors import GeometryError


def square_corners(width: float, height: float | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """(4, 2) corners TL, TR, BR, BL of a rectangle centred on the origin."""
    x, y = width / 2, (width if height is None else height) / 2
    return torch.tensor([[-x, -y], [x, -y], [x, y], [-x, y]], dtype=dtype)


def homography_from_corners(plane_mm: Tensor, pixels: Tensor) -> Tensor:
    """(b, 3, 3) from four points each, (b, 4, 2) millimetres and (b, 4, 2) pixels. GeometryError where degenerate."""
    matrix: Tensor = get_perspective_transform(plane_mm.double(), pixels.double())
    if not bool(torch.isfinite(matrix).all()) or bool((torch.linalg.det(matrix).abs() < 1e-12).any()):
        raise GeometryError("corners of the sign", "no three may lie on a line", "mark the four corners anew")
    return matrix.to(pixels.dtype)


def pose_homography(
    distance_mm: Tensor, yaw: Tensor, pitch: Tensor, roll: Tensor, *, focal_px: Tensor, centre_px: Tensor
) -> Tensor:
    """Pinhole view of the sign plane: (b,) mm and radians, (b,) focal length in px, (b, 2) image of the sign's centre.

    Yaw turns about the vertical axis, pitch about the horizontal one, roll about the optical axis; returns (b, 3, 3).
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
        [focal_px, zero, centre_px[:, 0], zero, focal_px, centre_px[:, 1], zero, zero, one], -1
    ).view(-1, 3, 3)
    return intrinsics @ plane


def apply_homography(matrix: Tensor, points: Tensor) -> Tensor:
    """Map (b, n, 2) points by (b, 3, 3)."""
    mapped = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ matrix.transpose(-1, -2)
    return mapped[..., :2] / mapped[..., 2:]


def mip_volume(texture: Tensor, levels: int | None = None) -> Tensor:
    """Stack a (1, c, h, w) texture and its 2x area averages, all at full size, as (1, c, levels, h, w).

    Sampling this volume with depth = log2(texels per pixel) is trilinear mip-mapping (Williams 1983) in one call.
    """
    height, width = texture.shape[-2:]
    count = levels or max(1, int(math.log2(min(height, width))))
    stacked, level = [texture], texture
    for _ in range(count - 1):
        level = F.avg_pool2d(level, 2, ceil_mode=True, count_include_pad=False)
        stacked.append(F.interpolate(level, size=(height, width), mode="bilinear", align_corners=False))
    return torch.stack(stacked, 2)


def warp_texture(texture: Tensor, plane_to_px: Tensor, rectangle_mm: Tensor, size: tuple[int, int]) -> Tensor:
    """See one (1, c, h, w) texture, lying on the plane, in b images: (b, c, H, W), zero outside, anti-aliased.

    ``plane_to_px`` is (b, 3, 3); ``rectangle_mm`` is (4,): x0, y0, width, height of the texture on the plane. The level
    of detail follows the area one pixel covers, so a texture seen from afar is averaged, not sampled. Differentiable
    in the texture.
    """
    grid, texels = _texture_grid(plane_to_px, rectangle_mm, size, (texture.shape[-2], texture.shape[-1]))
    volume = mip_volume(texture)
    levels = volume.shape[2]
    lod = texels.clamp(1, 2.0 ** (levels - 1)).log2()
    depth = (2 * lod + 1) / levels - 1  # align_corners=False along the levels as well
    lookup = torch.cat([grid, depth[..., None]], -1)[None].to(volume.dtype)
    return F.grid_sample(volume, lookup, padding_mode="zeros", align_corners=False)[0].transpose(0, 1)


def _texture_grid(
    plane_to_px: Tensor, rectangle_mm: Tensor, size: tuple[int, int], texture_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Where each output pixel looks, (b, H, W, 2) in [-1, 1], and how many texels it spans a side, (b, H, W)."""
    height, width = size
    device, dtype = plane_to_px.device, plane_to_px.dtype
    rows = torch.arange(height, device=device, dtype=dtype) + 0.5
    columns = torch.arange(width, device=device, dtype=dtype) + 0.5
    ys, xs = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([xs, ys, torch.ones_like(xs)], -1).view(1, -1, 3)
    inverse = torch.linalg.inv(plane_to_px.double()).to(dtype)
    homogeneous = pixels @ inverse.transpose(-1, -2)
    depth = homogeneous[..., 2]
    # Behind the camera the plane reappears mirrored; the sign's centre tells which side is in front.
    in_front = (depth * plane_to_px[:, 2, 2, None] > 0)[..., None]
    safe = torch.where(depth.abs() < 1e-9, torch.full_like(depth, 1e-9), depth)
    unit = (homogeneous[..., :2] / safe[..., None] - rectangle_mm[:2]) / rectangle_mm[2:]
    grid = torch.where(in_front, 2 * unit - 1, torch.full_like(unit, 9.0))
    # |d(plane)/d(pixel)| of a homography is det(H^-1) / w^3.
    area_mm = torch.linalg.det(inverse)[:, None].abs() / safe.abs() ** 3
    texel_mm = (rectangle_mm[2] * rectangle_mm[3]) / (texture_size[0] * texture_size[1])
    texels = (area_mm / texel_mm).clamp(min=1e-12).sqrt()
    return grid.view(-1, height, width, 2), texels.view(-1, height, width)
