"""Sharpness, noise and motion of the twin's cameras are those of their physical data, measured as
on a test bench."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from physadv.core.errors import GeometryError
from physadv.core.sign_artwork import sign_face
from physadv.twin.camera_table import cameras_table
from physadv.twin.cameras import (
    FRAME_SIZE,
    KNOWN,
    LONGEST_SHUTTER,
    PHONE,
    TREMOR_DEG_S,
    WEBCAM,
    develop_frame,
    exposure_at,
    with_quality,
)
from physadv.twin.optics import blur_kernel, blur_light
from physadv.twin.printed_sheet import read_sticker
from physadv.twin.sign_clips import SignClip, print_out
from physadv.twin.slanted_edge import camera_mtf50, edge_transfer, half_contrast, slanted_edge
from physadv.twin.trajectories import AngleLimits

FREQUENCIES = np.linspace(0, 1, 4001)


def gaussian_contrast(sigma: float) -> np.ndarray:
    """Contrast of a pixel 1 px wide behind a Gaussian blur."""
    return np.exp(-2 * (np.pi * sigma * FREQUENCIES) ** 2) * np.sinc(FREQUENCIES)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("slope", [0.06, 0.13])
def test_slanted_edge_measures_a_gaussian(sigma: float, slope: float) -> None:
    """The edge's MTF50 is that of the formula, within 3 %, whatever its slope."""
    edge = slanted_edge(slope=slope)
    seen = blur_light(edge, blur_kernel(sigma, np.zeros(2)))
    measured = half_contrast(*edge_transfer(seen))
    assert measured == pytest.approx(half_contrast(FREQUENCIES, gaussian_contrast(sigma)), rel=0.03)


def test_a_picture_without_an_edge_is_refused() -> None:
    """An even picture has no edge to measure."""
    with pytest.raises(GeometryError, match="every row"):
        edge_transfer(np.full((20, 20), 0.5))


@pytest.mark.parametrize("camera", KNOWN.values(), ids=lambda c: c.name)
def test_camera_is_as_sharp_as_its_data(camera) -> None:
    """Without sharpening, the measured MTF50 is that of lens and pixel where the sensor averages
    whole quads of its mosaic; interpolation from single pixels costs more, but not all."""
    plain = with_quality(camera, sharpen=0.0)
    width = FRAME_SIZE[0]
    optics = half_contrast(FREQUENCIES, gaussian_contrast(camera.blur_px(width)))
    measured = camera_mtf50(plain, width)
    if plain.has_mosaic(width):
        assert 0.6 * optics < measured < 0.98 * optics
    else:
        assert measured == pytest.approx(optics, rel=0.06)
    assert camera_mtf50(camera, width) > measured


def test_a_smaller_picture_is_sharper_by_the_pixel() -> None:
    """Blur is a length on the sensor: twice the picture's width, twice the blur in px."""
    for camera in KNOWN.values():
        assert camera.blur_px(1280) == pytest.approx(2 * camera.blur_px(640))
        assert camera_mtf50(camera, 640) > camera_mtf50(camera, 1920)


def test_the_page_states_what_is_measured() -> None:
    """The table on docs/check.md is the one that the code makes now."""
    page = Path(__file__).resolve().parents[2] / "docs/check.md"
    assert cameras_table() in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("camera", [PHONE, WEBCAM], ids=lambda c: c.name)
@pytest.mark.parametrize("lux", [60.0, 6000.0])
def test_noise_is_that_of_the_photons(camera, lux: float) -> None:
    """The relative noise of an even gray is one over the root of the electrons that its pixels
    collect, and grows once the exposure time is used up."""
    width, level = FRAME_SIZE[0], 0.5
    plain = with_quality(camera, sharpen=0.0, contrast=0.0, saturation=1.0, read_noise=0.0)
    # Interpolation mixes noise: measured on a sensor without a mosaic.
    plain = with_quality(plain, bayer=False) if plain.has_mosaic(width) else plain
    shot = exposure_at(plain, lux)
    gray = np.full((200, 200, 3), level, np.float32)
    seen = develop_frame(gray, plain, shot, np.random.default_rng(0), picture_width=width)

    linear = np.where(seen <= 10.3, seen / 255 / 12.92, ((seen / 255 + 0.055) / 1.055) ** 2.4)
    share = 0.5 if plain.bayer else 1.0
    electrons = level * plain.electrons * shot.photons * plain.oversampling(width) ** 2 * share
    # Rounding to 8 bits adds a twelfth of a step, squared, to the variance.
    step = 2.4 / 1.055 * 0.5 ** (1.4 / 2.4) / 255
    expected = np.sqrt(1 / electrons + step**2 / 12 / level**2)
    assert linear[..., 1].std() / linear[..., 1].mean() == pytest.approx(expected, rel=0.06)


def test_exposure_follows_the_light() -> None:
    """Half the light takes twice the time, up to a frame's; from there on it gives half the
    photons. A frozen motion changes no noise."""
    for camera in KNOWN.values():
        bright, half = exposure_at(camera, 50_000), exposure_at(camera, 25_000)
        assert half.seconds == pytest.approx(2 * bright.seconds)
        assert half.photons == bright.photons == 1
        dark, darker = exposure_at(camera, 10), exposure_at(camera, 5)
        assert dark.seconds == darker.seconds == LONGEST_SHUTTER
        assert darker.photons == pytest.approx(dark.photons / 2)
        frozen = exposure_at(with_quality(camera, shutter=0.0), 10)
        assert (frozen.seconds, frozen.photons) == (0.0, dark.photons)


@pytest.mark.parametrize("frames", [2, 3, 8, 48])
def test_motion_blur_does_not_depend_on_the_number_of_frames(
    printed: tuple[Path, Path], frames: int
) -> None:
    """However few frames show a path, the sign crosses the picture as fast as a person turns, and
    no faster."""
    sticker = print_out(read_sticker(*printed), None, 0)
    for seed in range(6):
        clip = SignClip(
            np.random.default_rng(seed),
            sign_face("stop", 128, 762.0),
            np.full((120, 160, 3), 128, np.uint8),
            sticker,
            PHONE,
            frames=frames,
            size=(320, 240),
            distances_mm=(3000.0, 9000.0),
            angles=AngleLimits(),
        )
        fastest = np.hypot(*clip._velocity.T).max()
        focal = PHONE.focal * 320
        # Twice the mean speed, by the easing of a path, and the tremor of its last steps.
        assert fastest < 2 * np.deg2rad(20) * focal + frames * np.deg2rad(3 * TREMOR_DEG_S) * focal
        assert clip.shot.seconds <= LONGEST_SHUTTER
