"""Planes in perspective, and a texture warped into many images by area average.

Conventions. A sign is a plane in millimeters, origin at its center, x right, y down. Pixels are
continuous with the origin at the outer corner of the top-left pixel, so pixel (row 0, column 0) has
its center at (0.5, 0.5). A homography always maps plane millimeters to image pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from kornia.geometry.transform import get_perspective_transform, remap
from torch import Tensor

from physadv.core.errors import GeometryError
from physadv.eot.stage import Backend

FAR_MM = 1e9
"""Where points lie that the camera cannot see."""
_LEAST_TEXELS = 1e-3
"""Least side of a pixel on the texture: keeps what lies behind the camera finite."""


def square_corners(
    width: float, height: float | None = None, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return (4, 2) corners TL, TR, BR, BL of a rectangle centered on the origin.

    Args:
        width: Its width.
        height: Its height; None: a square.
        dtype: Type of the tensor.
    """
    x, y = width / 2, (width if height is None else height) / 2
    return torch.tensor([[-x, -y], [x, -y], [x, y], [-x, y]], dtype=dtype)


def square_boxes(homography: Tensor, width: float, size: int) -> Tensor:
    """Return the axis-aligned boxes (b, 4) of a square centered on the plane's origin, in px.

    Args:
        homography: (b, 3, 3) plane to px.
        width: Width of the square on the plane.
        size: Side of the picture in px, at which the boxes are cut.

    Returns:
        x0, y0, x1, y1 of each.

    Example:
        >>> square_boxes(torch.eye(3)[None], 10.0, 100).tolist()
        [[0.0, 0.0, 5.0, 5.0]]
    """
    corners = square_corners(width).to(homography).expand(len(homography), 4, 2)
    pixels = apply_homography(homography, corners)
    return torch.cat([pixels.amin(1), pixels.amax(1)], -1).clamp(0, size)


