"""The readers of foreign input, each with seeds, a mutation, and a call that reads one input.

A call gets an empty folder and the bytes of the input. It may raise an error of
``physadv.core.errors``; anything else is a fault. The modules imported here register them, a
family each.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fuzz import (  # noqa: F401 - each registers its readers
    array_readers,
    camera_readers,
    data_set_readers,
    decoder_readers,
    label_readers,
    model_readers,
    picture_readers,
    record_readers,
    run_readers,
    table_readers,
    word_readers,
)
from fuzz.reader_kit import READERS, Reader

__all__ = ["READERS", "Reader", "chosen", "scratch"]


def chosen(names: str) -> dict[str, Reader]:
    """Return the readers whose names hold one of the words, separated by commas; all without."""
    words = [word for word in names.split(",") if word]
    return {n: r for n, r in READERS.items() if not words or any(word in n for word in words)}


def scratch() -> Path:
    """Return a new folder in memory where there is one."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="physadv-fuzz-", dir=place))
