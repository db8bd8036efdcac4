"""The layouts of the German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012): its own,
class folders and a test folder with GT-*.csv, and that of its copies with Train.csv and
Test.csv."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from physadv.core.csv_tables import parse_csv
from physadv.core.errors import DataError
from physadv.core.parsing import parse_number, parse_whole_number
from physadv.core.reading import MAX_CLASSES
from physadv.core.text import decode_text
from physadv.core.wording import format_percent
from physadv.datasets.base import ImageDataset
from physadv.datasets.file_access import FileSource
from physadv.datasets.parts import ALL, choose_parts
from physadv.datasets.split import split_by_group
from physadv.datasets.summary import DatasetSummary

HELD_OUT, SPLIT_SEED = 0.2, 0
"""One fixed division of tracks: no command trains on what another one holds out."""
_COLUMNS = ("Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
_UNLABELED = "GT-final_test.test.csv"


class _Row(NamedTuple):
    """One image: its file, its track, the box as shares of the image, its class and part."""

    file: str
    track: str
    box: tuple[float, float, float, float]
    label: int
    part: str


def annotation_files(source: FileSource) -> list[str]:
    """Return the names of the annotation files in ``source``, by which the layout is recognized."""
    found = []
    for name in source.names:
        base = PurePosixPath(name).name
        copy = base.lower() in ("train.csv", "test.csv") and _has_paths(source, name)
        if (base.startswith("GT-") and base.lower().endswith(".csv")) or copy:
            found.append(name)
    return found


def read_gtsrb(source: FileSource, split: str | None = None) -> ImageDataset:
    """Read GTSRB (Stallkamp et al. 2012): its training set, its test set, or both.

    A track is a group. Boxes are those of the signs, scaled where a copy's images were resized but
    its annotations were not. Rows whose file is absent, as in a thinned copy, are left out. The
    training set alone is divided by tracks, always alike.

    Args:
        source: Files of the data set.
        split: "train", "test", or None for everything.

    Returns:
        The images with labels, tracks and boxes; classes are "00" to the highest number.

    Raises:
        DataError: An annotation file is malformed, no image is left, or the part is not there.
    """
    rows = [row for name in _labeled_files(source) for row in _rows(source, name)]
    if not rows:
        raise DataError(
            f"{source.path}",
            "GT-*.csv names no image that is there",
            "keep csv and images together",
        )

    parts = {part: part for part in ("train", "test") if any(row.part == part for row in rows)}
    divided = "train" in parts and "test" not in parts
    known = {"train": "train", "test": "test"} if divided else parts
    chosen = choose_parts(known, split, f"{source.path}")
    taken = rows if divided else [row for row in rows if row.part in chosen]
    dataset = _dataset(source, taken, 1 + max(row.label for row in rows))
    if divided and len(chosen) == 1:
        kept, held = split_by_group(dataset, HELD_OUT, SPLIT_SEED)
        dataset = kept if chosen == ["train"] else held

    share = format_percent(HELD_OUT, 0)
    note = f"parts are tracks of the training set, {share} of them held out as test"
    return dataset.summarized(
        DatasetSummary(
            str(source.path),
            "GTSRB",
            chosen[0] if len(chosen) == 1 else ALL,
            tuple(known),
            known_set="GTSRB",
            skipped=source.left_out(_used(source, rows)),
            notes=(note,) if divided else (),
        )
    )


def _dataset(source: FileSource, rows: list[_Row], classes: int) -> ImageDataset:
    files = tuple(row.file for row in rows)
    return ImageDataset(
        lambda i: source.image(files[i]),
        np.asarray([row.label for row in rows], np.int64),
        tuple(f"{i:02d}" for i in range(classes)),
        tuple(row.track for row in rows),
        files,
        np.asarray([_scaled(row.box, source.size(row.file)) for row in rows], np.float32),
        digest=lambda i: source.digest(files[i]),
    )


def _used(source: FileSource, rows: list[_Row]) -> set[str]:
    return {*(row.file for row in rows), *annotation_files(source)}


def _has_paths(source: FileSource, name: str) -> bool:
    """Whether a csv is that of a copy of GTSRB: rows with a path, a class and a box."""
    head = source.read(name)[:500].decode("utf-8-sig", errors="replace").partition("\n")[0]
    columns = {column.strip().strip('"') for column in head.split(",")}
    return columns >= {*_COLUMNS, "Path"}


def _labeled_files(source: FileSource) -> list[str]:
    """The annotation files without that of the test images whose classes were kept back."""
    names = annotation_files(source)
    labeled = [name for name in names if PurePosixPath(name).name != _UNLABELED]
    if not labeled:
        raise DataError(
            f"{source.path}: {names[0]}",
            "names no classes: it is the list without answers",
            "put GT-final_test.csv of GTSRB_Final_Test_GT.zip beside it",
        )
    return labeled


def _rows(source: FileSource, name: str) -> list[_Row]:
    """The rows of one annotation file whose image is there."""
    place = f"{source.path}: {name}"
    text = decode_text(source.read(name), place, guess=True).text
    copy = ";" not in text.partition("\n")[0]
    column = "Path" if copy else "Filename"
    table = parse_csv(text, place, {key: (key.lower(),) for key in (column, *_COLUMNS)})

    part = "test" if "test" in PurePosixPath(name).name.lower() else "train"
    present, named = set(source.names), _test_images(source) if part == "test" else {}
    rows = []
    for each in table.rows:
        row = _row(each.cells, column, part, each.where)
        file = str(PurePosixPath(name).parent / row.file)
        file = file if file in present else named.get(PurePosixPath(file).name, "")
        if file:
            rows.append(row._replace(file=file))
    return rows


def _test_images(source: FileSource) -> dict[str, str]:
    """Images of a test folder by their file name: the answers are published apart from them."""
    return {
        PurePosixPath(name).name: name
        for name in source.images()
        if any("test" in part.lower() for part in PurePosixPath(name).parts[:-1])
    }


def _row(values: Mapping[str, str], column: str, part: str, where: str) -> _Row:
    width, height, x0, y0, x1, y1 = (parse_number(values[c], c, where) for c in _COLUMNS[:6])
    label = parse_whole_number(values["ClassId"], "ClassId", where, most=MAX_CLASSES - 1)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        box = f"box {x0:g},{y0:g},{x1:g},{y1:g} of class {label}"
        raise DataError(
            f"{where}: {box}", f"is empty or outside {width:g}x{height:g}", "repair the line"
        )

    file = values[column]
    track = f"{label:05d}/{PurePosixPath(file).name.rsplit('_', 1)[0]}"
    return _Row(file, track, (x0 / width, y0 / height, x1 / width, y1 / height), label, part)


def _scaled(
    share: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """From shares of the annotated size to pixels of the image that is there."""
    (x0, y0, x1, y1), (width, height) = share, size
    return x0 * width, y0 * height, x1 * width, y1 * height
