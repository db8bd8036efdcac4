"""Focal length and lens distortion of a camera from pictures of the ChArUco board (Zhang 2000)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.calibration.charuco_board import COLUMNS, ROWS, SQUARE, charuco_board
from physadv.core.errors import CalibrationError
from physadv.core.wording import count_noun, format_percent
from physadv.eot.profiles import CameraProfile

F64 = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

MIN_VIEWS = 8
MIN_CORNERS = 12
MIN_TILT = 15.0
"""Least angle in degrees between board and picture at which a view constrains the focal length."""
MIN_TILTED = 4
MAX_RMS = 2.0
MAX_DOUBT = 0.02
"""Largest relative standard deviation of the focal length."""


@dataclass(frozen=True)
class BoardView:
    """Corners of the board in one picture.

    Attributes:
        name: Name of the picture.
        corners: Corners (n, 1, 3) on the board in mm.
        pixels: The same corners (n, 1, 2) in the picture.
        size: Width and height of the picture.
    """

    name: str
    corners: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.float32]
    size: tuple[int, int]

    @property
    def homography(self) -> F64:
        """Homography (3, 3) from board mm to px."""
        homography, _ = cv2.findHomography(self.corners[:, 0, :2], self.pixels[:, 0], 0)
        return np.asarray(homography, np.float64)


def find_board(image: Pixels, name: str) -> BoardView:
    """Find the board in a picture.

    Args:
        image: Picture (h, w, 3) uint8.
        name: Name of the picture for messages.

    Returns:
        The corners.

    Raises:
        CalibrationError: Too little of the board is in view.
    """
    count, view = detect_board(image, name)
    if count < MIN_CORNERS:
        limit = (
            f"{count} of {count_noun((COLUMNS - 1) * (ROWS - 1), 'board corner')} found, "
            f"{MIN_CORNERS} are needed"
        )
        remedy = (
            "Photograph the board of `physadv calibrate chart --kind charuco`, in focus and "
            "near enough"
        )
        raise CalibrationError(name, limit, remedy)
    if view is None:
        raise CalibrationError(name, "the corners found lie on one line", "Show more of the board")
    return view


def detect_board(image: Pixels, name: str) -> tuple[int, BoardView | None]:
    """Find the board in a picture, however little of it is in view.

    Args:
        image: Picture (h, w, 3) uint8.
        name: Name of the view.

    Returns:
        The number of corners found, and the view; None with fewer than ``MIN_CORNERS`` corners, or
        with all on one line.

    Example:
        >>> detect_board(np.full((60, 80, 3), 200, np.uint8), "empty")
        (0, None)
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    board = charuco_board()
    corners, ids, _, _ = cv2.aruco.CharucoDetector(board).detectBoard(gray)
    count = 0 if ids is None else len(ids)
    if count < MIN_CORNERS:
        return count, None

    plane, pixels = board.matchImagePoints(corners, ids)
    flat = np.asarray(plane, np.float32).reshape(-1, 1, 3)
    if np.linalg.matrix_rank(flat[:, 0, :2] - flat[:, 0, :2].mean(0)) < 2:
        return count, None
    size = (gray.shape[1], gray.shape[0])
    return count, BoardView(name, flat, np.asarray(pixels, np.float32).reshape(-1, 1, 2), size)


def board_outline(view: BoardView) -> F64:
    """Return the board's four outer corners (4, 2) in px, its top left first, clockwise as
    printed; ``view`` holds the inner ones."""
    corners = np.array([[0, 0], [COLUMNS, 0], [COLUMNS, ROWS], [0, ROWS]]) * SQUARE
    return np.asarray(cv2.perspectiveTransform(corners[None], view.homography)[0], np.float64)


def is_new_view(view: BoardView, others: Sequence[BoardView], *, share: float = 0.04) -> bool:
    """Return whether a view differs from all others, by the movement of some corner of the board.

    Args:
        view: The view.
        others: Views so far.
        share: Least movement in picture widths.

    Returns:
        True if it differs.
    """
    outline = board_outline(view)
    return all(np.abs(board_outline(o) - outline).max() > share * view.size[0] for o in others)


def tilt_deg(view: BoardView, focal: float | None = None) -> float:
    """Return the approximate angle between the board and the picture plane, without lens
    distortion.

    ``view`` holds the corners; ``focal`` is the focal length in px, 0.9 picture widths by default.
    """
    width, height = view.size
    f = focal or 0.9 * max(width, height)
    inverse = np.linalg.inv(np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]]))

    first, second, _ = (inverse @ view.homography).T
    normal = np.cross(first / np.linalg.norm(first), second / np.linalg.norm(second))
    return float(np.degrees(np.arccos(np.clip(abs(normal[2]) / np.linalg.norm(normal), 0, 1))))


def _board_coverage(views: Sequence[BoardView], cells: int = 4) -> float:
    """Return the share of a ``cells`` x ``cells`` grid over the picture in which some corner was
    seen."""
    pixels = np.concatenate([v.pixels[:, 0] for v in views]) / np.array(views[0].size)
    return (
        len({tuple(c) for c in np.clip((pixels * cells).astype(int), 0, cells - 1).tolist()})
        / cells**2
    )


