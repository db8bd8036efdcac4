"""Geometry of the camera: focal length from the angle of view, and Brown's distortion.

Coefficients are OpenCV's: k1, k2, p1, p2, k3 (Brown 1966). kornia distorts points; its inverse
takes a fixed number of fixed-point steps, which leave up to 0.07 px or cost 13 times as much
(benchmarks/eot_kornia.py), so the inverse here is Newton's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from kornia.geometry.calibration import distort_points, undistort_points
from torch import Tensor

from physadv.core.errors import GeometryError
from physadv.eot.sampling import DrawStream, draw_uniform
from physadv.eot.stage import ABOVE_ZERO, Backend, Range, Stage, StageRanges, span
from physadv.eot.transforms.light import sign_spot

if TYPE_CHECKING:
    from physadv.eot.scenes.scene_batch import SceneBatch

TERMS = ("lens_k1", "lens_k2", "lens_p1", "lens_p2", "lens_k3")
"""Ranges of the coefficients, in OpenCV's order."""
CAMERA = ("lens_center_x", "lens_center_y", "lens_aspect")
"""Ranges of the principal point and of the pixels' shape."""

_NODES = 32
"""Chebyshev nodes a side at which the inverse is solved; in between it is a polynomial."""
_TOLERANCE_PX = 0.005
"""Error of that polynomial over which it is refined in every pixel."""
_RAY_STEPS = 12
_KORNIA_STEPS = 20
_LEAST_STRETCH = 0.05
"""Least determinant of the distortion's Jacobian: below it, a pixel covers over 20 of the pinhole's
and the measured coefficients decide nothing."""


@dataclass(frozen=True)
class LensRanges(StageRanges):
    """Ranges of the lens's distortion; lengths are in units of half the picture's width."""

    lens_k1: Range = span(0, 0)
    """Radial distortion: a point half a picture's width from the middle moves by this share of that
    distance."""
    lens_k2: Range = span(0, 0)
    """Radial distortion that grows with the fourth power of the distance from the middle."""
    lens_p1: Range = span(0, 0)
    """Tangential distortion: the lens is tilted against the sensor, up or down."""
    lens_p2: Range = span(0, 0)
    """Tangential distortion, left or right."""
    lens_k3: Range = span(0, 0)
    """Radial distortion that grows with the sixth power."""
    lens_center_x: Range = span(0, 0)
    """Principal point, to the right of the picture's middle."""
    lens_center_y: Range = span(0, 0)
    """Principal point, below the picture's middle."""
    lens_aspect: Range = span(1, 1, off=(1.0, 1.0), within=ABOVE_ZERO)
    """Vertical over horizontal focal length, in px."""


def focal_length_px(width_px: float, field_of_view_deg: float) -> float:
    """Return the focal length in px of a pinhole camera.

    Its picture is ``width_px`` wide and spans ``field_of_view_deg`` degrees.

    Example:
        >>> round(focal_length_px(1000, 90))
        500
    """
    return width_px / 2 / math.tan(math.radians(field_of_view_deg) / 2)


class _Inverse(NamedTuple):
    """The inverse of b lenses at the Chebyshev nodes of a picture, in float64."""

    shift: Tensor  # (b, nodes, nodes, 2) from the lens's picture to the pinhole's, px
    scale: Tensor  # (b, nodes, nodes) px of the pinhole's picture a px of the lens's
    error_px: float  # of the polynomial through the shifts


@dataclass(frozen=True)
class BrownLens:
    """Brown's distortion of b pictures; lengths are in units of half the picture's width.

    A calibrated camera of focal length f px has these ``terms`` after :func:`in_half_widths`.

    Args:
        terms: (b, 5) k1, k2, p1, p2, k3.
        anchor_px: (b, 2) x, y of the point that stays where it is: the camera is aimed so. None:
            the camera stays put, and the principal point is what does not move.
        center: (b, 2) principal point from the picture's middle. None: the middle.
        aspect: (b,) vertical over horizontal focal length, in px. None: square pixels.
        backend: Who inverts it: Newton's method here, or 20 of kornia's fixed-point steps.
    """

    terms: Tensor
    anchor_px: Tensor | None = None
    center: Tensor | None = None
    aspect: Tensor | None = None
    backend: Backend = "own"
    _inverses: dict[tuple[int, int], _Inverse] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def camera_matrix(self, picture: tuple[int, int], like: Tensor) -> Tensor:
        """Return (b, 3, 3) camera matrices for a ``picture`` of (height, width) px.

        They are of the type and on the device of ``like``; the focal length is half the width.
        """
        height, width = picture
        half = width / 2
        matrix = torch.tensor([[half, 0, half], [0, half, height / 2], [0, 0, 1]]).to(like)
        matrices = matrix.expand(len(self.terms), 3, 3).clone()
        if self.center is not None:
            matrices[:, :2, 2] += self.center.to(like) * half
        if self.aspect is not None:
            matrices[:, 1, 1] *= self.aspect.to(like)
        return matrices


