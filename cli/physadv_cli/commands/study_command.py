"""`physadv study`: classic experiments, each one command and one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.arithmetic import prepare_torch

app = typer.Typer(no_args_is_help=True)


def register(root: typer.Typer, panel: str) -> None:
    """Attach the command group."""
    root.add_typer(
        app,
        name="study",
        rich_help_panel=panel,
        short_help="Classic experiments with one report each: masked, photographed.",
    )


@app.callback()
def study() -> None:
    """Classic experiments, each one command and one report.

    Example: physadv study masked --data mnist/ --out runs/masked
    """


@app.command("masked")
def masked(
    data: options.Data,
    eps: Annotated[
        str, typer.Option("--eps", help="Radius in l_inf, in units of [0, 1]: 0.2, 8/255.")
    ] = "0.2",
    limit: Annotated[
        int, typer.Option("--limit", help="This many test images are attacked.", min=1)
    ] = 200,
    steps: Annotated[
        int, typer.Option("--steps", help="Steps of PGD, plain and adaptive.", min=1)
    ] = 40,
    queries: Annotated[
        int, typer.Option("--queries", help="Black-box queries an image; 0: none.", min=0)
    ] = 1000,
    train: Annotated[
        int, typer.Option("--train", help="Images the small nets are trained on.", min=10)
    ] = 10_000,
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs of each net.", min=1)] = 4,
    part: Annotated[
        str,
        typer.Option(
            "--part",
            help="Half of the test images: report, or choose, which settings were chosen on.",
        ),
    ] = "report",
    quick: Annotated[
        bool, typer.Option("--quick", help="A few images and steps, to see that it runs.")
    ] = False,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Nine defenses that mask gradients: robustness under a plain attack beside what is left under
    adaptive ones.

    Small nets are trained here, one for each defense, and kept with --out: the same command goes on
    where it stopped.

    Example: physadv study masked --data mnist/ --eps 0.2 --out runs/masked
    """
    from physadv.core.rows import read_rows
    from physadv.report.masked_report import write_masked_report
    from physadv.studies.gradient_masking import study as study_
    from physadv.threat.parsing import parse_eps
    from physadv_cli.runs import finish, open_run

    prepare_torch(threads)
    settings = study_.MaskingConfig(
        data, parse_eps(eps, "linf"), limit, steps, queries, train, epochs, seed, part
    )
    if quick:
        small = min(limit, 20), 5, min(queries, 20), min(train, 512), 1
        settings = study_.MaskingConfig(data, settings.eps, *small, seed, part)
    folder = open_run("study-masked", out, vars(settings))
    stopped = _watch(settings, folder)
    rows = list(read_rows(folder / study_.ROWS)) if (folder / study_.ROWS).is_file() else []
    done = study_.study_result(folder)
    lines = study_.masking_table([r for r in rows if r["defence"] in done])
    result: dict[str, Any] = {
        "table": lines,
        "complete": not stopped,
        "out": str(folder),
        **vars(settings),
    }
    if lines:
        result["report"] = str(write_masked_report(folder, lines, vars(settings)))
        (folder / "table.md").write_text(study_.masking_markdown(rows), encoding="utf-8")
    finish(result, as_json=as_json, summary=_summary(lines, folder, stopped=stopped))
    if stopped:
        raise SystemExit(130)


def _watch(settings: Any, folder: Path) -> bool:
    """Run with a bar; True where Ctrl-C ended it."""
    from physadv.studies.gradient_masking import study as study_
    from physadv_cli.progress import bar

    with bar() as progress:
        work = progress.add_task("defences", total=study_.TOTAL, note="reading data")
        try:
            for stage in study_.run_masking_study(
                settings, folder, lambda note: progress.update(work, note=note)
            ):
                progress.update(work, completed=stage.done, total=stage.total, note=stage.note)
        except KeyboardInterrupt:
            return True
    return False


def _summary(lines: list[dict[str, Any]], folder: Path, *, stopped: bool) -> str:
    """A line a defense: clean, apparent, real."""
    said = ["stopped; the same command with the same --out goes on"] if stopped else []
    if lines:
        said.append(f"{'':32} clean      plain  real   (n = {lines[0]['n']})")
    for line in lines:
        rates = (line[c]["rate"] for c in ("clean", "plain", "real"))
        said.append(
            f"{line['defense']:32}"
            + "{:6.1%}  {:8.1%} {:6.1%}".format(*rates)
            + f"   {line['remedy']}"
        )
    return "\n".join([*said, f"rows, table and report in {folder}"])


@app.command("photographed")
def photographed(
    data: options.Data,
    model: options.Model = "efficientnet-lite0",
    weights: options.Weights = None,
    limit: Annotated[int, typer.Option("--limit", help="This many photos.", min=1)] = 48,
    eps: Annotated[
        list[int] | None, typer.Option("--eps255", help="In 255ths; repeat it. (default: 16, 8)")
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            "--camera",
            help="Cameras of the twin, see `physadv twin --help`; repeat it. (default: phone)",
        ),
    ] = None,
    printer: Annotated[
        str, typer.Option("--printer", help="A printer of the twin.")
    ] = "office-laser",
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Also by the last camera with this effect alone; repeat it."),
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Print and photograph adversarial pictures in simulation: how many still fool the victim
    (Kurakin et al. 2016)?

    The class of a photo is what the victim sees in it on disk. Ctrl-C keeps what is done; the same
    command goes on.

    Example: physadv study photographed --data photos/ --camera phone --printer office-laser --out
    runs/photographed
    """
    from physadv.core.rows import read_rows
    from physadv.defenses.load_model import load_model
    from physadv.studies import photographed_examples as study_
    from physadv_cli.progress import bar
    from physadv_cli.runs import console, finish, open_run

    prepare_torch(threads)
    radii, taken = tuple(eps or (16, 8)), tuple(camera or ("phone",))
    settings = study_.PhotographedConfig(
        data, limit, radii, taken, printer, tuple(only or ()), seed=seed
    )
    loaded = load_model(model, weights=weights)
    folder, stopped = open_run("study-photographed", out, vars(settings)), False
    with bar() as progress:
        work = progress.add_task("photos (simulation)", total=limit, note="")
        try:
            for done, total in study_.run_photographed(settings, loaded, folder):
                progress.update(work, completed=done, total=total)
        except KeyboardInterrupt:
            stopped = True
    rows = list(read_rows(folder / study_.ROWS)) if (folder / study_.ROWS).is_file() else []
    lines = study_.photographed_table(rows)
    (folder / "table.md").write_text(study_.photographed_markdown(lines), encoding="utf-8")
    result = {"simulation": True, "table": lines, "complete": not stopped, "out": str(folder)}
    finish(
        result,
        as_json=as_json,
        summary=f"simulation\n{study_.photographed_markdown(lines)}rows and table in {folder}",
    )
    if stopped:
        console.print("stopped; the same command with the same --out goes on")
        raise SystemExit(130)
