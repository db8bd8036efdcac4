"""``physadv runs``: the runs of a folder with their results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physadv_cli import options
from physadv_cli.runs import begin_report, print_entry


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command("runs", rich_help_panel=panel)(runs)


def runs(
    folder: Annotated[
        Path, typer.Argument(help="Folder that holds run folders.", metavar="FOLDER")
    ] = Path("runs"),
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """List the runs in a folder, the newest first, each with its result in one line.

    Example: physadv runs

    Example: physadv runs /data/experiments --json
    """
    from physadv.core.errors import OptionError
    from physadv.core.wording import count_noun
    from physadv.report.run_list import list_runs

    run = begin_report("runs", json=json, quiet=quiet, verbose=verbose)
    if not folder.is_dir():
        raise OptionError(f'"{folder}"', "no such folder", "Name the folder that holds your runs")
    found = list_runs(folder)
    for each in found:
        head = f"{each.folder}  {each.command}" + (f" of {each.subject}" if each.subject else "")
        print_entry(head, each.result)
    result = {
        "runs": [
            {
                "folder": str(each.folder),
                "command": each.command,
                "started": each.when.isoformat(timespec="seconds"),
                "subject": each.subject,
                "result": each.result,
            }
            for each in found
        ]
    }
    run.finish(result, f"{count_noun(len(found), 'run')} in {folder}")
