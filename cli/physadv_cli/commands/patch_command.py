"""`physadv patch`: optimize a patch or sticker into a bundle; `physadv patch verify`: measure a
bundle again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.arithmetic import prepare_torch
from physadv_cli.lengths import parse_size_mm
from physadv_cli.runs import console, finish, open_run

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        help="Name, model file or module:factory; several make an ensemble.",
        metavar="V",
    ),
]
WeightFiles = Annotated[
    list[str],
    typer.Option("--weights", help="FILE of the first victim, or NAME=FILE.", metavar="FILE"),
]
SIGNS = ["signs"]
NO_WEIGHTS: list[str] = []
DataFolder = Annotated[
    Path | None,
    typer.Option("--data", help="Folder under which the data sets named on the card lie."),
]


def register(root: typer.Typer, panel: str) -> None:
    """Attach the command group."""
    root.add_typer(
        app,
        name="patch",
        rich_help_panel=panel,
        short_help="Optimise a patch or sticker under EOT -> bundle; `patch verify` re-measures.",
    )


@app.callback()
def patch(
    context: typer.Context,
    model: Models = SIGNS,
    weights: WeightFiles = NO_WEIGHTS,
    on: Annotated[
        str,
        typer.Option(
            "--object",
            help="What carries it: sign, anywhere (any photo), or a class the detector knows.",
        ),
    ] = "sign",
    signs: options.Signs = None,
    backgrounds: options.Backgrounds = None,
    photos: options.Photos = None,
    boxes: options.Boxes = None,
    share: Annotated[
        str | None,
        typer.Option(
            help="Patch width LOW:HIGH over the picture's side or an object's diagonal. (default: "
            "published)"
        ),
    ] = None,
    goal: Annotated[
        str, typer.Option(help="untargeted, targeted, vanish, misclassify or create.")
    ] = "untargeted",
    eot: Annotated[
        str,
        typer.Option(
            help="Ranges drawn: default, camera, athalye, brown, rp2, thys, tsea; or MODULE:FACTORY "
            "of your own pipeline or stages."
        ),
    ] = "default",
    eot_ranges: Annotated[
        Path | None, typer.Option(help="TOML file of ranges in place of the preset's.")
    ] = None,
    true_class: Annotated[
        str, typer.Option("--true-class", help="The class the sign is of.")
    ] = "stop",
    target: Annotated[
        str | None, typer.Option("--target", help="Class to be seen instead, or to appear.")
    ] = None,
    mask: Annotated[
        str, typer.Option(help="rectangle, circle, octagon, bars, or a PNG (alpha) or SVG file.")
    ] = "rectangle",
    size: Annotated[str, typer.Option(help="Width x height of the sticker in mm.")] = "190x150",
    center: Annotated[
        str, typer.Option(help="Its center from the sign's, in mm, x right, y down.")
    ] = "0,95",
    sign_width: Annotated[float, typer.Option(help="Width of the sign in mm.", min=1.0)] = 457.0,
    steps: Annotated[int, typer.Option(help="Optimization steps.", min=1)] = 400,
    draws: Annotated[int, typer.Option(help="EOT draws a step.", min=1)] = 32,
    lr: Annotated[float, typer.Option(help="Adam's step size.")] = 0.04,
    tv: Annotated[float, typer.Option(help="Weight of total variation.")] = 0.15,
    nps: Annotated[
        float, typer.Option(help="Weight of non-printability; unused with --profile.")
    ] = 0.05,
    profile: options.Profile = None,
    camera_profile: options.CameraProfile = None,
    palette: Annotated[
        str | None, typer.Option(help="The only colors it may show: #c01c28,#ffffff,...")
    ] = None,
    content: Annotated[Path | None, typer.Option(help="Picture it shall stay near.")] = None,
    content_weight: Annotated[float, typer.Option(help="How near.", min=0.0)] = 5.0,
    resolution: Annotated[
        int, typer.Option(help="Pixels of the patch along its longer side.", min=8, max=1024)
    ] = 64,
    test_draws: Annotated[
        int, typer.Option(help="Held-out draws for the reported figure.", min=1)
    ] = 400,
    threshold: Annotated[
        float | None,
        typer.Option(help="Score from which a detection counts. (default: the victim's)"),
    ] = None,
    name: Annotated[str, typer.Option(help="Name on the card and the sheet.")] = "",
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Optimize a universal patch or sticker under expectation over transformation and write it as a
    bundle.

    Ctrl-C keeps the best patch so far; the same command with the same --out goes on where it
    stopped.

    Example: physadv patch --model signs --goal untargeted --size 190x150 --center 0,95 --out
    my-sticker

    Example: physadv patch --model fastestdet --weights fastestdet.pth --goal vanish --signs
    photos/ --mask bars

    Example: physadv patch --model fastestdet --object person --photos photos/ --goal vanish --size
    190x190

    Example: physadv patch --model efficientnet-lite0 --object anywhere --photos photos/ --goal
    targeted --target toaster --mask circle --size 180x180
    """
    if context.invoked_subcommand is not None:
        return
    from physadv.patches.sticker_run import StickerSettings

    width_mm, height_mm = parse_size_mm(size, "--size")
    center_mm = parse_size_mm(center, "--center", positive=False)
    first, own_weights, further = parse_models(model, weights)
    settings = StickerSettings(
        model=first,
        weights=own_weights,
        ensemble=further,
        object=on,
        photos=_text(photos),
        boxes=_text(boxes),
        share=parse_share(share),
        palette=palette,
        content=_text(content),
        content_weight=content_weight,
        goal=goal,
        true_class=true_class,
        target_class=target,
        mask=mask,
        width_mm=width_mm,
        height_mm=height_mm,
        center_mm=center_mm,
        sign_width_mm=sign_width,
        signs=_text(signs),
        backgrounds=_text(backgrounds),
        steps=steps,
        draws=draws,
        lr=lr,
        tv=tv,
        nps=nps,
        resolution=resolution,
        test_draws=test_draws,
        threshold=threshold,
        seed=seed,
        device=device,
        name=name,
        eot=eot,
        eot_ranges=_text(eot_ranges),
        profile=_text(profile),
        camera_profile=_text(camera_profile),
    )
    prepare_torch(threads)
    folder = out or default_folder()
    result, summary = run_sticker(settings, folder)
    finish(result, as_json=as_json, summary=summary)


