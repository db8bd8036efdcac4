"""Images of a study in memory, and the training of its small networks on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from physadv.datasets import read_dataset
from physadv.evaluation.samples import choose_samples
from physadv.models.cards import ModelCard
from physadv.models.resizing import InputResizing
from physadv.training.data import ShuffledBatches, TrainingData, load_training_data
from physadv.training.loop import TrainingSchedule, train_model
from physadv.training.methods.base import StandardTraining, TrainingMethod


@dataclass(frozen=True)
class StudyImages:
    """Training images and test images of one size.

    Args:
        training: Training and validation images.
        images: Test images (n, c, h, w) in [0, 1].
        labels: Their classes (n,).
    """

    training: TrainingData
    images: Tensor
    labels: Tensor


def load_study_images(data: str, *, train: int, test: int, seed: int) -> StudyImages:
    """Read the training and the test part of a data set.

    Args:
        data: Data set that :func:`physadv.datasets.read_dataset` reads.
        train: Largest number of training images, a twentieth of which is held out.
        test: Largest number of test images.
        seed: Seed of both draws.

    Returns:
        The images, those of the test in the size and with the channels of the training.

    Raises:
        DataError: The data cannot be read.
    """
    training = load_training_data(Path(data), limit=train, seed=seed)
    card = ModelCard("study", classes=training.classes, extra={"channels": training.channels})
    chosen = choose_samples(read_dataset(data, split="test"), card, limit=test, seed=seed)
    positions = range(len(chosen))
    images = InputResizing((training.image_size,) * 2)(chosen.images(positions))
    return StudyImages(training, images, chosen.targets(positions))


def fit_network(
    net: nn.Module,
    images: StudyImages,
    *,
    method: TrainingMethod | None = None,
    epochs: int,
    lr: float = 2e-3,
    batch: int = 128,
    seed: int,
) -> None:
    """Train a network in place and leave the moving average of its weights in it.

    Args:
        net: Network to train.
        images: Images of the study.
        method: Training method; plain cross-entropy without it.
        epochs: Epochs, at least 1.
        lr: Peak of the learning rate.
        batch: Images a step; all of them where there are fewer.
        seed: Seed of the order of the images and of the method's draws.

    Raises:
        DataError: The training diverged.
    """
    part = images.training.train
    batches = ShuffledBatches(part, size=min(batch, len(part)), seed=seed)
    schedule = TrainingSchedule(epochs, batches.steps, lr=lr, precision="fp32", average=0.98)
    average = net
    for step in train_model(
        net, batches, schedule, defense=method or StandardTraining(), seed=seed
    ):
        average = step.average
    net.load_state_dict(average.state_dict())
