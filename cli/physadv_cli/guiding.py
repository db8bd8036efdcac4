"""Guided taking of calibration views at a camera: instructions on the terminal and on a page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from physadv.core.wording import count_noun
from physadv_cli.runs import console

if TYPE_CHECKING:
    from physadv.calibration.chart_reader import ChartView
    from physadv.calibration.guided_page import CalibrationPage
    from physadv.calibration.guided_views import GuidedPage, GuidedStep, GuidedViews
    from physadv.calibration.intrinsics import BoardView
    from physadv.camera.frames import CameraFrame, FrameSource

    View = TypeVar("View", ChartView, BoardView)
else:
    View = TypeVar("View")

PICTURES_A_SECOND = 12
SECONDS_BETWEEN_LINES = 0.7


def is_guided(sources: Sequence[str], *, guided: bool, serve: int | None) -> bool:
    """Return whether a calibration guides a person: where asked for, and for a camera's index.

    Args:
        sources: sources of the pictures.
        guided: whether it is asked for.
        serve: port of the page, which is asked for with it.

    Raises:
        OptionError: there are several sources.
    """
    from physadv.camera.open_source import is_camera
    from physadv.core.errors import OptionError

    wanted = guided or serve is not None or any(is_camera(source) for source in sources)
    if wanted and len(sources) != 1:
        raise OptionError(
            f"{len(sources)} sources",
            "guided views come from one camera or video",
            "Name one, or give photos without --guided",
        )
    return wanted


class GuidedSession(Generic[View]):
    """Session that takes the views of one page at one source.

    Args:
        page: page that the person holds.
        source: camera, address or video.
        folder: folder of the views.
        least: least number of views with which it makes sense to go on.
        serve: port of a page on this machine; None for no page.
        hold: whether the camera's exposure and focus are locked.
        anew: whether views of an earlier session are deleted.
    """

    def __init__(
        self,
        page: GuidedPage[View],
        source: str,
        folder: Path,
        *,
        least: int,
        serve: int | None,
        hold: bool,
        anew: bool,
    ) -> None:
        self._guided: GuidedPage[View] = page
        self._source, self._folder = source, folder
        self._least, self._serve, self._hold, self._anew = least, serve, hold, anew
        self._page: CalibrationPage | None = None
        self._printed, self._printed_s, self._shown_s = "", -9.0, -9.0

    def __enter__(self) -> Self:
        """Open the page and print where it is."""
        if self._serve is not None:
            from physadv.calibration.guided_page import CalibrationPage

            title = f"physadv calibrate: the {self._guided.limits.page}"
            names = [target.name for target in self._guided.targets]
            self._page = CalibrationPage(self._serve, title, names)
            console.print(
                f"the live picture is at {self._page.address} (on this machine only, until the "
                "calibration ends)"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show an error on the page and close it."""
        if self._page is not None:
            if isinstance(error, Exception):
                self._page.finish(str(error))
            self._page.close()

    def tell(self, result: str) -> None:
        """Show the ``result`` on the page."""
        if self._page is not None:
            self._page.finish(result)

    def take(self) -> tuple[list[View], list[str]]:
        """Take the views; Ctrl-C stops and keeps those taken.

        Returns:
            The views, and why files of an earlier session were left out.

        Raises:
            CalibrationError: the source ended with too few views.
        """
        from physadv.calibration.guided_views import GuidedViews
        from physadv.camera.open_source import open_frame_source
        from physadv.core.files import remove_file

        if self._anew:
            for path in self._folder.glob("view-*.png"):
                remove_file(path)
        views = GuidedViews(self._guided, self._folder)
        total = len(self._guided.targets)
        if views.views:
            console.print(
                f"{len(views.views)} of {count_noun(total, 'view')} are in {self._folder}; "
                "--overwrite begins anew"
            )

        try:
            if not views.step.done:
                with open_frame_source(self._source, hold=self._hold, retry_s=10.0) as source:
                    self._follow(source, views)
        except KeyboardInterrupt:
            console.print(
                f"stopped: {len(views.views)} of {count_noun(total, 'view')} are kept in "
                f"{self._folder}; the same command goes on with them"
            )
            raise
        self._check_number(len(views.views), total)
        return views.views, views.left_out

    def _follow(self, source: FrameSource, views: GuidedViews[View]) -> None:
        """Hand frames to ``views`` until all are taken, the source ends or the page's button is
        pressed."""
        source.on_message = console.print
        for frame in source:
            step = views.take(frame.image, frame.time_s)
            self._print(step, frame)
            self._show(step, frame)
            if step.done or (self._page is not None and self._page.stopped):
                return

    def _print(self, step: GuidedStep, frame: CameraFrame) -> None:
        """Print what changed: a view taken, or another instruction, not more than one a while."""
        if step.new_view:
            console.print(f"view {step.taken} of {step.total}: {step.advice.why}")
        words, why = step.advice.words, step.advice.why
        soon = frame.time_s - self._printed_s < SECONDS_BETWEEN_LINES
        if words == self._printed or (soon and not step.new_view) or step.done:
            return
        self._printed, self._printed_s = words, frame.time_s
        console.print(f"{words} ({why})" if why and not step.new_view else words)

    def _show(self, step: GuidedStep, frame: CameraFrame) -> None:
        """Send the picture to the page, at most ``PICTURES_A_SECOND`` times a second."""
        if self._page is None:
            return
        now = time.monotonic()
        if step.new_view or now - self._shown_s >= 1 / PICTURES_A_SECOND:
            self._shown_s = now
            self._page.show_step(frame.image, step)

    def _check_number(self, taken: int, total: int) -> None:
        from physadv.core.errors import CalibrationError

        if taken < self._least:
            raise CalibrationError(
                f"{taken} of {count_noun(total, 'view')} taken",
                f"at least {self._least} are needed",
                f"The same command goes on with those in {self._folder}",
            )
        if taken < total:
            console.print(f"going on with {taken} of {count_noun(total, 'view')}")
