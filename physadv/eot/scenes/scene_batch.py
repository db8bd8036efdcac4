"""Batch of scenes in which a patch can be placed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from physadv.models.resizing import PADDING
from physadv.threat.patch_goals import Annotations


@dataclass(frozen=True)
class SceneBatch:
    """b scenes without a patch, with the place, the light and the sharpness of a patch in each."""

    images: Tensor
    """(b, 3, h, w) sRGB-encoded pictures in [0, 1]."""
    homography: Tensor
    """(b, 3, 3) maps from the plane of the sign or patch, in mm, to px."""
    gain: Tensor
    """(b, 3) factor in linear light that relights a patch to the scene."""
    lift: Tensor
    """(b, 3) veil of the scene, added in linear light."""
    enlargement: Tensor
    """(b,) px of the picture per px of the camera that took it, at least 1; a patch is blurred by
    as much."""
    groups: tuple[str, ...]
    """Names of the photo or drawing that each scene is made from."""
    marks: Annotations | None = None
    """Objects to be judged; None: the one sign of each scene."""
    others: Tensor | None = None
    """(b, k, 3, 3) homographies of further copies of the patch in each scene."""
    frame_box: Tensor | None = None
    """(b, 4) corners x0, y0, x1, y1 in px of the camera's frame in each picture, which padding
    surrounds; None: the frame is the whole picture, or the picture is a crop."""
    distance_m: Tensor | None = None
    """(b,) distance from the camera to the sign, where it is known."""
    yaw_deg: Tensor | None = None
    """(b,) degrees by which the sign is turned sideways from the camera; NaN where unknown."""

    def with_padding(self, pictures: Tensor) -> Tensor:
        """Return ``pictures`` (b, 3, h, w) of these scenes with clean bars beside their frames.

        A detector pads a frame after the camera took it, so that no light and no noise is on them.
        """
        if self.frame_box is None:
            return pictures
        height, width = pictures.shape[-2:]
        x0, y0, x1, y1 = self.frame_box.to(pictures)[:, :, None, None].unbind(1)
        rows = torch.arange(height, device=pictures.device)[None, :, None]
        columns = torch.arange(width, device=pictures.device)[None, None, :]
        inside = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
        return torch.where(inside[:, None], pictures, PADDING)

    def part(self, rows: slice) -> SceneBatch:
        """Return the scenes ``rows``, a slice with both ends, with what is judged in them."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        marks = None if self.marks is None else self.marks.part(rows)
        cut = {
            name: value[rows]
            for name, value in tensors.items()
            if value is not None and name != "marks"
        }
        return replace(self, **{**cut, "marks": marks})

    def to(self, device: torch.device) -> SceneBatch:
        """Return the same scenes with all their tensors on ``device``."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "groups"}
        return replace(
            self, **{name: value.to(device) for name, value in tensors.items() if value is not None}
        )
