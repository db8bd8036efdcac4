"""Presets: published ranges, draws that stay as they were, effects that are off, windows, the table
in the docs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.core.random_streams import generator, numpy_generator
from physadv.core.sign_artwork import sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.eot.crop_window import CropWindow, window_round
from physadv.eot.mask_shapes import make_mask
from physadv.eot.pipeline import Draw, Pipeline
from physadv.eot.placement import Placement
from physadv.eot.preset_table import presets_table
from physadv.eot.presets import PRESETS, SOURCES, eot_preset
from physadv.eot.ranges import EFFECTS, NEUTRAL, NOTHING, EotRanges, without
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.signs import DrawnScenes, SceneSize
from physadv.eot.transforms import photometry
from physadv.eot.transforms.air import OccluderAndHaze
from physadv.eot.transforms.blur import LensBlur
from physadv.eot.transforms.codec import FileOrStream
from physadv.eot.transforms.exposure import Exposure
from physadv.eot.transforms.noise import EncodedNoise
from physadv.eot.transforms.patch_pixels import PatchEdits
from physadv.eot.transforms.place import Place
from physadv.eot.transforms.printer import Printer
from physadv.eot.transforms.tone import Tone
from physadv.eot.transforms.tone_curve import ToneCurve

PAGE = Path(__file__).parents[2] / "docs" / "eot.md"
PLACED = Placement(190, 150, (0.0, 95.0))


def scenes_for(
    ranges: EotRanges, size: int = 64, count: int = 4, *, whole_frame: bool = False
) -> SceneBatch:
    source = DrawnScenes(
        [sign_face(width_px=128)], [synthetic_background(0, i) for i in range(3)], 457
    )
    return source.sample(count, SceneSize(size, whole_frame), ranges, numpy_generator(0, "scenes"))


def drawn(scenes: SceneBatch, ranges: EotRanges) -> Draw:
    return Pipeline.from_ranges(ranges).sample(scenes, generator(0, "eot"))


def photo(patch: Tensor, scenes: SceneBatch, ranges: EotRanges, seed: int = 1) -> Tensor:
    pipeline = Pipeline.from_ranges(ranges)
    draw = pipeline.sample(scenes, generator(seed, "eot"))
    return pipeline.apply(patch, make_mask("circle", 190, 150, longest_px=32), PLACED, scenes, draw)


def test_default_draws_stay_what_they_were() -> None:
    """The draws of `default`, on which the cards of shipped bundles rest, are those of 0.1 bit for
    bit."""
    scenes = scenes_for(EotRanges())
    draw = drawn(scenes, EotRanges())
    inks, light, tone = draw[Printer], draw[Exposure], draw[Tone]
    noise, codec = draw[EncodedNoise], draw[FileOrStream]
    values = (
        *(inks.black, inks.white, inks.mixing, light.ev, light.white_balance),
        *(tone.contrast, tone.brightness, tone.gamma, draw[LensBlur].motion_px),
        *(noise.read, noise.shot, noise.normal, codec.quality),
    )
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()
    assert digest[:16] == "60d042ef35429f5b"
    acting = {Place, Printer, Exposure, LensBlur, Tone, EncodedNoise, FileOrStream}
    assert set(draw.params) == {stage.__name__ for stage in acting}


def test_another_effect_moves_no_draw() -> None:
    """Switching effects on leaves the draws of all others as they are."""
    scenes = scenes_for(EotRanges())
    plain = drawn(scenes, EotRanges())
    more = replace(EotRanges(), bend_mm=(0.0, 2.0), haze_per_km=(0.0, 9.0), tone_curve=(0.0, 1.0))
    one, two = (drawn(scenes, r) for r in (more, replace(more, curl_deg=(0.0, 20.0))))
    assert torch.equal(one[EncodedNoise].normal, plain[EncodedNoise].normal)
    assert torch.equal(one[Exposure].ev, plain[Exposure].ev)
    assert torch.equal(one[OccluderAndHaze].clear, two[OccluderAndHaze].clear)
    assert torch.equal(one[ToneCurve], two[ToneCurve])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_renders_replays_and_passes_gradients(name: str) -> None:
    """Each preset gives a picture in [0, 1], the same one for the same seed, and a finite
    gradient."""
    ranges = eot_preset(name)
    scenes = scenes_for(ranges)
    patch = torch.rand(1, 3, 25, 32, generator=generator(0, "patch")).requires_grad_()
    seen = photo(patch, scenes, ranges)
    assert torch.equal(seen, photo(patch, scenes, ranges))
    assert not torch.equal(seen, photo(patch, scenes, ranges, seed=2)) or name in {"brown", "rp2"}
    assert 0 <= float(seen.detach().min()) <= float(seen.detach().max()) <= 1
    (gradient,) = torch.autograd.grad(seen.sum(), patch)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) > 0


def test_all_effects_off_leave_the_scene_and_the_patch() -> None:
    """With every range at its neutral value the chain is the identity on the scene, and the patch
    keeps its color."""
    scenes = scenes_for(NOTHING, 128)
    pipeline = Pipeline.from_ranges(NOTHING)
    draw = pipeline.sample(scenes, generator(0, "off"))
    torch.testing.assert_close(
        pipeline.without_patch(scenes, draw), scenes.images, atol=1e-4, rtol=0
    )
    patch = torch.tensor([0.1, 0.6, 0.9]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    seen = pipeline.apply(patch, torch.ones(1, 1, 32, 32), PLACED, scenes, draw)
    middle = scenes.homography @ torch.tensor([0.0, 95.0, 1.0])
    for i, (x, y) in enumerate((middle[:, :2] / middle[:, 2:]).long().tolist()):
        torch.testing.assert_close(seen[i, :, y, x], patch[0, :, 0, 0], atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "name", sorted(set(NEUTRAL) - {"size_px", "yaw_deg", "pitch_deg", "roll_deg"})
)
def test_equal_ends_switch_an_effect_off(name: str) -> None:
    """A range at its neutral value gives the picture that chain has without the effect: its draw
    does nothing."""
    ranges = replace(eot_preset("camera"), **{name: NEUTRAL[name]})
    assert not ranges.acts(name)
    assert name not in ranges.as_dict()
    if name in {"distance_m", "field_of_view_deg", "sensor_px"}:
        return
    scenes = scenes_for(NOTHING)
    only = replace(NOTHING, **{name: getattr(eot_preset("camera"), name)})
    if only.acts(name):
        assert name in only.as_dict()
    pipeline = Pipeline.from_ranges(replace(only, **{name: NEUTRAL[name]}))
    off = pipeline.sample(scenes, generator(0, "one"))
    torch.testing.assert_close(
        pipeline.without_patch(scenes, off), scenes.images, atol=1e-4, rtol=0
    )


def test_effects_can_be_left_out_by_name() -> None:
    """without() switches every range of an effect off, and names the known effects for another
    one."""
    ranges = without(eot_preset("camera"), "blur", "codec")
    assert not any(ranges.acts(name) for effect in ("blur", "codec") for name in EFFECTS[effect])
    assert ranges.acts("full_well_e")
    with pytest.raises(OptionError, match="blur"):
        without(ranges, "weather")


def test_published_ranges_are_exact() -> None:
    """The numbers that papers state: Athalye, Brown, Eykholt, Thys, T-SEA."""
    athalye, brown, rp2, thys, tsea = (
        eot_preset(n) for n in ("athalye", "brown", "rp2", "thys", "tsea")
    )
    assert (athalye.pixel_gain, athalye.pixel_offset) == ((0.5, 2.0), (-0.15, 0.15))
    assert (athalye.channel_gain, athalye.channel_offset) == ((0.7, 1.3), (-0.15, 0.15))
    assert athalye.read_noise == (0.0, 0.1)
    assert brown.roll_deg == (-45.0, 45.0)
    assert rp2.distance_m == pytest.approx((1.524, 12.192))
    assert rp2.yaw_deg == (-60.0, 60.0)
    for ranges in (thys, tsea):
        assert (ranges.roll_deg, ranges.patch_contrast) == ((-20.0, 20.0), (0.8, 1.2))
        assert (ranges.patch_brightness, ranges.patch_noise) == ((-0.1, 0.1), (0.1, 0.1))
    assert (tsea.cutout_probability, tsea.cutout_share) == ((0.9, 0.9), (0.4, 0.4))
    assert not thys.acts("cutout_probability")


def test_thys_stays_within_its_ranges_on_the_patch() -> None:
    """A gray patch of 0.5 under `thys` lies within 0.5 x (0.8..1.2) + 0.1 + 0.1 of itself, and
    differs by scene."""
    pipeline = Pipeline.from_ranges(eot_preset("thys"))
    draw = pipeline.sample(scenes_for(NOTHING), generator(0, "thys"))[PatchEdits]
    out = draw.apply(torch.full((1, 3, 20, 20), 0.5))
    assert float(out.min()) >= 0.2
    assert float(out.max()) <= 0.8
    assert float(out.mean((1, 2, 3)).std()) > 0.01


def test_unknown_preset_is_named_with_the_known_ones() -> None:
    """A wrong name is refused with the list."""
    with pytest.raises(OptionError, match="athalye"):
        eot_preset("sunny")


def test_distance_sets_the_size_of_the_sign() -> None:
    """A 457 mm sign at 3.05 m under 65 degrees and 1920 px is 226 px wide in the camera: enlarged
    never at 64 px."""
    ranges = replace(eot_preset("rp2"), distance_m=(3.05, 3.05), yaw_deg=(0.0, 0.0))
    scenes = scenes_for(ranges)
    assert scenes.distance_m is not None
    torch.testing.assert_close(scenes.distance_m, torch.full((4,), 3.05))
    assert float(scenes.enlargement.max()) == 1.0
    far = scenes_for(replace(ranges, distance_m=(30.0, 30.0)))
    assert float(far.enlargement.min()) > 1.8
    framed = scenes_for(ranges, 352, whole_frame=True)
    corners = torch.tensor([[-228.5, 0.0, 1.0], [228.5, 0.0, 1.0]]) @ framed.homography.transpose(
        1, 2
    )
    width = (corners[:, 1, 0] / corners[:, 1, 2] - corners[:, 0, 0] / corners[:, 0, 2]) / 352
    torch.testing.assert_close(width, torch.full((4,), 225.6 / 1080), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", ["default", "camera"])
def test_a_window_shows_what_the_whole_picture_shows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rendering the patch in its window alone changes neither the picture nor the gradient."""
    ranges = eot_preset(name)
    scenes = scenes_for(ranges, 256, whole_frame=True)
    patch = torch.rand(1, 3, 25, 32, generator=generator(0, "patch")).requires_grad_()
    weights = torch.rand(scenes.images.shape, generator=generator(0, "weights"))
    small = photo(patch, scenes, ranges)
    (gradient,) = torch.autograd.grad((small * weights).sum(), patch)
    whole = CropWindow.whole(scenes.images)
    monkeypatch.setattr(Pipeline, "_window", lambda *_: whole)
    large = photo(patch, scenes, ranges)
    (expected,) = torch.autograd.grad((large * weights).sum(), patch)
    # A coefficient on the edge between two steps of the codec may fall either way.
    assert float((small - large).detach().abs().mean()) < 2e-4
    assert float(torch.cosine_similarity(gradient.flatten(), expected.flatten(), 0)) > 0.999


