"""The twin's printer, lens and sensor on their own, and its independence of all rooms but core."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import physadv.twin
from physadv.core.errors import OptionError
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.twin.cameras import (
    CAMERAS,
    EFFECTS,
    KNOWN,
    PHONE,
    ClipExposure,
    cameras_named,
    develop_frame,
    leave_out,
    with_quality,
)
from physadv.twin.flat_print import photograph_print
from physadv.twin.linear_light import light_to_srgb, srgb_to_light, to_linear
from physadv.twin.optics import CameraView, blur_kernel, draw_texture
from physadv.twin.printed_sheet import read_sticker
from physadv.twin.surface import build_texture
from physadv.twin.trajectories import SignPose, distort_points, pose_rotation, sign_homography
from physadv.twin.virtual_printer import PRINTERS, print_picture, printer_named, random_printer


def test_imports_core_alone() -> None:
    """No module of the twin imports torch or a room other than core, so that it can contradict
    them."""
    folder = Path(physadv.twin.__file__).parent
    allowed = {"physadv.core", "physadv.twin"}
    modules = sorted(folder.glob("*.py"))
    assert len(modules) > 5
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, module
                names = [node.module or ""]
            for name in names:
                assert not name.startswith(("torch", "kornia")), (module, name)
                if name.startswith("physadv"):
                    assert ".".join(name.split(".")[:2]) in allowed, (module, name)


def test_sheet_is_cut_to_the_sticker(printed: tuple[Path, Path]) -> None:
    """The cut-out along the TrimBox is the sticker and nothing beside it, at the card's size."""
    sticker = read_sticker(*printed, dpi=100)
    assert sticker.rgb.shape == (round(150 / 25.4 * 100), round(400 / 25.4 * 100), 3)
    assert sticker.center_mm == (0.0, 210.0)
    edges = sticker.rgb[5:-5, [1, -2]].astype(int)
    assert np.abs(edges[:, 0] - (255, 0, 0)).max() < 20
    assert np.abs(edges[:, 1] - 128).max() < 20
    middle = sticker.rgb[60, [100, 600, 1000]].argmax(1)
    assert middle.tolist() == [0, 1, 2]


def test_printer_stays_in_its_gamut() -> None:
    """Nothing is brighter than paper or darker than three inks; brightness keeps its order; a
    screen green dulls."""
    printer = random_printer(3)
    ramp = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[None, :, None], 3, 2).repeat(40, 0)
    print_ = print_picture(ramp, printer, 0.5, 0)
    line = print_[20]
    assert (np.diff(line, axis=0) > -0.01).all()
    assert line.max() <= printer.paper.max() * 1.02
    assert line.min() >= 0.01
    pure = np.zeros((8, 8, 3), np.uint8)
    pure[..., 1] = 255
    green = print_picture(pure, printer, 0.5, 0)[4, 4]
    assert green[1] < 0.5
    assert green.argmax() == 1
    assert np.array_equal(random_printer(3).primaries, printer.primaries)
    assert not np.array_equal(random_printer(4).primaries, printer.primaries)


def test_srgb_round_trip() -> None:
    """Encoding undoes decoding on all 8-bit values."""
    values = np.arange(256) / 255
    assert np.allclose(light_to_srgb(srgb_to_light(values)), values, atol=1e-6)
    assert to_linear(np.array([[[0, 255, 188]]], np.uint8))[0, 0] == pytest.approx(
        [0, 1, 0.5029], abs=1e-3
    )


@pytest.mark.parametrize("k1", [0.0, -0.14, 0.05])
def test_lens_inverse(k1: float) -> None:
    """Points shown through the lens come back to the plane they lie on."""
    pose = SignPose(3000.0, 25.0, -8.0, 4.0, 500.0, 120.0)
    view = CameraView(sign_homography(pose, 500.0, (640, 480)), k1, 500.0, (640, 480))
    points = np.array([[-300.0, -200.0], [0, 0], [310, 250], [100, -350]])
    for point, seen in zip(points, view.project(points), strict=True):
        x, y = (int(v) for v in np.floor(seen))
        gx, gy = view.plane_grid((x, y, x + 1, y + 1), 41)
        near = np.argmin(np.hypot(gx - point[0], gy - point[1]))
        assert np.hypot(gx - point[0], gy - point[1]).ravel()[near] < 0.3
    assert np.allclose(
        distort_points(np.array([[320.0, 240.0]]), k1, 500, (640, 480)), [[320, 240]]
    )


