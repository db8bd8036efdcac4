"""Evaluation data in any form: files, arrays, tensors, data loaders, torch data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from physadv.core.errors import DataError
from physadv.core.files import digest_of
from physadv.core.number_checks import check_whole
from physadv.core.random_streams import drawn_positions
from physadv.core.reading import foreign_errors
from physadv.core.tensor_digests import tensor_bytes
from physadv.core.tensors import (
    as_class_numbers,
    as_float_images,
    as_unit_images,
    channels_come_last,
)
from physadv.core.wording import count_noun
from physadv.datasets import DatasetSummary, ImageDataset, read_dataset
from physadv.datasets.class_matching import IN_ORDER, ClassMatch, LabelMap, match_classes
from physadv.datasets.summary import sizes_in_words
from physadv.evaluation.samples import choose_samples
from physadv.models.cards import ModelCard
from physadv.models.resizing import InputResizing

EvaluationData = Any
"""A path, an ImageDataset, a pair (images, labels), a DataLoader, or a torch Dataset."""


class SampleSource(Protocol):
    """A fixed choice of images of one size, with the model's class numbers."""

    @property
    def indices(self) -> tuple[int, ...]:
        """The number of each chosen image in its data set; random starts derive from it."""
        ...

    @property
    def labels(self) -> tuple[int, ...]:
        """The model's class number of each chosen image."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image in px."""
        ...

    @property
    def channels(self) -> int:
        """Channels of every image."""
        ...

    def __len__(self) -> int: ...

    @property
    def match(self) -> ClassMatch | None:
        """How the classes of the data were matched with the model's; None where its labels are
        class numbers as they are."""
        ...

    @property
    def summary(self) -> DatasetSummary:
        """What the data were taken for."""
        ...

    def images(self, positions: Sequence[int]) -> Tensor:
        """Return the images at ``positions`` of the choice, (b, c, h, w) in [0, 1]."""
        ...

    def targets(self, positions: Sequence[int]) -> Tensor:
        """Return the class numbers at ``positions``, (b,) int64."""
        ...

    def prefetch(self, positions: Sequence[int]) -> None:
        """Begin to decode the images at ``positions``, which are asked for next."""
        ...

    def without(self, label: int) -> Self:
        """Return the images of all classes but ``label``."""
        ...

    def name(self, position: int) -> str:
        """Return the name of the image at ``position``."""
        ...

    def label(self, position: int) -> int:
        """Return the model's class number of the image at ``position``."""
        ...

    def digest(self, position: int) -> str:
        """Return a hash of the image at ``position``, by which a run that resumes knows it."""
        ...


@dataclass(frozen=True)
class TensorSamples:
    """Images held in memory, not rounded to 8 bit.

    Args:
        pixels: Images in [0, 1].
        labels: The model's class number of each.
        indices: Number of each in the caller's data.
        classes: The model's class names, for the summary; empty where it has none.
        match: How the classes of the caller's data were matched with them, where it names them.
        resizing: How the model brings images to its input, for the summary.
    """

    pixels: Float[Tensor, "n c h w"]
    labels: tuple[int, ...]
    indices: tuple[int, ...]
    classes: tuple[str, ...] = ()
    match: ClassMatch | None = None
    resizing: InputResizing | None = None

    @property
    def summary(self) -> DatasetSummary:
        """What the data were taken for: images in memory, with the model's class numbers."""
        sizes = sizes_in_words([self.size], self.resizing)
        summary = DatasetSummary().of_labels(self.labels, self.classes, image_sizes=sizes)
        return replace(summary, matched="as numbered" if self.match is None else self.match.rule)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return int(self.pixels.shape[1])

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, positions: Sequence[int]) -> Float[Tensor, "b c h w"]:
        """Return the images at ``positions``, in [0, 1]."""
        return self.pixels[list(positions)]

    def prefetch(self, positions: Sequence[int]) -> None:
        """Do nothing: the images are in memory."""

    def targets(self, positions: Sequence[int]) -> Int[Tensor, " b"]:
        """Return the class numbers at ``positions``."""
        return torch.tensor([self.labels[p] for p in positions], dtype=torch.long)

    def without(self, label: int) -> TensorSamples:
        """Return the images of all classes but ``label``. Raises DataError where none is left."""
        others = [p for p, own in enumerate(self.labels) if own != label]
        if not others:
            raise DataError(
                count_noun(len(self), "image"),
                f"all are of class {label}, which is the target",
                "choose another target, or more images",
            )

        return replace(
            self,
            pixels=self.pixels[others],
            labels=tuple(self.labels[p] for p in others),
            indices=tuple(self.indices[p] for p in others),
        )

    def name(self, position: int) -> str:
        """Return the name of the image at ``position``: its number in the caller's data."""
        return f"#{self.indices[position]}"

    def label(self, position: int) -> int:
        """Return the model's class number of the image at ``position``."""
        return self.labels[position]

    def digest(self, position: int) -> str:
        """Return a hash of the image at ``position``."""
        pixels = self.pixels[position]
        return digest_of(f"{pixels.dtype} {tuple(pixels.shape)}".encode(), tensor_bytes(pixels))


