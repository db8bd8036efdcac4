"""Instructions while filming: the page to hold up, where to move, and how many frames are
missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from physadv.camera.frames import BLOCKS
from physadv.camera.localization.by_markers import LEAST_PX, NOT_ONE_PAGE
from physadv.camera.localization.location import SignLocation
from physadv.check.stopping_rule import StoppingState, stopping_states
from physadv.check.view_coverage import Cell, ViewPlan, count_views
from physadv.core.rows import Row
from physadv.core.wording import count_noun

PAGES = {
    "clean": "the clean sign",
    "blank": "the sign with the blank sticker",
    "patch": "the sign with the patch",
}
_NEAR_M, _NEAR_DEG = 0.05, 8.0


@dataclass(frozen=True)
class FilmingAdvice:
    """Instructions for the next frames.

    Attributes:
        block: Block in view; None where no sign is.
        prompt: Page to hold up, and how much is missing.
        call: The one thing to do now, in a few words.
        is_good: Whether that is to go on as now.
        move: Distance and angle to move to; empty without a plan.
        next: Bin of the plan to fill next.
        cells: Frames of the block by bin.
        stopping_states: State of each block against the stopping rule.
        waiting: Blocks that still lack frames.
    """

    block: str | None
    prompt: str
    call: str = ""
    is_good: bool = False
    move: str = ""
    next: Cell | None = None
    cells: Counter[Cell] = field(default_factory=Counter)
    stopping_states: Mapping[str, StoppingState] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()


class FilmingGuide:
    """Derives instructions from the rows of a running check.

    Args:
        blocks: Blocks to be filmed.
        width: Width of the 95 % interval at which a block is finished.
        plan: Views to film, where distances are known.

    Example:
        >>> FilmingGuide(width=0.1).advise({}, None, None).prompt
        'Hold up the clean sign: nothing filmed yet'
    """

    def __init__(
        self, blocks: Sequence[str] = BLOCKS, *, width: float, plan: ViewPlan | None = None
    ) -> None:
        self.blocks, self.width, self.plan = tuple(blocks), width, plan
        self._states: dict[str, StoppingState] = {}
        self._looked = -1

    def states(
        self, rows: Mapping[str, Sequence[Row]], *, every: int = 10
    ) -> dict[str, StoppingState]:
        """Return the state of each block; computed anew after ``every`` further ``rows`` (rows by
        block)."""
        total = sum(map(len, rows.values()))
        if self._looked < 0 or total - self._looked >= every:
            self._states, self._looked = stopping_states(rows, self.width), total
        return self._states

    def advise(
        self, rows: Mapping[str, Sequence[Row]], location: SignLocation | None, block: str | None
    ) -> FilmingAdvice:
        """Return the instructions for the next frames.

        Args:
            rows: Rows so far by block.
            location: Location of the sign in the newest frame; None where it was not found.
            block: Block in view; None where no sign is.

        Returns:
            The instructions; ``move`` and ``next`` are empty without a plan or a block.
        """
        states = self.states(rows)
        waiting = tuple(b for b in self.blocks if b not in states or not states[b].done)
        prompt = _prompt(block, waiting, states)
        if self.plan is None or block is None:
            call, is_good = _call(block, waiting, states, location, [])
            return FilmingAdvice(
                block, prompt, call, is_good, stopping_states=states, waiting=waiting
            )

        cells = count_views(rows.get(block, ()), self.plan)
        target = _thinnest(self.plan, cells, location) if block in waiting else None
        call, is_good = _call(
            block, waiting, states, location, _directions(self.plan, target, location)
        )
        move = _move(self.plan, target, location)
        return FilmingAdvice(block, prompt, call, is_good, move, target, cells, states, waiting)


def _prompt(block: str | None, waiting: Sequence[str], states: Mapping[str, StoppingState]) -> str:
    if not waiting:
        return "All blocks are measured: done."
    if block is not None and block in waiting:
        return f"Keep {PAGES[block]} in view: {_missing(block, states)}"
    done = f"{block} is measured. " if block is not None else ""
    return f"{done}Hold up {PAGES[waiting[0]]}: {_missing(waiting[0], states)}"


def _call(
    block: str | None,
    waiting: Sequence[str],
    states: Mapping[str, StoppingState],
    location: SignLocation | None,
    directions: Sequence[str],
) -> tuple[str, bool]:
    """Return the one thing to do now, and whether it is to go on as now."""
    if not waiting:
        return "Done", True
    if location is None:
        return f"Hold up {PAGES[waiting[0]]}", False
    if location.refused is not None:
        return ("One flat page" if location.refused == NOT_ONE_PAGE else "Closer"), False
    if block is None:
        return "Say which sign is in view", False
    if block not in waiting:
        return f"Hold up {PAGES[waiting[0]]}", False
    if directions:
        return directions[0], False

    clips = states[block].clips_missing if block in states else None
    missing = "" if clips is None else f": {count_noun(clips, 'more clip')}"
    return f"Hold still{missing}", True


def _directions(plan: ViewPlan, target: Cell | None, location: SignLocation | None) -> list[str]:
    """Return the moves to the middle of ``target`` in a word or two each, distance first."""
    if target is None or location is None:
        return []
    if location.distance_m is None or location.yaw_deg is None:
        return []
    distance, yaw = plan.middle(target)
    by_m, by_deg = distance - location.distance_m, yaw - location.yaw_deg
    here = plan.cell(location.distance_m, location.yaw_deg)
    moves = []
    if (here is None or here[0] != target[0]) and abs(by_m) >= _NEAR_M:
        moves.append("Farther back" if by_m > 0 else "Closer")
    if (here is None or here[1] != target[1]) and abs(by_deg) >= _NEAR_DEG:
        moves.append("Turn right" if by_deg > 0 else "Turn left")
    return moves


def _missing(block: str, states: Mapping[str, StoppingState]) -> str:
    if block not in states:
        return "nothing filmed yet"
    clips = count_noun(states[block].clips_missing, "clip")
    return f"about {clips} ({count_noun(states[block].frames_missing, 'frame')}) to go"


def _thinnest(plan: ViewPlan, cells: Counter[Cell], location: SignLocation | None) -> Cell:
    """Return the bin with the fewest frames, the one nearest to the sign among equals."""
    here = plan.cell(location.distance_m, location.yaw_deg) if location is not None else None

    def rank(cell: Cell) -> tuple[int, int, Cell]:
        steps = 0 if here is None else abs(cell[0] - here[0]) + abs(cell[1] - here[1])
        return cells[cell], steps, cell

    return min(plan.cells, key=rank)


def _move(plan: ViewPlan, target: Cell | None, location: SignLocation | None) -> str:
    if location is not None and location.refused == NOT_ONE_PAGE:
        return f"Hold one flat page into view: {NOT_ONE_PAGE}"
    if location is not None and location.refused is not None:
        size = (
            f" of {location.marker_px:.0f} px, {LEAST_PX:g} are needed"
            if location.marker_px is not None
            else ""
        )
        return f"Come closer: {location.refused if not size else 'markers' + size}"

    if target is None:
        return ""

    distance, yaw = plan.middle(target)
    if location is None or location.distance_m is None or location.yaw_deg is None:
        return f"Move to {distance:.1f} m, {_facing(yaw)}"
    steps = [_step(distance - location.distance_m), _turn(yaw - location.yaw_deg)]
    directions = " and ".join(w for w in steps if w)
    return (
        f"Move to {distance:.1f} m, {_facing(yaw)}: {directions}"
        if directions
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
