"""Folders and files of runs: unique names, one process at a time, nothing replaced unasked."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import filelock

from physadv.core.config import COMMAND_KEY, Config
from physadv.core.errors import OptionError
from physadv.core.files import LOCK, beside, remove_leftovers, write_bytes, write_text
from physadv.core.tables import read_table

CONFIG = "config.toml"
"""Record of a run's configuration in its folder."""
UNASKED = "A finished result is not replaced without being asked"
"""What every refusal to replace a result says is allowed."""
_REMEDY = "Name another --out, or add --overwrite"
_OWNER = ".physadv.pid"


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
    Path(root).mkdir(parents=True, exist_ok=True)
    name = f"{now:%Y%m%dT%H%M%SZ}-{command}"
    for number in count(1):
        folder = Path(root) / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
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
            f'"{folder}" holds a run of `physadv {str(command).replace("-", " ")}`',
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
            entry.rename(kept / entry.name)
    return kept


def _read_record(file: Path) -> dict[str, Any] | None:
    """The table recorded in ``file``; None where there is none."""
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
        OptionError: Another process holds the folder, which the error names; or its lock is a
            link.
    """
    _refuse_linked_lock(folder)
    rule = "One run at a time writes into a folder"
    with _held(folder / LOCK, folder / _OWNER, f'"{folder}" is in use', rule):
        remove_leftovers(folder, below=True)
        yield HeldFolder(folder, _identity(folder))


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _refuse_linked_lock(folder: Path) -> None:
    """Refuse a folder whose lock is a link, which older versions of filelock would follow."""
    for name in (LOCK, _OWNER):
        if (folder / name).is_symlink():
            raise OptionError(
                f'"{folder / name}" is a link',
                "A run writes inside its own folder",
                "Remove the link, or name another --out",
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
    with _held(lock, owner, f'"{file}" is being written', "One process at a time writes a file"):
        remove_leftovers(file.parent, below=False)
        try:
            yield
        finally:
            # A lock file that is gone is made anew by whoever comes next; on Windows an open file
            # cannot be removed, and filelock removes it itself.
            with suppress(OSError):
                lock.unlink(missing_ok=True)


@contextmanager
def _held(file: Path, owner: Path, what: str, rule: str) -> Iterator[None]:
    """Hold the lock ``file`` and name this process in the file ``owner``.

    Args:
        file: Lock.
        owner: File that tells which process holds it.
        what: What an error says of the thing locked.
        rule: What it says is allowed.
    """
    lock = filelock.FileLock(file, timeout=0)
    # Without a lock, on file systems that have none, and where no file can be made: writing tells.
    with suppress(NotImplementedError):
        try:
            lock.acquire()
        except filelock.Timeout:
            if file.exists():
                remedy = "Wait for its end, or name another --out"
                raise OptionError(f"{what} by {_owner_in_words(owner)}", rule, remedy) from None
    if not lock.is_locked:
        yield
        return

    try:
        owner.write_text(f"{os.getpid()} {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _owner_in_words(file: Path) -> str:
    """The process that wrote ``file``, with its machine where that is another one."""
    try:
        pid, _, host = file.read_text(encoding="utf-8").strip().partition(" ")
    except OSError:
        pid, host = "", ""
    if not pid:
        return "another process"
    return f"process {pid}" + (f" on {host}" if host not in ("", socket.gethostname()) else "")
