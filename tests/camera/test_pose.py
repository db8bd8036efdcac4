"""Poses of printed test pages, rendered through a known camera: distances, angles and sides are
recovered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from physadv.camera.frames import CameraFrame
from physadv.camera.lens import ASSUMED, CameraLens, lens_for
from physadv.camera.localization.by_markers import by_fiducials
from physadv.camera.localization.pose import (
    CameraPose,
    PoseTracker,
    angle_between,
    both_poses,
    rotation_matrix,
)
from physadv.camera.localization.with_pose import with_pose
from physadv.core.errors import CaptureError
from physadv.eot.profiles import CameraProfile, write_profile
from physadv.printing.aruco_markers import FIDUCIALS, marker_modules, test_sign_layout
from physadv.printing.layout import sign_page_layout

FOCAL, SIZE = 950.0, (1280, 720)
WIDTH = sign_page_layout("a4", "clean").sign.w
PX_MM = 4.0
BLUR_PX, NOISE, QUALITY = 0.7, 2.0, 85


@cache
def page(block: str) -> np.ndarray:
    """Render the A4 page of a test sign at 4 px per mm: white, the sign's red square, its four
    markers."""
    layout = sign_page_layout("a4", block)
    made = np.full((round(layout.page[1] * PX_MM), round(layout.page[0] * PX_MM), 3), 250, np.uint8)
    x, y, side = (round(v * PX_MM) for v in (layout.sign.x, layout.sign.y, layout.sign.w))
    made[y : y + side, x : x + side] = (176, 28, 46)
    for marker, place in layout.markers.items():
        modules = np.where(marker_modules(marker), 15, 250).astype(np.uint8)
        # drawn to a fraction of a pixel: rounding would move the markers by 0.1 mm
        turn = np.array(
            [[place.w * PX_MM / 6, 0, place.x * PX_MM], [0, place.h * PX_MM / 6, place.y * PX_MM]]
        )
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
        full = np.linalg.inv(half) @ np.vstack([turn, [0, 0, 1]]) @ half
        drawn = cv2.warpPerspective(
            modules, full, (made.shape[1], made.shape[0]), flags=cv2.INTER_NEAREST
        )
        inside = (
            cv2.warpPerspective(
                np.full((6, 6), 255, np.uint8),
                full,
                (made.shape[1], made.shape[0]),
                flags=cv2.INTER_NEAREST,
            )
            > 127
        )
        made[inside] = drawn[inside][:, None]
    return made


def shoot(
    pose: CameraPose,
    block: str = "patch",
    *,
    size: tuple[int, int] = SIZE,
    focal: float = FOCAL,
    seed: int = 0,
    distortion: tuple[float, ...] = (),
) -> np.ndarray:
    """Render the page in a camera: area-averaged from four times the size, blurred, noisy, JPEG."""
    over, layout = 4, sign_page_layout("a4", block)
    camera = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
    plane = np.column_stack([pose.rotation[:, :2], pose.center])
    x, y = layout.sign.x + WIDTH / 2, layout.sign.y + WIDTH / 2
    to_mm = np.array([[1 / PX_MM, 0, -x], [0, 1 / PX_MM, -y], [0, 0, 1]])
    half, grow = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]]), np.diag([over, over, 1.0])
    turn = np.linalg.inv(half) @ grow @ camera @ plane @ to_mm @ half
    large = (size[0] * over, size[1] * over)
    seen = cv2.warpPerspective(
        page(block), turn, large, flags=cv2.INTER_LINEAR, borderValue=(110, 115, 105)
    )
    seen = cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
    if distortion:
        seen = bend(seen, camera, distortion)
    seen = cv2.GaussianBlur(seen, (0, 0), BLUR_PX)
    noise = np.random.default_rng(seed).normal(0, NOISE, seen.shape)
    noisy = np.clip(seen + noise, 0, 255).astype(np.uint8)
    return np.asarray(
        cv2.imdecode(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1], 1)
    )


def bend(image: np.ndarray, camera: np.ndarray, distortion: tuple[float, ...]) -> np.ndarray:
    """Apply the lens distortion to an ideal picture."""
    h, w = image.shape[:2]
    at = np.stack(np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5), -1).reshape(-1, 1, 2)
    ideal = cv2.undistortPoints(at, camera, np.array(distortion), P=camera).reshape(h, w, 2) - 0.5
    return np.asarray(
        cv2.remap(image, *np.moveaxis(ideal.astype(np.float32), -1, 0), cv2.INTER_CUBIC)
    )


def posed(
    distance_m: float,
    yaw: float,
    pitch: float = 0.0,
    roll: float = 0.0,
    off: tuple[float, float] = (0, 0),
) -> CameraPose:
    ray = np.array([off[0], off[1], 1.0])
    return CameraPose(
        rotation_matrix(yaw, pitch, roll), ray / np.linalg.norm(ray) * distance_m * 1000, 0.0
    )


def frame(image: np.ndarray, time_s: float = 0.0) -> CameraFrame:
    return CameraFrame(image, time_s, "a", None, 0)


def views(n: int, distance: float, yaw: float, seed: int = 0) -> Iterator[CameraPose]:
    """Draw n views at a distance and yaw, with small random pitches, rolls and positions."""
    random = np.random.default_rng([seed, round(distance * 100), round(yaw) + 90])
    for _ in range(n):
        pitch, roll, x, y = random.uniform(-1, 1, 4) * [8, 10, 0.12, 0.03]
        yield posed(distance, yaw, pitch, roll, (x, y))


def measure(pose: CameraPose, lens: Any, **more: Any) -> Any:
    place = with_pose(by_fiducials(), sign_width_mm=WIDTH, lens=lens)(frame(shoot(pose, **more)))
    return None if place is None or place.refused else place


@pytest.mark.parametrize(("distance", "yaw"), [(0.6, 0.0), (0.6, 30.0), (0.85, -30.0), (0.7, 45.0)])
def test_distance_and_angle_of_a_page(distance: float, yaw: float) -> None:
    """Errors are within 0.5 % and 2 degrees in every view, with the right side; markers give the
    block."""
    for number, pose in enumerate(views(3, distance, yaw)):
        place = measure(pose, lens_for(focal_px=FOCAL), seed=number)
        assert place is not None
        assert place.block == "patch"
        assert place.pose_by == "fiducials"
        assert place.distance_m == pytest.approx(distance, rel=0.005)
        assert abs(yaw) < 10 or np.sign(place.yaw_deg) == np.sign(yaw)
        assert abs(yaw) < 10 or place.yaw_deg == pytest.approx(yaw, abs=2)
        assert place.roll_deg == pytest.approx(pose.roll_deg, abs=2)


def test_angles_are_the_twins() -> None:
    """Yaw, pitch and roll mean what they mean in the twin's truth."""
    from physadv.twin.trajectories import SignPose as TwinPose
    from physadv.twin.trajectories import pose_rotation

    for angles in ((20.0, 5.0, -8.0), (-35.0, -12.0, 30.0)):
        assert rotation_matrix(*angles) == pytest.approx(
            pose_rotation(TwinPose(1000, *angles, 0, 0))
        )
        pose = posed(1.0, *angles)
        assert (pose.yaw_deg, pose.pitch_deg, pose.roll_deg) == pytest.approx(angles)


