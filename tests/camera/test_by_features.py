"""Localization by features: a sign without markers is found, and none is found where there is
none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from bundle_fixtures import demo_bundle

from physadv.camera.frames import CameraFrame
from physadv.camera.lens import lens_for
from physadv.camera.localization.by_features import _turned_alike, by_features
from physadv.camera.localization.pose import rotation_matrix
from physadv.camera.localization.reference_images import SIDE, reference_images
from physadv.camera.localization.with_pose import with_pose
from physadv.check.locators import locator_for
from physadv.core.errors import OptionError
from physadv.core.sign_artwork import octagon_mm
from physadv.patches.bundle import PatchBundle

FOCAL, SIGN_MM = 950.0, 762.0


@pytest.fixture
def bundle(tmp_path: Path) -> PatchBundle:
    """A checkered sticker of 200 mm, 100 mm under the sign's center."""
    checks = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return demo_bundle(tmp_path / "bundle", checks, size=(200.0, 200.0), below=100.0)


def wall(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(40, 220, (36, 64, 3)).astype(np.uint8)
    return cv2.GaussianBlur(
        cv2.resize(noise, (1280, 720), interpolation=cv2.INTER_CUBIC), (0, 0), 2
    )


def street(
    sign: np.ndarray, distance_m: float, yaw: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The octagon before a blotchy wall, and its square's corners in px."""
    camera = np.array([[FOCAL, 0, 600 + 20 * seed], [0, FOCAL, 350], [0, 0, 1]])
    plane = np.column_stack([rotation_matrix(yaw, 4, -3)[:, :2], [0, 0, distance_m * 1000]])
    to_mm = np.array(
        [[SIGN_MM / SIDE, 0, -SIGN_MM / 2], [0, SIGN_MM / SIDE, -SIGN_MM / 2], [0, 0, 1]]
    )
    turn = camera @ plane @ to_mm
    shape = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(shape, [np.array(octagon_mm(SIDE)).astype(np.int32)], 255)
    seen, inside = (
        cv2.warpPerspective(v, turn, (1280, 720), flags=cv2.INTER_AREA) for v in (sign, shape)
    )
    made = wall(seed)
    made[inside > 127] = seen[inside > 127]
    noisy = cv2.GaussianBlur(made, (0, 0), 0.7) + np.random.default_rng(seed).normal(
        0, 3, made.shape
    )
    square = np.array([[[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]]], np.float64)
    return np.clip(noisy, 0, 255).astype(np.uint8), cv2.perspectiveTransform(square, turn)[0]


@pytest.mark.parametrize(("distance", "yaw"), [(3.0, 0.0), (3.5, 30.0)])
def test_the_drawn_sign_is_found(bundle: PatchBundle, distance: float, yaw: float) -> None:
    """Clean, blank and patched signs of about 200 px: corners within 3 px, distance within 5 %."""
    pictures = reference_images(bundle)
    locate = with_pose(by_features(pictures), sign_width_mm=SIGN_MM, lens=lens_for(focal_px=FOCAL))
    for seed, picture in enumerate(pictures.values()):
        image, corners = street(picture, distance, yaw, seed)
        place = locate(CameraFrame(image, 0.0, "a", None, 0))
        assert place is not None
        assert (place.by, place.block, place.pose_by) == ("features", None, "features")
        assert place.corners == pytest.approx(corners, abs=3)
        assert place.distance_m == pytest.approx(distance, rel=0.05)


def test_walls_hold_no_sign(bundle: PatchBundle) -> None:
    """Blotchy walls and a plain one: nothing is found."""
    locate = by_features(reference_images(bundle))
    for image in [*(wall(seed) for seed in range(4)), np.full((240, 320, 3), 128, np.uint8)]:
        assert locate(CameraFrame(image, 0.0, "a", None, 0)) is None


def test_references_wear_their_stickers(bundle: PatchBundle) -> None:
    """The sticker is at the card's position, white in the second picture, the patch in the
    third."""
    clean, blank, patched = reference_images(bundle).values()
    y, x = round(SIDE / 2 + 100 * SIDE / SIGN_MM), SIDE // 2
    half = round(100 * SIDE / SIGN_MM)
    assert (blank[y, x] == 244).all()
    changed = np.argwhere((clean != patched).any(2))
    assert changed.min(0) == pytest.approx([y - half, x - half], abs=2)
    assert changed.max(0) == pytest.approx([y + half, x + half], abs=2)


def test_what_cannot_be_recognized_is_refused() -> None:
    """A plain reference picture is refused; so is the strategy without pictures."""
    with pytest.raises(OptionError, match="corners in its drawing"):
        by_features([np.full((64, 64, 3), 200, np.uint8)])
    with pytest.raises(OptionError, match="no features was given"):
        locator_for("features")


@pytest.mark.parametrize("roll", [-150.0, -90.0, 45.0, 175.0])
def test_a_turned_sign_is_found(bundle: PatchBundle, roll: float) -> None:
    """The search goes by a rotation that features share, whatever it is: corners within 3 px."""
    picture = reference_images(bundle)["patch"]
    image, corners = street(picture, 3.0, 25.0, 1)
    turn = cv2.getRotationMatrix2D((600, 350), roll, 1.0)
    turned = cv2.warpAffine(image, turn, (1280, 720), borderMode=cv2.BORDER_REPLICATE)
    place = by_features({"patch": picture})(CameraFrame(turned, 0.0, "a", "patch", 0))
    assert place is not None
    assert place.corners is not None
    assert place.corners == pytest.approx(corners @ turn[:, :2].T + turn[:, 2], abs=3)


def test_rotations_agree_across_the_full_turn() -> None:
    """350, 10 and 30 degrees are near each other; what is turned by 180 is not of the sign."""
    near = _turned_alike(np.array([350.0, 10.0, 180.0, 30.0, 200.0]))
    assert near.tolist() == [True, True, False, True, False]
    assert _turned_alike(np.empty(0)).shape == (0,)
