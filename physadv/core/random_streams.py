"""Named random streams: a seed and a path of names give one independent CPU generator."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch

from physadv.core.number_checks import check_whole


def derive(seed: int, *path: str | int) -> int:
    """Return the 63-bit seed of the stream named by ``path`` under ``seed``."""
    text = "/".join([str(int(seed)), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator of torch for the stream named by ``path`` under ``seed``, on the CPU or
    another ``device``, whose numbers are others.

    The global generator is neither read nor advanced. torch keeps 32 bits of a seed: two of n
    streams coincide with a probability of about n^2 / 2^33.

    Example:
        >>> first, again = (torch.rand(1, generator=generator(0, "noise", 3)) for _ in range(2))
        >>> bool(first == again)
        True
    """
    return torch.Generator(device).manual_seed(derive(seed, *path))


def drawn_positions(count: int, limit: int | None, seed: int) -> npt.NDArray[np.int64]:
    """Return which of ``count`` items a limit leaves, drawn at random, in ascending order.

    Args:
        count: Number of items.
        limit: Number to draw, at least 1; None, or no fewer than ``count``, for all.
        seed: Seed of the draw.

    Raises:
        OptionError: ``limit`` is no whole number of at least 1.

    Example:
        >>> drawn_positions(100, 3, seed=0).size, drawn_positions(3, None, seed=0).tolist()
        (3, [0, 1, 2])
    """
    check_whole(limit=limit)
    order = numpy_generator(seed, "limit").permutation(count)
    return np.sort(order[:limit])


def numpy_generator(seed: int, *path: str | int) -> np.random.Generator:
    """Return a generator of numpy for the stream named by ``path`` under ``seed``."""
    return np.random.default_rng(derive(seed, *path))