def test_both_solutions_are_kept() -> None:
    """From afar two poses fit: both are in the location, nearly equally good, tilted to opposite
    sides."""
    place = measure(posed(1.0, 20.0), lens_for(focal_px=FOCAL))
    assert place is not None
    first, second = place.poses
    assert first.error_px < 1
    assert angle_between(first, second) > 15
    assert np.sign(first.yaw_deg) != np.sign(second.yaw_deg)


def noisy_poses(
    path: list[float], noise_px: float, seed: int
) -> Iterator[tuple[float, list[CameraPose]]]:
    """Both poses of a page at 4 m that follows the yaws of ``path`` at 15 fps, its marker corners
    with that noise."""
    random, lens = np.random.default_rng(seed), lens_for(focal_px=FOCAL)(SIZE)
    plane = (test_sign_layout().reshape(-1, 2) - 0.5) * WIDTH
    for yaw in path:
        pose = posed(4.0, yaw)
        points = np.column_stack([plane, np.zeros(len(plane))]) @ pose.rotation.T + pose.center
        seen = points[:, :2] / points[:, 2:] * FOCAL + np.array(SIZE) / 2
        yield yaw, both_poses(plane, seen + random.normal(0, noise_px, seen.shape), lens)


def test_continuity_chooses_the_side() -> None:
    """A page swung from -35 to 35 degrees far away: the tracker takes the wrong side less often
    than single frames."""
    path = [float(v) for v in np.concatenate([np.linspace(-35, 35, 90), np.linspace(35, -35, 90)])]
    alone = tracked = n = 0
    for seed in range(4):
        tracker = PoseTracker()
        for number, (yaw, poses) in enumerate(noisy_poses(path, 0.6, seed)):
            chosen = tracker.choose(poses, number / 15)
            if abs(yaw) > 8 and chosen is not None:
                n += 1
                alone += np.sign(poses[0].yaw_deg) != np.sign(yaw)
                tracked += np.sign(chosen.yaw_deg) != np.sign(yaw)
    assert n > 400
    assert alone > 20  # single frames are wrong here, or the test shows nothing
    assert tracked < alone / 4


