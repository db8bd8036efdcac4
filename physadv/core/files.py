"""The one writer of files: each is written beside its place, forced to disk and moved in, whole or
not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import socket
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from physadv.core.errors import OptionError

if sys.platform != "win32":  # which has other locks, and removes no file that is open
    from fcntl import LOCK_EX, LOCK_NB, flock

_TEMPORARY = ".physadv-writing-"
LOCK = ".physadv.lock"
"""Name of the lock in a folder that a run writes into."""
_DEEPEST = 4
"""Most folders between a run's folder and a file of it."""
_LONGEST_NAME = 255
"""Most bytes of a file's name, on all usual file systems."""
_LONGEST_SUFFIX = 32
"""Longest suffix, in bytes, that a temporary file takes over: a name has 255 at most."""
_FOREIGN_S = 24 * 3600.0
"""Seconds after which a temporary file that another machine wrote counts as left behind."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside the file ``path``, with its suffix; on success it replaces
    that file, else it is removed.

    File and folder are forced to disk, so that a power cut leaves the old file or the new one.
    Where ``path`` is a link, the file that it leads to is replaced and the link stays. A new file
    has the permissions that the user's umask leaves, a replaced one keeps its own and its owner.

    Args:
        path: File to write. Folders above it are made.

    Yields:
        The temporary path, an empty file. A kill leaves it behind; :func:`remove_leftovers`
        removes it.

    Raises:
        OptionError: Something that is no file stands at ``path``: a folder, a device, a pipe or a
            socket.
        OSError: The disk, the folder or the file itself does not take it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(f"{folder}/notes.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     Path(folder, "notes.txt").read_text()
        'whole'
    """
    target, replaced = _target_of(path)
    make_folder(target.parent)
    temporary, descriptor = _new_temporary(target)

    try:
        if replaced is not None:
            _take_over(temporary, replaced)
        yield temporary
        _force_to_disk(temporary)
        temporary.replace(target)
        force_folder_to_disk(target.parent)
    except OSError as error:
        name_full_disk(error, path)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_stream(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a binary stream that becomes the file ``path`` on success, as :func:`atomic_path`
    does."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def name_full_disk(error: OSError, path: str | Path) -> None:
    """Name in ``error`` the file ``path`` that was being written, where it says that the disk does
    not take it and names none, as one of a write to an open file does."""
    if error.errno in _OF_THE_DISK and error.filename is None:
        error.filename = str(path)


def remove_file(path: Path) -> None:
    """Remove the file, or the link, at ``path``, where there is one.

    Raises:
        OptionError: A folder above it, in a run's folder, is a link that leads out of that.
    """
    _refuse_way_out(path.parent / _TEMPORARY)
    path.unlink(missing_ok=True)


def make_folder(folder: str | Path) -> Path:
    """Make ``folder`` and the folders above it, force their names to disk and return it; one that
    exists is left as it is.

    Raises:
        OSError: Something else stands there, or the disk does not take it.
        OptionError: It would be made outside the run's folder, by a link in that.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     make_folder(f"{root}/runs/first").name
        'first'
    """
    path = Path(folder)
    made = []
    for each in (path, *path.parents):
        if each.exists():
            break
        made.append(each)
    if made:
        _refuse_way_out(path)
    path.mkdir(parents=True, exist_ok=True)
    for each in made:
        force_folder_to_disk(each.parent)
    return path


def remove_leftovers(folder: Path, *, below: bool) -> None:
    """Remove the temporary files that killed processes left in ``folder``.

    A file that a living process writes is locked, and stays. Locks of a network file system may
    hold on one machine only, so what another machine wrote stays for a day.

    Args:
        folder: Folder of a run, or of a result.
        below: Whether folders in it are gone through too.
    """
    if sys.platform == "win32":
        return
    for place, folders, names in os.walk(folder):
        if not below:
            folders.clear()
        for name in names:
            if name.startswith(_TEMPORARY):
                with suppress(OSError):
                    _remove_leftover(Path(place, name))


def refuse_unless_file(path: str | Path) -> os.stat_result | None:
    """Refuse to write where something stands that is no file.

    Args:
        path: File to write, or a link to it.

    Returns:
        What is known of the file that stands there; None where there is none.

    Raises:
        OptionError: A folder, a device, a pipe or a socket stands there; or a link in a run's
            folder leads out of it.
        PermissionError: The file there is write-protected.

    Example:
        >>> refuse_unless_file("no file yet") is None
        True
    """
    _refuse_way_out(Path(path))
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise OptionError(f"The path {path!r} is none ({error})", "", "Name another") from None
    if not stat.S_ISREG(found.st_mode):
        kind = next((word for test, word in _OTHER_KINDS if test(found.st_mode)), "no file")
        raise OptionError(f'"{path}" is {kind}', "A file is written there", "Name another file")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "The file is write-protected", str(path))
    return found


_OTHER_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _refuse_way_out(path: Path) -> None:
    """Refuse a path that leads out of the run's folder in which it stands: with a link in it, a
    folder of somebody else's would have this run write to any file of the user's."""
    above = path.absolute().parents[:_DEEPEST]
    root = next((folder for folder in above if (folder / LOCK).exists()), None)
    if root is None:
        return
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(root)):
        raise OptionError(
            f'"{path}" leads out of the folder "{root}" by a link',
            "A run writes inside its own folder",
            "Remove the link, or name another --out",
        )


def _target_of(path: str | Path) -> tuple[Path, os.stat_result | None]:
    """The file to replace, behind links, and what is known of it where it exists."""
    replaced = refuse_unless_file(path)
    return Path(os.path.realpath(path) if Path(path).is_symlink() else path), replaced


