"""Augmentations keep range and shape, repeat by generator, and do what their names say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from physadv.training.sign_classifier import augmentation

Augmentation = Callable[[Tensor, Generator], Tensor]
BOXES = torch.tensor([[-0.8, -0.8, 0.8, 0.8]])


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 12, px: int = 64) -> Tensor:
    coarse = torch.rand(n, 3, 8, 8, generator=generator(9))
    return torch.nn.functional.interpolate(coarse, size=(px, px), mode="bilinear").clamp(0, 1)


CHAIN: list[Augmentation] = [
    augmentation.vary_light,
    augmentation.view_from_afar,
    augmentation.blur_crops,
    augmentation.sharpen_crops,
    augmentation.add_noise,
    augmentation.compress_crops,
    augmentation.simulate_camera,
]


@pytest.mark.parametrize("step", CHAIN, ids=lambda f: f.__name__)
def test_range_shape_repeatability_and_purity(step: Augmentation) -> None:
    """Outputs stay in [0, 1] and keep their shape; the generator alone decides; inputs and global
    RNG are untouched."""
    images = pictures()
    kept, state = images.clone(), torch.get_rng_state()
    first, again, other = (
        step(images, generator(1)),
        step(images, generator(1)),
        step(images, generator(2)),
    )
    assert first.shape == images.shape
    assert float(first.min()) >= -1e-6
    assert float(first.max()) <= 1 + 1e-6
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, kept)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("step", CHAIN[1:6], ids=lambda f: f.__name__)
def test_share_zero_changes_nothing(step: Callable[..., Tensor]) -> None:
    """With share 0 the images come back as they were."""
    images = pictures()
    assert torch.allclose(step(images, generator(), share=0.0), images)


def test_views_never_mirror() -> None:
    """Every drawn view keeps orientation: its determinant is positive at the object's center."""
    view, _ = augmentation.draw_homographies(BOXES.repeat(500, 1), generator())
    corners = torch.tensor([[-0.8, -0.8, 1], [0.8, -0.8, 1], [0.8, 0.8, 1], [-0.8, 0.8, 1.0]]).T
    seen = torch.linalg.inv(view) @ corners
    x, y = (seen[:, :2] / seen[:, 2:]).unbind(1)
    area = (x * y.roll(-1, 1) - y * x.roll(-1, 1)).sum(1) / 2
    assert (area > 0).all()


def test_fill_is_the_share_of_the_crop() -> None:
    """Without tilt and squeeze the object's side is the drawn fill, within the given range."""
    view, fill = augmentation.draw_homographies(
        BOXES.repeat(200, 1), generator(), fill=(0.6, 0.9), degrees=0, tilt=0, squeeze=0
    )
    left, right = (torch.linalg.inv(view) @ torch.tensor([x, 0.0, 1.0]) for x in (-0.8, 0.8))
    width = (right[:, 0] / right[:, 2] - left[:, 0] / left[:, 2]) / 2
    assert torch.allclose(width, fill, atol=1e-5)
    assert float(fill.min()) >= 0.6 - 1e-6
    assert float(fill.max()) <= 0.9 + 1e-6


def test_identity_view_is_a_resize() -> None:
    """The identity looks at the canvas as it is."""
    images = pictures(2)
    assert torch.allclose(
        augmentation.warp_canvas(images, torch.eye(3).repeat(2, 1, 1), 64), images, atol=1e-5
    )


def test_shrinking_views_are_smoothed() -> None:
    """A view that shrinks a one-pixel checkerboard by two is gray."""
    y, x = torch.meshgrid(torch.arange(80), torch.arange(80), indexing="ij")
    board = ((x + y) % 2).float().expand(1, 3, 80, 80)
    seen = augmentation.warp_canvas(board, torch.eye(3)[None], 40)
    assert float((seen - 0.5).abs().max()) < 0.05


def test_stickers_cover_what_they_promise() -> None:
    """About the given share gets a sticker, each covers at most 25 % of the box, and the rest
    is untouched."""
    canvas = torch.full((400, 3, 40, 40), 0.5)
    covered = augmentation.cover_with_stickers(
        canvas, torch.tensor([[-1.0, -1, 1, 1]]).repeat(400, 1), generator(), share=0.5
    )
    area = (covered != canvas).any(1).float().mean((1, 2))
    assert 0.4 < float((area > 0).float().mean()) < 0.6
    assert float(area.max()) <= 0.26
    assert float(area[area > 0].median()) > 0.03


def test_far_away_loses_detail() -> None:
    """Pictures from afar have less fine detail than before."""
    sharp = torch.rand(20, 3, 64, 64, generator=generator(3))
    far = augmentation.view_from_afar(sharp, generator(), share=1.0)
    assert float(far.diff(dim=3).abs().mean()) < 0.3 * float(sharp.diff(dim=3).abs().mean())


def test_stickers_lie_in_the_box_wherever_it_is() -> None:
    """A box in one corner gets its stickers there: their center is in it, and the opposite corner
    stays as it was."""
    canvas = torch.full((300, 3, 40, 40), 0.5)
    box = torch.tensor([[-1.0, 0.2, -0.2, 1.0]])  # lower left
    covered = augmentation.cover_with_stickers(canvas, box.repeat(300, 1), generator(), share=1.0)
    changed = (covered != canvas).any(1)
    assert bool(changed.flatten(1).any(1).all())
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    weight = changed.sum((1, 2))
    down = (changed * rows).sum((1, 2)) / weight / 39 * 2 - 1
    across = (changed * columns).sum((1, 2)) / weight / 39 * 2 - 1
    assert float(((down > 0.1) & (across < -0.1)).float().mean()) > 0.97
    assert not bool(changed[:, :16, 24:].any())