def homography_from_corners(plane_mm: Tensor, pixels: Tensor) -> Tensor:
    """Return (b, 3, 3) from four points each, ``plane_mm`` and ``pixels``, (b, 4, 2).

    The arithmetic is kornia's, in float64.

    Raises:
        GeometryError: Three of the points lie on a line.
    """
    matrix: Tensor = get_perspective_transform(plane_mm.double(), pixels.double())
    if not bool(torch.isfinite(matrix).all()) or bool(
        (torch.linalg.det(matrix).abs() < 1e-12).any()
    ):
        raise GeometryError(
            "Corners of the sign are degenerate",
            "No three of them may lie on a line",
            "Mark the four corners anew",
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
    """Return the pinhole view of a sign's plane.

    Args:
        distance_mm: (b,) from the camera to the sign's center.
        yaw: (b,) radians about the vertical axis.
        pitch: (b,) radians about the horizontal axis.
        roll: (b,) radians about the optical axis.
        focal_px: (b,) focal lengths.
        center_px: (b, 2) x, y of the image of the sign's center.

    Returns:
        (b, 3, 3) mm to px.
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
    """Return (b, n, 2) ``points`` mapped by ``matrix`` (b, 3, 3).

    Example:
        >>> apply_homography(2 * torch.eye(3)[None], torch.ones(1, 1, 2)).tolist()
        [[[1.0, 1.0]]]
    """
    mapped = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ matrix.transpose(-1, -2)
    return mapped[..., :2] / mapped[..., 2:]


Lookup = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Pixel centers -> where a pinhole camera sees them, and how many of its px one px covers."""
Bending = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Points of the plane in mm -> points of the flat texture, and the share of light they get."""


def warp_texture(
    texture: Tensor,
    plane_to_px: Tensor,
    rectangle_mm: Tensor,
    size: tuple[int, int],
    *,
    at: tuple[Tensor, Tensor] | None = None,
    pinhole: Lookup | None = None,
    bending: Bending | None = None,
    backend: Backend = "own",
) -> Tensor:
    """Show a texture that lies on the plane in b images, each pixel the mean of what it covers.

    Texels are squares of one color, as a printer lays them down: from near they have hard edges,
    from afar they are averaged. The area of a pixel on the texture is taken to be a rectangle along
    the texels' rows with the pixel's own second moments, which is exact without rotation and keeps
    the area under it. Differentiable in the texture.

    Args:
        texture: (1, c, h, w), or (b, c, h, w) for one of its own in each image.
        plane_to_px: (b, 3, 3) homographies from mm to px.
        rectangle_mm: (4,) x0, y0, width, height of the texture on the plane.
        size: (H, W) of the images.
        at: Pixel centers, (b, 1, W) and (b, H, 1), where they are not all of an image of ``size``.
        pinhole: Where a camera without distortion sees the pixel centers.
        bending: Where the bent texture has the points of the plane.
        backend: "kornia" interpolates between texels at the pixel's center, without averaging.

    Returns:
        (b, c, H, W), zero outside of the texture.

    Example:
        >>> twice = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> checks = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
        >>> rectangle_mm = torch.tensor([0.0, 0.0, 2.0, 2.0])
        >>> warp_texture(checks, twice, rectangle_mm, (4, 4))[0, 0, 0].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    xs, ys = pixel_centers(size, plane_to_px) if at is None else at
    x, y, width, height = _pixels_on_plane(plane_to_px, xs, ys, pinhole)
    shade = None
    if bending is not None:
        x, y, shade = bending(x, y)

    # From here on lengths are in texels, from the texture's corner.
    rows, columns = texture.shape[-2:]
    texel_x, texel_y = rectangle_mm[2] / columns, rectangle_mm[3] / rows
    u, v = (x - rectangle_mm[0]) / texel_x, (y - rectangle_mm[1]) / texel_y
    if backend == "kornia":
        pictures = _interpolated(texture, u, v)
    else:
        pictures = _area_averages(texture, u, v, width / texel_x, height / texel_y)
    return pictures if shade is None else pictures * shade[:, None]


def _interpolated(texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return kornia's bilinear look-up of (1 or b, c, h, w) at (b, H, W) texels."""
    own = texture.expand(len(u), -1, -1, -1)
    looked_up: Tensor = remap(own, u - 0.5, v - 0.5, align_corners=True)
    return looked_up


def _area_averages(texture: Tensor, u: Tensor, v: Tensor, du: Tensor, dv: Tensor) -> Tensor:
    """Return the mean over (b, H, W) rectangles of texels, (b, c, H, W).

    ``u`` and ``v`` are their centers, ``du`` and ``dv`` their sides. An image whose pixels cover a
    texel at most needs one look-up a pixel, others four.
    """
    rows, columns = texture.shape[-2:]
    inside = (u > -du) & (u < columns + du) & (v > -dv) & (v < rows + dv)
    widest = torch.where(inside, torch.maximum(du, dv), torch.zeros_like(du)).flatten(1).amax(1)
    near = widest <= 1
    if bool(near.all()):
        return _within_texels(texture, u, v, du, dv)
    if not bool(near.any()):
        return _over_texels(texture, u, v, du, dv)

    parts = []
    for chosen, average in ((near, _within_texels), (~near, _over_texels)):
        own = texture if len(texture) == 1 else texture[chosen]
        parts.append(average(own, *(p[chosen] for p in (u, v, du, dv))))
    order = torch.cat([near.nonzero(), (~near).nonzero()]).flatten().argsort()
    return torch.cat(parts)[order]


def _within_texels(texture: Tensor, u: Tensor, v: Tensor, du: Tensor, dv: Tensor) -> Tensor:
    """Average over rectangles that are no larger than a texel: one bilinear look-up.

    Such a rectangle meets two columns and two rows at most, in shares that change linearly near the
    border between them and not at all elsewhere.
    """
    places = []
    for center, side, count in ((u, du, texture.shape[-1]), (v, dv, texture.shape[-2])):
        border = center.round()
        share = ((center - border) / side.clamp(min=_LEAST_TEXELS)).clamp(-0.5, 0.5)
        places.append((border + share) * (2 / count) - 1)
    grid = torch.stack(places, -1)
    return _looked_up(texture, grid, padding="zeros", align_corners=False)


def _over_texels(texture: Tensor, u: Tensor, v: Tensor, du: Tensor, dv: Tensor) -> Tensor:
    """Average over rectangles of any size by a summed-area table (Crow 1984).

    Between texels' corners the integral of the texture is bilinear, so its look-up is exact. The
    table is in float64: differences of large sums lose digits.
    """
    rows, columns = texture.shape[-2:]
    table = F.pad(texture.double().cumsum(-1).cumsum(-2), (1, 0, 1, 0))
    du, dv = (side.double().clamp(min=_LEAST_TEXELS) for side in (du, dv))
    left, right = ((u + sign * du / 2).clamp(0, columns) * (2 / columns) - 1 for sign in (-1, 1))
    top, bottom = ((v + sign * dv / 2).clamp(0, rows) * (2 / rows) - 1 for sign in (-1, 1))

    corners = [(right, bottom), (left, bottom), (right, top), (left, top)]
    grid = torch.stack([torch.stack(corner, -1) for corner in corners], 1).flatten(1, 2)
    sums = _looked_up(table, grid, padding="border", align_corners=True)
    first, second, third, fourth = sums.chunk(4, 2)
    return ((first - second - third + fourth) / (du * dv)[:, None]).to(texture.dtype)


def _looked_up(texture: Tensor, grid: Tensor, *, padding: str, align_corners: bool) -> Tensor:
    """Return (b, c, H, W) of a texture, shared or one an image, at a (b, H, W, 2) grid."""
    grid = grid.to(texture.dtype)
    if len(texture) > 1:
        return F.grid_sample(texture, grid, padding_mode=padding, align_corners=align_corners)
    together = grid.flatten(0, 1)[None]
    pictures = F.grid_sample(texture, together, padding_mode=padding, align_corners=align_corners)
    return pictures.view(-1, *grid.shape[:3]).transpose(0, 1)


def pixel_centers(size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return (1, 1, width) and (1, height, 1) pixel centers of an image.

    Its ``size`` is (height, width).

    They are of the type and on the device of ``like``.
    """
    xs, ys = (
        torch.arange(n, device=like.device, dtype=like.dtype) + 0.5 for n in (size[1], size[0])
    )
    return xs[None, None, :], ys[None, :, None]


def _pixels_on_plane(
    plane_to_px: Tensor, xs: Tensor, ys: Tensor, pinhole: Lookup | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x and y in mm of what each pixel sees of the plane, and the pixel's size there.

    All are (b, H, W). A pixel's width and height along the plane's axes are those of a rectangle
    with the second moments of the pixel's image. Behind the camera points are far away.
    """
    inverse = torch.linalg.inv(plane_to_px.double()).to(plane_to_px.dtype)
    scale: Tensor | float = 1.0
    if pinhole is not None:
        xs, ys, scale = pinhole(xs, ys)
    m = inverse[..., None, None]
    depth = m[:, 2, 0] * xs + (m[:, 2, 1] * ys + m[:, 2, 2])

    # Behind the camera the plane reappears mirrored; the plane's origin tells which side is in
    # front.
    in_front = depth * plane_to_px[:, 2, 2, None, None] > 0
    per_depth = torch.where(in_front, depth, torch.full_like(depth, torch.inf)).reciprocal()
    points, sides = [], []
    for row in (0, 1):
        point = (m[:, row, 0] * xs + (m[:, row, 1] * ys + m[:, row, 2])) * per_depth
        slope_x, slope_y = (m[:, row, i] - point * m[:, 2, i] for i in (0, 1))
        sides.append((slope_x**2 + slope_y**2).sqrt() * per_depth.abs() * scale)
        points.append(torch.where(in_front, point, torch.full_like(depth, FAR_MM)))
    return points[0], points[1], sides[0], sides[1]
