"""Progress of long commands where there is no terminal: plain lines every few seconds."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import environment

from physadv_cli import progress
from physadv_cli.runs import RunConsole


class Clock:
    """A clock that a test turns."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that progress reads."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the console is given, as in a pipe."""
    stream = io.StringIO()
    monkeypatch.setattr(
        progress, "console", RunConsole(file=stream, highlight=False, markup=False, width=40)
    )
    return stream


def test_a_line_every_five_seconds_and_at_the_end(clock: Clock, written: io.StringIO) -> None:
    """Steps of one second give a line each five seconds, with the time left, and the last state."""
    with progress.bar() as display:
        task = display.add_task("optimizing", total=12)
        for step in range(1, 13):
            clock.now = float(step)
            display.update(task, completed=step, note=f"loss {1 / step:.2f}")
    assert written.getvalue().splitlines() == [
        "optimizing 5/12, about 7 s left: loss 0.20",
        "optimizing 10/12, about 2 s left: loss 0.10",
        "optimizing 12/12: loss 0.08",
    ]


def test_a_task_of_unknown_length_is_counted(clock: Clock, written: io.StringIO) -> None:
    """Without a total there is a count and no time left; brackets are text."""
    with progress.bar() as display:
        task = display.add_task("reading [all]")
        clock.now = 6.0
        display.update(task, advance=3)
        clock.now = 7.0
        display.update(task, advance=1)
    assert written.getvalue().splitlines() == ["reading [all] 3", "reading [all] 4"]


def test_an_error_does_not_lose_the_last_line(clock: Clock, written: io.StringIO) -> None:
    """Where the work fails, the line tells how far it came."""

    def work() -> None:
        with progress.bar() as display:
            task = display.add_task("judging", total=9)
            display.update(task, completed=4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert written.getvalue().splitlines() == ["judging 4/9"]


def test_what_an_earlier_run_did_shortens_no_estimate(clock: Clock, written: io.StringIO) -> None:
    """A run that goes on from 80 of 100 at 5 s a step needs 95 s for the other 19."""
    with progress.bar() as display:
        task = display.add_task("judging", total=100)
        display.update(task, completed=80)
        clock.now = 5.0
        display.update(task, completed=81)
        clock.now = 6.0
        display.update(task, completed=100)
    lines = written.getvalue().splitlines()
    assert lines == ["judging 81/100, about 2 min left", "judging 100/100"]


def test_a_step_without_a_count_is_announced(written: io.StringIO) -> None:
    """A pipe gets the description that a terminal shows beside a spinner."""
    with progress.status_line("solving for the lens"):
        pass
    assert written.getvalue() == "solving for the lens\n"


def test_a_pipe_sees_progress_of_a_simulation(tmp_path: Path) -> None:
    """A real process whose stderr is a pipe: progress and summary are plain text, without
    colors."""
    command = [sys.executable, "-m", "physadv", "twin", "stop-sticker-signs-v1"]
    done = subprocess.run(
        [*command, "--clips", "1", "--frames", "1", "--out", "t"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "filming (simulation) 1/1: phone" in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stdout == ""
