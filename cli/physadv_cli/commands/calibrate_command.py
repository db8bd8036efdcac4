"""``physadv calibrate``: a chart to print, a color profile from photos of it, a camera's lens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from physadv.calibration.config import CameraFitConfig, ChartConfig, ColorFitConfig
from physadv.core.addresses import public_address
from physadv.core.wording import count_noun, format_percent
from physadv_cli.configured import from_config
from physadv_cli.help import ServeWithoutPort
from physadv_cli.runs import RunOptions, console, print_findings, print_unused

if TYPE_CHECKING:
    from physadv.calibration.chart_reader import ChartView
    from physadv.calibration.intrinsics import BoardView
    from physadv.eot.profiles import CameraProfile, ColorProfile

_WHOLE_PICTURE = 0.6
"""Share of the picture that the board must have reached for a trusted distortion."""


def register(app: typer.Typer, panel: str) -> None:
    """Attach the commands to ``app``, listed under ``panel``."""
    calibrate = typer.Typer(
        no_args_is_help=True,
        help="Measure your printer and camera: a chart to print, its colors, the camera's lens.",
    )
    calibrate.command("chart", short_help="Write the page to print: color chart or lens board.")(
        from_config(chart, ChartConfig, out="chart-<set>.pdf or board.pdf", threads=None)
    )
    calibrate.command(
        "fit", cls=ServeWithoutPort, short_help="Fit a color profile to photos of the chart."
    )(from_config(fit, ColorFitConfig, out="profile.json", threads=None))
    calibrate.command(
        "camera",
        cls=ServeWithoutPort,
        short_help="Measure a camera's lens from pictures of the board.",
    )(from_config(camera, CameraFitConfig, out="camera.json", threads=None))
    app.add_typer(calibrate, name="calibrate", rich_help_panel=panel)


def chart(config: ChartConfig, run: RunOptions) -> None:
    """Write the page to print: the color chart, or the board for the camera's lens.

    Print it at 100 %.

    Example: physadv calibrate chart --paper letter
    """
    from physadv.calibration.charuco_board import SQUARE, write_board
    from physadv.calibration.color_chart import COLORS, write_chart
    from physadv.core.errors import OptionError

    kind = "color" if config.kind == "colour" else config.kind
    if kind == "color":
        path = run.claim_file(run.out or Path(f"chart-{config.set}.pdf"), config)
        layout = write_chart(path, config.set, paper=config.paper)
        content = f"{COLORS} colors, each twice, set {config.set}"
        following = "physadv calibrate fit photo.jpg"
    elif kind == "charuco":
        path = run.claim_file(run.out or Path("board.pdf"), config)
        layout = write_board(path, paper=config.paper)
        content = f"board of {SQUARE:.2f} mm squares"
        following = "physadv calibrate camera photos/"
    else:
        raise OptionError(
            f"--kind {kind!r}", "it must be color or charuco", "Leave it out for the color chart"
        )

    result = {
        "pdf": path,
        "kind": kind,
        "set": config.set,
        "page_mm": layout.page,
        "paper": config.paper,
    }
    run.finish(
        result,
        f"{path}: {content}. Print at 100 %, measure the bar, photograph it, then: {following}",
    )


def fit(config: ColorFitConfig, run: RunOptions) -> None:
    """Fit a profile of how your camera shows your printer's colors to photos of the chart.

    Several photos are averaged. At a camera you are told what to do, and the views are taken by
    themselves; a session that is stopped goes on with the same command.

    Example: physadv calibrate fit IMG_1.jpg IMG_2.jpg --printer-name "office laser" --printed-on
    "matt foil" --camera-name phone

    Example: physadv calibrate fit 0 --serve --out laser-webcam.json

    Example: physadv calibrate fit chart-1.jpg --check chart-2.jpg --out laser-phone.json
    """
    from physadv.calibration.guided_views import GuidedChart
    from physadv.eot.profiles import read_camera_profile
    from physadv_cli.calibrating import chart_views
    from physadv_cli.guiding import GuidedSession, is_guided

    path = run.claim_file(run.out or Path("profile.json"), config)
    lens = None if config.camera_profile is None else read_camera_profile(config.camera_profile)
    if not is_guided(config.sources, guided=config.guided, serve=config.serve):
        views, left_out, kinds = chart_views(
            config.sources, lens, config.views, task="reading the chart"
        )
        if kinds == {"photos"}:
            print_unused(config.unused_options({"views": "of photos all are taken"}))
        _fit_views(views, left_out, path, lens, config, run)
        return

    session = GuidedSession(
        GuidedChart(config.views, lens),
        config.sources[0],
        run.take_folder(_views_folder(path)),
        least=1,
        serve=config.serve,
        hold=False,
        anew=run.overwrite,
    )
    with session:
        views, left_out = session.take()
        session.tell(_fit_views(views, left_out, path, lens, config, run))


def _views_folder(profile: Path) -> Path:
    """Return the folder that keeps the guided views of a ``profile``."""
    from physadv.core.files import beside

    return beside(profile, "-views")


def _fit_views(
    views: Sequence[ChartView],
    left_out: Sequence[str],
    path: Path,
    lens: CameraProfile | None,
    config: ColorFitConfig,
    run: RunOptions,
) -> str:
    """Fit a profile to ``views``, write it to ``path`` and print it; return the summary."""
    from physadv.calibration.color_fit import check_profile, fit_profile, measure_chart
    from physadv.eot.profiles import write_profile
    from physadv_cli.calibrating import chart_views

    profile = fit_profile(
        measure_chart(views),
        map_name=config.map,
        printer=config.printer_name,
        paper=config.printed_on,
        camera=config.camera_name,
        sources=[Path(public_address(source)).name for source in config.sources],
    )
    if config.check:
        others, _, _ = chart_views(
            config.check, lens, config.views, task="reading the chart to test on"
        )
        profile = check_profile(profile, measure_chart(others))

    write_profile(path, profile)
    result = {
        "profile": path,
        "map": profile.map,
        "de00": profile.de00,
        "maps": profile.maps,
        "n_patches": profile.n_patches,
        "photos": len(views),
        "left_out": list(left_out),
        **profile.about,
    }
    _print_fit(profile)
    summary = _fit_summary(profile, path)
    run.finish(result, summary)
    return summary


def _print_fit(profile: ColorProfile) -> None:
    """Print the errors of every map, of the repeated colors and of the test chart."""
    from rich.table import Table

    table = Table("map", "dE00 mean", "95 %", box=None, header_style="bold")
    for name, error in profile.maps.items():
        mark = " <- chosen" if name == profile.map else ""
        table.add_row(f"{name}{mark}", f"{error['mean']:.2f}", f"{error['p95']:.2f}")
    console.print(f"Leave-one-out color differences over {count_noun(profile.n_patches, 'color')}:")
    console.print(table)

    rejected = ", ".join(f"{n} {why}" for why, n in profile.about["rejected"].items() if n)
    repeated = profile.about["repeat_de00"]["mean"]
    console.print(
        f"The two copies of a color differ by dE00 {repeated:.2f} on average"
        + (f"; left out {rejected}." if rejected else ".")
    )
    expected, level = profile.about["expected_de00"], max(profile.about["paper_level"])
    console.print(
        f"Expect a mean of dE00 {expected['low']:.1f} to {expected['high']:.1f} on colors that are "
        f"not on the chart, at this exposure (paper {level} of 255)."
    )
    held_out = profile.about.get("held_out")
    if held_out:
        console.print(
            f"Measured on {count_noun(held_out['n'], 'other color')}: dE00 {held_out['mean']:.2f} "
            f"mean, {held_out['p95']:.2f} at 95 %."
        )
    print_findings(profile.about["doubts"])


def _fit_summary(profile: ColorProfile, path: Path) -> str:
    expected = profile.about["expected_de00"]
    return (
        f"profile: {path} (expected dE00 {expected['low']:.1f} to {expected['high']:.1f})\n"
        f"next: physadv patch --profile {path}"
    )


def camera(config: CameraFitConfig, run: RunOptions) -> None:
    """Measure a camera's focal length and lens distortion from 8 or more pictures of the board.

    At a camera you are told how to hold the board, and the views are taken by themselves; a session
    that is stopped goes on with the same command.

    Example: physadv calibrate camera photos-of-the-board/ --camera-name webcam --out webcam.json

    Example: physadv calibrate camera 0 --serve --out webcam.json
    """
    from physadv.calibration.guided_views import GuidedBoard
    from physadv.calibration.intrinsics import MIN_VIEWS
    from physadv_cli.calibrating import board_views
    from physadv_cli.guiding import GuidedSession, is_guided

    path = run.claim_file(run.out or Path("camera.json"), config)
    if not is_guided(config.sources, guided=config.guided, serve=config.serve):
        views, left_out = board_views(config.sources, config.views)
        _solve_lens(views, left_out, path, config, run)
        return

    session = GuidedSession(
        GuidedBoard(config.views),
        config.sources[0],
        run.take_folder(_views_folder(path)),
        least=MIN_VIEWS,
        serve=config.serve,
        hold=True,
        anew=run.overwrite,
    )
    with session:
        views, left_out = session.take()
        session.tell(_solve_lens(views, left_out, path, config, run))


def _solve_lens(
    views: Sequence[BoardView],
    left_out: Sequence[str],
    path: Path,
    config: CameraFitConfig,
    run: RunOptions,
) -> str:
    """Solve for the lens, write the profile to ``path`` and print it; return the summary."""
    from physadv.calibration.intrinsics import calibrate_camera
    from physadv.eot.profiles import write_profile
    from physadv_cli.progress import status_line

    with status_line("solving for the lens"):
        profile = calibrate_camera(views, camera=config.camera_name)

    write_profile(path, profile)
    result = {"profile": path, **profile.as_dict(), "pictures_left_out": list(left_out)}
    summary = _camera_summary(profile, path)
    run.finish(result, summary)
    return summary


def _camera_summary(profile: CameraProfile, path: Path) -> str:
    lines = [
        f"{count_noun(profile.n_views, 'view')}, {profile.rms_px:.2f} px off on average: focal "
        f"length {profile.fx:.1f} x {profile.fy:.1f} px "
        f"(+-{format_percent(profile.about['focal_uncertainty'], 2)}), center {profile.cx:.1f}, "
        f"{profile.cy:.1f}, distortion {', '.join(f'{k:.4f}' for k in profile.distortion)}",
        f"profile: {path}",
        f"next: physadv patch --camera-profile {path}",
    ]
    if profile.about["coverage"] < _WHOLE_PICTURE:
        lines.insert(
            0, "The board never reached parts of the picture: distortion is uncertain there."
        )
    return "\n".join(lines)
