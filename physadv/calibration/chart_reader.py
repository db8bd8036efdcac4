"""Colors of the cells in a photo of the color chart, or the reason why the photo cannot be used.

Pixels follow OpenCV's convention inside this module: the first pixel's center is at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from physadv.calibration.color_chart import (
    BLOCKS,
    CELL,
    COLUMNS,
    ROWS,
    SETS,
    ColorChart,
    cell_centers,
    color_chart,
    marker_corners,
)
from physadv.calibration.photo_limits import (
    PaperLevels,
    check_cast,
    check_colors,
    check_exposure,
    clip_level,
    paper_levels,
)
from physadv.core.color import srgb_to_linear
from physadv.core.errors import CalibrationError
from physadv.core.wording import format_percent
from physadv.eot.profiles import CameraProfile
from physadv.printing.aruco_markers import marker_dictionary

F64 = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

MIN_MARKERS = 6
MIN_CELL_PX = 8.0
MAX_EDGE_MM = 3.0
"""Widest edge (10 to 90 % of the step) at which the middle of a cell still has its own color."""
MAX_BENT_MM = 1.2
_CENTER, _GRID, _TRIM = 0.5, 14, 0.15
"""Cells are read over the middle half of their sides, at 14 x 14 points, without the lightest and
the darkest 15 %."""
_LINEAR = srgb_to_linear(np.arange(256) / 255)


@dataclass(frozen=True)
class ChartView:
    """Cells of one photo, in linear light.

    Attributes:
        chart: Set of colors that was printed.
        light: Linear RGB (cells, 3).
        clipped: Channels (cells, 3) that are over-exposed.
        cell_px: Side of the smallest cell in px.
        edge_mm: Width of the markers' edges on the chart, which measures blur.
        bent_mm: Distance of the markers from a plane.
        paper: Level of bare paper in red, green and blue, 0 to 255.
    """

    chart: ColorChart
    light: F64
    clipped: npt.NDArray[np.bool_]
    cell_px: float
    edge_mm: float
    bent_mm: float
    paper: PaperLevels


@dataclass(frozen=True)
class _ChartLens:
    """A map from the chart's mm to px: a homography, then one radial term about the ``middle``."""

    matrix: F64
    k1: float
    middle: F64
    reach: float

    def project(self, points: F64) -> F64:
        """Map points (n, 2) in mm to px."""
        offset = (
            cv2.perspectiveTransform(points[None].astype(np.float64), self.matrix)[0] - self.middle
        )

        r2 = (offset**2).sum(1, keepdims=True) / self.reach**2
        return np.asarray(self.middle + offset * (1 + self.k1 * r2))


def read_chart(image: Pixels, name: str, camera: CameraProfile | None = None) -> ChartView:
    """Find the chart in a photo and read its cells.

    Args:
        image: Photo (h, w, 3) uint8 sRGB.
        name: Name of the photo for messages.
        camera: Profile whose lens distortion is removed first.

    Returns:
        The cells.

    Raises:
        CalibrationError: The chart is not found, partly out of view, blurred, too small, bent,
            over- or under-exposed, or shows a color cast.

    Example:
        A rendering of the page stands for a photo, in light that falls off to the right.

        >>> import pypdfium2, tempfile
        >>> from physadv.calibration.color_chart import write_chart
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     layout = write_chart(f"{folder}/chart.pdf")
        ...     with pypdfium2.PdfDocument(f"{folder}/chart.pdf") as pdf:
        ...         page = np.asarray(pdf[0].render(scale=2).to_pil().convert("RGB"))
        >>> light = np.linspace(0.95, 0.8, page.shape[1])[:, None]
        >>> view = read_chart((light * page).astype(np.uint8), "page")
        >>> view.chart.number, view.light.shape, bool(view.clipped.any())
        (1, (374, 3), False)
    """
    if camera is not None:
        image = _undistort_photo(image, camera, name)
    gray = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    found = _markers(image, gray, name)
    chart, corners = found.chart, found.markers

    lens, bent_px = _fit_lens(corners, image.shape[1], image.shape[0])
    cell_px = _cell_px(lens)
    if cell_px < MIN_CELL_PX:
        limit = f"a cell of the chart is {cell_px:.1f} px wide, at least {MIN_CELL_PX:g} are needed"
        raise CalibrationError(name, limit, "Go closer or take a larger picture")

    edge = _edge_mm(gray, lens, list(corners))
    if edge > MAX_EDGE_MM:
        width = f"an edge is {edge:.1f} mm wide on the chart"
        limit = f"blurred: {width}, at most {MAX_EDGE_MM:g} mm can be used"
        raise CalibrationError(name, limit, "Focus, hold still, use more light")

    bent = bent_px / cell_px * CELL
    if bent > MAX_BENT_MM:
        deviation = f"its markers lie {bent:.1f} mm off"
        limit = f"the chart is not flat: {deviation}, at most {MAX_BENT_MM:g} mm can be used"
        raise CalibrationError(name, limit, "Tape it flat, or give the lens with --camera-profile")

    values = _cell_values(image, lens)
    ceiling = clip_level(values[chart.whites])
    light, clipped = _trimmed_light(values), (values >= ceiling).mean(1) > 0.02
    paper = paper_levels(light[chart.whites])
    check_exposure(paper, clipped[chart.whites], ceiling, name)
    check_cast(paper, name)
    check_colors(chart, light, name)
    return ChartView(chart, light, clipped, cell_px, edge, bent, paper)


