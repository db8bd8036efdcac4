"""Post-processing of a detector's dense candidates: overlap, suppression, best score of one
class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.core.boxes import box_iou
from physadv.core.errors import ModelError
from physadv.core.types import Detections


@dataclass(frozen=True)
class DetectedBoxes:
    """Boxes of one image after suppression, best first.

    Attributes:
        boxes: Corners (m, 4) x0, y0, x1, y1 in px.
        scores: Scores (m,) in [0, 1].
        labels: Class indices (m,).
    """

    boxes: Float[Tensor, "m 4"]
    scores: Float[Tensor, " m"]
    labels: Int[Tensor, " m"]

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def of_class(self, label: int) -> DetectedBoxes:
        """Return only the boxes of class ``label``."""
        chosen = self.labels == label
        return DetectedBoxes(self.boxes[chosen], self.scores[chosen], self.labels[chosen])


@dataclass(frozen=True)
class PredictSettings:
    """How a detector turns its candidates into boxes where it is deployed.

    A card, or ``<file>.toml`` beside a model file, states them under these names.

    Attributes:
        score_threshold: Score in (0, 1) from which a box counts.
        nms_iou: Overlap in (0, 1] over which the lesser of two boxes of a class is dropped; 1 drops
            none.
        multi_label: Whether a candidate counts for each class that reaches the threshold.
        max_boxes: Largest number of boxes an image.

    Raises:
        ModelError: A value cannot be used.

    Example:
        >>> PredictSettings.of({"nms_iou": 0.7}).in_words()
        'score from 0.25, NMS at IoU 0.7, best class of each candidate, at most 300 boxes'
    """

    score_threshold: float = 0.25
    nms_iou: float = 0.45
    multi_label: bool = False
    max_boxes: int = 300

    def __post_init__(self) -> None:
        for name in ("score_threshold", "nms_iou"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value <= 1:
                raise ModelError(f"{name} {value!r}", "It lies in (0, 1]", "Correct the card")
        if not isinstance(self.multi_label, bool):
            raise ModelError(f"multi_label {self.multi_label!r}", "True or false", "Correct it")
        most = self.max_boxes
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 100_000:
            raise ModelError(f"max_boxes {most!r}", "1 to 100000", "Correct the card")

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> PredictSettings:
        """Return the settings among the entries of ``table``, such as a card's ``extra``."""
        names = ("score_threshold", "nms_iou", "multi_label", "max_boxes")
        return cls(**{name: table[name] for name in names if table.get(name) is not None})

    def in_words(self) -> str:
        """Return the settings in words, for cards and reports."""
        classes = "every class" if self.multi_label else "best class"
        suppression = "no NMS" if self.nms_iou == 1 else f"NMS at IoU {self.nms_iou:g}"
        return (
            f"score from {self.score_threshold:g}, {suppression}, {classes} of each candidate, at "
            f"most {self.max_boxes} boxes"
        )

    def boxes_of(self, detections: Detections, floor: float | None = None) -> list[DetectedBoxes]:
        """Return the boxes of each image of ``detections``; from the score ``floor`` instead of the
        threshold, where one is given."""
        return non_maximum_suppression(
            detections,
            self.score_threshold if floor is None else floor,
            self.nms_iou,
            multi_label=self.multi_label,
            limit=self.max_boxes,
        )


def predict_boxes(
    model: Callable[[Tensor], Any], images: Tensor, settings: PredictSettings | None = None
) -> list[DetectedBoxes]:
    """Return the boxes that a detector finds, as its own prediction does.

    Args:
        model: Detector that returns Detections before suppression.
        images: Images (b, 3, h, w) in [0, 1].
        settings: Threshold and suppression; None for those of the model's card.

    Returns:
        Boxes of each image, best first.

    Raises:
        ModelError: The model returns no Detections.
    """
    with torch.no_grad():
        detections = model(images)
    if not isinstance(detections, Detections):
        raise ModelError(
            f"a model that returned {type(detections).__name__}",
            "A detector is needed, which returns Detections",
            "Use the attacks on classifiers",
        )
    card = getattr(model, "card", None)
    chosen = settings or PredictSettings.of(card.extra if card is not None else {})
    return chosen.boxes_of(detections)


