"""Randomness comes from a named seed: a seed and a path of names give one CPU generator,
independent of all others."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *path: str | int) -> int:
    """The 63-bit seed of the stream named by ``path`` under ``seed``."""
    text = "/".join([str(int(seed)), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU ``torch.Generator`` for the stream named by ``path``; the global RNG is neither read
    nor moved.

    torch's CPU generator keeps 32 bits of a seed: two of n streams coincide with a chance of about
    n^2 / 2^33.
    """
    return torch.Generator().manual_seed(derive(seed, *path))


def numpy_generator(seed: int, *path: str | int) -> np.random.Generator:
    """The same for numpy, for the twin and for the readers of data sets."""
    return np.random.default_rng(derive(seed, *path))
