"""Reading of what detectors return: pairs, mappings, lists of an image each, DETR's and YOLO's
layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.errors import ModelError
from physadv.core.reading import foreign_errors
from physadv.core.types import Detections
from physadv.core.wording import count_noun

_LABELS = ("labels", "classes", "class_ids", "pred_classes", "category_ids")
"""Usual names of the classes of boxes."""
_LEAST_ROWS = 16
"""Candidates from which the longer side of an output is that of candidates."""


def read_detections(
    output: Any, count: int, size: tuple[int, int], *, classes: int | None = None
) -> Detections:
    """Return the candidates in what a detector returned, before suppression.

    Read are: Detections; boxes (b, n, 4) in px and scores (b, n, classes) as a pair in either order
    or a mapping; boxes, scores (b, n) and labels (b, n) as three tensors or a mapping; DETR's
    mapping or object with ``pred_boxes`` (center, width and height in shares of the image) and
    ``logits`` or ``pred_logits``, the last of which is "no object" where they have one more than
    there are classes; a list with a mapping of ``boxes``, ``scores`` and ``labels`` for each image,
    alone or behind a mapping of losses, or with (n, 6) of corners, score and class; and one tensor,
    alone or first in a tuple, in a layout of YOLO: (b, 4 + classes, n) or (b, n, 5 + classes) of
    center, width and height in px and scores, the latter with the score of any object before them,
    or (b, n, 6) of corners in px, score and class.

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
    if {"boxes", "scores"} <= entries.keys():
        return _read_named(entries, count, classes)
    if isinstance(output, Sequence) and len(output) == 2 and _are_images(output[1], count):
        output = output[1]  # torchvision's, scripted: losses before boxes
    if _are_images(output, count):
        return _read_list([_entries_of(o) for o in output], classes)
    if _are_rows(output, count):
        return _read_list([_named_rows(rows) for rows in output], classes)

    if isinstance(output, tuple | list) and output:
        parts = [part for part in output if isinstance(part, Tensor)]
        if len(parts) == len(output) in (2, 3) and _is_boxes(*_boxes_first(parts)):
            boxes, *rest = _boxes_first(parts)
            names = ("scores", "labels") if _are_scores(*rest) else ("labels", "scores")
            return _read_named(
                {"boxes": boxes, **dict(zip(names, rest, strict=False))}, count, classes
            )
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
    """Entries of a mapping, or of an object with boxes as attributes, by their usual names."""
    if isinstance(output, Mapping):
        entries = {str(key): value for key, value in output.items()}
    else:
        names = ("pred_boxes", "pred_logits", "logits", "boxes", "scores", *_LABELS)
        is_plain = isinstance(output, Tensor | Sequence)
        entries = {} if is_plain else {n: getattr(output, n) for n in names if hasattr(output, n)}
    label = next((name for name in _LABELS if name in entries), None)
    return entries if label is None else {**entries, "labels": entries[label]}


def _read_named(entries: Mapping[str, Any], count: int, classes: int | None) -> Detections:
    """Boxes and scores, a class each or with the class of each box, of one image or of all."""
    boxes, scores = (_as_tensor(entries[name]) for name in ("boxes", "scores"))
    labels = _as_tensor(entries["labels"]) if "labels" in entries else None
    if labels is not None and scores.shape == labels.shape and boxes.shape[:-1] == scores.shape:
        if boxes.ndim == 2 and count == 1:
            boxes, scores, labels = boxes[None], scores[None], labels[None]
        if boxes.ndim == 3:
            images = zip(boxes, scores, labels, strict=True)
            keys = ("boxes", "scores", "labels")
            return _read_list([dict(zip(keys, own, strict=True)) for own in images], classes)
    if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape != (*scores.shape[:2], 4):
        shapes = f"boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)}"
        limit = "boxes (b, n, 4) and scores (b, n, classes), or labels too, are needed"
        raise ModelError(f"the detector returned {shapes}", limit, "Wrap the model accordingly")
    return Detections(boxes, scores)


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


def _boxes_first(parts: Sequence[Tensor]) -> list[Tensor]:
    """The parts with the boxes before the others, which may come behind them."""
    if parts[0].shape[-1:] != (4,) and parts[1].shape[-1:] == (4,) and parts[1].ndim == 3:
        return [parts[1], parts[0], *parts[2:]]
    return list(parts)


def _is_boxes(boxes: Tensor, *rest: Tensor) -> bool:
    """Whether these are boxes with scores, and perhaps labels, of the same candidates."""
    sides = boxes.ndim - (len(rest) == 2)  # beside labels, scores are one number a box
    return boxes.shape[-1:] == (4,) and all(
        part.ndim == sides and part.shape[: boxes.ndim - 1] == boxes.shape[:-1] for part in rest
    )


def _are_scores(first: Tensor, *others: Tensor) -> bool:
    """Whether the first of scores and labels are the scores: labels are whole numbers."""
    return not others or first.is_floating_point()


def _are_images(output: Any, count: int) -> bool:
    """Whether this is a list with boxes, scores and labels of each image."""
    if not isinstance(output, Sequence) or isinstance(output, str) or len(output) != count:
        return False
    return all({"boxes", "scores", "labels"} <= _entries_of(each).keys() for each in output)


def _are_rows(output: Any, count: int) -> bool:
    """Whether this is a list with the rows (n, 6) of each image, as YOLO's suppression gives."""
    if not isinstance(output, list) or len(output) != count:
        return False
    return all(isinstance(o, Tensor) and o.ndim == 2 and o.shape[1] == 6 for o in output)


