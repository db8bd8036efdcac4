"""Segment, complete and remove (after Liu et al. 2022): a small net marks what looks like a patch, and it is taken out.

Marks are completed to rectangles, since a segmenter misses parts that an attacker makes plain. The net that comes with
it was trained on traffic signs with patches optimised against the victim ``signs`` (benchmarks/patch_remover.py).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from physadv.core.errors import OptionError, VictimError
from physadv.core.types import Victim
from physadv.defences.frontends import Frontend
from physadv.victims.classifiers import resize

WEIGHTS = Path(__file__).resolve().parent / "weights" / "remover.safetensors"
WINDOWS = ((6, 6), (8, 8), (6, 14), (14, 6), (12, 12), (10, 20), (20, 10), (16, 16), (20, 20))
"""Heights and widths of the rectangles that marks are completed to, px of the working size."""


class Segmenter(nn.Module):
    """Images (b, 3, h, w) in [0, 1] -> logits (b, 1, h, w) of each pixel being of a patch. About 28,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU())
        self.wide = nn.Sequential(
            nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 32, 3, 1, 2, 2), nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1, 4, 4), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Conv2d(48, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        fine = self.fine(images * 4 - 2)
        wide = F.interpolate(self.wide(fine), fine.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.head(torch.cat((fine, wide), 1))
        return logits


class Remover(nn.Module):
    """Images -> images in which what ``segmenter`` marks is painted with the mean of the rest.

    The net looks at ``side`` px a side. ``threshold`` is the probability from which a pixel is marked, ``full`` the
    share of a rectangle's pixels that must be marked for all of it to go.
    """

    def __init__(self, segmenter: nn.Module, *, threshold: float = 0.5, full: float = 0.65, side: int = 64) -> None:
        super().__init__()
        if not 0 < threshold < 1 or not 0 < full <= 1 or side < 24:
            raise OptionError(
                f"threshold {threshold}, full {full}, side {side}", "0 to 1, and 24 px or more", "use 0.5, 0.65, 64"
            )
        self.segmenter, self.threshold, self.full, self.side = segmenter, threshold, full, side

    def forward(self, images: Tensor) -> Tensor:
        """Patches removed; no gradient passes the marks."""
        with torch.no_grad():
            marks = complete(self._chance(images) > self.threshold, self.full)
            marks = F.interpolate(marks.to(images), images.shape[-2:], mode="nearest")
        return _painted(images, marks)

    def softly(self, images: Tensor) -> Tensor:
        """The stand-in for gradients: every pixel fades as it is likely to belong to a patch."""
        chance = F.interpolate(self._chance(images), images.shape[-2:], mode="bilinear", align_corners=False)
        return _painted(images, chance)

    def _chance(self, images: Tensor) -> Tensor:
        logits: Tensor = self.segmenter(resize(images, self.side, self.side))
        return logits.sigmoid()


def complete(marks: Tensor, full: float = 0.65) -> Tensor:
    """Marks (b, 1, h, w) bool and every rectangle of WINDOWS of which at least a share ``full`` is marked."""
    found = marks.float()
    whole = found
    for size in WINDOWS:
        if size[0] <= marks.shape[2] and size[1] <= marks.shape[3]:
            enough = (F.avg_pool2d(found, size, 1) >= full - 1e-6).float()
            whole = torch.maximum(whole, F.conv_transpose2d(enough, enough.new_ones(1, 1, *size)).clamp_max(1))
    return whole > 0


def remover(
    victim: Victim, *, threshold: float = 0.5, side: int = 64, adaptive: bool = True, segmenter: nn.Module | None = None
) -> Frontend:
    """``victim`` behind a :class:`Remover` with the net that comes with it, or one's own ``segmenter``.

    Raises VictimError where the weights are missing from the installation.
    """
    part = Remover(trained() if segmenter is None else segmenter, threshold=threshold, side=side)
    front = Frontend(victim, part, stand_in=part.softly, adaptive=adaptive)
    return front.eval().requires_grad_(False)


def trained() -> Segmenter:
    """The segmenter that comes with it, a copy of one's own."""
    net = Segmenter()
    net.load_state_dict(_weights())
    return net.eval().requires_grad_(False)


@cache
def _weights() -> dict[str, Tensor]:
    if not WEIGHTS.is_file():
        raise VictimError(f"{WEIGHTS.name}", "is missing from this installation", "install physadv again")
    return load_file(WEIGHTS)


def _painted(images: Tensor, marks: Tensor) -> Tensor:
    rest = (1 - marks).clamp_min(1e-6)
    mean = (images * rest).sum((2, 3), keepdim=True) / rest.sum((2, 3), keepdim=True)
    return images * (1 - marks) + mean * marks
