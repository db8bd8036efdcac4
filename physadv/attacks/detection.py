"""Attacks of the epsilon ball on detectors: hide, fabricate, mislabel.

After Xie et al. (2017, DAG) and Chow et al. (2020, TOG). A detector's answer on an image becomes
two logits, of which the second wins exactly where the goal is met. So every attack on classifiers,
with and without gradients, is one on detectors, and the same checks judge its images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import pgd
from physadv.core.boxes import box_iou
from physadv.core.errors import OptionError
from physadv.core.findings import Finding
from physadv.core.types import Detections
from physadv.models.cards import LoadedModel
from physadv.models.detectors import DetectedBoxes, PredictSettings, predict_boxes

DetectorGoal = Literal["hide", "fabricate", "mislabel"]
GOALS: tuple[DetectorGoal, ...] = ("hide", "fabricate", "mislabel")
ON_OBJECT = 0.5
"""Overlap from which a candidate is on an object."""
_SPREAD = 50
"""Candidates that share the gradient of fabricated boxes."""
_TEMPERATURE = 0.3
_LEAST = 1e-6


@dataclass(frozen=True)
class DetectorAttackResult:
    """Adversarial images for a detector.

    Attributes:
        images: Images (b, 3, h, w) within the ball and in [0, 1].
        success: Whether (b,) the goal is met: all objects hidden, one false box or more, or all
            objects mislabeled. An image without an object is no success of "hide" or "mislabel".
        before: Boxes after suppression on the clean images.
        after: Boxes after suppression on ``images``.
        findings: Reasons not to believe the success.

    Example:
        >>> nothing = DetectorAttackResult(torch.zeros(0, 3, 8, 8), torch.zeros(0).bool(), (), ())
        >>> float(nothing.success.sum())
        0.0
    """

    images: Tensor
    success: Tensor
    before: tuple[DetectedBoxes, ...]
    after: tuple[DetectedBoxes, ...]
    findings: tuple[Finding, ...] = ()


class DetectorMargin(nn.Module):
    """A detector as a classifier of two classes: 0, the goal is not met; 1, it is met.

    Args:
        detector: Images (b, 3, h, w) to Detections.
        objects: Objects of the one image that it is asked about.
        goal: "hide": no candidate of an object's class is left on it. "fabricate": a candidate
            counts that lies on no object. "mislabel": on each object another class counts, and
            scores more than its own.
        threshold: Score from which a detection counts, in (0, 1).

    Raises:
        OptionError: The goal is unknown, or ``threshold`` out of range.
    """

    def __init__(
        self,
        detector: Callable[[Tensor], Detections],
        objects: DetectedBoxes,
        goal: DetectorGoal,
        threshold: float,
    ) -> None:
        super().__init__()
        _check(goal, threshold)
        self.detector, self.objects, self.goal = detector, objects, goal
        self.least = float(torch.logit(torch.tensor(threshold, dtype=torch.float64)))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, 2) of ``images`` (b, 3, h, w), all of the same scene."""
        found = self.detector(images)
        scores = found.scores.clamp(_LEAST, 1 - _LEAST).logit()
        boxes = self.objects.boxes.to(found.boxes)
        near = box_iou(found.boxes.detach(), boxes.expand(len(images), -1, -1)) >= ON_OBJECT
        if self.goal == "fabricate":
            margin = self._false_box(scores, near)
        else:
            margin = self._per_object(scores, near)
        return torch.stack([margin, -margin], 1) / 2

    def _false_box(self, scores: Tensor, near: Tensor) -> Tensor:
        """Margin (b,) to the first candidate that counts and lies on no object."""
        free = scores.amax(2).masked_fill(near.any(2), -20.0)
        best = free.topk(min(_SPREAD, free.shape[1]), 1).values
        # The value is the best one's; the gradient lifts many, so that one of them comes through.
        mean = best.mean(1)
        return self.least - (best[:, 0].detach() + mean - mean.detach())

    def _per_object(self, scores: Tensor, near: Tensor) -> Tensor:
        """Margin (b,) of the object for which most is left to do."""
        labels = self.objects.labels.to(scores.device)
        nothing = scores.new_full((), -20.0)
        on = near.transpose(1, 2)  # (b, objects, candidates)
        own = scores[..., labels].transpose(1, 2).where(on, nothing).amax(2)
        margins = own - self.least
        if self.goal == "mislabel":
            other = torch.stack(
                [
                    scores[..., torch.arange(scores.shape[2]) != int(label)].amax(2)
                    for label in labels
                ],
                1,
            )
            other = other.where(on, nothing).amax(2)
            margins = torch.maximum(own - other, self.least - other)
        soft = _TEMPERATURE * (margins / _TEMPERATURE).logsumexp(1)
        return margins.amax(1).detach() + soft - soft.detach()


