"""The one writer of files: whole or not at all, whatever stands at the path and however it is
named."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import environment
from hypothesis import given
from hypothesis import strategies as st

from physadv.core.errors import OptionError
from physadv.core.files import (
    LOCK,
    atomic_path,
    atomic_stream,
    contents_digest,
    make_folder,
    remove_file,
    remove_leftovers,
    write_bytes,
    write_text,
)
from physadv.core.rows import append_rows, mend_last_row, read_rows
from physadv.core.run_folder import locked_folder

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices, or gives files away")


def names(folder: Path) -> set[str]:
    """What stands in a folder."""
    return {path.name for path in folder.iterdir()}


def as_user(folder: Path, code: str, *, user: int = 12345) -> subprocess.CompletedProcess[str]:
    """Run Python ``code`` in ``folder`` as a user who is not root."""
    drop = f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
    command = [sys.executable, "-c", f"import physadv.core.rows\n{drop}{code}"]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "name",
    [
        "x" * 255,
        "é" * 127,
        "a." + "y" * 253,
        "." + "z" * 254,
        " trailing ",
        "new\nline",
        "tab\tand\rreturn",
        "-dash",
        "...",
        "[bold]",
        "%s",
        "\udcff\udcfe.png",
        "عربى.json",
    ],
)
def test_any_name_the_file_system_takes(tmp_path: Path, name: str) -> None:
    """Names of 255 bytes, of control characters and of bytes that are no UTF-8: written, replaced,
    with nothing beside them."""
    for text in ("first", "second"):
        write_text(tmp_path / name, text)
        assert (tmp_path / name).read_text() == text
    assert names(tmp_path) == {name}


@given(st.binary(min_size=1, max_size=255).filter(lambda b: not set(b) & {0, 47}))
def test_any_bytes_are_a_name(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    """Whatever bytes a file system takes as a name the writer takes."""
    folder = tmp_path_factory.mktemp("n")
    path = folder / os.fsdecode(name)
    if name in (b".", b".."):
        return
    write_bytes(path, name)
    assert path.read_bytes() == name
    assert len(names(folder)) == 1


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "link to folder", "link to fifo"])
def test_what_is_no_file_is_refused_and_stays(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, a pipe, a socket, and links to them are named; rows are not appended either."""
    monkeypatch.chdir(tmp_path)
    thing = "thing"
    if "folder" in kind:
        Path(thing).mkdir()
    elif "fifo" in kind:
        os.mkfifo(thing)
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind(thing)
        server.close()
    if "link" in kind:
        Path("link").symlink_to(thing)
    before = os.lstat(thing)
    for write in (lambda p: write_text(p, "x"), lambda p: append_rows(p, [{"a": 1}])):
        with pytest.raises(OptionError, match=r"is a (folder|pipe|socket)"):
            write(Path("link" if "link" in kind else thing))
    assert (os.lstat(thing).st_mode, os.lstat(thing).st_ino) == (before.st_mode, before.st_ino)
    assert names(tmp_path) <= {"thing", "link"}


@needs_root
@pytest.mark.parametrize("is_link", [False, True])
def test_a_device_is_never_replaced(tmp_path: Path, is_link: bool) -> None:
    """Root too: /dev/null stays a device. This one is of the test's own."""
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no devices here")
    target = device
    if is_link:
        target = tmp_path / "link"
        target.symlink_to("null")
    with pytest.raises(OptionError, match="is a device"):
        write_text(target, "x")
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    """Also a link to a link, to another folder, and one whose file does not exist yet; a link in a
    circle is an error of the system."""
    (tmp_path / "other").mkdir()
    (tmp_path / "real").write_text("old")
    links = {"link": "real", "chain": "link", "away": "other/new", "up": "other/../real"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
        write_text(tmp_path / name, name)
        assert (tmp_path / name).readlink() == Path(target)
        assert (tmp_path / target).read_text() == name
    assert not (tmp_path / "real").is_symlink()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links"):
        write_text(tmp_path / "circle", "x")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_files_have_what_the_umask_leaves(tmp_path: Path, mask: int, mode: int) -> None:
    """Written files and appended rows alike."""
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "x")
        append_rows(tmp_path / "b", [{}])
    finally:
        os.umask(before)
    assert {(tmp_path / n).stat().st_mode & 0o7777 for n in "ab"} == {mode}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o666])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    """Neither wider nor narrower than before, at no moment wider."""
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(mode)
    with atomic_path(tmp_path / "a") as temporary:
        assert temporary.stat().st_mode & 0o777 == mode
        temporary.write_text("new")
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


