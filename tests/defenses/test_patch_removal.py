"""The patch remover: marks are completed, painted out, and the rest of the picture stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.core.package_data import patches_dir
from physadv.defenses.patch_removal import (
    WINDOWS,
    PatchRemover,
    PatchSegmenter,
    complete_rectangles,
    fill_marked,
    load_segmenter,
    patch_removal,
)
from physadv.defenses.registry import defend_model
from physadv.patches.bundle import read_bundle
from physadv.patches.optimize import render_scenes, sample_eot
from physadv.patches.reverify import config_from_bundle
from physadv.patches.task import PatchTask, sample_scenes


class Reddish(nn.Module):
    """Marks red pixels: a segmenter whose answer is known."""

    def forward(self, x: Tensor) -> Tensor:
        return 40 * (x[:, :1] - x[:, 1:2] - 0.5)


def image() -> Tensor:
    """Gray with a red rectangle of 12 x 16 px, a few of its pixels gray."""
    x = torch.full((1, 3, 64, 64), 0.4)
    x[0, :, 20:32, 30:46] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    x[0, :, 24:27, 35:38] = 0.4
    return x


def test_holes_in_a_rectangle_are_filled_and_specks_do_not_grow() -> None:
    """A rectangle with unmarked parts is marked whole; a lone pixel marks itself alone."""
    marks = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    marks[0, 0, 20:32, 30:46] = True
    marks[0, 0, 24:27, 35:38] = False
    assert complete_rectangles(marks)[0, 0, 20:32, 30:46].all()
    speck = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    speck[0, 0, 5, 5] = True
    assert torch.equal(complete_rectangles(speck), speck)
    assert all(a <= 64 and b <= 64 for a, b in WINDOWS)


def test_the_patch_goes_and_what_is_far_stays() -> None:
    """No red is left, holes included; pixels away from the patch are untouched."""
    x = image()
    seen = PatchRemover(Reddish())(x)
    assert (seen[0, 0, 20:32, 30:46] < 0.45).all()
    assert torch.equal(seen[..., :10, :], x[..., :10, :])
    clean = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.3
    assert torch.equal(PatchRemover(Reddish())(clean), clean)


def test_the_stand_in_has_a_slope_where_the_marks_have_none() -> None:
    """Adaptive or not the cleaned image is the same; only the adaptive one lets a slope through to
    the patch."""
    x = image().requires_grad_(True)
    slopes = []
    for adaptive in (True, False):
        front = patch_removal(nn.Identity(), segmenter=Reddish(), adaptive=adaptive)
        assert torch.equal(front(x), PatchRemover(Reddish())(x))
        (slope,) = torch.autograd.grad(front(x)[..., 22, 40].sum(), x)
        slopes.append(slope[..., 20:32, 30:46].abs().sum())
    assert slopes[0] > 0
    assert slopes[1] < 1e-5  # rounding of the paint's mean


def test_a_hole_is_filled_with_what_lies_around_it() -> None:
    """A mark in a plain half gets that half's color; unmarked pixels stay; where all is marked it
    is black."""
    x = torch.zeros(1, 3, 50, 64)
    x[..., 32:] = 0.8
    marks = torch.zeros(1, 1, 50, 64)
    marks[..., 15:30, 48:60] = 1
    seen = fill_marked(x.masked_fill(marks > 0, 0.3), marks)
    assert torch.allclose(seen, x, atol=0.02)
    assert torch.equal(fill_marked(x, torch.zeros_like(marks)), x)
    assert float(fill_marked(x, torch.ones_like(marks)).abs().max()) == 0


def test_marks_grow_by_as_many_pixels_as_asked() -> None:
    """A marked rectangle grows by the pixels given on every side, and by none with 0."""
    small, large = (PatchRemover(Reddish(), grow=g).marks(image()).sum() for g in (0, 2))
    assert (small, large) == (12 * 16, 16 * 20)


def test_the_net_sees_pictures_of_any_size_and_its_weights_are_small() -> None:
    """One logit a pixel, odd sizes too; at most 200,000 weights; a copy of its own for everyone."""
    net = PatchSegmenter().eval()
    assert net(torch.rand(2, 3, 37, 50)).shape == (2, 1, 37, 50)
    assert sum(p.numel() for p in net.parameters()) <= 200_000
    first, second = load_segmenter(), load_segmenter()
    next(first.parameters()).data.zero_()
    assert float(next(second.parameters()).abs().sum()) > 0


@torch.no_grad()
def test_the_ready_made_sticker_goes_and_the_sign_is_read_again() -> None:
    """In drawn scenes our own sticker hides stop signs from `signs` and not from `signs+remover`;
    bare ones stay."""
    bundle = read_bundle(patches_dir() / "stop-sticker-signs-v1")
    task = PatchTask.from_config(config_from_bundle(bundle))
    model = task.loaded_model
    scenes = sample_scenes(task, task.scene_sources.test, 16, "remover test")
    seen, _ = render_scenes(task, bundle.patch, scenes, ("remover test",))
    bare = task.stages.without_patch(scenes, sample_eot(task, scenes, ("remover test",)))
    behind = defend_model(model, "remover")
    read = [
        int((net(x).argmax(1) == 14).sum())
        for net, x in ((model, seen), (behind, seen), (behind, bare))
    ]
    assert read[0] <= 4
    assert min(read[1:]) >= 13


@pytest.mark.parametrize("bad", [{"threshold": 0.0}, {"full": 2.0}, {"side": 8}, {"grow": -1}])
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    """Settings out of range are errors."""
    with pytest.raises(OptionError):
        PatchRemover(Reddish(), **bad)  # type: ignore[arg-type]
