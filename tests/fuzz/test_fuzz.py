"""Every reader of foreign input, with mutated inputs: an error of the toolkit, or a value."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fuzz.harness import CORPUS, Tally, fuzz, read_one, run_batch
from fuzz.mutations import mutate_bytes
from fuzz.readers import READERS, Reader

from physadv.core.errors import DataError

_SEED = int(os.environ.get("PHYSADV_FUZZ_SEED", "14"))
_KEPT = sorted(file for file in CORPUS.glob("*/*") if file.is_file())


def _run(count: int, first: int = 0) -> None:
    faults = []
    for _, tally in fuzz(READERS, seed=_SEED, count=count, first=first):
        assert tally.inputs
        faults += tally.faults
    assert not faults, f"seed {_SEED}: {faults[:10]}"


def test_mutated_inputs_of_every_reader() -> None:
    """A few thousand inputs; `make fuzz` goes on for an hour, and prints its seed."""
    _run(2500)


@pytest.mark.slow
def test_more_mutated_inputs_of_every_reader() -> None:
    """The same for about five minutes, with other inputs."""
    _run(40_000, first=2500)


@pytest.mark.parametrize("file", _KEPT, ids=lambda file: f"{file.parent.name}-{file.name[:6]}")
def test_inputs_that_once_failed(file: Path) -> None:
    """Each input that the harness once found ends as it should."""
    names = {name.replace("/", "_").replace(" ", "-"): name for name in READERS}
    outcome, detail = read_one(READERS[names[file.parent.name]], file.read_bytes())
    assert outcome in ("accepted", "refused"), detail


def _odd(folder: Path, data: bytes) -> object:
    """Reader that fails in another way by the first byte of its input."""
    kind = data[0] if data else 0
    if kind == 1:
        raise ValueError("foreign")
    if kind == 2:
        os.abort()
    if kind == 3:
        return bytearray(3 << 30)
    if kind == 4:
        end = time.process_time() + 30
        while time.process_time() < end:
            pass
    if kind == 5:
        raise DataError("refused")
    return None


@pytest.mark.parametrize(
    ("first", "kinds"),
    [(0, []), (1, ["foreign"]), (2, ["death"]), (3, ["memory"]), (4, ["slow"]), (5, [])],
)
def test_the_harness_sees_each_kind_of_fault(first: int, kinds: list[str]) -> None:
    """A foreign exception, a death, too much memory and too much time are told apart."""
    reader = Reader(_odd, lambda: [bytes([first])], mutate_bytes)
    tally = Tally()
    faults = list(run_batch("odd", reader, 0, range(1), tally))
    assert [fault.kind for fault in faults] == kinds
    assert all(fault.number == 0 for fault in faults)


def test_a_death_does_not_end_the_batch() -> None:
    """The inputs after one that kills its child are read as well."""
    reader = Reader(_odd, lambda: [b"\x02", b"\x00", b"\x01"], mutate_bytes)
    faults = list(run_batch("odd", reader, 0, range(3), Tally()))
    assert [(fault.number, fault.kind) for fault in faults] == [(0, "death"), (2, "foreign")]
