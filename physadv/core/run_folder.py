"""Folders and files of runs: unique names, one process at a time, nothing replaced unasked."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import filelock

from physadv.core.config import COMMAND_KEY, Config, typed_command
from physadv.core.errors import OptionError
from physadv.core.files import (
    LOCK,
    beside,
    force_folder_to_disk,
    make_folder,
    name_full_disk,
    remove_leftovers,
    write_bytes,
    write_text,
)
from physadv.core.members import member_of
from physadv.core.tables import read_table

CONFIG = "config.toml"
"""Record of a run's configuration in its folder."""
_RECORDS = (CONFIG, "environment.json", "samples.jsonl", "evaluation.json")
UNASKED = "A finished result is not replaced without being asked"
"""What every refusal to replace a result says is allowed."""
_REMEDY = "Name another --out, or add --overwrite"
_OWNER = ".physadv.pid"
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems say that have no locks, such as some network drives."""
_TRIES = 5
"""How often a lock is asked for whose file goes away meanwhile."""


def new_run_folder(command: str, now: datetime, *, root: str | Path = "runs") -> Path:
    """Create an empty folder for a run of ``command`` that starts now, and return it.

    Its name is ``<root>/<utc>-<command>``. A run that starts in the same second gets the next
    number, ``<utc>-<command>-2``, so that no two runs share a folder.

    Args:
        command: Name of the activity.
        now: Time of the start, in UTC.
        root: Folder of all runs, created if needed.

    Returns:
        The folder.

    Raises:
        OptionError: ``root``, or a folder above it, is a file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     at = datetime(2026, 1, 1)
        ...     [new_run_folder("check", at, root=root).name for _ in range(2)]
        ['20260101T000000Z-check', '20260101T000000Z-check-2']
    """
    assert_folder_possible(Path(root))
    make_folder(root)
    name = f"{now:%Y%m%dT%H%M%SZ}-{command}"
    for number in count(1):
        folder = Path(root) / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            force_folder_to_disk(folder.parent)
            return folder
    raise AssertionError("count() ends")  # pragma: no cover


def assert_folder_possible(folder: Path) -> None:
    """Refuse a path that cannot be a folder.

    Args:
        folder: Folder that exists or is to be created.

    Raises:
        OptionError: ``folder``, or what stands at a path above it, is no folder.
    """
    for path in (folder, *folder.parents):
        # A link that leads nowhere is in the way as well.
        if path.is_symlink() or path.exists():
            if not path.is_dir():
                below = "" if path == folder else f', so "{folder}" cannot lie in it'
                raise OptionError(f'"{path}" is no folder{below}', "", "Name another --out")
            return


def refuse_other_run(folder: Path, config: Config, *, by_command_only: bool = False) -> None:
    """Refuse a folder that holds a run of another configuration.

    Args:
        folder: Folder of a run, or one without a run.
        config: Configuration of the run about to start.
        by_command_only: Whether any run of the same activity is accepted, because the activity
            compares the rest itself.

    Raises:
        OptionError: It does; the error names the settings that differ.
    """
    recorded = _read_record(folder / CONFIG)
    if recorded is None:
        return
    command = recorded.get(COMMAND_KEY, config.command)
    if command != config.command:
        raise OptionError(
            f'"{folder}" holds a run of `{typed_command(command)}`',
            UNASKED,
            _REMEDY,
        )
    differences = [] if by_command_only else config.differences(recorded)
    if differences:
        raise OptionError(
            f'"{folder}" holds a run of another configuration ({", ".join(differences)})',
            UNASKED,
            f"Repeat the settings to go on with that run, {_REMEDY[0].lower()}{_REMEDY[1:]}",
        )


def refuse_other_file(file: Path, record: Path, config: Config) -> None:
    """Refuse to replace a file that was not made with the same configuration.

    Args:
        file: File to be written.
        record: Record of the configuration that made it, beside it.
        config: Configuration of the run about to start.

    Raises:
        OptionError: Another configuration made the file, or nothing says what did.
    """
    if not file.exists():
        return
    recorded = _read_record(record)
    if recorded is None:
        what = "stands there already, and no record says what made it"
    else:
        differences = config.differences(recorded)
        if recorded.get(COMMAND_KEY, config.command) != config.command:
            differences = [f"made by {recorded[COMMAND_KEY]}"]
        if not differences:
            return
        what = f"was made with another configuration ({', '.join(differences)})"
    raise OptionError(f'"{file}" {what}', UNASKED, _REMEDY)


def record_of(file: Path) -> Path:
    """Return the path of the record beside ``file``: ``sheet.config.toml`` for ``sheet.pdf``."""
    return beside(file, ".config.toml")


@contextmanager
def recorded_beside(file: Path, text: str) -> Iterator[None]:
    """Write the record of ``file`` before the file itself, so that a kill in between leaves no file
    that nothing explains.

    Args:
        file: File about to be written.
        text: What its record says.

    Yields:
        Nothing; where an error ends the block before the file was written, the earlier record is
        put back.
    """
    record = record_of(file)
    earlier, before = _bytes_of(record), _version(file)
    write_text(record, text)
    try:
        yield
    except BaseException:
        if _version(file) == before:
            with suppress(OSError):
                if earlier is None:
                    record.unlink()
                else:
                    write_bytes(record, earlier)
        raise


def _bytes_of(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _version(file: Path) -> tuple[int, int] | None:
    """What tells one version of ``file`` from the next; None without one."""
    return (file.stat().st_ino, file.stat().st_mtime_ns) if file.exists() else None


def set_aside(folder: Path) -> Path:
    """Move what ``folder`` holds into a new folder beside it, and return that.

    Args:
        folder: Folder of a run, whose lock stays where it is.

    Returns:
        The new folder, ``<folder>-replaced-<number>``.
    """
    target = folder.resolve()
    for number in count(1):
        kept = target.with_name(f"{target.name}-replaced-{number}")
        with suppress(FileExistsError):
            kept.mkdir()
            break
    # The record goes last: after a kill in between, the rest is still another run's.
    for entry in sorted(folder.iterdir(), key=lambda entry: (entry.name == CONFIG, entry.name)):
        if entry.name not in (LOCK, _OWNER):
            _move(entry, kept / entry.name)
    return kept


def _move(entry: Path, target: Path) -> None:
    """Move a file or folder; copied where the run's folder is a disk of its own, or a layer of a
    container's."""
    try:
        entry.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(entry, target)


