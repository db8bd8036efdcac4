"""Scenes before the patch is put on them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from physadv.threat.patch_goals import Annotations


@dataclass(frozen=True)
class SceneBatch:
    """b scenes with the sign in them and no patch on it yet."""

    images: Tensor  # (b, 3, h, w) sRGB in [0, 1]
    homography: Tensor  # (b, 3, 3) sign plane in mm -> px
    gain: Tensor  # (b, 3) linear gain that relights a patch to the scene
    lift: Tensor  # (b, 3) linear offset (veil) of the scene
    enlargement: Tensor  # (b,) px of the picture per px of the camera that saw it
    groups: tuple[str, ...]  # which photo or drawing each scene comes from
    marks: Annotations | None = None  # what is judged where that is not the one sign a scene
    others: Tensor | None = None  # (b, k, 3, 3) further places of the patch in each scene
    distance_m: Tensor | None = None  # (b,) camera to sign, where it is known

    def to(self, device: torch.device) -> SceneBatch:
        """Return the same scenes on another ``device``."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "groups"}
        return replace(
            self, **{name: part.to(device) for name, part in parts.items() if part is not None}
        )