@needs_root
def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    """What root writes in a user's folder stays the user's."""
    (tmp_path / "a").write_text("old")
    os.chown(tmp_path / "a", 12345, 12346)
    write_text(tmp_path / "a", "new")
    found = (tmp_path / "a").stat()
    assert (found.st_uid, found.st_gid) == (12345, 12346)


@needs_root
def test_permissions_are_honored(tmp_path: Path) -> None:
    """A folder without permission, and a write-protected file in one's own folder, are not
    written; no temporary file is left."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    (tmp_path / "own").mkdir()
    os.chown(tmp_path / "own", 12345, 12345)
    (tmp_path / "own" / "kept").write_text("precious")
    (tmp_path / "own" / "kept").chmod(0o444)
    os.chown(tmp_path / "own" / "kept", 12345, 12345)
    for path in ("x", "own/kept"):
        done = as_user(
            tmp_path, f"from physadv.core.files import write_text\nwrite_text({path!r}, 'x')"
        )
        assert "PermissionError" in done.stderr, done.stderr
    assert names(tmp_path / "own") == {"kept"}
    assert (tmp_path / "own" / "kept").read_text() == "precious"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """An exception in the middle, from a path or a stream: the old file, and no litter."""
    write_text(tmp_path / "a", "old")

    def stream_half() -> None:
        with atomic_stream(tmp_path / "a") as stream:
            stream.write(b"half")
            raise RuntimeError

    def write_half() -> None:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(RuntimeError):
        stream_half()
    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == {"a"}


def test_file_and_folder_are_forced_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order: the file, the move, the folder."""
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def moved(self: Path, target: Path) -> Path:
        events.append("move")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    write_text(tmp_path / "a", "x")
    assert events == ["file", "move", "folder"]
    events.clear()
    append_rows(tmp_path / "rows", [{}])
    append_rows(tmp_path / "rows", [{}])
    assert events == ["file", "folder", "file"]


WRITE = """
import sys, time
from physadv.core.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_leftovers_of_a_kill_go_and_others_stay(tmp_path: Path) -> None:
    """What a living process writes is never removed; what a killed one left is."""
    command = [sys.executable, "-c", WRITE, "sub/a.json"]
    writer = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == "writing\n"
        remove_leftovers(tmp_path, below=True)
        assert len(names(tmp_path / "sub")) == 1
    finally:
        writer.kill()
        writer.wait()
    assert len(names(tmp_path / "sub")) == 1
    (tmp_path / "sub" / "notes").write_text("mine")
    remove_leftovers(tmp_path, below=False)
    assert len(names(tmp_path / "sub")) == 2
    remove_leftovers(tmp_path, below=True)
    assert names(tmp_path / "sub") == {"notes"}


REPLACE = """
import sys
from physadv.core.files import write_text
n = 0
while True:
    n += 1
    write_text("a", str(n % 10) * 100_000)
