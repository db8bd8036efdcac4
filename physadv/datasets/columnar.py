"""Data sets in Arrow or Parquet files, as the Hugging Face library `datasets` writes them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from physadv.core.columnar_files import ColumnarFile
from physadv.core.errors import DataError, ImageError
from physadv.core.files import digest_of
from physadv.core.image_io import Array, decode_rgb
from physadv.core.parsing import parse_json, parse_yaml
from physadv.core.reading import MAX_PICTURE_BYTES, assert_bytes
from physadv.core.text import read_text
from physadv.datasets.base import ImageDataset
from physadv.datasets.box_annotations import LabeledBox
from physadv.datasets.detection import DetectionDataset, detection_arrays
from physadv.datasets.file_access import FolderSource
from physadv.datasets.parts import choose_parts, part_of, shown_parts
from physadv.datasets.summary import DatasetSummary
from physadv.datasets.webdataset import number_labels

SUFFIXES = (".arrow", ".parquet")
_IMAGE_NAMES = ("image", "img", "picture", "photo", "pixel_values")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")
_OBJECT_NAMES = ("objects", "annotations")
_DESCRIPTIONS = (
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "README.md"),
)
"""Files that the library writes beside the rows."""


def columnar_files(path: Path) -> list[Path]:
    """Return the Arrow and Parquet files of a path: itself, or those under a folder."""
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    return _own_files(FolderSource(path))


def _own_files(folder: FolderSource) -> list[Path]:
    """The Arrow and Parquet files of a folder, in order."""
    names = [PurePosixPath(name) for name in folder.names]
    return [
        folder.path / name
        for name in names
        if name.suffix.lower() in SUFFIXES and not _is_cache(name)
    ]


def _is_cache(file: PurePosixPath) -> bool:
    """Whether a file holds what the library computed of the others."""
    return file.name.startswith("cache-")


def _left_out(path: Path) -> dict[str, int]:
    """How many files of a folder are not read, by the reason."""
    if path.is_file():
        return {}
    folder = FolderSource(path)
    caches = [name for name in folder.names if _is_cache(PurePosixPath(name))]
    described = [name for name in folder.names if PurePosixPath(name).name in _DESCRIPTIONS]
    own = [file.relative_to(path).as_posix() for file in _own_files(folder)]
    reasons = {"caches of computed rows": len(caches)} if caches else {}
    return reasons | folder.left_out([*own, *caches, *described])


def read_columnar(path: Path, split: str | None) -> ImageDataset:
    """Read images with labels from Arrow or Parquet files.

    Args:
        path: A file, or a folder as ``save_to_disk`` or the Hub lays it out.
        split: Part to read, or None for everything.

    Returns:
        The images, decoded when they are read.

    Raises:
        DataError: The files cannot be read, or have no column of images or labels.
    """
    table = _opened(path, split)
    column = _chosen(table, _LABEL_NAMES, "labels", path)
    words = [str(v) for file in table.files for v in file.column(column)]
    if "None" in words:
        raise DataError(f"{path}", f"column {column}: {words.count('None')} rows have no label")
    labels, classes = number_labels(words, f"{path}", table.names_of(column))
    names = tuple(f"{table.part_names}#{i}" for i in range(len(words)))
    return ImageDataset(
        table.image, labels, classes, names, names, summary=table.summary, digest=table.digest
    )


def read_columnar_detection(path: Path, split: str | None) -> DetectionDataset:
    """Read images with boxes from Arrow or Parquet files: a column ``objects`` of ``bbox`` (x, y,
    width, height in px) and ``category``.

    Args:
        path: A file, or a folder as ``save_to_disk`` or the Hub lays it out.
        split: Part to read, or None for everything.

    Returns:
        The images with their objects.

    Raises:
        DataError: The files cannot be read, or have no such columns.
    """
    table = _opened(path, split)
    column = _chosen(table, _OBJECT_NAMES, "objects", path)
    rows = [value for file in table.files for value in file.column(column)]
    names = table.names_of(column)
    boxes = [_boxes_of(value, i, names, f"{path}") for i, value in enumerate(rows)]
    files = tuple(f"{table.part_names}#{i}" for i in range(len(rows)))
    return detection_arrays(table.image, boxes, names, files, table.summary, table.digest)


def has_boxes(path: Path) -> bool:
    """Return whether the Arrow or Parquet files of ``path`` have a column of boxes."""
    files = columnar_files(path)
    if not files:
        return False
    return any(name in ColumnarFile(files[0]).names for name in _OBJECT_NAMES)


@dataclass
class _Table:
    """The rows of several files.

    Attributes:
        files: The files, in order.
        image_column: Column of images.
        features: Features by column, as the library describes them.
        summary: What the files were taken for.
        part_names: Name of the part in the names of images.
    """

    files: list[ColumnarFile]
    image_column: str
    features: Mapping[str, Any]
    summary: DatasetSummary
    part_names: str

    def __post_init__(self) -> None:
        self._ends = list(accumulate(file.rows for file in self.files))

    def image(self, index: int) -> Array:
        """Return the image of row ``index``."""
        data, where = self._bytes(index)
        try:
            return decode_rgb(data, where)
        except ImageError as error:
            raise DataError(error.value, error.limit, error.remedy) from error

    def digest(self, index: int) -> str:
        """Return a hash of the image of row ``index``."""
        return digest_of(self._bytes(index)[0])

    def _bytes(self, index: int) -> tuple[bytes, str]:
        """The file of the image of row ``index``, and what errors call it."""
        number = bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        file = self.files[number]
        value = file.value(index - first, self.image_column)
        data = value.get("bytes") if isinstance(value, Mapping) else value
        where = f"{file.path}: row {index - first}"
        if not isinstance(data, bytes | bytearray):
            raise DataError(
                where,
                "It holds no image bytes, only a path",
                "Save the data set with its images embedded",
            )
        assert_bytes(len(data), where, most=MAX_PICTURE_BYTES, error=DataError)
        return bytes(data), where

    def names_of(self, column: str) -> tuple[str, ...]:
        """Names of the classes of a column; empty where nothing states them."""
        return tuple(_class_label_names(self.features.get(column)))


def _class_label_names(feature: Any, depth: int = 0) -> list[str]:
    """The names that a feature, or one within it, states for its classes."""
    if depth > 6:
        return []
    if isinstance(feature, list):
        for each in feature:
            if inner := _class_label_names(each, depth + 1):
                return inner
        return []
    if not isinstance(feature, Mapping):
        return []
    names: Any = feature.get("names")
    if isinstance(names, Mapping):  # the YAML of the Hub: '0': cat
        names = list(names.values())
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return list(names)
    for each in feature.values():
        if found := _class_label_names(each, depth + 1):
            return found
    return []


def _opened(path: Path, split: str | None) -> _Table:
    """Open the files of the part that is asked for."""
    files = columnar_files(path)
    named = {file: _part_of_file(file, path) for file in files}
    row = list(dict.fromkeys(named.values()))
    parts = {name: part for name in row if (part := part_of(name))}
    if parts and len(parts) == len(row):
        chosen = choose_parts(parts, split, f"{path}")
    else:
        parts, chosen = {}, row
    opened = [ColumnarFile(file) for file in files if named[file] in chosen]
    first = opened[0]
    features = _features(path, [file.path for file in opened], first)
    summary = DatasetSummary(
        str(path),
        "Arrow or Parquet files",
        "all" if not parts or len(chosen) > 1 else parts[chosen[0]],
        shown_parts(parts),
        skipped=_left_out(path),
    )
    column = _image_column(first, features, path)
    return _Table(opened, column, features, summary, chosen[0] if len(chosen) == 1 else "all")


def _part_of_file(file: Path, root: Path) -> str:
    """The part that a file's name or its folder's states, such as train of
    data/train-00000-of-00001.parquet."""
    word = file.name.partition("-")[0].partition(".")[0]
    if part_of(word):
        return word
    folders = file.relative_to(root).parts[:-1] if file != root else ()
    return next((folder for folder in reversed(folders) if part_of(folder)), "")


def _features(path: Path, files: Sequence[Path], first: ColumnarFile) -> Mapping[str, Any]:
    """Features by column: of the file's own metadata, dataset_info.json, or the card's YAML."""
    metadata = first.schema.metadata or {}
    if b"huggingface" in metadata:
        text = metadata[b"huggingface"].decode("utf-8", "replace")
        table = parse_json(text, f"{first.path}: huggingface")
        info = table.get("info") if isinstance(table, Mapping) else None
        features = info.get("features") if isinstance(info, Mapping) else None
        if isinstance(features, Mapping):
            return features
    for folder in dict.fromkeys(
        [*(file.parent for file in files), path if path.is_dir() else path.parent]
    ):
        for file in (folder / "dataset_info.json", folder / "dataset_infos.json"):
            if file.is_file():
                table = parse_json(read_text(file), str(file))
                features = _find_features(table)
                if features:
                    return features
    readme = (path if path.is_dir() else path.parent) / "README.md"
    if readme.is_file():
        text = read_text(readme, guess=True)
        if text.startswith("---"):
            return _find_features(parse_yaml(text.split("---")[1], str(readme)))
    return {}


def _find_features(table: Any, depth: int = 0) -> Mapping[str, Any]:
    """The features in a description: a table by column, or the Hub's list of named ones."""
    if depth > 4:
        return {}
    if isinstance(table, list):
        for each in table:
            if found := _find_features(each, depth + 1):
                return found
        return {}
    if not isinstance(table, Mapping):
        return {}
    features = table.get("features")
    if isinstance(features, Mapping):
        return features
    if isinstance(features, list):
        return {str(each.get("name")): each for each in features if isinstance(each, Mapping)}
    for each in table.values():
        if found := _find_features(each, depth + 1):
            return found
    return {}


