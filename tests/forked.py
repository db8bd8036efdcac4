"""Commands in processes forked from one that has imported everything: hundreds of faults and kills
in the time of a few starts."""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from commandline import environment

LIMIT_S = 500.0
"""A command that takes longer is killed and counts as hung."""


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit code, negative for a signal, and what it printed."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    def error_line(self) -> str:
        """The one line of an error; fails where the command ended in another way."""
        assert self.code == 1, (self.code, self.stderr)
        assert "Traceback" not in self.stderr, self.stderr
        assert "Exception ignored" not in self.stderr, self.stderr
        lines = [line for line in self.stderr.splitlines() if line.startswith("physadv: ")]
        assert len(lines) == 1, self.stderr
        assert self.stderr.rstrip().endswith(lines[0]), self.stderr
        return lines[0]


@dataclass(frozen=True)
class Faults:
    """What is wrong around a command.

    Attributes:
        stdout: File for stdout; None leaves it to the test, "closed" closes it, and "unread" is a
            pipe whose reader has gone.
        stderr: The same for stderr.
        limits: Resource limits of the operating system by name, as {"RLIMIT_FSIZE": 2048}.
            RLIMIT_AS is what may be allocated beside what the process has.
        may_all: Whether root may write everywhere; without, permissions hold for it too.
        code: Python run before the command.
        kill: Signal and seconds after which it is sent; None for none.
    """

    stdout: str | None = None
    stderr: str | None = None
    limits: dict[str, int] = field(default_factory=dict)
    may_all: bool = True
    code: str = ""
    kill: tuple[int, float] | None = None


class ForkServer:
    """A process that runs commands in forks of itself.

    Example:
        with ForkServer() as server:
            server.run(folder, "models", "list")
    """

    def __init__(self) -> None:
        self._logs, self._count = tempfile.TemporaryDirectory(), 0

    def __enter__(self) -> Self:
        """Start the process and wait until everything is imported."""
        self._process = subprocess.Popen(
            [sys.executable, "-u", __file__],
            env={**environment(), "PYTHONPATH": _python_path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._logs.cleanup()

    def run(self, folder: Path, *words: str, faults: Faults | None = None) -> Finished:
        """Run ``physadv`` with ``words`` in ``folder`` under ``faults``."""
        given = faults or Faults()
        # A test that ran out of time leaves its command running: it writes and answers later on.
        self._count += 1
        logs = Path(self._logs.name, f"{self._count}")
        logs.mkdir()
        request = {
            **given.__dict__,
            "number": self._count,
            "folder": str(folder),
            "words": words,
            "environment": environment(),
            "stdout": given.stdout or str(logs / "stdout"),
            "stderr": given.stderr or str(logs / "stderr"),
        }
        for name in ("stdout", "stderr"):
            (logs / name).write_text("")
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        number = 0
        while number != self._count:
            number, code, seconds = json.loads(self._answer())
        return Finished(code, _text(logs / "stdout"), _text(logs / "stderr"), seconds)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@cache
def shared_server() -> ForkServer:
    """The server of all tests that set up nothing of their own in it; it ends with them."""
    server = ForkServer().__enter__()
    atexit.register(server.__exit__, None, None, None)
    return server


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _python_path() -> str:
    return os.pathsep.join([str(Path(__file__).parent), environment()["PYTHONPATH"]])


def _serve() -> None:
    """Fork a command for each line of stdin and answer with its exit code and seconds."""
    from physadv_cli import main as entry

    _import_everything()
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            answers.close()
            _run(entry.main, request)
        code = _wait(child, request["kill"])
        answer = [request["number"], code, time.monotonic() - began]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _import_everything() -> None:
    """Import all modules that commands import later, so that a fork need not."""
    import importlib
    import pkgutil

    import torch
    import torch._dynamo  # which torch imports for the first optimizer: a second and more

    import physadv
    import physadv_cli
    from physadv_cli.commands.doctor_command import ESSENTIAL

    torch.set_num_threads(1)
    for name in ESSENTIAL.values():
        importlib.import_module(name)
    for package in (physadv, physadv_cli):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def _wait(child: int, kill: Sequence[float] | None) -> int:
    """Wait for ``child``, sending the signal of ``kill`` at its time; its exit code."""
    until = time.monotonic() + (kill[1] if kill else LIMIT_S)
    sent = False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            os.kill(child, signal.SIGKILL if sent or not kill else int(kill[0]))
            sent, until = True, time.monotonic() + LIMIT_S
        time.sleep(0.001)


def _run(main: Any, request: dict[str, Any]) -> NoReturn:
    """Be the command: take the faults on, run it, and end the process as Python does."""
    code = 0
    try:
        _take_on(request)
        sys.argv = ["physadv", *request["words"]]
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # what a user would see as a traceback
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = 120
    os._exit(code)


def _take_on(request: dict[str, Any]) -> None:
    import torch

    # The first use after a fork makes torch's pool of threads anew; two threads that use it first
    # at once would fail there ("Invalid thread pool").
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    _open_as(0, os.devnull, os.O_RDONLY)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        place = request[name]
        if place == "closed":
            os.close(descriptor)
            setattr(sys, name, None)
            setattr(sys, f"__{name}__", None)
        elif place == "unread":
            reader, writer = os.pipe()
            os.dup2(writer, descriptor)
            os.close(reader)
            os.close(writer)
        else:
            _open_as(descriptor, place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    exec(request["code"], {})
    if not request["may_all"]:
        _drop_capabilities()
    for name, value in request["limits"].items():
        if name == "RLIMIT_AS":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            value += pages * resource.getpagesize()
        resource.setrlimit(getattr(resource, name), (value, value))


def _drop_capabilities() -> None:
    """Give up what lets root pass permissions, by capset(2), version 3, of this process."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def _open_as(descriptor: int, place: str, flags: int) -> None:
    opened = os.open(place, flags, 0o666)
    os.dup2(opened, descriptor)
    os.close(opened)


if __name__ == "__main__":
    _serve()
