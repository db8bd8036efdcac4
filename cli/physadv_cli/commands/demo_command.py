"""`physadv demo`: the whole journey on embedded defaults, from model to printed sheet to camera
check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.runs import console, finish, open_run

if TYPE_CHECKING:
    from physadv.patches.sticker_run import StickerSettings


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command."""
    app.command("demo", rich_help_panel=panel)(demo)


def demo(
    steps: Annotated[int, typer.Option(help="Optimisation steps of the sticker.", min=1)] = 300,
    clips: Annotated[int, typer.Option(help="Simulated clips of each block.", min=1)] = 8,
    frames: Annotated[int, typer.Option(help="Frames a clip.", min=1)] = 20,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """The whole journey: optimize a stop-sign sticker, lay out its sheet, film it in simulation,
    check it, report.

    Needs no photo, no network, no GPU and opens nothing by itself.

    Example: physadv demo --out runs/demo
    """
    from physadv.demo import demo_settings

    folder = open_run("demo", out, {"steps": steps, "clips": clips, "frames": frames, "seed": seed})
    settings = demo_settings(steps=steps, seed=seed)
    result = travel(settings, folder, clips=clips, frames=frames, threads=threads)
    finish(result, as_json=as_json, summary=in_words(result))


def travel(
    settings: StickerSettings, folder: Path, *, clips: int, frames: int, threads: int
) -> dict[str, Any]:
    """Run the stations one after the other in ``folder``; what is finished stays, and the
    optimization resumes."""
    from physadv.demo import film, judge, lay_out
    from physadv_cli.arithmetic import prepare_torch
    from physadv_cli.commands.patch_command import run_sticker
    from physadv_cli.progress import bar

    prepare_torch(threads)
    console.print("[bold]1/4[/] optimize the sticker")
    made, _ = run_sticker(settings, folder / "bundle")
    console.print("[bold]2/4[/] lay out the sheet")
    sheet = lay_out(folder)
    console.print("[bold]3/4[/] print and film it [dim](simulation)[/]")
    with bar() as progress:
        work = progress.add_task("filming", total=clips, note="")
        for clip in film(folder, sheet, clips=clips, frames=frames, seed=settings.seed):
            progress.update(work, completed=clip.number + 1, note=clip.camera)
    console.print("[bold]4/4[/] check it as a camera would")
    with bar() as progress:
        work = progress.add_task("judging frames", total=3 * clips * frames, note="")
        steps = judge(folder, settings)
        for step in steps:
            progress.update(work, completed=step.judged)
    from physadv.report.check_report import write_check_report

    report = write_check_report(folder / "check")
    return {
        "sheet": str(sheet),
        "report": str(report.html),
        "report_json": str(report.json),
        "bundle": made["bundle"],
        "preview": made["preview"],
        "twin": str(folder / "twin"),
        "simulation": True,
        "heldout": made["success"],
        "area_share": made["area_share"],
        "headline": report.summary["headline"],
        "blocks": report.summary["blocks"],
    }


def in_words(result: dict[str, Any]) -> str:
    """The two paths and one line of result."""
    blocks = result["blocks"]
    seen = {name: f"{block['true_class_rate']:.0%}" for name, block in blocks.items()}
    hit = blocks["patch"]
    return (
        f"sheet:  {result['sheet']}\nreport: {result['report']}\n"
        f"In simulation the sign was read as stop in {seen['clean']} of frames when clean, "
        f"{seen['blank']} with a "
        f"blank sticker and {seen['patch']} with this one; the sticker met its goal in "
        f"{hit['attack_success_rate']:.0%} ({hit['low']:.0%} to {hit['high']:.0%}) of "
        f"{hit['frames']} frames."
    )
