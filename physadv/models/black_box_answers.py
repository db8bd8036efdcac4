"""Answers of black boxes: scores or labels of classifiers, boxes of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from physadv.core.errors import ModelError
from physadv.core.parsing import parse_json
from physadv.core.tables import convert_value

_KINDS = ("scores", "labels", "detections")
_OF_AN_IMAGE = ("boxes", "scores", "labels")


@dataclass(frozen=True)
class AnsweredBoxes:
    """What a detector answered to one image.

    Attributes:
        boxes: Corners x0, y0, x1, y1 of each box, in px of the image that was sent.
        scores: Score of each box in [0, 1].
        labels: Class of each box, by name or number.
    """

    boxes: list[tuple[float, float, float, float]]
    scores: list[float]
    labels: list[str | int]


@dataclass(frozen=True)
class BoxAnswer:
    """Answer of a black box: exactly one of the first three, and what it said of its classes.

    Attributes:
        scores: A row of scores an image.
        labels: A class an image, by name or number.
        detections: Boxes of each image.
        classes: Names of its classes.
        outputs: What the scores are.
    """

    scores: list[list[float]] | None = None
    labels: list[str | int] | None = None
    detections: list[AnsweredBoxes] | None = None
    classes: list[str] | None = None
    outputs: str | None = None


def read_answer(body: bytes, name: str) -> BoxAnswer:
    """Read an answer in JSON.

    Args:
        body: ``{"scores": rows}``, ``{"labels": list}`` or ``{"detections": list}``; or what stands
            in it for one image alone, or the list of rows or detections.
        name: Name of the box in errors.

    Raises:
        ModelError: It is none of these, or a number is not finite.

    Example:
        >>> read_answer(b'{"scores": [[0.25, 0.75]]}', "box").scores
        [[0.25, 0.75]]
    """
    value = parse_json(text_of(body), name, error=ModelError)
    if isinstance(value, list):
        of_boxes = bool(value) and isinstance(value[0], Mapping)
        value = {"detections" if of_boxes else "scores": value}
    value = value if isinstance(value, dict) else {}
    if "boxes" in value and "detections" not in value:
        inner = {k: value[k] for k in _OF_AN_IMAGE if k in value}
        value = {k: v for k, v in value.items() if k not in inner} | {"detections": [inner]}
    if "label" in value and "labels" not in value:
        value = {**value, "labels": [value["label"]]}

    known = {k: value[k] for k in (*_KINDS, "classes", "outputs") if k in value}
    scores = known.get("scores")
    if isinstance(scores, list) and scores and not isinstance(scores[0], list):
        known["scores"] = [scores]
    answer: BoxAnswer = convert_value(known, BoxAnswer, name=name, error=ModelError)
    if sum(getattr(answer, kind) is not None for kind in _KINDS) != 1:
        raise ModelError(
            f"{name} answered with {', '.join(sorted(map(str, value))[:5]) or 'nothing'}",
            'One of "scores", "labels" and "detections" is needed',
            "See docs/black_box.md",
        )
    return answer


def text_of(body: bytes) -> str:
    """Return an answer as text; what is no UTF-8 is no JSON either, and refused there."""
    return body.decode("utf-8", "replace")


def joined_answers(answers: list[BoxAnswer]) -> BoxAnswer:
    """Return the answers to one image each as one; what some lack counts as no rows.

    Args:
        answers: Answers in the order of the images, at least one.
    """

    def rows(kind: str) -> list[Any] | None:
        if all(getattr(a, kind) is None for a in answers):
            return None
        return [row for a in answers for row in getattr(a, kind) or []]

    kind = next(kind for kind in _KINDS if rows(kind) is not None)
    found: dict[str, Any] = {kind: rows(kind)}
    return BoxAnswer(**found, classes=answers[0].classes, outputs=answers[0].outputs)
