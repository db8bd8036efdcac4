"""`physadv check`: film the printed sheets, or read a twin, and report how often the patch met its
goal."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer

from physadv_cli import checking, watching
from physadv_cli.arithmetic import prepare_torch
from physadv_cli.help import PlainCommand
from physadv_cli.options import Device, Json, Out, Seed, Threads, Weights
from physadv_cli.runs import console, open_run

Bundle = Annotated[
    Path | None,
    typer.Option("--bundle", help="The patch bundle that was printed: its goal and victim."),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Another victim than the bundle's: name, file or module:factory.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", help="Detectors: score from which a detection counts. (default: card, .25)"
    ),
]
Iou = Annotated[
    float,
    typer.Option("--iou", help="Detectors: least overlap of a detection with the sign's box."),
]
Goal = Annotated[
    str | None,
    typer.Option("--goal", help="targeted, untargeted or vanish. (default: the bundle's)"),
]
TrueClass = Annotated[
    str | None, typer.Option("--true-class", help="The sign's true class. (default: the bundle's)")
]
TargetClass = Annotated[
    str | None, typer.Option("--target", help="The class aimed at. (default: the bundle's)")
]
Clean = Annotated[
    str | None, typer.Option("--clean", help="Source of the clean control, where SOURCE lacks it.")
]
Blank = Annotated[str | None, typer.Option("--blank", help="Source of the blank-sticker control.")]
Block = Annotated[
    str | None,
    typer.Option(
        "--block", help="clean, blank or patch: the block of all of SOURCE. (default: by markers)"
    ),
]
Locate = Annotated[
    str,
    typer.Option(
        "--locate",
        help="How the sign is found: auto, truth, fiducials, box, features, detector, frame.",
    ),
]
BoxText = Annotated[
    str | None,
    typer.Option("--box", help="The sign's box in px, x0,y0,x1,y1: fixed camera and sign."),
]
Select = Annotated[
    bool, typer.Option("--select", help="Draw that box in a window on the first frame.")
]
DetectorWeights = Annotated[
    Path | None,
    typer.Option(
        "--detector-weights", help="Weights of fastestdet, which finds signs without markers."
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option(
        "--camera-profile", help="Lens of the camera, made by `physadv calibrate camera`."
    ),
]
Focal = Annotated[
    float | None,
    typer.Option("--focal-px", help="Focal length in px. (default: assumed, and said so)", min=1),
]
Distance = Annotated[
    str | None,
    typer.Option("--distance", help="Distance of the sign, 2.5m, where it cannot be measured."),
]
Paper = Annotated[
    str, typer.Option("--paper", help="Paper the test signs were printed on: a4, letter, a3 ...")
]
SignWidth = Annotated[
    float | None,
    typer.Option(
        "--sign-width-mm",
        help="Width of the filmed sign in mm. (default: by its markers a test page's, else the "
        "bundle's)",
        min=1,
    ),
]
CameraSize = Annotated[
    str, typer.Option("--camera-size", help="Size asked of a camera, WIDTHxHEIGHT.")
]
ClipSeconds = Annotated[
    float,
    typer.Option(
        "--clip-seconds",
        help="Cut recordings into clips this long. (default: whole; live 10)",
        min=0,
    ),
]
Every = Annotated[int, typer.Option("--every", help="Judge each n-th frame of a file.", min=1)]
MaxFrames = Annotated[
    int | None, typer.Option("--max-frames", help="At most this many frames a block.", min=1)
]
Width = Annotated[
    float | None,
    typer.Option(
        "--width",
        help="End a block when its interval is this narrow; 0: never. (default: live 0.1)",
        min=0,
    ),
]
Retry = Annotated[
    float,
    typer.Option(
        "--retry",
        help="Seconds to try again when a camera or stream is lost; 0: not at all.",
        min=0,
    ),
]
NoLock = Annotated[
    bool,
    typer.Option(
        "--no-lock", help="Leave the camera's exposure, white balance and focus automatic."
    ),
]
ShowWindow = Annotated[bool, typer.Option("--window", help="Show the live picture in a window.")]
Serve = Annotated[
    int | None,
    typer.Option(
        "--serve",
        help="Show the live picture on a page of this machine, at this port or any free one.",
        metavar="[PORT]",
        min=0,
        max=65535,
    ),
]
TwinCheck = Annotated[
    Path | None,
    typer.Option(
        "--twin-check", help="Folder of the twin's check: the report shows both side by side."
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", help="Seconds a source may take to open or to give a frame.", min=0.1
    ),
]


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command."""
    app.command("check", cls=_ServeWithoutPort, rich_help_panel=panel)(check)


