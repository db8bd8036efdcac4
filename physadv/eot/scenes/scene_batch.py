"""Batch of scenes in which a patch can be placed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

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
    distance_m: Tensor | None = None
    """(b,) distance from the camera to the sign, where it is known."""
    yaw_deg: Tensor | None = None
    """(b,) degrees by which the sign is turned sideways from the camera; NaN where unknown."""

    def to(self, device: torch.device) -> SceneBatch:
        """Return the same scenes with all their tensors on ``device``."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "groups"}
        return replace(
            self, **{name: value.to(device) for name, value in tensors.items() if value is not None}
        )
