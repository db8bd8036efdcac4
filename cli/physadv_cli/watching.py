"""Watching a check while it runs: the progress line, the prompts, and the live picture in a window
or on a page."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from physadv_cli.runs import console

if TYPE_CHECKING:
    from physadv.camera.lens import LensFor
    from physadv.camera.localization.boxes import Pixels
    from physadv.camera.localization.location import SignLocation
    from physadv.camera.localization.with_pose import WidthOf
    from physadv.check.live.remote_control import RemoteControl
    from physadv.check.run_check import BlockSource, CheckProgress
    from physadv.check.view_coverage import ViewPlan

PICTURES_A_SECOND = 12


class Shows(Protocol):
    """A window or a page."""

    def show(self, picture: Pixels) -> None:
        """Take the newest picture."""

    def close(self) -> None:
        """End."""


def open_shows(
    stack: ExitStack, remote: RemoteControl, *, window: bool, serve: int | None
) -> list[Shows]:
    """What was asked for, closed with ``stack``; says where the page is."""
    made: list[Shows] = []
    if window:
        from physadv.check.live.desktop_window import DesktopWindow

        made.append(DesktopWindow(remote))
    if serve is not None:
        from physadv.check.live.server import LivePage

        page = LivePage(serve, remote)
        console.print(
            f"the live picture is at {page.address} (on this machine only, until the check ends)"
        )
        made.append(page)
    for each in made:
        stack.callback(each.close)
    return made


class Watch:
    """Turns a check's steps into words and pictures."""

    def __init__(
        self,
        feeds: Sequence[BlockSource],
        remote: RemoteControl,
        shows: Sequence[Shows],
        *,
        lens: LensFor,
        width_mm: WidthOf,
        aim: float,
    ) -> None:
        from physadv.camera.frames import BLOCKS
        from physadv.check.guidance import FilmingGuide

        sure = [f.block for f in feeds]
        self.live = any(f.source.live for f in feeds)
        self.simulation = any(f.source.simulation for f in feeds)
        self.guide = FilmingGuide(
            BLOCKS if None in sure else [b for b in BLOCKS if b in sure], width=aim
        )
        self.remote, self.shows, self._lens, self._width_mm = remote, shows, lens, width_mm
        self._drawn, self._told, self._noted = 0.0, "", ""

    def follow(self, steps: Iterable[CheckProgress]) -> None:
        """Show where the check stands; Ctrl-C ends it."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        said = TextColumn("{task.description}")
        columns = (
            SpinnerColumn(),
            said,
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("opening", total=None)
            try:
                for step in steps:
                    bar.update(
                        task, completed=step.judged, total=step.total, description=standing(step)
                    )
                    self._prompt(step)
                    self._show(step)
            except KeyboardInterrupt:
                bar.stop()
                console.print("stopped; reporting what was measured")

    def tell(self, line: str) -> None:
        """Pass on what a source says, such as that it was lost; to the terminal and to who watches."""
        if line != self._noted:
            self._noted = line
            console.print(line.replace("[", "\\["))
        self.remote.say(line)

    def _prompt(self, step: CheckProgress) -> None:
        """On the terminal, once for every change of block or of what is asked for."""
        if not self.live:
            return
        advice = self.guide.advise(step.rows, step.place, step.block)
        wanted = advice.block if advice.block in advice.waiting else next(iter(advice.waiting), "")
        if wanted != self._told and (
            step.block is not None or not self._told
        ):  # not for every frame without a sign
            self._told = wanted
            console.print(advice.prompt.replace("[", "\\["))

    def _show(self, step: CheckProgress) -> None:
        if not self.shows or time.monotonic() - self._drawn < 1 / PICTURES_A_SECOND:
            return
        from physadv.check.live.overlay import OverlayState, draw_overlay

        self._drawn = time.monotonic()
        if self.guide.plan is None:
            self.guide.plan = self._plan(step.place, step)
        advice = self.guide.advise(step.rows, step.place, step.block)
        picture = draw_overlay(
            OverlayState(step, advice, self.guide.plan, self.remote.note, self.simulation)
        )
        for each in self.shows:
            each.show(picture)

    def _plan(self, place: SignLocation | None, step: CheckProgress) -> ViewPlan | None:
        """Bins by lens and sign, once both are known."""
        return (
            None
            if place is None or step.frame is None
            else plan_of(place, step.frame, self._lens, self._width_mm)
        )


def plan_of(place: SignLocation, frame: Any, lens: LensFor, width_mm: WidthOf) -> ViewPlan | None:
    """The views to be filmed; None where nothing tells angles."""
    from physadv.camera.localization.by_markers import LEAST_PX
    from physadv.check.view_coverage import plan_views
    from physadv.core.errors import CaptureError
    from physadv.printing.aruco_markers import GAP, MARKER

    width = width_mm(place)
    if width is None or place.by not in {"fiducials", "features"}:
        return None
    try:
        through = lens((frame.image.shape[1], frame.image.shape[0]))
    except CaptureError:
        return None
    if place.by == "fiducials":
        return plan_views(
            through, width, tall=1 + 2 * (GAP + MARKER), least_share=MARKER, least_px=LEAST_PX
        )
    return plan_views(through, width, least_share=1.0, least_px=60)


def standing(step: CheckProgress) -> str:
    """Where a check stands, in a few words."""
    met = ", ".join(f"{block} {hits}/{n}" for block, (hits, n) in step.success.items())
    unseen = f"{step.left_out} frames left out" if step.left_out else ""
    return "; ".join(part for part in (met and f"goal met: {met}", unseen) if part)
