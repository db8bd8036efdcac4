"""Memory of the process, handed back to the system before a lot of it is taken."""

from __future__ import annotations

import ctypes
import sys


def release_memory() -> None:
    """Return freed memory to the system where the C library can; elsewhere do nothing.

    glibc keeps pages between blocks in use, after an optimization a hundred megabytes of them.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
