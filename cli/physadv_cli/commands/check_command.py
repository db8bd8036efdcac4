"""`physadv check`: film the printed sheets, or read a twin, and report how often the patch met its goal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physadv_cli.options import Device, Json, Out, Seed, Threads, Weights
from physadv_cli.runs import console, finish, open_run

if TYPE_CHECKING:
    from physadv.capture.check import Feed, Progress
    from physadv.capture.geometry import Box
    from physadv.capture.locate import Locator
    from physadv.capture.sources import Source
    from physadv.victims.cards import LoadedVictim

Bundle = Annotated[
    Path | None, typer.Option("--bundle", help="The patch bundle that was printed: its goal and victim.")
]
VictimName = Annotated[
    str | None, typer.Option("--victim", help="Another victim than the bundle's: name, file or module:factory.")
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", help="Detectors: score from which a detection counts. [default: card, .25]"),
]
Iou = Annotated[float, typer.Option("--iou", help="Detectors: least overlap of a detection with the sign's box.")]
Goal = Annotated[str | None, typer.Option("--goal", help="targeted, untargeted or vanish. [default: the bundle's]")]
TrueClass = Annotated[str | None, typer.Option("--true-class", help="The sign's true class. [default: the bundle's]")]
TargetClass = Annotated[str | None, typer.Option("--target-class", help="The class aimed at. [default: the bundle's]")]
Clean = Annotated[str | None, typer.Option("--clean", help="Source of the clean control, where SOURCE lacks it.")]
Blank = Annotated[str | None, typer.Option("--blank", help="Source of the blank-sticker control.")]
Block = Annotated[
    str | None, typer.Option("--block", help="clean, blank or patch: the block of all of SOURCE. [default: by markers]")
]
Locate = Annotated[
    str, typer.Option("--locate", help="How the sign is found: auto, truth, fiducials, box, detector, frame.")
]
BoxText = Annotated[str | None, typer.Option("--box", help="The sign's box in px, x0,y0,x1,y1: fixed camera and sign.")]
Select = Annotated[bool, typer.Option("--select", help="Draw that box in a window on the first frame.")]
DetectorWeights = Annotated[
    Path | None, typer.Option("--detector-weights", help="Weights of fastestdet, which finds signs without markers.")
]
Focal = Annotated[
    float | None, typer.Option("--focal-px", help="Focal length in px: distance and angle from the sign's size.", min=1)
]
SignWidth = Annotated[
    float | None, typer.Option("--sign-width-mm", help="Width of the sign in mm. [default: the bundle's]", min=1)
]
CameraSize = Annotated[str, typer.Option("--camera-size", help="Size asked of a camera, WIDTHxHEIGHT.")]
ClipSeconds = Annotated[
    float, typer.Option("--clip-seconds", help="Cut recordings into clips this long. [default: whole; live 10]", min=0)
]
Every = Annotated[int, typer.Option("--every", help="Judge each n-th frame of a file.", min=1)]
MaxFrames = Annotated[int | None, typer.Option("--max-frames", help="At most this many frames a block.", min=1)]
Timeout = Annotated[
    float, typer.Option("--timeout", help="Seconds a source may take to open or to give a frame.", min=0.1)
]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("check")(check)


def check(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(help="Twin folder, camera index, video, address, or folder.", metavar="SOURCE")
    ],
    bundle: Bundle = None,
    victim: VictimName = None,
    weights: Weights = None,
    goal: Goal = None,
    true_class: TrueClass = None,
    target_class: TargetClass = None,
    threshold: Threshold = None,
    iou: Iou = 0.3,
    clean: Clean = None,
    blank: Blank = None,
    block: Block = None,
    locate: Locate = "auto",
    box: BoxText = None,
    select: Select = False,
    detector_weights: DetectorWeights = None,
    focal_px: Focal = None,
    sign_width_mm: SignWidth = None,
    camera_size: CameraSize = "1280x720",
    clip_seconds: ClipSeconds = 0.0,
    every: Every = 1,
    max_frames: MaxFrames = None,
    timeout: Timeout = 20.0,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = 0,
    out: Out = None,
    json: Json = False,
) -> None:
    """Run the victim on filmed or simulated signs and report success with intervals, beside clean and blank controls.

    A camera sorts its frames into blocks by the printed markers: hold up the clean, the blank and the patch page in
    turn and end with Ctrl-C. What was measured until then is kept and reported.

    Example: physadv check 0 --bundle patches/stop-to-limit-v1

    Example: physadv check runs/twin --bundle my-patch --json
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from physadv.capture.check import assert_fresh, run_check
    from physadv.capture.locate import with_pose
    from physadv.victims.loading import pick_device
    from physadv.victims.registry import load_victim

    _use_threads(threads)
    if out is not None:
        assert_fresh(out)
    asked = _asked(bundle, victim, goal, true_class, target_class, sign_width_mm)
    loaded = load_victim(asked["victim"], weights=weights, device=device)
    opening: dict[str, Any] = {
        "timeout_s": timeout, "camera_size": _size(camera_size), "clip_seconds": clip_seconds, "every": every,
        "max_frames": max_frames,
    }  # fmt: skip
    drawn = _draw_box(source, opening) if select else _box(box)
    locator = _locator(locate, drawn, detector_weights, loaded, _all_twins(source, clean, blank))
    if focal_px is not None and asked["sign_width_mm"]:
        locator = with_pose(locator, sign_width_mm=asked["sign_width_mm"], focal_px=focal_px)
    with ExitStack() as stack:
        feeds = _feeds(stack, {"clean": clean, "blank": blank}, source, block, opening)
        folder = open_run("check", out, _config(ctx.params, asked, drawn))
        steps = run_check(
            feeds, loaded, folder=folder, locator=locator, goal=asked["goal"], true_class=asked["true_class"],
            target_class=asked["target_class"], iou=iou, max_frames=max_frames, seed=seed, about=asked["about"],
            threshold=_threshold(threshold, loaded), device=str(pick_device(device)),
        )  # fmt: skip
        with closing(steps):
            _follow(steps)
    report_run(folder, as_json=json)


