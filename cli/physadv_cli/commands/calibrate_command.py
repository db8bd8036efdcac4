"""`physadv calibrate`: print a chart, fit a printer and camera's colors from photos of it, measure
a lens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.runs import console, finish

Sources = Annotated[
    list[str],
    typer.Argument(
        help="Photos, a folder, a video, a camera index or an address.", metavar="SOURCE..."
    ),
]


def register(app: typer.Typer, panel: str) -> None:
    """Attach the commands."""
    calibrate = typer.Typer(
        no_args_is_help=True, help="Measure your printer and camera, for `patch --profile`."
    )
    calibrate.command("chart")(chart)
    calibrate.command("fit")(fit)
    calibrate.command("camera")(camera)
    app.add_typer(calibrate, name="calibrate", rich_help_panel=panel)


def chart(
    kind: Annotated[
        str, typer.Option("--kind", help="colour, or charuco: the board for `calibrate camera`.")
    ] = "colour",
    number: Annotated[
        int,
        typer.Option("--set", help="Colours: 1 to fit on; 2 to 4 to test the fit.", min=1, max=4),
    ] = 1,
    paper: Annotated[str, typer.Option("--paper", help="a4, letter, a3 ..., or WxH in mm.")] = "a4",
    out: Annotated[
        Path | None, typer.Option("--out", help="The PDF. (default: chart-<set>.pdf, board.pdf)")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write the page to print: the color chart, or the board for the camera's lens. Print it at 100
    %.

    Example: physadv calibrate chart --paper letter
    """
    from physadv.calibration.charuco_board import SQUARE, write_board
    from physadv.calibration.color_chart import COLORS, write_chart
    from physadv.core.errors import OptionError
    from physadv_cli.commands.print_command import paper_of

    if kind not in ("colour", "charuco"):
        raise OptionError(f"--kind {kind}", "colour or charuco", "leave it out for the color chart")
    target = out or Path(f"chart-{number}.pdf" if kind == "colour" else "board.pdf")
    if kind == "colour":
        layout = write_chart(target, number, paper=paper_of(paper))
        what, following = (
            f"{COLORS} colors, each twice, set {number}",
            "physadv calibrate fit photo.jpg",
        )
    else:
        layout = write_board(target, paper=paper_of(paper))
        what, following = f"board of {SQUARE:.2f} mm squares", "physadv calibrate camera photos/"
    result = {"pdf": target, "kind": kind, "set": number, "page_mm": layout.page, "paper": paper}
    summary = f"{target}: {what}. Print at 100 %, measure the bar, photograph it, then: {following}"
    finish(result, as_json=as_json, summary=summary)


def fit(
    sources: Sources,
    printer: Annotated[str, typer.Option("--printer", help="Its name, for the profile.")] = "",
    printed_on: Annotated[
        str, typer.Option("--printed-on", help="The paper or foil, for the profile.")
    ] = "",
    camera: Annotated[str, typer.Option("--camera", help="Its name, for the profile.")] = "",
    camera_profile: options.CameraProfile = None,
    check: Annotated[
        list[str] | None,
        typer.Option("--check", help="Photo of another set: colors the map was not fitted to."),
    ] = None,
    frames: Annotated[
        int, typer.Option("--frames", help="Usable frames to average of a video or camera.", min=1)
    ] = 8,
    map_name: Annotated[
        str,
        typer.Option("--map", help="auto (least leave-one-out error), 3x4, 10-term or 20-term."),
    ] = "auto",
    out: Annotated[Path, typer.Option("--out", help="The profile.")] = Path("profile.json"),
    as_json: options.Json = False,
) -> None:
    """Fit what your camera shows of your printer's colors from photos of the chart; several photos
    are averaged.

    Example: physadv calibrate fit IMG_1.jpg IMG_2.jpg --printer "office laser" --printed-on "matt
    foil" --camera phone

    Example: physadv calibrate fit chart-1.jpg --check chart-2.jpg --out laser-phone.json
    """
    from physadv.calibration.color_fit import check_profile, fit_profile, measure_chart
    from physadv.eot.profiles import read_camera_profile, write_profile
    from physadv_cli.calibrating import chart_views

    lens = None if camera_profile is None else read_camera_profile(camera_profile)
    views, left_out = chart_views(sources, lens, frames, what="reading the chart")
    measured = measure_chart(views)
    profile = fit_profile(
        measured,
        map_name=map_name,
        printer=printer,
        paper=printed_on,
        camera=camera,
        sources=[Path(s).name for s in sources],
    )
    if check:
        others, _ = chart_views(check, lens, frames, what="reading the chart to check on")
        profile = check_profile(profile, measure_chart(others))
    write_profile(out, profile)
    result = {
        "profile": out,
        "map": profile.map,
        "de00": profile.de00,
        "maps": profile.maps,
        "n_patches": profile.n_patches,
        "photos": len(views),
        "left_out": left_out,
        **profile.about,
    }
    finish(result, as_json=as_json, summary=_fit_summary(profile, out))


