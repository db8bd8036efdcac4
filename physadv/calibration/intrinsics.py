"""A camera's focal length and lens distortion from pictures of the ChArUco board (Zhang 2000)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.calibration.charuco_board import COLUMNS, ROWS, SQUARE, charuco_board
from physadv.core.errors import CalibrationError
from physadv.eot.profiles import CameraProfile

F64 = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

MIN_VIEWS = 8
MIN_CORNERS = 12
MIN_TILT = 15.0
"""Degrees between the board and the picture's plane from which a view tells the focal length."""
MIN_TILTED = 4
MAX_RMS = 2.0
MAX_DOUBT = 0.02
"""Largest standard deviation of the focal length, as a share of it."""


@dataclass(frozen=True)
class BoardView:
    """Board corners (n, 1, 3) mm and where one picture of (width, height) ``size`` shows them, (n,
    1, 2) px."""

    name: str
    corners: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.float32]
    size: tuple[int, int]

    @property
    def homography(self) -> F64:
        """Board mm -> px."""
        found, _ = cv2.findHomography(self.corners[:, 0, :2], self.pixels[:, 0], 0)
        return np.asarray(found, np.float64)


def find_board(image: Pixels, name: str) -> BoardView:
    """Find the board in an (h, w, 3) uint8 picture. Raises CalibrationError where too little of it
    is seen."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    made = charuco_board()
    corners, ids, _, _ = cv2.aruco.CharucoDetector(made).detectBoard(gray)
    count = 0 if ids is None else len(ids)
    if count < MIN_CORNERS:
        limit = (
            f"{count} of {(COLUMNS - 1) * (ROWS - 1)} board corners found, {MIN_CORNERS} are needed"
        )
        remedy = "photograph the board of `physadv calibrate chart --kind charuco`, in focus and near enough"
        raise CalibrationError(name, limit, remedy)
    plane, pixels = made.matchImagePoints(corners, ids)
    flat = np.asarray(plane, np.float32).reshape(-1, 1, 3)
    if np.linalg.matrix_rank(flat[:, 0, :2] - flat[:, 0, :2].mean(0)) < 2:
        raise CalibrationError(name, "the corners found lie on one line", "Show more of the board")
    return BoardView(
        name, flat, np.asarray(pixels, np.float32).reshape(-1, 1, 2), (gray.shape[1], gray.shape[0])
    )


def _outline(view: BoardView) -> F64:
    """The board's four outer corners in px."""
    corners = np.array([[0, 0], [COLUMNS, 0], [COLUMNS, ROWS], [0, ROWS]]) * SQUARE
    return np.asarray(cv2.perspectiveTransform(corners[None], view.homography)[0], np.float64)


def is_new_view(view: BoardView, others: Sequence[BoardView], *, share: float = 0.04) -> bool:
    """Whether a view differs from all others: some corner of the board moved by ``share`` of the
    picture's width."""
    outline = _outline(view)
    return all(np.abs(_outline(o) - outline).max() > share * view.size[0] for o in others)


def tilt_deg(view: BoardView, focal: float | None = None) -> float:
    """Angle between the board and the picture's plane, roughly: lens distortion is not known yet.

    ``focal`` in px; 0.9 picture widths by default.
    """
    width, height = view.size
    f = focal or 0.9 * max(width, height)
    inverse = np.linalg.inv(np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]]))
    first, second, _ = (inverse @ view.homography).T
    normal = np.cross(first / np.linalg.norm(first), second / np.linalg.norm(second))
    return float(np.degrees(np.arccos(np.clip(abs(normal[2]) / np.linalg.norm(normal), 0, 1))))


def board_coverage(views: Sequence[BoardView], cells: int = 4) -> float:
    """Share of a 4 x 4 grid over the picture in which some corner of the board was seen."""
    pixels = np.concatenate([v.pixels[:, 0] for v in views]) / np.array(views[0].size)
    return (
        len({tuple(c) for c in np.clip((pixels * cells).astype(int), 0, cells - 1).tolist()})
        / cells**2
    )


def calibrate_camera(views: Sequence[BoardView], *, camera: str = "") -> CameraProfile:
    """Focal lengths, principal point and distortion (k1, k2, p1, p2, k3 = 0) from views of the
    board.

    Views that fit three times worse than the median are left out. Raises CalibrationError for too
    few views, too little tilt, pictures of several sizes, and a result that fits badly or is in
    doubt.
    """
    _check_views(views)
    kept = list(views)
    for _ in range(3):
        found = _solve(kept)
        limit = max(3 * float(np.median(found.per_view)), 0.3)
        fitting = [v for v, error in zip(kept, found.per_view, strict=True) if error <= limit]
        if len(fitting) == len(kept) or len(fitting) < MIN_VIEWS:
            break
        kept = fitting
    fx, fy = float(found.matrix[0, 0]), float(found.matrix[1, 1])
    doubt = float(max(found.deviation[:2]) / fx)
    if found.rms > MAX_RMS:
        limit_text = (
            f"the corners are {found.rms:.1f} px off on average, at most {MAX_RMS:g} px can be used"
        )
        raise CalibrationError(
            "the views", limit_text, "Flatten the board, hold still, and photograph it again"
        )
    if doubt > MAX_DOUBT:
        limit_text = (
            f"the focal length is uncertain by {doubt:.1%}, at most {MAX_DOUBT:.0%} can be used"
        )
        raise CalibrationError(
            "the views", limit_text, "Add views nearer and more tilted, in all corners"
        )
    width, height = views[0].size
    about = {
        "focal_uncertainty": round(doubt, 5),
        "coverage": round(board_coverage(kept), 3),
        "left_out": len(views) - len(kept),
        "tilts_deg": [round(tilt_deg(v, fx), 1) for v in kept],
    }
    profile = CameraProfile(
        fx,
        fy,
        float(found.matrix[0, 2]) + 0.5,
        float(found.matrix[1, 2]) + 0.5,
        tuple(round(float(k), 7) for k in found.distortion[:5]),
        width,
        height,
        round(found.rms, 4),
        len(kept),
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
    """k3 is held at zero: with one board it trades against k1 and k2."""
    objects: list[Any] = [v.corners for v in views]
    pixels: list[Any] = [v.pixels for v in views]
    rms, matrix, lens, _, _, deviation, _, errors = cv2.calibrateCameraExtended(
        objects, pixels, views[0].size, None, None, flags=cv2.CALIB_FIX_K3
    )
    flat = (np.asarray(v, np.float64).ravel() for v in (lens, deviation, errors))
    return _Solution(float(rms), np.asarray(matrix, np.float64), *flat)


def _check_views(views: Sequence[BoardView]) -> None:
    remedy = "tilt the board by 20 to 45 degrees to the left, right, up and down"
    if len(views) < MIN_VIEWS:
        missing = MIN_VIEWS - len(views)
        limit = f"{MIN_VIEWS} are needed: {missing} more"
        raise CalibrationError(
            f"{len(views)} usable views of the board",
            limit,
            f"Take {missing} or more, and {remedy}",
        )
    sizes = sorted({v.size for v in views})
    if len(sizes) > 1:
        said = ", ".join(f"{w}x{h}" for w, h in sizes)
        raise CalibrationError(
            f"pictures of {said}",
            "one size is needed",
            "Keep the camera upright, at one resolution",
        )
    tilted = sum(tilt_deg(v) >= MIN_TILT for v in views)
    if tilted < MIN_TILTED:
        limit = f"{tilted} of {len(views)} views are tilted by {MIN_TILT:g} degrees or more, {MIN_TILTED} are needed"
        raise CalibrationError("the views are too much alike", limit, remedy)
