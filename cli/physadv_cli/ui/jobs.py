"""Commands that the page has started: a process each, with its words, state and last lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread

from physadv.core.errors import OptionError
from physadv.core.visible_text import visible_line

_LINES = 200
"""Last lines that are kept of what a command says."""


@dataclass
class Job:
    """A command with its run folder.

    Attributes:
        title: What it does.
        words: The command line after ``physadv``.
        folder: Folder of its result.
        lines: Last lines that it said.
    """

    title: str
    words: Sequence[str]
    folder: Path
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))
    _process: subprocess.Popen[str] | None = None
    _is_asked_to_stop: bool = False

    def start(self) -> None:
        """Start the command, or go on with it: what is finished is kept by the command itself.

        Raises:
            OptionError: It runs, or cannot be started.
        """
        if self.state == "running":
            raise OptionError(self.title, "it runs already", "Wait, or stop it")
        self._is_asked_to_stop = False
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "physadv", *self.words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "120", "PYTHONUTF8": "1"},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise OptionError(self.title, str(error), "Correct the form") from error
        Thread(target=self._listen, args=(self._process,), daemon=True).start()

    @property
    def state(self) -> str:
        """ "running", "finished", "stopped" (goes on when started again) or "failed"."""
        code = None if self._process is None else self._process.poll()
        if self._process is None or code == 130:
            return "stopped"
        if code is None:
            return "running"
        if self._is_asked_to_stop and code == 0:  # as a patch, which keeps the best so far
            return "stopped"
        return "finished" if code in (0, 3) else "failed"

    def stop(self) -> None:
        """Ask the command to end as Ctrl-C does: it saves what is done."""
        if self._process is not None and self.state == "running":
            self._is_asked_to_stop = True
            if sys.platform == "win32":
                self._process.terminate()
            else:
                self._process.send_signal(signal.SIGINT)

    def wait(self, seconds: float) -> None:
        """Wait until the command has ended, at most ``seconds``."""
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is not None:
            for line in process.stdout:
                self.lines.append(visible_line(line.rstrip()))
        process.wait()
        self.remove_empty_folder()

    def remove_empty_folder(self) -> None:
        """Remove the folder of a command that began nothing, as one at a terminal leaves none."""
        with suppress(OSError):
            self.folder.rmdir()


class Jobs:
    """The commands of a session, the newest last; one runs at a time."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._lock = Lock()

    def all(self) -> list[Job]:
        """Return the commands in their order."""
        return list(self._jobs)

    def run(self, job: Job) -> None:
        """Start ``job``, a new one or one that goes on.

        Raises:
            OptionError: Another command runs.
        """
        with self._lock:
            if any(other.state == "running" for other in self._jobs):
                raise OptionError("One command runs", "One at a time", "Wait, or stop it")
            job.start()
            if job not in self._jobs:
                self._jobs.append(job)

    def close(self) -> None:
        """Stop what runs, as Ctrl-C does, and wait for it."""
        for job in self._jobs:
            job.stop()
        for job in self._jobs:
            job.wait(30.0)
