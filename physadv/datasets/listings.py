"""Listings of images with labels: CSV files of any dialect, lists of paths, and globs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from physadv.core.csv_tables import read_csv_columns
from physadv.core.errors import DataError
from physadv.core.image_io import IMAGE_SUFFIXES
from physadv.core.reading import MAX_MEMBERS
from physadv.core.text import read_text
from physadv.datasets.base import ImageDataset
from physadv.datasets.file_access import FileSource, FolderSource, open_file_source
from physadv.datasets.parts import choose_parts, part_of, shown_parts
from physadv.datasets.summary import DatasetSummary
from physadv.datasets.webdataset import number_labels

COLUMNS = {
    "file": (
        *("filename", "file_name", "filepath", "file_path", "path", "image", "image_path", "img"),
        *("image_name", "name", "imageid", "image_id", "id"),
        *("datei", "dateiname", "dateipfad", "bild", "bildname", "bilddatei", "pfad"),
    ),
    "label": (
        *("class", "class_name", "label_name", "category", "target", "y", "classid", "class_id"),
        *("synset", "wnid", "breed", "species", "predictionstring"),
        *("klasse", "klassenname", "kategorie", "bezeichnung"),
    ),
}
"""Columns of a listing, each with the other names that it may have."""
_PART = ("split", "part", "subset", "set", "data set", "dataset", "partition")
_GLOB = re.compile(r"[*?\[]")
_MOST_LISTING_BYTES = 1 << 30


def is_glob(text: str) -> bool:
    """Return whether a path holds a wildcard and names nothing as it is."""
    return bool(_GLOB.search(text)) and not Path(text).exists()


def read_globs(text: str) -> ImageDataset:
    """Read the images that globs name, separated by commas; the folder of each is its class.

    Args:
        text: Globs such as ``"set/*/*.jpg,more/**/*.png"``.

    Returns:
        The images with their labels.

    Raises:
        DataError: A glob names no image, or the folders are not of two classes or more.
    """
    names: dict[str, None] = {}
    for pattern in filter(None, (part.strip() for part in text.split(","))):
        found = [
            name
            for name in glob.iglob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207
            if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
        ]
        if not found:
            raise DataError(pattern, "It names no image", "Check the path")
        if len(names) + len(found) > MAX_MEMBERS:
            raise DataError(pattern, f"over {MAX_MEMBERS} images", "Name fewer")
        names |= dict.fromkeys(sorted(found))
    files = list(names)
    words = [_folder_of(Path(name)) for name in files]
    return _listed(FolderSource(Path(), only=()), files, words, text, "globs, folder by class")


def read_path_list(file: Path, split: str | None) -> ImageDataset:
    """Read a text file of one image a line, with its label behind it, or of globs.

    Args:
        file: The list, ``path label`` or ``path`` alone, whose folder is then the class.
        split: Part to read; a list has none.

    Returns:
        The images with their labels.

    Raises:
        DataError: A line has no image.
    """
    lines = [line.strip() for line in read_text(file, guess=True).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and all(_GLOB.search(line) for line in lines):
        return read_globs(",".join(str(file.parent / line) for line in lines))
    files, words = [], []
    for line in lines:
        name, label = _path_and_label(line)
        files.append(name)
        words.append(label or _folder_of(file.parent / name))
    if not files:
        raise DataError(f"{file}", "It lists no image", "Write one path and label a line")
    source = FolderSource(file.parent, only=())
    return _listed(source, files, words, str(file), "list of paths")


def _folder_of(path: Path) -> str:
    """Name of the folder that a path lies in, links not followed."""
    return PurePosixPath(os.path.abspath(path)).parent.name  # noqa: PTH100 - follows no link


def _path_and_label(line: str) -> tuple[str, str]:
    """A line's path and the label behind it, which follows the suffix of an image."""
    ends = "|".join(re.escape(s) for s in sorted(IMAGE_SUFFIXES, key=len, reverse=True))
    match = re.match(rf"(.*(?:{ends}))[\s,;]+(\S.*)$", line, re.IGNORECASE)
    return (match[1], match[2].strip()) if match else (line, "")


