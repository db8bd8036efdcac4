"""Sample frames of each block and outcome, drawn evenly while a check runs, for its report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from physadv.camera.localization.boxes import (
    Corners,
    Pixels,
    box_of,
    crop_square,
    resize_box,
    square_around,
)
from physadv.core.errors import DataError
from physadv.core.files import write_json
from physadv.core.image_io import read_image, save_png, to_uint8
from physadv.core.members import member_of
from physadv.core.random_streams import numpy_generator
from physadv.core.reading import foreign_errors
from physadv.core.tables import read_table_list

SIDE, CONTEXT, INDEX = 160, 0.35, "index.json"
SAVE_EVERY_S = 5.0


@dataclass(frozen=True)
class _Kept:
    picture: Pixels
    row: dict[str, Any]


class ExampleFrames:
    """Reservoir sample of pictures per block and outcome (Vitter 1985); equal rows give an equal
    sample.

    Args:
        seed: Seed of the random stream.
        keep: Number of pictures per block and outcome.
    """

    def __init__(self, seed: int = 0, *, keep: int = 6) -> None:
        self.keep = keep
        self._saved = time.monotonic()
        self._unsaved: set[tuple[tuple[str, bool], int]] = set()
        self._seen: Counter[tuple[str, bool]] = Counter()
        self._kept: dict[tuple[str, bool], list[_Kept]] = {}
        self._random = numpy_generator(seed, "examples")

    def add(self, image: Pixels, corners: Corners | None, row: dict[str, Any]) -> None:
        """Count one classified frame and keep its picture if the reservoir draws it.

        Args:
            image: Frame (h, w, 3) uint8; copied only if it is kept.
            corners: Corners (4, 2) of the sign in pixels; None where they are unknown.
            row: Row of the frame, with ``block`` and ``success``.
        """
        key = (str(row["block"]), bool(row["success"]))
        self._seen[key] += 1
        reservoir = self._kept.setdefault(key, [])
        slot = len(reservoir)
        if slot < self.keep:
            reservoir.append(_Kept(_framed_sign(image, corners), row))
        elif (slot := int(self._random.integers(0, self._seen[key]))) < self.keep:
            reservoir[slot] = _Kept(_framed_sign(image, corners), row)
        if slot < self.keep:
            self._unsaved.add((key, slot))

    def resume(self, folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        """Continue with the pictures that an interrupted run left in ``folder``; ``rows`` are all
        rows of that run."""
        with foreign_errors(str(folder), DataError, "no example frames", "Remove the folder"):
            self._resume(folder, rows)

    def _resume(self, folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        self._seen.update((str(r["block"]), bool(r["success"])) for r in rows)
        index = member_of(folder, INDEX)
        if not index.is_file():
            return

        for entry in read_table_list(index):
            row = {k: v for k, v in entry.items() if k != "file"}
            file = member_of(folder, entry.get("file"))
            if file.is_file():
                reservoir = self._kept.setdefault((str(row["block"]), bool(row["success"])), [])
                reservoir.append(_Kept(to_uint8(read_image(file)), row))

    def save_periodically(self, folder: Path) -> None:
        """Save to ``folder`` every ``SAVE_EVERY_S`` seconds, so that a killed run leaves pictures
        too."""
        if time.monotonic() - self._saved >= SAVE_EVERY_S:
            self.save(folder)
            self._saved = time.monotonic()

    def save(self, folder: Path) -> None:
        """Write the pictures that are new to ``folder``, and index.json with the row of each."""
        index = []
        for (block, success), reservoir in sorted(self._kept.items()):
            for number, item in enumerate(reservoir):
                name = f"{block}-{'met' if success else 'notmet'}-{number}.png"
                if ((block, success), number) in self._unsaved:
                    save_png(folder / name, item.picture)
                index.append({"file": name, **item.row})
        self._unsaved.clear()
        if index:
            write_json(folder / INDEX, index)


def _framed_sign(image: Pixels, corners: Corners | None) -> Pixels:
    """Return the sign outlined in its surroundings, or the whole frame where ``corners`` is
    None."""
    if corners is None:
        scale = SIDE / max(image.shape[:2])
        return resize_box(
            image, max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        )

    x, y, side = square_around(box_of(corners), CONTEXT)
    cut = resize_box(crop_square(image, x, y, side), SIDE, SIDE)
    outline = ((corners - [x, y]) * (SIDE / side)).round().astype(np.int32)
    return np.asarray(
        cv2.polylines(cut.copy(), [outline], True, (255, 214, 10), 1, cv2.LINE_AA), dtype=np.uint8
    )
