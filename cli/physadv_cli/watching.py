"""Watching a check while it runs: progress, prompts, and the live picture in a window or on a
page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from physadv.core.wording import count_noun
from physadv_cli.runs import console

if TYPE_CHECKING:
    from physadv.camera.frames import CameraFrame
    from physadv.camera.lens import LensFor
    from physadv.camera.live_page import LivePage
    from physadv.camera.localization.location import SignLocation
    from physadv.camera.localization.with_pose import WidthOf
    from physadv.check.guidance import FilmingAdvice
    from physadv.check.live.overlay import LiveState
    from physadv.check.live.remote_control import RemoteControl
    from physadv.check.run_check import BlockSource, CheckProgress
    from physadv.check.view_coverage import ViewPlan

PICTURES_A_SECOND = 12
MOST_REPORT = 1 << 28
"""Most bytes of a report that a page goes on to."""
_FLICKER_S = 1.0
"""Time for which a sign that is not found leaves the instruction as it is."""


class LiveDisplay(Protocol):
    """A window or a page that shows a running check."""

    def show_state(self, state: LiveState) -> None:
        """Show ``state``, the newest one."""

    def close(self) -> None:
        """Close the window or stop serving the page."""


def open_displays(
    stack: ExitStack, remote: RemoteControl, *, window: bool, serve: int | None
) -> list[LiveDisplay]:
    """Open the displays of the live picture and print where the page is.

    Args:
        stack: closes them.
        remote: takes the input of who watches.
        window: whether to open a window.
        serve: port of a page on this machine; 0 for any free one, None for no page.

    Returns:
        The displays, none where nothing is asked for; a page shows what ends the check, too.
    """
    displays: list[LiveDisplay] = []
    if window:
        from physadv.check.live.desktop_window import DesktopWindow

        displays.append(DesktopWindow(remote))
    if serve is not None:
        from physadv.check.live.check_page import CheckPage

        page = CheckPage(serve, remote)
        console.print(
            f"the live page is at {page.address} (on this machine only, until the check ends)"
        )
        displays.append(page)

    for display in displays:
        stack.callback(display.close)
    if serve is not None:
        stack.push(_farewell(page))  # called before the page is closed
    return displays


def _farewell(page: LivePage) -> Callable[..., None]:
    """Return what shows on ``page`` how a check ended that has no report."""

    def tell_end(
        kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        page.finish(str(error) if isinstance(error, Exception) else "The check was ended.")

    return tell_end


def show_report(displays: Sequence[LiveDisplay], html: Path) -> None:
    """Let the pages among ``displays`` go on to the report, the file ``html``."""
    from physadv.camera.live_page import LivePage
    from physadv.core.text import read_file

    pages = [display for display in displays if isinstance(display, LivePage)]
    if pages:
        report = read_file(html, most_bytes=MOST_REPORT)
        for page in pages:
            page.finish(f"The report is {html}", report)


class CheckWatch:
    """Display of a running check: progress on stderr, prompts for who films, live pictures.

    Args:
        sources: sources of the check, with their blocks.
        remote: takes the input of who watches.
        displays: windows and pages of the live picture.
        lens: the camera's lens for pictures of a size.
        width_mm: the sign's width at a location.
        aim: width of the interval at which a block is complete.
        claim: goal and classes, as in check.json.
    """

    def __init__(
        self,
        sources: Sequence[BlockSource],
        remote: RemoteControl,
        displays: Sequence[LiveDisplay],
        *,
        lens: LensFor,
        width_mm: WidthOf,
        aim: float,
        claim: Mapping[str, Any],
    ) -> None:
        from physadv.camera.frames import BLOCKS
        from physadv.check.guidance import FilmingGuide

        named = [source.block for source in sources]
        self.live = any(source.source.live for source in sources)
        self.simulation = any(source.source.simulation for source in sources)
        self.guide = FilmingGuide(
            BLOCKS if None in named else [block for block in BLOCKS if block in named], width=aim
        )
        self.remote, self.displays, self._lens, self._width_mm = remote, displays, lens, width_mm
        self._drawn_at, self._prompted, self._told = 0.0, "", ""
        self.folder, self._claim = Path(), {**claim, "status": "complete"}
        self._advice: FilmingAdvice | None = None
        self._found_s = 0.0

    def follow(self, steps: Iterable[CheckProgress]) -> None:
        """Display the progress of ``steps`` until the check ends; Ctrl-C ends it."""
        from physadv_cli.progress import bar

        with bar(transient=True) as progress:
            task = progress.add_task("judging frames")
            try:
                for step in steps:
                    progress.update(
                        task, completed=step.judged, total=step.total, note=_standing(step)
                    )
                    self._prompt(step)
                    self._show(step)
            except KeyboardInterrupt:
                console.print("stopped; reporting what was measured")

    def tell(self, line: str) -> None:
        """Print ``line`` once, such as that a source was lost, and pass it on to who watches."""
        if line != self._told:
            self._told = line
            console.print(line)
        self.remote.set_note(line)

    def _prompt(self, step: CheckProgress) -> None:
        """Print the next instruction once for every change of the block to film."""
        if not self.live:
            return
        advice = self.guide.advise(step.rows, step.place, step.block)
        waiting = advice.block if advice.block in advice.waiting else next(iter(advice.waiting), "")
        # A frame without a sign gives no new prompt.
        if waiting != self._prompted and (step.block is not None or not self._prompted):
            self._prompted = waiting
            console.print(advice.prompt)

    def _show(self, step: CheckProgress) -> None:
        """Draw the live picture, at most ``PICTURES_A_SECOND`` times a second."""
        if not self.displays or time.monotonic() - self._drawn_at < 1 / PICTURES_A_SECOND:
            return
        from physadv.check.live.overlay import LiveState

        self._drawn_at = time.monotonic()
        if self.guide.plan is None:
            self.guide.plan = self._plan(step.place, step)
        advice = self._steady_advice(step)
        state = LiveState(
            step,
            advice,
            self.guide.plan,
            self.remote.note,
            self.simulation,
            self._verdict(advice),
            str(self.folder),
        )
        for display in self.displays:
            display.show_state(state)

    def _steady_advice(self, step: CheckProgress) -> FilmingAdvice:
        """Advice that a frame without a sign does not change at once."""
        if step.place is not None:
            self._found_s = self._drawn_at
        elif self._advice is not None and self._drawn_at - self._found_s < _FLICKER_S:
            return self._advice
        self._advice = self.guide.advise(step.rows, step.place, step.block)
        return self._advice

    def _verdict(self, advice: FilmingAdvice) -> str:
        """The conclusion that the report would draw now."""
        from physadv.check.rates import draw_conclusion

        table = {block: state.rates for block, state in advice.stopping_states.items()}
        return draw_conclusion(table, self._claim).headline

    def _plan(self, location: SignLocation | None, step: CheckProgress) -> ViewPlan | None:
        """Bins by lens and sign, once both are known."""
        if location is None or step.frame is None:
            return None
        return plan_of(location, step.frame, self._lens, self._width_mm)


def plan_of(
    location: SignLocation, frame: CameraFrame, lens: LensFor, width_mm: WidthOf
) -> ViewPlan | None:
    """Return the views to be filmed, or None where no angles can be measured.

    Args:
        location: the sign in ``frame``.
        frame: a frame of the camera.
        lens: the camera's lens for pictures of a size.
        width_mm: the sign's width at a location.

    Returns:
        The plan of distances and angles.
    """
    from physadv.camera.localization.by_markers import LEAST_PX
    from physadv.check.view_coverage import plan_views
    from physadv.core.errors import CaptureError
    from physadv.printing.aruco_markers import GAP, MARKER

    width = width_mm(location)
    if width is None or location.by not in {"fiducials", "features"}:
        return None
    try:
        camera_lens = lens((frame.image.shape[1], frame.image.shape[0]))
    except CaptureError:
        return None

    if location.by == "fiducials":
        tall = 1 + 2 * (GAP + MARKER)
        return plan_views(camera_lens, width, tall=tall, least_share=MARKER, least_px=LEAST_PX)
    return plan_views(camera_lens, width, least_share=1.0, least_px=60)


def _standing(step: CheckProgress) -> str:
    """The counts of a check in a few words."""
    met = ", ".join(f"{block} {hits}/{n}" for block, (hits, n) in step.success.items())
    left_out = f"{count_noun(step.left_out, 'frame')} left out" if step.left_out else ""
    speed = "" if step.speed is None else f"{step.speed.frames_per_s:.0f} frames/s"
    return "; ".join(part for part in (met and f"goal met: {met}", left_out, speed) if part)