def default_folder() -> Path:
    """runs/<utc>-patch."""
    from datetime import UTC, datetime

    return Path("runs") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-patch"


def run_sticker(settings: Any, folder: Path) -> tuple[dict[str, Any], str]:
    """Run or resume a sticker with progress; returns what --json prints and the summary for people."""
    from dataclasses import asdict

    from physadv.patches.sticker_run import StickerRun
    from physadv_cli.progress import bar

    run = StickerRun(settings, folder)
    open_run("patch", folder, asdict(settings))
    for note in run.task.material.notes:
        console.print(f"[dim]{note}[/]")
    stopped = False
    with bar() as progress:
        work = progress.add_task("optimizing", total=settings.steps, note="")
        try:
            success = "-"
            for step in run.steps():
                if step.success is not None:
                    success = f"{step.best_success:.0%}"
                progress.update(
                    work,
                    completed=step.step,
                    note=f"loss {step.loss:.3f}  held-out success {success}",
                )
        except KeyboardInterrupt:
            stopped = True
    if run.resumed_at:
        console.print(f"resumed at step {run.resumed_at}")
    if stopped:
        console.print("stopped; measuring and keeping the best patch so far")
    with bar() as progress:
        work = progress.add_task("measuring on held-out draws", total=settings.test_draws, note="")
        bundle, measured = run.finish(lambda done: progress.update(work, completed=done))
    result = {
        "bundle": str(bundle.folder),
        "preview": str(bundle.folder / "preview.png"),
        "success": measured.success.as_dict(),
        "blank_success": measured.blank_success.as_dict(),
        "clean_recognised": measured.clean_recognised.as_dict(),
        "blank_recognised": measured.blank_recognised.as_dict(),
        "patch_recognised": measured.patch_recognised.as_dict(),
        "area_share": bundle.card.placement.area_share,
        "stopped": stopped,
    }
    if measured.detection:
        result["detection"] = {
            block: found.as_dict() for block, found in measured.detection.items()
        }
    summary = (
        f"held-out draws (simulated): sticker succeeds in {measured.success}; blank sticker "
        f"{measured.blank_success}; "
        "clean control recognised "
        f"{measured.clean_recognised}\n{said_of_detector(measured.detection)}"
        f"bundle: {bundle.folder}\nnext: physadv print {bundle.folder}"
    )
    return result, summary


def said_of_detector(blocks: Mapping[str, Any]) -> str:
    """One line a block: misses, AP and extra boxes, apart from each other; nothing for a
    classifier."""
    return "".join(
        f"  {block:5}  misses {found.fnr}; AP50 {found.ap}; extra boxes a picture {found.extra}\n"
        for block, found in blocks.items()
    )


