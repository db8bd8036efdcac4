"""Temporary limit of torch's CPU threads, so that small networks are not slowed down by them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


def cores_beside(busy: int) -> int:
    """Return how many CPU cores this process may use beside ``busy`` of them, at least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (usable or 1) - busy)


@contextlib.contextmanager
def calm_threads(threads: int = 1) -> Iterator[None]:
    """Limit torch to ``threads`` CPU threads and flush denormal numbers while the block runs;
    both are restored afterwards.

    A small network on more threads than there are free cores was measured fifty times slower, and
    so was one that computes with denormals.
    """
    before, flushed = torch.get_num_threads(), _flushes_denormals()
    torch.set_num_threads(max(1, min(threads or before, os.cpu_count() or 1)))
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(flushed)


def _flushes_denormals() -> bool:
    return bool((torch.full((1,), 1e-38) * 0.5 == 0).all())
