"""Samples of an evaluation: a fixed choice of images of one size, with the model's class
numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import DataError
from physadv.core.image_io import to_tensor
from physadv.core.random_streams import numpy_generator
from physadv.datasets.base import ImageDataset
from physadv.models.cards import ModelCard
from physadv.models.classifiers import resize_images

_PROBED_IMAGES = 64


@dataclass(frozen=True)
class EvaluationSamples:
    """Chosen images of a data set, as float32 (b, channels, height, width) in [0, 1].

    Images of another size are stretched to ``size``: bilinear, anti-aliased, rounded to 8 bits.

    Args:
        dataset: Data set of the images.
        indices: Number of each chosen image in the data set.
        labels: The model's class number of each.
        size: Height and width in px.
        channels: 3, or 1 where the model takes gray images.
    """

    dataset: ImageDataset
    indices: tuple[int, ...]
    labels: tuple[int, ...]
    size: tuple[int, int]
    channels: int = 3

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, positions: Sequence[int]) -> Tensor:
        """Return the images at ``positions`` of the choice.

        Raises:
            DataError: The model takes gray images and one has colors.
        """
        return torch.stack([self._image(self.indices[p]) for p in positions])

    def targets(self, positions: Sequence[int]) -> Tensor:
        """Return the class numbers (b,) of the images at ``positions``."""
        return torch.tensor([self.labels[p] for p in positions], dtype=torch.long)

    def without(self, label: int) -> EvaluationSamples:
        """Return the images of all classes but ``label``, for attacks towards that class.

        Raises:
            DataError: All images are of the class ``label``.
        """
        others = [p for p, own in enumerate(self.labels) if own != label]
        if not others:
            raise DataError(
                f"{len(self)} images",
                "all are of the target class",
                "Choose another target, or more images",
            )

        return replace(
            self,
            indices=tuple(self.indices[p] for p in others),
            labels=tuple(self.labels[p] for p in others),
        )

    def name(self, position: int) -> str:
        """Return the name in the data set of the image at ``position``."""
        return self.dataset.names[self.indices[position]]

    def _image(self, index: int) -> Tensor:
        array, _ = self.dataset[index]
        image = to_tensor(array)
        if image.shape[-2:] != self.size:
            image = resize_images(image[None], *self.size)[0].clamp(0, 1).mul(255).round().div(255)

        if self.channels == 3:
            return image
        if (image - image[:1]).abs().max() > 0:
            raise DataError(
                self.dataset.names[index],
                "has colors, and the model takes gray images",
                "Convert the images",
            )
        return image[:1]


def choose_samples(
    dataset: ImageDataset, card: ModelCard, *, limit: int | None = None, seed: int = 0
) -> EvaluationSamples:
    """Draw images of a data set, in the size and class numbers of a model.

    Their size is the common one where the images agree, else the card's ``input_size``, else the
    most frequent among the first 64.

    Args:
        dataset: Data set to draw from.
        card: The model's card.
        limit: Number of images; None for all.
        seed: Seed of the draw.

    Raises:
        DataError: The classes of the data set do not fit the model.
    """
    order = numpy_generator(seed, "limit").permutation(len(dataset))
    indices = np.sort(order if limit is None else order[:limit])

    number = class_numbers(dataset.classes, card)
    labels = tuple(number[int(dataset.labels[i])] for i in indices)
    channels = 1 if card.extra.get("channels") == 1 else 3
    size = _size(dataset, indices.tolist(), card)
    return EvaluationSamples(dataset, tuple(int(i) for i in indices), labels, size, channels)


def _size(dataset: ImageDataset, indices: list[int], card: ModelCard) -> tuple[int, int]:
    probed = (dataset[i][0] for i in indices[:_PROBED_IMAGES])
    sizes = Counter((int(array.shape[0]), int(array.shape[1])) for array in probed)
    if len(sizes) == 1:
        return next(iter(sizes))
    return card.input_size or sizes.most_common(1)[0][0]


def class_numbers(classes: Sequence[str], card: ModelCard) -> list[int]:
    """Return the model's number of each class of a data set.

    Classes are matched by name where all names agree, else by order. ``classes`` are the names in
    the data set, ``card`` is the model's.

    Raises:
        DataError: The data set has more classes than the model.

    Example:
        >>> from physadv.evaluation.samples import class_numbers
        >>> from physadv.models.cards import ModelCard
        >>> class_numbers(["yield", "stop"], ModelCard("mine", classes=("stop", "yield")))
        [1, 0]
    """
    if not card.classes:
        return list(range(len(classes)))

    known = {_plain(name): i for i, name in enumerate(card.classes)}
    if all(_plain(name) in known for name in classes):
        return [known[_plain(name)] for name in classes]
    if len(classes) > len(card.classes):
        raise DataError(
            f"{len(classes)} classes in the data",
            f"{card.name} has {len(card.classes)}, and the names do not agree",
            "Name the class folders like the model's classes",
        )
    return list(range(len(classes)))


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
