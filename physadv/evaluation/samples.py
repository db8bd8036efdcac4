"""A data set as an evaluation needs it: a fixed choice of images, of one size, with the model's
class numbers."""

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

PROBE = 64


@dataclass(frozen=True)
class EvaluationSamples:
    """The chosen images of a data set. ``indices`` are their numbers in it, ``labels`` the model's
    class numbers.

    Images come as (b, channels, height, width) float32 in [0, 1]. Those of another size are
    stretched to ``size`` (height, width): bilinear, anti-aliased, rounded to 8 bit again.
    ``channels`` is 1 where the model sees gray.
    """

    dataset: ImageDataset
    indices: tuple[int, ...]
    labels: tuple[int, ...]
    size: tuple[int, int]
    channels: int = 3

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, positions: Sequence[int]) -> Tensor:
        """The images at these positions of the choice. Raises DataError for one that is gray by
        promise and is not."""
        return torch.stack([self._image(self.indices[p]) for p in positions])

    def targets(self, positions: Sequence[int]) -> Tensor:
        """Their class numbers (b,)."""
        return torch.tensor([self.labels[p] for p in positions], dtype=torch.long)

    def without(self, label: int) -> EvaluationSamples:
        """The images of all other classes: one of the class ``label`` cannot be made to look like
        what it is.

        Raises DataError where none is left.
        """
        kept = [p for p, own in enumerate(self.labels) if own != label]
        if not kept:
            raise DataError(
                f"{len(self)} images",
                "all are of the class wanted",
                "choose another target, or more images",
            )
        return replace(
            self,
            indices=tuple(self.indices[p] for p in kept),
            labels=tuple(self.labels[p] for p in kept),
        )

    def name(self, position: int) -> str:
        """The image's name in its data set."""
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
                "has colors, and the model sees gray",
                "convert the images",
            )
        return image[:1]


def choose_samples(
    dataset: ImageDataset, card: ModelCard, *, limit: int | None = None, seed: int = 0
) -> EvaluationSamples:
    """``limit`` images drawn at random (all of them without one), the same for the same seed, as
    the model needs them.

    The size is that of the images where they agree, else the card's ``input_size``, else the size
    most of the first 64 have. Raises DataError where the classes cannot be those of the model.
    """
    order = numpy_generator(seed, "limit").permutation(len(dataset))
    indices = order if limit is None else np.sort(order[:limit])
    indices = np.sort(indices)
    number = class_numbers(dataset.classes, card)
    labels = tuple(number[int(dataset.labels[i])] for i in indices)
    channels = 1 if card.extra.get("channels") == 1 else 3
    return EvaluationSamples(
        dataset,
        tuple(int(i) for i in indices),
        labels,
        _size(dataset, indices.tolist(), card),
        channels,
    )


def _size(dataset: ImageDataset, indices: list[int], card: ModelCard) -> tuple[int, int]:
    sizes = Counter(
        (int(a.shape[0]), int(a.shape[1])) for a, _ in (dataset[i] for i in indices[:PROBE])
    )
    if len(sizes) == 1:
        return next(iter(sizes))
    return card.input_size or sizes.most_common(1)[0][0]


def class_numbers(classes: Sequence[str], card: ModelCard) -> list[int]:
    """The model's number of each class of the data: by name where the names agree, else in order.

    Raises DataError where the data has more classes than the model knows.
    """
    if not card.classes:
        return list(range(len(classes)))
    known = {_plain(name): i for i, name in enumerate(card.classes)}
    if all(_plain(name) in known for name in classes):
        return [known[_plain(name)] for name in classes]
    if len(classes) > len(card.classes):
        raise DataError(
            f"{len(classes)} classes in the data",
            f"{card.name} knows {len(card.classes)}, and the names do not agree",
            "name the class folders as the model's classes",
        )
    return list(range(len(classes)))


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
