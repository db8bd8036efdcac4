"""What is done with a detector's dense candidates: overlap, suppression, and the score of one class
at one place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.core.types import Detections


@dataclass(frozen=True)
class DetectedBoxes:
    """What one image holds after suppression, best first: ``boxes`` (m, 4) px, ``scores`` (m,),
    ``labels`` (m,)."""

    boxes: Float[Tensor, "m 4"]
    scores: Float[Tensor, " m"]
    labels: Int[Tensor, " m"]

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def of_class(self, label: int) -> DetectedBoxes:
        """Only the boxes of one class."""
        chosen = self.labels == label
        return DetectedBoxes(self.boxes[chosen], self.scores[chosen], self.labels[chosen])


def box_areas(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Areas in px^2; a box turned inside out has none."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def box_iou(
    first: Float[Tensor, "*b n 4"], second: Float[Tensor, "*b m 4"]
) -> Float[Tensor, "*b n m"]:
    """Intersection over union of every pair of boxes, in [0, 1]; 0 where both are empty."""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    sides = (high - low).clamp_min(0)
    shared = sides[..., 0] * sides[..., 1]
    union = box_areas(first)[..., :, None] + box_areas(second)[..., None, :] - shared
    return shared / union.clamp_min(torch.finfo(union.dtype).tiny)


def non_maximum_suppression(
    detections: Detections,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.45,
    *,
    multi_label: bool = False,
    limit: int = 300,
) -> list[DetectedBoxes]:
    """Greedy suppression within each class; one :class:`DetectedBoxes` an image, best first, at most
    ``limit`` boxes.

    A candidate counts for its best class, or with ``multi_label`` for every class that reaches
    ``score_threshold``. A box goes when a better one *kept* of its class overlaps it by more than
    ``iou_threshold``. Only picks: the numbers stay those of ``detections``, gradients included.
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


def _suppress(found: DetectedBoxes, threshold: float, limit: int) -> DetectedBoxes:
    with torch.no_grad():
        hits = (box_iou(found.boxes, found.boxes) > threshold) & (
            found.labels[:, None] == found.labels[None]
        )
        hits = hits.triu(1)  # hits[i, j]: i is better than j and would suppress it
        keep = torch.ones(len(found), dtype=torch.bool, device=hits.device)
        # Greedy suppression as a fixed point: each round settles at least one more box, mostly all
        # in a few rounds.
        while True:
            settled = ~(hits & keep[:, None]).any(0)
            if torch.equal(settled, keep):
                break
            keep = settled
    index = keep.nonzero()[:, 0][:limit]
    return DetectedBoxes(found.boxes[index], found.scores[index], found.labels[index])


def best_of_class(
    detections: Detections, label: int, box: Tensor | None = None, min_iou: float = 0.5
) -> Float[Tensor, " b"]:
    """The best score of class ``label`` in each image, (b,), differentiable; 0 where no candidate
    qualifies.

    ``box`` (4,) or (b, 4) in px keeps to the candidates whose overlap with it is at least
    ``min_iou``.
    """
    scores = detections.scores[..., label]
    if box is None:
        return scores.amax(1)
    place = box.to(detections.boxes).expand(scores.shape[0], 4)[:, None]
    near = box_iou(detections.boxes.detach(), place)[..., 0] >= min_iou
    return torch.where(near, scores, torch.zeros_like(scores)).amax(1)