class _ServeWithoutPort(PlainCommand):
    """Lets ``--serve`` stand alone: any free port. Numbers under 1024 stay camera indices."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a lone --serve the port 0, then parse as always."""
        spelt: list[str] = []
        for i, argument in enumerate(args):
            follows = args[i + 1] if i + 1 < len(args) else ""
            alone = argument == "--serve" and not (follows.isdecimal() and int(follows) >= 1024)
            spelt.append("--serve=0" if alone else argument)
        return super().parse_args(ctx, spelt)


def check(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="Twin folder, camera index, video, address, or folder.", metavar="SOURCE"
        ),
    ],
    bundle: Bundle = None,
    model: ModelName = None,
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
    camera_profile: Profile = None,
    focal_px: Focal = None,
    distance: Distance = None,
    sign_width_mm: SignWidth = None,
    paper: Paper = "a4",
    camera_size: CameraSize = "1280x720",
    clip_seconds: ClipSeconds = 0.0,
    every: Every = 1,
    max_frames: MaxFrames = None,
    width: Width = None,
    timeout: Timeout = 20.0,
    retry: Retry = 30.0,
    no_lock: NoLock = False,
    window: ShowWindow = False,
    serve: Serve = None,
    twin_check: TwinCheck = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = 0,
    out: Out = None,
    json: Json = False,
) -> None:
    """Run the victim on filmed or simulated signs and report success with intervals, beside clean
    and blank controls.

    A camera sorts its frames into blocks by the printed markers: hold up the clean, the blank and
    the patch page in turn. It ends by itself when all intervals are narrow enough, or with Ctrl-C:
    what was measured is kept and reported, and the same command with the same --out goes on where
    it was stopped or killed.

    Example: physadv check 0 --bundle patches/stop-sticker-signs-v1 --serve

    Example: physadv check runs/twin --bundle my-patch --json
    """
    # ffmpeg complains of every damaged frame on stderr; what matters of it stands in the report's
    # warnings
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from physadv.camera.localization.with_pose import with_pose
    from physadv.check.live.remote_control import RemoteControl
    from physadv.check.run_check import assert_fresh, run_check
    from physadv.check.stopping_rule import WIDTH, check_width
    from physadv.defenses.load_model import load_model
    from physadv.models.loading import pick_device

    prepare_torch(threads)
    if out is not None:
        assert_fresh(out)
    check_width(width or None)
    lens, typed_m = checking.lens_of(camera_profile, focal_px), checking.parse_distance(distance)
    asked = checking.what_is_asked(
        bundle,
        model=model,
        goal=goal,
        true_class=true_class,
        target_class=target_class,
        sign_width_mm=sign_width_mm,
    )
    about = asked.about | checking.twin_summary(twin_check, asked.about.get("bundle"))
    about |= checking.geometry(camera_profile, focal_px, paper, sign_width_mm)
    loaded = load_model(asked.model, weights=weights, device=device)
    opening: dict[str, Any] = {
        "timeout_s": timeout,
        "camera_size": checking.parse_size(camera_size),
        "clip_seconds": clip_seconds,
        "every": every,
        "max_frames": max_frames,
        "retry_s": retry,
        "hold": not no_lock,
    }
    drawn = checking.draw_box(source, opening) if select else checking.parse_box(box)
    twins_only = checking.all_twins(source, clean, blank)
    width_mm = checking.width_of(sign_width_mm, asked, paper)
    locator = with_pose(
        checking.build_locator(
            locate,
            box=drawn,
            weights=detector_weights,
            model=loaded,
            twins_only=twins_only,
            asked=asked,
        ),
        sign_width_mm=width_mm,
        lens=lens,
        typed_m=typed_m,
    )
    remote = RemoteControl()
    with ExitStack() as stack:
        shows = watching.open_shows(stack, remote, window=window, serve=serve)
        feeds = checking.open_feeds(stack, {"clean": clean, "blank": blank}, source, block, opening)
        live = any(feed.source.live for feed in feeds)
        watch = watching.Watch(
            feeds, remote, shows, lens=lens, width_mm=width_mm, aim=width or WIDTH
        )
        folder = open_run("check", out, checking.recorded(ctx.params, asked, drawn))
        if live:
            console.print(
                f"rows go to {folder}; if this is cut off, the same command with --out {folder} "
                "goes on"
            )
        steps = run_check(
            feeds,
            loaded,
            folder=folder,
            locator=locator,
            goal=asked.goal,
            true_class=asked.true_class,
            target_class=asked.target_class,
            threshold=checking.score_threshold(threshold, loaded),
            iou=iou,
            max_frames=max_frames,
            device=str(pick_device(device)),
            seed=seed,
            about=about,
            width=(WIDTH if live and width is None else width) or None,
            remote=remote,
            tell=watch.tell,
        )
        with closing(steps):
            watch.follow(steps)
    checking.report_run(folder, as_json=json)
