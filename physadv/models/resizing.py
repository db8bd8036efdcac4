"""Resizing of images to the input of a model: crop, letterbox or stretch, as the model declares.

A classifier that declares nothing gets the standard of ImageNet models: the short side is resized
to 256/224 of the input, and its center is cropped. A detector gets the whole image, padded. Only a
model that was trained on stretched images, and says so, gets them stretched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch.nn.functional as F
from torch import Tensor

from physadv.core.errors import ModelError

Fit = Literal["crop", "letterbox", "letterbox-corner", "stretch"]
Interpolation = Literal["bilinear", "bicubic", "nearest", "area"]
PadColor = int | tuple[int, ...]
"""Gray, or red, green and blue, from 0 to 255."""
STANDARD_SIDE, STANDARD_SHORT_SIDE = 224, 256
"""Side of the crop and short side of the resized image in px, by ImageNet models' convention."""
PADDING = 114 / 255
"""sRGB value of the bars beside a letterboxed image, as YOLO detectors are trained with."""


@dataclass(frozen=True)
class InputResizing:
    """How images of any size are brought to the input of a model.

    Images that have the input's size already are taken as they are.

    Attributes:
        size: Height and width in px of the input.
        fit: "crop" keeps the aspect and cuts the center out; "letterbox" keeps the aspect and pads
            the whole image with gray on both sides, "letterbox-corner" only below and on the right;
            "stretch" does not keep the aspect.
        short_side: Length in px of the short side before a crop to a square; None for 256/224 of
            the input's sides. With "stretch" and a letterbox, both sides before a crop; None for no
            crop. Height and width where they differ.
        interpolation: "bilinear", "bicubic", "nearest" or "area" (the mean of the pixels covered).
        antialias: Whether images are smoothed where they shrink.
        pad_color: Color of a letterbox's bars, one number or three from 0 to 255; 114 is YOLO's.

    Raises:
        ModelError: A value cannot be used.

    Example:
        >>> import torch
        >>> resizing = InputResizing((64, 64))
        >>> resizing(torch.rand(1, 3, 100, 200)).shape, resizing.in_words()
        (torch.Size([1, 3, 64, 64]), 'short side resized to 73 px, center crop of 64x64 px')
    """

    size: tuple[int, int]
    fit: Fit = "crop"
    short_side: int | tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    pad_color: PadColor = 114

    def __post_init__(self) -> None:
        object.__setattr__(self, "pad_color", _checked_color(self.pad_color))
        for name, value, known in (
            ("resize", self.fit, get_args(Fit)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
        ):
            if value not in known:
                raise ModelError(
                    f"{name} {value!r}", f"is none of {', '.join(known)}", "correct it"
                )
        if not isinstance(self.antialias, bool):
            raise ModelError(f"antialias {self.antialias!r}", "is no true or false", "correct it")
        if self.short_side is not None:
            object.__setattr__(self, "short_side", _checked_sides(self.short_side, self.size))

    def __call__(self, images: Tensor) -> Tensor:
        """Return ``images`` (b, c, h, w) in [0, 1] at the input's size; differentiable."""
        if images.shape[-2:] == self.size:
            return images

        resized_size, (top, left) = self._placement(images.shape[-2], images.shape[-1])
        resized = self._interpolated(images, resized_size)
        height, width = self.size
        if self.fit.startswith("letterbox"):  # a negative margin is cut off
            below, right = height - top - resized_size[0], width - left - resized_size[1]
            return self._padded(resized, (left, right, top, below))
        return resized[..., -top : height - top, -left : width - left]

    def _padded(self, images: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
        """``images`` with bars of the pad color, their widths as torch orders them."""
        if isinstance(self.pad_color, int):
            return F.pad(images, sides, value=self.pad_color / 255)
        color = images.new_tensor(self.pad_color).div(255).view(1, -1, 1, 1)
        # Zero is the bars' value under the shift, so that one padding serves three colors.
        return F.pad(images - color, sides) + color

    def _factor(self, height: int, width: int) -> float:
        """What a letterbox scales an image by."""
        rows, columns = self.uncropped_size
        return min(rows / height, columns / width)

    def boxes_on_image(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """Return boxes in px of an image that was resized.

        Args:
            boxes: Corners (..., 4) x0, y0, x1, y1 in px of the input.
            height: Height of the image in px.
            width: Width of the image in px.
        """
        if (height, width) == self.size:
            return boxes
        inner, (top, left) = self._placement(height, width)
        rows, columns = float(inner[0]), float(inner[1])
        if self.fit.startswith("letterbox"):  # one factor for both sides, as YOLO's own have it
            factor = self._factor(height, width)
            rows, columns = height * factor, width * factor
        scale = boxes.new_tensor((width / columns, height / rows) * 2)
        return (boxes - boxes.new_tensor((left, top) * 2)) * scale

    def image_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return where an image of ``height`` and ``width`` in px lies in the input.

        Returns:
            Corners x0, y0, x1, y1 in px of the input; beyond its edges where it is cropped.

        Example:
            >>> InputResizing((64, 64), "letterbox").image_box(90, 160)
            (0, 14, 64, 50)
        """
        (rows, columns), (top, left) = self._placement(height, width)
        return left, top, left + columns, top + rows

    @property
    def uncropped_size(self) -> tuple[int, int]:
        """Height and width in px that images of the input's aspect have before a declared crop."""
        if isinstance(self.short_side, int):
            return self.short_side, self.short_side
        return self.short_side or self.size

    def in_words(self, sizes: Iterable[tuple[int, int]] = ()) -> str:
        """Return the rule in words, for reports on images of ``sizes`` (height, width) in px."""
        size = f"{self.size[1]}x{self.size[0]} px"
        how = "" if self.interpolation == "bilinear" else f", {self.interpolation}"
        how += "" if self.antialias else ", not antialiased"
        if self.fit.startswith("letterbox") and self.pad_color != 114:
            how += f", bars of {self.pad_color}"
        if self.fit == "stretch":
            aspects = {(height * self.size[1], width * self.size[0]) for height, width in sizes}
            keeps_aspect = bool(aspects) and all(height == width for height, width in aspects)
            way = "resized to" if keeps_aspect else "stretched to"
            how = how if keeps_aspect else f", as the model declares{how}"
            if self.short_side is None:
                return f"{way} {size}{how}"
            rows, columns = self.uncropped_size
            return f"{way} {columns}x{rows} px, center crop of {size}{how}"
        if self.fit == "letterbox" and self.short_side is not None:
            rows, columns = self.uncropped_size
            return f"resized to fit {columns}x{rows} px, center of {size}, padded{how}"
        if self.fit == "letterbox":
            return f"resized and padded to {size}{how}"
        if self.fit == "letterbox-corner":
            return f"resized and padded below and on the right to {size}{how}"
        rows, columns = self._least()
        if rows == columns:
            return f"short side resized to {rows} px, center crop of {size}{how}"
        return f"resized to at least {columns}x{rows} px, center crop of {size}{how}"

    def _least(self) -> tuple[int, int]:
        """Height and width in px that a resized image has at least, before its crop."""
        if self.short_side is not None:
            return self.uncropped_size
        height, width = (round(s * STANDARD_SHORT_SIDE / STANDARD_SIDE) for s in self.size)
        return height, width

    def _placement(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The size to resize an image to, and where its upper left corner lies in the input:
        (top, left), negative where it is cropped."""
        rows, columns = self.size
        if self.fit == "stretch":
            inner = self.uncropped_size
            return inner, (-round((inner[0] - rows) / 2), -round((inner[1] - columns) / 2))

        if self.fit.startswith("letterbox"):
            scale = self._factor(height, width)
            if self.fit == "letterbox-corner":  # YOLOX cuts the fraction off, YOLO rounds it
                return (max(1, int(height * scale)), max(1, int(width * scale))), (0, 0)
            inner = (max(1, round(height * scale)), max(1, round(width * scale)))

            # The odd pixel of padding goes below and right, as in YOLO's own.
            margins = [
                space // 2 if space >= 0 else -round(-space / 2)
                for space in (rows - inner[0], columns - inner[1])
            ]
            return inner, (margins[0], margins[1])

        # One side gets its least length exactly and the other is rounded down, as in torchvision;
        # timm rounds it where the least lengths differ.
        least = self._least()
        if isinstance(self.short_side, tuple):
            ratio = min(height / least[0], width / least[1])
            inner = (max(rows, round(height / ratio)), max(columns, round(width / ratio)))
        elif least[0] * width >= least[1] * height:
            inner = (least[0], max(columns, least[0] * width // height))
        else:
            inner = (max(rows, least[1] * height // width), least[1])
        return inner, (-round((inner[0] - rows) / 2), -round((inner[1] - columns) / 2))

    def _interpolated(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        if images.shape[-2:] == size:
            return images
        if self.interpolation == "nearest":
            return F.interpolate(images, size, mode="nearest-exact")
        if self.interpolation == "area":
            return F.interpolate(images, size, mode="area")
        resized = F.interpolate(
            images, size, mode=self.interpolation, antialias=self.antialias, align_corners=False
        )
        # Bicubic interpolation overshoots at edges; 8-bit images, which models see, cannot.
        return resized.clamp(0, 1) if self.interpolation == "bicubic" else resized


def _checked_color(color: Any) -> PadColor:
    """The color of the bars as a gray or three numbers. Raises ModelError for anything else."""
    numbers = list(color) if isinstance(color, list | tuple) else [color]
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if len(numbers) not in (1, 3) or not whole or not all(0 <= n <= 255 for n in numbers):
        raise ModelError(f"pad_color {color!r}", "A gray or three numbers, 0 to 255", "Use 114")
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


def _checked_sides(sides: Any, crop: tuple[int, int]) -> int | tuple[int, int]:
    """Sides before a crop as one number or two that differ. Raises ModelError for anything else."""
    numbers = list(sides) if isinstance(sides, list | tuple) else [sides, sides]
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if len(numbers) != 2 or not whole or any(n < c for n, c in zip(numbers, crop, strict=True)):
        raise ModelError(
            f"short_side {sides!r}",
            f"the crop is {crop[1]}x{crop[0]} px",
            "give a whole number of px, at least that",
        )
    return numbers[0] if numbers[0] == numbers[1] else (numbers[0], numbers[1])


def standard_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) in px that images of several sizes get where a model declares
    none: square, 224 px, or the short side of the most frequent ``size`` where that is shorter."""
    side = min(STANDARD_SIDE, *size)
    return side, side


def resizing_from(
    size: tuple[int, int] | None, task: str, settings: Mapping[str, Any]
) -> InputResizing | None:
    """Return the resizing that a card declares; None where it declares no input size.

    Args:
        size: Height and width in px of the input, or None.
        task: "classify" or "detect".
        settings: Values by key, of which "resize", "short_side", "interpolation", "antialias"
            and "pad_color" are read.

    Raises:
        ModelError: A value cannot be used.
    """
    if size is None:
        return None
    return InputResizing(
        size,
        cast(Fit, settings.get("resize", "letterbox" if task == "detect" else "crop")),
        settings.get("short_side"),
        cast(Interpolation, settings.get("interpolation", "bilinear")),
        settings.get("antialias", True),
        settings.get("pad_color", 114),
    )