def report_run(folder: Path, *, as_json: bool) -> None:
    """Write the report of a check's folder and say what is in it."""
    from physadv.report.check_report import write_check_report

    report = write_check_report(folder)
    said = {k: v for k, v in report.summary.items() if k not in {"patch_by_distance_and_yaw", "settings"}}
    finish({"run": str(folder), **said}, as_json=as_json, summary=_summary(report.summary, report.html))


def _asked(
    bundle: Path | None,
    victim: str | None,
    goal: str | None,
    true_class: str | None,
    target_class: str | None,
    sign_width_mm: float | None,
) -> dict[str, Any]:
    """What is asked of whom: the bundle's card, overruled by options."""
    from physadv.core.errors import OptionError
    from physadv.printing.bundle import read_bundle

    card = None if bundle is None else read_bundle(bundle).card
    needed = {"--victim": victim, "--true-class": true_class, "--goal": goal}
    lacking = [name for name, value in needed.items() if value is None]
    if card is None:
        if lacking:
            raise OptionError("no --bundle", f"then {', '.join(lacking)} must be given", "name the printed bundle")
        said = {"victim": victim, "goal": goal, "true_class": true_class, "target_class": target_class}
        return {**said, "sign_width_mm": sign_width_mm, "about": {}}
    about = {"name": card.patch.name, "sha256": card.patch.sha256, "folder": str(bundle)}
    about |= {"victim": card.victim.name, "victim_sha256": card.victim.sha256}
    return {
        "victim": victim or card.victim.name,
        "goal": goal or card.patch.goal,
        "true_class": true_class or card.patch.true_class,
        "target_class": target_class or card.patch.target_class,
        "sign_width_mm": sign_width_mm or card.placement.sign_width_mm,
        "about": {"bundle": about},
    }


