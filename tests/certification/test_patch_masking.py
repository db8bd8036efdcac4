"""Patch certificates against brute force: every content of every patch on tiny images."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from physadv.certification.patch.masking import (
    DerandomizedSmoothing,
    PatchCleanser,
    mask_spans,
    touched_windows,
)
from physadv.certification.patch.patchguard import RobustMasking
from physadv.core.errors import ModelError, OptionError

SIDE, PATCH, FILL = 6, 2, 0.45
Certify = Callable[[Tensor, Tensor], Tensor]


class Brightness(nn.Module):
    """Three classes by mean brightness, with random weights so that places differ a little."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = 1 + 0.6 * torch.randn(1, 1, SIDE, SIDE, generator=draw)
        self.centers = torch.tensor([0.1, 0.5, 0.9])

    def forward(self, x: Tensor) -> Tensor:
        mean = (x * self.weight[..., : x.shape[2], : x.shape[3]]).mean((1, 2, 3))
        return -40 * (mean[:, None] - self.centers).square()


class Seen(Brightness):
    """The same of the pixels that are left: those that are not exactly ``FILL``."""

    def forward(self, x: Tensor) -> Tensor:
        left = (x != FILL).to(x)
        mean = (x * left * (0.8 + 0.2 * self.weight[..., : x.shape[2], : x.shape[3]])).sum(
            (1, 2, 3)
        ) / left.sum((1, 2, 3)).clamp_min(1)
        return -40 * (mean[:, None] - self.centers).square()


class Even(Seen):
    """The same at every place."""

    def __init__(self) -> None:
        super().__init__(0)
        self.weight = torch.ones(1, 1, 1, 1)


def patched(image: Tensor) -> Tensor:
    """``image`` (1, h, w) under every black and white patch at every place."""
    contents = torch.tensor(list(itertools.product([0.0, 1.0], repeat=PATCH**2))).view(
        -1, PATCH, PATCH
    )
    found = []
    for y, x in itertools.product(range(SIDE - PATCH + 1), repeat=2):
        copies = image.expand(len(contents), -1, -1, -1).clone()
        copies[:, 0, y : y + PATCH, x : x + PATCH] = contents
        found.append(copies)
    return torch.cat(found)


def defenses(seed: int) -> list[tuple[str, nn.Module, Certify]]:
    model = Brightness(seed)
    cleanser = PatchCleanser(model, patch=PATCH, masks=3)
    left = Seen(seed)
    band = DerandomizedSmoothing(left, size=1, patch=PATCH, threshold=0.4, fill=FILL)
    block = DerandomizedSmoothing(left, size=2, kind="block", fill=FILL)
    guard = RobustMasking(DerandomizedSmoothing(left, size=1, kind="block", patch=PATCH, fill=FILL))
    bands = RobustMasking(
        DerandomizedSmoothing(left, size=1, patch=PATCH, threshold=0.4, fill=FILL)
    )
    return [
        ("cleanser", cleanser, cleanser.certify),
        ("band", band, lambda x, y: band.certify(x, y, patch=PATCH)),
        ("block", block, lambda x, y: block.certify(x, y, patch=1)),
        ("guard", guard, guard.certify),
        ("guard of bands", bands, bands.certify),
    ]


@pytest.mark.parametrize("number", range(5))
def test_no_patch_changes_what_is_certified(number: int) -> None:
    """Of images certified, no patched copy gets another verdict; of the others some do."""
    certified, broken = 0, 0
    for seed in range(4):
        name, defense, certify = defenses(seed)[number]
        draw = torch.Generator().manual_seed(seed)
        level = torch.linspace(0, 1, 7).view(-1, 1, 1, 1)
        images = (level + 0.1 * torch.randn(7, 1, SIDE, SIDE, generator=draw)).clamp(0, 1)
        verdicts = defense(images).argmax(1)
        sure = certify(images, verdicts)
        if name != "block":  # certified for another patch than its own
            said, certain = defense.verdicts(images)
            assert torch.equal(said, verdicts)
            assert torch.equal(certain, sure)
        certified += int(sure.sum())
        for image, verdict, is_sure in zip(images, verdicts, sure, strict=True):
            copies = patched(image) if name != "block" else _single_pixels(image)
            changed = bool((defense(copies).argmax(1) != verdict).any())
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


@pytest.mark.parametrize("number", range(5))
def test_a_wrong_label_is_never_certified(number: int) -> None:
    """A certificate is for the label given: not for one the defense does not answer."""
    _, defense, certify = defenses(0)[number]
    images = torch.full((3, 1, SIDE, SIDE), 0.9)
    wrong = (defense(images).argmax(1) + 1) % 3
    assert not certify(images, wrong).any()


@given(side=st.integers(3, 40), patch=st.integers(1, 40), count=st.integers(1, 8))
@settings(deadline=None)
def test_some_mask_covers_every_patch(side: int, patch: int, count: int) -> None:
    """Whatever the sizes, every patch place lies within one of at most ``count`` spans inside the
    image."""
    if patch > side:
        with pytest.raises(OptionError):
            mask_spans(side, patch, count)
        return
    spans = mask_spans(side, patch, count)
    assert len(spans) <= count
    assert all(0 <= a < b <= side for a, b in spans)
    assert all(any(a <= i and i + patch <= b for a, b in spans) for i in range(side - patch + 1))


