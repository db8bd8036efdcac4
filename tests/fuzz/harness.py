"""Run many mutated inputs through every reader, in child processes with limits.

    python tests/fuzz/harness.py --count 20000 --seed 7 --readers toml,svg --corpus /tmp/found

A child reads a batch of inputs with a limit of its memory and of its processor time for each; when
it dies, its parent knows the input, keeps it, and goes on with the next. Inputs are made of the
seed, the reader's name and their number alone, so that each can be made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cli"))

from fuzz.mutations import mutate_bytes  # noqa: E402
from fuzz.readers import Reader, chosen, scratch  # noqa: E402

from physadv.core.errors import PhysadvError  # noqa: E402

MOST_BYTES = 2 << 30
MOST_SECONDS = 5.0
_SILENT_SECONDS = 120.0
_BATCH = 400
CORPUS = Path(__file__).resolve().parent / "corpus"


class _TooSlow(BaseException):
    """An input took more processor time than is allowed."""


@dataclass
class Fault:
    """One input that ended in anything but a value or an error of the toolkit.

    Attributes:
        reader: Name of the reader.
        number: Number of the input.
        kind: "foreign", "memory", "slow" or "death".
        detail: What was raised, and where.
    """

    reader: str
    number: int
    kind: str
    detail: str


@dataclass
class Tally:
    """Counts of one reader.

    Attributes:
        inputs: Inputs that were read.
        accepted: Those that gave a value.
        faults: Those that ended in a fault.
        slowest_s: Processor time of the slowest input in seconds.
        peak_bytes: Largest memory of a child beyond that of its parent.
    """

    inputs: int = 0
    accepted: int = 0
    faults: list[Fault] = field(default_factory=list)
    slowest_s: float = 0.0
    peak_bytes: int = 0


def input_of(name: str, reader: Reader, seed: int, number: int) -> bytes:
    """Return the input of a reader with a number: the first ones are the seeds themselves."""
    seeds = reader.seeds()
    if number < len(seeds):
        return seeds[number]
    random = Random(f"{seed}/{name}/{number}")
    try:
        return reader.mutate(random, seeds)
    except Exception:  # a seed that is none of its format, a mutation of a mutation's excess
        return mutate_bytes(random, seeds)


def read_one(reader: Reader, data: bytes) -> tuple[str, str]:
    """Read one input within the limit of time.

    Returns:
        "accepted" or "refused", or the kind of fault, and its detail.
    """
    folder = scratch()
    start = time.process_time()
    signal.signal(signal.SIGPROF, _raise_too_slow)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.call(folder, data)
        outcome = ("accepted", "")
    except PhysadvError:
        outcome = ("refused", "")
    except MemoryError as error:
        outcome = ("memory", _where(error))
    except _TooSlow as error:
        outcome = ("slow", _where(error))
    except BaseException as error:
        kind = "memory" if "llocate" in str(error) else "foreign"
        outcome = (kind, f"{type(error).__name__}: {str(error)[:120]} at {_where(error)}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        shutil.rmtree(folder, ignore_errors=True)
    if time.process_time() - start > MOST_SECONDS and outcome[0] in ("accepted", "refused"):
        outcome = ("slow", f"{time.process_time() - start:.1f} s")
    return outcome


def run_batch(
    name: str, reader: Reader, seed: int, numbers: range, tally: Tally
) -> Iterator[Fault]:
    """Read inputs in a child process, and in further ones where one dies; yield the faults."""
    done = numbers.start
    while done < numbers.stop:
        shared = mmap.mmap(-1, 64)  # number in work, accepted, slowest in us
        shared[:32] = struct.pack("<QQQQ", done, 0, 0, 0)
        pipe_out, pipe_in = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(pipe_out)
            try:
                _work(name, reader, seed, range(done, numbers.stop), shared, pipe_in)
            finally:  # whatever was raised, a child does not go on as a second caller
                os._exit(1)
        os.close(pipe_in)
        status, usage, records = _wait(child, pipe_out, shared)
        at, accepted, slowest, base = struct.unpack("<QQQQ", shared[:32])
        tally.accepted += accepted
        tally.slowest_s = max(tally.slowest_s, slowest / 1e6)
        tally.peak_bytes = max(tally.peak_bytes, usage.ru_maxrss * 1024 - base)
        yield from (Fault(name, r["number"], r["kind"], r["detail"]) for r in records)
        if status == 0:
            return
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {status >> 8}"
        yield Fault(name, at, "death", how)
        done = at + 1


def _work(
    name: str, reader: Reader, seed: int, numbers: range, shared: mmap.mmap, pipe: int
) -> None:
    """Read the inputs in this child, and end it."""
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, size + MOST_BYTES))
    accepted = slowest = 0
    for number in numbers:
        shared[:32] = struct.pack("<QQQQ", number, accepted, slowest, resident)
        data = input_of(name, reader, seed, number)
        start = time.process_time()
        kind, detail = read_one(reader, data)
        slowest = max(slowest, int((time.process_time() - start) * 1e6))
        if kind == "accepted":
            accepted += 1
        elif kind != "refused":
            record = {"number": number, "kind": kind, "detail": detail}
            os.write(pipe, json.dumps(record).encode() + b"\n")
    shared[:32] = struct.pack("<QQQQ", numbers.stop, accepted, slowest, resident)
    os._exit(0)


def _wait(
    child: int, pipe: int, shared: mmap.mmap
) -> tuple[int, resource.struct_rusage, list[dict[str, object]]]:
    """Wait for a child, and kill it where it is silent for long."""
    os.set_blocking(pipe, False)
    written, last, since = b"", shared[:8], time.monotonic()
    while True:
        try:
            while piece := os.read(pipe, 1 << 16):
                written += piece
        except BlockingIOError:
            pass
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if shared[:8] != last:
            last, since = shared[:8], time.monotonic()
        elif time.monotonic() - since > _SILENT_SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    while True:
        try:
            piece = os.read(pipe, 1 << 16)
        except BlockingIOError:
            break
        if not piece:
            break
        written += piece
    os.close(pipe)
    return status, usage, [json.loads(line) for line in written.splitlines()]


def fuzz(
    readers: Mapping[str, Reader], *, seed: int, count: int, first: int = 0, minutes: float = 0.0
) -> Iterator[tuple[str, Tally]]:
    """Run ``count`` inputs through all readers together, in the relation of their shares.

    Args:
        readers: The readers by name.
        seed: Seed of the inputs.
        count: Number of inputs over all readers.
        first: Number of the first input of each reader.
        minutes: Longest time; 0 for no limit.

    Yields:
        Name and counts of each reader as it is done.
    """
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    shares = sum(reader.share for reader in readers.values())
    for place, (name, reader) in enumerate(readers.items()):
        reader.seeds()
        own = max(len(reader.seeds()) + 1, round(count * reader.share / shares))
        tally = Tally()
        # Each reader has its part of the time that is left.
        until = time.monotonic() + (end - time.monotonic()) / (len(readers) - place)
        for start in range(first, first + own, _BATCH):
            if time.monotonic() > until:
                break
            numbers = range(start, min(start + _BATCH, first + own))
            tally.faults += run_batch(name, reader, seed, numbers, tally)
            tally.inputs += len(numbers)
        yield name, tally


def keep(corpus: Path, reader: Reader, fault: Fault, seed: int) -> Path:
    """Save the input of a fault under the name of its reader."""
    data = input_of(fault.reader, reader, seed, fault.number)
    name = hashlib.sha256(data).hexdigest()[:12]
    file = corpus / fault.reader.replace("/", "_").replace(" ", "-") / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def _raise_too_slow(number: int, frame: object) -> None:
    raise _TooSlow


def _where(error: BaseException) -> str:
    """Return the innermost places of an error, this toolkit's first."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/physadv" in f.filename and "/tests/" not in f.filename]
    last = (own or frames)[-2:]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(last))