def _undistort_photo(image: Pixels, camera: CameraProfile, name: str) -> Pixels:
    """Remove the distortion of ``camera``. Raises CalibrationError where the profile has another
    shape."""
    height, width = image.shape[:2]
    if abs(width / height - camera.width / camera.height) > 0.01:
        limit = (
            f"is {width}x{height}, the camera profile was made at {camera.width}x{camera.height}"
        )
        raise CalibrationError(name, limit, "Use pictures of the same camera, upright alike")

    camera.check_invertible(camera.camera or name)
    scale = np.diag([width / camera.width, height / camera.height, 1.0])
    matrix = scale @ camera.matrix - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    return np.asarray(cv2.undistort(image, matrix, np.array(camera.distortion)), np.uint8)


def _is_blurred(gray: Pixels) -> bool:
    """Return whether a picture has no sharp edge, so that further blur changes little (after Crete
    et al. 2007)."""
    small = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.float32)
    again = cv2.boxFilter(small, -1, (5, 5))
    steps = [np.abs(np.diff(p, axis=a)) for p in (small, again) for a in (0, 1)]

    strong = [s > np.percentile(s, 98) for s in steps[:2]]
    sharp_sum = sum(float(s[k].sum()) for s, k in zip(steps[:2], strong, strict=True))
    blurred_sum = sum(float(s[k].sum()) for s, k in zip(steps[2:], strong, strict=True))
    return sharp_sum == 0 or blurred_sum / sharp_sum > 0.62


@dataclass(frozen=True)
class FoundChart:
    """A color chart in a picture.

    Attributes:
        chart: Set of colors with the most markers in view.
        markers: Corners (4, 2) in px of each marker in view by its index in BLOCKS.
    """

    chart: ColorChart
    markers: dict[int, F64]

    @property
    def outline(self) -> F64 | None:
        """Corners (4, 2) of the grid in px, its top left first, clockwise as printed; None with too
        few markers."""
        if len(self.markers) < MIN_MARKERS:
            return None
        plane = marker_corners()[list(self.markers)].reshape(-1, 2)
        homography, _ = cv2.findHomography(plane, np.concatenate(list(self.markers.values())), 0)
        corners = np.array([[0, 0], [COLUMNS, 0], [COLUMNS, ROWS], [0, ROWS]]) * CELL
        return np.asarray(cv2.perspectiveTransform(corners[None], homography)[0], np.float64)


def find_chart(image: Pixels) -> FoundChart:
    """Find the chart in a picture (h, w, 3) uint8, however few of its markers are in view.

    Example:
        >>> len(find_chart(np.full((60, 80, 3), 200, np.uint8)).markers)
        0
    """
    detected = _detect(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8))
    found = FoundChart(color_chart(1), {})
    for number in range(1, SETS + 1):
        chart = color_chart(number)
        visible = {
            index: detected[marker]
            for index, marker in enumerate(chart.marker_ids)
            if marker in detected
        }
        found = max(found, FoundChart(chart, visible), key=lambda each: len(each.markers))
    return found


def _markers(image: Pixels, gray: Pixels, name: str) -> FoundChart:
    """Return the chart with enough markers in view, or raise CalibrationError."""
    found = find_chart(image)
    if len(found.markers) >= MIN_MARKERS:
        return found

    blurred = ", and the picture is blurred" if _is_blurred(gray) else ""
    if not found.markers:
        limit = f"no color chart found{blurred}"
        raise CalibrationError(
            name, limit, "Photograph the whole page of `physadv calibrate chart`, in focus"
        )

    count = f"only {len(found.markers)} of the chart's {len(BLOCKS)} markers found"
    limit = f"{count}{blurred}; {MIN_MARKERS} are needed"
    raise CalibrationError(
        name, limit, "Keep the whole page in view, flat, in focus and without reflections"
    )


