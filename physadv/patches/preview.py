"""Preview of a bundle: the sign with its sticker, or the patch, beside photographed scenes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.image_io import to_tensor
from physadv.core.sign_artwork import sign_face
from physadv.eot.scenes.photos import OnObjects, PatchAnywhere
from physadv.eot.transforms.photometry import blend_over, linear_to_srgb, srgb_to_linear
from physadv.patches.optimize import render_scenes
from physadv.patches.task import PatchTask, sample_scenes
from physadv.threat.printability import eight_bit

_HEIGHT_PX = 480
_GRAY = 0.6
"""sRGB value of the ground."""


@torch.no_grad()
def preview_picture(task: PatchTask, patch: Tensor) -> Tensor:
    """Return the preview (3, 480, 960) of ``patch`` (1, 3, ph, pw) for ``task``.

    Its left half is the sign with the sticker, or the patch alone; its right half four held-out
    scenes with it.
    """
    patch = eight_bit(patch.detach().cpu())
    scenes = sample_scenes(task, task.scene_sources.test, 4, "preview")
    images, _ = render_scenes(task, patch.to(task.device), scenes, ("preview",))

    half = (_HEIGHT_PX // 2, _HEIGHT_PX // 2)
    tiles = F.interpolate(images.cpu(), size=half, mode="bilinear", antialias=True)
    grid = torch.cat([torch.cat([tiles[0], tiles[1]], 2), torch.cat([tiles[2], tiles[3]], 2)], 1)
    return torch.cat([_front_view(task, patch), grid], 2).clamp(0, 1)


def _front_view(task: PatchTask, patch: Tensor) -> Tensor:
    """(3, 480, 480): the sign with the sticker where its card has it, or the patch alone."""
    size = (_HEIGHT_PX, _HEIGHT_PX)
    ground = srgb_to_linear(torch.full((1, 3, *size), _GRAY))
    if isinstance(task.scene_sources.test, PatchAnywhere | OnObjects):
        longest_mm = max(task.placement.width_mm, task.placement.height_mm)
        return linear_to_srgb(_pasted(task, patch, ground, 0.9 * _HEIGHT_PX / longest_mm)[0])

    faces = task.scene_sources.faces
    face = faces[0] if faces else sign_face(width_px=_HEIGHT_PX)
    rgba = F.interpolate(to_tensor(face.rgba)[None], size=size, mode="bilinear", antialias=True)
    color, alpha = rgba[:, :3], rgba[:, 3:]
    canvas = blend_over(ground, srgb_to_linear(color) * alpha, alpha)
    return linear_to_srgb(_pasted(task, patch, canvas, _HEIGHT_PX / task.sign_width_mm)[0])


def _pasted(task: PatchTask, patch: Tensor, canvas: Tensor, px_per_mm: float) -> Tensor:
    """``canvas`` in linear light with the patch on it, placed from its center."""
    x0, y0, width, height = (task.placement.rectangle_mm * px_per_mm).tolist()
    x, y = round(x0 + _HEIGHT_PX / 2), round(y0 + _HEIGHT_PX / 2)
    rows = min(max(2, round(height)), _HEIGHT_PX - y)
    columns = min(max(2, round(width)), _HEIGHT_PX - x)

    size = (rows, columns)
    sticker = F.interpolate(patch, size=size, mode="bilinear", antialias=True)
    alpha = F.interpolate(task.mask.cpu(), size=size, mode="bilinear", antialias=True)
    region = canvas[..., y : y + rows, x : x + columns]
    pasted = canvas.clone()
    pasted[..., y : y + rows, x : x + columns] = blend_over(
        region, srgb_to_linear(sticker) * alpha, alpha
    )
    return pasted
