"""Sticker shapes, and finding signs in pictures."""

from __future__ import annotations

from math import pi
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from physadv.core.errors import DataError, GeometryError, ImageError, OptionError
from physadv.core.random_streams import numpy_generator
from physadv.core.sign_artwork import sign_face
from physadv.eot.mask_shapes import area_share, make_mask
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.find_signs import find_signs
from physadv.eot.scenes.load import load_scene_sources
from physadv.eot.scenes.signs import DrawnScenes, PhotoScenes, PhotoSign, SceneSize, relight_gains


@pytest.mark.parametrize(
    ("shape", "share"),
    [
        ("rectangle", 1.0),
        ("circle", pi / 4),
        ("octagon", 0.8284),
        ("bars", 0.55),
        ("bars:2:0.3", 0.3),
        ("bars:5:0.4", 0.4),
        ("bars:12:.5", 0.5),
    ],
)
def test_shapes_cover_their_share(shape: str, share: float) -> None:
    """Each shape covers the share of its box that geometry gives."""
    assert float(make_mask(shape, 100, 100, longest_px=128).mean()) == pytest.approx(
        share, abs=0.01
    )


def test_a_png_marks_by_alpha_and_an_svg_by_ink(tmp_path: Path) -> None:
    """A PNG's alpha and an SVG's drawn area become the mask, at the sticker's aspect."""
    rgba = np.zeros((40, 80, 4), np.uint8)
    rgba[:, :40, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "half.png")
    mask = make_mask(str(tmp_path / "half.png"), 80, 40, longest_px=64)
    assert mask.shape == (1, 1, 32, 64)
    assert float(mask[..., :31].min()) == 1
    assert float(mask[..., 33:].max()) == 0
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">'
        '<rect width="10" height="5"/></svg>'
    )
    (tmp_path / "top.svg").write_text(svg)
    assert float(make_mask(str(tmp_path / "top.svg"), 50, 50).mean()) == pytest.approx(
        0.5, abs=0.02
    )


def test_masks_without_pixels_and_unknown_shapes_are_refused(tmp_path: Path) -> None:
    """No visible pixel, no area and no such shape each have their own clear error."""
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "none.png")
    with pytest.raises(GeometryError, match="no visible pixel"):
        make_mask(str(tmp_path / "none.png"), 10, 10)
    with pytest.raises(GeometryError, match="over 0 mm"):
        make_mask("circle", 0, 10)
    with pytest.raises(OptionError, match="heart"):
        make_mask("heart", 10, 10)
    for bars in ("bars:1:0.5", "bars:13:0.5", "bars:5:0.99", "bars:5:0.01", "bars:5:5", "bars:5"):
        with pytest.raises(OptionError, match="bars"):
            make_mask(bars, 10, 10)
    with pytest.raises(ImageError, match="no such file"):
        make_mask("missing.png", 10, 10)


def test_area_share_of_a_quarter() -> None:
    """A full rectangle of half the sign's sides covers a quarter of a square sign."""
    assert area_share(torch.ones(1, 1, 4, 4), 50, 50, 100.0 * 100.0) == 0.25


def street(corners: np.ndarray) -> np.ndarray:
    """A gray picture with the drawn stop sign seen at the given corners."""
    face = sign_face(width_px=256).rgba
    source = np.array([[0, 0], [256, 0], [256, 256], [0, 256]], np.float32)
    seen = cv2.warpPerspective(
        face, cv2.getPerspectiveTransform(source, corners), (480, 360), flags=cv2.INTER_AREA
    )
    alpha = seen[..., 3:] / 255
    return (seen[..., :3] * alpha + np.array([120, 130, 140]) * (1 - alpha)).astype(np.uint8)


def test_a_drawn_sign_is_found_where_it_stands() -> None:
    """The found corners of a sign in perspective lie within 4 % of its width of the true ones (its
    border is white)."""
    corners = np.array([[150, 90], [290, 105], [285, 240], [145, 235]], np.float32)
    found = find_signs(street(corners))
    assert len(found) == 1
    red_inset = 19 / 762 * 140
    assert np.abs(found[0] - corners).max() < 0.04 * 140 + red_inset


