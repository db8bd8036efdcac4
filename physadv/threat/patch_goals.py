"""Goals of adversarial patches: the loss that leads to each, and the criterion of success.

For a classifier a scene contains one object, of the true class. For a detector each entry of
:class:`Annotations` is one object in one scene: a sign, a person, or a box where no object is and
one should appear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.boxes import box_iou
from physadv.core.errors import ModelError, OptionError
from physadv.core.types import Detections, Prediction

GOALS = ("targeted", "untargeted", "vanish", "misclassify", "create")
_LEAST_SCORE = 1e-8
"""Score below which a class that should appear has no gradient. Detectors that multiply two
probabilities give 1e-6 to a class that nothing suggests."""


@dataclass(frozen=True)
class Annotations:
    """Objects on which a patch is evaluated.

    Args:
        boxes: Boxes (m, 4), x0, y0, x1, y1 in px.
        labels: True classes (m,); None where all are of the goal's true class.
        scene: Index (m,) of each object's scene; None for one object a scene, in order.
    """

    boxes: Tensor
    labels: Tensor | None = None
    scene: Tensor | None = None

    def to(self, device: torch.device) -> Annotations:
        """Return a copy on ``device``."""
        labels, scene = (None if t is None else t.to(device) for t in (self.labels, self.scene))
        return Annotations(self.boxes.to(device), labels, scene)

    def part(self, rows: slice) -> Annotations:
        """Return the objects in the scenes ``rows``, a slice with both ends."""
        if self.scene is None:
            return Annotations(self.boxes[rows], None if self.labels is None else self.labels[rows])
        inside = (self.scene >= rows.start) & (self.scene < rows.stop)
        return Annotations(
            self.boxes[inside],
            None if self.labels is None else self.labels[inside],
            self.scene[inside] - rows.start,
        )

    def of(self, prediction: Prediction) -> Prediction:
        """Return ``prediction`` with one row for each object in place of one for each scene."""
        if self.scene is None:
            return prediction
        if isinstance(prediction, Detections):
            return Detections(prediction.boxes[self.scene], prediction.scores[self.scene])
        return prediction[self.scene]


@dataclass(frozen=True)
class PatchGoal:
    """Goal of a patch on objects of a true class.

    A classifier recognizes an object as the class with the highest score. A detector recognizes it
    as a class where a candidate of that class reaches ``score_threshold`` and overlaps the object's
    box by ``min_iou``. The goals:

    * ``untargeted``: the object is not recognized as its true class; for a detector the same as
      ``vanish``;
    * ``targeted``: it is recognized as ``target_class``, whatever else is detected;
    * ``misclassify``: it is not recognized as its true class, but as ``target_class`` or, without
      one, as any other class;
    * ``create``: a box of ``target_class`` appears on the annotated box, where the clean scene has
      none (detectors only). Its size is free: half of the smaller box must lie in the other.

    Args:
        kind: Name of the goal.
        true_class: True class of the objects.
        target_class: Class that should be recognized instead.
        score_threshold: Score from which a detection counts, 0 to 1.
        min_iou: Intersection over union from which a detection is on the object, 0 to 1.
        confidence: Margin in logits beyond which a broken scene has little weight in the loss.
        avoided_class: Class of a classifier that the loss does not aim at where any other than the
            true one will do; None: it aims at the nearest. To reach it is a success all the same.

    Raises:
        OptionError: The goal is unknown, or needs another target class.

    Example:
        >>> import torch
        >>> from physadv.threat.patch_goals import PatchGoal
        >>> goal, logits = PatchGoal("targeted", 0, target_class=1), torch.tensor([[1.0, 2.0]])
        >>> goal.succeeded(logits, torch.zeros(1, 4)).tolist()
        [True]
    """

    kind: str
    true_class: int
    target_class: int | None = None
    score_threshold: float = 0.25
    min_iou: float = 0.3
    confidence: float = 1.0
    avoided_class: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in GOALS:
            raise OptionError(f"goal {self.kind!r}", f"one of {', '.join(GOALS)}", "Change --goal")

        # Goals that need a target class, or another one than the true class.
        if self.kind == "create" and self.target_class is None:
            raise OptionError(
                "goal 'create'", "needs the class that should appear", "Give --target CLASS"
            )
        if self.kind == "targeted" and self.target_class in (None, self.true_class):
            raise OptionError(
                "goal 'targeted'", "needs a class other than the true one", "Give --target CLASS"
            )
        if self.kind == "misclassify" and self.target_class == self.true_class:
            raise OptionError(
                "goal 'misclassify'", "the target is the true class", "Give another --target"
            )

    def loss(self, prediction: Prediction, annotations: Annotations | Tensor) -> Tensor:
        """Return the loss (m,) of each object; lower is better for the attacker.

        Args:
            prediction: Logits (b, classes), or detections of b scenes.
            annotations: The objects, or just their boxes (m, 4) in px.

        Raises:
            OptionError: The goal is for detectors only.
            ModelError: The prediction has too few classes.
        """
        prediction, boxes, labels = self._by_object(prediction, annotations)
        if isinstance(prediction, Detections):
            return self._detector_loss(prediction, boxes, labels)

        target = self._target()
        classes = labels if target is None else torch.full_like(labels, target)
        others = prediction.scatter(1, classes[:, None], float("-inf"))
        if target is None and self.avoided_class is not None:
            others[:, self.avoided_class] = float("-inf")
        margin = others.amax(1) - prediction.gather(1, classes[:, None])[:, 0]
        return F.softplus((-margin if target is None else margin) + self.confidence)

    def succeeded(self, prediction: Prediction, annotations: Annotations | Tensor) -> Tensor:
        """Return for each object (m,) whether the goal is reached.

        ``prediction`` and ``annotations`` are as in :meth:`loss`.
        """
        prediction, boxes, labels = self._by_object(prediction, annotations)
        if self.kind == "create":
            return self._target_score(prediction, boxes) >= self.score_threshold

        recognized = self._recognized_as(prediction, boxes, labels)
        if self.kind not in ("targeted", "misclassify"):
            return ~recognized

        target = self._target()
        if target is not None:
            hit = self._recognized_as(prediction, boxes, torch.full_like(labels, target))
            return hit if self.kind == "targeted" else hit & ~recognized
        if isinstance(prediction, Detections):
            other_score = _best_other(prediction, boxes, labels, self.min_iou)
            return (other_score >= self.score_threshold) & ~recognized
        return ~recognized

    def recognized(self, prediction: Prediction, annotations: Annotations | Tensor) -> Tensor:
        """Return for each object (m,) whether its true class is recognized.

        For ``create``, whether no target is detected. ``prediction`` and ``annotations`` are as in
        :meth:`loss`.
        """
        if self.kind == "create":
            return ~self.succeeded(prediction, annotations)
        return self._recognized_as(*self._by_object(prediction, annotations))

    def confidence_of_truth(
        self, prediction: Prediction, annotations: Annotations | Tensor
    ) -> Tensor:
        """Return the confidence (m,) in each object's true class, 0 to 1.

        It is the softmax probability, or the best score on the object; for ``create``, one less the
        score of the target. ``prediction`` and ``annotations`` are as in :meth:`loss`.
        """
        prediction, boxes, labels = self._by_object(prediction, annotations)
        if self.kind == "create":
            return 1 - self._target_score(prediction, boxes)
        if isinstance(prediction, Detections):
            return _score_at(prediction, boxes, labels, self.min_iou)
        return prediction.float().softmax(1).gather(1, labels[:, None])[:, 0]

    def _target(self) -> int | None:
        """Return the class to be recognized instead; None where any other will do."""
        return self.target_class if self.kind in ("targeted", "misclassify", "create") else None

    def _by_object(
        self, prediction: Prediction, annotations: Annotations | Tensor
    ) -> tuple[Prediction, Tensor, Tensor]:
        """Return predictions, boxes and true classes with one row for each object."""
        if isinstance(annotations, Tensor):
            annotations = Annotations(annotations)
        prediction = annotations.of(prediction)
        detects = isinstance(prediction, Detections)
        if self.kind == "create" and not detects:
            raise OptionError(
                "goal 'create'", "is for detectors only", "Use --goal targeted on a classifier"
            )

        # A target can be created in a scene of any class.
        scores = prediction.scores if isinstance(prediction, Detections) else prediction
        count = scores.shape[0]
        if annotations.labels is None or self.kind == "create":
            labels = torch.full((count,), self.true_class, dtype=torch.long, device=scores.device)
        else:
            labels = annotations.labels.to(scores.device)

        named = (self._target() or 0, self.avoided_class or 0)
        highest = max(int(labels.max()) if count else 0, *named)
        if scores.ndim != (3 if detects else 2) or scores.shape[-1] <= highest:
            raise ModelError(
                f"output of shape {tuple(scores.shape)}",
                f"needs (b, classes) with class {highest}",
                "Check the model and the class numbers",
            )
        return prediction, annotations.boxes, labels

    def _recognized_as(self, prediction: Prediction, boxes: Tensor, labels: Tensor) -> Tensor:
        if isinstance(prediction, Detections):
            return _score_at(prediction, boxes, labels, self.min_iou) >= self.score_threshold
        return prediction.argmax(1) == labels

    def _target_score(self, prediction: Prediction, boxes: Tensor, least: float = 0.5) -> Tensor:
        """Return the best score (m,) of the target among candidates on the annotated box.

        A candidate is on the box where they share ``least`` of the smaller of both.
        """
        assert isinstance(prediction, Detections)  # checked in _by_object
        near = _overlap_with_own(prediction.boxes.detach(), boxes, of_smaller=True) >= least
        return prediction.scores[..., int(self.target_class or 0)].masked_fill(~near, 0).amax(1)

    def _detector_loss(self, prediction: Detections, boxes: Tensor, labels: Tensor) -> Tensor:
        if self.kind == "create":
            return -self._target_score(prediction, boxes, 0.3).clamp(_LEAST_SCORE, 1).log()

        near = _overlap_with_own(prediction.boxes.detach(), boxes) >= 0.1
        hiding = _hiding_loss(_class_scores(prediction, labels), near)

        if self._target() is not None:
            target_scores = prediction.scores[..., int(self.target_class or 0)]
            other = target_scores.masked_fill(~near, 0).amax(1)
        elif self.kind == "misclassify":
            other = _best_other(prediction, boxes, labels, 0.1)
        else:
            return hiding
        return hiding - other.clamp(_LEAST_SCORE, 1).log()


def _overlap_with_own(candidates: Tensor, boxes: Tensor, *, of_smaller: bool = False) -> Tensor:
    """Return the overlap (m, n) of (m, n, 4) candidate boxes with the (m, 4) box of their row."""
    return box_iou(candidates, boxes[:, None], of_smaller=of_smaller)[..., 0]


def _class_scores(prediction: Detections, labels: Tensor) -> Tensor:
    """Return each candidate's score (m, n) of the class of its row."""
    index = labels[:, None, None].expand(*prediction.scores.shape[:2], 1)
    return prediction.scores.gather(2, index)[..., 0]


def _score_at(prediction: Detections, boxes: Tensor, labels: Tensor, min_iou: float) -> Tensor:
    near = _overlap_with_own(prediction.boxes, boxes) >= min_iou
    return _class_scores(prediction, labels).masked_fill(~near, 0).amax(1)


def _best_other(prediction: Detections, boxes: Tensor, labels: Tensor, min_iou: float) -> Tensor:
    """Return the best score (m,) on each object of any class but the true one."""
    near = _overlap_with_own(prediction.boxes.detach(), boxes) >= min_iou
    index = labels[:, None, None].expand(*prediction.scores.shape[:2], 1)
    others = prediction.scores.scatter(2, index, 0.0).amax(2)
    return others.masked_fill(~near, 0).amax(1)


def _hiding_loss(scores: Tensor, near: Tensor, strongest: int = 8) -> Tensor:
    """Return the sum (m,) of -log(1 - score) over the strongest candidates near each object.

    Several candidates count, since the next would take over where one is suppressed.
    """
    top = scores.masked_fill(~near, 0).topk(min(strongest, scores.shape[1]), 1).values
    return -torch.log1p(-top.clamp(0, 1 - 1e-4)).sum(1)
