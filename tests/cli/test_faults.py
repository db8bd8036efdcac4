"""Whatever goes wrong around a command is one line and exit code 1, finished work is kept, and the
command repeated ends as if nothing had happened."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from forked import Faults, Finished, ForkServer, shared_server
from small_commands import (
    FILES,
    READING_COMMANDS,
    SMALL_COMMANDS,
    SmallCommand,
    assert_same,
    result_of,
    write_inputs,
)

from physadv.core.files import LOCK
from physadv.core.run_folder import locked_file, locked_folder
from physadv.studies.registry import ENTRIES
from physadv_cli.help import DEFAULT
from physadv_cli.main import app

BLOCK = 4096
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts small disks of its own")
NAMED_BY_SUFFIX = ("patch preview",)
"""Commands whose result is of the kind that its name ends with, and refused under another one."""
WITHOUT_LOCK = ("init", "models fetch")
"""Commands of which several may run at once: each brings one file, whole."""
IN_EVERY_RUN = ("attack", "models fetch")
"""Commands of the usual suite; all others are slow."""


@dataclass
class World:
    """A folder with inputs, the server of commands, and results of undisturbed runs."""

    folder: Path
    server: ForkServer

    def __post_init__(self) -> None:
        self.undisturbed: dict[str, dict[str, object]] = {}
        self.prepared: set[Callable[[Path], None]] = set()

    def run(self, name: str, out: Path, *words: str, faults: Faults | None = None) -> Finished:
        """Run the small command ``name`` into ``out``."""
        command = self.command(name)
        given = faults or Faults()
        code = command.code_for(out) + given.code.replace("OUT", repr(str(out)))
        return self.server.run(
            self.folder, *command.line(out), *words, faults=replace(given, code=code)
        )

    def command(self, name: str) -> SmallCommand:
        """The small command ``name``, its own inputs being there."""
        self.prepare(name)
        return SMALL_COMMANDS[name]

    def prepare(self, name: str) -> None:
        """Write the command's own inputs, once."""
        command = {**SMALL_COMMANDS, **READING}[name]
        if command.prepare is not None and command.prepare not in self.prepared:
            command.prepare(self.folder)
            self.prepared.add(command.prepare)

    def place(self, name: str, folder: Path) -> Path:
        """Where the command writes in ``folder``, with what it works on there."""
        out = folder / SMALL_COMMANDS[name].out
        self.command(name).set_up(self.folder, out)
        return out

    def expected(self, name: str) -> dict[str, object]:
        """The result of the command when nothing goes wrong."""
        if name not in self.undisturbed:
            shutil.rmtree(self.folder / "undisturbed", ignore_errors=True)
            (self.folder / "undisturbed").mkdir()
            out = self.place(name, self.folder / "undisturbed")
            done = self.run(name, out)
            assert done.code == 0, done.stderr
            self.undisturbed[name] = result_of(out)
        return self.undisturbed[name]

    def repeat(self, name: str, out: Path, rounded: bool = False) -> None:
        """Run the command again without faults; its result is the undisturbed one."""
        expected = self.expected(name)
        self.command(name).set_up(self.folder, out)
        done = self.run(name, out)
        assert done.code == 0, done.stderr
        assert_same(result_of(out), expected, SMALL_COMMANDS[name], rounded)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("faults") / "w"
    folder.mkdir()
    for parent in folder.parents[:3]:
        parent.chmod(0o755)
    write_inputs(folder)
    return World(folder, shared_server())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk of the test's own with options of tmpfs."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no disks can be mounted here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Fill a disk but for ``left`` bytes, and return the file that does."""
    filler = disk / "filler"
    with filler.open("wb") as stream:
        free = os.statvfs(disk).f_bavail * BLOCK - left
        stream.write(bytes(max(0, free)))
    return filler


def commands(*, but: tuple[str, ...] = ()) -> list[object]:
    """All small commands; those that are not in every run are marked slow."""
    return marked([name for name in SMALL_COMMANDS if name not in but], *IN_EVERY_RUN)


