"""On-disk progress of an evaluation. An interrupted run resumes to a bit-identical result.

There are two files of JSON lines. ``<name>.jsonl`` has one row for each finished sample;
``<name>.marks.jsonl`` has one mark for each complete stage of a batch. A stage always starts from
the samples that the *complete* stages before it did not break, whatever part of its own rows was
already written before the interruption, so that a batch consists of the same samples each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physadv.core.errors import DataError, OptionError
from physadv.core.files import is_same_path, write_json
from physadv.core.members import member_of
from physadv.core.reading import foreign_errors
from physadv.core.rows import Row, append_rows, mend_last_row, read_rows, replace_rows
from physadv.core.tables import convert_value, read_table
from physadv.evaluation.recorded_samples import (
    IMAGE_DIGEST,
    SAMPLES,
    changed_images,
    recorded_samples,
    rows_digest,
    without_images,
)

IDENTITY = "evaluation.json"
"""Record in a run's folder of what is evaluated."""
SURROGATES = "surrogate_states"
DATA_DIGEST = "data_digest"
CONTENTS = ("model_state", "samples", IMAGE_DIGEST, SURROGATES, DATA_DIGEST)
"""Entries of an identity that are hashes: of the model, of images and labels, of surrogates, of the
data of a training. Those that only one of two runs has, as one of another version, are not
compared."""

ATTRIBUTES = "model_attributes"
"""Entry of an identity: a hash of each plain attribute of the model's layers by its name."""
CHANGING = "changes when asked"
"""What stands for the hash of an attribute that is not compared."""


@dataclass(frozen=True)
class _RowKeys:
    """Keys that each row has; those of a certification name no stage."""

    index: int
    stage: str = ""


@dataclass(frozen=True)
class _MarkKeys:
    """Keys that each mark has."""

    batch: int
    stage: str


