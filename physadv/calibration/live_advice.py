"""Advice to a person who holds a page before a camera: one instruction, and the value behind it.

Pure functions of a frame's measurements; the first fault that a person should cure is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from physadv.calibration.page_measures import F64, PageMeasures
from physadv.calibration.photo_limits import DARK, DIM
from physadv.core.wording import format_percent


@dataclass(frozen=True)
class PageLimits:
    """Limits within which a frame can be taken.

    Attributes:
        page: Word for the page in instructions.
        min_cell_px: Least side of a cell or square in px.
        max_share: Most of the picture that the page may take; over 1 for a page that may leave it.
        min_paper: Least level of bare paper, 0 to 255.
        good_paper: Level under which more light would be better.
        max_clipped: Largest over-exposed share of the page.
        max_light_ratio: Largest ratio of the light on one half to the other.
        max_motion: Largest movement in picture widths per second.
        max_edge_cells: Largest spread of an edge in sides of a cell.
        max_tilt_deg: Largest yaw and pitch.
    """

    page: str
    min_cell_px: float
    max_share: float
    min_paper: float
    good_paper: float
    max_clipped: float
    max_light_ratio: float
    max_motion: float
    max_edge_cells: float
    max_tilt_deg: float


CHART_LIMITS = PageLimits("chart", 11.0, 0.99, DARK + 8, DIM, 0.02, 1.8, 0.04, 0.09, 45.0)
BOARD_LIMITS = PageLimits("board", 12.0, 9.0, 60.0, 60.0, 0.6, 6.0, 0.06, 0.15, 60.0)


@dataclass(frozen=True)
class Advice:
    """One instruction.

    Attributes:
        words: Instruction in a few words.
        why: Measured value and its limit.
        ready: Whether the frame can be taken.
    """

    words: str
    why: str = ""
    ready: bool = False


def advise_search(found: int, needed: int, brightness: float, page: str) -> Advice:
    """Return the advice for a frame in which the page was not found.

    Args:
        found: Markers or corners in view.
        needed: Least number of them.
        brightness: Level of the frame's brightest hundredth, 0 to 255.
        page: Word for the page.

    Example:
        >>> advise_search(0, 6, 40, "chart").words
        'Too dark'
        >>> advise_search(3, 6, 200, "chart").words
        'Show the whole chart'
    """
    if brightness < 70:
        return Advice("Too dark", f"the brightest of the picture is {brightness:.0f} of 255")
    if found:
        return Advice(
            f"Show the whole {page}",
            f"{found} of its points in view, {needed} are needed; flat, with nothing over it",
        )
    return Advice(f"Hold the {page} before the camera", "it is not in the picture, or out of focus")


def advise(measures: PageMeasures, limits: PageLimits, goal: Advice | None = None) -> Advice:
    """Return the advice for a frame with the page: the first fault, or that it can be taken.

    Args:
        measures: Measurements of the frame.
        limits: Limits of the page.
        goal: Where to move to, if the frame is none of the views wanted. A person who has to move
            is not told to hold still.
    """
    for fault in (_size_fault, _exposure_fault, _light_fault, _tilt_fault):
        advice = fault(measures, limits)
        if advice is not None:
            return advice
    if goal is not None:
        return goal
    for fault in (_motion_fault, _blur_fault):
        advice = fault(measures, limits)
        if advice is not None:
            return advice

    paper = measures.exposure.paper
    if paper < limits.good_paper:
        return Advice(
            "Hold it", f"paper is {paper:.0f} of 255; over {limits.good_paper:g} is better", True
        )
    return Advice("Hold it", "", True)


def _size_fault(measures: PageMeasures, limits: PageLimits) -> Advice | None:
    if measures.cell_px < limits.min_cell_px:
        return Advice(
            "Closer", f"a cell is {measures.cell_px:.0f} px, {limits.min_cell_px:g} are needed"
        )
    if measures.share > limits.max_share:
        return Advice("Farther away", f"the {limits.page} leaves the picture")
    return None


def _exposure_fault(measures: PageMeasures, limits: PageLimits) -> Advice | None:
    exposure = measures.exposure
    if exposure.clipped > limits.max_clipped:
        return Advice(
            "Too bright",
            f"{format_percent(exposure.clipped, 0)} of the {limits.page} is over-exposed, at most "
            f"{format_percent(limits.max_clipped, 0)} may be",
        )
    if exposure.paper < limits.min_paper:
        return Advice(
            "Too dark", f"paper is {exposure.paper:.0f} of 255, {limits.min_paper:g} are needed"
        )
    return None


def _light_fault(measures: PageMeasures, limits: PageLimits) -> Advice | None:
    exposure = measures.exposure
    ratios = {
        "left": exposure.right_to_left,
        "right": 1 / exposure.right_to_left,
        "top": exposure.bottom_to_top,
        "bottom": 1 / exposure.bottom_to_top,
    }
    darker = max(ratios, key=lambda side: ratios[side])
    if ratios[darker] <= limits.max_light_ratio:
        return None
    side = {"top": "above", "bottom": "below"}.get(darker, f"the {darker}")
    return Advice(
        f"More light from {side}",
        f"one half is {ratios[darker]:.1f} times as bright as the other, at most "
        f"{limits.max_light_ratio:g}",
    )


def _tilt_fault(measures: PageMeasures, limits: PageLimits) -> Advice | None:
    tilt = max(abs(measures.yaw_deg), abs(measures.pitch_deg))
    if tilt <= limits.max_tilt_deg:
        return None
    return Advice(
        f"Face the {limits.page} to the camera",
        f"it is turned by {tilt:.0f} degrees, at most {limits.max_tilt_deg:g}",
    )


def _motion_fault(measures: PageMeasures, limits: PageLimits) -> Advice | None:
    if measures.motion is None:
        return Advice("Hold still")
    if measures.motion <= limits.max_motion:
        return None
    return Advice(
        "Hold still",
        f"it moves by {format_percent(measures.motion, 0)} of the picture a second, at most "
        f"{format_percent(limits.max_motion, 0)}",
    )


def _blur_fault(measures: PageMeasures, limits: PageLimits) -> Advice | None:
    most = max(1.6, limits.max_edge_cells * measures.cell_px)
    if measures.edge_px <= most:
        return None
    return Advice(
        "Out of focus",
        f"edges are {measures.edge_px:.1f} px wide, at most {most:.1f}; give the camera time, "
        "more light, or go back a little",
    )


@dataclass(frozen=True)
class ViewTarget:
    """A view to be taken.

    Attributes:
        name: Short name.
        words: Instruction to get there.
        yaw_deg: Allowed angle about the vertical, least and most.
        pitch_deg: Allowed angle about the horizontal.
        share: Allowed share of the picture.
        cell: Cell (column, row) of a 4 x 4 grid over the picture that the page must reach.
        turned: Whether the page is upside down against the first view; None for either.
    """

    name: str
    words: str
    yaw_deg: tuple[float, float] = (-90.0, 90.0)
    pitch_deg: tuple[float, float] = (-90.0, 90.0)
    share: tuple[float, float] = (0.0, 9.0)
    cell: tuple[int, int] | None = None
    turned: bool | None = None

    def fits(self, measures: PageMeasures, first_roll_deg: float | None) -> bool:
        """Return whether a frame with these ``measures`` is this view.

        ``first_roll_deg`` is the roll of the first view; None before it.
        """
        if self.turned is not None and first_roll_deg is not None:
            if is_upside_down(measures.roll_deg, first_roll_deg) != self.turned:
                return False
        elif self.turned:
            return False
        return (
            self.yaw_deg[0] <= measures.yaw_deg <= self.yaw_deg[1]
            and self.pitch_deg[0] <= measures.pitch_deg <= self.pitch_deg[1]
            and self.share[0] <= measures.share <= self.share[1]
            and (self.cell is None or self.cell in measures.reached)
        )


def is_upside_down(roll_deg: float, first_deg: float) -> bool:
    """Return whether two rolls in degrees differ by more than a right angle.

    Example:
        >>> is_upside_down(170, -20), is_upside_down(-179, 179)
        (True, False)
    """
    return abs((roll_deg - first_deg + 180) % 360 - 180) > 90


def chart_targets(count: int) -> list[ViewTarget]:
    """Return ``count`` views of the color chart: half as it lies, half upside down, so that light
    and reflections fall on other colors."""
    lying = ViewTarget("as it lies", "Hold the chart facing the camera", turned=False)
    turned = ViewTarget("upside down", "Turn the page upside down", turned=True)
    return [lying] * ((count + 1) // 2) + [turned] * (count // 2)


_NEGATIVE, _POSITIVE, _LEVEL = (-50.0, -16.0), (16.0, 50.0), (-14.0, 14.0)
BOARD_TARGETS = (
    ViewTarget("near", "Bring the board near, facing the camera", _LEVEL, _LEVEL, share=(0.7, 9.0)),
    ViewTarget("left away", "Turn its left side away from the camera", yaw_deg=_NEGATIVE),
    ViewTarget("right away", "Turn its right side away from the camera", yaw_deg=_POSITIVE),
    ViewTarget("top away", "Tip its upper side away from the camera", pitch_deg=_NEGATIVE),
    ViewTarget("bottom away", "Tip its lower side away from the camera", pitch_deg=_POSITIVE),
    ViewTarget("top left", "Move it into the top left corner of the picture", cell=(0, 0)),
    ViewTarget("top right", "Move it into the top right corner of the picture", cell=(3, 0)),
    ViewTarget("bottom right", "Move it into the bottom right corner of the picture", cell=(3, 3)),
    ViewTarget("bottom left", "Move it into the bottom left corner of the picture", cell=(0, 3)),
    ViewTarget(
        "left and top away", "Turn its left and upper sides away", (-50.0, -12.0), (-50.0, -12.0)
    ),
    ViewTarget(
        "right and bottom away", "Turn its right and lower sides away", (12.0, 50.0), (12.0, 50.0)
    ),
    ViewTarget("far", "Hold it at arm's length or farther", share=(0.0, 0.55)),
)
"""Views of the board that determine focal length and distortion: tilted either way, in all corners,
near and far."""


def best_target(
    waiting: Sequence[ViewTarget], measures: PageMeasures, first_roll_deg: float | None
) -> ViewTarget | None:
    """Return the first of the ``waiting`` targets that a frame fits, or None.

    Args:
        waiting: Targets not taken yet.
        measures: Measurements of the frame.
        first_roll_deg: Roll of the first view; None before it.
    """
    return next((t for t in waiting if t.fits(measures, first_roll_deg)), None)


def is_moved(corners: F64, others: Sequence[F64], width: int, share: float = 0.04) -> bool:
    """Return whether a page lies elsewhere than in all ``others``.

    Args:
        corners: Corners (4, 2) in px.
        others: Corners of earlier views.
        width: Width of the picture.
        share: Least movement of some corner, in picture widths.
    """
    return all(np.abs(corners - other).max() > share * width for other in others)
