"""``physadv report``: the report of any run, made again from its rows and records."""

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
        Path, typer.Argument(help="Folder of a run, or of a patch.", metavar="FOLDER")
    ],
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser of this machine.")
    ] = False,
    figures: Annotated[
        str,
        typer.Option(
            help="Also write each chart into FOLDER/figures, in these forms: svg, pdf, png.",
            metavar="FORMS",
        ),
    ] = "",
    tables: Annotated[
        str,
        typer.Option(
            help="Also write each table into FOLDER/tables, in these forms: csv, latex, markdown.",
            metavar="FORMS",
        ),
    ] = "",
    before: Annotated[
        Path | None,
        typer.Option(
            help="Of cloaked photos: also show the faces as they were, on a page beside FOLDER.",
            metavar="PHOTOS",
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make the report of a run again, from its raw rows and records.

    Nothing is attacked, filmed or trained. Of a check every table and chart is computed anew; of a
    patch, report.html shows its card: success by distance and angle beside both controls. Of
    cloaked photos it shows these; --before adds a page with the bare faces, for yourself.

    Example: physadv report runs/20260101T120000Z-check

    Example: physadv report runs/signs --figures svg,png --tables csv,latex

    Example: physadv report photos-cloaked --before photos
    """
    from physadv.patches.bundle import CARD
    from physadv.report.check_report import write_check_report
    from physadv.report.page_export import FIGURE_FORMS, TABLE_FORMS, parse_forms
    from physadv.report.rebuild import command_of, rebuild_report
    from physadv.report.run_report import write_before_after

    run = begin_report("report", json=json, quiet=quiet, verbose=verbose)
    drawn = parse_forms(figures, FIGURE_FORMS, "--figures")
    listed = parse_forms(tables, TABLE_FORMS, "--tables")
    with run.held:
        if folder.is_dir() and (command_of(folder) or (folder / CARD).is_file()):
            run.take_folder(folder)  # no other folder gets a lock
        if command_of(folder) == "check" and not (drawn or listed or open_page or before):
            # It tells the result of the check as well.
            report_run(folder, run, write_check_report(folder))
            return
        faces = [] if before is None else [write_before_after(folder, before)]
        page = rebuild_report(folder)
        files = [*_export(page, drawn, listed), *faces]
        if open_page:
            _open(page if before is None else files[-1])
        result = {"run": str(folder), "report": str(page), "files": [str(file) for file in files]}
        run.finish(result, "\n".join(str(line) for line in (*files, f"report: {page}")))


def _export(page: Path, drawn: list[str], listed: list[str]) -> list[Path]:
    """Write the charts and tables of ``page`` in the forms wanted."""
    from physadv.core.members import member_of
    from physadv.core.text import read_text
    from physadv.report.page_export import export_figures, export_tables

    if not drawn and not listed:
        return []
    text, folder = read_text(page), page.parent
    return [
        *export_figures(text, member_of(folder, "figures"), drawn),
        *export_tables(text, member_of(folder, "tables"), listed),
    ]


def _open(page: Path) -> None:
    """Show ``page`` in a browser; a machine without one is told the file's name alone."""
    import webbrowser

    webbrowser.open(page.resolve().as_uri())
