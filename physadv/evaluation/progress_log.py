"""What an evaluation has done so far, on disk: kill it at any moment and it goes on to the very
same result.

Two files of JSON lines. ``<name>.jsonl`` holds one row for each finished sample,
``<name>.marks.jsonl`` says which stage of which batch is complete. A stage always sees the samples
that the *complete* stages before it left whole, whatever part of its own rows was already written
when the kill came, so a batch is made up the same way each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physadv.core.errors import DataError, OptionError
from physadv.core.files import write_json
from physadv.core.rows import Row, append_rows, read_rows
from physadv.core.tables import read_table


@dataclass
class ProgressLog:
    """The rows and marks of one evaluation; in memory alone where ``folder`` is None."""

    folder: Path | None
    name: str = "rows"
    rows: dict[int, Row] = field(default_factory=dict)
    marks: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.folder is None:
            return
        for path, keep in ((self._rows_file, self._keep), (self._marks_file, self.marks.append)):
            if path.is_file():
                _drop_torn_line(path)
                for row in read_rows(path):
                    keep(row)

    @property
    def _rows_file(self) -> Path:
        return (self.folder or Path()) / f"{self.name}.jsonl"

    @property
    def _marks_file(self) -> Path:
        return (self.folder or Path()) / f"{self.name}.marks.jsonl"

    def _keep(self, row: Row) -> None:
        self.rows[int(row["index"])] = row

    def stages_done(self, batch: int) -> list[str]:
        """Names of the stages complete for a batch, in order."""
        return [m["stage"] for m in self.marks if m["batch"] == batch]

    def left(self, batch: int, members: Sequence[int]) -> list[int]:
        """The members of a batch that its complete stages left whole, in order."""
        done = set(self.stages_done(batch))
        return [i for i in members if i not in self.rows or self.rows[i]["stage"] not in done]

    def state(self, batch: int, key: str) -> dict[int, float]:
        """What the last complete stage of a batch noted per sample under ``key``."""
        for mark in reversed(self.marks):
            if mark["batch"] == batch and key in mark:
                return {int(k): v for k, v in mark[key].items()}
        return {}

    def write(self, batch: int, stage: str, rows: Iterable[Row], **noted: Any) -> None:
        """Record the samples that a stage finished, then that it is complete."""
        fresh = [row for row in rows if int(row["index"]) not in self.rows]
        for row in fresh:
            self._keep(row)
        mark = {"batch": batch, "stage": stage, **noted}
        self.marks.append(mark)
        if self.folder is not None:
            append_rows(self._rows_file, fresh)
            append_rows(self._marks_file, [mark])

    def finished(self, batch: int, last: str) -> bool:
        """Is the batch complete?"""
        return last in self.stages_done(batch)

    def total(self, key: str) -> float:
        """Sum over all complete stages of a number they noted (seconds, forwards)."""
        return float(sum(m.get(key, 0) for m in self.marks))


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that a kill left without its end, so that the next row starts on a line
    of its own."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])


def claim_folder(folder: Path, identity: dict[str, Any]) -> bool:
    """Note in ``folder`` what is evaluated there; True where it is resumed.

    Raises OptionError where another evaluation lies in it, naming the first difference.
    """
    file = folder / "evaluation.json"
    if not file.is_file():
        if any(folder.glob("*.marks.jsonl")):
            raise DataError(f"{folder}", "holds rows but no evaluation.json", "name another --out")
        write_json(file, identity)
        return False
    found = read_table(file, remedy="name another --out")
    wanted = json.loads(json.dumps(identity, default=str))
    # What people name first; the curve, for one, follows from the threat.
    for key in sorted(
        found.keys() | wanted.keys(), key=lambda k: (k not in ("victim", "data", "threat"), k)
    ):
        if found.get(key) != wanted.get(key):
            raise OptionError(
                f"{folder}: {key} = {found.get(key)!r}",
                f"this run has {wanted.get(key)!r}",
                "name another --out, or repeat the settings to go on with that run",
            )
    return True
