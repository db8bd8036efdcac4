"""The command as a user types it: a real process in a folder, with the checkout importable."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """One thread, and the checkout importable."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def physadv(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder``: in a process of its own, forked from one that has imported
    everything, which saves the seconds of a start."""
    from forked import shared_server

    done = shared_server().run(folder, *words)
    return subprocess.CompletedProcess(words, done.code, done.stdout, done.stderr)


def write_colors(
    folder: Path, *, count: int, side: int, values: tuple[int, int], lead: int
) -> None:
    """Class folders red, green and blue of noise in which each class leads, by ``lead`` more from
    image to image."""
    source = np.random.default_rng(0)
    for number, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = source.integers(*values, (side, side, 3), dtype=np.uint8)
            pixels[..., number] += 2 + lead * i
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