@dataclass
class ProgressLog:
    """Rows and marks of one evaluation.

    Args:
        folder: Folder of both files, which are read if they exist; None to record in memory only.
        name: Stem of the files.
        rows: Rows by sample number.
        marks: Marks in their order.
        outcomes: Keys beside the sample's number whose values are yes or no in every row.

    Raises:
        DataError: The files hold something else.

    Example:
        >>> from physadv.evaluation.progress_log import ProgressLog
        >>> log = ProgressLog(None)
        >>> log.write(0, "clean", [{"index": 1, "stage": "clean"}], seconds=2.0)
        >>> log.unfinished(0, [0, 1]), log.total("seconds")
        ([0], 2.0)
    """

    folder: Path | None
    name: str = "rows"
    rows: dict[int, Row] = field(default_factory=dict)
    marks: list[Row] = field(default_factory=list)
    outcomes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.folder is None:
            return
        for path, add in ((self._rows_file, self._add), (self._marks_file, self.marks.append)):
            if member_of(self.folder, path.name).is_file():
                mend_last_row(path)
                kind = _RowKeys if path == self._rows_file else _MarkKeys
                for number, row in enumerate(read_rows(path), 1):
                    convert_value(row, kind, name=f"{path}:{number}", remedy="Remove the line")
                    for key in self.outcomes if kind is _RowKeys else ():
                        if not isinstance(row.get(key), bool):
                            limit = f"{key} is true or false in each row"
                            raise DataError(f"{path}:{number}", limit, "Remove the line")
                    add(row)

    @property
    def _rows_file(self) -> Path:
        return (self.folder or Path()) / f"{self.name}.jsonl"

    @property
    def _marks_file(self) -> Path:
        return (self.folder or Path()) / f"{self.name}.marks.jsonl"

    def _add(self, row: Row) -> None:
        self.rows[int(row["index"])] = row

    def row(self, index: int) -> Row:
        """Return the row of the sample ``index``.

        Raises:
            DataError: There is none, though the marks say that its batch is complete.
        """
        if index not in self.rows:
            raise DataError(
                f"{self._rows_file}", f"It lacks the row of sample {index}", "Name another --out"
            )
        return self.rows[index]

    def stages_done(self, batch: int) -> list[str]:
        """Return the names of the complete stages of ``batch``, in order."""
        return [mark["stage"] for mark in self.marks if mark["batch"] == batch]

    def unfinished(self, batch: int, members: Sequence[int]) -> list[int]:
        """Return the ``members`` of ``batch`` that no complete stage finished, in order."""
        done = set(self.stages_done(batch))
        return [i for i in members if i not in self.rows or self.rows[i].get("stage") not in done]

    def state(self, batch: int, key: str) -> dict[int, float]:
        """Return the values by sample that the last complete stage of ``batch`` has at ``key``."""
        for mark in reversed(self.marks):
            if mark["batch"] == batch and key in mark:
                with foreign_errors(str(self._marks_file), DataError, "no log of an evaluation"):
                    return {int(k): v for k, v in mark[key].items()}
        return {}

    def write(self, batch: int, stage: str, rows: Iterable[Row], **facts: Any) -> None:
        """Record the samples that a stage finished, then that it is complete.

        Args:
            batch: Number of the batch.
            stage: Name of the stage.
            rows: Rows of the finished samples; those already recorded are skipped.
            **facts: Further entries of the mark, such as seconds.
        """
        finished = list(rows)
        fresh = [row for row in finished if int(row["index"]) not in self.rows]
        for row in fresh:
            self._add(row)
        mark = {"batch": batch, "stage": stage, "rows": len(finished), **facts}
        self.marks.append(mark)

        # Rows first: a mark without its rows would lose samples.
        if self.folder is not None:
            append_rows(self._rows_file, fresh)
            append_rows(self._marks_file, [mark])

    def mend(self, batch: int, members: Sequence[int], last: str) -> None:
        """Forget a batch whose marks count more rows than there are, so that it is computed anew.

        A copy of a folder that was cut short leaves such marks.

        Args:
            batch: Number of the batch.
            members: Its samples.
            last: Name of its last stage.
        """
        own = [mark for mark in self.marks if mark["batch"] == batch]
        done = {mark["stage"] for mark in own}
        present = sum(i in self.rows and self.rows[i].get("stage") in done for i in members)
        counted = len(members) if last in done else _counted_rows(own)
        if present >= counted:
            return
        self.marks = [mark for mark in self.marks if mark["batch"] != batch]
        for index in members:
            self.rows.pop(index, None)
        if self.folder is not None:
            # Marks first: a mark without its rows would lose samples.
            replace_rows(self._marks_file, self.marks)
            replace_rows(self._rows_file, self.rows.values())

    def include(self, other: ProgressLog) -> None:
        """Take the rows and marks of ``other`` as known, in memory only, where they are new."""
        for index, row in other.rows.items():
            self.rows.setdefault(index, row)
        known = {(mark["batch"], mark["stage"]) for mark in self.marks}
        self.marks += [m for m in other.marks if (m["batch"], m["stage"]) not in known]

    def finished(self, batch: int, last: str) -> bool:
        """Return whether ``batch`` is complete, that is its ``last`` stage is."""
        return last in self.stages_done(batch)

    def total(self, key: str) -> float:
        """Return the sum of the entry ``key`` of all marks, such as "seconds" or "forwards"."""
        with foreign_errors(str(self._marks_file), DataError, "no log of an evaluation"):
            return float(sum(mark.get(key, 0) for mark in self.marks))

    def named(self, key: str) -> set[str]:
        """Return the texts that marks have at ``key``."""
        return {str(mark[key]) for mark in self.marks if key in mark}

    def latest(self, key: str, batch: int) -> str | None:
        """Return the text that the last mark of ``batch`` has at ``key``, or else of any batch;
        None where none has one."""
        own = [mark[key] for mark in self.marks if key in mark and mark["batch"] == batch]
        texts = own or [mark[key] for mark in self.marks if key in mark]
        return str(texts[-1]) if texts else None


