"""What to do next: which page to hold up, where to move, what is still missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from physadv.camera.frames import BLOCKS
from physadv.camera.localization.by_markers import LEAST_PX
from physadv.camera.localization.location import SignLocation
from physadv.check.rates import count_noun
from physadv.check.stopping_rule import StoppingState, stopping_states
from physadv.check.view_coverage import Cell, ViewPlan, count_views
from physadv.core.rows import Row

PAGES = {
    "clean": "the clean sign",
    "blank": "the sign with the blank sticker",
    "patch": "the sign with the patch",
}
_NEAR_M, _NEAR_DEG = 0.05, 8.0


@dataclass(frozen=True)
class FilmingAdvice:
    """The block in hand, what to hold up, where to move, and the bins of that block with their
    frames."""

    block: str | None
    prompt: str
    move: str = ""
    next: Cell | None = None
    cells: Counter[Cell] = field(default_factory=Counter)
    stopping_states: Mapping[str, StoppingState] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    """The blocks that still lack frames."""


class FilmingGuide:
    """Turns rows into advice. ``blocks`` are those to be filmed; ``plan`` the views, where
    distances are known."""

    def __init__(
        self, blocks: Sequence[str] = BLOCKS, *, width: float, plan: ViewPlan | None = None
    ) -> None:
        self.blocks, self.width, self.plan = tuple(blocks), width, plan
        self._stands: dict[str, StoppingState] = {}
        self._looked = -1

    def stands(
        self, rows: Mapping[str, Sequence[Row]], *, every: int = 10
    ) -> dict[str, StoppingState]:
        """Where the blocks stand; looked at anew after ``every`` rows."""
        total = sum(map(len, rows.values()))
        if self._looked < 0 or total - self._looked >= every:
            self._stands, self._looked = stopping_states(rows, self.width), total
        return self._stands

    def advise(
        self, rows: Mapping[str, Sequence[Row]], place: SignLocation | None, block: str | None
    ) -> FilmingAdvice:
        """Advice while ``block`` is in hand (None: no sign in view) and the sign is at ``place``."""
        now = self.stands(rows)
        waiting = tuple(b for b in self.blocks if b not in now or not now[b].done)
        prompt = _prompt(block, waiting, now)
        if self.plan is None or block is None:
            return FilmingAdvice(block, prompt, stopping_states=now, waiting=waiting)
        cells = count_views(rows.get(block, ()), self.plan)
        target = _thinnest(self.plan, cells, place) if block in waiting else None
        return FilmingAdvice(
            block, prompt, _move(self.plan, target, place), target, cells, now, waiting
        )


def _prompt(block: str | None, waiting: Sequence[str], now: Mapping[str, StoppingState]) -> str:
    if not waiting:
        return "All blocks are measured: done."
    if block is not None and block in waiting:
        return f"Keep {PAGES[block]} in view: {_missing(block, now)}"
    done = f"{block} is measured. " if block is not None else ""
    return f"{done}Hold up {PAGES[waiting[0]]}: {_missing(waiting[0], now)}"


def _missing(block: str, now: Mapping[str, StoppingState]) -> str:
    if block not in now:
        return "nothing filmed yet"
    return f"about {count_noun(now[block].clips_missing, 'clip')} ({count_noun(now[block].frames_missing, 'frame')}) to go"


def _thinnest(plan: ViewPlan, cells: Counter[Cell], place: SignLocation | None) -> Cell:
    """The bin with the fewest frames; among equals the one nearest to where the sign is."""
    here = plan.cell(place.distance_m, place.yaw_deg) if place is not None else None

    def rank(cell: Cell) -> tuple[int, int, Cell]:
        steps = 0 if here is None else abs(cell[0] - here[0]) + abs(cell[1] - here[1])
        return cells[cell], steps, cell

    return min(plan.cells, key=rank)


def _move(plan: ViewPlan, target: Cell | None, place: SignLocation | None) -> str:
    if place is not None and place.refused is not None:
        size = (
            f" of {place.marker_px:.0f} px, {LEAST_PX:g} are needed"
            if place.marker_px is not None
            else ""
        )
        return f"Come closer: {place.refused if not size else 'markers' + size}"
    if target is None:
        return ""
    distance, yaw = plan.middle(target)
    if place is None or place.distance_m is None or place.yaw_deg is None:
        return f"Move to {distance:.1f} m, {_facing(yaw)}"
    ways = [_step(distance - place.distance_m), _turn(yaw - place.yaw_deg)]
    how = " and ".join(w for w in ways if w)
    return (
        f"Move to {distance:.1f} m, {_facing(yaw)}: {how}"
        if how
        else f"Stay at {distance:.1f} m, {_facing(yaw)}"
    )


def _facing(yaw: float) -> str:
    if abs(yaw) < 1:
        return "facing the camera"
    return f"facing {abs(yaw):.0f}° to the {'right' if yaw > 0 else 'left'}"


def _step(by_m: float) -> str:
    if abs(by_m) < _NEAR_M:
        return ""
    return (
        f"{abs(by_m):.1f} m {'back' if by_m > 0 else 'closer'}"
        if abs(by_m) >= 0.1
        else "a hand's breadth " + ("back" if by_m > 0 else "closer")
    )


def _turn(by_deg: float) -> str:
    if abs(by_deg) < _NEAR_DEG:
        return ""
    return f"turn it {abs(by_deg):.0f}° to the picture's {'right' if by_deg > 0 else 'left'}"
