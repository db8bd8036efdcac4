"""The kernel's own record of commands: no network, and nothing written outside ``--out``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import environment, write_colors

STRACE = shutil.which("strace")
FILE_CALLS = frozenset(
    {"open", "openat", "openat2", "creat", "mkdir", "mkdirat", "mknod", "mknodat", "truncate"}
    | {"rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "link", "linkat"}
    | {"symlink", "symlinkat", "chmod", "fchmodat", "chown", "fchownat", "utimensat", "setxattr"}
)
CALLS = ",".join(["network", *sorted(FILE_CALLS)])
DEVICES = ("/dev/null", "/dev/tty", "/dev/pts/", "/dev/shm/", "/proc/self/", "/proc/thread-self/")
OPENED_TO_WRITE = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND")
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')


def can_trace() -> str:
    """Why commands cannot be traced here; empty where they can."""
    if STRACE is None:
        return "strace is not installed (apt-get install strace)"
    tried = subprocess.run([STRACE, "-f", "true"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"strace may not trace here: {tried.stderr[:80]}"


pytestmark = pytest.mark.skipif(bool(can_trace()), reason=can_trace() or "traced")


def traced(folder: Path, *words: str) -> list[str]:
    """The system calls of the command that succeeded, in ``folder``."""
    log = folder.parent / "strace.log"
    home, scratch = folder.parent / "home", folder.parent / "tmp"
    for place in (home, scratch):
        place.mkdir(exist_ok=True)
    surroundings = {
        **environment(),
        "HOME": str(home),
        "TMPDIR": str(scratch),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "PYTHONDONTWRITEBYTECODE": "1",  # an installed package is compiled already
    }
    surroundings.pop("PHYSADV_CACHE", None)
    command = [sys.executable, "-m", "physadv_cli.main", *words]
    assert STRACE is not None
    done = subprocess.run(
        [STRACE, "-f", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(log), *command],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def is_network(line: str) -> bool:
    """Whether a call opens, uses or asks for a socket that leaves this machine or waits on it.

    Asking this machine for the user's name (nscd, over AF_UNIX) is none.
    """
    return re.search(r"AF_INET6?|AF_PACKET|AF_NETLINK|AF_BLUETOOTH", line) is not None


def written(line: str, folder: Path) -> list[Path]:
    """The paths that a call writes, makes, moves or removes; none of a call that failed."""
    call = re.match(r"\d+\s+(\w+)\(", line)
    if call is None or call[1] not in FILE_CALLS or re.search(r"= -1 E\w+", line):
        return []
    if call[1].startswith("open") and not OPENED_TO_WRITE.search(line):
        return []
    base = re.search(r"AT_FDCWD<([^>]*)>", line)
    start = Path(base[1]) if base else folder
    texts = [
        text.encode().decode("unicode_escape").encode("latin-1") for text in TEXT.findall(line)
    ]
    return [start / os.fsdecode(text) for text in texts[:2]]


def outside(lines: list[str], folder: Path, out: Path) -> list[str]:
    """The calls that write anywhere but in ``out`` and in the folder for temporary files."""
    allowed = (str(out), str(folder.parent / "tmp"))
    wrong = []
    for line in lines:
        for path in written(line, folder):
            text = os.path.normpath(path)
            inside = any(text == place or text.startswith(place + os.sep) for place in allowed)
            if not inside and not text.startswith(DEVICES):
                wrong.append(line[:300])
    return wrong


def left_behind(folder: Path) -> list[Path]:
    """What is still there of temporary files, and in the home folder."""
    places = (folder.parent / "tmp", folder.parent / "home")
    return [path for place in places for path in place.rglob("*") if path.is_file()]


def assert_quiet(folder: Path, out: str, *words: str) -> None:
    lines = traced(folder, *words)
    assert len(lines) > 100  # something was traced
    assert [line for line in lines if is_network(line)] == []
    assert outside(lines, folder, folder / out) == []
    assert left_behind(folder) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with pictures in it."""
    place = tmp_path / "here"
    write_colors(place / "data", count=3, side=64, values=(0, 200), lead=20)
    (place / "own.py").write_text(OWN, encoding="utf-8")
    return place


def test_the_trace_sees_what_it_should(tmp_path: Path) -> None:
    """A program that asks for a socket and writes beside its folder is found out."""
    code = (
        "import socket, pathlib\n"
        "socket.socket().connect_ex(('127.0.0.1', 9))\n"
        "pathlib.Path('../beside').write_text('x')\n"
        "pathlib.Path('inside').write_text('x')\n"
    )
    here, log = tmp_path / "here", tmp_path / "log"
    here.mkdir()
    assert STRACE is not None
    command = [
        STRACE,
        "-f",
        "-y",
        "-e",
        f"trace={CALLS}",
        "-o",
        str(log),
        sys.executable,
        "-c",
        code,
    ]
    subprocess.run(command, cwd=here, check=True)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    assert any(is_network(line) for line in lines)
    assert len(outside(lines, here, here)) == 1


def test_a_whole_demo_is_quiet(folder: Path) -> None:
    """Patch, print, twin and check, in one command."""
    small = ("--steps", "1", "--clips", "1", "--frames", "2")
    assert_quiet(folder, "out", "demo", *small, "--out", "out")


OWN = """
import torch
from physadv import as_model

def make():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return as_model(net, classes=["red", "green", "blue"])
"""
SIGN = "stop-sticker-signs-v1"
LINF = ("--threat", "linf:4/255", "--device", "cpu")
COMMANDS = {
    "patch": ("out", "patch", "--steps", "1", "--draws", "2", "--test-draws", "2", "--out", "out"),
    "patch verify": ("", "patch", "verify", SIGN, "--test-draws", "2"),
    "patch show": ("", "patch", "show", SIGN),
    "patch transfer": (
        *("out", "patch", "transfer", SIGN, "--model", "signs", "--test-draws", "2"),
        *("--out", "out"),
    ),
    "print": ("out", "print", SIGN, "--paper", "a3", "--out", "out/sheet.pdf"),
    "models list": ("", "models", "list"),
    "models check": ("", "models", "check", "signs", "--device", "cpu"),
    "calibrate chart": ("out", "calibrate", "chart", "--out", "out/chart.pdf"),
    "train": (
        *("out", "train", "--data", "data", "--defense", "standard", "--epochs", "1"),
        *("--batch-size", "2", "--out", "out", "--device", "cpu"),
    ),
    "evaluate": (
        *("out", "evaluate", "--model", "own:make", "--data", "data", *LINF),
        *("--out", "out"),
    ),
    "study": (
        *("out", "study", "photographed", "--model", "signs", "--pictures", "data/red"),
        *("--eps255", "8", "--camera", "phone", "--printer", "ideal", "--out", "out"),
    ),
}
DAILY = ("models list",)


@pytest.mark.parametrize(
    "command",
    [name if name in DAILY else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS],
)
def test_a_command_is_quiet(folder: Path, command: str) -> None:
    """Commands that write nothing, one file, or a folder."""
    out, *words = COMMANDS[command]
    assert_quiet(folder, out or "nothing", *words)