def _counted_rows(marks: Iterable[Row]) -> int:
    """The number of rows that marks count, of which those of older versions count none."""
    counts = [mark.get("rows", 0) for mark in marks]
    return sum(count for count in counts if isinstance(count, int))


def claim_folder(folder: Path, identity: dict[str, Any], samples: Sequence[Row] = ()) -> bool:
    """Record in ``folder`` the ``identity`` of an evaluation, or compare it with the recorded one.

    Args:
        folder: Folder of the run.
        identity: What is evaluated.
        samples: Row of each of its images (:func:`physadv.evaluation.recorded_samples.sample_rows`)
            where it has some.

    Returns:
        True where the folder holds the same evaluation, to be resumed.

    Raises:
        OptionError: The folder holds another evaluation; the error names the first difference.
        DataError: The folder holds rows without an identity.
    """
    file = member_of(folder, IDENTITY)
    if samples:
        identity = {**identity, IMAGE_DIGEST: rows_digest(samples)}
    if not file.is_file():
        if any(folder.glob("*.marks.jsonl")):
            raise DataError(f"{folder}", "holds rows but no evaluation.json", "Name another --out")
        if samples:
            replace_rows(member_of(folder, SAMPLES), samples)
        write_json(file, identity)
        return False

    recorded = read_table(file, remedy="Name another --out", finite=False)
    differing = differences(without_images(recorded), without_images(identity))
    if differing:
        raise OptionError(
            f'"{folder}" holds a run of another configuration ({", ".join(differing[:4])})',
            "A result is not replaced without being asked",
            "Name another --out, repeat the settings to resume that run, or add --overwrite",
        )
    if differences(recorded, identity):
        raise OptionError(
            f'"{folder}" holds a run on {changed_images(recorded_samples(folder), samples)}',
            "A run goes on with the images and labels that it began with",
            "Put them back, name another --out, or add --overwrite",
        )
    return True


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the entries in which two identities differ, each in words.

    Args:
        recorded: The one recorded earlier.
        current: The other one; entries that JSON does not hold are taken as their texts.

    Example:
        >>> differences({"seed": 1, "plan": {"pgd": {"steps": 5}}}, {"plan": {"pgd": {"steps": 9}}})
        ['plan pgd steps 5 -> 9', 'seed 1 -> None']
    """
    current = json.loads(json.dumps(current, default=str))
    if not (recorded.get(ATTRIBUTES) and current.get(ATTRIBUTES)):  # a version that recorded none
        recorded, current = (
            {key: value for key, value in table.items() if key != ATTRIBUTES}
            for table in (recorded, current)
        )
    old, new = _entries(recorded), _entries(current)

    # The options that users set come first; others, such as the curve, follow from them.
    first = ("victim", "data", "threat")
    return [
        f"{_key_in_words(key)} {_in_words(old.get(key))} -> {_in_words(new.get(key))}"
        for key in sorted(old.keys() | new.keys(), key=lambda k: (k not in first, k))
        if not is_same_entry(key, old.get(key), new.get(key))
    ]


def _entries(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of an identity, those of tables within it under both names."""
    entries: dict[str, Any] = {}
    for key, value in identity.items():
        inner = _entries(value) if isinstance(value, Mapping) else {}
        entries |= {f"{key} {name}": item for name, item in inner.items()} or {key: value}
    return entries


def is_same_entry(key: str, old: Any, new: Any) -> bool:
    """Return whether ``old`` and ``new`` agree at ``key`` of two identities; two names of one place
    are one data set."""
    if key in CONTENTS and None in (old, new):
        return True  # a run of a version that recorded none
    if key in ("data", "vnnlib") and isinstance(old, str) and isinstance(new, str):
        return is_same_path(old, new)
    if key.startswith(f"{ATTRIBUTES} ") and CHANGING in (old, new):
        return True
    return bool(old == new)


def _key_in_words(key: str) -> str:
    if key == DATA_DIGEST:
        return "contents of the data"
    return key.replace(f"{ATTRIBUTES} ", "the model's attribute ", 1)


def _in_words(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
