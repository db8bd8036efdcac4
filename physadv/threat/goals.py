"""What a patch is for: targeted class, untargeted, or vanish; its loss, and apart from it what counts as success."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.errors import OptionError, VictimError
from physadv.core.types import Detections, Prediction

GOALS = ("targeted", "untargeted", "vanish")


@dataclass(frozen=True)
class Goal:
    """A patch's goal on signs of ``true_class``.

    For a detector a sign is seen as a class where a candidate of that class reaches ``score_threshold`` and overlaps
    the sign's box by ``min_iou``. "untargeted" on a detector is "vanish": the sign is no longer seen as what it is.
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
        if self.kind == "targeted" and self.target_class in (None, self.true_class):
            raise OptionError("goal 'targeted'", "needs a class other than the true one", "give --target CLASS")

    def loss(self, prediction: Prediction, boxes: Tensor) -> Tensor:
        """(b,), lower is better for the attacker. ``boxes`` (b, 4): the sign's box in px."""
        if isinstance(prediction, Detections):
            return self._detector_loss(prediction, boxes)
        aim = self.true_class if self.target_class is None else self.target_class
        logits = _checked(prediction, max(self.true_class, aim))
        others = logits.scatter(1, torch.full_like(logits[:, :1], aim, dtype=torch.long), float("-inf")).amax(1)
        margin = others - logits[:, aim]
        return F.softplus((margin if self.kind == "targeted" else -margin) + self.confidence)

    def succeeded(self, prediction: Prediction, boxes: Tensor) -> Tensor:
        """(b,) bool: the attacker got what the goal asks for."""
        if self.kind == "targeted" and self.target_class is not None:
            return self._seen(prediction, boxes, self.target_class)
        return ~self.recognised(prediction, boxes)

    def recognised(self, prediction: Prediction, boxes: Tensor) -> Tensor:
        """(b,) bool: the victim still sees the true class."""
        return self._seen(prediction, boxes, self.true_class)

    def confidence_of_truth(self, prediction: Prediction, boxes: Tensor) -> Tensor:
        """(b,) in [0, 1]: softmax probability, or the best score at the sign, of the true class."""
        if isinstance(prediction, Detections):
            return _score_at(prediction, boxes, self.true_class, self.min_iou)
        return prediction.float().softmax(1)[:, self.true_class]

    def _seen(self, prediction: Prediction, boxes: Tensor, label: int) -> Tensor:
        if isinstance(prediction, Detections):
            return _score_at(prediction, boxes, label, self.min_iou) >= self.score_threshold
        return _checked(prediction, label).argmax(1) == label

    def _detector_loss(self, prediction: Detections, boxes: Tensor) -> Tensor:
        near = overlap(prediction.boxes.detach(), boxes) >= 0.1
        hidden = _burden(prediction.scores[..., self.true_class], near)
        if self.kind != "targeted" or self.target_class is None:
            return hidden
        wanted = prediction.scores[..., self.target_class].masked_fill(~near, 0).amax(1)
        return hidden - wanted.clamp(1e-4, 1).log()


def overlap(candidates: Tensor, boxes: Tensor) -> Tensor:
    """IoU of (b, n, 4) candidates with the (b, 4) box of each scene: (b, n)."""
    low = torch.maximum(candidates[..., :2], boxes[:, None, :2])
    high = torch.minimum(candidates[..., 2:], boxes[:, None, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = (candidates[..., 2:] - candidates[..., :2]).clamp(min=0).prod(-1)
    return shared / (areas + (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None] - shared).clamp(min=1e-9)


def _score_at(prediction: Detections, boxes: Tensor, label: int, min_iou: float) -> Tensor:
    near = overlap(prediction.boxes, boxes) >= min_iou
    return prediction.scores[..., label].masked_fill(~near, 0).amax(1)


def _burden(scores: Tensor, near: Tensor, strongest: int = 8) -> Tensor:
    """Sum of -log(1 - score) over the strongest candidates near the sign: pulls down all that could take over."""
    kept = scores.masked_fill(~near, 0).topk(min(strongest, scores.shape[1]), 1).values
    return -torch.log1p(-kept.clamp(0, 1 - 1e-4)).sum(1)


def _checked(logits: Tensor, label: int) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] <= label:
        shape = tuple(logits.shape)
        raise VictimError(f"output of shape {shape}", f"needs (b, classes) with class {label}", "check the victim")
    return logits
