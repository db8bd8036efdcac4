"""`physadv train`: make a victim from data. `signs` is the embedded traffic-sign classifier."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.runs import console, finish, open_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from physadv.training.loop import Step


def register(app: typer.Typer) -> None:
    """Attach the sub-commands."""
    group = typer.Typer(help="Train victims: weights, card and raw rows. Resumable.", no_args_is_help=True)
    group.callback()(_group)
    group.command("signs", short_help="The embedded traffic-sign victim: GTSRB and background.")(signs)
    app.add_typer(group, name="train")


def _group() -> None:
    """Train victims: weights, card and raw rows. Resumable."""


def signs(
    data: options.Data,
    backgrounds: Annotated[
        list[Path] | None,
        typer.Option("--backgrounds", help="Folder of photos without the signs; repeat it. [default: made by code]"),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs.", min=1)] = 24,
    steps: Annotated[int, typer.Option("--steps", help="Batches an epoch.", min=1)] = 100,
    batch: Annotated[int, typer.Option("--batch", help="Images a batch.", min=2)] = 64,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.", min=1e-6)] = 2e-3,
    precision: Annotated[str, typer.Option("--precision", help="bf16 or fp32 arithmetic while training.")] = "bf16",
    stop_photos: Annotated[
        Path | None, typer.Option("--judge-stop", help="Street photos with stop signs: judging only.")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option("--judge-boxes", help="Their boxes: csv with file,x0,y0,x1,y1,note.")
    ] = None,
    others: Annotated[
        list[Path] | None, typer.Option("--judge-other", help="Photos without stop signs: judging only; repeat it.")
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Train on four fifths of the tracks and photos, judge on the rest; write weights, card and rows.jsonl.

    Ctrl-C or a kill costs at most one epoch: the same command with the same --out goes on.

    Example: physadv train signs --data gtsrb-train.zip --backgrounds photos/ --epochs 24 --out runs/signs
    """
    import torch

    from physadv.core.errors import OptionError
    from physadv.training.sign_victim import Recipe, Street, load_material, publish, train_signs

    if (stop_photos is None) != (boxes is None):
        raise OptionError("--judge-stop and --judge-boxes", "belong together", "give both or neither")
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    recipe = Recipe(data, tuple(backgrounds or ()), epochs, steps, batch, lr, precision, seed)
    street = Street(stop_photos, boxes, tuple(others or ()))
    with console.status("reading data"):
        material = load_material(recipe)
    folder = open_run("train-signs", out, {"data": data, "backgrounds": backgrounds or [], "epochs": epochs,
        "steps": steps, "batch": batch, "lr": lr, "precision": precision, "seed": seed})  # fmt: skip
    if not _watch(train_signs(recipe, material, folder)):
        finish({"out": str(folder), "finished": False}, as_json=as_json, summary=_paused(folder))
        raise SystemExit(130)
    with console.status("judging"):
        card = publish(recipe, material, street, folder, command=_command())
    finish({"out": str(folder), "finished": True, **card}, as_json=as_json, summary=_summary(folder, card))


def _watch(run: Iterator[Step]) -> bool:
    """Show the run; False where Ctrl-C ended it."""
    from physadv_cli.progress import bar

    try:
        with bar() as progress:
            task = progress.add_task("training", total=None, note="")
            smooth = 0.0
            for step in run:
                smooth = step.loss if smooth == 0 else 0.95 * smooth + 0.05 * step.loss
                note = f"epoch {step.epoch}, loss {smooth:.3f}"
                progress.update(task, completed=step.number, total=step.total, note=note)
    except KeyboardInterrupt:
        return False
    return True


def _paused(folder: Path) -> str:
    return f"stopped; the last finished epoch is kept: the same command with --out {folder} goes on"


def _command() -> str:
    """The command as it was given; of absolute paths the name alone, since only this machine has the rest."""
    short = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return " ".join(["physadv", *short])


def _summary(folder: Path, card: dict[str, Any]) -> str:
    lines = [f"{card['parameters']} parameters, {folder}/signs.safetensors, signs.toml, rows.jsonl"]
    for name, found in card["measured"].items():
        right = found["right"]
        lines.append(
            f"{name}: {right['rate']:.1%} [{right['low']:.1%}, {right['high']:.1%}] right, n = {right['n']} "
            f"of {found['groups']} groups; called stop {found['called_stop']['rate']:.2%}"
        )
    lines += [f"  {sign}: {rate:.0%} of its crops recognised" for sign, rate in card["stop_photos_by_sign"].items()]
    return "\n".join(lines)