def calibrate_camera(views: Sequence[BoardView], *, camera: str = "") -> CameraProfile:
    """Estimate focal lengths, principal point and distortion (k1, k2, p1, p2; k3 = 0) from views of
    the board.

    Views that fit three times worse than the median are left out.

    Args:
        views: Corners of the board in each picture.
        camera: Name of the camera, for the profile.

    Returns:
        The profile.

    Raises:
        CalibrationError: There are too few views or too little tilt, pictures differ in size, or
            the result fits badly or is uncertain.

    Example:
        >>> inner = np.mgrid[1:COLUMNS, 1:ROWS].reshape(2, -1).T * SQUARE
        >>> board = np.column_stack([inner, np.zeros(len(inner))]).astype(np.float32)[:, None]
        >>> matrix = np.array([[900, 0, 639.5], [0, 900, 359.5], [0, 0, 1.0]])
        >>> center = np.array([-80.0, -110.0, 500.0])
        >>> views = []
        >>> for turn in np.mgrid[-0.5:1:0.5, -0.5:1:0.5].reshape(2, -1).T:
        ...     pixels, _ = cv2.projectPoints(board, np.append(turn, 0), center, matrix, None)
        ...     views.append(BoardView("view", board, pixels.astype(np.float32), (1280, 720)))
        >>> profile = calibrate_camera(views, camera="demo")
        >>> round(profile.fx), profile.width
        (900, 1280)
    """
    _check_views(views)
    used_views = list(views)

    for _ in range(3):
        solution = _solve(used_views)
        limit = max(3 * float(np.median(solution.per_view)), 0.3)
        fitting = [
            v for v, error in zip(used_views, solution.per_view, strict=True) if error <= limit
        ]
        if len(fitting) == len(used_views) or len(fitting) < MIN_VIEWS:
            break
        used_views = fitting

    fx, fy = float(solution.matrix[0, 0]), float(solution.matrix[1, 1])
    uncertainty = float(max(solution.deviation[:2]) / fx)

    if solution.rms > MAX_RMS:
        deviation = f"the corners are {solution.rms:.1f} px off on average"
        limit_text = f"{deviation}, at most {MAX_RMS:g} px can be used"
        raise CalibrationError(
            "the views", limit_text, "Flatten the board, hold still, and photograph it again"
        )
    if uncertainty > MAX_DOUBT:
        deviation = f"the focal length is uncertain by {format_percent(uncertainty)}"
        limit_text = f"{deviation}, at most {format_percent(MAX_DOUBT, 0)} can be used"
        raise CalibrationError(
            "the views", limit_text, "Add views nearer and more tilted, in all corners"
        )

    width, height = views[0].size
    about = {
        "focal_uncertainty": round(uncertainty, 5),
        "coverage": round(_board_coverage(used_views), 3),
        "left_out": len(views) - len(used_views),
        "tilts_deg": [round(tilt_deg(v, fx), 1) for v in used_views],
    }

    profile = CameraProfile(
        fx,
        fy,
        float(solution.matrix[0, 2]) + 0.5,
        float(solution.matrix[1, 2]) + 0.5,
        tuple(round(float(k), 7) for k in solution.distortion[:5]),
        width,
        height,
        round(solution.rms, 4),
        len(used_views),
        f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        camera,
        about,
    )
    profile.check_invertible(camera or "camera")
    return profile


@dataclass(frozen=True)
class _Solution:
    rms: float
    matrix: F64
    distortion: F64
    deviation: F64
    per_view: F64


def _solve(views: Sequence[BoardView]) -> _Solution:
    """Solve for the lens with k3 at zero: with one board it trades against k1 and k2."""
    objects: list[Any] = [v.corners for v in views]
    pixels: list[Any] = [v.pixels for v in views]

    with _one_opencv_thread():
        rms, matrix, lens, _, _, deviation, _, errors = cv2.calibrateCameraExtended(
            objects, pixels, views[0].size, None, None, flags=cv2.CALIB_FIX_K3
        )
    flat = (np.asarray(v, np.float64).ravel() for v in (lens, deviation, errors))
    return _Solution(float(rms), np.asarray(matrix, np.float64), *flat)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Let OpenCV use one thread: several add up in any order, so that a profile made twice of the
    same pictures would differ in its last digits."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _check_views(views: Sequence[BoardView]) -> None:
    remedy = "tilt the board by 20 to 45 degrees to the left, right, up and down"
    if len(views) < MIN_VIEWS:
        missing = MIN_VIEWS - len(views)
        limit = f"{MIN_VIEWS} are needed: {missing} more"
        raise CalibrationError(
            f"{count_noun(len(views), 'usable view')} of the board",
            limit,
            f"Take {missing} or more, and {remedy}",
        )

    sizes = sorted({v.size for v in views})
    if len(sizes) > 1:
        size_names = ", ".join(f"{w}x{h}" for w, h in sizes)
        raise CalibrationError(
            f"pictures of {size_names}",
            "one size is needed",
            "Keep the camera upright, at one resolution",
        )

    tilted = sum(tilt_deg(v) >= MIN_TILT for v in views)
    if tilted < MIN_TILTED:
        count = (
            f"{tilted} of {count_noun(len(views), 'view')} tilted by {MIN_TILT:g} degrees or more"
        )
        limit = f"{count}, {MIN_TILTED} are needed"
        raise CalibrationError("the views are too much alike", limit, remedy.capitalize())
