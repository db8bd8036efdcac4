"""sRGB curve, its inverse, and blending in linear light."""

from __future__ import annotations

from collections.abc import Callable

from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor


def srgb_to_linear(image: Tensor) -> Tensor:
    """Return the linear light of an sRGB-encoded ``image``, both in [0, 1] (IEC 61966-2-1).

    The arithmetic is kornia's; it wants (..., 3, h, w), this function takes any shape.

    Example:
        >>> import torch
        >>> round(float(srgb_to_linear(torch.tensor(0.5))), 4)
        0.214
    """
    return _as_picture(rgb_to_linear_rgb, image)


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Return ``linear`` light sRGB-encoded; the inverse of :func:`srgb_to_linear`.

    Example:
        >>> import torch
        >>> round(float(linear_to_srgb(torch.tensor(0.214))), 3)
        0.5
    """
    return _as_picture(linear_rgb_to_rgb, linear)


def _as_picture(operation: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Apply a pointwise operation that insists on three channels."""
    if values.dim() >= 3 and values.shape[-3] == 3:
        return operation(values)
    return operation(values.reshape(1, -1, 1).expand(3, -1, 1))[0].reshape(values.shape)


def blend_over(background: Tensor, premultiplied: Tensor, alpha: Tensor) -> Tensor:
    """Lay premultiplied light over a background; alpha is applied once.

    Args:
        background: (b, 3, h, w) linear light.
        premultiplied: (b, 3, h, w) linear light times its alpha.
        alpha: (b, 1, h, w) in [0, 1].

    Returns:
        (b, 3, h, w) linear light.
    """
    return premultiplied + (1 - alpha) * background
