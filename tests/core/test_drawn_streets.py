"""Streets drawn by code: repeatable, in perspective, and with a photo's statistics."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from physadv.core.drawn_streets import drawn_street
from physadv.core.street_canvas import StreetCanvas, facing
from physadv.core.street_parts import facade, foliage, fractal_tile


def test_a_street_repeats_by_its_names() -> None:
    """The same names give the same picture, whatever was drawn between; others another."""
    first = drawn_street(1, "a", height=48, width=64)
    other = drawn_street(1, "b", height=48, width=64)
    assert first.dtype == np.uint8
    assert first.shape == (48, 64, 3)
    assert (first == drawn_street(1, "a", height=48, width=64)).all()
    assert (first != other).any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (16, 200), (200, 16)])
def test_a_street_has_any_size(height: int, width: int) -> None:
    """Sizes too small for a thing of the street are drawn too."""
    for number in range(3):
        assert drawn_street(0, number, height=height, width=width).shape == (height, width, 3)


def test_a_street_is_the_same_at_another_size() -> None:
    """The street is laid out in meters: at twice the size it shows the same things."""
    small = drawn_street(4, "size", height=135, width=240).astype(float)
    large = drawn_street(4, "size", height=270, width=480)
    halved = cv2.resize(large, (240, 135), interpolation=cv2.INTER_AREA).astype(float)
    assert np.corrcoef(small.ravel(), halved.ravel())[0, 1] > 0.9


def test_streets_have_the_spectrum_of_photos() -> None:
    """Amplitudes fall about as 1 / frequency, and colors are near gray on average, as in photos."""
    slopes, means = [], []
    for number in range(6):
        gray = drawn_street(2, "spectrum", number, height=256, width=256).astype(float)
        means.append(gray.mean((0, 1)))
        window = np.outer(np.hanning(256), np.hanning(256))
        luma = gray.mean(2)
        amplitude = np.abs(np.fft.fft2((luma - luma.mean()) * window))
        f = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
        rings = [(0.015 * 2**k, 0.03 * 2**k) for k in range(4)]
        levels = [np.log(amplitude[(f >= low) & (f < high)].mean()) for low, high in rings]
        slopes.append(np.polyfit(np.log([low for low, _ in rings]), levels, 1)[0])

    assert -1.7 < np.mean(slopes) < -0.8
    mean = np.mean(means, 0)
    assert np.ptp(mean) < 0.15 * mean.mean()
    assert 70 < mean.mean() < 160


def test_the_canvas_is_a_pinhole() -> None:
    """A thing twice as far is half as far from the vanishing point; a rectangle that faces the
    camera covers focal^2 / z^2 times its area."""
    canvas = StreetCanvas(np.random.default_rng(3), 400, 600)
    near, far = canvas.project([[1.0, 0.5, 5.0], [1.0, 0.5, 10.0]]) - canvas.vanishing
    assert near == pytest.approx(2 * far)

    canvas.picture[:] = 0
    flat = np.ones((40, 60, 3), np.float32)
    canvas.lay(flat, facing(-0.2, 0.4, 1.4, 1.8, 5.0), 0.0)
    area = float(canvas.picture[..., 0].sum())
    assert area == pytest.approx(0.6 * 0.4 * (canvas.focal / 5) ** 2, rel=0.03)


def test_far_things_fade_to_haze() -> None:
    """Nothing is lost of a color at the camera, and all of it far away."""
    light = StreetCanvas(np.random.default_rng(3), 8, 8).light
    color = np.array([0.1, 0.2, 0.3], np.float32)
    assert light.veiled(color, 0.0) == pytest.approx(color)
    assert light.veiled(color, 1e6) == pytest.approx(light.haze)


def test_parts_are_reflectances_and_covers() -> None:
    """Facades reflect 0 to 1; a crown covers its middle, and no corner."""
    rng = np.random.default_rng(0)
    tile = fractal_tile(rng)
    front = facade(rng, tile, 9.0, 6.0)
    assert front.min() > 0
    assert front.max() <= 1

    crown = foliage(rng, tile, 80, 60, 1)
    cover = crown[..., 3]
    assert cover.min() >= 0
    assert cover.max() <= 1
    assert cover[20:40, 30:50].mean() > 0.9
    assert cover[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0