def marked(names: Iterable[str], *quick: str) -> list[object]:
    """Names of commands; all but ``quick`` are marked slow."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def test_every_command_is_tried() -> None:
    """Each command stands among those that write or those that only print, but the page, which
    runs them (tests/cli/test_ui.py)."""
    tried = {c.words for c in (*SMALL_COMMANDS.values(), *READING_COMMANDS.values())}
    studies = {("study", entry.name) for entry in ENTRIES}
    for leaf in set(leaves(typer.main.get_command(app))) - {("ui",)}:
        # The lecture's studies share one way to run and to write; one stands for all.
        names = studies if leaf in studies else {leaf}
        assert any(words[: len(name)] == name for words in tried for name in names), leaf


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command at or below ``command``."""
    for name, below in getattr(command, "commands", {}).items():
        yield from leaves(below, words if name == DEFAULT else (*words, name))
    if not hasattr(command, "commands"):
        yield words


@needs_root
@pytest.mark.parametrize("left", [0, 2 * BLOCK, 5 * BLOCK, 16 * BLOCK])
@pytest.mark.parametrize("name", commands())
def test_a_full_disk(world: World, disk: Callable[[str], Path], name: str, left: int) -> None:
    """At the start or in the middle: one line, no torn file, and with space the run goes on."""
    place = disk("size=64m")
    out = world.place(name, place)
    filler = fill(place, left)
    done = world.run(name, out)
    if left == 0 or done.code:
        line = done.error_line()
        assert "No space left" in line or "whole" in line
        assert str(place) in line
    filler.unlink()
    world.repeat(name, out)


@needs_root
@pytest.mark.parametrize("inodes", [2, 4, 7])
@pytest.mark.parametrize("name", commands())
def test_no_inodes_left(world: World, disk: Callable[[str], Path], name: str, inodes: int) -> None:
    """A disk with space but no room for another file."""
    place = disk("size=64m")
    out = world.place(name, place)
    there = sum(1 for _ in place.rglob("*"))
    remount = ["mount", "-o", f"remount,nr_inodes={there + inodes}", str(place)]
    subprocess.run(remount, check=True)
    done = world.run(name, out)
    if done.code:
        assert "No space left" in done.error_line()
    subprocess.run(["mount", "-o", "remount,nr_inodes=10000", str(place)], check=True)
    world.repeat(name, out)


@needs_root
@pytest.mark.parametrize("name", commands())
def test_a_read_only_disk(world: World, disk: Callable[[str], Path], name: str) -> None:
    """A medium that takes no writing."""
    place = disk("size=64m")
    out = world.place(name, place)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    assert "Read-only" in world.run(name, out).error_line()
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    world.repeat(name, out)


@pytest.mark.parametrize("name", commands())
def test_a_file_that_may_not_grow(world: World, tmp_path: Path, name: str) -> None:
    """RLIMIT_FSIZE of 4 kB, as a shell's ulimit sets it."""
    out = world.place(name, tmp_path)
    done = world.run(name, out, faults=Faults(limits={"RLIMIT_FSIZE": 4096}))
    if done.code:
        line = done.error_line()
        assert "File too large" in line or "whole" in line
    world.repeat(name, out)


@needs_root
@pytest.mark.parametrize("name", commands())
def test_no_permission(world: World, tmp_path: Path, name: str) -> None:
    """A folder of somebody else's; root passes permissions, so the run drops that."""
    (tmp_path / "theirs").mkdir(mode=0o755)
    out = world.place(name, tmp_path / "theirs")
    for path in (tmp_path / "theirs", *(tmp_path / "theirs").rglob("*")):
        os.chown(path, 12345, 12345)
    assert "Permission denied" in world.run(name, out, faults=Faults(may_all=False)).error_line()
    world.repeat(name, out)


FAIL_AT = """
import errno, os
calls, real = [0], os.fsync
def failing(descriptor):
    calls[0] += 1
    if calls[0] == NUMBER:
        raise OSError(errno.WHAT, os.strerror(errno.WHAT))
    return real(descriptor)
os.fsync = failing
"""


