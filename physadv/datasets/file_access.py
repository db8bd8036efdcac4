"""Uniform access to the files of a folder, a zip or tar files, by relative names."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath

from physadv.core.archive_files import (
    TarMember,
    is_tar,
    is_zip,
    list_tar,
    open_zip,
    read_member,
    read_tar_member,
    zip_files,
)
from physadv.core.errors import DataError, ImageError
from physadv.core.files import digest_of
from physadv.core.image_io import IMAGE_SUFFIXES, Array, decode_rgb
from physadv.core.litter import is_litter
from physadv.core.names import natural_key
from physadv.core.picture_files import pictures_in, shown_size
from physadv.core.reading import MAX_ARRAY_BYTES, MAX_PICTURE_BYTES
from physadv.core.text import read_file
from physadv.core.unread_files import UnreadFiles
from physadv.datasets.left_out import left_out


class FileSource(ABC):
    """Files of a data set, by relative names with forward slashes."""

    path: Path
    names: tuple[str, ...]
    litter: int = 0
    """Number of files left out: hidden ones and those that desktops add."""
    unread: UnreadFiles
    """Files that cannot be read where they lie, such as the links in an archive."""

    def left_out(self, used: Iterable[str]) -> dict[str, int]:
        """Return how many files were left out, by the reason, if those named ``used`` were read."""
        return left_out(self.litter, self.names, used) | self.unread.counts()

    @abstractmethod
    def read(self, name: str, most_bytes: int = MAX_ARRAY_BYTES) -> bytes:
        """Return the bytes of the file ``name``. Raises DataError where it cannot be read, or holds
        more than ``most_bytes``."""

    def image(self, name: str) -> Array:
        """Return the image ``name`` as (h, w, 3) uint8 sRGB, on white where it is transparent.
        Raises DataError where it is truncated, no image or several, as an animation is."""
        data, called = self.read(name, MAX_PICTURE_BYTES), f"{self.path}: {name}"
        try:
            if (count := pictures_in(data, called)) > 1:
                raise DataError(
                    called, f"holds {count} pictures, one is needed", "Save the one that is meant"
                )
            return decode_rgb(data, called)
        except ImageError as error:
            raise DataError(error.value, error.limit, error.remedy) from error

    def size(self, name: str) -> tuple[int, int]:
        """Return width and height of the image ``name`` from its header. Raises DataError where it
        is no image."""
        try:
            return shown_size(self.read(name, MAX_PICTURE_BYTES), f"{self.path}: {name}")
        except ImageError as error:
            raise DataError(error.value, error.limit, error.remedy) from error

    def digest(self, name: str) -> str:
        """Return a hash of the file ``name``. Raises DataError where it cannot be read."""
        return digest_of(self.read(name, MAX_PICTURE_BYTES))

    def _take(self, found: list[str]) -> None:
        """Keep the names of the set's own files, sorted with numbers by value."""
        own = [name for name in found if not is_litter(name)]
        self.names = tuple(sorted(own, key=natural_key))
        self.litter = len(found) - len(own)

    def images(self) -> list[str]:
        """Return the names of all image files, sorted."""
        return self._images

    @cached_property
    def _images(self) -> list[str]:
        return [n for n in self.names if PurePosixPath(n).suffix.lower() in IMAGE_SUFFIXES]


class FolderSource(FileSource):
    """Files under a folder, hidden ones left out.

    Args:
        path: The folder.
        only: Names of the files to take; None for all.
    """

    def __init__(self, path: Path, only: tuple[str, ...] | None = None) -> None:
        self.path, self.unread = path, UnreadFiles()
        if only is not None:
            self.names = only
            return
        self._take(_files_under(path, self.unread))

    def read(self, name: str, most_bytes: int = MAX_ARRAY_BYTES) -> bytes:
        """Return the bytes of the file ``name``. Raises DataError where it cannot be read, or holds
        more than ``most_bytes``."""
        return read_file(self.path / name, most_bytes=most_bytes, error=DataError)


