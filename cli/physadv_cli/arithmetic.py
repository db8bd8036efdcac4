"""Settings of torch for a command, made once at its start."""

from __future__ import annotations


def prepare_torch(threads: int = 0) -> None:
    """Flush denormals and use ``threads`` CPU threads, or as many as torch chooses where 0.

    Denormal numbers slow small networks down many times over.
    """
    import torch

    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