def _fit_summary(profile: Any, out: Path) -> str:
    from rich.table import Table

    table = Table("map", "dE00 mean", "95 %", box=None, header_style="bold")
    for name, said in profile.maps.items():
        mark = " <- kept" if name == profile.map else ""
        table.add_row(f"{name}{mark}", f"{said['mean']:.2f}", f"{said['p95']:.2f}")
    console.print(f"Leave-one-out color differences over {profile.n_patches} colors:")
    console.print(table)
    lost = {k: v for k, v in profile.about["rejected"].items() if v}
    rejected = "; left out " + ", ".join(f"{v} {k}" for k, v in lost.items()) if lost else ""
    pair = profile.about["repeat_de00"]["mean"]
    console.print(f"The two copies of a color differ by dE00 {pair:.2f} on average{rejected}.")
    held = profile.about.get("held_out")
    if held:
        console.print(
            f"On {held['n']} other colors: dE00 {held['mean']:.2f} mean, {held['p95']:.2f} at 95 %."
        )
    warn = "dE00 over 3: look for reflections, wet ink or a smudge, and photograph it again.\n"
    said = profile.de00["mean"]
    return f"{warn if said > 3 else ''}profile: {out} (dE00 {said:.2f})\nnext: physadv patch --profile {out}"


def camera(
    sources: Sources,
    name: Annotated[str, typer.Option("--camera", help="Its name, for the profile.")] = "",
    frames: Annotated[int, typer.Option("--frames", help="Most views to take.", min=8)] = 30,
    out: Annotated[Path, typer.Option("--out", help="The profile.")] = Path("camera.json"),
    as_json: options.Json = False,
) -> None:
    """Measure a camera's focal length and lens distortion from 8 or more pictures of the charuco
    board.

    Example: physadv calibrate camera photos-of-the-board/ --camera webcam --out webcam.json
    """
    from physadv.calibration.intrinsics import calibrate_camera
    from physadv.eot.profiles import write_profile
    from physadv_cli.calibrating import board_views

    views, left_out = board_views(sources, frames)
    with console.status("Solving for the lens"):
        profile = calibrate_camera(views, camera=name)
    write_profile(out, profile)
    about = profile.about
    result = {"profile": out, **profile.as_dict(), "pictures_left_out": left_out}
    doubt = about["focal_uncertainty"]
    unseen = "The board never reached parts of the picture: distortion is a guess there.\n"
    warn = "" if about["coverage"] >= 0.6 else unseen
    summary = (
        f"{warn}{profile.n_views} views, {profile.rms_px:.2f} px off on average: focal length "
        f"{profile.fx:.1f} x "
        f"{profile.fy:.1f} px (+-{doubt:.2%}), center {profile.cx:.1f}, {profile.cy:.1f}, "
        f"distortion {', '.join(f'{k:.4f}' for k in profile.distortion)}\n"
        f"profile: {out}\nnext: physadv patch --camera-profile {out}"
    )
    finish(result, as_json=as_json, summary=summary)