def _signature(fault: Fault) -> str:
    kind, _, place = fault.detail.rpartition(" at ")
    return f"{fault.reader}|{fault.kind}|{kind.split(':')[0]}|{place}"


def main() -> int:
    """Run the harness from the command line; 1 where it found a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="inputs over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--minutes", type=float, default=0.0, help="longest time; 0 for no limit")
    parser.add_argument("--readers", default="", help="words in the readers' names, with commas")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="where failing inputs are kept")
    parser.add_argument("--table", type=Path, help="write the counts as JSON lines")
    options = parser.parse_args()
    readers = chosen(options.readers)
    print(f"seed {options.seed}, inputs from {options.first}, {len(readers)} readers", flush=True)

    seen: Counter[str] = Counter()
    total = 0
    for name, tally in fuzz(
        readers,
        seed=options.seed,
        count=options.count,
        first=options.first,
        minutes=options.minutes,
    ):
        total += tally.inputs
        counts = f"{tally.inputs:8} inputs {tally.accepted:8} accepted {len(tally.faults):6} faults"
        print(
            f"{name:38} {counts} {tally.slowest_s:6.2f} s {tally.peak_bytes >> 20:5} MB", flush=True
        )
        for fault in tally.faults:
            seen[_signature(fault)] += 1
            if seen[_signature(fault)] <= 2:
                file = keep(options.corpus, readers[name], fault, options.seed)
                print(f"    {fault.kind} #{fault.number}: {fault.detail} -> {file}", flush=True)
        if options.table:
            kinds = Counter(fault.kind for fault in tally.faults)
            row = {"reader": name, "inputs": tally.inputs, "accepted": tally.accepted, **kinds}
            row |= {"slowest_s": tally.slowest_s, "peak_mb": tally.peak_bytes >> 20}
            with options.table.open("a") as stream:
                stream.write(json.dumps({**row, "seed": options.seed}) + "\n")
    print(f"{total} inputs, {sum(seen.values())} faults of {len(seen)} kinds")
    return 1 if seen else 0


if __name__ == "__main__":
    sys.exit(main())