def non_maximum_suppression(
    detections: Detections,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.45,
    *,
    multi_label: bool = False,
    limit: int = 300,
) -> list[DetectedBoxes]:
    """Suppress overlapping boxes greedily within each class.

    Only selects: boxes and scores stay those of ``detections``, gradients included.

    Args:
        detections: Candidates of a batch, boxes (b, n, 4) in px and scores (b, n, classes).
        score_threshold: Lowest score of a box that counts, in [0, 1].
        iou_threshold: A box is dropped when a better one of its class that stays overlaps it by
            more than this, in [0, 1].
        multi_label: Whether a candidate counts for every class that reaches the threshold, instead
            of for its best class alone.
        limit: Largest number of boxes an image.

    Returns:
        One :class:`DetectedBoxes` an image, best first.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[[0.0, 0, 10, 10], [1.0, 0, 11, 10]]])
        >>> detections = Detections(boxes, torch.tensor([[[0.9], [0.8]]]))
        >>> len(non_maximum_suppression(detections)[0])
        1
    """
    pairs = zip(detections.boxes, detections.scores, strict=True)
    return [
        _suppress(_candidates(b, s, score_threshold, multi_label), iou_threshold, limit)
        for b, s in pairs
    ]


def _candidates(
    boxes: Tensor, scores: Tensor, threshold: float, multi_label: bool
) -> DetectedBoxes:
    """Boxes (n, 4) and scores (n, classes) -> those at or over the threshold, best first."""
    reaches = scores >= threshold
    if not multi_label:
        best = torch.zeros_like(reaches).scatter_(1, scores.argmax(1, keepdim=True), True)
        reaches = reaches & best
    which, label = reaches.nonzero(as_tuple=True)
    order = scores[which, label].argsort(descending=True, stable=True)
    which, label = which[order], label[order]
    return DetectedBoxes(boxes[which], scores[which, label], label)


def _suppress(candidates: DetectedBoxes, threshold: float, limit: int) -> DetectedBoxes:
    with torch.no_grad():
        hits = (box_iou(candidates.boxes, candidates.boxes) > threshold) & (
            candidates.labels[:, None] == candidates.labels[None]
        )
        hits = hits.triu(1)  # hits[i, j]: i is better than j and would suppress it
        keep = torch.ones(len(candidates), dtype=torch.bool, device=hits.device)

        # Greedy suppression as a fixed point: each round settles at least one more box, mostly all
        # in a few rounds.
        while True:
            settled = ~(hits & keep[:, None]).any(0)
            if torch.equal(settled, keep):
                break
            keep = settled
    index = keep.nonzero()[:, 0][:limit]
    return DetectedBoxes(
        candidates.boxes[index], candidates.scores[index], candidates.labels[index]
    )


def best_of_class(
    detections: Detections, label: int, box: Tensor | None = None, min_iou: float = 0.5
) -> Float[Tensor, " b"]:
    """Return the best score of one class in each image, differentiable.

    Args:
        detections: Candidates of a batch.
        label: Class index.
        box: Corners (4,) or (b, 4) in px; only candidates that overlap it count. None counts all.
        min_iou: Smallest overlap with ``box`` that counts, in [0, 1].

    Returns:
        Scores (b,); 0 where no candidate qualifies.
    """
    scores = detections.scores[..., label]
    if box is None:
        return scores.amax(1)
    target = box.to(detections.boxes).expand(scores.shape[0], 4)[:, None]
    near = box_iou(detections.boxes.detach(), target)[..., 0] >= min_iou
    return torch.where(near, scores, torch.zeros_like(scores)).amax(1)
