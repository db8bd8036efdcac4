"""Registry of the readers of foreign input, and what their modules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fuzz.mutations import Mutation

ROOT = Path(__file__).resolve().parents[2]
SEEDS = Path(__file__).resolve().parent / "seeds"
BUNDLE = ROOT / "patches" / "stop-sticker-signs-v1"

Call = Callable[[Path, bytes], object]


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        call: Reads one input.
        seeds: Returns small real inputs.
        mutate: Makes an input of them.
        share: Inputs of it in relation to those of a reader of text; slow ones get fewer.
    """

    call: Call
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutation
    share: float = 1.0


READERS: dict[str, Reader] = {}


def registered(
    name: str, seeds: Callable[[], Sequence[bytes]], mutate: Mutation, share: float = 1.0
) -> Callable[[Call], Call]:
    def register(call: Call) -> Call:
        READERS[name] = Reader(call, cache(seeds), mutate, share)
        return call

    return register


def written(folder: Path, name: str, data: bytes) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def texts_of(*texts: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [text.encode() for text in texts]


def files_of(*names: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [(ROOT / name).read_bytes() for name in names]