@given(
    patch=st.integers(1, 6),
    size=st.integers(1, 6),
    stride=st.integers(1, 3),
    kind=st.sampled_from(["band", "block"]),
)
@settings(deadline=None, max_examples=60)
def test_every_patch_meets_no_more_places_than_told(
    patch: int, size: int, stride: int, kind: str
) -> None:
    """What a patch touches, at the borders too, lies within one of the sets; each set is what some
    patch touches."""
    ablated = DerandomizedSmoothing(Brightness(0), size=size, kind=kind, stride=stride)
    keep = ablated.keeps(SIDE, SIDE)
    down, across = ablated.touched_positions(patch, SIDE, SIDE)
    told = {
        tuple(t.tolist())
        for t in (down[:, None, :, None] & across[None, :, None, :]).flatten(2).flatten(0, 1)
    }
    found = set()
    for y, x in itertools.product(range(SIDE - patch + 1), repeat=2):
        met = keep[:, 0, y : y + patch, x : x + patch].flatten(1).any(1)
        assert any(not (met & ~torch.tensor(t)).any() for t in told)
        found.add(tuple(met.tolist()))
    assert told <= found


def test_windows_lie_within_the_image() -> None:
    """No place runs around the border, and what strides leave over is shared by both ends."""
    keep = DerandomizedSmoothing(Brightness(0), size=3, stride=2).keeps(SIDE, 8)[:, 0, 0]
    assert keep.int().tolist() == [
        [1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0],
    ]
    assert touched_windows(8, range(0, 7, 2), 2, 3).int().tolist() == [
        [0, 0, 1, 1],
        [0, 1, 1, 0],
        [1, 1, 0, 0],
    ]
    with pytest.raises(OptionError):
        touched_windows(8, range(0, 7, 2), 2, 9)


def test_votes_know_where_the_patch_could_lie() -> None:
    """Above the count of Levine and Feizi where no patch can meet votes for the label alone."""
    columns = torch.tensor([0, 1, 0, 2, 0, 1, 0, 2, 0])
    image = (columns / 2).expand(1, 1, 3, 9) * 0.8 + 0.1
    bands = DerandomizedSmoothing(Even(), size=1, patch=2, fill=FILL)
    votes = bands.ballots(bands.probabilities(image)).sum((2, 3))[0].tolist()
    assert votes == [5, 2, 2]
    met = int(bands.touched_positions(2, 3, 9)[1].sum(1).max())
    assert votes[0] - met < votes[1] + met  # theirs
    assert bands.certify(image, torch.tensor([0])).all()
    assert not bands.certify(image, torch.tensor([0]), patch=3).any()
    for start in range(8):
        for content in itertools.product((0.1, 0.5, 0.9), repeat=2):
            moved = image.clone()
            moved[..., start : start + 2] = torch.tensor(content)
            assert int(bands(moved).argmax()) == 0


def test_a_place_below_the_threshold_has_no_vote() -> None:
    """Unsure places stay silent, so fewer votes are cast; a patch may still use them."""
    image = torch.full((1, 1, SIDE, SIDE), 0.3)
    counts = []
    for threshold in (0.0, 0.9999):
        ablated = DerandomizedSmoothing(Brightness(3), size=2, threshold=threshold)
        counts.append(float(ablated.ballots(ablated.probabilities(image)).sum()))
    assert counts[0] == SIDE - 1
    assert counts[1] < counts[0]


@pytest.mark.parametrize("number", range(5))
def test_gradients_reach_the_image(number: int) -> None:
    """Attacks that use gradients run through each defense."""
    _, defense, _ = defenses(1)[number]
    x = (
        torch.full((2, 1, SIDE, SIDE), 0.5) + 0.01 * torch.arange(36.0).view(SIDE, SIDE)
    ).requires_grad_(True)
    (grad,) = torch.autograd.grad(defense(x)[:, 0].sum(), x)
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0


def test_bad_settings_are_refused() -> None:
    """Sizes below one, bands wider than the image, tiles that do not fit, and detectors are
    errors."""
    model = Brightness(0)
    x = torch.rand(1, 1, SIDE, SIDE)
    for make in (
        lambda: PatchCleanser(model, patch=0),
        lambda: DerandomizedSmoothing(model, size=0),
        lambda: DerandomizedSmoothing(model, size=7)(x),
        lambda: DerandomizedSmoothing(model, size=2, threshold=1.0),
        lambda: DerandomizedSmoothing(model, size=2, patch=7).certify(x, torch.tensor([0])),
        lambda: RobustMasking(DerandomizedSmoothing(model, size=2, patch=0)),
        lambda: RobustMasking(DerandomizedSmoothing(model, size=4, kind="block", patch=3))(x),
    ):
        with pytest.raises(OptionError):
            make()
    with pytest.raises(ModelError):
        PatchCleanser(lambda images: (images, images), patch=2)(x)
