"""Patch certificates against brute force: every content of every patch on tiny images."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from physadv.core.errors import OptionError, VictimError
from physadv.defences.patchproof import Ablated, PatchCleanser, mask_spans
from physadv.defences.smallfield import RobustMasking, Tiles

SIDE, PATCH = 6, 2
Certify = Callable[[Tensor, Tensor], Tensor]


class Brightness(nn.Module):
    """Three classes by mean brightness, with random weights so that places differ a little."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = 1 + 0.6 * torch.randn(1, 1, SIDE, SIDE, generator=draw)
        self.centres = torch.tensor([0.1, 0.5, 0.9])

    def forward(self, x: Tensor) -> Tensor:
        mean = (x * self.weight[..., : x.shape[2], : x.shape[3]]).mean((1, 2, 3))
        return -40 * (mean[:, None] - self.centres).square()


def patched(image: Tensor) -> Tensor:
    """``image`` (1, h, w) under every black and white patch at every place."""
    contents = torch.tensor(list(itertools.product([0.0, 1.0], repeat=PATCH**2))).view(-1, PATCH, PATCH)
    found = []
    for y, x in itertools.product(range(SIDE - PATCH + 1), repeat=2):
        copies = image.expand(len(contents), -1, -1, -1).clone()
        copies[:, 0, y : y + PATCH, x : x + PATCH] = contents
        found.append(copies)
    return torch.cat(found)


def defences(seed: int) -> list[tuple[str, nn.Module, Certify]]:
    victim = Brightness(seed)
    cleanser = PatchCleanser(victim, patch=PATCH, masks=3)
    band, block = Ablated(victim, size=2, fill=0.2), Ablated(victim, size=3, kind="block", fill=0.4)
    guard = RobustMasking(Tiles(victim, field=2, stride=1), patch=PATCH)
    return [
        ("cleanser", cleanser, cleanser.certify),
        ("band", band, lambda x, y: band.certify(x, y, patch=PATCH)),
        ("block", block, lambda x, y: block.certify(x, y, patch=1)),
        ("guard", guard, guard.certify),
    ]


@pytest.mark.parametrize("number", range(4))
def test_no_patch_changes_what_is_certified(number: int) -> None:
    """Of images certified, no patched copy gets another verdict; of the others some do."""
    certified, broken = 0, 0
    for seed in range(4):
        name, defence, certify = defences(seed)[number]
        draw = torch.Generator().manual_seed(seed)
        level = torch.linspace(0, 1, 7).view(-1, 1, 1, 1)
        images = (level + 0.1 * torch.randn(7, 1, SIDE, SIDE, generator=draw)).clamp(0, 1)
        verdicts = defence(images).argmax(1)
        sure = certify(images, verdicts)
        certified += int(sure.sum())
        for image, verdict, is_sure in zip(images, verdicts, sure, strict=True):
            copies = patched(image) if name != "block" else _single_pixels(image)
            changed = bool((defence(copies).argmax(1) != verdict).any())
            assert not (changed and is_sure)
            broken += changed
    assert certified > 0
    assert broken > 0


def _single_pixels(image: Tensor) -> Tensor:
    """``image`` with each pixel black and white: all patches of one pixel."""
    found = image.expand(2 * SIDE**2, -1, -1, -1).clone()
    for k in range(SIDE**2):
        found[2 * k, 0, k // SIDE, k % SIDE] = 0.0
        found[2 * k + 1, 0, k // SIDE, k % SIDE] = 1.0
    return found


@pytest.mark.parametrize("number", range(4))
def test_a_wrong_label_is_never_certified(number: int) -> None:
    """A certificate is for the label given: not for one the defence does not answer."""
    _, defence, certify = defences(0)[number]
    images = torch.full((3, 1, SIDE, SIDE), 0.9)
    wrong = (defence(images).argmax(1) + 1) % 3
    assert not certify(images, wrong).any()


@given(side=st.integers(3, 40), patch=st.integers(1, 40), count=st.integers(1, 8))
@settings(deadline=None)
def test_some_mask_covers_every_patch(side: int, patch: int, count: int) -> None:
    """Whatever the sizes, every patch place lies within one of at most ``count`` spans inside the image."""
    if patch > side:
        with pytest.raises(OptionError):
            mask_spans(side, patch, count)
        return
    spans = mask_spans(side, patch, count)
    assert len(spans) <= count
    assert all(0 <= a < b <= side for a, b in spans)
    assert all(any(a <= i and i + patch <= b for a, b in spans) for i in range(side - patch + 1))


@given(patch=st.integers(1, 6), size=st.integers(1, 6), kind=st.sampled_from(["band", "block"]))
@settings(deadline=None, max_examples=40)
def test_no_patch_meets_more_votes_than_counted(patch: int, size: int, kind: str) -> None:
    """The count of bands or blocks that a patch can touch is the largest over all places."""
    ablated = Ablated(Brightness(0), size=size, kind=kind)
    keep = ablated.keeps(SIDE, SIDE)
    most = 0
    for y, x in itertools.product(range(SIDE - patch + 1), repeat=2):
        most = max(most, int(keep[:, 0, y : y + patch, x : x + patch].flatten(1).any(1).sum()))
    assert most == ablated.met(patch, SIDE, SIDE)


@given(field=st.integers(1, 4), stride=st.integers(1, 4), patch=st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_no_patch_touches_more_tiles_than_counted(field: int, stride: int, patch: int) -> None:
    """Along an axis of any length, tiles touched never exceed the reach."""
    stride = min(stride, field)
    reach = Tiles(Brightness(0), field=field, stride=stride).reach(patch)
    starts = range(0, 10 * stride, stride)
    for i in range(12):
        assert sum(start < i + patch and start + field > i for start in starts) <= reach


@pytest.mark.parametrize("number", range(4))
def test_gradients_reach_the_image(number: int) -> None:
    """Attacks that use gradients run through each defence."""
    _, defence, _ = defences(1)[number]
    x = (torch.full((2, 1, SIDE, SIDE), 0.5) + 0.01 * torch.arange(36.0).view(SIDE, SIDE)).requires_grad_(True)
    (grad,) = torch.autograd.grad(defence(x)[:, 0].sum(), x)
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0


def test_bad_settings_are_refused() -> None:
    """Sizes below one, bands wider than the image, tiles that do not fit, and detectors are errors."""
    victim = Brightness(0)
    x = torch.rand(1, 1, SIDE, SIDE)
    for make in (
        lambda: PatchCleanser(victim, patch=0),
        lambda: Ablated(victim, size=0),
        lambda: Ablated(victim, size=7)(x),
        lambda: Tiles(victim, field=4, stride=5),
        lambda: Tiles(victim, field=4, stride=4)(x),
        lambda: RobustMasking(Tiles(victim, field=2, stride=1), patch=0),
    ):
        with pytest.raises(OptionError):
            make()
    with pytest.raises(VictimError):
        PatchCleanser(lambda images: (images, images), patch=2)(x)
