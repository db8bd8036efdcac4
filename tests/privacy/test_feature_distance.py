"""The distance by features of a classifier: what every perceptual distance must hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from physadv.core.image_io import list_images, read_image
from physadv.core.random_streams import generator
from physadv.privacy.feature_distance import FeatureDistance, load_feature_distance
from physadv.privacy.visibility import gaussian_blur


@pytest.fixture(scope="module")
def distance() -> FeatureDistance:
    found = load_feature_distance()
    if found is None:
        pytest.skip("needs the extra `imagenet`")
    return found


@pytest.mark.parametrize("size", [(40, 24), (120, 90), (700, 520)])
def test_equal_is_nothing_and_order_does_not_count(
    distance: FeatureDistance, size: tuple[int, int]
) -> None:
    """At any size, small or reduced."""
    draw = generator(0, "features")
    first, second = torch.rand(2, 3, *size, generator=draw)
    assert distance(first, first) == 0
    assert distance(first, second) == pytest.approx(distance(second, first), rel=1e-5)
    assert distance(first, second) > 0


def test_more_of_a_change_is_farther(distance: FeatureDistance, shared_data: Path) -> None:
    """More blur and more noise of a photo, each by the distance."""
    photo = read_image(list_images(shared_data / "faces")[0])[:, 60:190, 60:190]
    noise = torch.randn(photo.shape, generator=generator(0, "noise"))
    noisy = [distance(photo, (photo + s * noise).clamp(0, 1)) for s in (0.01, 0.03, 0.1)]
    blurred = [distance(photo, gaussian_blur(photo[None], s)[0]) for s in (0.5, 1.0, 2.0)]
    assert noisy == sorted(noisy)
    assert blurred == sorted(blurred)


def test_it_is_missing_and_not_made_up_without_its_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the package there is no figure; nothing is downloaded."""
    monkeypatch.setattr("physadv.models.zoo.find_spec", lambda name: None)
    assert load_feature_distance() is None