def _detect(gray: Pixels) -> dict[int, F64]:
    """Return the corners in px of every marker: at full size, then doubled for small pictures and
    halved for soft ones."""
    settings = cv2.aruco.DetectorParameters()
    settings.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX

    # Dark cells beside a marker, and blur, form squares near it, so more candidates are tried.
    settings.minMarkerDistanceRate, settings.adaptiveThreshWinSizeStep = 0.01, 6
    settings.perspectiveRemoveIgnoredMarginPerCell = 0.25
    detector = cv2.aruco.ArucoDetector(marker_dictionary(), settings)

    detected: dict[int, F64] = {}
    for scale in (1.0, 2.0 if max(gray.shape) <= 2400 else 0.25, 0.5):
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        resized = (
            gray
            if scale == 1
            else cv2.resize(gray, None, fx=scale, fy=scale, interpolation=interpolation)
        )

        corners, ids, _ = detector.detectMarkers(resized)
        for marker, four in zip(
            [] if ids is None else np.asarray(ids).ravel().tolist(), corners, strict=False
        ):
            pixels = (np.asarray(four, np.float64).reshape(4, 2) + 0.5) / scale - 0.5
            detected.setdefault(int(marker), pixels)

        if any(
            len(set(color_chart(n).marker_ids) & set(detected)) >= MIN_MARKERS
            for n in range(1, SETS + 1)
        ):
            break
    return detected


def _fit_lens(corners: dict[int, F64], width: int, height: int) -> tuple[_ChartLens, float]:
    """Fit homography and radial term to the markers; return them and the root mean square residual
    in px."""
    plane = marker_corners()[list(corners)].reshape(-1, 2)
    pixels = np.concatenate(list(corners.values()))
    homography, _ = cv2.findHomography(plane, pixels, 0)

    middle, reach = (
        np.array([width / 2 - 0.5, height / 2 - 0.5]),
        float(np.hypot(width, height) / 2),
    )

    def lens(v: F64) -> _ChartLens:
        return _ChartLens(
            np.append(v[:8] * start[:8], 1.0).reshape(3, 3), float(v[8]), middle, reach
        )

    start = np.asarray(homography, np.float64).ravel() / homography[2, 2]
    start = np.where(np.abs(start) < 1e-12, 1e-12, start)
    fit = least_squares(
        lambda v: (lens(v).project(plane) - pixels).ravel(),
        np.append(np.ones(8), 0.0),
        x_scale="jac",
    )

    fitted = lens(np.asarray(fit.x))
    residual = fitted.project(plane) - pixels
    return fitted, float(np.sqrt((residual**2).sum(1).mean()))


def _cell_px(lens: _ChartLens) -> float:
    """Return the shorter side of a cell where it appears smallest, in px."""
    corners = np.array([[c, r] for c in (0.5, COLUMNS - 1.5) for r in (0.5, ROWS - 1.5)]) * CELL
    center = lens.project(corners)

    sides = [
        np.linalg.norm(lens.project(corners + step) - center, axis=1)
        for step in (np.array([CELL, 0]), np.array([0, CELL]))
    ]
    return float(np.min(sides))


def _edge_mm(gray: Pixels, lens: _ChartLens, indices: list[int]) -> float:
    """Return the median width of the markers' outer edges, from 10 to 90 % of the step, in mm on
    the chart."""
    # Distance in mm into the marker's black border; the white margin is 2.9 mm wide.
    steps = np.linspace(-3.0, 2.0, 61)
    widths = []

    for corners in marker_corners()[indices]:
        for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
            along, inward = (b - a), np.array([-(b - a)[1], (b - a)[0]]) / np.linalg.norm(b - a)
            across = np.stack(
                [a + t * along + steps[:, None] * inward for t in np.linspace(0.15, 0.85, 15)]
            )

            profile = _sample(gray, lens.project(across.reshape(-1, 2))).reshape(15, -1).mean(0)
            widths.append(_edge_width(profile, steps))
    return float(np.median(widths))


def _edge_width(profile: F64, steps: F64) -> float:
    """Return the 10 to 90 % width of a step by the spread of its slope: 2.56 standard deviations of
    a Gaussian."""
    slope = np.clip(-np.diff(profile), 0, None)
    slope = np.where(slope > 0.08 * slope.max(), slope, 0)
    positions = (steps[1:] + steps[:-1]) / 2

    if slope.sum() <= 0:
        return float("inf")
    mean = float((slope * positions).sum() / slope.sum())
    return 2.56 * float(np.sqrt((slope * (positions - mean) ** 2).sum() / slope.sum()))