@pytest.mark.parametrize("number", [1, 3, 6])
@pytest.mark.parametrize("what", ["EDQUOT", "EIO", "ENOSPC"])
@pytest.mark.parametrize("name", commands())
def test_a_disk_that_says_so_late(
    world: World, tmp_path: Path, name: str, what: str, number: int
) -> None:
    """A quota, a network disk or a broken one may report only when data are forced to it."""
    code = FAIL_AT.replace("NUMBER", str(number)).replace("WHAT", what)
    out = world.place(name, tmp_path)
    done = world.run(name, out, faults=Faults(code=code))
    if done.code:
        assert "Check the path" in done.error_line()
    world.repeat(name, out)


VANISH_AT = """
import os, shutil
calls, real = [0], os.fsync
def vanishing(descriptor):
    calls[0] += 1
    if calls[0] == NUMBER:
        shutil.rmtree(OUT)
    return real(descriptor)
os.fsync = vanishing
"""


@pytest.mark.parametrize("number", [2, 6])
@pytest.mark.parametrize("name", commands(but=FILES))
def test_a_folder_that_vanishes(world: World, tmp_path: Path, name: str, number: int) -> None:
    """Removed while the run writes into it: no result is claimed."""
    code = VANISH_AT.replace("NUMBER", str(number))
    out = world.place(name, tmp_path)
    done = world.run(name, out, "--json", faults=Faults(code=code))
    if done.code:
        done.error_line()
        assert done.stdout == ""
    else:  # fewer files than that are written
        assert_same(result_of(out), world.expected(name), SMALL_COMMANDS[name])
    shutil.rmtree(out, ignore_errors=True)
    world.repeat(name, out)


@pytest.mark.parametrize("beside", [4, 24])
@pytest.mark.parametrize("name", commands())
def test_memory_runs_out(world: World, tmp_path: Path, name: str, beside: int) -> None:
    """An address space of a few MiB beside what is loaded."""
    out = world.place(name, tmp_path)
    done = world.run(name, out, faults=Faults(limits={"RLIMIT_AS": beside << 20}))
    if name == "cloak" and "failed; memory ran out" in done.stderr:
        # Photo by photo, with a row each: an error where none could be cloaked.
        assert done.code == (0 if "1 photo cloaked" in done.stderr else 1)
    elif done.code == 127:  # the C library ends a process that has no room for a new thread's data
        assert done.stderr.endswith("cannot allocate memory for thread-local data: ABORT\n")
    elif done.code:
        line = done.error_line()
        assert "Memory ran out" in line or "more memory than there is" in line
    world.repeat(name, out, rounded=True)


@pytest.mark.parametrize("number", [8, 12])
@pytest.mark.parametrize("name", commands())
def test_too_many_open_files(world: World, tmp_path: Path, name: str, number: int) -> None:
    """A limit of a few descriptors."""
    out = world.place(name, tmp_path)
    done = world.run(name, out, faults=Faults(limits={"RLIMIT_NOFILE": number}))
    if done.code:
        done.error_line()
    world.repeat(name, out)


@pytest.mark.parametrize("stdout", ["/dev/full", "closed", "unread"])
@pytest.mark.parametrize("name", commands())
def test_stdout_takes_no_result(world: World, tmp_path: Path, name: str, stdout: str) -> None:
    """The JSON cannot be delivered: one line, but all files are there."""
    out = world.place(name, tmp_path)
    done = world.run(name, out, "--json", faults=Faults(stdout=stdout))
    assert "stdout did not take the result" in done.error_line()
    assert result_of(out).keys() == world.expected(name).keys()
    world.repeat(name, out)


@pytest.mark.parametrize("stderr", ["/dev/full", "closed", "unread"])
@pytest.mark.parametrize("name", commands())
def test_nobody_reads_the_messages(world: World, tmp_path: Path, name: str, stderr: str) -> None:
    """Words for people are lost, and the work is done; nothing of them gets into a file."""
    out = world.place(name, tmp_path)
    done = world.run(name, out, "--json", faults=Faults(stderr=stderr))
    assert done.code == 0
    assert done.stdout.startswith("{")
    assert_same(result_of(out), world.expected(name), SMALL_COMMANDS[name])


