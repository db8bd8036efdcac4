"""``physadv compare``: what changed from a baseline to another run, with an interval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physadv.core.wording import count_noun
from physadv_cli import options
from physadv_cli.gate import NOT_MET
from physadv_cli.runs import begin_report, console, print_entry


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command("compare", rich_help_panel=panel)(compare)


def compare(
    baseline: Annotated[
        Path, typer.Argument(help="Folder of the run to compare with.", metavar="BASELINE")
    ],
    folder: Annotated[
        Path, typer.Argument(help="Folder of the run that is judged.", metavar="RUN")
    ],
    forbid_weaker: Annotated[
        bool,
        typer.Option(
            "--forbid-weaker",
            help="End with exit code 3 where a figure is clearly weaker.",
            rich_help_panel="Output",
        ),
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Tell what changed from a baseline to another run of attack, evaluate, certify or check.

    The same images are compared in pairs. A change is called weaker or stronger only where its 95 %
    interval excludes no change; only the model may differ between the runs.

    Example: physadv compare runs/before runs/after --forbid-weaker

    Example: physadv compare runs/before runs/after --json
    """
    from physadv.core.visible_text import visible_line
    from physadv.report.run_comparison import compare_runs, read_figures

    run = begin_report("compare", json=json, quiet=quiet, verbose=verbose)
    before, after = read_figures(baseline), read_figures(folder)
    changes = compare_runs(before, after)
    for side, name in ((before, "baseline"), (after, "run")):
        console.print(visible_line(f"{name:12}{side.subject}  ({side.folder})"), soft_wrap=True)
    if changes and changes[0].change.paired:
        console.print(
            f"{count_noun(changes[0].before.n, 'image')} that both have, compared in pairs"
        )
    weaker = [change.name for change in changes if change.verdict == "weaker"]
    result = {
        "baseline": str(baseline),
        "run": str(folder),
        "changes": [change.as_dict() for change in changes],
        "weaker": weaker,
    }
    for change in changes:
        print_entry(change.headline, change.detail)
    clear = [change.name for change in changes if change.change.is_clear]
    run.finish(result, f"clear changes: {', '.join(clear) or 'none'}")
    if weaker and forbid_weaker:
        raise SystemExit(NOT_MET)