def test_nothing_red_means_nothing_found() -> None:
    """No octagon, no sign: red rectangles and discs are left alone."""
    picture = np.full((200, 300, 3), 90, np.uint8)
    cv2.rectangle(picture, (20, 20), (120, 120), (190, 20, 30), -1)
    cv2.circle(picture, (220, 100), 50, (190, 20, 30), -1)
    assert find_signs(picture) == []


def test_most_signs_of_real_photos_are_found(shared_data: Path) -> None:
    """At least 11 of the 12 street photos yield a sign, and at most 2 of the 12 without one yield a
    false one."""
    from physadv.core.image_io import list_images, read_rgba

    stops = [
        find_signs(read_rgba(f)[..., :3]) for f in list_images(shared_data / "stop-photos" / "stop")
    ]
    others = [
        find_signs(read_rgba(f)[..., :3])
        for f in list_images(shared_data / "stop-photos" / "other")
    ]
    assert sum(bool(found) for found in stops) >= 11
    assert sum(bool(found) for found in others) <= 2


def test_photo_scenes_keep_the_sign_under_the_homography() -> None:
    """In every virtual view the plane's center falls on the red sign, and the corners inside the
    crop."""
    corners = np.array([[150, 90], [290, 90], [290, 230], [150, 230]], np.float32)
    source = PhotoScenes([PhotoSign(street(corners), corners, "a")], 762)
    batch = source.sample(8, SceneSize(64, False), EotRanges(), numpy_generator(0, "p"))
    center = batch.homography[:, :2, 2] / batch.homography[:, 2:, 2]
    assert bool(((center > 20) & (center < 44)).all())
    below = batch.homography @ torch.tensor([0.0, 230.0, 1.0])
    for image, point in zip(batch.images, below[:, :2] / below[:, 2:], strict=True):
        red, green, _ = image[:, int(point[1]), int(point[0])].tolist()
        assert red > 2 * green


def test_relight_follows_the_photo() -> None:
    """A sign photographed at a quarter of the light asks for about a quarter of the gain."""
    corners = np.array([[150, 90], [290, 90], [290, 230], [150, 230]], np.float32)
    bright = street(corners)
    linear = (bright / 255.0) ** 2.2 * 0.25
    dark = ((linear ** (1 / 2.2)) * 255).astype(np.uint8)
    full, _ = relight_gains(PhotoSign(bright, corners, "a"))
    quarter, _ = relight_gains(PhotoSign(dark, corners, "b"))
    assert float((quarter / full).mean()) == pytest.approx(0.25, rel=0.15)


def test_folders_split_by_photo(tmp_path: Path) -> None:
    """No photo is both trained on and judged on; a folder without a sign is refused."""
    for i in range(8):
        shift = np.array([4 * i, 2 * i], np.float32)
        picture = street(
            np.array([[150, 90], [290, 90], [290, 230], [150, 230]], np.float32) + shift
        )
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    material = load_scene_sources(tmp_path, None, width_mm=762, seed=0)
    parts = [{sign.group for sign in part} for part in material.signs]
    assert material.kind == "photos"
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert len(parts[2]) == 2
    empty = tmp_path / "grey"
    empty.mkdir()
    Image.fromarray(np.full((60, 60, 3), 90, np.uint8)).save(empty / "x.png")
    with pytest.raises(DataError, match="no sign was located"):
        load_scene_sources(empty, None, width_mm=762, seed=0)


def test_drawn_scenes_are_reproducible() -> None:
    """The same generator draws the same scenes."""
    source = DrawnScenes([sign_face(width_px=64)], [np.full((90, 120, 3), 99, np.uint8)], 762)
    first, second = (
        source.sample(3, SceneSize(32, True), EotRanges(), numpy_generator(5, "d"))
        for _ in range(2)
    )
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.homography, second.homography)