def _image_column(file: ColumnarFile, features: Mapping[str, Any], path: Path) -> str:
    """The column of images: the one of that feature, or of a usual name."""
    names = file.names
    stated = [n for n in names if _is_image(features.get(n))]
    usual = [n for n in _IMAGE_NAMES if n in names]
    for found in (stated, usual):
        if found:
            return str(found[0])
    raise DataError(
        f"{path}", f"No column holds images; there are {', '.join(names)[:120]}", "Name it image"
    )


def _is_image(feature: Any) -> bool:
    if not isinstance(feature, Mapping):
        return False
    return feature.get("_type") == "Image" or feature.get("dtype") == "image"


def _chosen(table: _Table, usual: Sequence[str], what: str, path: Path) -> str:
    """The column of labels or objects: the one that names classes, or of a usual name."""
    names = [str(n) for n in table.files[0].names if n != table.image_column]
    stated = [n for n in names if table.names_of(n)]
    candidates = [n for n in usual if n in names]
    if len(stated) == 1 and (what == "labels" or stated[0] in usual):
        return stated[0]
    if candidates:
        return candidates[0]
    raise DataError(
        f"{path}",
        f"No column holds {what}; there are {', '.join(names)[:120]}",
        f"Name it {usual[0]}",
    )


def _boxes_of(value: Any, row: int, names: Sequence[str], where: str) -> list[LabeledBox]:
    """The boxes in one row: a table of lists, or a list of tables."""
    place = f"{where}: row {row}"
    if isinstance(value, list):
        keys = {key for each in value if isinstance(each, Mapping) for key in each}
        value = {key: [each.get(key) for each in value] for key in keys}
    if value is None:
        return []
    boxes = value.get("bbox") if isinstance(value, Mapping) else None
    kinds = None
    if isinstance(value, Mapping):
        kinds = next(
            (value[k] for k in ("category", "label", "labels", "category_id") if k in value), None
        )
    if not isinstance(boxes, list) or not isinstance(kinds, list) or len(boxes) != len(kinds):
        raise DataError(place, "Its objects are no bbox and category", "Store lists of both")
    found = []
    for box, kind in zip(boxes, kinds, strict=True):
        numbers = np.asarray(box, np.float64)
        if numbers.shape != (4,) or not np.isfinite(numbers).all() or (numbers[2:] <= 0).any():
            raise DataError(place, "A bbox is x, y, width and height in px", "Correct it")
        x, y, width, height = numbers.tolist()
        name = str(kind)
        if name.isdecimal() and names:
            if int(name) >= len(names):
                raise DataError(f"{place}: category {name}", f"{len(names)} classes are named")
            name = names[int(name)]
        found.append(LabeledBox(f"#{row}", (x, y, x + width, y + height), place, name))
    return found
