"""Files of CIFAR's binary version, made of random pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_cifar(
    folder: Path, name: str, labels: list[int], *, coarse: bool = False
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Write one file of records; returns its images (n, 32, 32, 3)."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(len(labels))
    pixels = draws.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    heads = [[0, label] if coarse else [label] for label in labels]
    rows = np.hstack([np.array(heads, np.uint8), pixels.reshape(len(labels), -1)])
    (folder / name).write_bytes(rows.tobytes())
    return pixels.transpose(0, 2, 3, 1)
