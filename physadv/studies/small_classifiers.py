"""Data in memory and small trained classifiers, as the lecture's studies need them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physadv.attacks.attack_result import AttackResult
from physadv.core.findings import FindingWarning
from physadv.core.random_streams import drawn_positions
from physadv.datasets import read_dataset
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.studies.study import Workspace
from physadv.training.data import ImageSubset, ShuffledBatches, TrainingData, load_training_data
from physadv.training.loop import TrainingSchedule, train_model
from physadv.training.methods.base import StandardTraining, TrainingMethod

BATCH = 128
"""Batch size of the trainings; smaller where there are fewer images."""


@dataclass(frozen=True)
class StudyData:
    """Training and test images of one size in memory.

    Args:
        train: Training images (n, c, h, w), uint8, with labels.
        test: Test images; none of them was trained on.
        classes: Names of the classes.
        channels: 1 where all images are gray, else 3.
        image_size: Height and width of every image in px.
    """

    train: ImageSubset
    test: ImageSubset
    classes: tuple[str, ...]
    channels: int
    image_size: int

    def halves(self) -> tuple[ImageSubset, ImageSubset]:
        """Return two disjoint halves of the training images, every second image each."""
        first, second = (torch.arange(k, len(self.train), 2) for k in (0, 1))
        return subset(self.train, first), subset(self.train, second)


def load_study_data(
    data: str | Path,
    *,
    train: int | None,
    test: int | None,
    seed: int,
    image_size: int | None = None,
) -> StudyData:
    """Read the training and test images of a data set, drawn at random.

    A set without a test part gives a fifth of its groups, such as the tracks of a video, in place
    of it.

    Args:
        data: Folder or archive that :func:`physadv.datasets.read_dataset` reads.
        train: Number of training images; None for all.
        test: Number of test images; None for all.
        seed: Seed of both draws.
        image_size: Height and width in px to bring all images to; their own, or 32, where None.

    Returns:
        The images in memory.

    Raises:
        DataError: The data cannot be read.
    """
    has_test = "test" in _parts_of(data)
    share = 0.01 if has_test else 0.2
    training = load_training_data(
        Path(data),
        validation=share,
        image_size=image_size,
        limit=train and round(train / (1 - share)),
        seed=seed,
    )
    held_out = _test_images(data, training, test, seed) if has_test else training.validation
    chosen = torch.from_numpy(drawn_positions(len(held_out), test, seed))
    return StudyData(
        training.train,
        subset(held_out, chosen),
        training.classes,
        training.channels,
        training.image_size,
    )


def read_once(
    workspace: Workspace,
    data: str | Path,
    *,
    train: int | None,
    test: int | None,
    seed: int,
    image_size: int | None = None,
    name: str = "data",
) -> StudyData:
    """Return images of a data set as :func:`load_study_data` does, read once in a process.

    Args:
        workspace: Workspace of the run, which keeps them.
        data: Folder or archive.
        train: Number of training images; None for all.
        test: Number of test images; None for all.
        seed: Seed of both draws.
        image_size: Height and width in px to bring all images to; None as they are.
        name: Name under which they are kept.

    Returns:
        The images in memory.

    Raises:
        DataError: The data cannot be read.
    """
    return workspace.once(
        name,
        lambda: load_study_data(data, train=train, test=test, seed=seed, image_size=image_size),
    )


def _parts_of(data: str | Path) -> tuple[str, ...]:
    """Parts of a data set, without the set's own names of them."""
    return tuple(part.split(" ")[0] for part in read_dataset(data, split=None).summary.parts)


def _test_images(
    data: str | Path, training: TrainingData, test: int | None, seed: int
) -> ImageSubset:
    """Up to ``test`` test images in the size and channels of the training images."""
    dataset = read_dataset(data, split="test")
    dataset = dataset.subset(drawn_positions(len(dataset), test, seed))
    resized = [
        training.resizing(torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255)
        for image, _ in dataset
    ]
    images = torch.cat(resized)[:, : training.channels].clamp(0, 1).mul(255).round().byte()
    return ImageSubset(images, torch.from_numpy(dataset.labels), dataset.groups)


def subset(images: ImageSubset, rows: Tensor) -> ImageSubset:
    """Return the images with the numbers ``rows`` (k,), in that order."""
    groups = tuple(images.groups[i] for i in rows.tolist())
    return replace(images, images=images.images[rows], labels=images.labels[rows], groups=groups)


def fit_classifier(
    net: nn.Module,
    images: ImageSubset,
    *,
    epochs: int,
    seed: int,
    method: TrainingMethod | None = None,
    lr: float = 3e-3,
    weight_decay: float = 0.02,
    shift: int = 0,
) -> nn.Module:
    """Train a small network in place; its weights are then those averaged over the last steps.

    Args:
        net: Network: images (b, c, h, w) in [0, 1] to logits.
        images: Training images.
        epochs: Epochs, at least 1.
        seed: Seed of the batches and of the method's draws.
        method: Training method; plain cross-entropy by default.
        lr: Peak of the learning rate of AdamW.
        weight_decay: Weight decay of matrices and kernels.
        shift: Largest random translation in px.

    Returns:
        The network.
    """
    batches = ShuffledBatches(images, size=min(BATCH, len(images)), seed=seed, shift=shift)
    schedule = TrainingSchedule(
        epochs,
        batches.steps,
        lr=lr,
        weight_decay=weight_decay,
        average=0.98,
        precision="fp32",
    )
    for step in train_model(
        net, batches, schedule, defense=method or StandardTraining(), seed=seed
    ):
        average = step.average
    net.load_state_dict(average.state_dict())
    return net


@torch.no_grad()
def predict(net: nn.Module, images: Tensor, batch: int = 500) -> Tensor:
    """Return the predicted classes (n,) of images (n, c, h, w) in [0, 1], ``batch`` at a time."""
    return torch.cat([net(part).argmax(1) for part in torch.split(images, batch)])


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> RateInterval:
    """Return the share of correct predictions with Wilson's interval.

    Args:
        net: Network in eval mode.
        images: Images (n, c, h, w) in [0, 1].
        labels: True classes (n,).
    """
    return wilson_interval(int((predict(net, images) == labels).sum()), len(labels))


def broken_images(
    attack: Callable[..., AttackResult],
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    **settings: Any,
) -> Tensor:
    """Return which images (n,) an attack breaks, without its warnings.

    A network that a hard training left without any gradient is one of a study's results.

    Args:
        attack: Attack, such as :func:`physadv.attacks.pgd`.
        net: Network in eval mode.
        images: Images (n, c, h, w) in [0, 1].
        labels: True classes (n,).
        settings: Settings of the attack.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FindingWarning)
        return attack(net, images, labels, **settings).success
