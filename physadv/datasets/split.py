"""Splits by group: frames of one track are near copies and must stay together."""

from __future__ import annotations

import numpy as np

from physadv.core.errors import DataError, OptionError
from physadv.core.random_streams import numpy_generator
from physadv.datasets.base import ImageDataset


def split_by_group(
    dataset: ImageDataset, share: float, seed: int
) -> tuple[ImageDataset, ImageDataset]:
    """Split a data set by groups, class by class; at least one group of each class is on either
    side.

    Args:
        dataset: The data set.
        share: Share of the groups to hold out, in (0, 1).
        seed: Seed of the choice.

    Returns:
        The part that is kept and the part that is held out.

    Raises:
        OptionError: ``share`` lies outside (0, 1).
        DataError: A class has a single group, or a group has two classes.

    Example:
        >>> import numpy as np
        >>> from physadv.datasets.base import in_memory
        >>> images, labels = np.zeros((4, 2, 2), np.uint8), np.array([0, 0, 1, 1])
        >>> kept, held = split_by_group(in_memory(images, labels, ("a", "b"), "x"), 0.5, 0)
        >>> kept.counts().tolist(), held.counts().tolist()
        ([1, 1], [1, 1])
    """
    if not 0 < share < 1:
        raise OptionError(f"held-out share {share}", "0 < share < 1", "use 0.2")

    held = set[str]()
    for label, groups in _groups_by_class(dataset).items():
        if len(groups) < 2:
            name = dataset.classes[label]
            raise DataError(
                f"class {name!r}", "has one group, two are needed to hold one out", "add data"
            )
        count = min(max(round(share * len(groups)), 1), len(groups) - 1)
        order = numpy_generator(seed, "split", label).permutation(len(groups))
        held.update(groups[i] for i in order[:count])

    out = np.asarray([g in held for g in dataset.groups])

    return dataset.subset(np.flatnonzero(~out)), dataset.subset(np.flatnonzero(out))


def _groups_by_class(dataset: ImageDataset) -> dict[int, list[str]]:
    owner: dict[str, int] = {}
    for group, label in zip(dataset.groups, dataset.labels.tolist(), strict=True):
        if owner.setdefault(group, label) != label:
            raise DataError(
                f"group {group!r}", "holds more than one class", "name the groups class by class"
            )

    found: dict[int, list[str]] = {}
    for group in sorted(owner):
        found.setdefault(owner[group], []).append(group)

    return dict(sorted(found.items()))
