"""Stages whose arithmetic is ours beside the same stages on kornia's: they agree, and both
replay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.core.image_io import to_tensor
from physadv.core.random_streams import generator, numpy_generator
from physadv.core.sign_artwork import sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.eot.mask_shapes import make_mask
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement
from physadv.eot.presets import eot_preset
from physadv.eot.ranges import STAGES
from physadv.eot.scenes.signs import DrawnScenes, SceneSize
from physadv.eot.transforms.bend import CONTROL, thin_plate, thin_plate_with_kornia
from physadv.eot.transforms.blur import blur_lens, blurred_with_kornia
from physadv.eot.transforms.codec import CodecDraw, CodecRanges, FileOrStream
from physadv.eot.transforms.exposure import Exposure, ExposureRanges
from physadv.eot.transforms.sensor import demosaic_bilinear, demosaic_with_kornia
from physadv.eot.transforms.sharpening import sharpen_picture, sharpen_with_kornia
from physadv.eot.transforms.tone import apply_tone, apply_tone_with_kornia


def pictures(size: int = 48, count: int = 2) -> Tensor:
    return torch.stack(
        [to_tensor(synthetic_background(0, i, height=size, width=size)) for i in range(count)]
    )


def test_sharpening_is_kornias() -> None:
    """The unsharp mask of slices is kornia's unsharp mask of a 1, 2, 1 kernel."""
    amount = torch.tensor([0.3, 0.8])
    torch.testing.assert_close(
        sharpen_picture(pictures(), amount),
        sharpen_with_kornia(pictures(), amount),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("size", [16, 17])
def test_demosaicing_is_kornias_in_either_phase(phase: int, size: int) -> None:
    """Away from the borders both interpolate alike, wherever the crop begins."""
    image = torch.rand(2, 3, size, size + 4, generator=generator(0, "bayer"))
    own, kornias = demosaic_bilinear(image, phase), demosaic_with_kornia(image, phase)
    torch.testing.assert_close(own[..., 2:-2, 2:-2], kornias[..., 2:-2, 2:-2])


def test_a_crop_of_the_mosaic_keeps_its_phase() -> None:
    """A crop that begins on an odd row and column shows what the whole picture shows there."""
    image = torch.rand(1, 3, 20, 20, generator=generator(0, "phase"))
    crop = demosaic_bilinear(image[..., 3:17, 3:17], phase=1)
    torch.testing.assert_close(crop[..., 2:-2, 2:-2], demosaic_bilinear(image)[..., 5:15, 5:15])


def test_defocus_is_kornias() -> None:
    """Without motion the transform and kornia's Gaussian differ by under half an 8-bit level."""
    sigma, none = torch.tensor([0.7, 1.6]), torch.zeros(2)
    own = blur_lens(pictures(), sigma, none, none)
    kornias = blurred_with_kornia(pictures(), sigma, none, none)
    assert float((own - kornias).abs().max()) < 0.5 / 255


def test_motion_of_an_odd_length_is_kornias_along_the_rows() -> None:
    """A whole, odd motion along the x axis smears over as many px with either."""
    point = torch.zeros(1, 3, 15, 31)
    point[..., 7, 15] = 1
    sigma, length, angle = torch.tensor([1.5]), torch.tensor([5.0]), torch.zeros(1)
    own = blur_lens(point, sigma, length, angle)[0, 0].sum(0)
    kornias = blurred_with_kornia(point, sigma, length, angle)[0, 0].sum(0)
    torch.testing.assert_close(own, kornias, atol=0.01, rtol=0)


def test_tone_is_kornias() -> None:
    """Contrast, brightness and gamma are those of kornia's three functions."""
    drawn = (torch.tensor([0.8, 1.2]), torch.tensor([-0.05, 0.08]), torch.tensor([0.8, 1.3]))
    own, kornias = apply_tone(pictures(), *drawn), apply_tone_with_kornia(pictures(), *drawn)
    torch.testing.assert_close(own, kornias, atol=1e-5, rtol=0)


def test_thin_plate_is_kornias() -> None:
    """Bending of up to 3 mm on 100 mm differs by under 0.25 mm, all that kornia's solver misses."""
    shift = 3 * (2 * torch.rand(2, CONTROL, CONTROL, 2, generator=generator(0, "plate")) - 1)
    gap = thin_plate(shift) - thin_plate_with_kornia(shift)
    assert float(gap.abs().max()) < 0.25
    assert float(gap.square().mean().sqrt()) < 0.1


def test_jpeg_is_kornias_within_its_own_error() -> None:
    """Both codecs land on the same picture but for a few levels; video frames are the same."""
    params = CodecDraw(torch.tensor([70.0, 70.0]), torch.tensor([0.0, 1.0]), torch.full((2,), 24.0))
    own = FileOrStream(CodecRanges()).apply(pictures(), params)
    kornias = FileOrStream(CodecRanges(), backend="kornia").apply(pictures(), params)
    assert float((own[0] - kornias[0]).square().mean().sqrt()) * 255 < 4
    torch.testing.assert_close(own[1], kornias[1])


def test_a_stage_without_a_choice_refuses_one() -> None:
    """A backend that a stage does not have is refused with those it has."""
    with pytest.raises(OptionError, match="own"):
        Exposure(ExposureRanges(), backend="kornia")


def test_the_whole_camera_renders_on_kornia() -> None:
    """`camera` with kornia's arithmetic everywhere gives nearly the same picture, and gradients."""
    ranges = eot_preset("camera")
    source = DrawnScenes([sign_face(width_px=128)], [synthetic_background(0, 0)], 457)
    scenes = source.sample(4, SceneSize(64, False), ranges, numpy_generator(0, "scenes"))
    patch = torch.rand(1, 3, 25, 32, generator=generator(0, "patch")).requires_grad_()
    seen = []
    for backend in (None, "kornia"):
        pipeline = Pipeline.from_ranges(ranges, backend=backend)  # type: ignore[arg-type]
        draw = pipeline.sample(scenes, generator(1, "eot"))
        mask = make_mask("rectangle", 190, 150, longest_px=32)
        seen.append(pipeline.apply(patch, mask, Placement(190, 150, (0.0, 95.0)), scenes, draw))
    assert sum("kornia" in stage.backends for stage in STAGES) == 8
    gap = (seen[0] - seen[1]).detach()
    assert float(gap.square().mean().sqrt()) < 0.05
    (gradient,) = torch.autograd.grad(seen[1].sum(), patch)
    assert math.isfinite(float(gradient.abs().sum()))
    assert float(gradient.abs().max()) > 0