def _named_rows(rows: Tensor) -> dict[str, Tensor]:
    """Corners, score and class as they are named."""
    return {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].detach().round()}


def _as_tensor(value: Any) -> Tensor:
    """A tensor, of what may be an array or a list of numbers."""
    if isinstance(value, Tensor):
        return value
    with foreign_errors("the detector's output", ModelError, "is no table of numbers"):
        return torch.as_tensor(value)


def _read_list(output: Sequence[Mapping[str, Any]], classes: int | None) -> Detections:
    """Boxes, scores and labels of each image; images with fewer are padded with score 0."""
    names = ("boxes", "scores", "labels")
    output = [{name: _as_tensor(each[name]) for name in names} for each in output]
    _require_candidates(output)
    known = max([int(o["labels"].max()) + 1 for o in output if len(o["labels"])] + [1])
    if classes is None:
        raise _unknown_classes()
    if known > classes:
        raise ModelError(
            f"the detector returned the class {known - 1}",
            f"it has {count_noun(classes, 'class')}",
            "Name all of them in order, background included where it counts",
        )
    most = max(1, *(len(o["scores"]) for o in output))
    boxes = [F.pad(o["boxes"], (0, 0, 0, most - len(o["boxes"]))) for o in output]
    scores = []
    for o in output:
        # A label below 0 stands for padding.
        kept = torch.where(o["labels"] >= 0, o["scores"], torch.zeros_like(o["scores"]))
        row = o["scores"].new_zeros(len(o["scores"]), classes)
        row = row.scatter(1, o["labels"].long().clamp_min(0)[:, None], kept[:, None])
        scores.append(F.pad(row, (0, 0, 0, most - len(row))))
    return Detections(torch.stack(boxes), torch.stack(scores))


def _require_candidates(output: Sequence[Mapping[str, Tensor]]) -> None:
    """Raise ModelError where an image's boxes, scores and labels are not of the same number."""
    for own in output:
        boxes, scores, labels = (own[name] for name in ("boxes", "scores", "labels"))
        count = len(scores) if scores.ndim else -1
        if tuple(boxes.shape) != (count, 4) or scores.ndim != 1 or labels.shape != scores.shape:
            shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in own.items())
            limit = "(n, 4), (n) and (n) are needed for each image"
            raise ModelError(f"the detector returned {shapes}", limit, "Wrap it accordingly")


def _unknown_classes() -> ModelError:
    return ModelError(
        "a detector that names the class of each box",
        "the number of its classes must be known",
        "Give their names with --classes, or as_model(..., classes=...)",
    )


def _candidates_of(size: tuple[int, int]) -> tuple[set[int], set[int]]:
    """Numbers of candidates that YOLO has for an input: without anchors, and with three each."""
    cells = [-(-size[0] // stride) * -(-size[1] // stride) for stride in (8, 16, 32, 64)]
    free = {sum(cells[:3]), sum(cells)}
    return free, {3 * number for number in free}


def _read_yolo(output: Tensor, size: tuple[int, int], classes: int | None) -> Detections | None:
    """One tensor in a layout of YOLO; None where it is none."""
    layout = _yolo_layout(output, size, classes)
    if layout is None:
        return None
    if layout == "ended" and classes is None:
        raise _unknown_classes()

    if layout == "columns":
        rotated = output.transpose(1, 2)
        beyond = None if classes is None else 4 + classes  # masks or points
        return Detections(_corners(rotated[..., :4]), rotated[..., 4:beyond])
    if layout == "rows":
        return Detections(_corners(output[..., :4]), output[..., 4:])
    if layout == "objects":
        return Detections(_corners(output[..., :4]), output[..., 4:5] * output[..., 5:])
    if layout == "shares":  # RT-DETR as YOLO's library exports it
        sides = output.new_tensor((size[1], size[0]) * 2)
        return Detections(_corners(output[..., :4]) * sides, output[..., 4:])
    # YOLO without suppression at its end: corners, the best class's score, its number.
    labels = output[..., 5].detach().round().long().clamp(0, (classes or 1) - 1)
    scores = output.new_zeros(*output.shape[:2], classes or 1)
    return Detections(output[..., :4], scores.scatter(2, labels[..., None], output[..., 4:5]))


def _yolo_layout(output: Tensor, size: tuple[int, int], classes: int | None) -> str | None:
    """Which of YOLO's layouts a tensor (b, ., .) has, by its number of candidates and classes."""
    columns, rows = output.shape[1:]
    free, anchored = _candidates_of(size)
    if classes is not None and columns == 4 + classes and columns != rows:
        return "columns"
    if rows == 6 and columns not in free | anchored and classes in (None, 1, 2):
        return "shares" if classes == 2 and _within_shares(output) else "ended"
    if classes is not None and rows in (4 + classes, 5 + classes, 6):
        named = {5 + classes: "objects", 4 + classes: "rows"}.get(rows, "ended")
        return "shares" if named == "rows" and _within_shares(output) else named
    if rows < 6 and rows not in free:  # corners alone, or of a class that is not known
        return None
    if rows in free and columns > 4:
        return "columns"
    if columns in free | anchored and rows > 5:
        return "objects"
    if columns > 4 and (columns <= rows or rows < _LEAST_ROWS):
        return "columns"
    return "objects" if rows > 5 else None


def _within_shares(output: Tensor) -> bool:
    """Whether boxes (b, n, 4 + ...) are shares of the image: in px, some edge lies beyond 2."""
    return not output.numel() or bool(output[..., :4].detach().abs().max() <= 2)
