"""Tensors from whatever callers hold: numpy arrays, lists, 8-bit pictures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from physadv.core.errors import ImageError, OptionError
from physadv.core.image_io import without_alpha

ImagesLike = Tensor | npt.NDArray[Any] | Image.Image | Sequence[Image.Image]
"""Images (b, ...) as a tensor, an array or PIL images: floats in [0, 1], or 8 bit where stated."""
LabelsLike = Tensor | npt.NDArray[Any] | Sequence[int]
"""One class number an image, (b,): a tensor, an array or a sequence of ints."""
_GRAY_MODES = ("L", "1", "I", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of PIL images without colors."""


def as_float_images(images: ImagesLike, device: torch.device | str | None = None) -> Tensor:
    """Return ``images`` as a tensor, numpy's float64 as float32, on ``device`` (None: where it is).

    A tensor keeps its dtype. Values are not scaled, so that 8-bit arrays stay to be refused; one
    PIL image or several of one size become floats in [0, 1] with their channels first.

    Raises:
        ImageError: ``images`` is neither a tensor nor an array of numbers, or a PIL image has
            floating point or 32-bit pixels.

    Example:
        >>> as_float_images(np.zeros((2, 3, 8, 8))).dtype
        torch.float32
    """
    if isinstance(images, Tensor):
        return images if device is None else images.to(device)
    pictures = [images] if isinstance(images, Image.Image) else images
    if isinstance(pictures, list | tuple) and pictures and _are_pil(pictures):
        return _stacked(pictures).to(device)

    try:
        array = np.asarray(images)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        array = np.ascontiguousarray(array)
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)
    except (TypeError, ValueError) as error:
        raise ImageError(
            f"images of type {type(images).__name__}",
            "a tensor or a numeric array (b, ...) is needed",
            "stack the images into one of these",
        ) from error


def device_of(model: object) -> torch.device | None:
    """Return the device of the first parameter or buffer of ``model``; None where there is none, as
    of a function."""
    owners = (getattr(model, name, tuple) for name in ("parameters", "buffers"))
    return next((tensor.device for owner in owners for tensor in owner()), None)


def has_float64(device: torch.device) -> bool:
    """Return whether ``device`` has numbers of 64 bits; Apple's GPUs have not."""
    return _has_float64(device.type)


@functools.cache
def _has_float64(kind: str) -> bool:
    try:
        torch.empty(1, dtype=torch.float64, device=kind)
    except (TypeError, RuntimeError):
        return False
    return True


def exact_device(device: torch.device) -> torch.device:
    """Return where tensors are kept for a model on ``device``: there, or on the CPU where it has
    no float64, in which distances and projections are computed."""
    return device if has_float64(device) else torch.device("cpu")


def _are_pil(pictures: Sequence[Any]) -> bool:
    return all(isinstance(picture, Image.Image) for picture in pictures)


def _stacked(pictures: Sequence[Image.Image]) -> Tensor:
    """PIL images of one size as (b, c, h, w) in [0, 1]; gray ones keep one channel."""
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise ImageError(f"PIL images of {len(sizes)} sizes", "One size is needed", "Resize them")
    mode = "L" if all(picture.mode in _GRAY_MODES for picture in pictures) else "RGB"
    planes = [np.asarray(without_alpha(p, "a PIL image").convert(mode)) for p in pictures]
    stack = torch.from_numpy(np.stack(planes)).float() / 255
    return stack[:, None] if mode == "L" else stack.movedim(-1, 1).contiguous()


def as_class_numbers(labels: LabelsLike, device: torch.device | str | None = None) -> Tensor:
    """Return ``labels`` as an int64 tensor on ``device`` (None: where it is).

    Raises:
        OptionError: ``labels`` are not whole numbers.

    Example:
        >>> as_class_numbers([3, 1])
        tensor([3, 1])
    """
    if isinstance(labels, Tensor):
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise OptionError(
                f"labels of {labels.dtype}",
                "whole numbers are needed",
                "give one class number an image; argmax(1) of one-hot labels",
            )
        return labels.detach().to(device=device or labels.device, dtype=torch.int64)
    array = np.asarray(labels)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise OptionError(
            f"labels of {array.dtype}", "whole numbers are needed", "give one class number an image"
        )
    return torch.from_numpy(array.astype(np.int64)).to(device)


def channels_come_last(shape: Sequence[int], *, is_tensor: bool) -> bool:
    """Return whether a picture of this shape has its channels last, as arrays have.

    Args:
        shape: Sizes (h, w, c) or (c, h, w).
        is_tensor: Whether a tensor of torch holds it, which has its channels first unless the sizes
            speak against it: four or fewer at its begin may be channels, as of tables with sides of
            1.

    Example:
        >>> [channels_come_last(s, is_tensor=True) for s in ((8, 8, 3), (3, 8, 8), (2, 8, 3))]
        [True, False, False]
    """
    if len(shape) != 3 or shape[2] not in (1, 3) or shape[0] in (1, 3):
        return False
    return not is_tensor or min(shape[:2]) > 4


def as_unit_images(images: ImagesLike) -> Tensor:
    """Return pictures as (b, c, h, w) floats in [0, 1]: 8 bit is divided by 255, numpy's channels
    last come first.

    Args:
        images: (b, c, h, w) or (b, h, w, c) or (b, h, w), floats in [0, 1] or uint8. Of a tensor,
            channels last are known by sides over 4 before them.

    Returns:
        A float tensor (b, c, h, w).

    Raises:
        ImageError: another number of axes, another dtype, or values outside [0, 1].

    Example:
        >>> as_unit_images(np.full((2, 8, 8, 3), 255, np.uint8)).shape
        torch.Size([2, 3, 8, 8])
    """
    pictures = as_float_images(images).detach()
    pictures = pictures[:, None] if pictures.ndim == 3 else pictures
    if pictures.ndim != 4:
        raise ImageError(
            f"images of shape {tuple(pictures.shape)}",
            "(b, c, h, w) or (b, h, w, c) is needed",
            "stack single images along a first axis",
        )
    if channels_come_last(pictures.shape[1:], is_tensor=isinstance(images, Tensor)):
        pictures = pictures.movedim(-1, 1).contiguous()

    if pictures.dtype == torch.uint8:
        return pictures.float() / 255
    if not pictures.is_floating_point():
        raise ImageError(
            f"images of {pictures.dtype}", "floats in [0, 1] or uint8 are needed", "convert them"
        )
    if len(pictures) and not (float(pictures.min()) >= 0 and float(pictures.max()) <= 1):
        low, high = float(pictures.min()), float(pictures.max())
        raise ImageError(
            f"images in [{low:.3g}, {high:.3g}]",
            "[0, 1] is needed",
            "undo the normalization and let the model own it (as_model with mean and std)",
        )
    return pictures
