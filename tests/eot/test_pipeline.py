"""Light, lens, codec, printer and the chain of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from physadv.core.random_streams import generator, numpy_generator
from physadv.core.sign_artwork import sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.eot.mask_shapes import make_mask
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement, place_patch
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.signs import DrawnScenes, SceneSize
from physadv.eot.transforms import blur, photometry
from physadv.eot.transforms.codec import differentiable_jpeg
from physadv.eot.transforms.exposure import apply_exposure
from physadv.eot.transforms.printer import printed_light
from physadv.eot.transforms.tone import apply_tone


@pytest.fixture(scope="module")
def scenes() -> SceneBatch:
    source = DrawnScenes(
        [sign_face(width_px=128)], [synthetic_background(0, i) for i in range(3)], 762
    )
    return source.sample(4, SceneSize(64, False), EotRanges(), numpy_generator(0, "scenes"))


def test_srgb_curve_inverts() -> None:
    """to_srgb undoes to_linear over [0, 1], and mid-gray 0.5 is 0.2140 in linear light (IEC
    61966-2-1)."""
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(
        photometry.linear_to_srgb(photometry.srgb_to_linear(x)), x, atol=1e-6, rtol=0
    )
    assert float(photometry.srgb_to_linear(torch.tensor(0.5))) == pytest.approx(0.2140, abs=1e-4)


def test_white_on_white_leaves_no_seam() -> None:
    """A white patch on a white scene is invisible: alpha is applied once, in linear light."""
    white = torch.ones(1, 3, 32, 32)
    turned = torch.tensor([[[0.3, 0.1, 16.0], [-0.1, 0.3, 16.0], [0.001, 0.0, 1.0]]])
    mask = make_mask("circle", 60, 60, longest_px=24)
    ones = torch.ones(1, 3)
    out = place_patch(
        white, torch.ones(1, 3, 24, 24), mask, turned, Placement(60, 60), ones, torch.zeros(1, 3)
    )
    assert float((out - 1).abs().max()) < 1e-4


def test_patch_lands_where_the_card_says() -> None:
    """A sticker of 200 mm at (100, 0) on a 1 px/mm plane covers exactly columns 200 to 400 of a 600
    px picture."""
    homography = torch.tensor([[[1.0, 0.0, 300.0], [0.0, 1.0, 300.0], [0.0, 0.0, 1.0]]])
    mask = make_mask("rectangle", 200, 200, longest_px=200)
    black = torch.zeros(1, 3, 600, 600)
    light, zero = torch.ones(1, 3, 200, 200), torch.zeros(1, 3)
    out = place_patch(
        black, light, mask, homography, Placement(200, 200, (0.0, 100.0)), torch.ones(1, 3), zero
    )
    columns = (out[0, 0].sum(0) > 1).nonzero().flatten()
    rows = (out[0, 0].sum(1) > 1).nonzero().flatten()
    assert (int(columns[0]), int(columns[-1])) == (200, 399)
    assert (int(rows[0]), int(rows[-1])) == (300, 499)


@pytest.mark.parametrize("quality", [30, 50, 75, 92])
def test_jpeg_is_nearer_to_libjpeg_than_the_loss_it_models(quality: int) -> None:
    """The codec differs from OpenCV's real one by under half of what the real one does to the
    picture."""
    picture = synthetic_background(3, height=160, width=160)
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    real = torch.from_numpy(cv2.imdecode(data, 1)[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    image = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    ours = differentiable_jpeg(image, torch.tensor([float(quality)]))
    assert (ours - real).square().mean() < 0.25 * (image - real).square().mean()


def test_jpeg_takes_any_size_and_passes_gradients() -> None:
    """Sides need not be whole blocks, and the gradient of a strong pattern is not lost."""
    image = torch.rand(2, 3, 37, 51, requires_grad=True)
    differentiable_jpeg(image, torch.tensor([60.0, 90.0])).square().sum().backward()
    assert image.grad is not None
    assert float((image.grad.abs() > 0).float().mean()) > 0.9


def _pulse() -> Tensor:
    image = torch.zeros(1, 3, 41, 41)
    image[..., 20, 20] = 1
    return image


def test_lens_spreads_light_by_its_sigma() -> None:
    """A point becomes a Gaussian: energy kept, second moment sigma squared; without blur the
    picture is unchanged."""
    out = blur.blur_lens(_pulse(), torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([0.0]))[
        0, 0
    ]
    offsets = torch.arange(41.0) - 20
    assert float(out.sum()) == pytest.approx(1, abs=1e-3)
    assert float((out.sum(0) * offsets**2).sum()) == pytest.approx(4.0, rel=0.02)
    picture = torch.rand(1, 3, 20, 20)
    torch.testing.assert_close(
        blur.blur_lens(picture, *torch.zeros(3, 1)), picture, atol=1e-5, rtol=0
    )


def test_motion_goes_along_its_angle() -> None:
    """Motion of 6 px at 0 degrees spreads a point along its row only, with variance length^2 /
    12."""
    out = blur.blur_lens(_pulse(), torch.tensor([1.0]), torch.tensor([6.0]), torch.tensor([0.0]))[
        0, 0
    ]
    offsets = torch.arange(41.0) - 20
    along, across = float((out.sum(0) * offsets**2).sum()), float((out.sum(1) * offsets**2).sum())
    assert along == pytest.approx(1.0 + 3.0, rel=0.05)
    assert across == pytest.approx(1.0, rel=0.05)


def test_printer_keeps_grays_and_orders_light() -> None:
    """Ink mixing leaves grays gray, and print lies between black ink and paper white."""
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 1, 16)
    mixing = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.0, 0.1, 0.9]])
    out = printed_light(ramp, torch.full((3,), 0.03), torch.full((3,), 0.8), mixing)
    torch.testing.assert_close(out[:, 0], out[:, 1])
    assert float(out.min()) == pytest.approx(0.03)
    assert float(out.max()) == pytest.approx(0.8)
    assert bool((out.diff(dim=-1) > 0).all())


def test_the_chain_replays_and_differs_between_draws(scenes: SceneBatch) -> None:
    """The same generator gives the same picture, another one a different; pictures stay in [0,
    1]."""
    patch, mask = torch.rand(1, 3, 24, 32), make_mask("rectangle", 240, 180, longest_px=32)
    place_at = Placement(240, 180, (0.0, 150.0))

    pipeline = Pipeline.from_ranges(EotRanges())

    def photo(seed: int) -> Tensor:
        return pipeline.apply(
            patch,
            mask,
            place_at,
            scenes,
            pipeline.sample(scenes, generator(seed, "eot")),
        )

    first = photo(1)
    assert torch.equal(first, photo(1))
    assert not torch.equal(first, photo(2))
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_the_chain_leaves_the_global_rng_alone(scenes: SceneBatch) -> None:
    """Sampling moves neither torch's nor numpy's global generator."""
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Pipeline.from_ranges(EotRanges()).sample(scenes, generator(0, "x"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002


def test_smooth_part_of_the_chain_has_true_gradients() -> None:
    """Printer, placement, exposure, lens and tone pass gradcheck in float64 (the codec rounds, so
    it is left out)."""
    patch = torch.rand(1, 3, 5, 6, dtype=torch.float64) * 0.6 + 0.2
    patch.requires_grad_()
    mask = torch.ones(1, 1, 5, 6, dtype=torch.float64)
    homography = torch.tensor(
        [[[0.9, 0.1, 6.0], [-0.1, 0.8, 6.0], [0.001, 0.0, 1.0]]], dtype=torch.float64
    )
    one = torch.ones(1, dtype=torch.float64)
    three = torch.ones(1, 3, dtype=torch.float64)
    back = torch.full((1, 3, 12, 12), 0.4, dtype=torch.float64)
    mixing = torch.eye(3, dtype=torch.float64) * 0.8 + 0.2 / 3

    def chain_of(p: Tensor) -> Tensor:
        light = printed_light(p, 0.03 * three[0], 0.8 * three[0], mixing)
        placed = place_patch(back, light, mask, homography, Placement(8, 7), three, 0.01 * three)
        seen = blur.blur_lens(
            apply_exposure(placed, 0.2 * one, 0.95 * three), 0.7 * one, one, 0.5 * one
        )
        return apply_tone(
            photometry.linear_to_srgb(seen.clamp(1e-4, 1)), 1.1 * one, 0.02 * one, 1.1 * one
        )

    assert torch.autograd.gradcheck(chain_of, (patch,), atol=1e-4)