class ZipSource(FileSource):
    """Members of the zip file ``path``, read in place; nothing is unpacked to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = open_zip(path, f"{path}")
        names, self.unread = zip_files(self._zip)
        self._take(names)

    def read(self, name: str, most_bytes: int = MAX_ARRAY_BYTES) -> bytes:
        """Return the bytes of the member ``name``. Raises DataError where it is too large or
        damaged."""
        where = f"{self.path}: {name}"
        return read_member(self._zip, name, where, most_bytes=most_bytes)

    def digest(self, name: str) -> str:
        """Return the size and the checksum of the member ``name``, which the zip lists."""
        info = self._zip.getinfo(name)
        return f"{info.file_size}-{info.CRC:08x}"


class TarSource(FileSource):
    """Members of tar files, read in place; those of several shards under the name of each.

    Args:
        path: The tar file, or the folder of shards.
        folder: The folder's files, of which the tar files are the shards; None for the one file.
    """

    def __init__(self, path: Path, folder: FolderSource | None = None) -> None:
        self.path, self.unread = path, UnreadFiles()
        self._places: dict[str, tuple[Path, TarMember]] = {}
        if folder is None:
            self._add(path, "")
            self._take(list(self._places))
            return
        beside = []
        for name in folder.names:
            shard = path / name
            if not _is_shard(name):
                beside.append(name)
            elif is_tar(shard):
                self._add(shard, f"{shard.stem}/")
            else:
                self.unread.add("tar files that cannot be read in place", name)
        self._take(list(self._places))
        self.litter += folder.litter
        self.unread.merge(folder.unread)
        for name in beside:
            self.unread.add("files beside the shards", name)

    def _add(self, shard: Path, prefix: str) -> None:
        """List the members of a tar file, whose names follow ``prefix``."""
        listing = list_tar(shard)
        self.unread.merge(listing.unread, prefix)
        for name, member in listing.members.items():
            if prefix + name in self._places:
                self.unread.add("earlier files of the same name", prefix + name)
            self._places[prefix + name] = (shard, member)

    def read(self, name: str, most_bytes: int = MAX_ARRAY_BYTES) -> bytes:
        """Return the bytes of the member ``name``. Raises DataError where it is too large or
        damaged."""
        shard, member = self._places[name]
        where = f"{shard}: {name}"
        return read_tar_member(shard, member, where, most_bytes=most_bytes)


def _files_under(root: Path, unread: UnreadFiles) -> list[str]:
    """Relative names of all files below a folder, also behind links, each folder once; what cannot
    be read is counted in ``unread``."""
    found, seen = [], set[str]()

    def name_of(path: str | Path) -> str:
        return Path(path).relative_to(root).as_posix()

    def refused(error: OSError) -> None:
        unread.add("folders that cannot be read", name_of(error.filename))

    for folder, folders, files in os.walk(root, followlinks=True, onerror=refused):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            unread.add("folders reached again by a link", name_of(folder))
            continue
        seen.add(real)
        for file in files:
            path = Path(folder) / file
            if kind := _unread_kind(path):
                unread.add(kind, name_of(path))
            else:
                found.append(name_of(path))
    return found


def _unread_kind(path: Path) -> str:
    """What a name in a folder is called that is no file to be read; empty for a file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "links that lead nowhere" if path.is_symlink() else "files that cannot be read"
    return "" if stat.S_ISREG(mode) else "devices and pipes"


def _is_shard(name: str) -> bool:
    return name.lower().endswith(".tar") and "/" not in name


def open_file_source(path: Path) -> FileSource:
    """Open a folder, a zip or a tar file, or a folder of tar shards.

    Args:
        path: The folder or the file.

    Returns:
        Its files.

    Raises:
        DataError: ``path`` is missing, empty, or neither.
    """
    if not path.exists():
        raise DataError(f"{path}", "no such file or folder", "check the path")
    if path.is_file() and is_tar(path):
        return _not_empty(TarSource(path), path)
    if path.is_file() and path.name.lower().endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
        raise DataError(
            f"{path}", "A compressed tar cannot be read at any place", "Unpack it to a .tar first"
        )
    if path.is_file() and not is_zip(path):
        reason = "empty file" if path.stat().st_size == 0 else "neither a folder nor a readable zip"
        raise DataError(f"{path}", reason, "name a folder, a zip, a tar, an idx or an npz file")
    if path.is_file():
        return _not_empty(ZipSource(path), path)
    folder = FolderSource(path)
    if any(_is_shard(name) for name in folder.names) and not folder.images():
        return _not_empty(TarSource(path, folder), path)
    return _not_empty(folder, path)


def _not_empty(source: FileSource, path: Path) -> FileSource:
    if not source.names:
        unread = ", ".join(f"{n} {what}" for what, n in source.unread.counts().items())
        limit = f"holds no file, but {unread}" if unread else "holds no file"
        raise DataError(f"{path}", limit, "name a folder or archive with images")
    return source