_IMAGES = ("image", "images", "pixel_values", "img")
_LABELS = ("label", "labels", "target", "targets")
"""Usual names of an image and its class in data sets that return mappings."""


def open_samples(
    data: EvaluationData,
    card: ModelCard,
    *,
    split: str | None = "test",
    limit: int | None = None,
    seed: int = 0,
    labels: LabelMap = None,
    count_classes: Callable[[Tensor], int] | None = None,
) -> SampleSource:
    """Choose the images of an evaluation from data in any form.

    Args:
        data: a path to a data set, an :class:`~physadv.datasets.ImageDataset`, a pair (images,
            labels) of tensors or arrays, a DataLoader of such pairs, or a torch Dataset of (image,
            label), what follows them left out, or of mappings of both. Floats in [0, 1] stay as
            they are, uint8 is divided by 255.
        card: the model's card, whose class names and input size decide how files are read.
        split: the part of a data set of files, "train", "test" or None for all of it.
        limit: draw so many images at random, at least 1, the same for the same seed; a loader or an
            iterable data set gives its first ones instead. None takes all.
        seed: decides the choice.
        labels: the model's classes by class of the data, "in-order", or None to match them by name;
            for data that name their classes, as files and torchvision's data sets do.
        count_classes: returns the number of the model's classes from one image (1, c, h, w), for
            files and a model without names.

    Returns:
        The chosen images. Data that are no files are held in memory.

    Raises:
        DataError: the data are empty, of another form, or of classes the model does not have.
        ImageError: images outside [0, 1] or of the wrong shape.
        OptionError: ``limit`` is no whole number of at least 1.

    Example:
        >>> card = ModelCard("mine")
        >>> chosen = open_samples((torch.rand(5, 3, 8, 8), [0, 1, 0, 1, 0]), card, limit=3)
        >>> len(chosen), chosen.size, chosen.channels
        (3, (8, 8), 3)
    """
    check_whole(limit=limit)
    if isinstance(data, str | Path):
        data = read_dataset(data, split=split)
    if isinstance(data, ImageDataset):
        return choose_samples(
            data, card, limit=limit, seed=seed, labels=labels, count_classes=count_classes
        )

    # Loaders seed their workers from the global generator, which is the caller's.
    with torch.random.fork_rng(devices=[]):
        if isinstance(data, tuple | list) and len(data) == 2:
            count = len(data[0])
            indices = drawn_positions(count, limit, seed).tolist()
            images, truth = as_unit_images(data[0]), as_class_numbers(data[1])
            _check_pair(images, truth)
            images, truth = images[indices], truth[indices]
        elif isinstance(data, DataLoader):
            images, truth = _concatenate(data, limit)
            indices = list(range(len(images)))
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
            indices = drawn_positions(len(data), limit, seed).tolist()
            images, truth = _concatenate((_batch_of_one(data[i]) for i in indices), None)
        elif isinstance(data, Iterable):
            images, truth = _concatenate(_batches(data, limit), limit)
            indices = list(range(len(images)))
        else:
            raise DataError(
                f"data of type {type(data).__name__}",
                "a path, (images, labels), a DataLoader or a Dataset is needed",
                "wrap it as one of these",
            )
    _check_pair(images, truth)
    match = _match_named(data, truth, card, labels)
    numbers = tuple(truth.tolist() if match is None else match.of_labels(truth.tolist()))
    _check_classes(numbers, card)
    return TensorSamples(
        images.detach().cpu(), numbers, tuple(indices), card.classes, match, card.resizing
    )


