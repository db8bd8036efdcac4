"""Pictures of attacked images with the boxes that a detector finds in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from torch import Tensor

from physadv.core.image_io import Array, save_png, to_uint8
from physadv.core.rows import append_rows
from physadv.models.detectors import DetectedBoxes

_SHOWN = 3
"""Pictures of each goal."""
_LINE = (255, 209, 0)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class DetectorExamples:
    """Saves the first images on which each goal is met, clean and attacked, with their boxes.

    Args:
        folder: Folder to write ``<index>-<goal>-{clean,attacked}.png`` and ``examples.jsonl`` to.
        class_name: Class number to class name.
        save: Folder for every attacked image as PNG without boxes; None for none.
        name: Position to the name of its image.
    """

    def __init__(
        self,
        folder: Path,
        class_name: Callable[[int], str],
        *,
        save: str | None = None,
        name: Callable[[int], str] = str,
    ) -> None:
        self.folder, self.class_name, self.save, self.name = folder, class_name, save, name
        self._counts: dict[str, int] = {}

    def __call__(
        self,
        position: int,
        goal: str,
        clean: Tensor,
        attacked: Tensor,
        before: DetectedBoxes,
        after: DetectedBoxes,
    ) -> None:
        """Save one image, if it is among the first of its goal.

        Args:
            position: Number of the image.
            goal: Goal that was met.
            clean: Clean image (3, h, w).
            attacked: Attacked image (3, h, w).
            before: Boxes in the clean image.
            after: Boxes in the attacked image.
        """
        if self.save is not None:
            stem = PurePosixPath(self.name(position)).stem or str(position)
            save_png(Path(self.save) / goal / f"{position:06d}-{stem}.png", attacked)
        if self._counts.get(goal, 0) >= _SHOWN:
            return
        self._counts[goal] = self._counts.get(goal, 0) + 1
        for kind, image, boxes in (("clean", clean, before), ("attacked", attacked, after)):
            picture = self._drawn(to_uint8(image), boxes)
            save_png(self.folder / f"{position}-{goal}-{kind}.png", picture)
        row = {"index": position, "goal": goal, "image": self.name(position)}
        append_rows(self.folder / "examples.jsonl", [row])

    def _drawn(self, image: Array, found: DetectedBoxes) -> Array:
        """The image with its boxes, their classes and scores."""
        canvas = np.ascontiguousarray(image)
        size = max(0.4, max(canvas.shape[:2]) / 1400)
        for box, score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            x0, y0, x1, y1 = (round(v) for v in box)
            cv2.rectangle(canvas, (x0, y0), (x1, y1), _LINE, 2)
            text = f"{self.class_name(label)} {score:.2f}".encode("ascii", "replace").decode()
            (width, height), below = cv2.getTextSize(text, _FONT, size, 1)

            # On a plate over the box, or in it where there is no room; never beyond the right side.
            left = max(0, min(x0 - 1, canvas.shape[1] - width - 4))
            top = y0 - height - below - 2 if y0 > height + below + 2 else max(0, y0)
            corner = (left + width + 4, top + height + below + 2)
            cv2.rectangle(canvas, (left, top), corner, _LINE, cv2.FILLED)
            place = (left + 2, top + height + 2)
            cv2.putText(canvas, text, place, _FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
        return canvas
