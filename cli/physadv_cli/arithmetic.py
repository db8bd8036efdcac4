"""How this process computes: set once at the start of a command."""

from __future__ import annotations


def prepare_torch(threads: int = 0) -> None:
    """Flush denormals, which slow small nets down many times over, and take ``threads`` CPU threads
    where asked."""
    import torch

    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