def _match_named(data: Any, labels: Tensor, card: ModelCard, given: LabelMap) -> ClassMatch | None:
    """Match the classes that a torch data set names, as torchvision's do, with the model's; None
    where either names none: then labels are class numbers."""
    names, inner = getattr(data, "classes", None), data
    while names is None and hasattr(inner, "dataset"):  # of a DataLoader, of a Subset
        inner = inner.dataset
        names = getattr(inner, "classes", None)
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    if not named or not names or not card.classes:
        if given is not None and given != IN_ORDER:
            raise DataError(
                f"labels {given}", "these data name no classes", "number them as the model does"
            )
        return None

    needed = sorted({int(label) for label in labels})
    if needed[0] < 0 or needed[-1] >= len(names):
        raise DataError(
            f"label {needed[0] if needed[0] < 0 else needed[-1]}",
            f"the data name {count_noun(len(names), 'class')}, numbered from 0",
            "correct the data set",
        )
    return match_classes(names, card.classes, model=card.name, labels=given, needed=needed)


def _batch_of_one(item: Any) -> tuple[Any, Any]:
    image, label = _pair_of(item)
    if isinstance(label, str):
        raise DataError(f"label {label[:80]!r}", "A class number is needed", "Give its number")
    if isinstance(image, Tensor):
        picture = image
    elif isinstance(image, Image.Image):
        picture = as_float_images(image)[0]
    else:
        with foreign_errors("an image of the data set", DataError, "is no array of numbers"):
            picture = torch.from_numpy(np.array(image))
    # PIL's images are tensors by now, with their channels first.
    if channels_come_last(picture.shape, is_tensor=isinstance(image, Tensor | Image.Image)):
        picture = picture.movedim(-1, 0)
    return picture[None], as_class_numbers(label).reshape(-1)


def _pair_of(item: Any) -> tuple[Any, Any]:
    """Images and labels of an item or a batch: the first two of a tuple, or by their usual names.

    Raises:
        DataError: It is neither.
    """
    if isinstance(item, Mapping):
        found = [next((k for k in names if k in item), None) for names in (_IMAGES, _LABELS)]
        if found[0] is not None and found[1] is not None:
            return item[found[0]], item[found[1]]
    elif isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    kind = type(item).__name__
    if isinstance(item, Mapping):
        kind = f"mapping of {', '.join(str(key) for key in list(item)[:6])}"
    raise DataError(
        f"an item or a batch of type {kind}",
        "pairs (images, labels) are needed, or a mapping of image and label",
        "let the data set return (image, label)",
    )


def _batches(data: Iterable[Any], limit: int | None) -> Iterator[tuple[Any, Any]]:
    """Batches, or single items made batches, of an iterable."""
    for item in islice(data, limit):
        images, labels = _pair_of(item)
        single = not hasattr(labels, "__len__") and getattr(labels, "ndim", 0) == 0
        yield _batch_of_one((images, labels)) if single else (images, labels)


def _concatenate(batches: Iterable[Any], limit: int | None) -> tuple[Tensor, Tensor]:
    """The first ``limit`` images and labels of ``batches``."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    count = 0
    for batch in batches:
        pictures, numbers = _pair_of(batch)
        images.append(as_unit_images(pictures))
        labels.append(as_class_numbers(numbers))
        count += len(images[-1])
        if limit is not None and count >= limit:
            break

    if not images:
        raise DataError("data without images", "at least one is needed", "check the data")
    if len({image.shape[1:] for image in images}) > 1:
        raise DataError(
            "images of different sizes", "one size is needed", "resize them in the data set"
        )

    return torch.cat(images)[:limit], torch.cat(labels)[:limit]


def _check_pair(images: Tensor, labels: Tensor) -> None:
    if labels.ndim != 1 or len(labels) != len(images) or not len(images):
        raise DataError(
            f"{count_noun(len(images), 'image')} with labels of shape {tuple(labels.shape)}",
            "one label an image, and at least one image, are needed",
            "check the data",
        )


def _check_classes(labels: Sequence[int], card: ModelCard) -> None:
    lowest, highest = min(labels), max(labels)
    if lowest < 0 or (card.classes and highest >= len(card.classes)):
        last = f"0 to {len(card.classes) - 1}" if card.classes else "0 and up"
        raise DataError(
            f"labels from {lowest} to {highest}",
            f"{card.name} has {last}",
            "number the classes as the model does",
        )
