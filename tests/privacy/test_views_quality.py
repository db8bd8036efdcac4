"""Views and measures: real codecs, gradients, and SSIM by its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tinyface import drawn_photo, face_at, tiny_embedder

from physadv.core.image_io import to_tensor
from physadv.core.random_streams import numpy_generator
from physadv.privacy.check.channels import CHANNELS, blur_like, noise_like
from physadv.privacy.transforms import (
    PhotoView,
    ViewRanges,
    apply_codec,
    clean_view,
    crop_through_view,
    draw_view,
    straight_through,
    transmit_photo,
    view_alignment,
)
from physadv.privacy.visibility import dssim, gaussian_blur, measure_change, ms_ssim

FACE = face_at(20, 15, 70)
PHOTO = drawn_photo(100, 110, FACE)


def test_dssim_by_its_definition() -> None:
    """At the one window of an 11 x 11 picture it is Wang's formula; equal pictures give 0; it is
    symmetric."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 11, 11))
    reach = np.arange(-5, 6)
    w = np.exp(-(reach**2) / 4.5)
    w = np.outer(w, w) / np.outer(w, w).sum()
    ma, mb = (w * a).sum(), (w * b).sum()
    va, vb, cov = (w * a * a).sum() - ma**2, (w * b * b).sum() - mb**2, (w * a * b).sum() - ma * mb
    ssim = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    first, second = (torch.from_numpy(x)[None, None].expand(1, 3, -1, -1) for x in (a, b))
    assert float(dssim(first, second)) == pytest.approx((1 - ssim) / 2, abs=1e-9)
    assert float(dssim(first, first)) == pytest.approx(0, abs=1e-12)
    assert float(dssim(first, second)) == pytest.approx(float(dssim(second, first)))