def test_pose_conventions() -> None:
    """The center is where the pose puts it; with yaw > 0 the sign faces right, and its right edge
    is farther and shorter."""
    pose = SignPose(4000.0, 30.0, 0.0, 0.0, 320.0, 240.0)
    view = CameraView(sign_homography(pose, 600.0, (640, 480)), 0.0, 600.0, (640, 480))
    square = view.project(np.array([[-381.0, -381.0], [381, -381], [381, 381], [-381, 381]]))
    assert np.allclose(view.project(np.zeros((1, 2))), [[320, 240]])
    assert square[2, 1] - square[1, 1] < square[3, 1] - square[0, 1]
    away = pose_rotation(pose)[:, 2]
    assert np.rad2deg(np.arctan2(-away[0], away[2])) == pytest.approx(30)
    assert np.allclose(
        pose_rotation(SignPose(1, 10, 20, 30, 0, 0))
        @ pose_rotation(SignPose(1, 10, 20, 30, 0, 0)).T,
        np.eye(3),
    )


def test_drawing_small_does_not_alias() -> None:
    """A fine checkerboard seen from afar is an even gray, not a pattern."""
    board = np.indices((512, 512)).sum(0) % 2
    layer = np.dstack([np.repeat(board[..., None], 3, 2), np.ones((512, 512))]).astype(np.float32)
    surface = build_texture(layer, 762.0)
    pose = SignPose(9000.0, 20.0, 5.0, 3.0, 300.0, 200.0)
    view = CameraView(sign_homography(pose, 600.0, (640, 480)), -0.05, 600.0, (640, 480))
    drawn = draw_texture(surface, view)
    assert drawn is not None
    whole = drawn[1][drawn[1][..., 3] > 0.999][:, 0]
    assert len(whole) > 500
    assert whole.mean() == pytest.approx(0.5, abs=0.02)
    assert whole.std() < 0.03


def test_blur_kernel_keeps_light() -> None:
    """Point spreads sum to one, lie centered, stretch along the motion, and keep the contrast
    of the Gaussian lens and of the way."""
    kernel = blur_kernel(0.7, np.array([6.0, 0.0]))
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    axis = np.arange(len(kernel)) - len(kernel) // 2
    assert abs((kernel.sum(0) * axis).sum()) < 1e-4
    for frequency in (0.05, 0.15, 0.3):
        lens = np.exp(-2 * (np.pi * 0.7 * frequency) ** 2)
        wave = np.cos(2 * np.pi * frequency * axis)
        assert kernel.sum(1) @ wave == pytest.approx(lens, abs=0.01)
        assert kernel.sum(0) @ wave == pytest.approx(lens * np.sinc(6 * frequency), abs=0.02)


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda c: c.name)
def test_develop_is_neutral_and_ordered(camera) -> None:
    """With its white balance right, gray stays gray, brighter stays brighter, white reaches white,
    black is black."""
    quiet = with_quality(camera, electrons=1e8, read_noise=0)
    shot = ClipExposure(1.0, np.ones(3, np.float32))
    seen = []
    for level in (0.0, 0.05, 0.2, 0.5, 1.0):
        picture = develop_frame(
            np.full((32, 32, 3), level, np.float32), quiet, shot, np.random.default_rng(0)
        )
        assert np.ptp(picture[8:-8, 8:-8].mean((0, 1))) <= 2
        seen.append(float(picture[8:-8, 8:-8].mean()))
    assert seen == sorted(seen)
    assert seen[0] < 3
    assert seen[-1] > 250


def test_colors_pass_the_sensor() -> None:
    """Red, green and blue light come out as such: the Bayer pattern is read the way it was made."""
    quiet = with_quality(PHONE, electrons=1e8, read_noise=0, sharpen=0)
    for channel in range(3):
        light = np.full((32, 32, 3), 0.02, np.float32)
        light[..., channel] = 0.4
        picture = develop_frame(
            light, quiet, ClipExposure(1.0, np.ones(3, np.float32)), np.random.default_rng(0)
        )
        assert int(picture[10:20, 10:20].mean((0, 1)).argmax()) == channel


