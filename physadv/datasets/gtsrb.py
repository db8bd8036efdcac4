"""The layout of the German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012): class
folders with GT-*.csv."""

from __future__ import annotations

import csv
import io
from pathlib import PurePosixPath

import numpy as np

from physadv.core.errors import DataError
from physadv.datasets.base import ImageDataset
from physadv.datasets.file_access import FileSource

_COLUMNS = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
_Row = tuple[str, str, tuple[float, float, float, float], int]


def annotation_files(source: FileSource) -> list[str]:
    """Return the names of the annotation files in ``source``, by which the layout is recognized."""
    return [
        n
        for n in source.names
        if PurePosixPath(n).name.startswith("GT-") and n.lower().endswith(".csv")
    ]


def read_gtsrb(source: FileSource) -> ImageDataset:
    """Read the training layout of GTSRB (Stallkamp et al. 2012).

    A track is a group. Boxes are those of the signs, scaled where a copy's images were resized but
    its annotations were not. Rows whose file is absent, as in a thinned copy, are left out.

    Args:
        source: Files of the data set.

    Returns:
        The images with labels, tracks and boxes; classes are "00" to the highest number.

    Raises:
        DataError: An annotation file is malformed, or no image is left.
    """
    present = set(source.names)
    rows = [
        row for name in annotation_files(source) for row in _rows(source, name) if row[0] in present
    ]
    if not rows:
        raise DataError(
            f"{source.path}",
            "GT-*.csv names no image that is there",
            "keep csv and images together",
        )

    names, groups, boxes, labels = zip(*rows, strict=True)
    classes = tuple(f"{i:02d}" for i in range(max(labels) + 1))

    return ImageDataset(
        lambda i: source.image(names[i]),
        np.asarray(labels, np.int64),
        classes,
        groups,
        names,
        np.asarray(
            [_scaled(b, source.size(n)) for b, n in zip(boxes, names, strict=True)], np.float32
        ),
    )


def _rows(source: FileSource, name: str) -> list[_Row]:
    text = source.read(name).decode("utf-8-sig", errors="replace")
    reader = csv.DictReader(io.StringIO(text), delimiter=";")
    missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"{source.path}: {name}",
            f"lacks the columns {', '.join(missing)}",
            "use GTSRB's own csv",
        )

    folder = PurePosixPath(name).parent

    return [
        _row(row, folder, f"{source.path}: {name}, line {line}")
        for line, row in enumerate(reader, 2)
    ]


def _row(row: dict[str, str], folder: PurePosixPath, where: str) -> _Row:
    try:
        width, height, x0, y0, x1, y1 = (float(row[c]) for c in _COLUMNS[1:7])
        label = int(row["ClassId"])
    except (TypeError, ValueError) as error:
        raise DataError(where, f"not a GTSRB row ({error})", "repair or remove the line") from error

    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height and label >= 0):
        box = f"box {x0:g},{y0:g},{x1:g},{y1:g} of class {label}"
        raise DataError(
            f"{where}: {box}", f"is empty or outside {width:g}x{height:g}", "repair the line"
        )

    file = row["Filename"]
    track = f"{label:05d}/{file.rsplit('_', 1)[0]}"

    return str(folder / file), track, (x0 / width, y0 / height, x1 / width, y1 / height), label


def _scaled(
    share: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """From shares of the annotated size to pixels of the image that is there."""
    (x0, y0, x1, y1), (width, height) = share, size
    return x0 * width, y0 * height, x1 * width, y1 * height
