"""Work in parts where memory does not hold it at once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from physadv.core.errors import is_out_of_memory

_Part = TypeVar("_Part")


@dataclass
class MemoryLimit:
    """How many items memory was seen to hold at once; learned, and kept for the work that follows.

    Attributes:
        most: Largest number of items tried at once from here on; None for any.
        first_failed: Number of items at which memory ran out first; None where it never did.
    """

    most: int | None = None
    first_failed: int | None = None

    def run(self, count: int, part: Callable[[int, int], _Part]) -> list[_Part]:
        """Do ``count`` items at once, or in parts where memory runs out: half as many each time.

        Args:
            count: Number of items.
            part: Function of the first item and the one after the last, whose result does not
                depend on how the items are divided.

        Returns:
            The results of the parts, in order.

        Raises:
            Exception: What ``part`` raises; of memory, where one item alone does not fit.

        Example:
            >>> def picky(first, last):
            ...     if last - first > 2:
            ...         raise MemoryError
            ...     return list(range(first, last))
            >>> limit = MemoryLimit()
            >>> limit.run(5, picky), limit.most, limit.first_failed
            ([[0, 1], [2, 3], [4]], 2, 5)
        """
        results: list[_Part] = []
        first = 0
        while first < count:
            size = min(count - first, self.most or count)
            ran_out = False
            try:
                results.append(part(first, first + size))
            except Exception as error:  # memory's errors come from torch, numpy and Python itself
                if size == 1 or not is_out_of_memory(error):
                    raise
                ran_out = True
            # After the handler, where the error no longer holds what filled the memory.
            if ran_out:
                self.halve(size)
                continue
            first += size
        return results

    def halve(self, size: int) -> None:
        """Take half of ``size`` items at most from here on: memory ran out at so many. Give back
        what torch keeps of it."""
        self.first_failed = self.first_failed or size
        self.most = max(1, size // 2)
        _free_cached_memory()

    def in_words(self) -> str:
        """Return what happened, for people; empty where memory always held all."""
        if self.first_failed is None:
            return ""
        return (
            f"memory ran out at {self.first_failed} images at once; at most {self.most} were "
            "taken from there on, with the same result"
        )


def _free_cached_memory() -> None:
    """Give back what torch keeps of a device's memory for later."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    for device in ("cuda", "mps", "xpu"):
        backend = getattr(torch, device, None)
        if backend is not None and backend.is_available() and hasattr(backend, "empty_cache"):
            backend.empty_cache()