def make_device(path: Path) -> None:
    """A device of the test's own that swallows all, as /dev/null."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no devices here")


OBSTACLES: dict[str, Callable[[Path], None]] = {
    "a pipe": lambda p: os.mkfifo(p),
    "a device": make_device,
    "a link to a device": lambda p: (make_device(p.with_name("d")), p.symlink_to("d"))[0],
    "a link in a circle": lambda p: p.symlink_to(p.name),
    "a link to nowhere": lambda p: p.symlink_to("nowhere/at/all"),
}


@needs_root
@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("name", commands())
def test_something_else_stands_at_out(
    world: World, tmp_path: Path, name: str, obstacle: str
) -> None:
    """It is named and stays what it was."""
    out = tmp_path / SMALL_COMMANDS[name].out
    OBSTACLES[obstacle](out)
    before = os.lstat(out)
    done = world.run(name, out)
    if obstacle == "a link to nowhere" and name in FILES:
        assert done.code == 0  # the file that it leads to is made
    else:
        done.error_line()
    assert os.lstat(out).st_ino == before.st_ino
    assert stat.S_IFMT(os.lstat(out).st_mode) == stat.S_IFMT(before.st_mode)


@pytest.mark.parametrize("name", commands(but=NAMED_BY_SUFFIX))
def test_a_name_that_is_too_long(world: World, tmp_path: Path, name: str) -> None:
    """256 bytes: one line, before any work."""
    done = world.run(name, tmp_path / ("x" * 256))
    assert "File name too long" in done.error_line()


@pytest.mark.parametrize("form", ["x" * 251 + ".pdf", "\udcff\udcfe.pdf", " .pdf ", "a\nb.pdf"])
@pytest.mark.parametrize("name", commands(but=NAMED_BY_SUFFIX))
def test_any_other_name(world: World, tmp_path: Path, name: str, form: str) -> None:
    """255 bytes, bytes that are no UTF-8, spaces and line breaks: the usual result."""
    out = tmp_path / form
    world.command(name).set_up(world.folder, out)
    done = world.run(name, out)
    assert done.code == 0, done.stderr
    expected = world.expected(name)
    assert len(result_of(out)) == len(expected)


HELP = {
    "--help": SmallCommand(("--help",)),
    "--version": SmallCommand(("--version",)),
    "attack --help": SmallCommand(("attack", "--help")),
}
READING = {**HELP, **READING_COMMANDS}
"""Commands whose result goes to stdout alone."""
QUICK_READING = tuple(
    name
    for name in READING
    if name not in ("patch verify", "patch visibility", "runs", "compare", "patch list")
)


def run_reading(world: World, name: str, faults: Faults | None = None) -> Finished:
    """Run a command that writes no file."""
    world.prepare(name)
    command, given = READING[name], faults or Faults()
    words = command.words if name in HELP else (*command.words, "--json")
    return world.server.run(
        world.folder, *words, faults=replace(given, code=command.code + given.code)
    )


@pytest.mark.parametrize("stdout", ["/dev/full", "closed", "unread"])
@pytest.mark.parametrize("name", marked(READING, *QUICK_READING))
def test_stdout_of_commands_that_only_print(world: World, name: str, stdout: str) -> None:
    """No result, no success: exit code 1 and one line, never a traceback."""
    done = run_reading(world, name, Faults(stdout=stdout))
    assert done.code == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if stdout != "unread":  # where a pager was quit, nothing more need be said
        done.error_line()


@pytest.mark.parametrize("stderr", ["/dev/full", "closed", "unread"])
@pytest.mark.parametrize("name", marked(READING, *QUICK_READING))
def test_stderr_of_commands_that_only_print(world: World, name: str, stderr: str) -> None:
    """The result on stdout is the same."""
    whole = run_reading(world, name)
    done = run_reading(world, name, Faults(stderr=stderr))
    assert (done.code, _without_numbers(done)) == (whole.code, _without_numbers(whole))


def _without_numbers(done: Any) -> str:
    """What was printed, but for numbers: two runs take different times."""
    return re.sub(r"\d+(\.\d+)?", "0", done.stdout)


@pytest.mark.parametrize(
    "limits",
    [{"RLIMIT_AS": 4 << 20}, {"RLIMIT_AS": 24 << 20}, {"RLIMIT_NOFILE": 8}, {"RLIMIT_NOFILE": 12}],
    ids=lambda limits: " ".join(f"{name} {value}" for name, value in limits.items()),
)
@pytest.mark.parametrize("name", marked(READING_COMMANDS, "models show"))
def test_limits_of_commands_that_only_print(
    world: World, name: str, limits: dict[str, int]
) -> None:
    """Without memory or descriptors: the result, or one line and nothing on stdout."""
    done = run_reading(world, name, Faults(limits=limits))
    if done.code == 127:  # the C library ends a process that has no room for a new thread's data
        assert done.stderr.endswith("cannot allocate memory for thread-local data: ABORT\n")
    elif done.code:
        done.error_line()
    assert bool(done.stdout) == (done.code == 0)


@needs_root
@pytest.mark.parametrize("name", marked(READING_COMMANDS, "models show"))
def test_commands_that_only_print_write_nothing(
    world: World, disk: Callable[[str], Path], name: str
) -> None:
    """They run on a medium that takes no writing as anywhere."""
    place = disk("size=64m")
    world.prepare(name)
    shutil.copytree(world.folder, place / "w")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    command = READING_COMMANDS[name]
    done = world.server.run(place / "w", *command.words, "--json", faults=Faults(code=command.code))
    # The doctor finds that no runs folder can be made there, which is what it is for.
    assert done.code == (1 if name == "doctor" else 0), done.stderr
    assert done.stdout.startswith("{")


@pytest.mark.parametrize("name", commands(but=WITHOUT_LOCK))
def test_a_place_in_use(world: World, tmp_path: Path, name: str) -> None:
    """While another process writes there the command is refused; afterwards it runs."""
    out = world.place(name, tmp_path)
    if out.suffix:
        holder = locked_file(out)
    else:
        out.mkdir(exist_ok=True)
        holder = locked_folder(out)
    with holder:
        line = world.run(name, out).error_line()
        assert f"by process {os.getpid()}" in line
    world.repeat(name, out)


NO_LOCKS = """
import errno, fcntl, os
import physadv.core.files as files
def failing(*_):
    raise OSError(errno.WHAT, os.strerror(errno.WHAT))
