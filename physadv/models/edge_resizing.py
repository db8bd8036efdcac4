"""Resizing of images to the length of their edges, for networks that take many sizes."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class ResizedByEdges(nn.Module):
    """A network behind a resizing that keeps the aspect of images, as DETR's and TextNet's do.

    Args:
        net: Network on images of any size. What it returns must not depend on their pixels' number,
            as logits and boxes in shares of the image.
        short: Length in px that the short edge is brought to.
        longest: Largest length in px of the long edge, to which the short one yields; None for no
            limit.
        multiple: Number of px that both edges are rounded to a multiple of.
        down: Whether they are rounded down, as YOLOS' are; else up, as TextNet's.
        interpolation: "bilinear", "bicubic" or "nearest".

    Example:
        >>> import torch
        >>> resized = ResizedByEdges(nn.Identity(), 80, longest=133)
        >>> resized(torch.rand(1, 3, 20, 30)).shape, resized(torch.rand(1, 3, 20, 80)).shape
        (torch.Size([1, 3, 80, 120]), torch.Size([1, 3, 33, 133]))
    """

    def __init__(
        self,
        net: nn.Module,
        short: int,
        *,
        longest: int | None = None,
        multiple: int = 1,
        down: bool = False,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__()
        self.net, self.short, self.longest = net, short, longest
        self.multiple, self.down, self.interpolation = multiple, down, interpolation

    def forward(self, images: Tensor) -> Any:
        """Return what the network makes of ``images`` (b, c, h, w), resized."""
        height, width = images.shape[-2:]
        size = self.size_of(height, width)
        if size == (height, width):
            return self.net(images)
        if self.interpolation == "nearest":
            return self.net(F.interpolate(images, size, mode="nearest-exact"))
        resized = F.interpolate(
            images, size, mode=self.interpolation, antialias=True, align_corners=False
        )
        return self.net(resized)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width in px that an image of ``height`` x ``width`` px gets."""
        least, most = min(height, width), max(height, width)
        short: float = self.short
        if self.longest is not None and most / least * short > self.longest:
            short = self.longest * least / most
        kept = round(short) == least  # by the libraries' rule it keeps its size then
        edges = (least, most) if kept else (round(short), int(short * most / least))
        rows, columns = edges if height <= width else (edges[1], edges[0])
        step = self.multiple
        if self.down:
            return max(1, rows // step) * step, max(1, columns // step) * step
        return -(-rows // step) * step, -(-columns // step) * step

    def in_words(self) -> str:
        """Return the rule in words, for cards."""
        limit = "" if self.longest is None else f", the long one at most {self.longest} px"
        way = "down" if self.down else "up"
        steps = (
            "" if self.multiple == 1 else f", both rounded {way} to multiples of {self.multiple}"
        )
        return f"short edge resized to {self.short} px{limit}{steps}"