def read_csv_listing(file: Path, split: str | None) -> ImageDataset:
    """Read a CSV of images and labels, with or without a header, in any dialect.

    Args:
        file: The CSV: columns such as ``path,label`` (and ``split``), or the two in this order
            without a header. Paths count from its folder; names without a suffix are looked up.
        split: Part to read, where there is a column of parts.

    Returns:
        The images with their labels.

    Raises:
        DataError: It is no such CSV, or an image that it names is not there.
    """
    columns = read_csv_columns(
        file,
        COLUMNS,
        optional={"split": _PART},
        headerless=lambda cell: PurePosixPath(cell).suffix.lower() in IMAGE_SUFFIXES,
        most_bytes=_MOST_LISTING_BYTES,
    )
    files, words = columns["file"], columns["label"]
    if any(" " in word for word in words[:1]) and re.match(r"n\d{8} ", words[0]):
        words = [word.partition(" ")[0] for word in words]  # ImageNet's: a synset, then boxes
    source, files = _found(file, files)
    parts: dict[str, str] = {}
    own = columns.get("split")
    if own:
        parts = {name: part for name in dict.fromkeys(own) if (part := part_of(name))}
        if len(parts) < len(set(own)):
            parts = {}
    labels, classes = number_labels(words, f"{file}")
    if parts and own:
        chosen = choose_parts(parts, split, f"{file}")
        kept = [i for i, name in enumerate(own) if name in set(chosen)]
        part = "all" if len(chosen) > 1 else parts[chosen[0]]
        files, labels = [files[i] for i in kept], labels[kept]
        return _dataset(source, files, labels, classes, str(file), "CSV listing", part, parts)
    return _dataset(source, files, labels, classes, str(file), "CSV listing", "all", {})


def listing_beside(source: FileSource) -> Path | None:
    """Return the CSV of labels in the folder of images that lie in no class folders; None where
    there is none, or several."""
    if not isinstance(source, FolderSource):
        return None
    flat = all("/" not in name for name in source.images()[:50])
    tables = [n for n in source.names if n.lower().endswith((".csv", ".tsv")) and "/" not in n]
    tables = [n for n in tables if not n.lower().startswith(("boxes", "_annotations"))]
    return source.path / tables[0] if flat and len(tables) == 1 else None


def _found(file: Path, names: Sequence[str]) -> tuple[FileSource, list[str]]:
    """Source and names of the files of a CSV: as written, else by their stem under its folder."""
    plain = [name.replace("\\", "/") for name in names]
    source: FileSource = FolderSource(file.parent, only=())
    if not plain or os.path.isfile(file.parent / plain[0]):  # noqa: PTH113 - no error for any name
        return source, plain
    source = open_file_source(file.parent)
    by_stem: dict[str, str] = {}
    for name in source.images():
        by_stem.setdefault(PurePosixPath(name).stem, name)
    last = [PurePosixPath(name) for name in plain]
    keys = [p.stem if p.suffix.lower() in IMAGE_SUFFIXES else p.name for p in last]
    absent = next((n for n, key in zip(plain, keys, strict=True) if key not in by_stem), None)
    if absent is not None:
        raise DataError(
            f"{file}: {absent}", "No such image under its folder", "Write paths from the CSV's own"
        )
    return source, [by_stem[key] for key in keys]


def _listed(
    source: FileSource, files: list[str], words: list[str], path: str, layout: str
) -> ImageDataset:
    labels, classes = number_labels(words, path)
    return _dataset(source, files, labels, classes, path, layout, "all", {})


def _dataset(
    source: FileSource,
    files: list[str],
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    classes: tuple[str, ...],
    path: str,
    layout: str,
    part: str,
    parts: dict[str, str],
) -> ImageDataset:
    names = tuple(files)
    return ImageDataset(
        lambda i: source.image(names[i]),
        labels,
        classes,
        names,
        names,
        summary=DatasetSummary(path, layout, part, shown_parts(parts)),
        header_size=lambda i: source.size(names[i]),
        digest=lambda i: source.digest(names[i]),
    )
