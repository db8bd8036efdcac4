"""What a patch is for: its goal, the loss that leads there, and apart from it what counts as
success.

On a classifier a scene holds one thing, the true class. On a detector every :class:`Annotations` line is
one object in one scene: a sign, a person, or the place where there is none and one shall appear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.errors import ModelError, OptionError
from physadv.core.types import Detections, Prediction

GOALS = ("targeted", "untargeted", "vanish", "misclassify", "create")


@dataclass(frozen=True)
class Annotations:
    """What is judged, one object a line: ``boxes`` (m, 4) px, true classes ``labels`` (m,), and its
    ``scene`` (m,).

    ``labels`` None: all are of the goal's true class. ``scene`` None: one object a scene, in their
    order.
    """

    boxes: Tensor
    labels: Tensor | None = None
    scene: Tensor | None = None

    def to(self, device: torch.device) -> Annotations:
        """The same on another device."""
        labels, scene = (None if t is None else t.to(device) for t in (self.labels, self.scene))
        return Annotations(self.boxes.to(device), labels, scene)

    def of(self, prediction: Prediction) -> Prediction:
        """The prediction with one line an object instead of one a scene."""
        if self.scene is None:
            return prediction
        if isinstance(prediction, Detections):
            return Detections(prediction.boxes[self.scene], prediction.scores[self.scene])
        return prediction[self.scene]


@dataclass(frozen=True)
class PatchGoal:
    """A patch's goal on objects of ``true_class``.

    For a detector an object is seen as a class where a candidate of that class reaches
    ``score_threshold`` and overlaps the object's box by ``min_iou``. The goals:

    * ``untargeted``: no longer seen as what it is; on a detector the same as ``vanish``;
    * ``targeted``: seen as ``target_class``, whatever else is seen;
    * ``misclassify``: the box stays and its class changes: no longer seen as what it is, but as
      ``target_class`` or,
      without one, as any other class;
    * ``create``: a box of ``target_class`` appears on the marked place, where the clean scene has
      none (detectors). Its
      size is free: the smaller of the two boxes must lie in the other by half.
    """

    kind: str
    true_class: int
    target_class: int | None = None
    score_threshold: float = 0.25
    min_iou: float = 0.3
    confidence: float = 1.0
    """Margin in logits beyond which a scene that is already won weighs little."""

    def __post_init__(self) -> None:
        if self.kind not in GOALS:
            raise OptionError(f"goal {self.kind!r}", f"one of {', '.join(GOALS)}", "change --goal")
        if self.kind == "create" and self.target_class is None:
            raise OptionError(
                "goal 'create'", "needs the class that shall appear", "give --target CLASS"
            )
        if self.kind == "targeted" and self.target_class in (None, self.true_class):
            raise OptionError(
                "goal 'targeted'", "needs a class other than the true one", "give --target CLASS"
            )
        if self.kind == "misclassify" and self.target_class == self.true_class:
            raise OptionError(
                "goal 'misclassify'", "the target is the true class", "give another --target"
            )

    def loss(self, prediction: Prediction, marks: Annotations | Tensor) -> Tensor:
        """(m,), lower is better for the attacker. ``marks``: the objects, or just their boxes (m,
        4) in px."""
        prediction, boxes, labels = self._judged(prediction, marks)
        if isinstance(prediction, Detections):
            return self._detector_loss(prediction, boxes, labels)
        aim = self._aim()
        wanted = labels if aim is None else torch.full_like(labels, aim)
        others = prediction.scatter(1, wanted[:, None], float("-inf")).amax(1)
        margin = others - prediction.gather(1, wanted[:, None])[:, 0]
        return F.softplus((-margin if aim is None else margin) + self.confidence)

    def succeeded(self, prediction: Prediction, marks: Annotations | Tensor) -> Tensor:
        """(m,) bool: the attacker got what the goal asks for."""
        prediction, boxes, labels = self._judged(prediction, marks)
        if self.kind == "create":
            return self._target_score(prediction, boxes) >= self.score_threshold
        true = self._seen(prediction, boxes, labels)
        if self.kind not in ("targeted", "misclassify"):
            return ~true
        aim = self._aim()
        if aim is not None:
            target = self._seen(prediction, boxes, torch.full_like(labels, aim))
            return target if self.kind == "targeted" else target & ~true
        if isinstance(prediction, Detections):
            return (
                _best_other(prediction, boxes, labels, self.min_iou) >= self.score_threshold
            ) & ~true
        return ~true

    def recognised(self, prediction: Prediction, marks: Annotations | Tensor) -> Tensor:
        """(m,) bool: the victim sees what is there: the true class, or for ``create`` no target."""
        if self.kind == "create":
            return ~self.succeeded(prediction, marks)
        return self._seen(*self._judged(prediction, marks))

    def confidence_of_truth(self, prediction: Prediction, marks: Annotations | Tensor) -> Tensor:
        """(m,) in [0, 1]: softmax probability, or best score on the object, of the true class
        (``create``: of none)."""
        prediction, boxes, labels = self._judged(prediction, marks)
        if self.kind == "create":
            return 1 - self._target_score(prediction, boxes)
        if isinstance(prediction, Detections):
            return _score_at(prediction, boxes, labels, self.min_iou)
        return prediction.float().softmax(1).gather(1, labels[:, None])[:, 0]

    def _aim(self) -> int | None:
        """The class to be seen instead, None where any will do."""
        return self.target_class if self.kind in ("targeted", "misclassify", "create") else None

    def _judged(
        self, prediction: Prediction, marks: Annotations | Tensor
    ) -> tuple[Prediction, Tensor, Tensor]:
        """Prediction, boxes and true classes, one line an object each."""
        marks = Annotations(marks) if isinstance(marks, Tensor) else marks
        prediction = marks.of(prediction)
        detects = isinstance(prediction, Detections)
        if self.kind == "create" and not detects:
            raise OptionError(
                "goal 'create'", "is for detectors", "use --goal targeted on a classifier"
            )
        scores = prediction.scores if isinstance(prediction, Detections) else prediction
        count = scores.shape[0]
        if (
            marks.labels is None or self.kind == "create"
        ):  # which class the photo is of is no matter there
            labels = torch.full((count,), self.true_class, dtype=torch.long, device=scores.device)
        else:
            labels = marks.labels.to(scores.device)
        highest = max(int(labels.max()) if count else 0, self._aim() or 0)
        if (
            scores.ndim != (3 if isinstance(prediction, Detections) else 2)
            or scores.shape[-1] <= highest
        ):
            shape = tuple(scores.shape)
            raise ModelError(
                f"output of shape {shape}",
                f"needs (b, classes) with class {highest}",
                "check the victim",
            )
        return prediction, marks.boxes, labels

    def _seen(self, prediction: Prediction, boxes: Tensor, labels: Tensor) -> Tensor:
        if isinstance(prediction, Detections):
            return _score_at(prediction, boxes, labels, self.min_iou) >= self.score_threshold
        return prediction.argmax(1) == labels

    def _target_score(self, prediction: Prediction, boxes: Tensor, least: float = 0.5) -> Tensor:
        """(m,): the best score of the target among the candidates that share half of the smaller
        box with the mark."""
        assert isinstance(prediction, Detections)  # _judged has seen to it
        on = box_overlap(prediction.boxes.detach(), boxes, of_smaller=True) >= least
        return prediction.scores[..., int(self.target_class or 0)].masked_fill(~on, 0).amax(1)

    def _detector_loss(self, prediction: Detections, boxes: Tensor, labels: Tensor) -> Tensor:
        if self.kind == "create":
            return -self._target_score(prediction, boxes, 0.3).clamp(1e-4, 1).log()
        near = box_overlap(prediction.boxes.detach(), boxes) >= 0.1
        hidden = _burden(_class_scores(prediction, labels), near)
        if self._aim() is not None:
            wanted = (
                prediction.scores[..., int(self.target_class or 0)].masked_fill(~near, 0).amax(1)
            )
        elif self.kind == "misclassify":
            wanted = _best_other(prediction, boxes, labels, 0.1)
        else:
            return hidden
        return hidden - wanted.clamp(1e-4, 1).log()


def box_overlap(candidates: Tensor, boxes: Tensor, *, of_smaller: bool = False) -> Tensor:
    """IoU of (m, n, 4) candidates with the (m, 4) box of each line: (m, n); or their share of the
    smaller box."""
    low = torch.maximum(candidates[..., :2], boxes[:, None, :2])
    high = torch.minimum(candidates[..., 2:], boxes[:, None, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = (candidates[..., 2:] - candidates[..., :2]).clamp(min=0).prod(-1)
    own = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)[:, None]
    whole = torch.minimum(areas, own.expand_as(areas)) if of_smaller else areas + own - shared
    return shared / whole.clamp(min=1e-9)


def _class_scores(prediction: Detections, labels: Tensor) -> Tensor:
    """(m, n): each candidate's score of its line's own class."""
    index = labels[:, None, None].expand(*prediction.scores.shape[:2], 1)
    return prediction.scores.gather(2, index)[..., 0]


def _score_at(prediction: Detections, boxes: Tensor, labels: Tensor, min_iou: float) -> Tensor:
    near = box_overlap(prediction.boxes, boxes) >= min_iou
    return _class_scores(prediction, labels).masked_fill(~near, 0).amax(1)


def _best_other(prediction: Detections, boxes: Tensor, labels: Tensor, min_iou: float) -> Tensor:
    """(m,): the best score of any class but the true one on the object."""
    near = box_overlap(prediction.boxes.detach(), boxes) >= min_iou
    index = labels[:, None, None].expand(*prediction.scores.shape[:2], 1)
    others = prediction.scores.scatter(2, index, 0.0).amax(2)
    return others.masked_fill(~near, 0).amax(1)


def _burden(scores: Tensor, near: Tensor, strongest: int = 8) -> Tensor:
    """Sum of -log(1 - score) over the strongest candidates near the sign: pulls down all that could
    take over."""
    kept = scores.masked_fill(~near, 0).topk(min(strongest, scores.shape[1]), 1).values
    return -torch.log1p(-kept.clamp(0, 1 - 1e-4)).sum(1)