def _new_temporary(target: Path) -> tuple[Path, int | None]:
    """A new, empty file beside ``target`` and, where there are locks, the descriptor that holds
    its lock."""
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= _LONGEST_SUFFIX else ""
    while True:
        name = f"{_TEMPORARY}{_machine()}-{secrets.token_hex(8)}{suffix}"
        temporary = target.with_name(name)
        # Made by os.open rather than by tempfile, whose files are readable by their owner alone
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        if sys.platform == "win32":
            os.close(descriptor)
            return temporary, None
        with suppress(OSError):  # a file system without locks
            flock(descriptor, LOCK_EX | LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # removed as a leftover before it was locked


def _machine() -> str:
    """What tells this machine from others in the name of a temporary file."""
    return hashlib.sha256(os.fsencode(socket.gethostname())).hexdigest()[:8]


def _remove_leftover(path: Path) -> None:
    """Remove the temporary file at ``path`` where no process can be writing it."""
    if not path.name.startswith(f"{_TEMPORARY}{_machine()}-"):
        age = time.time() - path.lstat().st_mtime
        if age < _FOREIGN_S:
            return
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if sys.platform != "win32":
            flock(descriptor, LOCK_EX | LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def _take_over(temporary: Path, replaced: os.stat_result) -> None:
    """Give ``temporary`` owner and permissions of the file that it will replace."""
    own = temporary.stat()
    if hasattr(os, "chown") and (own.st_uid, own.st_gid) != (replaced.st_uid, replaced.st_gid):
        with suppress(PermissionError):  # only root gives files away
            os.chown(temporary, replaced.st_uid, replaced.st_gid)
    # Without set-user-ID and the like, which writing into a file takes from it too; some file
    # systems have one mode for all files, and refuse to be told.
    if (own.st_mode ^ replaced.st_mode) & 0o777:
        temporary.chmod(replaced.st_mode & 0o777)


def _force_to_disk(file: Path) -> None:
    """Wait until what was written to ``file`` is on the disk; some disks report only now that they
    are full."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def force_folder_to_disk(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk, where the system can do so."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folder, and others none that may not be listed
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise  # not merely a file system that cannot


def beside(file: str | Path, ending: str) -> Path:
    """Return the path of a file that belongs to ``file`` and bears its name.

    Args:
        file: File, such as ``sheet.pdf``.
        ending: What follows its stem, such as ``-cut.svg``.

    Returns:
        ``sheet-cut.svg``; where the name would be too long for a file system, its end is replaced
        by a digest.

    Example:
        >>> beside("runs/sheet.pdf", "-cut.svg").as_posix()
        'runs/sheet-cut.svg'
    """
    path = Path(file)
    stem = path.stem
    if len(os.fsencode(stem + ending)) > _LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        kept = os.fsencode(stem)[: _LONGEST_NAME - len(os.fsencode(f"-{digest}{ending}"))]
        stem = f"{kept.decode(errors='ignore')}-{digest}"
    return path.with_name(f"{stem}{ending}")


def as_utf8(text: str) -> str:
    """Return ``text`` fit for UTF-8: bytes of a file name that are not become question marks.

    Example:
        >>> as_utf8("Stra\\udcdfe.jpg")
        'Stra?e.jpg'
    """
    return text.encode("utf-8", "replace").decode()


def is_same_path(first: str, second: str) -> bool:
    """Return whether two texts name the same place, in whatever way: ``../data`` and ``/a/data``.

    Example:
        >>> is_same_path("data/../data/", "data")
        True
    """
    paths = [os.path.normpath(as_utf8(text)) for text in (first, second)]
    return paths[0] == paths[1] or os.path.realpath(paths[0]) == os.path.realpath(paths[1])


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` atomically and return the path."""
    with atomic_stream(path) as stream:
        stream.write(data)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` atomically as UTF-8, as :func:`as_utf8` has it, and return the path."""
    return write_bytes(path, as_utf8(text).encode())


def write_json(path: str | Path, value: Any) -> Path:
    """Write ``value`` atomically as indented JSON and return the path."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=False, default=str) + "\n")


def sha256_of(path: str | Path) -> str:
    """Return the sha256 in hex of the file at ``path``, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def digest_of(*parts: bytes | memoryview) -> str:
    """Return 16 hex digits of the sha256 of ``parts``, by which contents are known again.

    Example:
        >>> digest_of(b"ab", b"c") == digest_of(b"abc")
        True
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def contents_digest(paths: Iterable[str | Path]) -> str:
    """Return a hash of files, and of all files below folders with their places there; empty where
    there is none. Left out are paths that name nothing, hidden files, and folders of runs.

    Example:
        >>> contents_digest([])
        ''
    """
    parts = []
    for path in map(Path, paths):
        for file in _files_below(path) if path.is_dir() else [path]:
            if file.is_file():  # no pipe or device
                place = file.relative_to(path).as_posix()
                parts.append(os.fsencode(f"{place}\0{_digest_if_readable(file)}\n"))
    return digest_of(*parts) if parts else ""


def _files_below(root: Path) -> list[Path]:
    """Files in ``root`` and its folders, sorted; links to folders are not followed."""
    found = []
    for folder, folders, names in os.walk(root):
        place = Path(folder)
        folders[:] = [n for n in folders if n[0] != "." and not (place / n / LOCK).exists()]
        found += [place / name for name in names if name[0] != "."]
    return sorted(found)


def _digest_if_readable(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError:
        return "not readable"