def test_the_tracker_starts_anew() -> None:
    """After a gap, and for another clip, the better fitting solution is chosen whatever
    preceded."""
    left, right = posed(1.0, -25.0), posed(1.0, 25.0)
    for poses_now, later in ((1.5, "after a gap"), (-1.0, "time ran backwards")):
        tracker = PoseTracker()
        for k in range(5):
            tracker.choose([left], k / 15)
        a, b = (
            CameraPose(right.rotation, right.center, 0.30),
            CameraPose(left.rotation, left.center, 0.32),
        )
        assert tracker.choose([a, b], 5 / 15) is b, "within the clip it stays"
        assert tracker.choose([a, b], 5 / 15 + poses_now) is a, later
    assert PoseTracker().choose([], 0.0) is None


@pytest.mark.parametrize(("distance", "refused"), [(0.95, False), (1.5, True)])
def test_small_markers_are_refused(distance: float, refused: bool) -> None:
    """A marker under 20 px is refused with its size; over it the frame is used."""
    place = with_pose(by_fiducials(), sign_width_mm=WIDTH, lens=lens_for(focal_px=FOCAL))(
        frame(shoot(posed(distance, 0.0)))
    )
    assert place is not None
    assert place.marker_px == pytest.approx(0.13 * WIDTH * FOCAL / distance / 1000, rel=0.05)
    assert (place.refused is not None) is refused
    if refused:
        assert "20 px" in str(place.refused)


def test_a_profile_undoes_the_lens(tmp_path: Path) -> None:
    """Through a strongly distorting lens the profile yields the distance; an assumed lens is as
    wrong as its focal length."""
    bent = (-0.22, 0.05, 0.0, 0.0, 0.0)
    profile = CameraProfile(1180.0, 1180.0, 640.0, 360.0, bent, *SIZE, 0.2, 12, "2026-01-01")
    write_profile(tmp_path / "camera.json", profile)
    pose = posed(0.9, 25.0, off=(0.2, 0.05))
    image = shoot(pose, focal=1180.0, distortion=bent)
    by_profile = with_pose(
        by_fiducials(), sign_width_mm=WIDTH, lens=lens_for(tmp_path / "camera.json")
    )(frame(image))
    assumed = with_pose(by_fiducials(), sign_width_mm=WIDTH, lens=lens_for())(frame(image))
    assert by_profile is not None
    assert assumed is not None
    assert by_profile.distance_m == pytest.approx(0.9, rel=0.01)
    assert by_profile.yaw_deg == pytest.approx(25, abs=3)
    assert assumed.distance_m == pytest.approx(0.9 * ASSUMED * 1280 / 1180, rel=0.05)


def test_a_profile_of_another_shape_gives_no_distance(tmp_path: Path) -> None:
    """A 16:9 profile scales to 16:9 frames; 4:3 frames stay without distance, with the reason."""
    write_profile(
        tmp_path / "c.json", CameraProfile(950, 950, 640, 360, (), *SIZE, 0.2, 12, "2026-01-01")
    )
    lens = lens_for(tmp_path / "c.json")
    assert lens((640, 360)) == CameraLens(
        (475, 475), (320, 180), (640, 360), "profile", (), "c.json"
    )
    with pytest.raises(CaptureError, match=r"640x480.*calibrate"):
        lens((640, 480))
    image = shoot(posed(0.6, 0), size=(640, 480))
    place = with_pose(by_fiducials(), sign_width_mm=WIDTH, lens=lens)(frame(image))
    assert place is not None
    assert place.distance_m is None
    assert "640x480" in str(place.note)
    assert FIDUCIALS["patch"]
