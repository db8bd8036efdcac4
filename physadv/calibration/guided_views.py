"""Guided taking of calibration views: frames in, advice out, a view once it is still and sharp.

Views are kept as PNG files in a folder, so that a session that was stopped goes on where it was.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from physadv.calibration import charuco_board, color_chart
from physadv.calibration.chart_reader import (
    MIN_MARKERS,
    ChartView,
    divide_light,
    find_chart,
    read_chart,
)
from physadv.calibration.intrinsics import (
    MIN_CORNERS,
    BoardView,
    board_outline,
    detect_board,
    find_board,
)
from physadv.calibration.live_advice import (
    BOARD_LIMITS,
    BOARD_TARGETS,
    CHART_LIMITS,
    Advice,
    PageLimits,
    ViewTarget,
    advise,
    advise_search,
    best_target,
    chart_targets,
    is_moved,
)
from physadv.calibration.page_measures import (
    F64,
    PageMeasures,
    Pixels,
    edge_spread_px,
    page_angles,
    page_exposure,
    page_motion,
    reached_cells,
)
from physadv.core.errors import CalibrationError, PhysadvError
from physadv.core.files import make_folder
from physadv.core.image_io import read_rgb, save_png
from physadv.core.members import member_of
from physadv.eot.profiles import CameraProfile

View = TypeVar("View", ChartView, BoardView)

HOLD_FRAMES, HOLD_S = 3, 0.35
"""Frames in a row, and the time they span, over which a view must stay good to be taken."""


@dataclass(frozen=True)
class FoundPage:
    """A page in a frame.

    Attributes:
        count: Markers or corners in view.
        corners: Corners (4, 2) of the page in px; None where too little is in view.
        points: Points (n, 2) in px that were found.
    """

    count: int
    corners: F64 | None
    points: F64


class GuidedPage(ABC, Generic[View]):
    """A page that a person holds before the camera, and the views wanted of it.

    Attributes:
        limits: Limits within which a frame can be taken.
        size: Width and height of the page in cells.
        needed: Least number of markers or corners in view.
        targets: Views to be taken.
    """

    limits: PageLimits
    size: tuple[int, int]
    needed: int
    targets: Sequence[ViewTarget]

    @abstractmethod
    def find(self, image: Pixels) -> FoundPage:
        """Find the page in ``image`` (h, w, 3) uint8."""

    @abstractmethod
    def read(self, image: Pixels, name: str) -> View:
        """Read the page in ``image``, called ``name`` in errors.

        Raises:
            CalibrationError: It cannot be used.
        """


class GuidedChart(GuidedPage[ChartView]):
    """The color chart.

    Args:
        count: Number of views to take.
        camera: Lens whose distortion is removed first.
    """

    def __init__(self, count: int, camera: CameraProfile | None = None) -> None:
        self.limits, self.needed, self._camera = CHART_LIMITS, MIN_MARKERS, camera
        self.size = (color_chart.COLUMNS, color_chart.ROWS)
        self.targets = chart_targets(count)

    def find(self, image: Pixels) -> FoundPage:
        """Find the chart in ``image``."""
        found = find_chart(image)
        points = np.concatenate([np.zeros((0, 2)), *found.markers.values()])
        return FoundPage(len(found.markers), found.outline, points)

    def read(self, image: Pixels, name: str) -> ChartView:
        """Read the cells in ``image``.

        Raises:
            CalibrationError: As of :func:`read_chart` and :func:`divide_light`.
        """
        view = read_chart(image, name, self._camera)
        divide_light(view)
        return view


class GuidedBoard(GuidedPage[BoardView]):
    """The board that measures a lens.

    Args:
        count: Most views to take.
    """

    def __init__(self, count: int) -> None:
        self.limits, self.needed = BOARD_LIMITS, MIN_CORNERS
        self.size = (charuco_board.COLUMNS, charuco_board.ROWS)
        self.targets = BOARD_TARGETS[:count]

    def find(self, image: Pixels) -> FoundPage:
        """Find the board in ``image``."""
        count, view = detect_board(image, "frame")
        if view is None:
            return FoundPage(count, None, np.zeros((0, 2)))
        return FoundPage(count, board_outline(view), view.pixels[:, 0].astype(np.float64))

    def read(self, image: Pixels, name: str) -> BoardView:
        """Read the corners in ``image``.

        Raises:
            CalibrationError: As of :func:`find_board`.
        """
        return find_board(image, name)


@dataclass(frozen=True)
class GuidedStep:
    """State after a frame.

    Attributes:
        advice: What to do next.
        corners: Corners (4, 2) of the page in px; None where it was not found.
        taken: Number of views taken.
        total: Number of views wanted.
        new_view: Name of the view that this frame completed; empty otherwise.
        done_targets: For each target whether it is taken.
    """

    advice: Advice
    corners: F64 | None
    taken: int
    total: int
    new_view: str = ""
    done_targets: tuple[bool, ...] = ()

    @property
    def done(self) -> bool:
        """Whether all views are taken."""
        return self.taken >= self.total


class GuidedViews(Generic[View]):
    """Taking of the views of one page, frame by frame.

    Args:
        page: Page before the camera.
        folder: Folder of the views; those in it are counted.

    Attributes:
        views: Views taken so far.
        left_out: Why files in the folder cannot be used.
    """

    def __init__(self, page: GuidedPage[View], folder: Path) -> None:
        self.page: GuidedPage[View] = page
        self.folder = folder
        self.views: list[View] = []
        self.left_out: list[str] = []
        self._waiting = list(page.targets)
        self._outlines: list[F64] = []
        self._first_roll: float | None = None
        self._before: tuple[float, F64] | None = None
        self._steady: list[tuple[float, float, Pixels, PageMeasures]] = []
        for path in sorted(folder.glob("view-*.png")):
            self._resume(path)

    @property
    def step(self) -> GuidedStep:
        """State before the next frame."""
        return self._state(Advice(self._waiting[0].words if self._waiting else "Done"), None)

    def take(self, image: Pixels, time_s: float) -> GuidedStep:
        """Look at one frame and keep it where it completes a view.

        Args:
            image: Picture (h, w, 3) uint8 RGB.
            time_s: Time of the frame in seconds.

        Returns:
            The state after it.
        """
        if not self._waiting:
            return self._state(Advice("Done"), None)
        found = self.page.find(image)
        if found.corners is None:
            self._steady, self._before = [], None
            brightness = float(np.percentile(image.max(2), 99))
            advice = advise_search(found.count, self.page.needed, brightness, self.page.limits.page)
            return self._state(advice, None)

        measures = self._measure(image, found.corners, found.points, time_s)
        self._before = time_s, measures.corners
        target = best_target(self._waiting, measures, self._first_roll)
        advice = advise(measures, self.page.limits, self._goal(measures, target))
        if not advice.ready or target is None:
            self._steady = []
            return self._state(advice, measures.corners)

        self._steady.append((measures.edge_px, time_s, image, measures))
        first_s = self._steady[0][1]
        if len(self._steady) < HOLD_FRAMES or time_s - first_s < HOLD_S:
            return self._state(advice, measures.corners)
        return self._keep(target)

    def _measure(self, image: Pixels, corners: F64, points: F64, time_s: float) -> PageMeasures:
        size = (image.shape[1], image.shape[0])
        yaw, pitch, roll = page_angles(
            corners, (float(self.page.size[0]), float(self.page.size[1])), size
        )
        motion = None
        if self._before is not None:
            motion = page_motion(corners, self._before[1], size[0], time_s - self._before[0])
        sides = np.linalg.norm(np.roll(corners, -1, 0) - corners, axis=1)
        cells = np.array([*self.page.size, *self.page.size])
        return PageMeasures(
            corners=corners,
            size=size,
            exposure=page_exposure(image, corners),
            edge_px=edge_spread_px(image, corners),
            cell_px=float((sides / cells).min()),
            yaw_deg=yaw,
            pitch_deg=pitch,
            roll_deg=roll,
            motion=motion,
            reached=reached_cells(points, size),
        )

    def _goal(self, measures: PageMeasures, target: ViewTarget | None) -> Advice | None:
        """Return where to move to, if this frame is no view wanted."""
        number = f"view {len(self.views) + 1} of {len(self.page.targets)}"
        if target is None:
            return Advice(self._waiting[0].words, number)
        if not is_moved(measures.corners, self._outlines, measures.size[0]):
            return Advice("Move it a little", f"{number}: somewhere else than before")
        return None

    def _keep(self, target: ViewTarget) -> GuidedStep:
        """Read and save the sharpest of the steady frames."""
        _, _, image, measures = min(self._steady, key=lambda each: each[0])
        self._steady = []
        name = self._free_name()
        try:
            view = self.page.read(image, name)
        except CalibrationError as error:
            return self._state(Advice(error.remedy, error.limit), measures.corners)

        make_folder(self.folder)
        save_png(self.folder / name, image)
        self._count(view, target, measures)
        words = self._waiting[0].words if self._waiting else "Done"
        return replace(
            self._state(Advice(words, f"{target.name} taken"), measures.corners), new_view=name
        )

    def _free_name(self) -> str:
        """Return the first name of a view that no file has, used or not."""
        numbers = range(1, len(list(self.folder.glob("view-*.png"))) + 2)
        names = (f"view-{number:02d}.png" for number in numbers)
        return next(name for name in names if not os.path.lexists(self.folder / name))

    def _resume(self, path: Path) -> None:
        """Count a view that an earlier session took, for the target that it fits."""
        try:
            image = read_rgb(member_of(self.folder, path.name))
            view = self.page.read(image, path.name)
        except PhysadvError as error:
            self.left_out.append(str(error))
            return
        found = self.page.find(image)
        if found.corners is None:
            return
        measures = self._measure(image, found.corners, found.points, 0.0)
        target = best_target(self._waiting, measures, self._first_roll)
        if target is not None:
            self._count(view, target, measures)

    def _count(self, view: View, target: ViewTarget, measures: PageMeasures) -> None:
        self.views.append(view)
        self._waiting.remove(target)
        self._outlines.append(measures.corners)
        if self._first_roll is None:
            self._first_roll = measures.roll_deg

    def _state(self, advice: Advice, corners: F64 | None) -> GuidedStep:
        waiting = list(self._waiting)
        done = []
        for target in self.page.targets:
            done.append(target not in waiting)
            if target in waiting:
                waiting.remove(target)
        total = len(self.page.targets)
        # Equal targets are interchangeable: those taken are shown first.
        ordered = (
            tuple(done)
            if len(set(self.page.targets)) == total
            else tuple(index < len(self.views) for index in range(total))
        )
        return GuidedStep(advice, corners, len(self.views), total, done_targets=ordered)
