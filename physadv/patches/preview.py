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

SIDE = 480


@torch.no_grad()
def preview_picture(task: PatchTask, patch: Tensor) -> Tensor:
    """Draw the preview of a bundle (3, 480, 960).

    Args:
        task: The patch problem.
        patch: Pixels (1, 3, h, w).

    Returns:
        On the left the face with the sticker, or the patch alone; on the right four held-out
        scenes.
    """
    patch = eight_bit(patch.detach().cpu())
    scenes = sample_scenes(task, task.scene_sources.test, 4, "preview")
    images, _ = render_scenes(task, patch.to(task.device), scenes, ("preview",))
    tiles = F.interpolate(
        images.cpu(), size=(SIDE // 2, SIDE // 2), mode="bilinear", antialias=True
    )
    grid = torch.cat([torch.cat([tiles[0], tiles[1]], 2), torch.cat([tiles[2], tiles[3]], 2)], 1)
    return torch.cat([face_with(task, patch), grid], 2).clamp(0, 1)


def face_with(task: PatchTask, patch: Tensor) -> Tensor:
    """Draw the sign on gray (3, 480, 480) with ``patch`` where ``task`` places it."""
    if isinstance(task.scene_sources.test, PatchAnywhere | OnObjects):
        return patch_alone(task, patch)
    face = task.scene_sources.faces[0] if task.scene_sources.faces else sign_face(width_px=SIDE)
    rgba = F.interpolate(
        to_tensor(face.rgba)[None], size=(SIDE, SIDE), mode="bilinear", antialias=True
    )
    gray = srgb_to_linear(torch.full((1, 3, SIDE, SIDE), 0.6))
    canvas = blend_over(gray, srgb_to_linear(rgba[:, :3]) * rgba[:, 3:], rgba[:, 3:])
    return linear_to_srgb(_laid(task, patch, canvas, SIDE / task.sign_width_mm)[0])


def patch_alone(task: PatchTask, patch: Tensor) -> Tensor:
    """Draw ``patch`` of ``task`` on gray (3, 480, 480), as large as it fits."""
    gray = srgb_to_linear(torch.full((1, 3, SIDE, SIDE), 0.6))
    longest = max(task.placement.width_mm, task.placement.height_mm)
    return linear_to_srgb(_laid(task, patch, gray, 0.9 * SIDE / longest)[0])


def _laid(task: PatchTask, patch: Tensor, canvas: Tensor, px_per_mm: float) -> Tensor:
    """The patch in linear light laid where its placement says, from the canvas's middle."""
    x0, y0, width, height = (task.placement.rectangle_mm * px_per_mm).tolist()
    x, y = round(x0 + SIDE / 2), round(y0 + SIDE / 2)
    size = (min(max(2, round(height)), SIDE - y), min(max(2, round(width)), SIDE - x))
    sticker = F.interpolate(patch, size=size, mode="bilinear", antialias=True)
    alpha = F.interpolate(task.mask.cpu(), size=size, mode="bilinear", antialias=True)
    region = canvas[..., y : y + size[0], x : x + size[1]]
    canvas[..., y : y + size[0], x : x + size[1]] = blend_over(
        region, srgb_to_linear(sticker) * alpha, alpha
    )

    return canvas