fcntl.flock = files.flock = failing
"""


@pytest.mark.parametrize("what", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
@pytest.mark.parametrize("name", commands())
def test_a_disk_without_locks(world: World, tmp_path: Path, name: str, what: str) -> None:
    """As some network drives are: the usual result, and again with the same command."""
    code = NO_LOCKS.replace("WHAT", what)
    out = world.place(name, tmp_path)
    for _ in range(2):
        done = world.run(name, out, faults=Faults(code=code))
        assert done.code == 0, done.stderr
        assert_same(result_of(out), world.expected(name), SMALL_COMMANDS[name])


@needs_root
@pytest.mark.parametrize("name", commands(but=(*FILES, *WITHOUT_LOCK)))
def test_a_lock_of_somebody_elses(world: World, tmp_path: Path, name: str) -> None:
    """A lock that may not be written, in a folder that may."""
    out = world.place(name, tmp_path)
    out.mkdir(exist_ok=True)
    (out / LOCK).touch(mode=0o444)
    os.chown(out / LOCK, 12345, 12345)
    line = world.run(name, out, faults=Faults(may_all=False)).error_line()
    assert "Permission denied" in line
    assert LOCK in line
    world.repeat(name, out)


@needs_root
@pytest.mark.parametrize("name", ["calibrate chart"])
def test_a_file_that_is_a_disk_of_its_own(world: World, tmp_path: Path, name: str) -> None:
    """One file lent to a container cannot be replaced: one line, and it stays what it was."""
    (tmp_path / "outside").write_text("precious")
    out = tmp_path / SMALL_COMMANDS[name].out
    out.touch()
    if subprocess.run(["mount", "--bind", tmp_path / "outside", out], check=False).returncode:
        pytest.skip("no file can be mounted here")
    try:
        line = world.run(name, out, "--overwrite").error_line()
    finally:
        subprocess.run(["umount", out], check=True)
    assert str(out) in line
    assert (tmp_path / "outside").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".physadv")] == []


@needs_root
@pytest.mark.parametrize("name", ["calibrate chart"])
def test_a_link_to_another_disk(
    world: World, disk: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """The file is written beside its place, not beside the link, so that it can be moved there."""
    place = disk("size=64m")
    out = tmp_path / SMALL_COMMANDS[name].out
    out.symlink_to(place / out.name)
    done = world.run(name, out)
    assert done.code == 0, done.stderr
    assert out.is_symlink()
    assert (place / out.name).is_file()


@needs_root
@pytest.mark.parametrize("name", ["attack"])
def test_a_run_folder_that_is_a_disk(
    world: World, disk: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """As a container's: the earlier run is set aside on the disk around it, whole."""
    out = disk("size=64m")
    assert world.run(name, out).code == 0
    earlier = result_of(out)
    done = world.run(name, out, "--steps", "2", "--overwrite")
    assert done.code == 0, done.stderr
    assert result_of(out.with_name(f"{out.name}-replaced-1")) == earlier
    assert "steps = 2" in (out / "config.toml").read_text()


