"""One look for every progress bar: what is done, how far, a note, and the time left."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from physadv_cli.runs import console


def bar() -> Progress:
    """A rich progress bar on stderr with a free ``note`` field."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=False,
    )
