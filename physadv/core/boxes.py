"""Areas and overlaps of axis-aligned boxes x0, y0, x1, y1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def box_areas(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return the areas in px^2 of ``boxes`` (..., n, 4); a box turned inside out has none."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def box_iou(
    first: Float[Tensor, "*b n 4"], second: Float[Tensor, "*b m 4"], *, of_smaller: bool = False
) -> Float[Tensor, "*b n m"]:
    """Return the overlap of every pair of boxes.

    kornia.metrics.mean_iou_bbox is the same where every box has an area; it raises for others and
    takes no batch.

    Args:
        first: Boxes (..., n, 4).
        second: Boxes (..., m, 4).
        of_smaller: Return the shared part of the smaller box in place of intersection over union.

    Returns:
        (..., n, m) in [0, 1]; 0 where a box is empty.

    Example:
        >>> long, short = torch.tensor([[0.0, 0.0, 2.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> float(box_iou(long, short)), float(box_iou(long, short, of_smaller=True))
        (0.5, 1.0)
    """
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    sides = (high - low).clamp_min(0)
    shared = sides[..., 0] * sides[..., 1]

    own, other = box_areas(first)[..., :, None], box_areas(second)[..., None, :]
    whole = torch.minimum(own, other) if of_smaller else own + other - shared
    return shared / whole.clamp_min(torch.finfo(whole.dtype).tiny)
