"""A sign followed by optical flow stays where it is, and is given up where it is not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import cos, sin

import cv2
import numpy as np
import pytest

from physadv.camera.frames import CameraFrame
from physadv.camera.localization.boxes import corners_of
from physadv.camera.localization.by_features import FeatureLocator
from physadv.camera.localization.location import SignLocation
from physadv.camera.localization.sign_drawing import SignDrawing
from physadv.check.locators import _MarkersWhenNeeded
from physadv.core.sign_artwork import octagon_mm, sign_face

SIDE, SIZE = 240, (640, 360)


def drawing(seed: int = 0) -> np.ndarray:
    """The drawn stop sign on gray, with a checkered sticker below its center."""
    face = sign_face("stop", SIDE).rgba.astype(np.float64)
    opaque = face[..., 3:] / 255
    made = (face[..., :3] * opaque + 128 * (1 - opaque)).round().astype(np.uint8)
    checks = np.random.default_rng(seed).integers(0, 256, (5, 8, 3)).astype(np.uint8)
    made[150:190, 80:160] = cv2.resize(checks, (80, 40), interpolation=cv2.INTER_NEAREST)
    return np.asarray(made, np.uint8)


PICTURE = drawing()
NOISE = np.random.default_rng(0).normal(0, 2, (SIZE[1], SIZE[0], 3))


def wall(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(40, 220, (24, 40, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(noise, SIZE, interpolation=cv2.INTER_CUBIC), np.uint8)


def put(
    scene: np.ndarray, quad: np.ndarray, picture: np.ndarray = PICTURE, seed: int = 0
) -> np.ndarray:
    """The scene with the sign's square at the corners ``quad`` (4, 2), filmed with noise."""
    square = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], np.float32)
    # From the outer corner of the first pixel to its center, which OpenCV counts from.
    turn = cv2.getPerspectiveTransform(square - 0.5, quad.astype(np.float32) - 0.5)
    shape = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(shape, [np.array(octagon_mm(SIDE)).astype(np.int32)], 255)
    seen, inside = (cv2.warpPerspective(v, turn, SIZE) for v in (picture, shape))
    made = np.where(inside[..., None] > 127, seen, scene)
    noise = np.roll(NOISE, 7919 * seed)
    soft = cv2.GaussianBlur(made, (0, 0), 0.6)
    return np.asarray(np.clip(soft + noise, 0, 255), np.uint8)


def path(number: int, *, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    """The sign's corners in a frame of a hand-held clip: it sways, comes closer and turns."""
    side = 110 + 25 * sin(number / 17)
    center = np.array([300 + 60 * sin(number / 11) + shift[0], 180 + 30 * cos(number / 7)])
    tilt = 0.12 * sin(number / 9)
    corners = (np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) - 0.5) * side
    corners[:, 1] *= 1 + tilt * np.sign(corners[:, 0])
    turn = 0.05 * sin(number / 5)
    rotation = np.array([[cos(turn), -sin(turn)], [sin(turn), cos(turn)]])
    return np.asarray(corners @ rotation.T + center + [0, shift[1]])


def clip(pictures: Iterator[np.ndarray] | list[np.ndarray], name: str = "a") -> list[CameraFrame]:
    return [CameraFrame(p, n / 30, name, "patch", n) for n, p in enumerate(pictures)]


def error(place: SignLocation | None, quad: np.ndarray) -> float:
    """The farthest corner's distance from the truth in px."""
    assert place is not None
    assert place.corners is not None
    return float(np.linalg.norm(place.corners - quad, axis=1).max())


@pytest.fixture
def locate() -> FeatureLocator:
    return FeatureLocator({"patch": PICTURE})


def test_a_long_clip_does_not_drift(locate: FeatureLocator) -> None:
    """Of 150 frames all but the first are followed, all within 2 px, the last as near as the
    first."""
    errors = []
    for frame in clip([put(wall(1), path(n), seed=n) for n in range(150)]):
        place = locate(frame)
        errors.append(error(place, path(frame.index)))
        assert place is not None
        assert place.tracked == (frame.index > 0)
    assert max(errors) < 2
    assert np.median(errors[-40:]) < np.median(errors[:40]) + 0.3


def test_a_covered_sign_is_lost_and_found_again(locate: FeatureLocator) -> None:
    """Behind a board the sign is nowhere; with a board over a quarter it is where it was; when the
    board is gone it is found."""
    boards = {4: 1.1, 5: 1.1, 9: 0.25}
    pictures = []
    for n in range(12):
        picture = put(wall(2), path(n), seed=n)
        if n in boards:
            x0, y0 = path(n).min(0).astype(int)
            x1, y1 = path(n).max(0).astype(int)
            wide = round(boards[n] * (x1 - x0))
            picture[y0 : y1 + 4, x0 : x0 + wide] = (70, 110, 60)
        pictures.append(picture)
    found = [locate(frame) for frame in clip(pictures)]
    assert [n for n, place in enumerate(found) if place is None] == [4, 5]
    for n, place in enumerate(found):
        if place is not None:
            assert error(place, path(n)) < 2
    assert [n for n, place in enumerate(found) if place and not place.tracked] == [0, 6]


