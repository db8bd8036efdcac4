"""Input transforms: the operation itself, its stand-in, and the gradient that attacks receive."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from physadv.attacks.gradient import pgd
from physadv.core.errors import OptionError
from physadv.core.types import Detections
from physadv.defenses import input_transforms


class Waves(nn.Module):
    """Two classes by the strength of a slow wave, which every input transform preserves."""

    def __init__(self) -> None:
        super().__init__()
        wave = torch.sin(torch.arange(16.0) / 16 * 6.28).view(1, 1, 1, -1).expand(1, 3, 16, 16)
        self.register_buffer("wave", wave / wave.abs().sum())

    def forward(self, x: Tensor) -> Tensor:
        z = ((x - 0.5) * self.get_buffer("wave")).sum((1, 2, 3)) * 40
        return torch.stack([-z, z], 1)


def images(n: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return (0.5 + 0.06 * torch.randn(n, 3, 16, 16, generator=draw)).clamp(0, 1)


def test_jpeg_is_the_real_codec() -> None:
    """The image the model receives is what Pillow reads back, bit for bit."""
    x = images(2)
    seen = input_transforms.jpeg_purification(nn.Identity(), quality=60)(x)
    array = (x[1].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=60)
    wanted = np.asarray(Image.open(buffer)).astype(np.float32) / 255
    assert np.array_equal(seen[1].permute(1, 2, 0).numpy(), wanted)


def test_median_removes_a_speck_and_keeps_a_step() -> None:
    """A single odd pixel disappears; an edge between two halves stays where it is."""
    x = torch.zeros(1, 3, 8, 8)
    x[..., 4:] = 1.0
    expected = x.clone()
    x[0, :, 2, 1] = 1.0
    assert torch.equal(input_transforms.median_smoothing(nn.Identity())(x), expected)


def test_blur_keeps_flat_images_and_brightness() -> None:
    """A flat image is unchanged; a spot is spread and its neighbors gain what it loses."""
    assert torch.allclose(
        input_transforms.blur_purification(nn.Identity())(torch.full((1, 3, 9, 9), 0.3)),
        torch.full((1, 3, 9, 9), 0.3),
    )
    spot = torch.zeros(1, 1, 21, 21)
    spot[..., 10, 10] = 1.0
    found = input_transforms.blur_purification(nn.Identity(), sigma=1.5)(spot)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(found.max()) == pytest.approx(1 / (2 * torch.pi * 1.5**2), rel=0.05)


def test_local_gradient_smoothing_dims_the_busy_block_only() -> None:
    """Noise in one corner is dimmed; the smooth rest stays as it is."""
    draw = torch.Generator().manual_seed(1)
    x = torch.full((1, 3, 40, 40), 0.5)
    x[..., :10, :10] = torch.rand(1, 3, 10, 10, generator=draw).round()
    seen = input_transforms.local_gradient_smoothing(nn.Identity())(x)
    assert torch.equal(seen[..., 20:, 20:], x[..., 20:, 20:])
    assert float(seen[..., :10, :10].mean()) < 0.6 * float(x[..., :10, :10].mean())


@pytest.mark.parametrize(
    "name", ["jpeg_purification", "median_smoothing", "local_gradient_smoothing"]
)
def test_the_stand_in_changes_gradients_only(name: str) -> None:
    """Adaptive or not, predictions are the same."""
    make = getattr(input_transforms, name)
    assert torch.equal(make(Waves())(images()), make(Waves(), adaptive=False)(images()))


def test_jpeg_masks_gradients_and_bpda_finds_them() -> None:
    """Plain PGD through the codec breaks nothing; through the stand-in it breaks every image at the
    same eps."""
    model, x = Waves(), images()
    labels = input_transforms.jpeg_purification(model)(x).argmax(1)
    masked = pgd(
        input_transforms.jpeg_purification(model, adaptive=False),
        x,
        labels,
        eps=8 / 255,
        steps=10,
        random_start=False,
        speed="plain",
    )
    adaptive = pgd(
        input_transforms.jpeg_purification(model), x, labels, eps=8 / 255, steps=10, speed="plain"
    )
    assert adaptive.success.all()
    assert not masked.success.any()
    assert (input_transforms.jpeg_purification(model)(adaptive.images).argmax(1) != labels).all()


@pytest.mark.parametrize(
    ("name", "eps"),
    [
        ("jpeg_purification", 8 / 255),
        ("median_smoothing", 8 / 255),
        ("blur_purification", 8 / 255),
        ("local_gradient_smoothing", 24 / 255),
    ],
)
def test_every_input_transform_falls_to_the_adaptive_attack(name: str, eps: float) -> None:
    """None of them withstands adaptive PGD; the wave that dimming halves takes a larger
    eps."""
    defended = getattr(input_transforms, name)(Waves())
    labels = defended(images()).argmax(1)
    assert pgd(defended, images(), labels, eps=eps, steps=20, speed="plain").success.all()


def test_detectors_pass_through() -> None:
    """An input transform wraps detectors too."""

    def detector(x: Tensor) -> Detections:
        return Detections(
            torch.zeros(len(x), 2, 4), x.mean((1, 2, 3)).view(-1, 1, 1).expand(-1, 2, 1)
        )

    found = input_transforms.jpeg_purification(detector)(images())
    assert isinstance(found, Detections)
    assert found.boxes.shape == (6, 2, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: input_transforms.jpeg_purification(Waves(), quality=0),
        lambda: input_transforms.median_smoothing(Waves(), size=4),
        lambda: input_transforms.blur_purification(Waves(), sigma=0),
        lambda: input_transforms.local_gradient_smoothing(Waves(), block=5, overlap=5),
    ],
)
def test_bad_settings_are_refused(make: object) -> None:
    """Settings out of range are errors."""
    with pytest.raises(OptionError):
        make()  # type: ignore[operator]


def test_local_gradient_smoothing_leaves_blocks_under_the_threshold_alone() -> None:
    """A pixel of a marked block loses its edge's share of the strongest edge; a block under the
    threshold loses nothing, though it holds an edge."""
    x = torch.full((1, 3, 60, 60), 0.5)
    x[..., :14:2, :14] = 1.0  # a busy block, its strongest edges at its right end: two differences
    x[..., 45, 40:50] = 0.6  # one faint line elsewhere
    smoothed = input_transforms.local_gradient_smoothing(nn.Identity(), strength=1.0)(x)
    assert torch.equal(smoothed[..., 30:, 30:], x[..., 30:, 30:])
    assert float(smoothed[0, 0, 4, 6]) == pytest.approx(1 - 0.5**0.5, abs=1e-4)
