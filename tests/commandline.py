"""The command as a user types it: a real process in a folder, with the checkout importable."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
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


def torchrun(processes: int, *options: str) -> list[str]:
    """The command line that starts so many processes; the program or ``-m`` and a module follow."""
    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return [sys.executable, *start, *options]


def run_in_two(program: str, file: Path, *words: object, imports: Path) -> None:
    """Write ``program`` to ``file`` and run it in two processes, which find the modules beside the
    test file ``imports``; the test fails with what they print where one of them does."""
    file.write_text(program, encoding="utf-8")
    known = environment()
    roots = [known["PYTHONPATH"], str(imports.parent), str(imports.parent.parent)]
    done = subprocess.run(
        [*torchrun(2), str(file), *map(str, words)],
        env={**known, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr  # whole: torchrun's own words end it


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


class _TakenError(Exception):
    """Raised where the work of a command would begin."""


def assert_taken_whole(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that a command line is accepted up to the work itself: its options, its values and the
    configuration made of them. Files that it names need not be here."""
    from typer.testing import CliRunner

    from physadv_cli.main import app
    from physadv_cli.runs import RunOptions

    def stop(self: RunOptions) -> None:
        raise _TakenError

    monkeypatch.setattr(RunOptions, "begin", stop)
    words = shlex.split(line, comments=True)[1:]
    numbers = {"$SLURM_ARRAY_TASK_ID/8": "1/8", "$((JOB_COMPLETION_INDEX + 1))/8": "1/8"}
    done = CliRunner().invoke(app, [numbers.get(word, word) for word in words])
    absent = re.search(r"no such (file|folder)|does not exist", str(done.exception))
    asks = {"--help", "-h", "--version", "--install-completion"} & set(words)
    taken = isinstance(done.exception, _TakenError) or absent or (asks and done.exit_code == 0)
    assert taken, f"{line}\n{done.output}{done.exception}"
