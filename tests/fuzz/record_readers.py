"""Fuzzed readers of whole run folders, of which one record is mutated.

An input is the record's name, a line end, and its content; the other files of the run lie beside it
as they were written.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from fuzz import mutations
from fuzz.picture_readers import png_bytes
from fuzz.reader_kit import SEEDS, Call, registered, written

from physadv.core.errors import PhysadvError

_RUNS = SEEDS / "run-folders"
_SHARES = {"attack": 0.2, "certify": 0.2, "train": 0.2, "study-masked": 0.1, "cloak-check": 0.1}


def _records(kind: str) -> Callable[[], Sequence[bytes]]:
    folder = _RUNS / kind
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return lambda: [f"{f.relative_to(folder)}\n".encode() + f.read_bytes() for f in files]


def _mutate(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Mutate the content of one record; its name stays."""
    name, _, content = random.choice(seeds).partition(b"\n")
    of_kind = mutations.mutate_toml if name.endswith(b".toml") else mutations.mutate_json
    return name + b"\n" + of_kind(random, [content])


def _put(folder: Path, kind: str, data: bytes) -> Path:
    """A run's folder with the record of an input; a name that is none of its records changes
    nothing."""
    run = shutil.copytree(_RUNS / kind, folder / "runs" / kind)
    examples = run / "examples" / "examples.jsonl"
    if examples.is_file():
        for line in examples.read_text().splitlines():
            number = json.loads(line)["index"]
            for part in ("clean", "adversarial", "change"):
                written(run, f"examples/{number}-{part}.png", png_bytes())
    name, _, content = data.partition(b"\n")
    if name.decode("latin-1") in {str(f.relative_to(_RUNS / kind)) for f in run_files(kind)}:
        (run / name.decode("latin-1")).write_bytes(content)
    return run


def run_files(kind: str) -> list[Path]:
    """The records of a run among the seeds."""
    return [file for file in (_RUNS / kind).rglob("*") if file.is_file()]


def _read_run(kind: str) -> Call:
    def call(folder: Path, data: bytes) -> object:
        """List, compare and merge the run, and report it; each may refuse it."""
        from physadv.evaluation.merge_runs import merge_runs
        from physadv.report.rebuild import rebuild_report
        from physadv.report.run_comparison import compare_runs, read_figures
        from physadv.report.run_list import list_runs

        run = _put(folder, kind, data)
        listed = list_runs(run.parent)
        with contextlib.suppress(PhysadvError):
            compare_runs(read_figures(_RUNS / kind), read_figures(run))
        with contextlib.suppress(PhysadvError):
            merge_runs([run], folder / "merged")
        return listed, rebuild_report(run)

    return call


for _kind, _share in _SHARES.items():
    registered(f"run of {_kind}", _records(_kind), _mutate, _share)(_read_run(_kind))
