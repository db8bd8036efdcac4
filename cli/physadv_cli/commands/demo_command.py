"""``physadv demo``: the whole journey on built-in defaults, from a sticker to its check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from physadv.core import shared_fields as shared
from physadv.core.config import Config, ConfigField
from physadv.core.wording import count_noun, format_percent
from physadv_cli.configured import from_config
from physadv_cli.runs import RunOptions, console

if TYPE_CHECKING:
    from physadv.patches.config import PatchConfig


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Config):
    """Configuration of the demo; everything else is as in :func:`physadv.demo.demo_settings`."""

    command: ClassVar[str] = "demo"

    steps: Annotated[int, ConfigField(shared.STEPS_HELP, "Optimization", least=1)] = 300
    clips: shared.ClipCount = 8
    frames: shared.FrameCount = 20
    seed: shared.Seed = 0
    device: shared.Device = "auto"


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command(
        "demo",
        short_help="The whole journey: optimize a sticker, print, film and check it in simulation.",
        rich_help_panel=panel,
    )(from_config(demo, DemoConfig))


def demo(config: DemoConfig, run: RunOptions) -> None:
    """Optimize a stop-sign sticker, lay out its sheet, film it in simulation, check it and report.

    Needs no photo, no network and no GPU. An interrupted optimization resumes with the same --out.

    Example: physadv demo --out runs/demo
    """
    from physadv.demo import demo_settings

    folder = run.open_folder(config)
    settings = demo_settings(steps=config.steps, seed=config.seed, device=config.device)
    result = run_stations(settings, folder, clips=config.clips, frames=config.frames)
    run.finish(result, _in_words(result))


def run_stations(settings: PatchConfig, folder: Path, *, clips: int, frames: int) -> dict[str, Any]:
    """Run the stations one after the other, with progress; finished work is kept.

    Args:
        settings: settings of the sticker.
        folder: folder of the run.
        clips: simulated clips of each block.
        frames: frames of each clip.

    Returns:
        Paths, rates and the headline of the report.
    """
    from physadv.demo import film, judge, lay_out
    from physadv.report.check_report import write_check_report
    from physadv_cli.commands.patch_command import run_patch
    from physadv_cli.progress import bar

    console.print("[bold]1/4[/] optimize the sticker", markup=True)
    sticker, _ = run_patch(settings, folder / "bundle")

    console.print("[bold]2/4[/] lay out the sheet", markup=True)
    sheet = lay_out(folder)

    console.print("[bold]3/4[/] print and film it [dim](simulation)[/]", markup=True)
    with bar() as progress:
        task = progress.add_task("filming", total=clips)
        for clip in film(folder, sheet, clips=clips, frames=frames, seed=settings.seed):
            progress.update(task, completed=clip.number + 1, note=clip.camera)

    console.print("[bold]4/4[/] check it as a camera would", markup=True)
    with bar() as progress:
        task = progress.add_task("judging frames", total=3 * clips * frames)
        for step in judge(folder, settings):
            progress.update(task, completed=step.judged)

    report = write_check_report(folder / "check")
    return {
        "sheet": str(sheet),
        "report": str(report.html),
        "report_json": str(report.json),
        "bundle": sticker["bundle"],
        "preview": sticker["preview"],
        "twin": str(folder / "twin"),
        "simulation": True,
        "heldout": sticker["success"],
        "area_share": sticker["area_share"],
        "headline": report.summary["headline"],
        "blocks": report.summary["blocks"],
    }


def _in_words(result: dict[str, Any]) -> str:
    """The two paths and one line of result."""
    blocks = result["blocks"]
    read = {
        name: f"{format_percent(block['true_class_rate'], 0)}" for name, block in blocks.items()
    }
    patch = blocks["patch"]
    return (
        f"sheet:  {result['sheet']}\nreport: {result['report']}\n"
        f"In simulation the sign was read as stop in {read['clean']} of frames when clean, "
        f"{read['blank']} with a blank sticker and {read['patch']} with this one; the sticker met "
        f"its goal in {format_percent(patch['attack_success_rate'], 0)} "
        f"({format_percent(patch['low'], 0)} to "
        f"{format_percent(patch['high'], 0)}) of {count_noun(patch['frames'], 'frame')}."
    )
