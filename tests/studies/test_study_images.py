"""Images and small networks of the studies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from physadv.studies.images import StudyImages, fit_network, load_study_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> StudyImages:
    """Gray 8 x 8 images of two classes, dark and light, with a train and a test part."""
    file = tmp_path_factory.mktemp("data") / "set.npz"
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    pictures = rng.integers(0, 100, (60, 8, 8)) + 150 * labels[:, None, None]
    arrays = {"images": pictures.astype(np.uint8), "labels": labels}
    np.savez(
        file,
        **{f"{part}_{name}": array for part in ("train", "test") for name, array in arrays.items()},
    )
    return load_study_images(str(file), train=40, test=10, seed=0)


def test_both_parts_have_one_form(images: StudyImages) -> None:
    """Training and test images share size and channels, and so many are taken as were asked for."""
    training = images.training
    assert len(training.train) + len(training.validation) == 40
    assert images.images.shape == (10, training.channels, training.image_size, training.image_size)
    assert images.labels.shape == (10,)


def test_a_trained_network_is_the_average_and_repeats(images: StudyImages) -> None:
    """The same seed gives the same weights, and the network learns what is easy."""

    def trained() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        fit_network(net, images, epochs=20, lr=0.05, batch=16, seed=3)
        return net.eval()

    first, second = trained(), trained()
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert (first(images.images).argmax(1) == images.labels).float().mean() == 1


def test_another_seed_trains_other_weights(images: StudyImages) -> None:
    """The order of the images depends on the seed."""
    nets = []
    for seed in (1, 2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        fit_network(net, images, epochs=1, seed=seed, batch=16)
        nets.append(net)
    assert not torch.equal(nets[0][1].weight, nets[1][1].weight)
