"""`physadv report`: build the report of a run again, from its raw rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physadv_cli.checking import report_run
from physadv_cli.options import Json


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command."""
    app.command("report", rich_help_panel=panel)(report)


def report(
    run_dir: Annotated[
        Path, typer.Argument(help="Folder of a `physadv check` run.", metavar="RUN_DIR")
    ],
    json: Json = False,
) -> None:
    """Rebuild report.html and report.json of a check from rows.jsonl; every table and chart is
    computed anew.

    Example: physadv report runs/20260101T120000Z-check
    """
    report_run(run_dir, as_json=json)
