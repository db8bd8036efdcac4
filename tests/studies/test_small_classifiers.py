"""Data in memory and small trained classifiers of the lecture's studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from physadv.core.random_streams import numpy_generator
from physadv.studies.small_classifiers import accuracy, fit_classifier, load_study_data, predict


def striped_digits(path: Path, n: int, *, test: int = 0) -> Path:
    """An npz of 8x8 images whose class is the brighter half; with ``test`` images in a part of
    their own."""
    draws = numpy_generator(0, "stripes")
    labels = draws.integers(0, 2, n + test)
    images = draws.integers(0, 80, (n + test, 8, 8, 3)).astype(np.uint8)
    images[..., 1:] = images[..., :1]
    images[labels == 0, :, :4] += 120
    images[labels == 1, :, 4:] += 120
    if test:
        parts = {"x_test": images[n:], "y_test": labels[n:]}
        np.savez(path, x_train=images[:n], y_train=labels[:n], **parts)
    else:
        np.savez(path, images=images, labels=labels)
    return path


def test_no_test_image_is_trained_on(tmp_path: Path) -> None:
    """With and without a test part of its own, a set gives disjoint images of one size."""
    for file, test in (("parts.npz", 40), ("whole.npz", 0)):
        data = load_study_data(
            striped_digits(tmp_path / file, 200, test=test), train=None, test=20, seed=0
        )
        seen = {image.numpy().tobytes() for image in data.train.images}
        assert data.channels == 1
        assert len(data.test) == 20
        assert not seen & {image.numpy().tobytes() for image in data.test.images}


def test_halves_are_disjoint(tmp_path: Path) -> None:
    """The two halves of the training images share no image and miss none."""
    data = load_study_data(
        striped_digits(tmp_path / "d.npz", 100, test=20), train=None, test=9, seed=0
    )
    first, second = data.halves()
    pixels = [{i.numpy().tobytes() for i in half.images} for half in (first, second)]
    assert not pixels[0] & pixels[1]
    assert len(first) + len(second) == len(data.train)


def test_training_learns_and_repeats(tmp_path: Path) -> None:
    """A linear net learns the brighter half, and the same seed gives the same weights."""
    data = load_study_data(
        striped_digits(tmp_path / "d.npz", 300, test=60), train=None, test=None, seed=0
    )

    def trained() -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        nn.init.zeros_(net[1].weight)
        nn.init.zeros_(net[1].bias)
        return fit_classifier(net, data.train, epochs=8, seed=1, lr=0.02).eval()

    net, again = trained(), trained()
    images, labels = data.test.floats(slice(None))
    assert accuracy(net, images, labels).rate == 1
    assert torch.equal(predict(net, images), labels)
    assert all(map(torch.equal, net.parameters(), again.parameters()))
