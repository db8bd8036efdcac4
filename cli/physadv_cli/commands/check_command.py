"""`physadv check`: film the printed sheets, or read a twin, and report how often the patch met its goal."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer

from physadv_cli import checking
from physadv_cli.options import Device, Json, Out, Seed, Threads, Weights
from physadv_cli.runs import open_run

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
    float | None,
    typer.Option(
        "--sign-width-mm",
        help="Width of the filmed sign in mm; paper test signs are small. [default: the bundle's]",
        min=1,
    ),
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
    # ffmpeg complains of every damaged frame on stderr; what matters of it stands in the report's warnings
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import torch

    from physadv.capture.check import assert_fresh, run_check
    from physadv.capture.locate import with_pose
    from physadv.victims.loading import pick_device
    from physadv.victims.registry import load_victim

    if threads:
        torch.set_num_threads(threads)
    if out is not None:
        assert_fresh(out)
    asked = checking.what_is_asked(
        bundle, victim=victim, goal=goal, true_class=true_class, target_class=target_class, sign_width_mm=sign_width_mm
    )
    loaded = load_victim(asked.victim, weights=weights, device=device)
    opening: dict[str, Any] = {
        "timeout_s": timeout, "camera_size": checking.parse_size(camera_size), "clip_seconds": clip_seconds,
        "every": every, "max_frames": max_frames,
    }  # fmt: skip
    drawn = checking.draw_box(source, opening) if select else checking.parse_box(box)
    twins_only = checking.all_twins(source, clean, blank)
    locator = checking.build_locator(locate, box=drawn, weights=detector_weights, victim=loaded, twins_only=twins_only)
    if focal_px is not None and asked.sign_width_mm:
        locator = with_pose(locator, sign_width_mm=asked.sign_width_mm, focal_px=focal_px)
    with ExitStack() as stack:
        feeds = checking.open_feeds(stack, {"clean": clean, "blank": blank}, source, block, opening)
        folder = open_run("check", out, checking.recorded(ctx.params, asked, drawn))
        steps = run_check(
            feeds, loaded, folder=folder, locator=locator, goal=asked.goal, true_class=asked.true_class,
            target_class=asked.target_class, threshold=checking.score_threshold(threshold, loaded), iou=iou,
            max_frames=max_frames, device=str(pick_device(device)), seed=seed, about=asked.about,
        )  # fmt: skip
        with closing(steps):
            checking.follow(steps)
    checking.report_run(folder, as_json=json)
