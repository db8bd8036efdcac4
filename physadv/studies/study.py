"""Runner of the lecture's studies: parts with rows on disk, resumed after an interruption.

A study is a list of parts. Each part returns rows of plain values, which are appended to
``rows.jsonl`` together with a mark that it is complete; a part that was interrupted starts anew.
The page is computed from the rows alone, so that a figure can be drawn again without measuring.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from physadv.core.errors import DataError
from physadv.core.files import contents_digest
from physadv.core.image_io import Array, save_png
from physadv.core.random_streams import derive, generator, numpy_generator
from physadv.core.reading import foreign_errors
from physadv.core.rows import Row, append_rows, mend_last_row, read_rows, replace_rows
from physadv.core.tensor_files import read_tensors, write_tensors
from physadv.evaluation.progress_log import DATA_DIGEST, claim_folder
from physadv.studies.config import StudyConfig
from physadv.studies.page import Paper, StudyPage

ROWS = "rows.jsonl"
AnyConfig = TypeVar("AnyConfig", bound=StudyConfig)
Value = TypeVar("Value")
PartRows = Mapping[str, Sequence[Row]]
"""Rows by the name of their part."""


@dataclass(frozen=True)
class Workspace:
    """What a part works with: the run folder, named random streams, and things made once.

    Args:
        folder: Folder of the run.
        study: Name of the study.
        seed: Seed of all streams.
        tell: Called with what is being done, for the progress line.
        memory: Things made by :meth:`once` so far.
    """

    folder: Path
    study: str
    seed: int
    tell: Callable[[str], None] = lambda note: None
    memory: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, name: str, make: Callable[[], Value]) -> Value:
        """Return what ``make`` returned when it was first called under ``name`` in this process.

        Args:
            name: Name of the thing, such as "data".
            make: Makes it.
        """
        if name not in self.memory:
            self.memory[name] = make()
        value: Value = self.memory[name]
        return value

    def seed_of(self, *path: str | int) -> int:
        """Return the seed of the stream named by ``path`` within this study."""
        return derive(self.seed, "study", self.study, *path)

    def generator(self, *path: str | int) -> torch.Generator:
        """Return a CPU generator of torch for the stream named by ``path`` within this study."""
        return generator(self.seed, "study", self.study, *path)

    def numpy_generator(self, *path: str | int) -> np.random.Generator:
        """Return a generator of numpy for the stream named by ``path`` within this study."""
        return numpy_generator(self.seed, "study", self.study, *path)

    def save_picture(self, name: str, picture: Tensor | Array) -> str:
        """Write a picture for the page.

        Args:
            name: Stem of its file.
            picture: Tensor (c, h, w) in [0, 1] or array (h, w, 3) uint8.

        Returns:
            Its file name relative to the run folder, as :class:`~physadv.studies.page.Picture`
            takes it.
        """
        save_png(self.folder / "pictures" / f"{name}.png", picture)
        return f"pictures/{name}.png"

    def net(
        self, name: str, build: Callable[[], nn.Module], fit: Callable[[nn.Module], object]
    ) -> nn.Module:
        """Return a trained network in eval mode, from the run folder where it lies there.

        Args:
            name: Stem of its file of weights.
            build: Makes the network; its initial weights are drawn under the seed of ``name``.
            fit: Trains it in place.

        Returns:
            The network; its parameters do not require gradients.
        """
        file = self.folder / "nets" / f"{name}.safetensors"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_of("net", name) % 2**63)
            net = build()
        if file.is_file():
            tensors, _ = read_tensors(file, error=DataError, remedy="Delete it")
            with foreign_errors(str(file), DataError, "holds another network", "Delete it"):
                net.load_state_dict(tensors)
        else:
            self.tell(f"training {name}")
            fit(net)
            write_tensors(file, net.state_dict())
        return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class Part:
    """A piece of a study that is measured as a whole; a minute or less where it can be.

    Args:
        name: Name in the rows.
        note: What it does, for the progress line.
        run: Measures and returns the rows.
    """

    name: str
    note: str
    run: Callable[[Workspace], Iterable[Row]]


@dataclass(frozen=True)
class Study(Generic[AnyConfig]):
    """An experiment of the field as one command.

    Args:
        name: Name of the command.
        title: Title of its page.
        question: The question that it answers, in one sentence.
        config: Class of its configuration.
        papers: Publications that it reproduces.
        parts: Lists the parts of a configuration.
        page: Computes the page from a configuration and the rows of all parts.
    """

    name: str
    title: str
    question: str
    config: type[AnyConfig]
    papers: tuple[Paper, ...]
    parts: Callable[[AnyConfig], Sequence[Part]]
    page: Callable[[AnyConfig, PartRows], StudyPage]


@dataclass(frozen=True)
class StudyStep:
    """Progress of a study.

    Args:
        done: Parts that are complete.
        total: Number of parts.
        note: What is done next.
    """

    done: int
    total: int
    note: str


def claim_study(study: Study[AnyConfig], config: AnyConfig, folder: Path) -> None:
    """Record in ``folder`` which study it holds.

    Args:
        study: The study.
        config: Its configuration.
        folder: Folder of the run.

    Raises:
        OptionError: The folder holds another study.
    """
    facts = {name: value for name, value in config.as_table().items() if name != "command"}
    contents = contents_digest(config.files())
    claim_folder(folder, {"study": study.name, **facts, DATA_DIGEST: contents})


def run_study(
    study: Study[AnyConfig],
    config: AnyConfig,
    folder: Path,
    tell: Callable[[str], None] = lambda note: None,
) -> Generator[StudyStep, None, None]:
    """Run the parts of a study that ``folder`` lacks, in order.

    Args:
        study: The study.
        config: Its configuration.
        folder: Folder of the run; the same configuration resumes it.
        tell: Called with what is being done within a part.

    Yields:
        The progress before each part that is run and at the end; rows of complete parts are on disk
        before.

    Raises:
        OptionError: The folder holds another study.
        DataError: The data of the study cannot be read.
    """
    claim_study(study, config, folder)
    parts = study.parts(config)
    done = _complete_parts(folder / ROWS)
    workspace = Workspace(folder, study.name, config.seed, tell)

    for number, part in enumerate(parts):
        if part.name in done:
            continue
        yield StudyStep(number, len(parts), part.note)
        begun = time.process_time()
        rows = [{"part": part.name, **row} for row in part.run(workspace)]
        seconds = round(time.process_time() - begun, 2)
        append_rows(folder / ROWS, [*rows, {"part": part.name, "done": True, "seconds": seconds}])
    yield StudyStep(len(parts), len(parts), "")


def study_rows(study: Study[AnyConfig], config: AnyConfig, folder: Path) -> dict[str, list[Row]]:
    """Return the rows of a complete study by part.

    Args:
        study: The study.
        config: Its configuration.
        folder: Folder of the run.

    Raises:
        DataError: A part is missing.
    """
    done = _complete_parts(folder / ROWS)
    names = [part.name for part in study.parts(config)]
    missing = [name for name in names if name not in done]
    if missing:
        raise DataError(f"{folder}", f"lacks the part {missing[0]!r}", "Run the study to its end")

    by_part: dict[str, list[Row]] = {name: [] for name in names}
    for row in read_rows(folder / ROWS):
        if row.get("part") in by_part and not row.get("done"):
            by_part[row["part"]].append({k: v for k, v in row.items() if k != "part"})
    return by_part


def study_seconds(folder: Path) -> float:
    """Return the CPU seconds that the complete parts in ``folder`` took."""
    rows = read_rows(folder / ROWS) if (folder / ROWS).is_file() else []
    return sum(float(row.get("seconds", 0)) for row in rows if row.get("done"))


def _complete_parts(file: Path) -> set[str]:
    """Names of the complete parts in ``file``; rows of a part cut short are removed."""
    if not file.is_file():
        return set()
    mend_last_row(file)
    rows = list(read_rows(file))
    if not all(isinstance(row.get("part"), str) for row in rows):
        raise DataError(f"{file}", "holds rows of no part", "Name another --out")
    done = {str(row["part"]) for row in rows if row.get("done")}
    if any(row["part"] not in done for row in rows):
        replace_rows(file, [row for row in rows if row["part"] in done])
    return done
