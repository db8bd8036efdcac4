"""Run inputs through every reader, guided by the code that they reach, where atheris is installed.

    python tests/fuzz/guided.py --minutes 60 --readers toml,svg

Each reader has a process of its own and its part of the time. Inputs that reach new code are kept
in memory and mutated on: half by the mutations of the reader, half by libFuzzer's. What ends in a
fault is kept in tests/fuzz/corpus, as by the harness, whose limits hold. Without atheris one line
says so and the harness runs in its place.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cli"))

try:
    import atheris
except ImportError:
    atheris = None

MOST_MEGABYTES = 4096
"""Most memory of a reader's process, with the packages that it imports."""


def main() -> int:
    """Run from the command line; 1 where a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="time of all readers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--readers", default="", help="words in the readers' names, with commas")
    parser.add_argument("--only", help="the one reader that this process runs")
    parser.add_argument("--corpus", type=Path, help="where failing inputs are kept")
    options = parser.parse_args()
    if atheris is None:
        return _unguided(options)
    if options.only:
        _run_reader(options)
    return _run_all(options)


def _unguided(options: argparse.Namespace) -> int:
    """Run the harness, which knows nothing of the code that inputs reach."""
    from fuzz import harness

    print("atheris is not installed: inputs are mutated without regard to what they reach")
    words = ["--count", "100000000", "--minutes", f"{options.minutes}", "--seed", f"{options.seed}"]
    words += ["--readers", options.readers]
    words += ["--corpus", f"{options.corpus}"] if options.corpus else []
    sys.argv[1:] = words
    return harness.main()


def _run_all(options: argparse.Namespace) -> int:
    """Run each reader in a process of its own, one after another."""
    from fuzz.harness import CORPUS
    from fuzz.readers import chosen

    names = list(chosen(options.readers))
    corpus = options.corpus or CORPUS
    end, failed = time.monotonic() + 60 * options.minutes, []
    print(f"seed {options.seed}, {len(names)} readers, guided by coverage", flush=True)
    for place, name in enumerate(names):
        minutes = max(end - time.monotonic(), 0) / 60 / (len(names) - place)
        command = [sys.executable, __file__, "--only", name, "--minutes", f"{minutes}"]
        command += ["--seed", f"{options.seed}", "--corpus", f"{corpus}"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        lines = [line for line in done.stderr.splitlines() if line.startswith(("#", "    "))]
        counts = next((line for line in reversed(lines) if "cov:" in line), "no input was read")
        faults = [line for line in lines if line.startswith("    fault ")]
        print(f"{name:38} {counts}", *faults, sep="\n" if faults else "", flush=True)
        if done.returncode or faults:
            failed.append(name)
        if done.returncode:
            print(f"    exit {done.returncode}: {done.stderr[-600:]}", flush=True)
    print(f"{len(names)} readers, {len(failed)} with faults: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _run_reader(options: argparse.Namespace) -> None:
    """Let libFuzzer run one reader until its time is over; this ends the process."""
    with atheris.instrument_imports(include=["physadv", "physadv_cli"]):
        from fuzz.harness import input_of, read_one
        from fuzz.readers import READERS

        # What a reader imports when it first runs is instrumented too.
        reader, seen = READERS[options.only], set[str]()
        for data in reader.seeds():
            read_one(reader, data)
    folder = options.corpus / options.only.replace("/", "_").replace(" ", "-")
    starts = Path(tempfile.mkdtemp(prefix="physadv-fuzz-seeds-"))
    for number in range(len(reader.seeds()) + 20):
        (starts / f"{number}").write_bytes(input_of(options.only, reader, options.seed, number))

    def read(data: bytes) -> None:
        kind, detail = read_one(reader, data)
        if kind in ("accepted", "refused") or detail in seen:
            return
        seen.add(detail)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / hashlib.sha256(data).hexdigest()[:12]
        file.write_bytes(data)
        os.write(2, f"    fault {kind}: {detail} -> {file}\n".encode())

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        try:
            if random.random() < 0.5:
                return reader.mutate(random, [data])[:most]
        except Exception:  # what is none of its format any more
            pass
        return atheris.Mutate(data, most)

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    words = [f"-max_total_time={max(1, round(60 * options.minutes))}", f"-seed={options.seed}"]
    words += [f"-rss_limit_mb={MOST_MEGABYTES}", "-timeout=60", "-max_len=1048576", "-reload=0"]
    folder.mkdir(parents=True, exist_ok=True)
    words += [f"-artifact_prefix={folder}/", "-verbosity=1", f"{starts}"]
    atheris.Setup([sys.argv[0], *words], read, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