def _read_record(file: Path) -> dict[str, Any] | None:
    """The table recorded in ``file``; None where there is none. A link is not followed."""
    member_of(file.parent, file.name, error=OptionError)
    return read_table(file, error=OptionError) if file.is_file() else None


@dataclass(frozen=True)
class HeldFolder:
    """A folder that this process alone writes into.

    Attributes:
        folder: The folder.
        identity: Device and number of the folder when it was taken.
    """

    folder: Path
    identity: tuple[int, int]

    def assert_in_place(self) -> None:
        """Make sure that the folder was neither removed nor replaced since it was taken.

        Raises:
            OptionError: It was, so that what this run wrote before is lost.
        """
        if not self.folder.is_dir() or _identity(self.folder) != self.identity:
            raise OptionError(
                f'"{self.folder}" was removed or replaced while this run wrote into it',
                "Its rows are incomplete",
                "Run it again",
            )


@contextmanager
def locked_folder(folder: Path) -> Iterator[HeldFolder]:
    """Keep every other process that asks for the same lock out of ``folder``.

    The operating system releases the lock when its process ends, however it ends, so a killed run
    is never in the way of its resumption. Temporary files that it left are removed.

    Args:
        folder: Folder of a run, which exists.

    Yields:
        The folder, which is free again afterwards.

    Raises:
        OptionError: Another process holds the folder, which the error names; or its lock is no
            plain file.
    """
    rule = "One run at a time writes into a folder"
    with _held(folder / LOCK, folder / _OWNER, f'"{folder}" is in use', rule):
        remove_leftovers(folder, below=True)
        yield HeldFolder(folder, _identity(folder))


