"""One verdict per frame from a model's output, for classifiers of crops and detectors of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from physadv.camera.localization.boxes import Box
from physadv.core.boxes import box_iou
from physadv.core.errors import ModelError, OptionError
from physadv.core.types import Detections, Prediction
from physadv.models.cards import ModelCard

NOTHING = "nothing"
"""Verdict on a sign that no detection overlaps."""

THRESHOLD, IOU = 0.25, 0.3
"""Score from which a detection counts (the usual working point of small detectors; a model's card
may name a better one), and overlap from which it belongs to the sign (a patch may bend the box, so
the 0.5 of PASCAL VOC, Everingham et al. 2010, is too strict)."""


class CardedModel(Protocol):
    """A model with a card, such as a :class:`~physadv.models.cards.LoadedModel`."""

    @property
    def card(self) -> ModelCard:
        """Name, task and classes of the model."""

    def __call__(self, images: torch.Tensor) -> Prediction:
        """Return logits or detections of ``images`` (b, 3, h, w) in [0, 1]."""


@dataclass(frozen=True)
class VerdictRule:
    """Rule that turns a model's output into a verdict and decides whether the attacker's goal is
    met.

    Attributes:
        goal: "targeted", "untargeted" or "vanish".
        card: Card of the model, which names the classes.
        true_class: Index of the sign's class.
        target_class: Index of the class aimed at, where the goal has one.
        threshold: Score in (0, 1] from which a detection counts.
        iou: Overlap in (0, 1] from which a detection belongs to the sign.
    """

    goal: str
    card: ModelCard
    true_class: int
    target_class: int | None = None
    threshold: float = THRESHOLD
    iou: float = IOU

    def name(self, index: int | None) -> str:
        """Return the name of class ``index``, or "nothing" for None."""
        return NOTHING if index is None else self.card.class_name(index)


@dataclass(frozen=True)
class FrameVerdict:
    """Verdict on the sign in one frame.

    Attributes:
        verdict: Name of the class that the model reports, or "nothing".
        confidence: Score of that class.
        true_score: Score of the true class.
        true: Whether the verdict is the true class.
        success: Whether the attacker's goal is met.
    """

    verdict: str
    confidence: float
    true_score: float
    true: bool
    success: bool


def verdict_rule(
    card: ModelCard,
    *,
    goal: str,
    true_class: str | int,
    target_class: str | int | None = None,
    threshold: float = THRESHOLD,
    iou: float = IOU,
) -> VerdictRule:
    """Build the rule for a model's card.

    Args:
        card: Card of the model under test.
        goal: "targeted", "untargeted" or "vanish".
        true_class: Class of the sign, by name or by index.
        target_class: Class aimed at; needed for "targeted".
        threshold: Score in (0, 1] from which a detection counts.
        iou: Overlap in (0, 1] from which a detection belongs to the sign.

    Returns:
        The rule, with classes by index.

    Raises:
        OptionError: The goal is unknown, a share is out of range, or the target is missing or the
            true class.
        ModelError: The card does not have a class.

    Example:
        >>> from physadv.models.cards import ModelCard
        >>> card = ModelCard("demo", classes=("stop", "yield"))
        >>> rule = verdict_rule(card, goal="targeted", true_class="stop", target_class="yield")
        >>> rule.true_class, rule.target_class
        (0, 1)
    """
    if goal not in {"targeted", "untargeted", "vanish"}:
        raise OptionError(
            f"goal {goal!r}", "one of targeted, untargeted, vanish", "Correct the goal"
        )
    for name, share in (("threshold", threshold), ("IoU", iou)):
        if not 0 < share <= 1:
            raise OptionError(f"{name} {share:g}", "above 0, at most 1", "Give a share")

    true = card.class_index(true_class)
    target = None if target_class is None else card.class_index(target_class)
    if goal == "targeted" and target is None:
        raise OptionError(
            "goal 'targeted'", "needs a target class", "Give one, or choose untargeted"
        )

    if target == true:
        raise OptionError(
            f"target class {card.class_name(true)!r}",
            "it is the true class",
            "Choose another target",
        )

    return VerdictRule(goal, card, true, target, threshold, iou)


def frame_verdicts(
    prediction: Prediction, boxes: Sequence[Box | None], rule: VerdictRule
) -> list[FrameVerdict]:
    """Return one verdict per frame.

    Args:
        prediction: Logits (b, classes) of a classifier or the detections of a detector.
        boxes: Box of the sign in each frame, in pixels of the model's input; only detectors need
            them. None stands for anywhere in the frame.
        rule: Rule of :func:`verdict_rule`.

    Returns:
        The verdicts, in the order of the frames.

    Raises:
        ModelError: The output holds NaN or infinite scores, or its number of classes differs from
            the card's.

    Example:
        >>> import torch
        >>> from physadv.models.cards import ModelCard
        >>> card = ModelCard("demo", classes=("stop", "yield"))
        >>> rule = verdict_rule(card, goal="untargeted", true_class="stop")
        >>> verdicts = frame_verdicts(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), [None, None], rule)
        >>> [(v.verdict, v.success) for v in verdicts]
        [('stop', False), ('yield', True)]
    """
    if isinstance(prediction, Detections):
        _finite(prediction.scores, rule)
        _finite(prediction.boxes, None)
        scores = prediction.scores.detach().double().cpu().numpy()
        detections = prediction.boxes.detach().double().cpu().numpy()
        return [
            _detected(p, s, box, rule) for p, s, box in zip(detections, scores, boxes, strict=True)
        ]

    _finite(prediction, rule)
    shares = prediction.detach().double().softmax(-1).cpu()
    return [_classified(row, rule) for row in shares]


def _classified(shares: torch.Tensor, rule: VerdictRule) -> FrameVerdict:
    best = int(shares.argmax())
    return _answer(best, float(shares[best]), float(shares[rule.true_class]), rule)


def _overlaps(box: Box, boxes: np.ndarray) -> np.ndarray:
    """Return the intersection over union (n,) of ``box`` with ``boxes`` (n, 4)."""
    one = torch.tensor([box], dtype=torch.float64)
    return np.asarray(box_iou(one, torch.from_numpy(boxes))[0].numpy())


def _detected(
    detections: np.ndarray, scores: np.ndarray, box: Box | None, rule: VerdictRule
) -> FrameVerdict:
    """Return the true class if a detection of it overlaps the sign, else the strongest other class
    that does, else nothing."""
    on_sign = scores if box is None else scores[_overlaps(box, detections) >= rule.iou]

    class_scores = on_sign.max(0) if len(on_sign) else np.zeros(scores.shape[-1])
    true_score = float(class_scores[rule.true_class])
    if true_score >= rule.threshold:
        return _answer(rule.true_class, true_score, true_score, rule)

    if box is None:
        # Other objects in the frame do not concern the sign, except for the class aimed at.
        others = np.zeros_like(class_scores)
        if rule.target_class is not None:
            others[rule.target_class] = class_scores[rule.target_class]
    else:
        others = class_scores

    strongest = int(others.argmax())
    strongest_class = strongest if others[strongest] >= rule.threshold else None
    return _answer(
        strongest_class,
        float(others[strongest]) if strongest_class is not None else 0.0,
        true_score,
        rule,
    )


def _answer(
    index: int | None, confidence: float, true_score: float, rule: VerdictRule
) -> FrameVerdict:
    true = index == rule.true_class
    success = index == rule.target_class if rule.goal == "targeted" else not true
    return FrameVerdict(rule.name(index), round(confidence, 6), round(true_score, 6), true, success)


def _finite(values: torch.Tensor, rule: VerdictRule | None) -> None:
    if rule is not None and rule.card.classes and values.shape[-1] != len(rule.card.classes):
        limit = f"its card names {len(rule.card.classes)}"
        raise ModelError(
            f"the model returned {values.shape[-1]} classes",
            limit,
            "Use the card that belongs to it",
        )

    if not bool(torch.isfinite(values).all()):
        kind = "NaN" if bool(torch.isnan(values).any()) else "infinite scores"
        raise ModelError(
            f"the model returned {kind}", "finite numbers are needed", "Check its weights"
        )