@app.command("verify")
def verify_bundle(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle folder, or a name in patches/.", metavar="BUNDLE")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="The model, where the card names one of your own: a card may name built-in ones only.",
            metavar="V",
        ),
    ] = None,
    weights: options.Weights = None,
    signs: options.Signs = None,
    backgrounds: options.Backgrounds = None,
    photos: options.Photos = None,
    boxes: options.Boxes = None,
    data: DataFolder = None,
    eot: Annotated[
        str | None,
        typer.Option(
            help="MODULE:FACTORY on the card, if you trust that code.", show_default=False
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="New draws instead of the card's own: a sharper test.")
    ] = False,
    draws: Annotated[
        int | None, typer.Option(help="How many held-out draws. (default: the card's)", min=1)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure a bundle's held-out success again and compare it with the card's interval; exit 1
    where they differ.

    Example: physadv patch verify runs/my-sticker --fresh
    """
    from physadv.core.errors import BundleError
    from physadv.core.package_data import bundle_folder
    from physadv.patches.bundle import read_bundle
    from physadv.patches.reverify import settings_from_bundle, verify_bundle
    from physadv_cli.progress import bar

    prepare_torch(0)
    loaded = read_bundle(bundle_folder(bundle))
    given = {
        "model": model,
        "weights": _text(weights),
        "signs": _text(signs),
        "backgrounds": _text(backgrounds),
        "photos": _text(photos),
        "boxes": _text(boxes),
        "eot": eot,
    }
    with bar() as progress:
        total = draws or settings_from_bundle(loaded, eot=eot).test_draws
        work = progress.add_task("measuring", total=total, note="")
        verdict = verify_bundle(
            loaded,
            given=given,
            data=data,
            fresh=fresh,
            draws=draws,
            report=lambda done: progress.update(work, completed=done),
        )
    now = verdict.measured.success
    word = "agrees" if verdict.agrees else "differs"
    result = {
        "bundle": str(bundle),
        "agrees": verdict.agrees,
        "claimed": verdict.claimed.as_dict(),
        "success": now.as_dict(),
    }
    finish(result, as_json=as_json, summary=f"{word}: card {verdict.claimed}; measured now {now}")
    if not verdict.agrees:
        raise BundleError(
            f"{bundle}",
            f"success {now} does not agree with the card's {verdict.claimed}",
            "make the patch anew",
        )


@app.command("transfer")
def transfer_bundles(
    bundles: Annotated[
        list[Path],
        typer.Argument(help="Bundle folders, or names under patches/.", metavar="BUNDLE..."),
    ],
    model: Models,
    weights: WeightFiles = NO_WEIGHTS,
    data: DataFolder = None,
    draws: Annotated[
        int | None, typer.Option(help="Held-out draws a cell. (default: the card's)", min=1)
    ] = None,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Judge bundles by other victims on the same held-out scenes: a matrix of success with
    intervals and controls.

    Example: physadv patch transfer runs/a runs/b --model signs --model fastestdet --weights
    fastestdet=f.pth
    """
    from physadv.core.files import write_text
    from physadv.core.package_data import bundle_folder
    from physadv.core.rows import append_rows
    from physadv.patches.bundle import read_bundle
    from physadv.patches.transfer import transfer_matrix, transfer_table
    from physadv_cli.progress import bar

    prepare_torch(0)
    first, own, further = parse_models(model, weights)
    names = [first if own is None else f"{first}={own}", *further]
    loaded = [read_bundle(bundle_folder(bundle)) for bundle in bundles]
    folder = open_run(
        "transfer", out, {"bundles": bundles, "victims": names, "data": data, "draws": draws}
    )
    cells = []
    with bar() as progress:
        work = progress.add_task("judging", total=len(loaded) * len(names), note="")
        for cell in transfer_matrix(
            loaded, names, data=data, draws=draws, report=lambda t: progress.update(work, note=t)
        ):
            append_rows(folder / "transfer.jsonl", [cell.as_row()])
            cells.append(cell)
            progress.update(work, completed=len(cells))
    notes = "".join(f"\n{c.bundle} on {c.model}: {c.reason}" for c in cells if c.reason)
    write_text(folder / "transfer.md", f"{transfer_table(cells)}\n")
    result = {"out": str(folder), "cells": [c.as_row() for c in cells]}
    finish(
        result,
        as_json=as_json,
        summary=f"{transfer_table(cells)}{notes}\nrows: {folder / 'transfer.jsonl'}",
    )


def parse_models(
    models: Sequence[str], weights: Sequence[str]
) -> tuple[str, str | None, tuple[str, ...]]:
    """The first victim, its weights, and the further ones as NAME or NAME=WEIGHTS.

    A weights file without a name belongs to the first. Raises OptionError for one whose victim is
    not named.
    """
    from physadv.core.errors import OptionError

    names, files = list(dict.fromkeys(models)), {}
    for text in weights:
        name, sign, file = text.partition("=")
        owner = name if sign else names[0]
        if owner not in names or owner in files:
            limit = "has weights already" if owner in files else "is no --victim"
            raise OptionError(
                f"--weights {text}", f"{owner} {limit}", "write --weights NAME=FILE, once a victim"
            )
        files[owner] = file if sign else text
    further = tuple(f"{n}={files[n]}" if n in files else n for n in names[1:])
    return names[0], files.get(names[0]), further


def parse_share(text: str | None) -> tuple[float, float] | None:
    """``0.3:0.5`` or ``0.4`` as a range. Raises OptionError for anything else."""
    from physadv.core.errors import OptionError

    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError as error:
        raise OptionError(
            f"--share {text!r}", "one number or LOW:HIGH", "write for example 0.3:0.5"
        ) from error


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