def test_dssim_has_gradients_and_takes_small_pictures() -> None:
    """Differentiable, also for a picture smaller than its window."""
    a = torch.rand(1, 3, 7, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = (a * 0.9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dssim(a, x), (b,))


def test_change_counts_in_steps() -> None:
    """Largest change in 8-bit steps, PSNR in dB, infinite where nothing changed."""
    a = torch.full((3, 16, 16), 100 / 255)
    b = a.clone()
    b[0, 3, 3] = 107 / 255
    found = measure_change(a, b)
    assert found.linf == 7
    assert found.psnr == pytest.approx(10 * np.log10(255**2 * 3 * 256 / 49), abs=0.01)
    assert measure_change(a, a).psnr == float("inf")


def test_ms_ssim_of_published_pairs() -> None:
    """The value that torchmetrics documents for this random picture and three quarters of it; a
    change of the mean alone counts at the coarsest scale only."""
    a = torch.rand([3, 3, 256, 256], generator=torch.manual_seed(42))
    assert float(ms_ssim(a, 0.75 * a).mean()) == pytest.approx(0.9628, abs=1.5e-4)
    flat = torch.full((1, 3, 200, 200), 0.5)
    light = (2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4)
    assert float(ms_ssim(flat, flat + 0.1)) == pytest.approx(light**0.1333, abs=1e-5)


def test_ms_ssim_of_small_pictures_has_fewer_scales() -> None:
    """A picture of one window has one scale, where MS-SSIM is SSIM; equal ones give 1."""
    draw = torch.Generator().manual_seed(0)
    a, noise = torch.rand(2, 1, 3, 21, 21, generator=draw)
    b = 0.8 * a + 0.2 * noise  # unrelated pictures have an SSIM below 0, which counts as 0
    assert float(ms_ssim(a, b)) == pytest.approx(1 - 2 * float(dssim(a, b)), abs=1e-5)
    for side in (5, 40, 100, 180):
        c = torch.rand(1, 3, side, side + 7, generator=draw)
        assert float(ms_ssim(c, c)) == pytest.approx(1)


def test_blur_keeps_the_mean_and_spreads() -> None:
    """A point becomes a Gaussian of the asked width."""
    x = torch.zeros(1, 1, 41, 41)
    x[..., 20, 20] = 1
    y = gaussian_blur(x, 2.0)[0, 0]
    reach = torch.arange(41) - 20.0
    assert float(y.sum()) == pytest.approx(1, abs=1e-5)
    assert float((y.sum(0) * reach**2).sum()) == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_codec_is_real_and_its_gradient_passes(codec: str) -> None:
    """The value is the decoded picture, the gradient the identity; JPEG halves the chroma
    (4:2:0)."""
    x = to_tensor(PHOTO)[None].requires_grad_()
    out = straight_through(x, codec, 70)  # type: ignore[arg-type]
    assert (
        np.abs(
            out[0].detach().mul(255).round().permute(1, 2, 0).numpy()
            - apply_codec(PHOTO, codec, 70)
        ).max()
        == 0
    )  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255
    flat = apply_codec(stripes, "jpeg", 95).astype(int)
    assert np.ptp(flat[8:24, 8:24, 0] - flat[8:24, 8:24, 2]) < 60


def test_views_are_drawn_within_their_ranges() -> None:
    """Hard views always shrink and compress, any stays within its ranges."""
    rng, ranges = numpy_generator(0, "views"), ViewRanges()
    for _ in range(60):
        hard, some = draw_view(rng, ranges, "hard"), draw_view(rng, ranges, "any")
        assert hard.codec != "none"
        assert ranges.resize <= hard.resize <= 0.61
        assert ranges.resize <= some.resize <= 1
        assert 0 <= some.blur <= ranges.blur
        assert 50 <= some.quality <= 95


@pytest.mark.parametrize(
    "view",
    [
        clean_view(),
        clean_view(flip=True),
        replace(clean_view(), blur=1.0, resize=0.5, codec="jpeg", quality=60),
        PhotoView(np.full((5, 2), 0.03), True, turn=0.05, shift=(0.02, -0.01), zoom=1.05),
    ],
)
def test_every_view_lets_gradients_through_to_the_face(view: PhotoView) -> None:
    """Whatever happens on the way, the photo's pixels inside the face get a finite gradient that is
    not zero."""
    embedder = tiny_embedder()
    x = to_tensor(PHOTO)[None].requires_grad_()
    (gradient,) = torch.autograd.grad(
        embedder(crop_through_view(x, FACE, embedder, view)).square().sum(), x
    )
    assert torch.isfinite(gradient).all()
    assert float(gradient[0, :, 30:70, 40:80].abs().mean()) > 0


def test_a_mirrored_view_is_the_mirrored_crop() -> None:
    """Flipping happens on the aligned crop."""
    embedder, x = tiny_embedder(), to_tensor(PHOTO)[None]
    assert torch.equal(
        crop_through_view(x, FACE, embedder, clean_view(flip=True)),
        crop_through_view(x, FACE, embedder, clean_view()).flip(3),
    )


def test_alignment_follows_a_resized_photo() -> None:
    """In a photo of half the size the crop shows the same part of the face."""
    embedder, x = tiny_embedder(), to_tensor(PHOTO)[None]
    view = replace(clean_view(), resize=0.5)
    small, factor = transmit_photo(x, FACE, view)
    assert factor == pytest.approx(0.5)
    assert torch.allclose(
        view_alignment(FACE, embedder, view, factor) * 2,
        view_alignment(FACE, embedder, clean_view()),
    )
    assert (
        crop_through_view(x, FACE, embedder, view)
        - crop_through_view(x, FACE, embedder, clean_view())
    ).abs().mean() < 0.05
    assert small.shape[-1] == 55


@pytest.mark.parametrize("name", list(CHANNELS))
def test_channels_keep_the_picture(name: str) -> None:
    """Every channel gives 8-bit RGB of the stated scale that still shows the same scene."""
    channel = CHANNELS[name]
    out = channel.send(PHOTO, 70.0)
    assert out.dtype == np.uint8
    assert out.shape[1] == pytest.approx(PHOTO.shape[1] * channel.factor, abs=1)
    assert abs(float(out.mean()) - float(PHOTO.mean())) < 6
    assert (name == "png") == (out.shape == PHOTO.shape and np.array_equal(out, PHOTO))


def test_baselines_have_the_same_dssim() -> None:
    """Noise and blur are brought to the DSSIM of the cloak they stand beside."""
    before = PHOTO[15:85, 20:90]
    after = (
        (
            before.astype(int)
            + np.where(np.indices(before.shape[:2]).sum(0) % 3 == 0, 7, -3)[..., None]
        )
        .clip(0, 255)
        .astype(np.uint8)
    )
    wanted = float(dssim(to_tensor(before)[None], to_tensor(after)[None]))
    for other in (noise_like(before, after, 0, "x"), blur_like(before, after)):
        assert float(dssim(to_tensor(before)[None], to_tensor(other)[None])) == pytest.approx(
            wanted, rel=0.1
        )
    assert np.array_equal(noise_like(before, before, 0, "x"), before)
