"""Recognition of a data set's layout, and the two functions that read them all: with a class an
image, and with boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from physadv.core.errors import DataError
from physadv.datasets.arrays import idx_files, read_idx, read_npz
from physadv.datasets.base import ImageDataset
from physadv.datasets.cifar import cifar_files, read_cifar
from physadv.datasets.columnar import (
    SUFFIXES,
    columnar_files,
    read_columnar,
    read_columnar_detection,
)
from physadv.datasets.detection import DetectionDataset, dataset_of_source
from physadv.datasets.detection_layouts import detection_layout, refuse_detection
from physadv.datasets.file_access import FileSource, FolderSource, open_file_source
from physadv.datasets.folders import read_folders
from physadv.datasets.gtsrb import annotation_files, read_gtsrb
from physadv.datasets.listings import (
    is_glob,
    listing_beside,
    read_csv_listing,
    read_globs,
    read_path_list,
)
from physadv.datasets.parts import check_split
from physadv.datasets.webdataset import is_webdataset, named_shards, read_webdataset


def read_dataset(path: str | Path, *, split: str | None = None) -> ImageDataset:
    """Read an image data set from a folder, an archive, a listing, an idx or an npz file.

    The layout is found by looking: class folders (``[train|test/]<class>/*.png``), a CSV or list of
    paths and labels, globs, Arrow or Parquet files, WebDataset shards, idx files as MNIST's (also
    gzipped), CIFAR's binary files, npz, GTSRB (``GT-*.csv`` beside ppm files), or boxes of one
    class an image. Images are streamed.

    Args:
        path: Folder or file.
        split: Part to read: "train", "val" or "test", by whatever name the set has for it, or that
            name; "all" or None for everything. GTSRB's training set is divided by tracks, 80 : 20,
            by the fixed split that the built-in model was trained with; a set without parts is
            returned whole.

    Returns:
        Images (h, w, 3) uint8 by index, with labels, class names and groups.

    Raises:
        DataError: The data are missing, empty, damaged or of unknown layout, or the part is not
            there.
        OptionError: ``split`` is another word.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "set.npz"
        ...     np.savez(file, images=np.zeros((3, 8, 8, 3), np.uint8), labels=[0, 1, 1])
        ...     read_dataset(file).counts().tolist()
        [1, 2]
    """
    check_split(split)
    if isinstance(path, str) and (shards := named_shards(path)) is not None:
        return read_webdataset(shards, split)
    if isinstance(path, str) and is_glob(path):
        return read_globs(path)
    root = Path(path).expanduser()
    if root.is_file() and root.suffix.lower() in (".csv", ".tsv"):
        return read_csv_listing(root, split)
    if root.is_file() and root.suffix.lower() in (".txt", ".lst"):
        return read_path_list(root, split)
    if _is_columnar(root):
        return read_columnar(root, split)
    source: FileSource = _single(root) if _is_array_file(root) else open_file_source(root)
    if is_webdataset(source):
        return read_webdataset(source, split)
    if annotation_files(source):
        return read_gtsrb(source, split)
    if idx_files(source):
        return read_idx(source, split)
    if cifar_files(source)[1]:
        return read_cifar(source, split)

    arrays = [n for n in source.names if n.lower().endswith(".npz")]
    if arrays:
        return read_npz(source, arrays, split)
    if source.images():
        listing = listing_beside(source)
        if listing is not None:
            try:
                return read_csv_listing(listing, split)
            except DataError as error:
                if "lacks the column" not in error.value and "is empty" not in error.value:
                    raise
        return _of_images(source, split)

    if any(PurePosixPath(n).name in ("test_batch", "fine_label_names") for n in source.names):
        raise DataError(
            f"{root}",
            "CIFAR as pickles, which are code",
            "Take its binary version, or pass torchvision.datasets.CIFAR10(root, train=False)",
        )
    some = ", ".join(PurePosixPath(n).name for n in source.names[:3])
    raise DataError(
        f"{root}",
        f"no layout is known for {some}",
        "class folders, listings, Arrow, WebDataset, idx, npz and GTSRB are read",
    )


def _of_images(source: FileSource, split: str | None) -> ImageDataset:
    """Class folders; or a detection set whose images have one class each."""
    layout = detection_layout(source)
    if not layout:
        return read_folders(source, split)
    try:
        data = _as_classification(source, split)
    except DataError:  # its boxes cannot be read: what it is says more
        data = None
    if data is None:
        refuse_detection(source, layout)
    return data


_SET_FILES = (".json", ".yaml", ".yml", ".csv", ".tsv")
"""Suffixes of files of boxes that stand for the set beside them."""


def read_detection_dataset(path: str | Path, *, split: str | None = None) -> DetectionDataset:
    """Read a detection data set from a folder, an archive, a COCO or CSV file, or a data.yaml.

    The layout is found by looking: COCO (``annotations/*.json`` or Roboflow's
    ``_annotations.coco.json``), Pascal VOC (an XML file an image), a CSV with a box a row
    (``_annotations.csv``), YOLO (a label file an image, and a data.yaml or classes.txt with names),
    or Arrow and Parquet files with a column of objects.
    Images without a label file have no object.

    Args:
        path: Folder or file.
        split: Part to read: "train", "val" or "test", by whatever name the set has for it, or that
            name; "all" or None for everything. A set without parts is returned whole.

    Returns:
        Images (h, w, 3) uint8 with their objects.

    Raises:
        DataError: The data are missing, empty, damaged or in no such layout, or the part is not
            there.
        OptionError: ``split`` names no part.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from physadv.core.image_io import save_png
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_png(Path(folder) / "a.png", np.zeros((20, 10, 3), np.uint8))
        ...     _ = Path(folder, "a.txt").write_text("0 0.5 0.5 0.2 0.4")
        ...     _ = Path(folder, "classes.txt").write_text("stop")
        ...     data = read_detection_dataset(folder)
        ...     data.classes, data[0][1].boxes.round().tolist()
        (('stop',), [[4.0, 6.0, 6.0, 14.0]])
    """
    check_split(split)
    place = Path(path).expanduser()
    if _is_columnar(place):
        return read_columnar_detection(place, split)
    only = None
    if place.is_file() and place.suffix.lower() in _SET_FILES:
        root = place.parent
        if root.name.casefold() in ("annotations", "annotation"):
            root = root.parent
        only, place = place.relative_to(root).as_posix(), root
    source = open_file_source(place)
    return dataset_of_source(source, split, only)


def _is_columnar(path: Path) -> bool:
    """Whether a path is an Arrow or Parquet file, or a folder of such without other images."""
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    if not path.is_dir() or not columnar_files(path):
        return False
    return not FolderSource(path).images()


def _as_classification(source: FileSource, split: str | None) -> ImageDataset | None:
    """A detection set whose images have objects of one class each, as a set for classifiers; None
    where one has several classes or none, or all have one."""
    data = dataset_of_source(source, split)
    labels = []
    for i in range(len(data)):
        kinds = set(data.objects(i, 1, 1).labels.tolist())
        if len(kinds) != 1:
            return None
        labels.append(kinds.pop())
    if len(set(labels)) < 2:
        return None
    note = "each image has objects of one class, which is its label"
    summary = replace(data.summary, notes=(note, *data.summary.notes))
    return ImageDataset(
        data.read,
        np.asarray(labels, np.int64),
        data.classes,
        data.names,
        data.names,
        summary=summary,
        digest=data.digest,
    )


def _is_array_file(path: Path) -> bool:
    """An npz is a zip inside, so it is told apart by its name; so are idx files, which have no
    other mark."""
    name = path.name.lower()
    return (
        path.is_file() and path.stat().st_size > 0 and (name.endswith(".npz") or "-ubyte" in name)
    )


def _single(path: Path) -> FileSource:
    """One file as a source: an idx images file brings its labels file along."""
    return FolderSource(path.parent, only=_companions(path))


def _companions(path: Path) -> tuple[str, ...]:
    """The file itself and, for idx, the other half of the pair."""
    name = path.name
    pairs = (("images-idx3", "labels-idx1"), ("images.idx3", "labels.idx1"))
    other = next(
        (name.replace(a, b) for a, b in (*pairs, *((b, a) for a, b in pairs)) if a in name), name
    )
    return tuple(n for n in dict.fromkeys((name, other)) if (path.parent / n).is_file())
