"""One process at a time, on file systems of any kind, whatever stands where the lock should be."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import filelock
import pytest
from commandline import environment

from physadv.core.errors import OptionError
from physadv.core.files import LOCK, atomic_path, make_folder, remove_leftovers, write_text
from physadv.core.run_folder import locked_file, locked_folder, set_aside

NO_LOCKS = ["ENOLCK", "EOPNOTSUPP", "ENOSYS"]
NOTE = ".physadv.pid"
PLACES: dict[str, Callable[[Path], AbstractContextManager[object]]] = {
    "a folder": locked_folder,
    "a file": lambda folder: locked_file(folder / "s.pdf"),
}


def refuse_locks(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make flock fail as file systems without locks do."""

    def failing(*_: object) -> None:
        raise OSError(getattr(errno, name), name)

    monkeypatch.setattr(fcntl, "flock", failing)
    monkeypatch.setattr("physadv.core.files.flock", failing)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NO_LOCKS)
def test_a_file_system_without_locks_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    """Network drives may have none: the run goes on, and nothing of a file's lock stays."""
    refuse_locks(monkeypatch, name)
    with PLACES[place](tmp_path):
        write_text(tmp_path / "s.pdf", "x")
    left = {path.name for path in tmp_path.iterdir()}
    assert left - ({LOCK} if place == "a folder" else set()) == {"s.pdf"}


@pytest.mark.parametrize("place", PLACES)
def test_a_lock_that_fails_otherwise_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A broken disk is not taken for one without locks."""
    refuse_locks(monkeypatch, "EIO")
    with pytest.raises(OSError, match="EIO"), PLACES[place](tmp_path):
        pass


HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
def failing(*_):
    raise OSError(errno.ENOSYS, "no locks")
if sys.argv[1] == "ENOSYS":
    fcntl.flock = failing
from physadv.core.run_folder import locked_folder
with locked_folder(Path(".")):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("locks", ["usual", "ENOSYS"])
def test_the_lock_of_a_killed_process_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    """Also where filelock keeps a lock by a file's existence, which a kill leaves behind."""
    holder = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLD, locks],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    if locks == "ENOSYS":
        refuse_locks(monkeypatch, locks)
    with locked_folder(tmp_path):
        pass


KINDS: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("../precious"),
    "a link to nothing": lambda path: path.symlink_to("../new"),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_lock_is_refused(tmp_path: Path, place: str, kind: str) -> None:
    """A link would have the run write elsewhere, and a pipe would make it wait for ever."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "o").mkdir()
    with PLACES[place](tmp_path / "o"):
        made = sorted(path.name for path in (tmp_path / "o").iterdir())
    for name in made:
        for path in (tmp_path / "o").iterdir():
            path.unlink()
        KINDS[kind](tmp_path / "o" / name)
        with (
            pytest.raises(OptionError, match="Remove it"),
            PLACES[place](tmp_path / "o"),
        ):
            pass
        (tmp_path / "o" / name).rename(tmp_path / f"seen {name}")
    assert len(made) == 2
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_a_lock_that_goes_while_it_is_asked_for_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder of a file takes its lock along: whoever asked just then holds a new one, rather
    than none."""
    asked = []
    acquire = filelock.FileLock.acquire

    def first_in_vain(self: filelock.FileLock) -> object:
        asked.append(self)
        if len(asked) == 1:
            raise filelock.Timeout(self.lock_file)
        return acquire(self)

    monkeypatch.setattr(filelock.FileLock, "acquire", first_in_vain)
    with locked_file(tmp_path / "s.pdf"):
        second = subprocess.run(
            [sys.executable, "-c", ASK, "s.pdf"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"by process {os.getpid()}" in second.stderr


ASK = """
import sys
from pathlib import Path
from physadv.core.run_folder import locked_file
with locked_file(Path(sys.argv[1])):
    pass
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A folder that is in use."""
    with locked_folder(tmp_path):
        yield tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(OptionError) as refused, locked_folder(folder):
        pass
    return str(refused.value)


@pytest.mark.parametrize("note", [b"", b"\xff\xfe 1", b"-5 here", b"x" * 10_000_000])
def test_a_note_of_any_bytes_names_no_process(held: Path, note: bytes) -> None:
    """What stands in the note of the holder is not trusted."""
    (held / NOTE).write_bytes(note)
    assert "is in use by another process:" in refusal(held)


def test_a_run_of_another_machine_is_named_with_it(held: Path) -> None:
    """Only there can one see whether it still runs, so that the lock to remove is named."""
    (held / NOTE).write_text("123 elsewhere\n")
    said = refusal(held)
    assert "by process 123 on elsewhere:" in said
    assert f'remove "{held / LOCK}"' in said
    (held / NOTE).write_text(f"123 {socket.gethostname()}\n")
    assert "remove" not in refusal(held)


def test_what_another_machine_writes_stays_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locks may not be seen here; what this one left goes at once."""
    for host in ("here", "elsewhere"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        with atomic_path(tmp_path / "a.bin") as temporary:
            (tmp_path / host).write_text(temporary.name)
    names = {host: (tmp_path / host).read_text() for host in ("here", "elsewhere")}
    for name in names.values():
        (tmp_path / name).write_text("left by a kill")
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    remove_leftovers(tmp_path, below=False)
    assert not (tmp_path / names["here"]).exists()
    foreign = tmp_path / names["elsewhere"]
    assert foreign.exists()
    yesterday = time.time() - 25 * 3600
    os.utime(foreign, (yesterday, yesterday))
    remove_leftovers(tmp_path, below=False)
    assert not foreign.exists()


def test_new_folders_are_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of each new folder too, or a power cut loses the file with its folder."""
    forced, fsync = [], os.fsync

    def recorded(descriptor: int) -> None:
        forced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_text(tmp_path / "runs" / "first" / "a.txt", "x")
    assert {tmp_path, tmp_path / "runs", tmp_path / "runs" / "first"} <= set(forced)
    forced.clear()
    make_folder(tmp_path / "runs" / "first")
    assert forced == []


def test_a_run_is_set_aside_across_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run folder that is a disk of its own, as a container's is: its content is copied."""
    folder = tmp_path / "o"
    (folder / "examples").mkdir(parents=True)
    (folder / "examples" / "1.png").write_bytes(b"picture")
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "outside").symlink_to("../elsewhere")

    def other_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(Path, "rename", other_disk)
    monkeypatch.setattr(os, "rename", other_disk)
    kept = set_aside(folder)
    assert list(folder.iterdir()) == []
    assert (kept / "examples" / "1.png").read_bytes() == b"picture"
    assert (kept / "rows.jsonl").read_text() == "{}\n"
    assert (kept / "outside").is_symlink()
