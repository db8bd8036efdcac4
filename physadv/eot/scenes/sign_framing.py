"""Geometry between a sign and a picture of it: distance, pose and framing are drawn here.

Points are in px with the origin at the corner of the first pixel; homographies act on columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from physadv.core.errors import OptionError
from physadv.eot.ranges import EotRanges
from physadv.eot.stage import Range
from physadv.eot.transforms.lens_distortion import focal_length_px
from physadv.eot.warp import pose_homography
from physadv.models.resizing import Fit, InputResizing

Matrix = npt.NDArray[np.float64]
Float = npt.NDArray[np.floating]

_SQUARE = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
_LARGEST_SHARE = 0.9
"""Largest width of a sign as a share of a frame."""


@dataclass(frozen=True)
class SignFraming:
    """Distance of a camera from a sign, and the size of the sign in its picture."""

    widths: float
    """Distance in widths of the sign."""
    native_px: float
    """Width of the sign in the camera's own pixels, seen frontally."""
    frame_px: float
    """Height of the camera's picture in px."""


@dataclass(frozen=True)
class FrameShape:
    """Shape of a camera's frame, and how a detector fits it into its square input.

    Args:
        aspect: Width of the frame over its height.
        size_px: Side of the square input.
        fit: "stretch", or "letterbox" or "letterbox-corner", which pad it.
    """

    aspect: float
    size_px: int
    fit: Fit = "stretch"

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Corners x0, y0, x1, y1 in px of the frame in the input."""
        resizing = InputResizing((self.size_px, self.size_px), self.fit)
        # What counts is the aspect: as many rows as meet those of cameras (16:9, 4:3, 3:2) exactly.
        return resizing.image_box(10_800, round(10_800 * self.aspect))

    def to_input(self, height: float, origin: Float) -> Matrix:
        """Return the map (3, 3) from the picture plane to px of the input.

        Args:
            height: Height of the frame on the picture plane.
            origin: (2,) its upper left corner there.

        Example:
            >>> shape = FrameShape(2.0, 64, "letterbox")
            >>> matrix = shape.to_input(1.0, np.zeros(2))
            >>> to_pixels(matrix, np.array([[0.0, 0.0], [2.0, 1.0]])).tolist()
            [[0.0, 16.0], [64.0, 48.0]]
        """
        x0, y0, x1, y1 = self.box
        scale = np.array([(x1 - x0) / (self.aspect * height), (y1 - y0) / height])
        shift = np.array([x0, y0]) - scale * origin
        return np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1]])


def draw_frame_shape(
    rng: np.random.Generator, ranges: EotRanges, size_px: int, fit: Fit
) -> FrameShape:
    """Draw the shape of a frame within ``frame_aspect`` of ``ranges``.

    The draw comes from a stream spawned from ``rng``, so that it shifts no other draw.

    Args:
        rng: Random stream.
        ranges: Ranges of EOT.
        size_px: Side of the detector's square input.
        fit: How the detector fits a frame into it.
    """
    if not ranges.acts("frame_aspect"):
        return FrameShape(1.0, size_px, fit)
    return FrameShape(draw_between(rng.spawn(1)[0], ranges.frame_aspect), size_px, fit)


def draw_framing(
    rng: np.random.Generator, ranges: EotRanges, width_mm: float, *, whole_frame: bool = True
) -> SignFraming | None:
    """Draw the distance of a sign and the focal length and width of the sensor.

    The draws come from a stream spawned from ``rng``, so that they shift no other draw. Distances
    are uniform in the logarithm, and so is the size of the sign that a camera shows.

    Args:
        rng: Random stream.
        ranges: Ranges of ``distance_m``, ``sensor_px`` and ``field_of_view_deg``, and of
            ``visible_share`` (of frames) or ``visible_px`` (of crops), which narrow the distances
            of each camera.
        width_mm: Width of the sign.
        whole_frame: Whether a model is given the whole frame, else a crop.

    Returns:
        The framing, or None where the ranges give no distance.

    Raises:
        OptionError: There is a distance, but no camera that it is seen by.

    Example:
        >>> camera = EotRanges(
        ...     distance_m=(5, 5), sensor_px=(1920, 1920), field_of_view_deg=(90, 90)
        ... )
        >>> framing = draw_framing(np.random.default_rng(0), camera, width_mm=500)
        >>> round(framing.widths, 6), round(framing.native_px, 6), framing.frame_px
        (10.0, 96.0, 1080.0)
    """
    if not ranges.acts("distance_m"):
        return None
    if ranges.sensor_px[0] <= 0 or not 0 < ranges.field_of_view_deg[0] < 180:
        raise OptionError(
            f"distance_m {ranges.distance_m} without a camera",
            "A distance needs the camera's sensor_px over 0 and field_of_view_deg under 180",
            "Give all three, for example sensor_px 1920 and field_of_view_deg 65",
        )

    own = rng.spawn(1)[0]
    distance_mm = 1000 * float(np.exp(own.uniform(*np.log(ranges.distance_m))))
    sensor_px = draw_between(own, ranges.sensor_px)
    focal_px = focal_length_px(sensor_px, draw_between(own, ranges.field_of_view_deg))
    frame_px = sensor_px * 9 / 16
    if ranges.acts("visible_share" if whole_frame else "visible_px"):
        smallest, largest = ranges.visible_share if whole_frame else ranges.visible_px
        reach_mm = focal_px * width_mm / (frame_px if whole_frame else 1.0)
        visible_mm = (reach_mm / largest, reach_mm / smallest)
        distance_mm = _moved_within(distance_mm, ranges.distance_m, visible_mm)
    return SignFraming(distance_mm / width_mm, focal_px * width_mm / distance_mm, frame_px)


def _moved_within(distance_mm: float, drawn_m: Range, visible_mm: Range) -> float:
    """Move a distance to the same place, in the logarithm, among those that are visible too.

    Args:
        distance_mm: Distance drawn within ``drawn_m``.
        drawn_m: Distances that are drawn from, in m.
        visible_mm: Distances at which the sign is visible, in mm.

    Returns:
        The distance in mm; where no distance of both is the same, the nearest of ``drawn_m``.
    """
    low, high = (1000 * end for end in drawn_m)
    place = 0.0 if low == high else np.log(distance_mm / low) / np.log(high / low)
    first = min(max(low, visible_mm[0]), high)
    last = max(first, min(high, visible_mm[1]))
    return float(first * (last / first) ** place)


def draw_pose(
    rng: np.random.Generator, ranges: EotRanges, share: float, camera: SignFraming | None = None
) -> Matrix:
    """Draw the pose of a plane one unit wide before a camera of focal length 1.

    Args:
        rng: Random stream.
        ranges: Ranges of ``yaw_deg``, ``pitch_deg`` and ``roll_deg``.
        share: Factor of the drawn yaw and pitch, from 0 (parallel to the picture) to 1.
        camera: Distance of the plane. None: 2.5 to 20 widths, uniform in the logarithm.

    Returns:
        (3, 3) homography from the plane to the picture; its [2, 2] is the distance in widths.

    Example:
        >>> pose = draw_pose(np.random.default_rng(0), EotRanges(), share=1.0)
        >>> bool(2.5 <= pose[2, 2] <= 20)
        True
    """
    yaw, pitch, roll = (
        np.radians(draw_between(rng, r))
        for r in (ranges.yaw_deg, ranges.pitch_deg, ranges.roll_deg)
    )
    # Drawn with a camera too, so that the draws that follow do not depend on whether there is one.
    distance = float(np.exp(rng.uniform(np.log(2.5), np.log(20.0))))
    if camera is not None:
        distance = max(camera.widths, 1.2)

    one = torch.ones(1, dtype=torch.float64)
    matrix = pose_homography(
        distance * one,
        share * yaw * one,
        share * pitch * one,
        roll * one,
        focal_px=one,
        center_px=torch.zeros(1, 2, dtype=torch.float64),
    )
    return np.asarray(matrix[0].numpy(), np.float64)


def yaw_of(pose: Matrix) -> float:
    """Return by how many degrees the plane of a ``pose`` is turned sideways from the camera.

    Args:
        pose: (3, 3) homography from the plane to the picture of a camera of focal length 1, as
            :func:`draw_pose` returns it; the unit of length on the plane may be any.

    Returns:
        Angle between the plane's normal and the optical axis, seen from above, in degrees. It is
        the drawn yaw, where neither pitch nor roll is added.

    Example:
        >>> turned = EotRanges(yaw_deg=(-30, -30), pitch_deg=(0, 0), roll_deg=(0, 0))
        >>> round(yaw_of(draw_pose(np.random.default_rng(0), turned, share=1.0)), 6)
        -30.0
    """
    across, _, toward = np.cross(pose[:, 0], pose[:, 1])
    return float(np.degrees(np.arctan2(across, toward)))


def fit_into_frame(
    corners: Matrix,
    shape: FrameShape,
    ranges: EotRanges,
    rng: np.random.Generator,
    *,
    edges: Matrix | None = None,
    camera: SignFraming | None = None,
) -> Matrix:
    """Draw the place of a sign in a whole frame.

    Args:
        corners: (4, 2) corners of the sign in the picture plane, in any unit.
        shape: Shape of the frame, and of its picture in the detector's input.
        ranges: Range ``frame_place`` of the place between the frame's edges, and ``frame_share`` of
            the sign's width over the frame's height, used without ``camera``.
        rng: Random stream.
        edges: (4, 2) corners of the photo that contains the sign; the frame stays within them as
            far as the sign's share of it allows.
        camera: Framing that determines the share.

    Returns:
        (3, 3) map from the picture plane to px of the detector's input.
    """
    low, high = corners.min(0), corners.max(0)
    side = float((high - low).max())
    share = float(np.exp(rng.uniform(*np.log(ranges.frame_share))))
    left, right = ranges.frame_place
    position = 1 - right + (right - left) * rng.uniform(0, 1, 2)

    if camera is not None:
        share = min(camera.native_px / camera.frame_px, _LARGEST_SHARE)
    if edges is not None:
        reach = np.ptp(edges, axis=0) / (shape.aspect, 1)
        share = min(max(share, side / float(reach.min())), _LARGEST_SHARE)

    # The frame's upper left corner moves between the two extremes that still contain the sign.
    window = side / share * np.array([shape.aspect, 1])
    first, last = high - window, low
    if edges is not None:
        first, last = np.maximum(first, edges.min(0)), np.minimum(last, edges.max(0) - window)
    origin = first + position * (last - first)

    return shape.to_input(side / share, origin)


def fit_into_crop(
    corners: Matrix,
    size_px: int,
    ranges: EotRanges,
    rng: np.random.Generator,
    camera: SignFraming | None = None,
) -> tuple[Matrix, float]:
    """Draw the crop of a sign that a classifier is given.

    Args:
        corners: (4, 2) corners of the sign in the picture plane, in any unit.
        size_px: Side of the square crop.
        ranges: Range ``margin`` around the sign in widths of it, and ``size_px`` of the sign in the
            camera's pixels, used without ``camera``.
        rng: Random stream.
        camera: Framing that determines the sign's size in the camera's pixels.

    Returns:
        (3, 3) similarity from the picture plane to px of the crop, and the px of the crop per px of
        the camera, at least 1.
    """
    low, high = corners.min(0), corners.max(0)
    side = float((high - low).max())
    margin = draw_between(rng, ranges.margin)
    scale = size_px / (side * (1 + 2 * margin))
    position = size_px * (0.5 + rng.uniform(-0.06, 0.06, 2))
    native_px = float(np.exp(rng.uniform(*np.log(ranges.size_px))))
    if camera is not None:
        native_px = camera.native_px

    similarity = _similarity(scale, position - scale * ((low + high) / 2))
    return similarity, max(1.0, scale * side / native_px)


def draw_between(rng: np.random.Generator, bounds: Range) -> float:
    """Draw a uniform number between the two ``bounds`` from ``rng``."""
    return float(rng.uniform(bounds[0], bounds[1]))


def square_corners(width: float) -> Matrix:
    """Return (4, 2) corners of a square about the origin, clockwise from the upper left.

    Its side is ``width``.

    Example:
        >>> square_corners(2.0).tolist()
        [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]
    """
    return np.array(_SQUARE) * width


def to_pixels(matrix: Matrix, points: npt.NDArray[np.floating]) -> Matrix:
    """Map ``points`` (n, 2) through the homography ``matrix`` (3, 3)."""
    return np.asarray(
        cv2.perspectiveTransform(points.astype(np.float64)[None], matrix)[0], np.float64
    )


def for_opencv(matrix: Matrix) -> Matrix:
    """Return the homography ``matrix`` (3, 3) for OpenCV, whose pixel centers are whole numbers."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.asarray(np.linalg.inv(half) @ matrix @ half, np.float64)


def _similarity(scale: float, shift: Float) -> Matrix:
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])