@pytest.mark.parametrize("link", ["rows.jsonl", "report.html", "config.toml", ".physadv.lock"])
@pytest.mark.parametrize("name", commands(but=FILES))
def test_a_link_out_of_the_folder(world: World, tmp_path: Path, name: str, link: str) -> None:
    """A run folder of somebody else's does not make this run write to the user's files."""
    out, victim = world.place(name, tmp_path), tmp_path / "bashrc"
    victim.write_text("")
    out.mkdir(exist_ok=True)
    (out / link).unlink(missing_ok=True)
    (out / link).symlink_to("../bashrc")
    done = world.run(name, out)
    if done.code:
        done.error_line()
    else:  # it writes no such file, or a file of its own in the link's place
        assert link not in SMALL_COMMANDS[name].finished or not (out / link).is_symlink()
    assert victim.read_text() == ""


def test_a_report_does_not_follow_a_link(world: World, tmp_path: Path) -> None:
    """Neither does `physadv report`, of a bundle and of a check."""
    (tmp_path / "bashrc").write_text("precious")
    prepare = SMALL_COMMANDS["report of a bundle"].prepare
    assert prepare is not None
    prepare(tmp_path)
    (tmp_path / "measured" / "report.html").symlink_to("../bashrc")
    done = world.server.run(tmp_path, "report", "measured")
    assert "link" in done.error_line()
    assert (tmp_path / "bashrc").read_text() == "precious"


@pytest.mark.parametrize("when", ["first", "repeated"])
def test_a_sheet_that_fails_leaves_no_record(world: World, tmp_path: Path, when: str) -> None:
    """The record goes before the sheet, for a kill in between, and back where the sheet fails."""
    out = tmp_path / "out.pdf"
    if when == "repeated":
        assert world.run("print", out).code == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    code = "import physadv.printing.sheet as s\ndef fail(*a, **k): raise OSError(28, 'full')\n"
    code += "s.finish_document = fail\n"
    more = ("--overwrite", "--bleed", "2") if when == "repeated" else ()
    world.run("print", out, *more, faults=Faults(code=code)).error_line()
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    assert after == before


def test_a_report_without_rates_is_one_line(world: World) -> None:
    """A bundle that was made from Python and never measured has nothing to report."""
    done = world.server.run(world.folder, "report", "sticker")
    assert "holds no rates" in done.error_line()
