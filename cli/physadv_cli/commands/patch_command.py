"""`physadv patch`: optimise a patch or sticker into a bundle; `physadv patch verify`: measure a bundle again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.lengths import parse_size_mm
from physadv_cli.runs import console, finish, open_run

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)


def register(root: typer.Typer) -> None:
    """Attach the command group."""
    root.add_typer(
        app, name="patch", short_help="Optimise a patch or sticker under EOT -> bundle; `patch verify` re-measures."
    )


@app.callback()
def patch(
    context: typer.Context,
    victim: options.Victim = "signs",
    weights: options.Weights = None,
    signs: options.Signs = None,
    backgrounds: options.Backgrounds = None,
    goal: Annotated[str, typer.Option(help="untargeted, targeted or vanish.")] = "untargeted",
    eot: Annotated[
        str, typer.Option(help="Ranges drawn: default, camera, athalye, brown, rp2, thys, tsea.")
    ] = "default",
    true_class: Annotated[str, typer.Option("--class", help="The class the sign is of.")] = "stop",
    target: Annotated[str | None, typer.Option("--target", help="Class to be seen instead (goal targeted).")] = None,
    mask: Annotated[
        str, typer.Option(help="rectangle, circle, octagon, bars, or a PNG (alpha) or SVG file.")
    ] = "rectangle",
    size: Annotated[str, typer.Option(help="Width x height of the sticker in mm.")] = "190x150",
    center: Annotated[str, typer.Option(help="Its centre from the sign's, in mm, x right, y down.")] = "0,95",
    sign_width: Annotated[float, typer.Option(help="Width of the sign in mm.", min=1.0)] = 457.0,
    steps: Annotated[int, typer.Option(help="Optimisation steps.", min=1)] = 400,
    draws: Annotated[int, typer.Option(help="EOT draws a step.", min=1)] = 32,
    lr: Annotated[float, typer.Option(help="Adam's step size.")] = 0.04,
    tv: Annotated[float, typer.Option(help="Weight of total variation.")] = 0.15,
    nps: Annotated[float, typer.Option(help="Weight of non-printability.")] = 0.05,
    resolution: Annotated[int, typer.Option(help="Pixels of the patch along its longer side.", min=8, max=1024)] = 64,
    test_draws: Annotated[int, typer.Option(help="Held-out draws for the reported figure.", min=1)] = 400,
    threshold: Annotated[
        float | None, typer.Option(help="Score from which a detection counts. [default: the victim's]")
    ] = None,
    name: Annotated[str, typer.Option(help="Name on the card and the sheet.")] = "",
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Optimise a universal patch or sticker under expectation over transformation and write it as a bundle.

    Ctrl-C keeps the best patch so far; the same command with the same --out goes on where it stopped.

    Example: physadv patch --victim signs --goal untargeted --size 190x150 --center 0,95 --out my-sticker

    Example: physadv patch --victim fastestdet --weights fastestdet.pth --goal vanish --signs photos/ --mask bars
    """
    if context.invoked_subcommand is not None:
        return
    from physadv.journey.sticker import StickerSettings

    width_mm, height_mm = parse_size_mm(size, "--size")
    center_mm = parse_size_mm(center, "--center", positive=False)
    settings = StickerSettings(
        victim=victim, weights=None if weights is None else str(weights), goal=goal, true_class=true_class,
        target_class=target, mask=mask, width_mm=width_mm, height_mm=height_mm, center_mm=center_mm,
        sign_width_mm=sign_width, signs=None if signs is None else str(signs),
        backgrounds=None if backgrounds is None else str(backgrounds), steps=steps, draws=draws, lr=lr, tv=tv, nps=nps,
        resolution=resolution, test_draws=test_draws, threshold=threshold, seed=seed, device=device, name=name, eot=eot,
    )  # fmt: skip
    prepare_torch(threads)
    folder = out or default_folder()
    result, summary = run_sticker(settings, folder)
    finish(result, as_json=as_json, summary=summary)


def default_folder() -> Path:
    """runs/<utc>-patch."""
    from datetime import UTC, datetime

    return Path("runs") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-patch"


def prepare_torch(count: int) -> None:
    """Flush denormals, which slow small nets down, and set the threads where asked."""
    import torch

    torch.set_flush_denormal(True)
    if count:
        torch.set_num_threads(count)


def run_sticker(settings: Any, folder: Path) -> tuple[dict[str, Any], str]:
    """Run or resume a sticker with progress; returns what --json prints and the summary for people."""
    from dataclasses import asdict

    from physadv.journey.sticker import StickerRun
    from physadv_cli.progress import bar

    run = StickerRun(settings, folder)
    open_run("patch", folder, asdict(settings))
    for note in run.task.material.notes:
        console.print(f"[dim]{note}[/]")
    stopped = False
    with bar() as progress:
        work = progress.add_task("optimising", total=settings.steps, note="")
        try:
            success = "-"
            for step in run.steps():
                if step.success is not None:
                    success = f"{step.best_success:.0%}"
                progress.update(work, completed=step.step, note=f"loss {step.loss:.3f}  held-out success {success}")
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
        "bundle": str(bundle.folder), "preview": str(bundle.folder / "preview.png"),
        "success": measured.success.as_dict(), "blank_success": measured.blank_success.as_dict(),
        "clean_recognised": measured.clean_recognised.as_dict(),
        "blank_recognised": measured.blank_recognised.as_dict(),
        "patch_recognised": measured.patch_recognised.as_dict(),
        "area_share": bundle.card.placement.area_share, "stopped": stopped,
    }  # fmt: skip
    summary = (
        f"held-out draws (simulated): sticker succeeds in {measured.success}; blank sticker {measured.blank_success}; "
        f"clean sign recognised {measured.clean_recognised}\nbundle: {bundle.folder}\n"
        f"next: physadv print {bundle.folder}"
    )
    return result, summary


@app.command("verify")
def verify_bundle(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.", metavar="BUNDLE")],
    weights: options.Weights = None,
    signs: options.Signs = None,
    backgrounds: options.Backgrounds = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="New draws instead of the card's own: a sharper test.")
    ] = False,
    draws: Annotated[int | None, typer.Option(help="How many held-out draws. [default: the card's]", min=1)] = None,
    as_json: options.Json = False,
) -> None:
    """Measure a bundle's held-out success again and compare it with the card's interval; exit 1 where they differ.

    Example: physadv patch verify runs/my-sticker --fresh
    """
    from physadv.core.errors import BundleError
    from physadv.journey.verify import settings_of, verify
    from physadv.printing.bundle import read_bundle
    from physadv_cli.progress import bar

    prepare_torch(0)
    loaded = read_bundle(bundle)
    with bar() as progress:
        work = progress.add_task("measuring", total=draws or settings_of(loaded).test_draws, note="")
        verdict = verify(
            loaded, weights=_text(weights), signs=_text(signs), backgrounds=_text(backgrounds), fresh=fresh,
            draws=draws, report=lambda done: progress.update(work, completed=done),
        )  # fmt: skip
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
        raise BundleError(f"{bundle}", f"success {now.rate:.1%} is outside the card's interval", "make the patch anew")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
