"""Views that gradients are taken of: what each may change, and that transfer gains by them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physadv import attacks
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.losses import objective_by_name

GOAL = objective_by_name("margin", torch.tensor([0, 1]))


def view_of(view: Any, images: Tensor, seed: int = 0) -> Tensor:
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 3))
    sources = [generator(seed, "view", i) for i in range(len(images))]
    shown: Tensor = view.drawn(net, images, GOAL, sources)(images)
    return shown


IMAGES = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(0))


def test_blocks_change_places_and_no_pixel_is_lost() -> None:
    """Without turns, BSR moves pixels and keeps each exactly once."""
    shown = view_of(attacks.BlockShuffle(degrees=0), IMAGES)
    assert not torch.allclose(shown, IMAGES)
    both = (shown.flatten(2).sort(2).values, IMAGES.flatten(2).sort(2).values)
    torch.testing.assert_close(*both, atol=1e-5, rtol=0)


def test_a_turned_block_shows_black_corners_alone() -> None:
    """Turned by up to 24 degrees, most of each block still shows, and what it shows is of it."""
    shown = view_of(attacks.BlockShuffle(blocks=1), torch.ones_like(IMAGES))
    assert set(shown.unique().tolist()) <= {0.0, 1.0} | set(shown[shown > 0.999].tolist())
    assert 0.6 < float(shown.mean()) < 1


def test_structure_is_kept_block_by_block() -> None:
    """SIA leaves every block in its place: of an image whose blocks are constant, only brightness,
    noise and dropped pixels can change anything."""
    view = attacks.StructureInvariant(blocks=1, noise=0.0, dropped=0.0)
    shown = [view_of(view, torch.full_like(IMAGES, 0.5), seed) for seed in range(12)]
    assert all(float((s - s[:, :, :1, :1]).abs().max()) < 1e-6 for s in shown)
    assert all(float(s.max()) <= 0.5 + 1e-6 for s in shown)


def test_a_warp_keeps_the_edges_and_is_the_identity_at_rest() -> None:
    """A spline of control points that do not move is the image itself; moved, corners stay."""
    still = view_of(attacks.DeformationWarp(strength=0.0, rate=0.0), IMAGES)
    torch.testing.assert_close(still, IMAGES, atol=1e-4, rtol=0)
    moved = view_of(attacks.DeformationWarp(rate=0.0), IMAGES)
    assert float((moved - IMAGES).abs().mean()) > 0.02
    torch.testing.assert_close(moved[..., 0, 0], IMAGES[..., 0, 0], atol=1e-3, rtol=0)


def test_values_out_of_range_are_refused() -> None:
    """Each view names what it allows."""
    for make, wrong in (
        (attacks.BlockShuffle, {"blocks": 0}),
        (attacks.StructureInvariant, {"copies": 0}),
        (attacks.DeformationWarp, {"points": 2}),
        (attacks.DeformationWarp, {"strength": 2.0}),
        (attacks.GradientRelevance, {"neighbors": 0}),
        (attacks.GradientRelevance, {"damping": 0.0}),
    ):
        with pytest.raises(OptionError):
            make(**wrong)


OPTIONS: dict[str, dict[str, Any]] = {
    "bsr": {"diverse": attacks.BlockShuffle(blocks=2, copies=4)},
    "sia": {"diverse": attacks.StructureInvariant(blocks=2, copies=4)},
    "decowa": {"diverse": attacks.DeformationWarp(copies=4, strength=0.4)},
    "gra": {"relevance": attacks.GradientRelevance(neighbors=4)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_not_weaker_in_transfer_than_momentum_alone(
    name: str,
    trained_net: nn.Module,
    other_net: nn.Module,
    trained_images: Tensor,
    trained_labels: Tensor,
) -> None:
    """Made on one small net, changes carry over to another at least as often as MI-FGSM's, give or
    take two of 24."""
    labels = other_net(trained_images).argmax(1)
    data = (other_net, trained_images, labels)
    settings: dict[str, Any] = {"eps": 0.12, "surrogates": [trained_net]}
    plain = attacks.mi_fgsm(*data, **settings)
    ours = attacks.mi_fgsm(*data, **settings, **OPTIONS[name])
    assert 2 < int(plain.success.sum()) < 24
    assert int(ours.success.sum()) >= int(plain.success.sum()) - 2
