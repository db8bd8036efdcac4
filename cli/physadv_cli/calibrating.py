"""Collection of pictures for ``physadv calibrate``, with progress and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from physadv.core.wording import count_noun
from physadv_cli.progress import bar
from physadv_cli.runs import console

if TYPE_CHECKING:
    from physadv.calibration.chart_reader import ChartView
    from physadv.calibration.intrinsics import BoardView
    from physadv.core.errors import CalibrationError
    from physadv.eot.profiles import CameraProfile


def chart_views(
    sources: Sequence[str], camera: CameraProfile | None, most: int, *, task: str
) -> tuple[list[ChartView], list[str], set[str]]:
    """Read the chart in every picture of the sources. Ctrl-C ends the reading.

    Args:
        sources: photos, folders, videos, camera indices or addresses.
        camera: the camera's lens, where it was measured.
        most: most usable views to take of each video or camera.
        task: name of the task, for the progress.

    Returns:
        The views, why other pictures were left out, and the kinds of the sources.

    Raises:
        CalibrationError: where no picture can be used.
    """
    from physadv.calibration.color_fit import read_views
    from physadv.camera.open_source import open_frame_source
    from physadv.core.errors import CalibrationError

    views: list[ChartView] = []
    refused: list[CalibrationError] = []
    kinds: set[str] = set()
    with bar() as progress:
        line = progress.add_task(task)
        try:
            for spec in sources:
                with open_frame_source(spec) as source:
                    kinds.add(source.kind)
                    limit = None if source.kind == "photos" else most
                    for _, view in read_views(source, camera, most=limit):
                        if isinstance(view, CalibrationError):
                            refused.append(view)
                        else:
                            views.append(view)
                        note = f"{len(views)} usable, {len(refused)} not"
                        progress.update(line, advance=1, note=note)
        except KeyboardInterrupt:
            console.print("stopped; continuing with what was read")

    if not views and refused:
        raise _joined(refused)
    _print_refused(refused)
    return views, [str(error) for error in refused], kinds


def board_views(sources: Sequence[str], most: int) -> tuple[list[BoardView], list[str]]:
    """Collect views of the board that differ from each other. Ctrl-C ends the reading.

    Args:
        sources: photos, folders, videos, camera indices or addresses.
        most: most views to take.

    Returns:
        The views, and why other pictures were left out.

    Raises:
        CalibrationError: where the only picture cannot be used.
    """
    from physadv.calibration.color_fit import picture_name
    from physadv.calibration.intrinsics import find_board, is_new_view
    from physadv.camera.open_source import open_frame_source
    from physadv.core.errors import CalibrationError

    views: list[BoardView] = []
    refused: list[CalibrationError] = []
    with bar() as progress:
        line = progress.add_task("looking for the board")
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
                        note = f"{count_noun(len(views), 'view')}, move the board for the next"
                        progress.update(line, advance=1, note=note)
                        if len(views) >= most:
                            break
        except KeyboardInterrupt:
            console.print("stopped; continuing with what was read")

    if not views and len(refused) == 1:
        raise refused[0]
    _print_refused(refused)
    return views, [str(error) for error in refused]


def _joined(refused: Sequence[CalibrationError]) -> CalibrationError:
    """One error for pictures of which none can be used."""
    from physadv.core.errors import CalibrationError

    first = refused[0]
    if len(refused) == 1:
        return first
    value = f"none of {count_noun(len(refused), 'picture')} can be used; {first.value}"
    return CalibrationError(value, first.limit, first.remedy)


def _print_refused(refused: Sequence[CalibrationError], most: int = 5) -> None:
    """Print why pictures were left out, the first ``most`` of them."""
    for error in refused[:most]:
        console.print(Text.assemble(("left out:", "yellow"), f" {error}"))
    if len(refused) > most:
        console.print(Text.assemble(("left out:", "yellow"), f" {len(refused) - most} more"))
