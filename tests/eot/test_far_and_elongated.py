"""Signs seen from afar are blurred as their enlargement asks, and boxes that are far higher than
wide
keep their patch in its place and size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from physadv.camera.localization.boxes import corners_of
from physadv.core.boxes import box_iou
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator, numpy_generator
from physadv.eot.pipeline import Pipeline
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.photos import OnObjects, PatchPose, ScenePhoto
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.signs import PhotoScenes, PhotoSign, SceneSize
from physadv.eot.transforms.blur import BlurDraw, BlurRanges, LensBlur
from physadv.eot.transforms.place import Place, PoseRanges

SHARP = BlurRanges(defocus_px=(0.0, 0.0), motion_px=(0.0, 0.0))


def scenes(enlargement: float) -> SceneBatch:
    count = 2
    return SceneBatch(
        torch.full((count, 3, 48, 48), 0.5),
        torch.eye(3).expand(count, 3, 3),
        torch.ones(count, 3),
        torch.zeros(count, 3),
        torch.full((count,), enlargement),
        ("a", "b"),
    )


def spread(enlargement: float) -> Tensor | None:
    """Standard deviation in px that a sharp lens gets for scenes enlarged so much."""
    stages = Pipeline([Place(PoseRanges()), LensBlur(SHARP)])
    draw = stages.sample(scenes(enlargement), generator(0, "blur"))
    params = draw.get(LensBlur)
    if params is None:
        return None
    assert isinstance(params, BlurDraw)
    return params.sigma_px


@pytest.mark.parametrize("enlargement", [2.0, 5.0])
def test_an_enlarged_sign_is_blurred_even_by_a_sharp_lens(enlargement: float) -> None:
    """Its variance is a fifth of the square of the enlargement, less what stands at 1."""
    sigma = spread(enlargement)
    assert sigma is not None
    assert sigma.tolist() == pytest.approx([(0.2 * (enlargement**2 - 1)) ** 0.5] * 2)
    assert spread(1.0) is None


def test_a_photo_of_a_far_sign_is_enlarged_and_a_near_one_is_not() -> None:
    """A sign of 12 px brought to a model of 64 px is some five times enlarged; one of 200 px is
    not."""

    def enlarged(side: int) -> Tensor:
        image = np.full((240, 240, 3), 120, np.uint8)
        corners = corners_of((20.0, 20.0, 20.0 + side, 20.0 + side)).astype(np.float32)
        source = PhotoScenes([PhotoSign(image, corners, "one")], 750.0)
        view = SceneSize(64, False)
        return source.sample(12, view, EotRanges(), numpy_generator(0, "far")).enlargement

    far, near = enlarged(12), enlarged(200)
    assert float(far.median()) > 2.5
    assert float(near.median()) == 1.0


sides = st.tuples(st.floats(2, 200), st.floats(2, 200))
points = st.tuples(st.floats(-50, 300), st.floats(-50, 300))


@settings(deadline=None, max_examples=150)
@given(points, sides, points, sides)
def test_overlaps_of_boxes_of_any_shape_agree_with_plain_arithmetic(
    at: tuple[float, float],
    size: tuple[float, float],
    other: tuple[float, float],
    other_size: tuple[float, float],
) -> None:
    """The function that compares boxes gives the textbook's figure; a
    box a hundred times as high as wide is no exception."""
    first = (*at, at[0] + size[0], at[1] + size[1])
    second = (*other, other[0] + other_size[0], other[1] + other_size[1])
    wide = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    high = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    iou = wide * high / (sum(areas) - wide * high)
    a, b = (torch.tensor([box], dtype=torch.float64) for box in (first, second))
    assert float(box_iou(a, b)) == pytest.approx(iou, abs=1e-9)
    share = wide * high / min(areas)
    assert float(box_iou(a, b, of_smaller=True)) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("box", [(60.0, 10.0, 78.0, 110.0), (10.0, 60.0, 150.0, 76.0)])
def test_a_patch_on_an_elongated_object_lies_in_it_by_share_of_its_sides(
    box: tuple[float, float, float, float],
) -> None:
    """The center is a share of each side on its own, the width a share of the diagonal."""
    image = np.full((120, 160, 3), 90, np.uint8)
    photo = ScenePhoto(image, "one", 0, np.array([box]))
    pose = PatchPose(100, 100, share=(0.2, 0.2), roll_deg=(0, 0), tilt=0.0)
    source = OnObjects([photo], pose, center=(0.5, 0.3), jitter=0.0)
    flat = EotRanges(yaw_deg=(0, 0), pitch_deg=(0, 0))
    batch = source.sample(16, SceneSize(96, True), flat, numpy_generator(4, "long"))
    assert batch.marks is not None
    for matrix, marked in zip(batch.homography, batch.marks.boxes, strict=True):
        if bool((marked <= 0).any() | (marked >= 96).any()):
            continue  # cut by the picture: the whole box is not known here
        size = marked[2:] - marked[:2]
        center = matrix @ torch.tensor([0.0, 0.0, 1.0])
        wanted = marked[:2] + torch.tensor([0.5, 0.3]) * size
        assert (center[:2] / center[2]).tolist() == pytest.approx(wanted.tolist(), abs=0.2)
        side = float(torch.linalg.det(matrix[:2, :2].double()).abs().sqrt()) * 100
        assert side == pytest.approx(0.2 * float(size.norm()), rel=0.02)


def test_objects_that_a_closer_view_cuts_carry_no_patch() -> None:
    """What is shown of a photo holds each of its marked objects by over four fifths, and cuts no
    other one."""
    boxes = np.array(
        [[5.0, 5.0, 55.0, 115.0], [60.0, 8.0, 100.0, 110.0], [104.0, 4.0, 156.0, 116.0]]
    )
    image = np.full((120, 160, 3), 90, np.uint8)
    photo = ScenePhoto(image, "three", 0, boxes)
    source = OnObjects([photo], PatchPose(100, 100), most=3)
    rng = numpy_generator(5, "cut")
    for _ in range(60):
        _, shown = source._draw_view(photo, SceneSize(96, True), rng)
        for box in shown:
            inside = np.minimum(box[2:], 96) - np.maximum(box[:2], 0)
            assert inside.prod() > 0.8 * (box[2:] - box[:2]).prod()


def photo_scenes(width_mm: float) -> PhotoScenes:
    corners = corners_of((60.0, 60.0, 160.0, 160.0)).astype(np.float32)
    return PhotoScenes([PhotoSign(np.full((240, 240, 3), 120, np.uint8), corners, "one")], width_mm)


@pytest.mark.parametrize("width_mm", [375.0, 750.0])
def test_the_distance_of_a_photographed_sign_is_in_meters(width_mm: float) -> None:
    """Whatever the width of the sign: three meters are drawn, three are reported."""
    ranges = EotRanges(
        distance_m=(3.0, 3.0), field_of_view_deg=(60.0, 60.0), sensor_px=(1920.0, 1920.0)
    )
    source = photo_scenes(width_mm)
    batch = source.sample(6, SceneSize(64, True), ranges, numpy_generator(0, "far"))
    assert batch.distance_m is not None
    assert batch.distance_m.tolist() == pytest.approx([3.0] * 6, rel=0.01)


def test_a_distance_without_a_camera_is_refused() -> None:
    """A size in the picture needs the sensor and the angle of view as well."""
    with pytest.raises(OptionError, match="sensor_px"):
        photo_scenes(750.0).sample(
            1, SceneSize(64, True), EotRanges(distance_m=(3.0, 3.0)), numpy_generator(0, "far")
        )
