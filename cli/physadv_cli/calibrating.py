"""Gathering pictures for `physadv calibrate`: what is read, what is left out and why, with
progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from physadv_cli.progress import bar
from physadv_cli.runs import console

if TYPE_CHECKING:
    from physadv.calibration.chart_reader import ChartView
    from physadv.calibration.intrinsics import BoardView
    from physadv.core.errors import CalibrationError
    from physadv.eot.profiles import CameraProfile


def chart_views(
    sources: Sequence[str], camera: CameraProfile | None, frames: int, *, what: str
) -> tuple[list[ChartView], list[str]]:
    """The chart in every picture of the sources, and why others were left out; at most ``frames`` a
    video or camera.

    Raises the only CalibrationError where no picture can be used, or one that counts them. Ctrl-C
    keeps what is read.
    """
    from physadv.calibration.color_fit import read_views
    from physadv.camera.open_source import open_frame_source
    from physadv.core.errors import CalibrationError

    views: list[ChartView] = []
    refused: list[CalibrationError] = []
    with bar() as progress:
        work = progress.add_task(what, total=None, note="")
        try:
            for spec in sources:
                with open_frame_source(spec) as source:
                    most = None if source.kind == "photos" else frames
                    for _, found in read_views(source, camera, most=most):
                        if isinstance(found, CalibrationError):
                            refused.append(found)
                        else:
                            views.append(found)
                        note = f"{len(views)} usable, {len(refused)} not"
                        progress.update(work, advance=1, note=note)
        except KeyboardInterrupt:
            console.print("stopped; going on with what was read")
    _complain(refused, len(views))
    return views, [str(e) for e in refused]


def board_views(sources: Sequence[str], frames: int) -> tuple[list[BoardView], list[str]]:
    """Views of the board that differ from each other, at most ``frames``, and why other pictures
    were left out."""
    from physadv.calibration.color_fit import picture_name
    from physadv.calibration.intrinsics import find_board, is_new_view
    from physadv.camera.open_source import open_frame_source
    from physadv.core.errors import CalibrationError

    views: list[BoardView] = []
    refused: list[CalibrationError] = []
    with bar() as progress:
        work = progress.add_task("looking for the board", total=None, note="")
        try:
            for spec in sources:
                with open_frame_source(spec) as source:
                    for frame in source:
                        try:
                            view = find_board(frame.image, picture_name(source, frame))
                        except CalibrationError as error:
                            refused.append(error)
                        else:
                            if is_new_view(view, views):
                                views.append(view)
                        progress.update(
                            work, advance=1, note=f"{len(views)} views, move the board for the next"
                        )
                        if len(views) >= frames:
                            break
        except KeyboardInterrupt:
            console.print("stopped; going on with what was read")
    if not views and len(refused) == 1:
        raise refused[0]
    _say(refused)
    return views, [str(e) for e in refused]


def _complain(refused: Sequence[CalibrationError], usable: int) -> None:
    """Name what was left out; raise where nothing is left."""
    from physadv.core.errors import CalibrationError

    if usable:
        _say(refused)
    elif len(refused) == 1:
        raise refused[0]
    elif refused:
        first = refused[0]
        raise CalibrationError(
            f"none of {len(refused)} pictures can be used; {first.value}", first.limit, first.remedy
        )


def _say(refused: Sequence[CalibrationError], most: int = 5) -> None:
    for error in refused[:most]:
        console.print(f"[yellow]left out:[/] {escape(str(error))}")
    if len(refused) > most:
        console.print(f"[yellow]left out:[/] {len(refused) - most} more")
