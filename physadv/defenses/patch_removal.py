"""Segmentation and removal of patches (after Liu et al. 2022).

A small network marks pixels that look like a patch. Marks are completed to rectangles, since a
segmenter misses parts that an attacker makes plain. Marked pixels are filled from their
surroundings.

The built-in network was trained at 64 px on a drawn stop sign and on training tracks of GTSRB (a
research data set, whose terms may bind commercial use), with stickers optimized against the model
``signs`` and photographed in simulation (scripts/train_patch_remover.py). It certifies
nothing: a sticker optimized to evade it undoes much of it (benchmarks/patch_defenses.md).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import ModelError, OptionError
from physadv.core.tensor_files import read_tensors
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
"""Heights and widths of the rectangles that marks are completed to, in px of the working size."""


class PatchSegmenter(nn.Module):
    """A segmentation network: images (b, 3, h, w) in [0, 1] to logits (b, 1, h, w) of a pixel being
    part of a patch.

    Three scales, the coarsest at a quarter of the image's size with dilated convolutions, merged
    from coarse to fine (after Ronneberger et al. 2015). About 175,000 weights; each logit has a
    receptive field of about 80 px.

    Args:
        fine: Channels at the image's size.
        middle: Channels at half of it.
        coarse: Channels at a quarter of it.
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
        """Return the logits (b, 1, h, w) of ``images``."""
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
    """Fills whatever a segmenter marks from the surroundings.

    Args:
        segmenter: Network that maps images to logits (b, 1, h, w).
        threshold: Probability in (0, 1) from which a pixel is marked.
        full: Share of a rectangle's pixels, in (0, 1], that must be marked for all of it to be
            removed.
        side: Side in px of the images that the segmenter receives, at least 24.
        grow: Pixels by which marks grow, since a photographed patch has soft edges.

    Raises:
        OptionError: A number is out of range.
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
                "shares lie between 0 and 1, side is 24 px or more, grow 0 px or more",
                "Use e.g. 0.7, 0.9, 64 and 1",
            )

        self.segmenter, self.threshold, self.full = segmenter, threshold, full
        self.side, self.grow = side, grow

    def forward(self, images: Tensor) -> Tensor:
        """Return ``images`` with patches removed; no gradient passes through the marks."""
        with torch.no_grad():
            marks = F.interpolate(self.marks(images).to(images), images.shape[-2:], mode="nearest")
        return fill_marked(images, marks)

    def softly(self, images: Tensor) -> Tensor:
        """Return ``images`` with every pixel faded by its probability of being part of a patch: the
        stand-in for gradients."""
        chance = F.interpolate(
            self.chance(images), images.shape[-2:], mode="bilinear", align_corners=False
        )
        return fill_marked(images, chance)

    def chance(self, images: Tensor) -> Tensor:
        """Return the probability (b, 1, side, side) that each pixel of ``images`` is part of a
        patch."""
        logits: Tensor = self.segmenter(resize_images(images, self.side, self.side))
        return logits.sigmoid()

    def marks(self, images: Tensor) -> Tensor:
        """Return the removed pixels (b, 1, side, side) of ``images``, bool."""
        completed = complete_rectangles(self.chance(images) > self.threshold, self.full).float()
        return F.max_pool2d(completed, 2 * self.grow + 1, 1, self.grow) > 0


def complete_rectangles(marks: Tensor, full: float = 0.9) -> Tensor:
    """Return ``marks`` (b, 1, h, w), bool, with every rectangle of WINDOWS added of which a share
    ``full`` is marked."""
    marked = marks.float()
    completed = marked
    for height, width in WINDOWS:
        if height > marks.shape[2] or width > marks.shape[3]:
            continue

        # Separable means over all rectangles, then the union of those marked enough.
        share = F.avg_pool2d(F.avg_pool2d(marked, (height, 1), 1), (1, width), 1)
        margins = (width - 1, width - 1, height - 1, height - 1)
        corners = F.pad((share >= full - 1e-5).float(), margins)
        union = F.max_pool2d(F.max_pool2d(corners, (height, 1), 1), (1, width), 1)
        completed = torch.maximum(completed, union)
    return completed > 0


def fill_marked(images: Tensor, marks: Tensor) -> Tensor:
    """Return ``images`` with marked pixels replaced by a blend of their surroundings.

    Means over ever larger squares of unmarked pixels are laid under one another (pull and push,
    after Gortler et al. 1996): near the edge of a mark they have the color of the near
    surroundings. Where all is marked the result is black. ``marks`` (b, 1, h, w) is the share in
    [0, 1] of each pixel to replace.
    """
    weight = 1 - marks
    color = images * weight

    # Pull: a pyramid of colors and weights, down to one row or column.
    levels = []
    while min(color.shape[-2:]) > 1:
        levels.append((color, weight))
        color, weight = (F.avg_pool2d(t, 2, ceil_mode=True) for t in (color, weight))

    # Push: each level shows where it has weight, the coarser ones below elsewhere.
    filled = color.mean((2, 3), keepdim=True) / weight.mean((2, 3), keepdim=True).clamp_min(1e-6)
    for color, weight in reversed(levels):
        filled = color + _like(filled, color) * (1 - weight)
    return filled


def patch_removal(
    model: Model,
    *,
    threshold: float = 0.7,
    side: int = 64,
    adaptive: bool = True,
    segmenter: nn.Module | None = None,
) -> TransformDefense:
    """Put patch removal in front of a model.

    Args:
        model: Classifier or detector.
        threshold: Probability in (0, 1) from which a pixel is marked.
        side: Side in px of the images that the segmenter receives: 64 for a sign that fills the
            image; 128 did better on whole frames (benchmarks/patch_defenses.md).
        adaptive: Whether gradients pass through a soft stand-in.
        segmenter: Segmenter to use in place of the built-in one.

    Raises:
        ModelError: The built-in weights are missing from the installation.
        OptionError: A number is out of range.

    Example:
        >>> import torch
        >>> from physadv.defenses.patch_removal import patch_removal
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 2))
        >>> patch_removal(net)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 2])
    """
    remover = PatchRemover(
        load_segmenter() if segmenter is None else segmenter, threshold=threshold, side=side
    )
    defense = TransformDefense(model, remover, stand_in=remover.softly, adaptive=adaptive)
    return defense.eval().requires_grad_(False)


def load_segmenter() -> PatchSegmenter:
    """Return a copy of the built-in segmenter, in eval mode and frozen."""
    net = PatchSegmenter()
    net.load_state_dict(_weights())
    return net.eval().requires_grad_(False)


@cache
def _weights() -> dict[str, Tensor]:
    if not WEIGHTS.is_file():
        raise ModelError(
            f"{WEIGHTS.name}", "is missing from this installation", "Install physadv again"
        )
    return read_tensors(WEIGHTS)[0]