def in_half_widths(coefficients: tuple[float, ...], half_width: float) -> tuple[float, ...]:
    """Return OpenCV's coefficients for lengths in half picture widths instead of focal lengths.

    ``coefficients`` are k1, k2, p1, p2 and k3, missing ones being 0; ``half_width`` is half the
    picture's width over the focal length, both in px.

    Example:
        >>> in_half_widths((-0.2,), 0.5)
        (-0.05, 0.0, 0.0, 0.0, 0.0)
    """
    k1, k2, p1, p2, k3 = (*coefficients, 0.0, 0.0, 0.0, 0.0, 0.0)[:5]
    h = half_width
    return (k1 * h**2, k2 * h**4, p1 * h, p2 * h, k3 * h**6)


def distorted_points(
    xs: Tensor, ys: Tensor, lens: BrownLens, picture: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return where the lens shows what a pinhole camera sees.

    The inverse of :func:`undistorted_points`.

    Args:
        xs: (b, ...) px in the pinhole's picture, from the outer corner of the first pixel.
        ys: (b, ...) px, of the same shape.
        lens: b lenses.
        picture: (height, width) in px.

    Returns:
        x and y in the lens's picture, of the same shape.
    """
    points = torch.stack([xs.flatten(1), ys.flatten(1)], -1)
    camera = lens.camera_matrix(picture, points)
    ideal = points + _aim(lens, picture, points)
    shown: Tensor = distort_points(ideal, camera, lens.terms.to(points))
    return shown[..., 0].view_as(xs), shown[..., 1].view_as(ys)


def undistorted_points(
    xs: Tensor, ys: Tensor, lens: BrownLens, picture: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return where a pinhole camera sees what the lens shows.

    Exact to rounding wherever :func:`check_lens` accepts the lens; gradients
    reach the points and the coefficients.

    Args:
        xs: (b, ...) px in the lens's picture, from the outer corner of the first pixel.
        ys: (b, ...) px, of the same shape.
        lens: b lenses.
        picture: (height, width) in px.

    Returns:
        x and y in the pinhole's picture, of the same shape.
    """
    points = torch.stack([xs.flatten(1), ys.flatten(1)], -1)
    ideal = _unproject(points, lens, picture) - _aim(lens, picture, points)
    return ideal[..., 0].view_as(xs), ideal[..., 1].view_as(ys)


def undistorted_grid(
    xs: Tensor, ys: Tensor, lens: BrownLens, picture: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return :func:`undistorted_points` for every pair of a column and a row, and the scale there.

    The inverse is solved at 32 x 32 Chebyshev nodes of the picture and interpolated by the
    polynomial through them: within 0.01 px, at a small share of the cost of solving it in each
    pixel.

    Args:
        xs: (b or 1, 1, w) px of the columns, inside the picture.
        ys: (b or 1, h, 1) px of the rows.
        lens: b lenses.
        picture: (height, width) in px.

    Returns:
        x and y in the pinhole's picture, and how many of its px a px of the lens's picture covers
        in length: the root of the areas' quotient. (b, h, w) each.
    """
    height, width = picture
    if lens.backend == "kornia":
        every = (len(lens.terms), ys.shape[1], xs.shape[2])
        x, y = undistorted_points(xs.expand(every), ys.expand(every), lens, picture)
        stretch = _stretch(torch.stack([x, y], -1).flatten(1, 2), lens, picture)
        return x, y, stretch.clamp(min=_LEAST_STRETCH).rsqrt().view_as(x)

    inverse = _inverse_at_nodes(lens, picture, xs.device)
    shift, scale = inverse.shift.to(xs), inverse.scale.to(xs)
    across = _interpolation(xs[:, 0] * (2 / width) - 1).transpose(1, 2)  # (b or 1, nodes, w)
    down = _interpolation(ys[..., 0] * (2 / height) - 1)
    x, y = xs + down @ shift[..., 0] @ across, ys + down @ shift[..., 1] @ across
    if inverse.error_px > _TOLERANCE_PX:
        x, y = _refined(x, y, xs, ys, lens, picture)

    if lens.anchor_px is not None:
        aim = _aim(lens, picture, xs)
        x, y = x - aim[..., :1], y - aim[..., 1:]
    return x, y, down @ scale @ across


def _inverse_at_nodes(lens: BrownLens, picture: tuple[int, int], device: torch.device) -> _Inverse:
    """Solve the inverse once for the scene and for the patch on it."""
    if picture in lens._inverses:
        return lens._inverses[picture]

    height, width = picture
    nodes = _chebyshev_nodes()[0].to(device)
    columns, rows = (nodes + 1) * width / 2, (nodes + 1) * height / 2
    shape = (len(lens.terms), _NODES, _NODES)
    points = torch.stack(
        [columns[None, None, :].expand(shape), rows[None, :, None].expand(shape)], -1
    ).flatten(1, 2)
    ideal = _unproject(points, lens, picture)

    # Shifts instead of places: the smaller numbers keep their digits in float32.
    shift = (ideal - points).view(*shape, 2)
    scale = _stretch(ideal, lens, picture).clamp(min=_LEAST_STRETCH).rsqrt().view(shape)
    inverse = _Inverse(shift, scale, _polynomial_error(shift, lens, picture))
    if not lens.terms.requires_grad:
        lens._inverses[picture] = inverse
    return inverse


def _polynomial_error(shift: Tensor, lens: BrownLens, picture: tuple[int, int]) -> float:
    """Return the largest error in pinhole px of the polynomial through (b, nodes, nodes, 2) shifts.

    It is measured between the nodes, where a polynomial is farthest off, and up to the corners.
    """
    ends = torch.linspace(0, math.pi, _NODES + 1, dtype=torch.float64, device=shift.device).cos()
    between = _interpolation(ends[None])
    columns, rows = (ends + 1) * picture[1] / 2, (ends + 1) * picture[0] / 2
    x, y = (between @ shift[..., i] @ between.transpose(1, 2) for i in (0, 1))
    shown = torch.stack([columns.expand_as(x), rows[:, None].expand_as(y)], -1).flatten(1, 2)
    ideal = shown + torch.stack([x, y], -1).flatten(1, 2)

    camera = lens.camera_matrix(picture, ideal)
    focal, center = _focal(camera), camera[:, None, :2, 2]
    point, terms = (ideal - center) / focal, lens.terms.to(ideal)
    miss = (_forward(point, terms) - (shown - center) / focal) * focal
    return float((miss.norm(dim=-1) / _jacobian(point, terms)[3].clamp(min=1e-3)).max())


def _stretch(ideal: Tensor, lens: BrownLens, picture: tuple[int, int]) -> Tensor:
    """Return (b, n) determinants of the Jacobian at (b, n, 2) px of the pinhole's picture."""
    camera = lens.camera_matrix(picture, ideal)
    point = (ideal - camera[:, None, :2, 2]) / _focal(camera)
    return _jacobian(point, lens.terms.to(ideal))[3]


def _refined(
    x: Tensor, y: Tensor, xs: Tensor, ys: Tensor, lens: BrownLens, picture: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return (b, h, w) pinhole px after one step of Newton's from x and y, towards (xs, ys)."""
    camera = lens.camera_matrix(picture, xs)
    focal, center = _focal(camera), camera[:, None, :2, 2]
    shown = torch.stack([xs.expand_as(x), ys.expand_as(y)], -1).flatten(1, 2)
    start = torch.stack([x, y], -1).flatten(1, 2)
    goal, terms = (shown - center) / focal, lens.terms.to(xs)
    ideal = _newton((start - center) / focal, goal, terms, steps=1) * focal + center
    return ideal[..., 0].view_as(x), ideal[..., 1].view_as(y)


def check_lens(lens: BrownLens, picture: tuple[int, int]) -> None:
    """Raise GeometryError where ``lens`` cannot be inverted all over a (height, width) ``picture``.

    Walks from the principal point to the picture's edge. A lens whose picture folds back on the way
    shows two points of the scene at one place, and what lies beyond shows nothing real.

    Example:
        >>> check_lens(BrownLens(torch.tensor([[-0.08, 0, 0, 0, 0]])), (480, 640))
    """
    height, width = picture
    x, y = torch.linspace(0, width, 33), torch.linspace(0, height, 33)
    left, top = torch.zeros_like(y), torch.zeros_like(x)
    sides = ((x, top), (x, top + height), (left, y), (left + width, y))
    edge = torch.cat([torch.stack(side, -1) for side in sides]).double()
    camera = lens.camera_matrix(picture, edge)
    terms = lens.terms.double().cpu()
    goal = (edge.expand(len(terms), -1, 2) - camera[:, None, :2, 2]) / _focal(camera)
    point = torch.zeros_like(goal)
    valid = torch.ones(goal.shape[:2], dtype=torch.bool)
    for share in torch.linspace(0, 1, _RAY_STEPS + 1)[1:]:
        point = _newton(point, goal * share, terms, steps=4)
        residual = (_forward(point, terms) - goal * share).norm(dim=-1)
        valid &= (_jacobian(point, terms)[3] > _LEAST_STRETCH) & (residual < 1e-5)

    if not bool(valid.all()):
        worst = terms[int((~valid).sum(1).argmax())].tolist()
        numbers = ", ".join(
            f"{name.removeprefix('lens_')} {v:.3g}" for name, v in zip(TERMS, worst, strict=True)
        )
        raise GeometryError(
            f"Lens distortion {numbers} (in half picture widths) folds inside the picture "
            f"of {width}x{height} px",
            "It must be invertible up to the corners",
            "Calibrate again with board views that reach all corners, or choose smaller values",
        )


def _aim(lens: BrownLens, picture: tuple[int, int], like: Tensor) -> Tensor:
    """Return (b, 1, 2) or 0: how far the pinhole's picture is turned so that the anchor stays."""
    if lens.anchor_px is None:
        return torch.zeros((), device=like.device, dtype=like.dtype)
    anchor = lens.anchor_px.to(like)[:, None]
    return _unproject(anchor, lens, picture) - anchor


def _unproject(points: Tensor, lens: BrownLens, picture: tuple[int, int]) -> Tensor:
    """Return (b, n, 2) pinhole px of (b, n, 2) px behind the lens, for a camera that stays put."""
    camera = lens.camera_matrix(picture, points)
    if lens.backend == "kornia":
        terms = lens.terms.to(points)
        solution: Tensor = undistort_points(points, camera, terms, num_iters=_KORNIA_STEPS)
        return solution

    focal, center = _focal(camera), camera[:, None, :2, 2]
    goal, terms = (points - center) / focal, lens.terms.to(points)
    with torch.no_grad():
        solved = _newton(goal, goal, terms, steps=10)

    # One more step with gradients: by the implicit function theorem it has the inverse's own.
    ideal = _newton(solved, goal, terms, steps=1, detach=True)
    return ideal * focal + center


def _focal(camera: Tensor) -> Tensor:
    """Return (b, 1, 2) focal lengths of (b, 3, 3) camera matrices."""
    return torch.stack([camera[:, 0, 0], camera[:, 1, 1]], -1)[:, None]


def _forward(point: Tensor, terms: Tensor) -> Tensor:
    """Return (b, n, 2) distorted points; lengths in half widths, origin at the principal point.

    kornia's distort_points, which also has a tilted sensor and six more terms, costs 3 times as
    much; Newton's method calls this up to 11 times.
    """
    k1, k2, p1, p2, k3 = (v[:, None] for v in terms.unbind(-1))
    x, y = point.unbind(-1)
    squared = x * x + y * y
    radial = 1 + squared * (k1 + squared * (k2 + squared * k3))
    both = 2 * x * y
    shown_x = x * radial + p1 * both + p2 * (squared + 2 * x * x)
    shown_y = y * radial + p2 * both + p1 * (squared + 2 * y * y)
    return torch.stack([shown_x, shown_y], -1)


def _newton(
    start: Tensor, goal: Tensor, terms: Tensor, *, steps: int, detach: bool = False
) -> Tensor:
    """Return points whose distortion is nearer to ``goal`` than that of ``start``."""
    point = start
    for _ in range(steps):
        miss_x, miss_y = (_forward(point, terms) - goal).unbind(-1)
        xx, xy, yy, determinant = _jacobian(point, terms)
        if detach:
            xx, xy, yy, determinant = (v.detach() for v in (xx, xy, yy, determinant))

        # Beyond the fold the inverse does not exist; the bound keeps steps finite there.
        scale = determinant.clamp(min=_LEAST_STRETCH / 2).reciprocal()
        step = torch.stack([yy * miss_x - xy * miss_y, xx * miss_y - xy * miss_x], -1)
        step = step * scale[..., None]
        point = point - step
        if steps > 1 and bool(step.abs().max() < 4 * torch.finfo(step.dtype).eps):
            break
    return point


def _jacobian(point: Tensor, terms: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return d x'/d x, d x'/d y (= d y'/d x), d y'/d y and the determinant, (b, n) each."""
    k1, k2, p1, p2, k3 = (v[:, None] for v in terms.unbind(-1))
    x, y = point.unbind(-1)
    squared = x * x + y * y
    radial = 1 + squared * (k1 + squared * (k2 + squared * k3))
    slope = 2 * (k1 + squared * (2 * k2 + squared * 3 * k3))  # d radial / d (r^2 / 2)
    xx = radial + x * x * slope + 2 * p1 * y + 6 * p2 * x
    xy = x * y * slope + 2 * p1 * x + 2 * p2 * y
    yy = radial + y * y * slope + 6 * p1 * y + 2 * p2 * x
    return xx, xy, yy, xx * yy - xy * xy


@cache
def _chebyshev_nodes() -> tuple[Tensor, Tensor]:
    """Return nodes in (-1, 1) and their barycentric weights (Berrut and Trefethen 2004)."""
    angle = (torch.arange(_NODES, dtype=torch.float64) + 0.5) * (math.pi / _NODES)
    signs = 1.0 - 2.0 * (torch.arange(_NODES) % 2)
    return angle.cos(), signs * angle.sin()


def _interpolation(at: Tensor) -> Tensor:
    """Return (b, n, nodes): values at the nodes -> the polynomial's values at (b, n) in [-1, 1]."""
    nodes, weights = (v.to(at.device) for v in _chebyshev_nodes())
    difference = at.double()[..., None] - nodes
    hit = difference.abs() < 1e-12
    shares = weights / torch.where(hit, torch.ones_like(difference), difference)
    shares = torch.where(hit.any(-1, keepdim=True), hit.double(), shares)
    return (shares / shares.sum(-1, keepdim=True)).to(at)


@torch.no_grad()
def distort_picture(light: Tensor, lens: BrownLens) -> Tensor:
    """Return pinhole pictures ``light``, (b, 3, h, w), as ``lens`` shows them.

    Scenes only, so no gradient is kept; what lies outside of the pinhole's picture is reflected.
    """
    height, width = light.shape[-2:]
    xs = torch.arange(width, device=light.device, dtype=light.dtype)[None, None, :] + 0.5
    ys = torch.arange(height, device=light.device, dtype=light.dtype)[None, :, None] + 0.5
    x, y, _ = undistorted_grid(xs, ys, lens, (height, width))
    grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], -1)
    return F.grid_sample(light, grid, padding_mode="reflection", align_corners=False)


class LensDistortion(Stage[LensRanges, BrownLens]):
    """Distortion by the lens: of the scene here, and of the patch while it is placed.

    Raises GeometryError at the first draw of ``ranges`` whose ends cannot be inverted all over the
    picture.
    """

    encoding = "linear"
    acts_on = "geometry"
    backends = ("own", "kornia")

    def sample(self, batch: SceneBatch, ranges: LensRanges, stream: DrawStream) -> BrownLens | None:
        """Draw the distortion for ``batch`` within ``ranges`` from streams of ``stream``."""
        if not ranges.acts(*TERMS):
            return None
        height, width = batch.images.shape[-2:]
        ends = tuple(getattr(ranges, name) for name in (*TERMS, *CAMERA))
        _check_ends(ends, (height, width))

        count = len(batch.images)
        k1 = draw_uniform(stream.named("lens"), ranges.lens_k1, count)
        others = [stream.uniform(name, getattr(ranges, name), count) for name in TERMS[1:]]
        x, y, aspect = (stream.uniform(name, getattr(ranges, name), count) for name in CAMERA)
        return BrownLens(
            torch.stack([k1, *others], -1),
            sign_spot(batch.homography).center_px,
            torch.stack([x, y], -1),
            aspect,
            self.backend,
        )

    def apply(self, images: Tensor, params: BrownLens) -> Tensor:
        """Return pinhole pictures ``images`` as the lens of ``params`` shows them."""
        return distort_picture(images, params)


@lru_cache(maxsize=64)
def _check_ends(ranges: tuple[Range, ...], picture: tuple[int, int]) -> None:
    """Raise GeometryError where a corner of the ranges of TERMS and CAMERA has no inverse.

    The Jacobian is linear in the radial terms, so what holds at all corners holds between them.
    """
    corners = torch.tensor(list(product(*(sorted(set(ends)) for ends in ranges)))).double()
    check_lens(BrownLens(corners[:, :5], None, corners[:, 5:7], corners[:, 7]), picture)
