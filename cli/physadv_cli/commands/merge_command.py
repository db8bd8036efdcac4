"""``physadv merge``: the shards of one run, joined to a run folder that the command resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physadv.core.wording import count_noun
from physadv_cli import options
from physadv_cli.runs import begin_report, console


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command("merge", rich_help_panel=panel)(merge)


def merge(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of the shards, complete or not.", metavar="RUN...")
    ],
    out: Annotated[Path, options.out_option("")],
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Join the folders of one run that was divided by --shard (attack, evaluate, certify).

    No row is lost and none counts twice. The command itself, repeated with the merged folder as
    --out and without --shard, does what is missing and writes the report.

    Example: physadv merge runs/shard-1 runs/shard-2 --out runs/whole
    """
    from physadv.core.run_folder import set_aside
    from physadv.evaluation.merge_runs import holds_other_run, merge_runs
    from physadv.evaluation.progress_log import IDENTITY

    run = begin_report("merge", json=json, quiet=quiet, verbose=verbose)
    with run.held:
        for folder in {folder.resolve(): folder for folder in runs if folder.is_dir()}.values():
            if (folder / IDENTITY).is_file():  # no other folder gets a lock
                run.take_folder(folder)  # a shard that still runs is not read
        run.take_folder(out)
        if overwrite and holds_other_run(runs[0], out):
            console.print(f"the earlier run is kept in {set_aside(out)}")
        merged = merge_runs(runs, out)
        result = {
            "command": merged.command,
            "done": merged.done,
            "images": merged.images,
            "complete": merged.is_complete,
            "out": str(out),
        }
        rest = "the report" if merged.is_complete else "the rest and the report"
        run.finish(
            result,
            f"{merged.done} of {count_noun(merged.images, 'image')} in {out}\n"
            f"for {rest}, repeat `physadv {merged.command}` as for the shards, without --shard "
            f"and with --out {out}",
        )
