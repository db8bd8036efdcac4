"""Progress of long commands: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Protocol, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from physadv_cli.runs import console

SECONDS_BETWEEN_LINES = 5.0


class ProgressDisplay(Protocol):
    """The part of rich's ``Progress`` that commands use."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def add_task(self, description: str, *, total: float | None = None, note: str = "") -> TaskID:
        """Begin a task of ``total`` steps, called ``description``, and return its number."""
        ...

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Set ``completed``, ``total``, ``description`` or ``note`` of a task, or ``advance``
        it."""
        ...


class PlainProgress:
    """Progress as text lines for logs and pipes: at the start, every few seconds and at the end.

    Example:
        ``optimizing 120/400, about 40 s left: loss 1.204``
    """

    def __init__(self, seconds_between: float = SECONDS_BETWEEN_LINES) -> None:
        self._seconds_between = seconds_between
        self._tasks: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        """Return the display itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the last state of each task that has changed since its last line."""
        for task in self._tasks:
            if task["unwritten"]:
                self._write(task)

    def add_task(self, description: str, *, total: float | None = None, note: str = "") -> TaskID:
        """Begin a task of ``total`` steps, called ``description``, and return its number.

        ``note`` is what its lines end with.
        """
        now = time.monotonic()
        task = {"description": description, "total": total, "note": note, "completed": 0}
        task |= {"began": now, "base": None, "written": now, "unwritten": True}
        self._tasks.append(task)
        return TaskID(len(self._tasks) - 1)

    def update(self, task_id: TaskID, *, advance: float = 0, **changes: Any) -> None:
        """Change a task: ``advance`` its count, or set the fields in ``changes``."""
        task = self._tasks[task_id]
        if task["base"] is None and changes.get("completed") is not None:
            # What an earlier run has done, or the first step: it took no time that is known.
            task["base"], task["began"] = changes["completed"], time.monotonic()
        task.update({key: value for key, value in changes.items() if value is not None})
        task["completed"] += advance
        task["unwritten"] = True
        if time.monotonic() - task["written"] >= self._seconds_between:
            self._write(task)

    def _write(self, task: dict[str, Any]) -> None:
        now = time.monotonic()
        task["written"], task["unwritten"] = now, False
        count, total = task["completed"], task["total"]
        line = f"{task['description']} {count:.0f}" + (f"/{total:.0f}" if total else "")
        done = count - (task["base"] or 0)
        if total and done > 0 and count < total:
            left = (now - task["began"]) * (total - count) / done
            line += f", about {_duration(left)} left"
        if task["note"]:
            line += f": {task['note']}"
        console.print(line, soft_wrap=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def bar(*, transient: bool = False) -> ProgressDisplay:
    """Return a progress display on stderr, to be used in a ``with`` statement.

    On a terminal it is a bar with count, note and time left, removed at the end where
    ``transient``; elsewhere a plain line every few seconds.
    """
    if not console.is_terminal:
        return PlainProgress()
    return _TerminalProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
    )


def status_line(description: str) -> AbstractContextManager[object]:
    """Return a display of a step without a count, to be used in a ``with`` statement.

    On a terminal it is a spinner beside ``description``; elsewhere the description on a line.
    """
    if console.is_terminal:
        return console.status(Text(description))
    console.print(description)
    return nullcontext()


class _TerminalProgress(Progress):
    """rich's progress with a note for every task."""

    def add_task(
        self,
        description: str,
        start: bool = True,
        total: float | None = None,
        completed: int = 0,
        visible: bool = True,
        **fields: Any,
    ) -> TaskID:
        return super().add_task(
            description, start, total, completed, visible, **{"note": "", **fields}
        )
