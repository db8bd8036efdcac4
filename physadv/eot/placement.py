"""Rectangle of a patch on a sign in mm, and the patch laid there in every picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from physadv.eot.stage import Backend
from physadv.eot.transforms.bend import BendDraw, unbend_points
from physadv.eot.transforms.lens_distortion import BrownLens, distorted_points, undistorted_points
from physadv.eot.transforms.photometry import blend_over
from physadv.eot.warp import Lookup, apply_homography, warp_texture


@dataclass(frozen=True)
class Placement:
    """Bounding box of the sticker on the sign.

    Args:
        width_mm: Width of the sticker.
        height_mm: Height of it.
        center_mm: Its center from the sign's, x to the right and y down.

    Example:
        >>> Placement(190, 150, (0.0, 95.0)).rectangle_mm.tolist()
        [-95.0, 20.0, 190.0, 150.0]
    """

    width_mm: float
    height_mm: float
    center_mm: tuple[float, float] = (0.0, 0.0)

    @property
    def rectangle_mm(self) -> Tensor:
        """Return (4,) x0, y0, width, height."""
        x, y = self.center_mm
        return torch.tensor(
            [x - self.width_mm / 2, y - self.height_mm / 2, self.width_mm, self.height_mm]
        )


def place_patch(
    scene_light: Tensor,
    light: Tensor,
    mask: Tensor,
    homography: Tensor,
    placement: Placement,
    gain: Tensor,
    lift: Tensor,
    *,
    at: tuple[Tensor, Tensor] | None = None,
    pinhole: Lookup | None = None,
    bend: BendDraw | None = None,
    backend: Backend = "own",
) -> Tensor:
    """Lay a patch on b scenes, in linear light.

    Args:
        scene_light: (b, 3, h, w) linear light of the scenes.
        light: (1, 3, ph, pw) linear light of the patch, or (b, 3, ph, pw), one for each scene.
        mask: (1, 1, ph, pw) 1 inside the sticker's outline.
        homography: (b, 3, 3) mm of the sign's plane to px.
        placement: Where the sticker lies on the sign.
        gain: (b, 3) factor of the scene's light.
        lift: (b, 3) light that the scene adds, such as glare.
        at: Pixel centers, as in :func:`~physadv.eot.warp.warp_texture`.
        pinhole: The lens, as there.
        bend: How the sticker is bent; None: flat.
        backend: Whose warp, as there.

    Returns:
        (b, 3, h, w) linear light.
    """
    texture = torch.cat([light * mask, mask.expand(len(light), -1, -1, -1)], 1)
    size = (scene_light.shape[-2], scene_light.shape[-1])
    rectangle = placement.rectangle_mm.to(scene_light)
    bending = None if bend is None else partial(unbend_points, rectangle_mm=rectangle, bend=bend)

    warped = warp_texture(
        texture,
        homography.to(scene_light),
        rectangle,
        size,
        at=at,
        pinhole=pinhole,
        bending=bending,
        backend=backend,
    )

    # Alpha is applied once: light and mask were warped together.
    alpha = warped[:, 3:].clamp(0, 1)
    relit = warped[:, :3] * gain[:, :, None, None] + lift[:, :, None, None] * alpha
    return blend_over(scene_light, relit.clamp(0, None).minimum(alpha), alpha)


def reached_px(
    placement: Placement,
    homography: Tensor,
    bend: BendDraw | None,
    lens: BrownLens | None,
    picture: tuple[int, int],
) -> Tensor:
    """Return boxes that hold the sticker, bent and seen through the lens.

    Args:
        placement: Where the sticker lies on the sign.
        homography: (b, 3, 3) mm of the sign's plane to px.
        bend: How it is bent; None: flat.
        lens: The lens; None: a pinhole.
        picture: (height, width) of the pictures in px.

    Returns:
        (b, 4) x0, y0, x1, y1 in px; the whole picture where the sticker is partly behind the
        camera.
    """
    x, y, width, height = placement.rectangle_mm.tolist()
    slack = 1.0 if bend is None else 1.0 + 1.5 * float(bend.shift_mm.abs().max())
    x0, y0, x1, y1 = x - slack, y - slack, x + width + slack, y + height + slack
    xm, ym = (x0 + x1) / 2, (y0 + y1) / 2
    edge = torch.tensor(
        [[x0, y0], [xm, y0], [x1, y0], [x1, ym], [x1, y1], [xm, y1], [x0, y1], [x0, ym]]
    ).to(homography)
    points = apply_homography(homography, edge.expand(len(homography), -1, 2))
    # Behind the camera, or so near that corners fly apart: the whole picture.
    depth = (edge @ homography[:, 2, :2].T + homography[:, 2, 2]).T * homography[:, 2, 2:]
    seen = (depth > 0).all(1, keepdim=True)

    room = 1.0
    if lens is not None:
        shown = distorted_points(points[..., 0], points[..., 1], lens, picture)
        # Far outside of the picture Brown's polynomial turns back and shows points where they
        # are not.
        again = torch.stack(undistorted_points(*shown, lens, picture), -1)
        seen = seen & ((again - points).abs() < 1).all(-1).all(1, keepdim=True)
        points, room = torch.stack(shown, -1), 3.0

    whole = torch.tensor([0.0, 0.0, picture[1], picture[0]]).to(homography)
    return torch.where(seen, torch.cat([points.amin(1) - room, points.amax(1) + room], -1), whole)
