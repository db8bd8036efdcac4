"""Reading of what detectors return: pairs, mappings, lists of an image each, DETR's and YOLO's
layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.errors import ModelError
from physadv.core.types import Detections

_LEAST_ROWS = 16
"""Candidates from which the longer side of an output is that of candidates."""


def read_detections(
    output: Any, count: int, size: tuple[int, int], *, classes: int | None = None
) -> Detections:
    """Return the candidates in what a detector returned, before suppression.

    Read are: Detections; a pair (boxes (b, n, 4) in px, scores (b, n, classes)) or a mapping of
    both; DETR's mapping or object with ``pred_boxes`` (center, width and height in shares of the
    image) and ``logits`` or ``pred_logits``, the last of which is "no object" where they have one
    more than there are classes; a list with a mapping of ``boxes``, ``scores`` and ``labels`` for
    each image; and one tensor, alone or first in a tuple, in a layout of YOLO: (b, 4 + classes, n)
    or (b, n, 5 + classes) of center, width and height in px and scores, the latter with the score
    of any object before them.

    Args:
        output: What the detector returned.
        count: Number of images it was given.
        size: Height and width in px of its input.
        classes: Number of its classes; None where it is not known.

    Raises:
        ModelError: It is none of these.

    Example:
        >>> output = {"pred_boxes": torch.full((1, 2, 4), 0.5), "pred_logits": torch.zeros(1, 2, 4)}
        >>> found = read_detections(output, 1, (100, 200), classes=3)
        >>> found.boxes[0, 0].tolist(), tuple(found.scores.shape)
        ([50.0, 25.0, 150.0, 75.0], (1, 2, 3))
    """
    if isinstance(output, Detections):
        return Detections(output.boxes, output.scores)
    entries = _entries_of(output)
    boxes = entries.get("pred_boxes")
    logits = next((entries[k] for k in ("pred_logits", "logits") if k in entries), None)
    if isinstance(boxes, Tensor) and isinstance(logits, Tensor):
        return _read_detr(boxes, logits, size, classes)
    if {"boxes", "scores", "labels"} <= entries.keys():
        output = [entries]
    elif {"boxes", "scores"} <= entries.keys():
        output = (entries["boxes"], entries["scores"])

    if _is_list_of_images(output, count):
        return _read_list(output, classes)
    if isinstance(output, tuple | list) and output:
        if _is_pair(output):
            return Detections(*output)
        return read_detections(output[0], count, size, classes=classes)
    if isinstance(output, Tensor) and output.ndim == 3:
        found = _read_yolo(output, size, classes)
        if found is not None:
            return found
    raise ModelError(
        f"the detector returned {type(output).__name__}",
        "(boxes (b, n, 4) in px, scores (b, n, classes)) before suppression is needed",
        "Wrap the model so that it returns this pair",
    )


def _entries_of(output: Any) -> dict[str, Any]:
    """Entries of a mapping, or of an object that holds boxes as attributes."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    names = ("pred_boxes", "pred_logits", "logits")
    return {name: getattr(output, name) for name in names if hasattr(output, name)}


def _read_detr(
    boxes: Tensor, logits: Tensor, size: tuple[int, int], classes: int | None
) -> Detections:
    """Softmax with "no object" at the end where there is one more, else a sigmoid a class."""
    has_none = classes is not None and logits.shape[-1] == classes + 1
    scores = logits.softmax(-1)[..., :-1] if has_none else logits.sigmoid()
    return Detections(_corners(boxes) * boxes.new_tensor((size[1], size[0]) * 2), scores)


def _corners(boxes: Tensor) -> Tensor:
    """Center, width and height (..., 4) -> corners (..., 4)."""
    center, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat((center - half, center + half), -1)


def _is_pair(output: Sequence[Any]) -> bool:
    """Whether these are boxes and scores, and no candidates beside masks or features."""
    if len(output) != 2 or not all(isinstance(part, Tensor) for part in output):
        return False
    boxes, scores = output
    return tuple(boxes.shape[-1:]) == (4,) or bool(scores.ndim == 3)


def _is_list_of_images(output: Any, count: int) -> bool:
    return (
        isinstance(output, Sequence)
        and len(output) == count
        and all(
            isinstance(o, Mapping) and {"boxes", "scores", "labels"} <= o.keys() for o in output
        )
    )


def _read_list(output: Sequence[Mapping[str, Tensor]], classes: int | None) -> Detections:
    """Boxes, scores and labels of each image; images with fewer are padded with score 0."""
    known = max([int(o["labels"].max()) + 1 for o in output if len(o["labels"])] + [1])
    if classes is None:
        raise ModelError(
            "a detector that names the class of each box",
            "the number of its classes must be known",
            "Give their names with --classes, or as_model(..., classes=...)",
        )
    if known > classes:
        raise ModelError(
            f"the detector returned the class {known - 1}",
            f"it has {classes} classes",
            "Name all of them in order, background included where it counts",
        )
    most = max(1, *(len(o["scores"]) for o in output))
    boxes = [F.pad(o["boxes"], (0, 0, 0, most - len(o["boxes"]))) for o in output]
    scores = []
    for o in output:
        row = o["scores"].new_zeros(len(o["scores"]), classes)
        row = row.scatter(1, o["labels"].long()[:, None], o["scores"][:, None])
        scores.append(F.pad(row, (0, 0, 0, most - len(row))))
    return Detections(torch.stack(boxes), torch.stack(scores))


def _read_yolo(output: Tensor, size: tuple[int, int], classes: int | None) -> Detections | None:
    """One tensor in a layout of YOLO; None where it is none."""
    columns, rows = output.shape[1:]
    if classes is not None and columns == 4 + classes:
        layout = "columns"
    elif classes is not None and rows in (4 + classes, 5 + classes, 6):
        layout = {5 + classes: "objects", 4 + classes: "shares"}.get(rows, "ended")
    elif columns > 4 and (columns <= rows or rows < _LEAST_ROWS):
        layout = "columns"
    elif rows > 5:
        layout = "objects"
    else:
        return None

    if layout == "columns":
        rotated = output.transpose(1, 2)
        beyond = None if classes is None else 4 + classes  # masks or points
        return Detections(_corners(rotated[..., :4]), rotated[..., 4:beyond])
    if layout == "objects":
        return Detections(_corners(output[..., :4]), output[..., 4:5] * output[..., 5:])
    if layout == "shares":  # RT-DETR as YOLO's library exports it
        sides = output.new_tensor((size[1], size[0]) * 2)
        return Detections(_corners(output[..., :4]) * sides, output[..., 4:])
    # YOLO without suppression at its end: corners, the best class's score, its number.
    labels = output[..., 5].detach().round().long().clamp(0, (classes or 1) - 1)
    scores = output.new_zeros(*output.shape[:2], classes or 1)
    return Detections(output[..., :4], scores.scatter(2, labels[..., None], output[..., 4:5]))