def test_windows_are_whole_blocks_within_the_picture() -> None:
    """Windows have one size, start on macroblocks, hold their boxes, and give way to the whole
    picture when large."""
    boxes = torch.tensor(
        [[10.0, 20.0, 40.0, 60.0], [200.0, 230.0, 250.0, 256.0], [-9.0, -9.0, 3.0, 3.0]]
    )
    window = window_round(boxes, (256, 256), 4)
    assert window.origin is not None
    assert bool((window.origin % 16 == 0).all())
    assert bool((window.origin + torch.tensor(window.size) <= 256).all())
    inside = (window.origin.flip(1) <= (boxes[:, :2] - 4).clamp(0, 256)).all()
    assert bool(inside)
    assert window_round(boxes, (250, 256), 4).is_whole
    assert window_round(torch.tensor([[0.0, 0.0, 250.0, 250.0]]), (256, 256), 4).is_whole


def test_windows_take_and_paste() -> None:
    """What is taken at a window and pasted back is the picture; margins beyond the edge are
    reflected."""
    images = torch.rand(2, 3, 32, 48)
    window = CropWindow((32, 48), (16, 16), torch.tensor([[0, 32], [16, 16]]))
    part = window.take(images, 2)
    torch.testing.assert_close(window.paste(images, part[..., 2:-2, 2:-2]), images)
    torch.testing.assert_close(part[0, :, 0, 2:-2], images[0, :, 2, 32:48])
    whole = CropWindow.whole(images)
    torch.testing.assert_close(
        whole.take(images, 3), torch.nn.functional.pad(images, (3,) * 4, mode="reflect")
    )


def test_camera_light_is_linear_before_the_curve() -> None:
    """Under exposure alone the chain scales linear light: +1 EV of a dark scene doubles it before
    encoding."""
    ranges = replace(NOTHING, exposure_ev=(1.0, 1.0))
    scenes = scenes_for(ranges)
    dim = replace(scenes, images=scenes.images * 0.4)
    pipeline = Pipeline.from_ranges(ranges)
    draw = pipeline.sample(dim, generator(0, "ev"))
    seen = photometry.srgb_to_linear(pipeline.without_patch(dim, draw))
    torch.testing.assert_close(seen, 2 * photometry.srgb_to_linear(dim.images), atol=1e-4, rtol=0)


def test_the_docs_hold_the_table_of_the_code() -> None:
    """docs/eot.md shows the ranges of every preset as the code has them, and says where they come
    from."""
    text = PAGE.read_text(encoding="utf-8")
    assert presets_table() in text
    assert set(SOURCES) == set(PRESETS)
