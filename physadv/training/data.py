"""A data set in memory, as training wants it: all images of one size, a part held out, and batches
by their number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.core.image_io import Array, to_tensor
from physadv.core.random_streams import generator, numpy_generator
from physadv.datasets import ImageDataset, read_dataset
from physadv.datasets.split import split_by_group
from physadv.models.classifiers import resize_images
from physadv.training.loop import Batch

PROBE = 64


@dataclass(frozen=True)
class ImageSubset:
    """Images (n, channels, side, side) uint8, their labels (n,), and which group each belongs to."""

    images: Tensor
    labels: Tensor
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def floats(self, rows: Tensor | slice) -> Batch:
        """The images of these rows in [0, 1], and their labels."""
        return self.images[rows].float().div(255), self.labels[rows]


@dataclass(frozen=True)
class TrainingData:
    """What is trained on and what is held out, never sharing a group (the frames of one track)."""

    train: ImageSubset
    held: ImageSubset
    classes: tuple[str, ...]
    channels: int
    side: int


def load_training_data(
    data: Path,
    *,
    held: float = 0.05,
    side: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> TrainingData:
    """Read the training part of a data set and hold out a share of each class's groups.

    ``side`` px is what images are stretched to: their own size if all agree and are square, else
    32. Gray images give one channel. ``limit`` images are drawn at random. Raises OptionError for
    numbers out of range, DataError as the readers do.
    """
    if limit is not None and limit < 1:
        raise OptionError(f"limit {limit}", "at least 1", "leave it out for all images")
    dataset = read_dataset(data, split="train")
    if limit is not None and limit < len(dataset):
        dataset = dataset.subset(
            np.sort(numpy_generator(seed, "limit").permutation(len(dataset))[:limit])
        )
    kept, out = split_by_group(dataset, held, seed)
    size = side or _own_side(dataset)
    channels = (
        1
        if all(
            _gray(dataset.read(i)) for i in range(0, len(dataset), max(1, len(dataset) // PROBE))
        )
        else 3
    )
    return TrainingData(
        _part(kept, size, channels), _part(out, size, channels), dataset.classes, channels, size
    )


class ShuffledBatches:
    """Batches of one size by their number: every epoch in an order of its own, the rest that fills
    no batch left out.

    ``shift`` px is how far images are moved at random, their border repeated. Raises OptionError
    for too few images.
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
            raise OptionError(
                f"batch {size}", f"there are {len(part)} images to train on", "use a smaller batch"
            )
        self.part, self.size, self.seed, self.shift, self.device = part, size, seed, shift, device
        self.steps = len(part) // size
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __call__(self, number: int) -> Batch:
        """Images (size, c, side, side) in [0, 1] and labels (size,)."""
        epoch, place = divmod(number, self.steps)
        if self._order[0] != epoch:
            order = torch.randperm(len(self.part), generator=generator(self.seed, "order", epoch))
            self._order = (epoch, order)
        rows = self._order[1][place * self.size : (place + 1) * self.size]
        images, labels = self.part.floats(rows)
        if self.shift:
            images = _shifted(images, self.shift, generator(self.seed, "shift", number))
        return images.to(self.device), labels.to(self.device)


def _shifted(images: Tensor, reach: int, draws: torch.Generator) -> Tensor:
    side = images.shape[-1]
    wide = torch.nn.functional.pad(images, (reach,) * 4, mode="replicate")
    moves = torch.randint(0, 2 * reach + 1, (len(images), 2), generator=draws).tolist()
    return torch.stack(
        [w[:, y : y + side, x : x + side] for w, (y, x) in zip(wide, moves, strict=True)]
    )


def _own_side(dataset: ImageDataset) -> int:
    step = max(1, len(dataset) // PROBE)
    sizes = Counter(tuple(dataset.read(i).shape[:2]) for i in range(0, len(dataset), step))
    (height, width), _ = sizes.most_common(1)[0]
    return int(height) if len(sizes) == 1 and height == width else 32


def _gray(image: Array) -> bool:
    return bool((image == image[..., :1]).all())


def _part(dataset: ImageDataset, side: int, channels: int) -> ImageSubset:
    images = torch.empty((len(dataset), channels, side, side), dtype=torch.uint8)
    for i in range(len(dataset)):
        image = dataset.read(i)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if image.shape[:2] != (side, side):
            pixels = (
                resize_images(to_tensor(image)[None], side, side)[0]
                .clamp(0, 1)
                .mul(255)
                .round()
                .byte()
            )
        images[i] = pixels[:channels]
    return ImageSubset(images, torch.from_numpy(dataset.labels.astype(np.int64)), dataset.groups)