def _feeds(
    stack: ExitStack, controls: Mapping[str, str | None], source: str, block: str | None, opening: Mapping[str, Any]
) -> list[Feed]:
    """Controls first, then SOURCE, whose block is the option's, the twin's, the markers' or, for a file, patch."""
    from physadv.capture.check import Feed
    from physadv.capture.sources import BLOCKS, open_source
    from physadv.core.errors import OptionError

    if block is not None and block not in BLOCKS:
        raise OptionError(f"--block {block}", f"one of {', '.join(BLOCKS)}", "correct it")

    def opened(spec: str) -> Source:
        return stack.enter_context(open_source(spec, **opening))

    feeds = [Feed(opened(spec), name) for name, spec in controls.items() if spec is not None]
    main = opened(source)
    return [*feeds, Feed(main, block, None if main.live or main.simulation else "patch")]


def _locator(strategy: str, box: Box | None, weights: Path | None, victim: LoadedVictim, twins_only: bool) -> Locator:
    """The strategy's locator; a detector is loaded for classifiers only, and in "auto" only if its weights are here."""
    from physadv.capture.locate import locator_for
    from physadv.core.errors import VictimError
    from physadv.victims.registry import load_victim

    detector = None
    wanted = strategy == "detector" or weights is not None
    if wanted or (strategy == "auto" and victim.card.task == "classify" and not twins_only):
        try:
            detector = load_victim("fastestdet", weights=weights)
        except VictimError:
            if wanted:
                raise
    return locator_for(strategy, box=box, detector=detector, whole_frame=victim.card.task == "detect")


def _threshold(given: float | None, victim: LoadedVictim) -> float:
    from physadv.capture.judge import THRESHOLD

    return float(victim.card.extra.get("score_threshold", THRESHOLD)) if given is None else given


def _all_twins(*specs: str | None) -> bool:
    return all((Path(s) / "truth.jsonl").is_file() for s in specs if s is not None)


def _follow(steps: Iterable[Progress]) -> None:
    """Show where the check stands; Ctrl-C ends it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("opening", total=None)
        try:
            for step in steps:
                said = ", ".join(f"{b} {hits}/{n}" for b, (hits, n) in step.success.items())
                bar.update(task, completed=step.judged, total=step.total, description=f"goal met: {said}")
        except KeyboardInterrupt:
            bar.stop()
            console.print("stopped; reporting what was measured")


def _summary(summary: Mapping[str, Any], html: Path) -> str:
    """The result for people, a line a block."""
    lines = ["simulation" if summary["simulation"] else "filmed", str(summary["headline"])]
    for name, b in summary["blocks"].items():
        lines.append(
            f"  {name:5}  goal met {b['attack_success_rate']:6.1%} [{b['low']:.1%}, {b['high']:.1%}]   "
            f"true class {b['true_class_rate']:6.1%}   {b['frames']} frames, {b['clips']} clips"
        )
    lines += [f"note: {note}" for note in summary["notes"]]
    lines += [f"warning: {warning}" for warning in summary["warnings"]]
    return "\n".join([*lines, f"report: {html}"]).replace("[", "\\[")


def _config(given: Mapping[str, Any], asked: Mapping[str, Any], box: Box | None) -> dict[str, Any]:
    """What config.toml records: the options, and what they resolved to."""
    from physadv.capture.sources import public_address

    plain = dict(given)
    plain |= {k: v for k, v in asked.items() if k != "about"} | {"box": box}
    return {k: public_address(v) if isinstance(v, str) else v for k, v in plain.items()}


def _box(text: str | None) -> Box | None:
    from physadv.core.errors import OptionError

    if text is None:
        return None
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(
            f"--box {text}", "four numbers x0,y0,x1,y1 are needed", "e.g. --box 410,220,610,420"
        ) from error
    return x0, y0, x1, y1


def _size(text: str) -> tuple[int, int]:
    from physadv.core.errors import OptionError

    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise OptionError(f"--camera-size {text}", "WIDTHxHEIGHT is needed", "e.g. --camera-size 1280x720")
    return int(width), int(height)


def _draw_box(source: str, opening: Mapping[str, Any]) -> Box:
    """The box drawn on the source's first frame; the source is opened anew for the check."""
    from physadv.capture.locate import select_box
    from physadv.capture.sources import open_source

    with open_source(source, **opening) as opened:
        return select_box(next(iter(opened)))


def _use_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)
