"""``physadv report``: the report of a check, made again from its raw rows, or of a patch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physadv_cli import options
from physadv_cli.checking import report_run
from physadv_cli.runs import begin_report


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command("report", rich_help_panel=panel)(report)


def report(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of a `physadv check` run, or of a patch.", metavar="FOLDER"),
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Rebuild report.html and report.json of a check from its raw rows.

    Every table and chart is computed anew. Of a patch, report.html shows its card: success by
    distance and angle beside both controls, and how far its models see.

    Example: physadv report runs/20260101T120000Z-check
    """
    from physadv.patches.bundle import CARD

    run = begin_report("report", json=json, quiet=quiet, verbose=verbose)
    with run.held:
        if folder.is_dir():
            run.take_folder(folder)
        if not (folder / CARD).is_file():
            report_run(folder, run)
            return

        from physadv.report.patch_report import write_patch_report

        page = write_patch_report(folder)
        run.finish({"run": str(folder), "report": str(page)}, f"report: {page}")
