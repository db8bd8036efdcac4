"""Segment, complete and remove (after Liu et al. 2022): a small net marks what looks like a patch,
and it is taken out.

Marks are completed to rectangles, since a segmenter misses parts that an attacker makes plain. What
is taken out is filled from its surroundings. The net that comes with it was trained at 64 px on a
drawn stop sign and on training tracks of GTSRB (a research data set, whose terms may bind
commercial use), with stickers optimized against the victim ``signs`` and photographed in simulation
(benchmarks/patch_remover.py). It proves nothing: a sticker told to hide from it undoes much of it
(benchmarks/patch_defenses.md).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from physadv.core.errors import ModelError, OptionError
from physadv.core.types import Model
from physadv.defenses.input_transforms import TransformDefense
from physadv.models.classifiers import resize_images

WEIGHTS = Path(__file__).resolve().parent / "weights" / "remover.safetensors"
WINDOWS = (
    (6, 6),
    (8, 8),
    (6, 14),
    (14, 6),
    (12, 12),
    (10, 20),
    (20, 10),
    (16, 16),
    (20, 20),
    (24, 24),
    (28, 28),
)
"""Heights and widths of the rectangles that marks are completed to, px of the working size."""


class PatchSegmenter(nn.Module):
    """Images (b, 3, h, w) in [0, 1] -> logits (b, 1, h, w) of each pixel being of a patch.

    Three scales, the coarsest a quarter of the picture's with dilated convolutions, joined again
    from coarse to fine (after Ronneberger et al. 2015). About 175,000 weights; each logit sees a
    square of about 80 px.
    """

    def __init__(self, fine: int = 12, middle: int = 32, coarse: int = 64) -> None:
        super().__init__()
        self.fine = _convolved(3, fine)
        self.middle = nn.Sequential(_convolved(fine, middle, stride=2), _convolved(middle, middle))
        self.coarse = nn.Sequential(
            _convolved(middle, coarse, stride=2),
            _convolved(coarse, coarse),
            _convolved(coarse, coarse, dilation=2),
            _convolved(coarse, coarse, dilation=4),
        )
        self.joined = _convolved(middle + coarse, middle)
        self.head = nn.Sequential(_convolved(fine + middle, fine), nn.Conv2d(fine, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        fine = self.fine(images * 4 - 2)
        middle = self.middle(fine)
        joined = self.joined(torch.cat((middle, _like(self.coarse(middle), middle)), 1))
        logits: Tensor = self.head(torch.cat((fine, _like(joined, fine)), 1))
        return logits


def _convolved(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _like(small: Tensor, large: Tensor) -> Tensor:
    return F.interpolate(small, large.shape[-2:], mode="bilinear", align_corners=False)


class PatchRemover(nn.Module):
    """Images -> images in which what ``segmenter`` marks is filled from what lies around it.

    The net looks at ``side`` px a side. ``threshold`` is the probability from which a pixel is
    marked, ``full`` the share of a rectangle's pixels that must be marked for all of it to go;
    marks grow by ``grow`` px, since a photographed patch has soft edges.
    """

    def __init__(
        self,
        segmenter: nn.Module,
        *,
        threshold: float = 0.7,
        full: float = 0.9,
        side: int = 64,
        grow: int = 1,
    ) -> None:
        super().__init__()
        if not 0 < threshold < 1 or not 0 < full <= 1 or side < 24 or grow < 0:
            raise OptionError(
                f"threshold {threshold}, full {full}, side {side}, grow {grow}",
                "0 to 1, 24 px or more, and 0 px or more",
                "use 0.7, 0.9, 64 and 1",
            )
        self.segmenter, self.threshold, self.full, self.side, self.grow = (
            segmenter,
            threshold,
            full,
            side,
            grow,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Patches removed; no gradient passes the marks."""
        with torch.no_grad():
            marks = F.interpolate(self.marks(images).to(images), images.shape[-2:], mode="nearest")
        return fill_marked(images, marks)

    def softly(self, images: Tensor) -> Tensor:
        """The stand-in for gradients: every pixel fades as it is likely to belong to a patch."""
        chance = F.interpolate(
            self.chance(images), images.shape[-2:], mode="bilinear", align_corners=False
        )
        return fill_marked(images, chance)

    def chance(self, images: Tensor) -> Tensor:
        """(b, 1, side, side): the probability that a pixel belongs to a patch."""
        logits: Tensor = self.segmenter(resize_images(images, self.side, self.side))
        return logits.sigmoid()

    def marks(self, images: Tensor) -> Tensor:
        """(b, 1, side, side) bool: what is taken out."""
        whole = complete_rectangles(self.chance(images) > self.threshold, self.full).float()
        return F.max_pool2d(whole, 2 * self.grow + 1, 1, self.grow) > 0


def complete_rectangles(marks: Tensor, full: float = 0.9) -> Tensor:
    """Marks (b, 1, h, w) bool and every rectangle of WINDOWS of which at least a share ``full`` is
    marked."""
    found = marks.float()
    whole = found
    for high, wide in WINDOWS:
        if high <= marks.shape[2] and wide <= marks.shape[3]:
            share = F.avg_pool2d(F.avg_pool2d(found, (high, 1), 1), (1, wide), 1)
            enough = F.pad((share >= full - 1e-5).float(), (wide - 1, wide - 1, high - 1, high - 1))
            whole = torch.maximum(
                whole, F.max_pool2d(F.max_pool2d(enough, (high, 1), 1), (1, wide), 1)
            )
    return whole > 0


def fill_marked(images: Tensor, marks: Tensor) -> Tensor:
    """``images`` with the share ``marks`` (b, 1, h, w) in [0, 1] of each pixel replaced by what
    lies around it.

    Means over ever larger squares of what is not marked, laid under one another (pull and push,
    after Gortler et al. 1996): near the edge of a mark it is the color of the near surroundings.
    Where all is marked it is black.
    """
    kept = 1 - marks
    light, weight = images * kept, kept
    levels = []
    while min(light.shape[-2:]) > 1:
        levels.append((light, weight))
        light, weight = (F.avg_pool2d(t, 2, ceil_mode=True) for t in (light, weight))
    under = light.mean((2, 3), keepdim=True) / weight.mean((2, 3), keepdim=True).clamp_min(1e-6)
    for light, weight in reversed(levels):
        under = light + _like(under, light) * (1 - weight)
    return under


def patch_removal(
    model: Model,
    *,
    threshold: float = 0.7,
    side: int = 64,
    adaptive: bool = True,
    segmenter: nn.Module | None = None,
) -> TransformDefense:
    """``model`` behind a :class:`PatchRemover` with the net that comes with it, or one's own
    ``segmenter``.

    ``side`` 64 is for a sign that fills the picture; 128 served better on whole frames
    (benchmarks/patch_defenses.md). Raises ModelError where the weights are missing from the
    installation.
    """
    part = PatchRemover(
        load_segmenter() if segmenter is None else segmenter, threshold=threshold, side=side
    )
    front = TransformDefense(model, part, stand_in=part.softly, adaptive=adaptive)
    return front.eval().requires_grad_(False)


def load_segmenter() -> PatchSegmenter:
    """The segmenter that comes with it, a copy of one's own."""
    net = PatchSegmenter()
    net.load_state_dict(_weights())
    return net.eval().requires_grad_(False)


@cache
def _weights() -> dict[str, Tensor]:
    if not WEIGHTS.is_file():
        raise ModelError(
            f"{WEIGHTS.name}", "is missing from this installation", "install physadv again"
        )
    return load_file(WEIGHTS)
