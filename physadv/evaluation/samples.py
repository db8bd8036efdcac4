"""Samples of an evaluation: a fixed choice of images of one size, with the model's class
numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import DataError
from physadv.core.image_io import to_tensor
from physadv.core.random_streams import drawn_positions
from physadv.core.wording import count_noun
from physadv.datasets import DatasetSummary
from physadv.datasets.base import ImageDataset
from physadv.datasets.class_matching import ClassMatch, LabelMap, match_classes
from physadv.datasets.decoding import Decoder
from physadv.datasets.summary import CLASS_FOLDERS, sizes_in_words
from physadv.models.cards import ModelCard
from physadv.models.resizing import InputResizing, standard_size


@dataclass(frozen=True)
class EvaluationSamples:
    """Chosen images of a data set, as float32 (b, channels, height, width) in [0, 1].

    Images of several sizes are brought to the model's input as the model itself does, and rounded
    to 8 bits.

    Args:
        dataset: Data set of the images.
        indices: Number of each chosen image in the data set.
        labels: The model's class number of each.
        size: Height and width in px.
        resizing: How images of another size are brought to ``size``.
        channels: 3, or 1 where the model takes gray images.
        match: How the classes of the data set were matched with the model's.
        image_sizes: Sizes of the images before they are resized, and how they are, in words.
    """

    dataset: ImageDataset
    indices: tuple[int, ...]
    labels: tuple[int, ...]
    size: tuple[int, int]
    resizing: InputResizing | None = None
    channels: int = 3
    match: ClassMatch | None = None
    image_sizes: str = ""
    _decoder: Decoder = field(default_factory=Decoder, init=False, repr=False, compare=False)

    @property
    def summary(self) -> DatasetSummary:
        """What the data were taken for: layout, images of each class, their classes in the
        model."""
        return self.dataset.summary.of_labels(
            [int(self.dataset.labels[i]) for i in self.indices],
            self.dataset.classes,
            match=self.match,
            image_sizes=self.image_sizes,
        )

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, positions: Sequence[int]) -> Tensor:
        """Return the images at ``positions`` of the choice.

        Raises:
            DataError: The model takes gray images and one has colors.
        """
        numbers = [self.indices[p] for p in positions]
        return torch.stack(self._decoder.take(self._image, numbers))

    def prefetch(self, positions: Sequence[int]) -> None:
        """Begin to decode the images at ``positions`` in other threads."""
        self._decoder.begin(self._image, [self.indices[p] for p in positions])

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
                count_noun(len(self), "image"),
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

    def label(self, position: int) -> int:
        """Return the model's class number of the image at ``position``."""
        return self.labels[position]

    def digest(self, position: int) -> str:
        """Return a hash of the file of the image at ``position``."""
        return self.dataset.content_digest(self.indices[position])

    def _image(self, index: int) -> Tensor:
        array, _ = self.dataset[index]
        image = to_tensor(array)
        if image.shape[-2:] != self.size:
            resizing = self.resizing or InputResizing(self.size)
            image = resizing(image[None])[0].clamp(0, 1).mul(255).round().div(255)

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
    dataset: ImageDataset,
    card: ModelCard,
    *,
    limit: int | None = None,
    seed: int = 0,
    labels: LabelMap = None,
    count_classes: Callable[[Tensor], int] | None = None,
) -> EvaluationSamples:
    """Draw images of a data set, in the size and class numbers of a model.

    Images that all have one size keep it: the model resizes them for itself. Images of several
    sizes are brought to the model's input as :attr:`physadv.models.cards.ModelCard.resizing` says;
    where the card states no input size, to a central crop of up to 224 px. Classes are matched by
    :func:`physadv.datasets.class_matching.match_classes`.

    Args:
        dataset: Data set to draw from.
        card: The model's card.
        limit: Number of images; None for all.
        seed: Seed of the draw.
        labels: The model's classes by class of the data, "in-order", or None to match them by name.
        count_classes: Returns the number of the model's classes from one image (1, c, h, w), for a
            model without names.

    Returns:
        The chosen images.

    Raises:
        DataError: The classes of the data set do not fit the model.
    """
    indices = drawn_positions(len(dataset), limit, seed)

    channels = 1 if card.extra.get("channels") == 1 else 3
    sizes = Counter(dataset.image_size(i) for i in indices.tolist())
    resizing = card.resizing
    if resizing is None and len(sizes) > 1:
        resizing = InputResizing(standard_size(sizes.most_common(1)[0][0]))
    samples = EvaluationSamples(
        dataset,
        tuple(int(i) for i in indices),
        tuple(int(dataset.labels[i]) for i in indices),
        next(iter(sizes)) if len(sizes) == 1 or resizing is None else resizing.size,
        resizing,
        channels,
        image_sizes=sizes_in_words(sizes, resizing),
    )

    counted = None
    if not card.classes and count_classes is not None:
        counted = count_classes(samples.images([0]))
    match = match_classes(
        dataset.classes,
        card.classes,
        count=counted,
        model=card.name,
        labels=labels,
        needed=np.unique(dataset.labels).tolist(),
        known=dataset.summary.known_set,
        sorted_names=dataset.summary.layout == CLASS_FOLDERS,
    )
    return replace(samples, labels=match.of_labels(samples.labels), match=match)