def detector_attack(
    model: Callable[[Tensor], Detections],
    images: Tensor,
    *,
    eps: float,
    goal: DetectorGoal = "hide",
    norm: str = "linf",
    attack: Callable[..., AttackResult] = pgd,
    objects: Sequence[DetectedBoxes] | None = None,
    threshold: float | None = None,
    **settings: Any,
) -> DetectorAttackResult:
    """Attack a detector within an epsilon ball, image by image.

    Args:
        model: Detector: images (b, 3, h, w) in [0, 1] to Detections before suppression.
        images: Clean images (b, 3, h, w) in [0, 1].
        eps: Radius of the ball, in units of [0, 1].
        goal: "hide" the objects, "fabricate" boxes where there is none, or "mislabel" them.
        norm: Norm of the ball, as ``attack`` takes it.
        attack: Attack on classifiers, such as ``pgd``, ``apgd`` or ``square_attack``.
        objects: True objects of each image; None for what the detector finds on the clean ones.
        threshold: Score from which a detection counts; None for the model card's, else 0.25.
        **settings: Further settings of ``attack``, such as ``steps``.

    Returns:
        Images, success, and the boxes before and after.

    Raises:
        ModelError: The model is no detector.
        OptionError: The goal is unknown, or a setting out of range.
        ImageError: Images lie outside [0, 1].

    Example:
        >>> def detector(x):
        ...     level = x.mean((1, 2, 3))[:, None, None]
        ...     return Detections(x.new_tensor([[[0.0, 0, 4, 4]]]).repeat(len(x), 1, 1), level)
        >>> result = detector_attack(detector, torch.full((1, 3, 4, 4), 0.3), eps=0.1)
        >>> bool(result.success), len(result.before[0]), len(result.after[0])
        (True, 1, 0)
    """
    stated = model.card.extra if isinstance(model, LoadedModel) else {}
    predict = PredictSettings.of(stated)
    if threshold is not None:
        _check(goal, threshold)
        predict = replace(predict, score_threshold=threshold)
    threshold = predict.score_threshold
    _check(goal, threshold)
    before = _boxes(model, images, predict)
    if objects is not None and len(objects) != len(images):
        raise OptionError(
            f"{len(objects)} lists of objects for {len(images)} images", "One each", "Check them"
        )

    results, success, findings = [], [], []
    for number, image in enumerate(images):
        own = before[number] if objects is None else objects[number]
        if not len(own) and goal != "fabricate":
            results.append(image[None].clone())
            success.append(torch.zeros(1, dtype=torch.bool, device=images.device))
            continue
        margin = DetectorMargin(model, own, goal, threshold)
        label = torch.zeros(1, dtype=torch.long, device=images.device)
        result = attack(margin, image[None], label, eps=eps, norm=norm, **settings)
        results.append(result.images)
        success.append(result.success)
        findings += [f for f in result.findings if f not in findings]

    moved = torch.cat(results) if results else images.clone()
    return DetectorAttackResult(
        moved,
        torch.cat(success) if success else torch.zeros(0, dtype=torch.bool),
        before,
        _boxes(model, moved, predict),
        tuple(findings),
    )


def _check(goal: str, threshold: float) -> None:
    if goal not in GOALS:
        raise OptionError(f"goal {goal!r}", f"One of {', '.join(GOALS)}", "Choose one")
    if not 0 < threshold < 1:
        raise OptionError(f"threshold {threshold}", "It lies between 0 and 1", "Use 0.25")


def _boxes(
    model: Callable[[Tensor], Detections], images: Tensor, predict: PredictSettings
) -> tuple[DetectedBoxes, ...]:
    """Boxes of each image after suppression, one at a time."""
    return tuple(predict_boxes(model, image[None], predict)[0] for image in images)
