"""Recognition of a data set's layout, and the one function that reads them all."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from physadv.core.errors import DataError
from physadv.datasets.arrays import idx_files, read_idx, read_npz
from physadv.datasets.base import ImageDataset
from physadv.datasets.file_access import FileSource, FolderSource, open_file_source
from physadv.datasets.folders import read_folders
from physadv.datasets.gtsrb import annotation_files, read_gtsrb
from physadv.datasets.parts import check_split


def read_dataset(path: str | Path, *, split: str | None = None) -> ImageDataset:
    """Read an image data set from a folder, a zip, an idx or an npz file.

    The layout is found by looking: class folders (``[train|test/]<class>/*.png``), idx files as
    MNIST's (also gzipped), npz, or GTSRB (``GT-*.csv`` beside ppm files). Images are streamed.

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
    root = Path(path).expanduser()
    source: FileSource = _single(root) if _is_array_file(root) else open_file_source(root)
    if annotation_files(source):
        return read_gtsrb(source, split)
    if idx_files(source):
        return read_idx(source, split)

    arrays = [n for n in source.names if n.lower().endswith(".npz")]
    if arrays:
        return read_npz(source, arrays, split)
    if source.images():
        return read_folders(source, split)

    some = ", ".join(PurePosixPath(n).name for n in source.names[:3])
    raise DataError(
        f"{root}", f"no layout is known for {some}", "class folders, idx, npz and GTSRB are read"
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