def test_a_cut_to_another_scene_shows_no_sign(locate: FeatureLocator) -> None:
    """After a cut to a wall, or to another sign at the same place, nothing is found; another clip
    begins with a search."""
    other = np.rot90(drawing(5), 2).copy()
    before = [put(wall(3), path(n), seed=n) for n in range(3)]
    for after in (wall(9), put(wall(9), path(3), picture=255 - other)):
        *_, last = (locate(frame) for frame in clip([*before, after]))
        assert last is None
    place = locate(replace(clip(before)[0], clip="b"))
    assert place is not None
    assert not place.tracked


def test_of_two_equal_signs_the_one_it_follows(locate: FeatureLocator) -> None:
    """A second page with the same picture comes into view beside the first one, which moves: it
    stays with the first."""
    pictures = []
    for n in range(40):
        scene = wall(4) if n < 5 else put(wall(4), path(2 * n, shift=(210, 20)), seed=n)
        pictures.append(put(scene, path(n, shift=(-110, 0)), seed=n))
    for frame in clip(pictures):
        assert error(locate(frame), path(frame.index, shift=(-110, 0))) < 2


def test_a_sign_that_leaves_the_picture_is_not_invented(locate: FeatureLocator) -> None:
    """While it slides out it is within 6 px where it is found; once it is out nothing is found."""
    quads = [path(0) + np.array([14 * n, 0]) for n in range(40)]
    pictures = [put(wall(6), quad, seed=n) for n, quad in enumerate(quads)]
    for frame, quad in zip(clip(pictures), quads, strict=True):
        place = locate(frame)
        inside = np.clip(quad[:, 0], 0, SIZE[0])
        share = (inside.max() - inside.min()) / (quad[:, 0].max() - quad[:, 0].min())
        if share == 1:
            assert error(place, quad) < 2
        elif place is not None:
            assert share > 0.3
            assert error(place, quad) < 6


def test_a_blurred_sign_is_given_up_or_right(locate: FeatureLocator) -> None:
    """Under motion blur of 3 to 31 px the place is within 4 px, or there is none; a sharp frame
    finds it again."""
    for blur in (3, 7, 15, 31):
        kernel = np.full((1, blur), 1 / blur)
        pictures = [put(wall(7), path(n), seed=n) for n in range(4)]
        pictures[2] = cv2.filter2D(pictures[2], -1, kernel)
        places = [locate(frame) for frame in clip(pictures, f"blur {blur}")]
        assert places[2] is None or error(places[2], path(2)) < 4
        assert blur > 3 or places[2] is not None
        assert error(places[3], path(3)) < 1.5


def test_a_named_block_is_searched_alone() -> None:
    """A frame whose block is named is compared with that block's picture alone; a likely block
    comes first, and the others after it."""
    locate = FeatureLocator({"clean": np.rot90(drawing(8)).copy()[::-1], "patch": PICTURE})
    frame = clip([put(wall(8), path(0))])[0]
    assert locate(replace(frame, block="clean")) is None
    assert error(locate(replace(frame, block=None, likely_block="clean")), path(0)) < 1.5
    assert error(locate(replace(frame, block=None, clip="b")), path(0)) < 1.5


def test_alignment_needs_the_sign() -> None:
    """A start that is off by 4 px is corrected to half a pixel; walls, a plain picture and the
    sign's mirror image are refused."""
    sign, quad = SignDrawing(PICTURE), path(0)
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    off = np.array([[4, -3], [-3, 2], [2, 4], [-4, -2]])
    rough = cv2.getPerspectiveTransform(square, (quad + off).astype(np.float32))

    def gray(picture: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)

    found = sign.align(gray(put(wall(1), quad)), rough)
    assert found is not None
    corners = cv2.perspectiveTransform(square[None].astype(np.float64), found.homography)[0]
    assert np.abs(corners - quad).max() < 0.5
    mirrored = np.ascontiguousarray(PICTURE[:, ::-1])
    for other in (*(wall(n) for n in range(20)), put(wall(1), quad, picture=mirrored)):
        assert sign.align(gray(other), rough) is None
    assert sign.align(np.full((360, 640), 128, np.uint8), rough) is None


def test_markers_rest_while_features_lead(
    monkeypatch: pytest.MonkeyPatch, locate: FeatureLocator
) -> None:
    """In a clip without markers they are looked for in 30 frames, then in every tenth; a frame with
    markers, a lost sign, or another clip brings them back."""
    looked: list[int] = []
    place = SignLocation(corners_of((0, 0, 9, 9)), "fiducials", "patch")

    def markers(frame: CameraFrame) -> SignLocation | None:
        looked.append(frame.index)
        return place if frame.index == 50 else None

    lost_in = 47
    both = _MarkersWhenNeeded(markers, locate)
    frames = clip([wall(1)] * 60)
    for frame in frames:
        monkeypatch.setattr(locate, "follows", lambda _, n=frame.index: n != lost_in)
        both(frame)
    assert looked == [*range(31), 40, 47, *range(50, 60)]
    looked.clear()
    both(replace(frames[0], clip="b"))
    assert looked == [0]