def _sample(image: Pixels, points: F64) -> F64:
    """Sample the picture at points (n, 2) in px, bilinearly."""
    columns = 4096  # cv2.remap takes no side over 32767
    rows = -(-len(points) // columns)
    padded = np.zeros((rows * columns, 2), np.float32)
    padded[: len(points)] = points

    x, y = padded.reshape(rows, columns, 2).transpose(2, 0, 1)
    out = cv2.remap(image, np.ascontiguousarray(x), np.ascontiguousarray(y), cv2.INTER_LINEAR)
    return np.asarray(out.reshape(rows * columns, *image.shape[2:])[: len(points)], np.float64)


def _cell_values(image: Pixels, lens: _ChartLens) -> Pixels:
    """Return the pixels (cells, points, 3) uint8 in the middle of every cell."""
    cells = np.arange(COLUMNS * ROWS)
    offset = ((np.arange(_GRID) + 0.5) / _GRID - 0.5) * CELL * _CENTER
    points = cell_centers(cells)[:, None] + np.stack(np.meshgrid(offset, offset), -1).reshape(
        1, -1, 2
    )
    values = _sample(image, lens.project(points.reshape(-1, 2)))
    return np.asarray(values.round().astype(np.uint8).reshape(len(cells), -1, 3))


def _trimmed_light(values: Pixels) -> F64:
    """Return the trimmed mean (cells, 3) of every cell's pixels ``values`` in linear light."""
    light = _LINEAR[values]
    order = np.argsort(light.sum(2), axis=1)
    cut = int(_TRIM * light.shape[1])
    trimmed = np.take_along_axis(light, order[:, cut : light.shape[1] - cut, None], 1)
    return np.asarray(trimmed.mean(1))


def average_views(views: Sequence[ChartView]) -> ChartView:
    """Average several photos of one set after bringing them to the same exposure.

    A channel of a cell counts as clipped where it is in most of the ``views``.

    Raises:
        CalibrationError: The photos show different sets, or one has uneven light.
    """
    numbers = sorted({v.chart.number for v in views})
    if len(numbers) != 1:
        limit = f"photos of sets {', '.join(map(str, numbers))} are mixed"
        raise CalibrationError(
            f"{len(views)} photos", limit, "Give one set; test the fit on another with --check"
        )

    chart = views[0].chart
    even = [divide_light(v)[0] for v in views]
    clipped = np.mean([v.clipped for v in views], 0) > 0.5
    weights = np.stack([np.where(v.clipped, 1e-6, 1.0) for v in views])

    light = (np.stack(even) * weights).sum(0) / weights.sum(0)
    worst: Any = {k: max(getattr(v, k) for v in views) for k in ("edge_mm", "bent_mm")}
    paper = min((v.paper for v in views), key=max)
    return ChartView(chart, light, clipped, min(v.cell_px for v in views), **worst, paper=paper)


def divide_light(view: ChartView) -> tuple[F64, float]:
    """Divide the cells by the light that falls on them, so that bare paper is 1.

    The light is a cubic of the position, per channel, fitted to the logarithm of the white cells;
    whites more than three standard deviations off (a crumb, a reflection) are left out. ``view``
    holds the cells of one photo.

    Returns:
        The cells (cells, 3), and the ratio of the brightest to the darkest light.

    Raises:
        CalibrationError: The whites do not follow the cubic, as under a shadow.
    """
    whites = view.chart.whites
    usable = whites[~view.clipped[whites].any(1)]

    basis, target = _smooth(usable), np.log(np.maximum(view.light[usable], 1e-6))
    inlier = np.ones(len(usable), bool)
    for _ in range(3):
        fit, *_ = np.linalg.lstsq(basis[inlier], target[inlier], rcond=None)
        off = np.abs(target - basis @ fit).max(1)
        inlier = off <= 3 * max(1.4826 * float(np.median(off)), 0.004)

    residual = float(np.percentile(np.abs(target - basis @ fit).max(1), 90))
    if residual > 0.08 or inlier.mean() < 0.7:
        varies = format_percent(residual, 0)
        limit = f"the light is uneven: bare paper varies by {varies} from cell to cell"
        raise CalibrationError(
            "the chart photo", limit, "Avoid shadow edges, reflections and several lamps"
        )

    field = np.exp(_smooth(np.arange(COLUMNS * ROWS)) @ fit)
    return np.asarray(view.light / field), float(field[:, 1].max() / field[:, 1].min())


def _smooth(cells: npt.NDArray[np.int64]) -> F64:
    """Return the cubic terms (n, 10) of the cells' positions, each axis from -1 to 1."""
    x, y = (cell_centers(cells) / (np.array([COLUMNS, ROWS]) * CELL / 2) - 1).T
    return np.stack([x**i * y**j for i in range(4) for j in range(4 - i)], -1)
