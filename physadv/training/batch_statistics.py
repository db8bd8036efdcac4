"""Statistics of batch normalization over the images of several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from physadv.core.process_group import ProcessGroup


def batch_moments(x: Tensor, processes: ProcessGroup) -> tuple[Tensor, Tensor, float]:
    """Return mean and variance of each channel of a batch that processes share.

    Args:
        x: Values (b, c, ...) of this process's images, in float32 or float64.
        processes: Processes that share the batch, with any number of images each.

    Returns:
        Mean (c,), biased variance (c,), and the number of values of a channel, all of the whole
        batch: the same in each process, with gradients that reach the values of all.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    variance, mean = torch.var_mean(x, axes, correction=0)
    count = x.numel() / x.shape[1]
    if processes.count == 1:
        return mean, variance, count

    # Moments of each process in a row of its own: sums of squares would cancel.
    own = torch.cat([mean, variance, mean.new_tensor([count])])
    before, after = processes.rank, processes.count - 1 - processes.rank
    rows = processes.total(F.pad(own[None], (0, 0, before, after)))
    means, variances, counts = torch.split(rows, [len(mean), len(mean), 1], 1)

    total = counts.sum()
    weights = counts / total
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean).square())).sum(0)
    return mean, variance, float(total)


@contextmanager
def synchronized_batch_norm(processes: ProcessGroup) -> Iterator[None]:
    """Let batch normalization in train mode use the statistics of all ``processes``.

    It holds for every :func:`torch.nn.functional.batch_norm` within, on any device and backend, so
    that no module is replaced. All processes must make the same passes in the same order.
    """
    if processes.count == 1:
        yield
        return
    with _SynchronizedBatchNorm(processes):
        yield


class _SynchronizedBatchNorm(TorchFunctionMode):
    def __init__(self, processes: ProcessGroup) -> None:
        super().__init__()
        self.processes = processes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,  # noqa: A002 - torch's name, which callers may use
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Normalize as :func:`torch.nn.functional.batch_norm`, by what all processes have."""
        if not training:
            stored = (running_mean, running_var, weight, bias)
            return F.batch_norm(input, *stored, training, momentum, eps)

        x = input if input.dtype == torch.float64 else input.float()
        mean, variance, count = batch_moments(x, self.processes)
        if running_mean is not None and running_var is not None:
            update_running_moments(running_mean, running_var, mean, variance, count, momentum)
        scale = torch.rsqrt(variance + eps)
        if weight is not None:
            scale = scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        channels = (1, -1, *[1] * (x.ndim - 2))
        return (x * scale.view(channels) + shift.view(channels)).to(input.dtype)


@torch.no_grad()
def update_running_moments(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: float,
    momentum: float,
) -> None:
    """Move running statistics towards those of a batch, in place, as torch does.

    Args:
        running_mean: Running mean (c,).
        running_var: Running unbiased variance (c,).
        mean: Mean (c,) of the batch.
        variance: Biased variance (c,) of the batch.
        count: Number of values of a channel in the batch.
        momentum: Weight of the batch, in [0, 1].
    """
    running_mean.lerp_(mean.to(running_mean), momentum)
    unbiased = variance * (count / max(count - 1, 1))
    running_var.lerp_(unbiased.to(running_var), momentum)


__all__ = ["batch_moments", "synchronized_batch_norm", "update_running_moments"]
