"""Image data sets in memory for training: one size, a validation part, and shuffled batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.core.files import digest_of
from physadv.core.image_io import Array, to_tensor
from physadv.core.random_streams import drawn_positions, generator
from physadv.core.tensor_digests import tensor_bytes
from physadv.core.wording import count_noun
from physadv.datasets import DatasetSummary, ImageDataset, read_dataset
from physadv.datasets.class_matching import LabelMap, relabeled_classes
from physadv.datasets.split import split_by_group
from physadv.datasets.summary import sizes_in_words
from physadv.models.resizing import InputResizing
from physadv.training.loop import Batch

PROBE = 64


@dataclass(frozen=True)
class ImageSubset:
    """Images in memory with their labels and groups.

    ``images`` are (n, channels, height, width) uint8, ``labels`` (n,) int64, and ``groups`` names
    for each image the group, such as the video track, it belongs to.
    """

    images: Tensor
    labels: Tensor
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def floats(self, rows: Tensor | slice) -> Batch:
        """Return the images of ``rows`` in [0, 1], and their labels."""
        return self.images[rows].float().div(255), self.labels[rows]


@dataclass(frozen=True)
class TrainingData:
    """Training and validation images that share no group, such as the frames of one track.

    ``classes`` names the classes in the order of the labels. Images have ``channels`` channels and
    are ``image_size`` pixels high and wide. ``summary`` says what the data were taken for.
    """

    train: ImageSubset
    validation: ImageSubset
    classes: tuple[str, ...]
    channels: int
    image_size: int
    summary: DatasetSummary = field(default_factory=DatasetSummary)

    @cached_property
    def digest(self) -> str:
        """Hash of images, labels and classes, by which a run that resumes knows them again."""
        parts: list[bytes | memoryview] = [repr(self.classes).encode()]
        for part in (self.train, self.validation):
            parts += [repr(tuple(part.images.shape)).encode()]
            parts += map(tensor_bytes, (part.images, part.labels))
        return digest_of(*parts)

    @property
    def resizing(self) -> InputResizing:
        """How images of other sizes were brought to ``image_size``."""
        return InputResizing((self.image_size, self.image_size))


def load_training_data(
    data: Path,
    *,
    validation: float = 0.05,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    labels: LabelMap = None,
) -> TrainingData:
    """Read the training split of a data set and hold out a share of each class's groups.

    Args:
        data: Folder or archive that :func:`physadv.datasets.read_dataset` reads.
        validation: Share of each class's groups to hold out, between 0 and 1.
        image_size: Height and width in pixels of the images in memory; others are resized and
            their center is cropped. Without it the images' own size if they are square and all
            alike, else 32.
        limit: Number of images to draw at random; all without it.
        seed: Seed of the draw and of the split.
        labels: Names of the classes by their names in the data, or a TOML file of such; None or
            "in-order" keeps the data's own.

    Returns:
        The images in memory, with one channel where all probed images are gray, else three.

    Raises:
        OptionError: A number is out of range.
        DataError: The data set cannot be read.
    """
    if limit is not None and limit < 1:
        raise OptionError(f"limit {limit}", "at least 1", "Leave it out for all images")

    dataset = _relabeled(read_dataset(data, split="train"), labels)
    if limit is not None and limit < len(dataset):
        dataset = dataset.subset(drawn_positions(len(dataset), limit, seed))
    training_part, validation_part = split_by_group(dataset, validation, seed)

    # A few evenly spaced images decide on the channels: reading all would double the loading time.
    probe = range(0, len(dataset), max(1, len(dataset) // PROBE))
    channels = 1 if all(_gray(dataset.read(i)) for i in probe) else 3
    size = image_size or _own_size(dataset)
    resizing = InputResizing((size, size))
    train, sizes = _load_subset(training_part, resizing, channels)
    held_out, other_sizes = _load_subset(validation_part, resizing, channels)
    return TrainingData(
        train=train,
        validation=held_out,
        classes=dataset.classes,
        channels=channels,
        image_size=size,
        summary=dataset.summary.of_labels(
            dataset.labels.tolist(),
            dataset.classes,
            image_sizes=sizes_in_words(sizes | other_sizes, resizing),
            notes=(f"{len(validation_part)} of them held out for validation",),
        ),
    )


def _relabeled(dataset: ImageDataset, labels: LabelMap) -> ImageDataset:
    """The data set with the class names that the user gives."""
    numbers, names = relabeled_classes(dataset.classes, labels)
    new = np.asarray(numbers, np.int64)[dataset.labels]
    return replace(dataset, labels=new, classes=tuple(names))


class ShuffledBatches:
    """Training batches by number, with a new order of the images in every epoch.

    Images that do not fill a last batch are left out of that epoch.

    Args:
        part: Images to draw from.
        size: Images in a batch, 1 to ``len(part)``.
        seed: Seed of orders and shifts.
        shift: Largest random translation in pixels; the border is repeated.
        device: Device of the batches.

    Raises:
        OptionError: There are fewer images than fill one batch.
    """

    def __init__(
        self,
        part: ImageSubset,
        *,
        size: int,
        seed: int,
        shift: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if not 1 <= size <= len(part):
            limit = f"there are {count_noun(len(part), 'image')} to train on"
            raise OptionError(f"batch {size}", limit, "Use a smaller batch")
        self.part, self.size, self.seed, self.shift, self.device = part, size, seed, shift, device
        self.steps = len(part) // size
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __call__(self, number: int) -> Batch:
        """Return batch ``number``: images (size, c, h, w) in [0, 1] and labels (size,)."""
        epoch, position = divmod(number, self.steps)

        # An order costs a permutation of the whole set, so it is drawn once an epoch.
        if self._order[0] != epoch:
            order = torch.randperm(len(self.part), generator=generator(self.seed, "order", epoch))
            self._order = (epoch, order)
        rows = self._order[1][position * self.size : (position + 1) * self.size]

        images, labels = self.part.floats(rows)
        if self.shift:
            images = _shifted(images, self.shift, generator(self.seed, "shift", number))
        return images.to(self.device), labels.to(self.device)


def _shifted(images: Tensor, reach: int, draws: torch.Generator) -> Tensor:
    """Translate every image by up to ``reach`` pixels, repeating its border."""
    size = images.shape[-1]
    padded = torch.nn.functional.pad(images, (reach,) * 4, mode="replicate")
    corners = torch.randint(0, 2 * reach + 1, (len(images), 2), generator=draws).tolist()
    return torch.stack(
        [
            image[:, y : y + size, x : x + size]
            for image, (y, x) in zip(padded, corners, strict=True)
        ]
    )


def _probed_sizes(dataset: ImageDataset) -> list[tuple[int, int]]:
    """Heights and widths of a few evenly spaced images."""
    arrays = (dataset.read(i) for i in range(0, len(dataset), max(1, len(dataset) // PROBE)))
    return [(int(array.shape[0]), int(array.shape[1])) for array in arrays]


def _own_size(dataset: ImageDataset) -> int:
    sizes = Counter(_probed_sizes(dataset))
    (height, width), _ = sizes.most_common(1)[0]
    return int(height) if len(sizes) == 1 and height == width else 32


def _gray(image: Array) -> bool:
    return bool((image == image[..., :1]).all())


def _load_subset(
    dataset: ImageDataset, resizing: InputResizing, channels: int
) -> tuple[ImageSubset, set[tuple[int, int]]]:
    """Read all images of a data set; return them resized, and the sizes (height, width) that they
    had."""
    sizes: set[tuple[int, int]] = set()
    images = torch.empty((len(dataset), channels, *resizing.size), dtype=torch.uint8)
    for i in range(len(dataset)):
        image = dataset.read(i)
        height, width = image.shape[:2]
        sizes.add((height, width))
        if (height, width) == resizing.size:
            pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        else:
            resized = resizing(to_tensor(image)[None])[0]
            pixels = resized.clamp(0, 1).mul(255).round().byte()
        images[i] = pixels[:channels]

    labels = torch.from_numpy(dataset.labels.astype(np.int64))
    return ImageSubset(images, labels, dataset.groups), sizes
