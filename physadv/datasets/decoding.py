"""Decoding of images by several threads, ahead of the batch that needs them.

Pillow and zlib release Python's lock while they decode, so that threads suffice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

MOST_WORKERS = 8
"""Most threads that decode."""


class Decoder:
    """Threads that decode images by their number; what is begun ahead waits for its batch.

    Args:
        workers: Number of threads; None for that of the cores, at most 8.

    Example:
        >>> decoder = Decoder(2)
        >>> decoder.begin(str, [3, 4])
        >>> decoder.take(str, [4, 5])
        ['4', '5']
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or min(MOST_WORKERS, os.cpu_count() or 1)
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[Any]] = {}

    def begin(self, read: Callable[[int], Any], numbers: Sequence[int]) -> None:
        """Begin to decode images, beside those that were begun and not taken yet.

        Args:
            read: Returns an image by its number.
            numbers: Numbers of the images.
        """
        for number in numbers:
            if number not in self._ahead:
                self._ahead[number] = self._threads().submit(read, number)

    def take(self, read: Callable[[int], Any], numbers: Sequence[int]) -> list[Any]:
        """Return images in the order of ``numbers``; an error of ``read`` is raised here.

        Args:
            read: Returns an image by its number.
            numbers: Numbers of the images.
        """
        futures = [self._ahead.pop(n, None) for n in numbers]
        if not any(futures) and len(numbers) == 1:
            return [read(numbers[0])]
        started = [
            future or self._threads().submit(read, number)
            for future, number in zip(futures, numbers, strict=True)
        ]
        return [future.result() for future in started]

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        return self._pool

    def __deepcopy__(self, memo: dict[int, Any]) -> Decoder:
        """Return a fresh one: threads cannot be copied."""
        return Decoder(self.workers)

    def __reduce__(self) -> tuple[type[Decoder], tuple[int]]:
        return Decoder, (self.workers,)
