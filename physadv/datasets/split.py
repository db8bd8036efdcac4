"""Splits by group, never by image: frames of one track are near copies of each other."""

from __future__ import annotations

import numpy as np

from physadv.core.errors import DataError, OptionError
from physadv.core.random_streams import numpy_generator
from physadv.datasets.base import ImageDataset


def split_by_group(
    dataset: ImageDataset, share: float, seed: int
) -> tuple[ImageDataset, ImageDataset]:
    """(kept, held out): of each class about ``share`` of its groups are held out, at least one and
    never all.

    Raises OptionError for a share outside (0, 1), DataError where a class has a single group or a
    group two classes.
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
