"""Record of the images of a run, which an interrupted run goes on with and no others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from physadv.core.errors import DataError
from physadv.core.files import digest_of
from physadv.core.members import member_of
from physadv.core.rows import Row, read_rows

SAMPLES = "samples.jsonl"
"""Record in a run's folder of its images: a line each, with a hash of what the file holds."""
IMAGE_DIGEST = "image_digest"
"""Entry of an identity: a hash of that record."""


_COMPARED = ("index", "label", "digest")


class ChosenImages(Protocol):
    """A choice of images that an evaluation is of."""

    @property
    def indices(self) -> Sequence[int]:
        """The number of each chosen image in its data set."""
        ...

    def name(self, position: int) -> str:
        """Return the name of the image at ``position``."""
        ...

    def label(self, position: int) -> int | None:
        """Return the model's class number of the image at ``position``; None where it has none."""
        ...

    def digest(self, position: int) -> str:
        """Return a hash of the image at ``position``."""
        ...


def sample_rows(samples: ChosenImages) -> list[Row]:
    """Return one row an image of ``samples``: index, image, label and a hash of its contents."""
    return [
        {
            "index": int(index),
            "image": samples.name(position),
            "label": samples.label(position),
            "digest": samples.digest(position),
        }
        for position, index in enumerate(samples.indices)
    ]


def rows_digest(rows: Sequence[Row]) -> str:
    """Return a hash of ``rows`` as :func:`sample_rows` makes them, but for the names of images: one
    data set may be named in two ways."""
    return digest_of(json.dumps([_compared(row) for row in rows]).encode())


def _compared(row: Row) -> list[Any]:
    return [row.get(key) for key in _COMPARED]


def without_images(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``identity`` without the hash of its images."""
    return {key: value for key, value in identity.items() if key != IMAGE_DIGEST}


def recorded_samples(folder: Path) -> list[Row]:
    """Return the rows that :func:`sample_rows` made of the images of the run in ``folder``; none
    where they are not recorded, or not to be read."""
    file = member_of(folder, SAMPLES)
    if not file.is_file():
        return []
    try:
        return list(read_rows(file))
    except DataError:
        return []


def without_labels(rows: Sequence[Row]) -> list[Row]:
    """Return ``rows`` without labels, which are a model's class numbers."""
    return [{**row, "label": None} for row in rows]


def changed_images(recorded: Sequence[Row], current: Sequence[Row]) -> str:
    """Return in words which images differ between two records of one choice.

    Example:
        >>> row = {"index": 0, "image": "a.png", "label": 1, "digest": "12"}
        >>> changed_images([row], [row | {"digest": "34"}])
        'other contents of "a.png"'
        >>> changed_images([row, row], [row | {"label": 2}] * 2)
        'another label of "a.png" and 1 more'
    """
    changed = [
        (old, new)
        for old, new in zip(recorded, current, strict=False)
        if _compared(old) != _compared(new)
    ]
    if not changed:
        return "other images"
    old, new = changed[0]
    what = "another choice of images, first"
    if old.get("index") == new.get("index"):
        what = "other contents of" if old.get("digest") != new.get("digest") else "another label of"
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f'{what} "{str(new.get("image"))[:200]}"{more}'
