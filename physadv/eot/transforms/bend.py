"""Stickers that do not lie flat: a thin plate pushed about in its plane, and a curl.

kornia's thin plate centers its kernel on the moved points and solves a system for each picture;
here the shifts enter linearly, so one constant matrix does for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from kornia.geometry.transform import get_tps_transform, warp_points_tps
from torch import Tensor

from physadv.eot.sampling import DrawStream, draw_uniform
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import FROM_ZERO, Range, Stage, StageRanges, span

CONTROL = 5
"""Control points a side (AdvTexture, Hu 2022)."""
FIELD = 17
"""Points a side at which the thin plate is evaluated; between them it is bilinear."""


@dataclass(frozen=True)
class BendRanges(StageRanges):
    """Ranges of how far a sticker is from flat."""

    bend_mm: Range = span(0, 0, within=FROM_ZERO, effects=("bending",))
    """Largest shift of the 5 x 5 control points of a thin plate: an uneven ground, a sticker put on
    badly."""
    curl_deg: Range = span(0, 0, within=(-180.0, 180.0), effects=("bending",))
    """Angle that the sticker spans of a cylinder, about an axis of any direction in its plane."""


@dataclass(frozen=True)
class BendDraw:
    """Bending of b stickers."""

    shift_mm: Tensor  # (b, 5, 5, 2) x, y of the control points, row by row
    curl: Tensor  # (b,) radians of a cylinder that the longer side spans
    axis: Tensor  # (b,) direction of bending in the plane, radians
    with_kornia: bool = False


@cache
def _plate_matrix() -> Tensor:
    """Return (FIELD^2, CONTROL^2) float64: shifts of the control points -> those of a thin plate.

    After Bookstein (1989), on the unit square.
    """
    control, field = (_unit_grid(n) for n in (CONTROL, FIELD))
    ones = torch.ones(len(control), 1, dtype=torch.float64)
    affine = torch.cat([ones, control], 1)
    corner = torch.zeros(3, 3, dtype=torch.float64)

    system = torch.cat(
        [torch.cat([_kernel(control, control), affine], 1), torch.cat([affine.T, corner], 1)]
    )
    weights = torch.linalg.inv(system)[:, : len(control)]

    on_field = torch.cat([torch.ones(len(field), 1, dtype=torch.float64), field], 1)
    matrix: Tensor = torch.cat([_kernel(field, control), on_field], 1) @ weights
    return matrix


def _unit_grid(count: int) -> Tensor:
    steps = torch.linspace(0, 1, count, dtype=torch.float64)
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([xs.flatten(), ys.flatten()], 1)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    squared = (first[:, None] - second[None]).square().sum(-1)
    return 0.5 * squared * squared.clamp(min=1e-30).log()


def thin_plate(shift: Tensor) -> Tensor:
    """Return (b, 2, FIELD, FIELD) shifts over the unit square of thin plates.

    ``shift`` (b, 5, 5, 2) holds those at the control points, row by row.
    """
    field: Tensor = _plate_matrix().to(shift) @ shift.flatten(1, 2)
    return field.transpose(1, 2).reshape(len(shift), 2, FIELD, FIELD)


def thin_plate_with_kornia(shift: Tensor) -> Tensor:
    """Return the shifts that :func:`thin_plate` does for (b, 5, 5, 2) ``shift``, by kornia.

    kornia solves a system for each picture, and regularizes it: the control points are missed by
    a little.
    """
    control, field = (_unit_grid(n).to(shift).expand(len(shift), -1, -1) for n in (CONTROL, FIELD))
    # kornia centers its kernel on its second argument; on the fixed grid the system is well posed.
    # A shift in mm is far larger than the unit square: the spline is linear in it, so scale it.
    scale = 100.0 * shift.abs().amax().clamp(min=1e-6)
    moved = control + shift.flatten(1, 2) / scale
    weights = get_tps_transform(control, moved)
    bent: Tensor = (warp_points_tps(field, moved, *weights) - field) * scale
    return bent.transpose(1, 2).reshape(len(shift), 2, FIELD, FIELD)


def unbend_points(
    x: Tensor, y: Tensor, rectangle_mm: Tensor, bend: BendDraw
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points of the flat sticker that are seen at points of the sign, and their light.

    The light is Lambert's for a lamp beside the camera: the cosine of the slope.

    Args:
        x: (b, h, w) mm on the sign.
        y: (b, h, w) mm.
        rectangle_mm: (4,) x0, y0, width, height of the flat sticker.
        bend: How the b stickers are bent.

    Returns:
        x and y in mm, and the share of light, (b, h, w) each.
    """
    x, y, shade = _uncurl(x, y, rectangle_mm, bend)
    grid = torch.stack(
        [(x - rectangle_mm[0]) / rectangle_mm[2], (y - rectangle_mm[1]) / rectangle_mm[3]], -1
    )
    plate = thin_plate_with_kornia if bend.with_kornia else thin_plate
    field = plate(bend.shift_mm.to(x))
    shift = F.grid_sample(field, 2 * grid - 1, padding_mode="border", align_corners=True)
    return x + shift[:, 0], y + shift[:, 1], shade


def _uncurl(
    x: Tensor, y: Tensor, rectangle_mm: Tensor, bend: BendDraw
) -> tuple[Tensor, Tensor, Tensor]:
    """Return arc lengths on a cylinder from their projection: R asin(p / R)."""
    curl, axis = (p.to(x)[:, None, None] for p in (bend.curl, bend.axis))
    middle = rectangle_mm[:2] + rectangle_mm[2:] / 2
    along = (x - middle[0]) * axis.cos() + (y - middle[1]) * axis.sin()
    turn = (along * curl / rectangle_mm[2:].max()).clamp(-0.999, 0.999)
    small = turn.abs() < 1e-3
    ratio = torch.where(
        small, 1 + turn**2 / 6, turn.asin() / torch.where(small, torch.ones_like(turn), turn)
    )
    longer = along * (ratio - 1)
    return x + longer * axis.cos(), y + longer * axis.sin(), (1 - turn**2).sqrt()


class StickerBend(Stage[BendRanges, BendDraw]):
    """Thin plate and curl, looked up while the patch is placed: one resampling for both."""

    encoding = "linear"
    acts_on = "geometry"
    backends = ("own", "kornia")

    def sample(self, batch: SceneBatch, ranges: BendRanges, stream: DrawStream) -> BendDraw | None:
        """Draw the bending for ``batch`` within ``ranges`` from the ``stream`` "bend"."""
        if not ranges.acts("bend_mm", "curl_deg"):
            return None

        g, count = stream.named("bend"), len(batch.images)
        amount = draw_uniform(g, ranges.bend_mm, count, 1, 1, 1)
        shift = amount * draw_uniform(g, (-1.0, 1.0), count, CONTROL, CONTROL, 2)
        curl = torch.deg2rad(draw_uniform(g, ranges.curl_deg, count))
        axis = draw_uniform(g, (0.0, torch.pi), count)
        return BendDraw(shift, curl, axis, self.backend == "kornia")

    def apply(self, images: Tensor, params: BendDraw) -> Tensor:
        """Return scenes ``images`` as they are: ``params`` bend the patch, not the picture."""
        return images