def test_noise_grows_with_less_light() -> None:
    """Relative noise is larger in the dark, as for photon counts."""
    rng, shot = np.random.default_rng(1), ClipExposure(1.0, np.ones(3, np.float32))
    camera = with_quality(PHONE, sharpen=0, electrons=1000, contrast=0, sensor_px=200)
    spread = []
    for level in (0.02, 0.5):
        picture = develop_frame(
            np.full((200, 200, 3), level, np.float32), camera, shot, rng
        ).astype(float)
        spread.append(picture[..., 1].std() / picture[..., 1].mean())
    assert spread[0] > 2 * spread[1]


def test_at_least_six_cameras_and_printers_by_name() -> None:
    """Each camera and printer has a name and differs from the others; unknown names are refused by
    name."""
    assert len(KNOWN) >= 6
    assert len({tuple(c.as_dict().items()) for c in KNOWN.values()}) == len(KNOWN)
    machines = [printer_named(name, 0) for name in PRINTERS if name != "ideal"]
    assert len(machines) >= 6
    assert len({m.primaries.tobytes() for m in machines if m is not None}) == len(machines)
    with pytest.raises(OptionError, match="polaroid"):
        cameras_named(["phone", "polaroid"])
    with pytest.raises(OptionError, match="plotter"):
        printer_named("plotter", 0)


@pytest.mark.parametrize("effect", EFFECTS)
def test_each_effect_of_a_camera_can_be_left_out(effect: str) -> None:
    """Leaving one out changes the camera, and leaving it out twice changes no more."""
    camera = KNOWN["cctv"]
    without = leave_out(camera, [effect])
    assert without != camera
    assert leave_out(without, [effect]) == without
    assert leave_out(camera, []) == camera


@pytest.mark.parametrize("name", [name for name in PRINTERS if name not in ("drawn", "ideal")])
def test_a_driver_sends_what_comes_nearest(name: str) -> None:
    """Printed through its driver, grays stay gray and colors keep their hue; without it the same
    inks are far off."""
    printer = printer_named(name, 0)
    assert printer is not None
    asked = np.array([[[128, 128, 128], [90, 140, 60], [200, 120, 60], [250, 250, 250]]], np.uint8)
    smooth = replace(printer, mottle=0.0)
    shown = print_picture(asked, smooth, 0.1, 0) / printer.paper
    raw = print_picture(asked, replace(smooth, managed=False), 0.1, 0) / printer.paper
    darkest = printer.primaries[7] / printer.paper
    wanted = darkest + (1 - darkest) * srgb_to_light(asked / 255.0)
    assert np.ptp(light_to_srgb(shown[0, 0])) < 0.06
    assert np.argmax(shown[0, 1]) == 1
    assert np.argmax(shown[0, 2]) == 0
    assert (
        np.abs(light_to_srgb(shown) - light_to_srgb(wanted)).mean()
        < np.abs(light_to_srgb(raw) - light_to_srgb(wanted)).mean()
    )


def test_a_flat_photo_without_effects_is_the_picture() -> None:
    """With everything left out only scale and light change: the cut-out correlates with the picture
    nearly fully."""
    picture = synthetic_background(3, height=96, width=96)
    clean = photograph_print(
        picture, camera=KNOWN["phone"], without=("printer", *EFFECTS), tilt_deg=0.0, span_px=384
    )
    hard = photograph_print(picture, camera=KNOWN["cctv"], printer="newsprint", span_px=110)

    def likeness(shown: np.ndarray) -> float:
        return float(np.corrcoef(shown.ravel().astype(float), picture.ravel().astype(float))[0, 1])

    assert clean.shape == hard.shape == picture.shape
    assert likeness(clean) > 0.985
    assert likeness(hard) < likeness(clean)
    again = photograph_print(picture, camera=KNOWN["cctv"], printer="newsprint", span_px=110)
    assert np.array_equal(hard, again)
    with pytest.raises(OptionError, match="square"):
        photograph_print(picture[:50], camera=KNOWN["phone"])


def test_the_exposure_of_a_shot_is_its_light() -> None:
    """Half the exposure is one stop less: the picture of half the light."""
    quiet = with_quality(PHONE, electrons=1e8, read_noise=0, contrast=0, wb_error=0)

    def picture(level: float, exposure: float) -> float:
        shot = ClipExposure(exposure, np.ones(3, np.float32))
        light = np.full((32, 32, 3), level, np.float32)
        return float(develop_frame(light, quiet, shot, np.random.default_rng(0))[8:-8, 8:-8].mean())

    assert picture(0.4, 0.5) == pytest.approx(picture(0.2, 1.0), abs=1)
    assert picture(0.2, 1.0) < picture(0.4, 1.0) - 20
