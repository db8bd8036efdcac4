"""Settings of torch for a command, made once at its start."""

from __future__ import annotations

import os


def prepare_torch(threads: int = 0) -> None:
    """Flush denormals and use ``threads`` CPU threads, or as many as torch chooses where 0.

    Denormal numbers slow small networks down many times over. Freed memory is kept for the next
    pass, since fresh pages take up to half of one on large images. Of the processes that torchrun
    starts on a machine with several GPUs, each takes the one of its own number.
    """
    import torch

    from physadv.core.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
    if "LOCAL_RANK" in os.environ and torch.cuda.device_count() > 1:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
