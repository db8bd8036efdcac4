"""Directions of steps: the gradient, made a step of length 1 in a norm, whatever its scale."""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.threat.norms import Norm


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """One value a sample (b,) shaped to multiply images like ``like`` (b, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def scale_by_largest(grad: Tensor) -> Tensor:
    """Each sample's gradient divided by its largest magnitude: safe to square, zero where it is
    zero."""
    top = grad.abs().flatten(1).amax(1) if grad.shape[1:].numel() else grad.flatten(1).sum(1)
    return grad / per_sample(torch.where(top > 0, top, torch.ones_like(top)), grad)


def unit_direction(grad: Tensor, norm: Norm) -> Tensor:
    """Steepest direction of length 1: the sign in l_inf, the normalized gradient in l_2; l_1 see
    :func:`sparse_direction`."""
    if norm == "linf":
        return grad.sign()
    scaled = scale_by_largest(grad)
    scaled = scaled if scaled.dtype == torch.float64 else scaled.float()
    length = (scaled.abs() if norm == "l1" else scaled.square()).flatten(1).sum(1)
    length = length if norm == "l1" else length.sqrt()
    return (scaled / per_sample(torch.where(length > 0, length, torch.ones_like(length)), grad)).to(
        grad.dtype
    )


def sparse_direction(grad: Tensor, x: Tensor, share: float | Tensor) -> Tensor:
    """An l_1 direction of length 1: equal steps of the gradient's sign on its largest elements.

    ``share`` (a number or one a sample) is the part of the elements taken, at least one. Elements
    at an end of [0, 1] that a step down ``grad`` would push out are passed over (Croce & Hein
    2021).
    """
    blocked = ((x <= 0) & (grad > 0)) | ((x >= 1) & (grad < 0))
    size = torch.where(blocked, 0, grad.abs()).flatten(1)
    n = size.shape[1]
    shares = (
        share if isinstance(share, Tensor) else torch.full((len(size),), share, device=size.device)
    )
    count = (shares * n).round().long().clamp(1, n)
    least = size.topk(int(count.max()) if len(count) else 1, 1).values.gather(1, count[:, None] - 1)
    chosen = (size >= least) & (size > 0)
    weight = chosen.to(grad.dtype) / chosen.sum(1, keepdim=True).clamp_min(1)
    return torch.empty_like(grad).copy_(weight.view(grad.shape)) * grad.sign()
