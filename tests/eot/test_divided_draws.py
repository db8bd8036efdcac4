"""A batch of draws rendered in parts is the batch rendered at once."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from physadv.core.random_streams import generator, numpy_generator
from physadv.core.sign_artwork import sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.eot.mask_shapes import make_mask
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.signs import DrawnScenes, SceneSize
from physadv.threat.patch_goals import Annotations

EVERYTHING = EotRanges(
    patch_noise=(0.1, 0.2),
    cutout_probability=(0.9, 1.0),
    cutout_share=(0.1, 0.3),
    bend_mm=(2.0, 6.0),
    curl_deg=(5.0, 20.0),
    lens_k1=(-0.03, 0.03),
    shadow_ev=(-1.0, -0.5),
    haze_per_km=(1.0, 5.0),
    full_well_e=(2000.0, 5000.0),
    bayer_probability=(0.5, 0.5),
    sharpening=(0.2, 0.8),
    pixel_gain=(0.9, 1.1),
)


def sampled(count: int, ranges: EotRanges) -> SceneBatch:
    face, background = sign_face(width_px=128), synthetic_background(0, 0)
    source = DrawnScenes([face], [background], 762)
    return source.sample(count, SceneSize(64, False), ranges, numpy_generator(0, "scenes"))


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("ranges", [EotRanges(), EVERYTHING], ids=["default", "everything"])
def test_parts_of_a_draw_are_those_of_the_whole(count: int, ranges: EotRanges) -> None:
    """Also where some effects reach across pixels, and where a printer's matrix has as many rows as
    there are scenes."""
    scenes, pipeline = sampled(count, ranges), Pipeline.from_ranges(ranges)
    draw = pipeline.sample(scenes, generator(0, "draw"))
    patch = torch.rand(1, 3, 12, 12, generator=generator(0, "patch"))
    mask, placement = make_mask("circle", 200, 200, longest_px=12), Placement(200, 200)
    whole = pipeline.apply(patch, mask, placement, scenes, draw)
    parts = [
        pipeline.apply(patch, mask, placement, scenes.part(rows), pipeline.part(draw, rows, count))
        for rows in (slice(0, 2), slice(2, count))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, atol=2e-6, rtol=0)


def test_foreign_stages_are_not_divided() -> None:
    """A module that draws while it is applied draws for the whole batch."""
    assert Pipeline.from_ranges(EotRanges()).by_scene
    assert not Pipeline.from_ranges(EotRanges(), extra=[torch.nn.Dropout2d()]).by_scene


def test_objects_go_with_their_scenes() -> None:
    """Boxes of several objects a scene are numbered anew in a part."""
    boxes = torch.arange(20.0).view(5, 4)
    marks = Annotations(boxes, torch.arange(5), torch.tensor([0, 1, 1, 2, 2]))
    part = replace(sampled(3, EotRanges()), marks=marks).part(slice(1, 2))
    assert part.marks is not None
    assert part.marks.scene is not None
    assert part.marks.scene.tolist() == [0, 0]
    assert part.marks.boxes.tolist() == boxes[1:3].tolist()
    assert all(
        len(getattr(part, f.name)) == 1 for f in fields(part) if f.name in ("images", "gain")
    )
