"""Step directions: gradients normalized to length 1 in a norm, whatever their scale."""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.threat.norms import Norm


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Return ``values`` (b,) shaped to multiply a batch of the shape of ``like`` (b, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def scale_by_largest(grad: Tensor) -> Tensor:
    """Divide each sample's gradient ``grad`` (b, ...) by its largest magnitude.

    The result is safe to square. Gradients that are zero stay zero.
    """
    largest = grad.abs().flatten(1).amax(1) if grad.shape[1:].numel() else grad.flatten(1).sum(1)
    return grad / per_sample(torch.where(largest > 0, largest, torch.ones_like(largest)), grad)


def unit_direction(grad: Tensor, norm: Norm) -> Tensor:
    """Return ``grad`` (b, ...) scaled to length 1 in ``norm``.

    In l_inf that is its sign. In l_1 and l_2 the gradient is divided by its length; the steepest
    direction in l_1 is :func:`sparse_direction`.
    """
    if norm == "linf":
        return grad.sign()

    # Scaled to 1 first, and in float32 at least: squares of small gradients would underflow.
    scaled = scale_by_largest(grad)
    scaled = scaled if scaled.dtype == torch.float64 else scaled.float()
    if norm == "l1":
        length = scaled.abs().flatten(1).sum(1)
    else:
        length = scaled.square().flatten(1).sum(1).sqrt()
    nonzero_length = torch.where(length > 0, length, torch.ones_like(length))
    return (scaled / per_sample(nonzero_length, grad)).to(grad.dtype)


def sparse_direction(grad: Tensor, x: Tensor, share: float | Tensor) -> Tensor:
    """Return a direction of l_1 length 1: equal steps on the elements with the largest gradient.

    Elements at an end of [0, 1] that a step down the gradient would push out are passed over
    (Croce & Hein 2021).

    Args:
        grad: Gradients (b, ...).
        x: Images (b, ...) in [0, 1] that the step starts from.
        share: Share of the elements to change, one number or one for each sample (b,). At least
            one element changes.

    Returns:
        Directions (b, ...) with the sign of the gradient.
    """
    blocked = ((x <= 0) & (grad > 0)) | ((x >= 1) & (grad < 0))
    magnitude = torch.where(blocked, 0, grad.abs()).flatten(1)
    n = magnitude.shape[1]
    if isinstance(share, Tensor):
        shares = share
    else:
        shares = torch.full((len(magnitude),), share, device=magnitude.device)
    count = (shares * n).round().long().clamp(1, n)

    # The counts differ between samples: the smallest chosen magnitude of each is its threshold.
    largest = magnitude.topk(int(count.max()) if len(count) else 1, 1).values
    threshold = largest.gather(1, count[:, None] - 1)
    chosen = (magnitude >= threshold) & (magnitude > 0)
    weight = chosen.to(grad.dtype) / chosen.sum(1, keepdim=True).clamp_min(1)
    return torch.empty_like(grad).copy_(weight.view(grad.shape)) * grad.sign()
