"""Placing a patch on a sign: its rectangle in millimetres on the plane, then into the picture by the homography."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.scene.geometry import warp_texture
from physadv.scene.photometry import over


@dataclass(frozen=True)
class Placement:
    """Where the sticker's bounding box lies on the sign, in mm from the sign's centre (x right, y down)."""

    width_mm: float
    height_mm: float
    center_mm: tuple[float, float] = (0.0, 0.0)

    @property
    def rectangle_mm(self) -> Tensor:
        """(4,): x0, y0, width, height."""
        x, y = self.center_mm
        return torch.tensor([x - self.width_mm / 2, y - self.height_mm / 2, self.width_mm, self.height_mm])


def place(
    scene_light: Tensor,
    light: Tensor,
    mask: Tensor,
    homography: Tensor,
    placement: Placement,
    gain: Tensor,
    lift: Tensor,
) -> Tensor:
    """Lay a patch on b scenes; linear light in, linear light out.

    ``scene_light`` (b, 3, h, w); ``light`` (1, 3, ph, pw) the patch's linear light; ``mask`` (1, 1, ph, pw);
    ``homography`` (b, 3, 3) plane mm to px; ``gain`` and ``lift`` (b, 3) relight it to each scene.
    """
    texture = torch.cat([light * mask, mask], 1)
    size = (scene_light.shape[-2], scene_light.shape[-1])
    warped = warp_texture(texture, homography.to(scene_light), placement.rectangle_mm.to(scene_light), size)
    alpha = warped[:, 3:].clamp(0, 1)
    relit = warped[:, :3] * gain[:, :, None, None] + lift[:, :, None, None] * alpha
    return over(scene_light, relit.clamp(0, None).minimum(alpha), alpha)