"""


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """While another process replaces a file again and again, each reading is one whole version;
    killed at any moment it leaves one."""
    write_text(tmp_path / "a", "0" * 100_000)
    writer = subprocess.Popen([sys.executable, "-c", REPLACE], cwd=tmp_path, env=environment())
    try:
        seen = set()
        stop = time.monotonic() + 30
        while len(seen) < 5 and time.monotonic() < stop:
            text = (tmp_path / "a").read_text()
            assert len(text) == 100_000
            assert len(set(text)) == 1
            seen.add(text[0])
        assert len(seen) >= 5
    finally:
        writer.kill()
        writer.wait()
    assert len(set((tmp_path / "a").read_text())) == 1


def test_rows_survive_what_a_kill_left(tmp_path: Path) -> None:
    """A half-written last line goes before the next rows; a whole one without its end stays."""
    file = tmp_path / "rows.jsonl"
    append_rows(file, [{"n": 0}, {"n": 1}])
    whole = file.read_bytes()
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        kept = whole[: cut + 1].count(b"\n") if cut < len(whole) else 2
        append_rows(file, [{"n": 9}])
        assert [row["n"] for row in read_rows(file)] == [*range(kept), 9], cut


@given(st.binary(max_size=200), st.integers(0, 3))
def test_mending_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, torn: bytes, lines: int
) -> None:
    """Whatever a torn end is, the lines before it stay as they are, and the file ends a line."""
    file = tmp_path_factory.mktemp("m") / "rows"
    head = b'{"a": 1}\n' * lines
    torn = torn.replace(b"\n", b"")
    file.write_bytes(head + torn)
    mend_last_row(file)
    found = file.read_bytes()
    assert found.startswith(head)
    assert found in (head, head + torn + b"\n")
    if found != head:
        json.loads(torn)


def test_rows_longer_than_a_piece_are_mended(tmp_path: Path) -> None:
    """A torn line of some hundred kilobytes goes as well as a short one."""
    file = tmp_path / "rows"
    append_rows(file, [{"a": 1}])
    before = file.read_bytes()
    file.write_bytes(before + b'{"b": "' + b"x" * 300_000)
    mend_last_row(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("way", ["link", "linked/file", "in/linked/file", "in/link"])
def test_no_link_leads_out_of_a_run_folder(tmp_path: Path, way: str) -> None:
    """A file or a folder of the user's behind a link in a run's folder is neither written, nor
    appended to, nor removed; links within the folder, and a folder behind a link, are."""
    home, run = tmp_path / "home", tmp_path / "real"
    home.mkdir()
    (home / "file").write_text("precious")
    (run / "in").mkdir(parents=True)
    (tmp_path / "run").symlink_to("real")
    for folder in (run, run / "in"):
        (folder / "link").symlink_to(home / "file")
        (folder / "linked").symlink_to(home)
    (run / "within").symlink_to("in/new")
    with locked_folder(tmp_path / "run"):
        path = tmp_path / "run" / way
        for act in (lambda: write_text(path, "x"), lambda: append_rows(path, [{}])):
            with pytest.raises(OptionError, match="leads out"):
                act()
        if "linked" in way:
            with pytest.raises(OptionError, match="leads out"):
                remove_file(path)
            with pytest.raises(OptionError, match="leads out"):
                make_folder(path.parent / "new" / "folder")
        write_text(tmp_path / "run" / "within", "mine")
    assert [(each.name, each.read_text()) for each in home.iterdir()] == [("file", "precious")]
    assert (run / "in" / "new").read_text() == "mine"


def test_rows_leave_the_other_names_of_their_file(tmp_path: Path) -> None:
    """A copy of a run made with hard links, or somebody's link to a file elsewhere, stays."""
    rows, other = tmp_path / "rows.jsonl", tmp_path / "backup.jsonl"
    append_rows(rows, [{"a": 1}])
    os.link(rows, other)
    append_rows(rows, [{"a": 2}])
    assert [row["a"] for row in read_rows(rows)] == [1, 2]
    assert [row["a"] for row in read_rows(other)] == [1]
    os.link(rows, tmp_path / "torn.jsonl")
    with (tmp_path / "torn.jsonl").open("a") as stream:
        stream.write('{"a"')
    mend_last_row(rows)
    assert (tmp_path / "torn.jsonl").read_text().endswith('{"a"')
    assert rows.read_text().endswith("}\n")


def test_contents_are_those_of_files_and_their_places(tmp_path: Path) -> None:
    """Another file, place or content is told; hidden files, runs below, pipes and files that cannot
    be read are no hindrance."""
    (tmp_path / "photos/more").mkdir(parents=True)
    for name in ("a", "b", "more/c"):
        (tmp_path / "photos" / name).write_text(name)
    copied = Path(shutil.copytree(tmp_path / "photos", tmp_path / "copy"))
    before = contents_digest([tmp_path / "photos"])
    assert contents_digest([copied, tmp_path / "nothing"]) == before

    (copied / ".hidden").write_text("")
    (copied / "run").mkdir()
    (copied / "run" / LOCK).write_text("")
    (copied / "run/rows.jsonl").write_text("{}")
    os.mkfifo(copied / "pipe")
    assert contents_digest([copied]) == before

    (copied / "a").rename(copied / "d")
    assert contents_digest([copied]) != before
    (copied / "d").rename(copied / "a")
    assert contents_digest([copied]) == before
    (copied / "a").write_text("A")
    assert contents_digest([copied]) != before
    assert contents_digest([copied / "a"]) == contents_digest([copied / "a"]) != ""


def test_contents_of_files_of_any_name(tmp_path: Path) -> None:
    """A name of bytes that are no UTF-8 is a place as any other."""
    names = [os.fsdecode(name) for name in (b"Stra\xdfe", b"Stra\xdee")]
    digests = []
    for name in names:
        (tmp_path / name).write_text("a")
        digests.append(contents_digest([tmp_path]))
        (tmp_path / name).unlink()
    assert len({*digests, ""}) == 3
