"""Frames of a detector: of a camera's proportions, and fitted into its input as it does it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from physadv.core.random_streams import generator, numpy_generator
from physadv.core.sign_artwork import sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement
from physadv.eot.ranges import NOTHING, EotRanges
from physadv.eot.scenes.sign_framing import FrameShape, to_pixels
from physadv.eot.scenes.signs import DrawnScenes, PhotoScenes, PhotoSign, SceneSize
from physadv.eot.warp import square_boxes
from physadv.models.resizing import PADDING, Fit, InputResizing
from physadv.patches.apparent_size import sizes_in

FITS: list[Fit] = ["stretch", "letterbox", "letterbox-corner"]
WIDTH_MM = 457.0
FLAT = replace(NOTHING, frame_share=(0.4, 0.4), frame_aspect=(16 / 9, 16 / 9))


def drawn(fit: Fit, ranges: EotRanges = FLAT, count: int = 6, side: int = 96):
    backgrounds = [synthetic_background(0, number) for number in range(3)]
    source = DrawnScenes([sign_face(width_px=128)], backgrounds, WIDTH_MM)
    view = SceneSize(side, whole_frame=True, fit=fit)
    return source.sample(count, view, ranges, numpy_generator(0, "frames"))


@given(
    aspect=st.floats(0.5, 2.5),
    height=st.floats(0.1, 50.0),
    fit=st.sampled_from(FITS),
    size=st.integers(16, 640),
)
def test_a_frame_lands_where_the_model_would_put_it(
    aspect: float, height: float, fit: Fit, size: int
) -> None:
    """The corners of a frame, wherever it lies, go to those of the resized image in the input."""
    origin = np.array([3.0, -2.0])
    shape = FrameShape(aspect, size, fit)
    corners = origin + height * np.array([[0.0, 0.0], [aspect, 1.0]])
    box = InputResizing((size, size), fit).image_box(10_800, round(10_800 * aspect))
    found = to_pixels(shape.to_input(height, origin), corners).ravel()
    np.testing.assert_allclose(found, box, atol=1e-6 * size + 1e-6)


@pytest.mark.parametrize("fit", FITS)
def test_a_sign_has_the_proportions_that_the_model_sees(fit: Fit) -> None:
    """In a 16:9 frame a frontal sign of 40 % of its height is squeezed by stretching, and smaller
    but square in a padded one; its size stays its share of the frame's height."""
    scenes = drawn(fit)
    boxes = square_boxes(scenes.homography, WIDTH_MM, 96)
    width, height = (boxes[:, 2] - boxes[:, 0]), (boxes[:, 3] - boxes[:, 1])
    expected = 0.4 * 96 if fit == "stretch" else 0.4 * 54
    torch.testing.assert_close(height, torch.full((6,), expected), atol=0.01, rtol=0)
    torch.testing.assert_close(width, torch.full((6,), 0.4 * 54), atol=0.01, rtol=0)
    sizes = sizes_in(scenes, WIDTH_MM, whole_frame=True)
    torch.testing.assert_close(sizes, torch.full((6,), 0.4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("fit", FITS)
def test_bars_are_as_the_model_pads_them(fit: Fit) -> None:
    """Beside the frame the picture is the model's gray, with the patch and without, under the whole
    pipeline; stretched frames have no bars."""
    noisy = replace(EotRanges(), frame_aspect=(16 / 9, 16 / 9))
    scenes, pipeline = drawn(fit, noisy), Pipeline.from_ranges(noisy)
    draw = pipeline.sample(scenes, generator(0, "draw"))
    patch, mask = torch.rand(1, 3, 8, 8, generator=generator(0, "p")), torch.ones(1, 1, 8, 8)
    pictures = (
        pipeline.without_patch(scenes, draw),
        pipeline.apply(patch, mask, Placement(190.0, 150.0), scenes, draw),
    )
    if fit == "stretch":
        assert scenes.frame_box is None
        return
    top = 21 if fit == "letterbox" else 0
    for shown in pictures:
        bars = torch.cat([shown[:, :, :top], shown[:, :, top + 54 :]], 2)
        torch.testing.assert_close(bars, torch.full_like(bars, PADDING))
        assert float((shown[:, :, top : top + 54] - PADDING).abs().mean()) > 0.05


def test_the_default_draws_the_frames_of_cameras() -> None:
    """Between 4:3 and 16:9, other in every scene; and square where the range says so."""
    frontal = {"yaw_deg": (0.0, 0.0), "pitch_deg": (0.0, 0.0), "roll_deg": (0.0, 0.0)}
    scenes = drawn("stretch", replace(EotRanges(), **frontal), count=40)
    boxes = square_boxes(scenes.homography, WIDTH_MM, 96)
    squeezed = (boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0])
    assert 4 / 3 - 0.01 < float(squeezed.min()) < 1.4 < 1.7 < float(squeezed.max()) < 16 / 9 + 0.01

    square = drawn("stretch", replace(FLAT, frame_aspect=(1.0, 1.0)))
    boxes = square_boxes(square.homography, WIDTH_MM, 96)
    torch.testing.assert_close(boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0])


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.1, 0.9)])
def test_a_sign_stands_where_the_range_says(place: tuple[float, float]) -> None:
    """At 0 and 1 it touches the edges of the frame, at 0.5 its middle is the frame's."""
    scenes = drawn("stretch", replace(FLAT, frame_place=place), count=40)
    boxes = square_boxes(scenes.homography, WIDTH_MM, 96)
    free = 96 - (boxes[:, 2:] - boxes[:, :2])
    found = boxes[:, :2] / free
    torch.testing.assert_close(found, found.clamp(*place), atol=0.01, rtol=0)
    assert float(found.max() - found.min()) >= 0.8 * (place[1] - place[0])


