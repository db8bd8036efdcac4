"""One run folder of several: the shards of an evaluation or certification, joined without loss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physadv.core.config import COMMAND_KEY
from physadv.core.errors import DataError, OptionError
from physadv.core.files import make_folder, write_bytes
from physadv.core.members import member_of, refuse_links_out_of
from physadv.core.reading import assert_bytes
from physadv.core.rows import Row, read_rows, replace_rows
from physadv.core.run_folder import CONFIG
from physadv.core.tables import read_table
from physadv.core.text import read_text
from physadv.evaluation.progress_log import IDENTITY, ProgressLog, differences
from physadv.evaluation.recorded_samples import (
    SAMPLES,
    changed_images,
    recorded_samples,
    without_images,
)

_RECORDS = (CONFIG, SAMPLES, IDENTITY, "environment.json")
_COMMANDS = ("attack", "evaluate", "certify")
_RANKS = "ranks"
_LARGEST_EXAMPLE = 64 << 20
_REMEDY = "Merge folders of one command, run with the same settings but --shard"
_SPENT = ("seconds", "attack_seconds")


@dataclass(frozen=True)
class MergedRun:
    """What was merged.

    Attributes:
        command: The activity that the folders are runs of: attack, evaluate or certify.
        done: Number of images with a row.
        images: Number of images of the whole run.
    """

    command: str
    done: int
    images: int

    @property
    def is_complete(self) -> bool:
        """Whether every image has a row."""
        return self.done == self.images


def merge_runs(folders: Sequence[str | Path], out: str | Path) -> MergedRun:
    """Join the rows of several folders of one run in ``out``, which resumes as that run.

    Rows are sorted by image, marks by batch. Repeated after a kill, it gives the same.

    Args:
        folders: Run folders of ``attack``, ``evaluate`` or ``certify`` with the same settings, each
            of another share of the batches, complete or not.
        out: Folder to write into; rows that it has already are kept.

    Returns:
        What was merged.

    Raises:
        OptionError: No folder, one named twice, or ``out`` among them.
        DataError: A folder is no such run, or of other settings; or two disagree on an image.
    """
    parts, whole = [Path(folder) for folder in folders], Path(out)
    _refuse_repeated(parts, whole)
    for part in parts:
        refuse_links_out_of(part, remedy="Remove the link", error=DataError)
    identities = {part: _identity(part) for part in parts}
    if (whole / IDENTITY).is_file():
        identities[whole] = _identity(whole)
    _refuse_other_settings(identities)
    command = _command_of(parts[0])

    make_folder(whole)
    joined = ProgressLog(None)
    for folder in (whole, *parts):
        _include(joined, folder)
    for part in parts:
        _copy_examples(part, whole)
    for name in _RECORDS:
        source = member_of(parts[0], name)
        if source.is_file() and not (whole / name).is_file():
            write_bytes(whole / name, read_text(source).encode())

    # Rows first: a mark without its rows would lose samples.
    replace_rows(whole / "rows.jsonl", [row for _, row in sorted(joined.rows.items())])
    marks = sorted(joined.marks, key=lambda mark: int(mark["batch"]))  # stages keep their order
    replace_rows(whole / "rows.marks.jsonl", marks)
    return MergedRun(command, len(joined.rows), identities[parts[0]].get("images", 0))


def holds_other_run(part: str | Path, out: str | Path) -> bool:
    """Return whether ``out`` holds a run of other settings than the shard in ``part``.

    Raises:
        DataError: ``part`` holds no run.
    """
    file = member_of(Path(out), IDENTITY)
    if not file.is_file():
        return False
    try:
        _refuse_other_settings({Path(part): _identity(Path(part)), Path(out): _identity(Path(out))})
    except DataError:
        return True
    return False


def rank_folder(folder: Path, rank: int) -> Path:
    """Return where the process ``rank``, of several that divide the run in ``folder``, writes."""
    return folder / _RANKS / str(rank)


def gather_ranks(folder: Path) -> None:
    """Join what processes of a divided run left below ``folder``, and remove their folders.

    Raises:
        DataError: They are of another run, or disagree on an image.
    """
    parts = sorted((folder / _RANKS).glob("*/" + IDENTITY))
    if parts:
        merge_runs([part.parent for part in parts], folder)
    if (folder / _RANKS).is_dir():
        refuse_links_out_of(folder / _RANKS, remedy="Remove the link", error=DataError)
        shutil.rmtree(folder / _RANKS)


def _refuse_repeated(parts: Sequence[Path], out: Path) -> None:
    if not parts:
        raise OptionError("no run to merge", "one folder or more", "Name the shards' folders")
    seen: set[Path] = set()
    for part in (*parts, out):
        place = part.resolve()
        if place in seen:
            raise OptionError(
                f'"{part}" is named twice', "each folder counts once", "Name each shard once"
            )
        seen.add(place)


def _identity(folder: Path) -> dict[str, Any]:
    """What the run in ``folder`` evaluates, as it recorded it."""
    file = member_of(folder, IDENTITY)
    if not file.is_file():
        raise DataError(f'"{folder}"', "holds no run of attack, evaluate or certify", _REMEDY)
    identity = read_table(file, remedy=_REMEDY, finite=False)
    images = identity.get("images", 0)
    if not isinstance(images, int) or images < 0:
        raise DataError(f'"{file}": {images!r} images', "A number is needed", _REMEDY)
    return identity


def _command_of(folder: Path) -> str:
    """The activity whose run is in ``folder``, empty where none is recorded. The user is told to
    type it, so that no other words of a file are taken."""
    file = member_of(folder, CONFIG)
    if not file.is_file():
        return ""
    command = read_table(file).get(COMMAND_KEY)
    if command not in _COMMANDS:
        known = f"runs of {', '.join(_COMMANDS)}"
        raise DataError(f'"{file}" records the command {command!r}', f"Merged are {known}", _REMEDY)
    return str(command)


def _refuse_other_settings(identities: dict[Path, dict[str, Any]]) -> None:
    first, expected = next(iter(identities.items()))
    for folder, found in identities.items():
        differing = differences(without_images(expected), without_images(found))
        if differing:
            raise DataError(
                f'"{folder}" is a run of other settings than "{first}" ({differing[0]})',
                "Shards are of one run",
                _REMEDY,
            )
        if differences(expected, found):
            changed = changed_images(recorded_samples(first), recorded_samples(folder))
            raise DataError(
                f'"{folder}" is a run of other images than "{first}": {changed}',
                "Shards are of the same images and labels",
                "Run one of both again, on the images of the other",
            )


def _include(joined: ProgressLog, folder: Path) -> None:
    """Take the rows and marks of ``folder`` that are not there yet.

    Raises:
        DataError: A row differs from that of another folder for the same image.
    """
    part = ProgressLog(folder)
    for index, row in part.rows.items():
        if _outcome(joined.rows.get(index, row)) != _outcome(row):
            raise DataError(
                f'"{folder}" and another folder disagree on image {index}',
                "One image has one row",
                "Run that shard again with the versions and the machine of the others",
            )
    joined.include(part)


def _outcome(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in _SPENT}


def _copy_examples(part: Path, whole: Path) -> None:
    """Copy the pictures of adversarial examples, and certificates that broke."""
    names = [f"examples/{p.name}" for p in sorted((part / "examples").glob("*.png"))]
    names += [p.name for p in sorted(part.glob("broken-*.npz"))]
    for name in names:
        source = member_of(part, name)
        assert_bytes(source.stat().st_size, f'"{source}"', most=_LARGEST_EXAMPLE, error=DataError)
        write_bytes(whole / name, source.read_bytes())

    index = "examples/examples.jsonl"
    if member_of(part, index).is_file():
        kept = list(read_rows(whole / index)) if (whole / index).is_file() else []
        known = {json.dumps(row, sort_keys=True) for row in kept}
        fresh = [r for r in read_rows(part / index) if json.dumps(r, sort_keys=True) not in known]
        replace_rows(whole / index, [*kept, *fresh])