@contextmanager
def removed_if_only_recorded(folder: Path) -> Iterator[None]:
    """Remove the folder of a run that fails before it writes anything but what it was asked for.

    Else the same command with, say, a corrected path would find another run there.

    Args:
        folder: Folder that this process made and holds the lock of.

    Yields:
        Nothing; the folder goes where an error ends the block.
    """
    try:
        yield
    except BaseException:
        with suppress(OSError):
            names = {entry.name for entry in folder.iterdir()}
            if names <= {LOCK, _OWNER, *_RECORDS}:
                for name in (*_RECORDS, _OWNER, LOCK):  # until the last nobody else comes
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()
        raise


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _refuse_unless_plain(file: Path) -> None:
    """Refuse a lock that somebody put there as a link, which older versions of filelock would
    follow, or as a pipe, on which writing waits."""
    try:
        mode = file.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no plain file"
        raise OptionError(
            f'"{file}" is {kind}',
            "A run locks a file of its own",
            "Remove it, or name another --out",
        )


@contextmanager
def locked_file(file: Path) -> Iterator[None]:
    """Keep every other process that asks for the same lock from writing ``file``.

    It is for commands whose result is one file, with others beside it that bear its name. Nothing
    of the lock stays beside the file.

    Args:
        file: File to be written; its folder exists.

    Yields:
        Nothing; the file is free again afterwards.

    Raises:
        OptionError: Another process holds the file; the error names it.
    """
    # Made of a digest, since a name may be as long as the file system allows.
    name = f".physadv-{sha256(os.fsencode(file.name)).hexdigest()[:16]}"
    lock, owner = file.with_name(f"{name}.lock"), file.with_name(f"{name}.pid")
    rule = "One process at a time writes a file"
    with _held(lock, owner, f'"{file}" is being written', rule, passing=True):
        remove_leftovers(file.parent, below=False)
        yield


@contextmanager
def _held(
    file: Path, owner: Path, what: str, rule: str, *, passing: bool = False
) -> Iterator[None]:
    """Hold the lock ``file`` and name this process in the file ``owner``.

    Args:
        file: Lock.
        owner: File that tells which process holds it.
        what: What an error says of the thing locked.
        rule: What it says is allowed.
        passing: Whether the lock's file goes with its holder.
    """
    for each in (file, owner):
        _refuse_unless_plain(each)
    lock = _acquired(file, owner, what, rule)
    try:
        if lock is not None:
            _write_note(owner)
        yield
    finally:
        # While it is held, since whoever comes next makes another. On Windows an open file cannot
        # be removed, and filelock removes it itself.
        for each in (owner, file) if passing else (owner,):
            with suppress(OSError):
                each.unlink()
        if lock is not None:
            lock.release()


def _write_note(owner: Path) -> None:
    """Name this process and its machine in the file ``owner``, which is made anew.

    A file that bears the name already may have others, of which none is written into.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        owner.unlink(missing_ok=True)
        with os.fdopen(os.open(owner, flags, 0o666), "w", encoding="utf-8") as stream:
            stream.write(f"{os.getpid()} {socket.gethostname()}\n")
    except OSError as error:
        name_full_disk(error, owner)
        raise


def _acquired(file: Path, owner: Path, what: str, rule: str) -> filelock.BaseFileLock | None:
    """The lock ``file``, held; None on file systems that have none, where no other run is seen.

    Raises:
        OptionError: Another process holds it.
    """
    lock = filelock.FileLock(file, timeout=0)
    for _ in range(_TRIES):
        try:
            lock.acquire()
        except NotImplementedError:
            return None
        except filelock.Timeout:
            if file.exists():
                words, remedy = _owner_in_words(file, owner)
                raise OptionError(f"{what} by {words}", rule, remedy) from None
            # Its holder has just ended and taken it along.
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            return None
        else:
            return lock
    return None  # no file can be made there: writing tells


def _owner_in_words(file: Path, owner: Path) -> tuple[str, str]:
    """The process that holds the lock ``file`` as it says in ``owner``, with its machine where that
    is another one; and what to do."""
    remedy = "Wait for its end, or name another --out"
    try:
        with owner.open("rb") as stream:
            pid, _, host = stream.read(300).decode("utf-8", "replace").strip().partition(" ")
    except OSError:
        return "another process", remedy
    if not pid.isdecimal():
        return "another process", remedy
    if host in ("", socket.gethostname()):
        return f"process {pid}", remedy
    return f"process {pid} on {host}", f'{remedy}; once it is gone for sure, remove "{file}"'
