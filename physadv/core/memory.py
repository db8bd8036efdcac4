"""Memory of the process: kept for the next large arrays, or handed back before a lot is taken."""

from __future__ import annotations

import ctypes
import os
import sys

# Of malloc.h. The largest value that mallopt takes is that of a C int.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_ARRAY, _KEPT_FREE = 256 << 20, (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Keep freed memory for the next large arrays where the C library can; return whether it does.

    glibc takes every array over 32 MB from the system and hands it back when it is freed, so each
    pass of a network waits for new pages: 104 ms an image of a ResNet's gradient at 160x160, and
    56 with this setting. The process holds on to what it once took, up to 2 GB. It concerns the
    whole process, so that a command makes it and the library does not; the user's own settings of
    the allocator (``MALLOC_*``, ``GLIBC_TUNABLES``) stand. Where the address space is limited
    (``ulimit -v``) nothing is kept: what is refused there must leave room for everything else.
    """
    own = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or own or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    import resource  # there is none on Windows

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _KEPT_ARRAY), (_TRIM_THRESHOLD, _KEPT_FREE))
    return all(mallopt(name, value) == 1 for name, value in settings)


def release_memory() -> None:
    """Return freed memory to the system where the C library can; elsewhere do nothing.

    glibc keeps pages between blocks in use, after an optimization a hundred megabytes of them.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