def test_signs_stand_on_posts() -> None:
    """A post changes nothing but a strip below the sign, and no other draw; as many signs have one
    as the range says, and the crops of a classifier none."""
    bare = drawn("stretch", count=40)
    on_posts = drawn("stretch", replace(FLAT, post_probability=(1.0, 1.0)), count=40)
    torch.testing.assert_close(on_posts.homography, bare.homography)
    changed = (on_posts.images != bare.images).any(1)
    for number, box in enumerate(square_boxes(bare.homography, WIDTH_MM, 96).tolist()):
        rows, columns = torch.nonzero(changed[number], as_tuple=True)
        bottom, middle = box[3], (box[0] + box[2]) / 2
        assert int(rows.min()) >= bottom - 1
        assert int(rows.max()) >= 94
        assert float((columns - middle).abs().max()) <= 0.12 * (box[2] - box[0]) + 1.5

    some = drawn("stretch", replace(FLAT, post_probability=(0.5, 0.5)), count=40)
    share = float((some.images != bare.images).flatten(1).any(1).float().mean())
    assert 0.3 < share < 0.7
    source = DrawnScenes([sign_face(width_px=64)], [synthetic_background(0, 0)], WIDTH_MM)
    crops = [
        source.sample(2, SceneSize(64, False), replace(FLAT, post_probability=p), generator_)
        for p, generator_ in (
            ((0.0, 0.0), numpy_generator(0, "crops")),
            ((1.0, 1.0), numpy_generator(0, "crops")),
        )
    ]
    assert torch.equal(crops[0].images, crops[1].images)


@pytest.mark.parametrize("turn", [(0.0, -45.0, 0.0), (45.0, 0.0, 12.0), (-45.0, 40.0, -45.0)])
def test_posts_end_before_the_camera(turn: tuple[float, float, float]) -> None:
    """Where the sign leans toward the camera or away from it, the post stays a strip below it."""
    pitch, yaw, roll = ((angle, angle) for angle in turn)
    ranges = replace(FLAT, pitch_deg=pitch, yaw_deg=yaw, roll_deg=roll)
    bare = drawn("stretch", ranges)
    on_posts = drawn("stretch", replace(ranges, post_probability=(1.0, 1.0)))
    changed = (on_posts.images != bare.images).any(1).float().mean((1, 2))
    assert float(changed.min()) > 0.001
    assert float(changed.max()) < 0.2


@pytest.mark.parametrize("fit", FITS)
def test_a_photo_is_taken_again_as_a_frame(fit: Fit) -> None:
    """The mark painted at the sign's center is found at the center that the scene tells."""
    photo = np.full((400, 700, 3), 90, np.uint8)
    photo[195:206, 345:356] = (255, 0, 0)
    corners = np.array([[300, 150], [400, 150], [400, 250], [300, 250]], float)
    source = PhotoScenes([PhotoSign(photo, corners, "one")], WIDTH_MM)
    view = SceneSize(128, whole_frame=True, fit=fit)
    scenes = source.sample(4, view, FLAT, numpy_generator(0, "photo"))
    for image, matrix in zip(scenes.images, scenes.homography, strict=True):
        red = (image[0] - image[1]) > 0.25
        rows, columns = torch.nonzero(red, as_tuple=True)
        center = torch.tensor([columns.float().mean() + 0.5, rows.float().mean() + 0.5])
        told = matrix[:2, 2] / matrix[2, 2]
        torch.testing.assert_close(center, told, atol=1.5, rtol=0)
