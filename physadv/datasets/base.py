"""Labeled images of any size, in memory or read one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from physadv.core.errors import DataError
from physadv.core.files import digest_of
from physadv.core.image_io import Array
from physadv.datasets.summary import DatasetSummary

Labels = npt.NDArray[np.int64]
Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageDataset:
    """Images with their labels, decoded when they are read.

    Args:
        read: Function that returns image i as (h, w, 3) uint8 sRGB.
        labels: Class numbers (n,), int64.
        classes: Names of the classes.
        groups: Names (n) of what each image belongs to, such as the track of a frame; a group must
            not be split.
        names: Names (n) of the images.
        boxes: Corners (n, 4) x0, y0, x1, y1 of the object in px of its image, where known.
        summary: What the reader took the data for.
        header_size: Function that returns width and height in px of image i from its header; None
            where images must be read for it.
        digest: Function that returns a hash of the file of image i; None where its pixels are
            hashed.

    Raises:
        DataError: There is no image, lengths differ, or a label has no class.

    Example:
        >>> images = np.zeros((3, 8, 8, 3), np.uint8)
        >>> data = in_memory(images, np.array([0, 1, 1]), ("cat", "dog"), "example")
        >>> len(data), data[2][1], data.counts().tolist()
        (3, 1, [1, 2])
    """

    read: Callable[[int], Array]
    labels: Labels
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    names: tuple[str, ...]
    boxes: Boxes | None = None
    summary: DatasetSummary = field(default_factory=DatasetSummary)
    header_size: Callable[[int], tuple[int, int]] | None = None
    digest: Callable[[int], str] | None = None

    def __post_init__(self) -> None:
        n = len(self.labels)
        if n == 0:
            raise DataError("data set", "holds no image", "check the path")
        if (
            len(self.groups) != n
            or len(self.names) != n
            or (self.boxes is not None and len(self.boxes) != n)
        ):
            raise DataError(
                f"{n} labels", "as many groups, names and boxes are needed", "check the reader"
            )
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            worst = int(
                self.labels.max() if self.labels.max() >= len(self.classes) else self.labels.min()
            )
            raise DataError(
                f"label {worst}", f"0 to {len(self.classes) - 1} are named", "check the label file"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Array, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.read(index), int(self.labels[index])

    def image_size(self, index: int) -> tuple[int, int]:
        """Return height and width in px of the image ``index``, from its header where that can
        be."""
        if self.header_size is not None:
            width, height = self.header_size(index)
            return int(height), int(width)
        height, width = self.read(index).shape[:2]
        return int(height), int(width)

    def content_digest(self, index: int) -> str:
        """Return a hash of the image ``index``, by which a run that resumes knows it again."""
        if self.digest is not None:
            return self.digest(index)
        image = np.ascontiguousarray(self.read(index))
        return digest_of(repr(image.shape).encode(), image.data)

    def __iter__(self) -> Iterator[tuple[Array, int]]:
        return (self[i] for i in range(len(self)))

    def subset(self, indices: Sequence[int] | Labels) -> ImageDataset:
        """Return the images of ``indices``, in that order, with the same classes."""
        chosen, size = np.asarray(indices, dtype=np.int64), self.header_size
        digest = self.digest
        return ImageDataset(
            lambda i: self.read(int(chosen[i])),
            self.labels[chosen],
            self.classes,
            tuple(self.groups[i] for i in chosen),
            tuple(self.names[i] for i in chosen),
            None if self.boxes is None else self.boxes[chosen],
            self.summary,
            None if size is None else lambda i: size(int(chosen[i])),
            None if digest is None else lambda i: digest(int(chosen[i])),
        )

    def counts(self) -> Labels:
        """Return the number of images of each class (classes,)."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def summarized(self, summary: DatasetSummary) -> ImageDataset:
        """Return the same images with another ``summary``."""
        return replace(self, summary=summary)


def in_memory(
    images: npt.NDArray[np.uint8], labels: Labels, classes: Sequence[str], source: str
) -> ImageDataset:
    """Return a data set of images in one array; each image is a group of its own.

    Args:
        images: Images (n, h, w) or (n, h, w, 3), uint8.
        labels: Class numbers (n,).
        classes: Names of the classes.
        source: Name of the set in errors and in the names of its images.

    Returns:
        The data set.

    Raises:
        DataError: The shapes or the type do not fit.
    """
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[3] != 3)
    ):
        raise DataError(
            f"{source}: images of {images.dtype} {images.shape}",
            "uint8 (n, h, w) or (n, h, w, 3)",
            "convert them",
        )
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(
            f"{source}: {len(images)} images, labels {labels.shape}",
            "one label an image",
            "check the files",
        )

    def read(index: int) -> Array:
        image = images[index]
        return np.ascontiguousarray(np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image)

    names = tuple(f"{source}#{i}" for i in range(len(labels)))
    return ImageDataset(read, labels.astype(np.int64), tuple(classes), names, names)
