"""Parts of a picture: what the patch cannot reach needs neither a warp nor a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16
"""Windows start and end on whole macroblocks, so that the codec cuts them as it cuts the picture.
"""


@dataclass(frozen=True)
class CropWindow:
    """Window of one size in each of b pictures.

    Around a window pictures go on; around a picture they are reflected. Methods take a ``margin``,
    that many pixels more on each side.

    Args:
        picture: (height, width) of the pictures.
        size: (height, width) of the window.
        origin: (b, 2) its first row and column; None: the whole picture.
    """

    picture: tuple[int, int]
    size: tuple[int, int]
    origin: Tensor | None = None

    @classmethod
    def whole(cls, images: Tensor) -> CropWindow:
        """Return the window that is all of ``images`` (b, c, h, w)."""
        size = (images.shape[-2], images.shape[-1])
        return cls(size, size)

    @property
    def is_whole(self) -> bool:
        """Return whether the window is the picture."""
        return self.origin is None

    def _along(self, axis: int, margin: int) -> Tensor:
        """Return (b, size + 2 margin) row or column numbers of the picture, reflected at its
        edges."""
        last = self.picture[axis] - 1
        steps = torch.arange(-margin, self.size[axis] + margin)
        numbers = (
            steps[None]
            if self.origin is None
            else self.origin[:, axis : axis + 1].to(steps.device) + steps
        )
        return last - (last - numbers.abs()).abs()

    def rows(self, margin: int, like: Tensor) -> Tensor:
        """Return (b or 1, h + 2 margin, 1) heights of pixel centers for this ``margin``, on the
        device of ``like``.
        """
        return self._along(0, margin)[:, :, None].to(like) + 0.5

    def columns(self, margin: int, like: Tensor) -> Tensor:
        """Return (b or 1, 1, w + 2 margin) widths of pixel centers for this ``margin``, on the
        device of ``like``.
        """
        return self._along(1, margin)[:, None, :].to(like) + 0.5

    def pixel_centers(self, margin: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``columns`` and ``rows`` for this ``margin`` on the device of ``like``."""
        return self.columns(margin, like), self.rows(margin, like)

    def within(self, boxes: Tensor, margin: int) -> CropWindow:
        """Return the smallest window of one size over ``boxes``, inside what ``take(..., margin)``
        returns.

        Where a box comes within the margin of the picture's edge its mirror image is held too.

        Args:
            boxes: (b, 4) x0, y0, x1, y1 in px of the picture.
            margin: Pixels around this window that were taken.

        Returns:
            A window whose picture is the part that was taken.
        """
        own = torch.zeros(1, 2) if self.origin is None else self.origin.float()
        first, last = boxes[:, :2].flip(1).cpu(), boxes[:, 2:].flip(1).cpu()
        ends = torch.tensor(self.picture, dtype=torch.float32)
        sides = torch.tensor(self.size) + 2 * margin

        start = torch.where(first < margin + 1, -torch.inf, first) - own + margin
        stop = torch.where(last > ends - margin - 1, torch.inf, last) - own + margin
        start = start.floor().clamp(min=torch.zeros(2), max=sides - 1.0).long()
        # An infinite number has no integer: cut it first.
        stop = stop.ceil().clamp(min=torch.zeros(2), max=sides.float()).long().maximum(start + 1)

        size = (stop - start).amax(0)
        return CropWindow(
            (int(sides[0]), int(sides[1])),
            (int(size[0]), int(size[1])),
            start.minimum(sides - size),
        )

    def centers(self, outer: CropWindow, margin: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixel centers of this window, which ``outer.within`` made, in ``outer``'s own
        picture.

        Args:
            outer: The window that this one is a part of.
            margin: Pixels around ``outer`` that were taken.
            like: Tensor of the wanted type and device.

        Returns:
            (b, 1, w) columns and (b, h, 1) rows.
        """
        ys, xs = (
            outer._along(axis, margin).expand(len(own), -1).gather(1, own).to(like) + 0.5
            for axis, own in ((0, self._along(0, 0)), (1, self._along(1, 0)))
        )
        return xs[:, None, :], ys[:, :, None]

    def take(self, images: Tensor, margin: int = 0) -> Tensor:
        """Return the part of ``images`` (b, c, H, W) in the window and ``margin`` px around it."""
        if self.origin is None:
            return F.pad(images, (margin,) * 4, mode="reflect") if margin else images
        ys, xs = (self._along(axis, margin).to(images.device) for axis in (0, 1))
        rows = images.gather(
            2, ys[:, None, :, None].expand(-1, images.shape[1], -1, images.shape[3])
        )
        return rows.gather(3, xs[:, None, None, :].expand(-1, images.shape[1], rows.shape[2], -1))

    def paste(self, base: Tensor, part: Tensor) -> Tensor:
        """Return ``base`` (b, c, H, W) with its windows replaced by ``part`` (b, c, h, w).

        Differentiable in ``part``.
        """
        if self.origin is None:
            return part
        ys, xs = (self._along(axis, 0).to(base.device) for axis in (0, 1))
        pictures = torch.arange(len(base), device=base.device)[:, None, None]
        # Advanced indexing puts the channels last.
        return (
            base.permute(0, 2, 3, 1)
            .index_put((pictures, ys[:, :, None], xs[:, None, :]), part.permute(0, 2, 3, 1))
            .permute(0, 3, 1, 2)
            .contiguous()
        )


def window_round(
    boxes: Tensor, picture: tuple[int, int], margin: int, *, most: float = 0.6
) -> CropWindow:
    """Return the smallest window of one size that holds every box and some pixels around it.

    Args:
        boxes: (b, 4) x0, y0, x1, y1 in px.
        picture: (height, width) of the pictures.
        margin: Pixels around each box.
        most: Share of the picture's area over which all of it is returned, in (0, 1].

    Returns:
        The window, or the whole picture where it is larger than that, or where the picture's sides
        are no whole macroblocks.
    """
    height, width = picture
    if height % BLOCK or width % BLOCK or not bool(torch.isfinite(boxes).all()):
        return CropWindow(picture, picture)

    ends = torch.tensor([width, height, width, height], device=boxes.device, dtype=boxes.dtype)
    reach = torch.tensor([-margin, -margin, margin, margin], device=boxes.device, dtype=boxes.dtype)
    cut = (boxes + reach).clamp(min=torch.zeros_like(ends), max=ends)

    # Whole blocks, as many in each picture.
    first = (cut[:, :2] / BLOCK).floor().long()
    blocks = ((cut[:, 2:] / BLOCK).ceil().long() - first).amax(0).clamp(min=1)
    size = (int(blocks[1]) * BLOCK, int(blocks[0]) * BLOCK)
    if size[0] * size[1] > most * height * width:
        return CropWindow(picture, picture)

    limit = torch.tensor([width // BLOCK, height // BLOCK], device=boxes.device) - blocks
    origin = first.minimum(limit).clamp(min=0) * BLOCK
    return CropWindow(picture, size, origin.flip(1).cpu())
