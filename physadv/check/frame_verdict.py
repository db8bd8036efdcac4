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
from physadv.core.wording import count_noun
from physadv.models.cards import ModelCard
from physadv.models.detectors import non_maximum_suppression
from physadv.threat.patch_goals import GOALS

NOTHING = "nothing"
"""Verdict on an object that no detection overlaps."""
ANYWHERE = "anywhere"
"""True class of a patch that is on no object in particular."""

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

    Goals have the meaning of :class:`physadv.threat.patch_goals.PatchGoal`.

    Attributes:
        goal: One of ``physadv.threat.patch_goals.GOALS``.
        card: Card of the model, which names the classes.
        true_class: Index of the object's class; None where it does not matter, as for what shall
            appear where nothing is.
        target_class: Index of the class aimed at, where the goal has one.
        threshold: Score in (0, 1] from which a detection counts.
        iou: Overlap in (0, 1] from which a detection belongs to the object.
    """

    goal: str
    card: ModelCard
    true_class: int | None
    target_class: int | None = None
    threshold: float = THRESHOLD
    iou: float = IOU

    def name(self, index: int | None) -> str:
        """Return the name of class ``index``, or "nothing" for None."""
        return NOTHING if index is None else self.card.class_name(index)

    def claim(self, carrier: str) -> dict[str, str | None]:
        """Return the goal and its classes by name, for check.json; ``carrier`` is what carries the
        patch, where there is no true class."""
        return {
            "goal": self.goal,
            "true_class": carrier if self.true_class is None else self.name(self.true_class),
            "target_class": None if self.target_class is None else self.name(self.target_class),
        }

    @property
    def needs_place(self) -> bool:
        """Whether a detector's answer means nothing unless it is known where the object is: any
        other class anywhere in a frame is no misclassification."""
        return (
            self.card.task == "detect" and self.goal == "misclassify" and self.target_class is None
        )


@dataclass(frozen=True)
class FrameVerdict:
    """Verdict on the object in one frame.

    Attributes:
        verdict: Name of the class that the model reports, or "nothing".
        confidence: Score of that class.
        true_score: Score of the true class; where there is none, one less the target's score.
        true: Whether the model answers as it should without a patch: with the true class or, where
            there is none, without the target.
        success: Whether the attacker's goal is met.
        others: Detections of the true class beside the object, such as other persons; where the
            object's place is not known, all but one. None for classifiers.
    """

    verdict: str
    confidence: float
    true_score: float
    true: bool
    success: bool
    others: int | None = None


def verdict_rule(
    card: ModelCard,
    *,
    goal: str,
    true_class: str | int,
    target_class: str | int | None = None,
    threshold: float | None = None,
    iou: float = IOU,
) -> VerdictRule:
    """Build the rule for a model's card.

    Args:
        card: Card of the model under test.
        goal: One of ``physadv.threat.patch_goals.GOALS``; "create" is for detectors.
        true_class: Class of the object, by name or by index; "anywhere" for "targeted" on no
            object in particular. It does not matter for "create".
        target_class: Class aimed at; needed for "targeted" and "create".
        threshold: Score in (0, 1] from which a detection counts; None: the card's, else 0.25.
        iou: Overlap in (0, 1] from which a detection belongs to the object.

    Returns:
        The rule, with classes by index.

    Raises:
        OptionError: The goal is unknown, not for this model, a share is out of range, or the
            target is missing or the true class.
        ModelError: The card does not have a class.

    Example:
        >>> from physadv.models.cards import ModelCard
        >>> card = ModelCard("demo", classes=("stop", "yield"))
        >>> rule = verdict_rule(card, goal="targeted", true_class="stop", target_class="yield")
        >>> rule.true_class, rule.target_class
        (0, 1)
    """
    if threshold is None:
        threshold = float(card.extra.get("score_threshold", THRESHOLD))
    if goal not in GOALS:
        raise OptionError(f"goal {goal!r}", f"one of {', '.join(GOALS)}", "Correct the goal")
    if goal == "create" and card.task != "detect":
        raise OptionError(
            "goal 'create'", f"is for detectors, {card.name} classifies", "Use --goal targeted"
        )
    for name, share in (("threshold", threshold), ("IoU", iou)):
        if not 0 < share <= 1:
            raise OptionError(f"{name} {share:g}", "above 0, at most 1", "Give a share")

    target = None
    if goal in ("targeted", "misclassify", "create") and target_class is not None:
        target = card.class_index(target_class)
    if goal in ("targeted", "create") and target is None:
        raise OptionError(f"goal {goal!r}", "needs a target class", "Give it with --target")

    anywhere = goal == "targeted" and true_class == ANYWHERE
    true = None if goal == "create" or anywhere else card.class_index(true_class)
    if target is not None and target == true:
        raise OptionError(
            f"target class {card.class_name(target)!r}",
            "it is the true class",
            "Choose another target",
        )
    return VerdictRule(goal, card, true, target, threshold, iou)


def frame_verdicts(
    prediction: Prediction,
    boxes: Sequence[Box | None],
    rule: VerdictRule,
    *,
    parts: Sequence[bool] | None = None,
) -> list[FrameVerdict]:
    """Return one verdict per frame.

    Args:
        prediction: Logits (b, classes) of a classifier or the detections of a detector.
        boxes: Box of the object in each frame, in pixels of the model's input; only detectors need
            them. None stands for anywhere in the frame.
        rule: Rule of :func:`verdict_rule`.
        parts: Whether each box is that of the sticker on an object whose extent is not known, such
            as a person. Detections that hold half of the sticker belong to the object then.

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
        on_parts = parts or [False] * len(boxes)
        return [
            _detected(p, s, _near(box, p, rule, on_part=part), rule, known=box is not None)
            for p, s, box, part in zip(detections, scores, boxes, on_parts, strict=True)
        ]

    _finite(prediction, rule)
    shares = prediction.detach().double().softmax(-1).cpu()
    return [_classified(row, rule) for row in shares]


def _classified(shares: torch.Tensor, rule: VerdictRule) -> FrameVerdict:
    best, target = int(shares.argmax()), rule.target_class
    success = best != rule.true_class if target is None else best == target
    if rule.true_class is None:
        true, true_score = not success, 1 - float(shares[target or 0])
    else:
        true, true_score = best == rule.true_class, float(shares[rule.true_class])
    return _verdict(rule, best, float(shares[best]), true_score, true=true, success=success)


def _near(
    box: Box | None, detections: np.ndarray, rule: VerdictRule, *, on_part: bool
) -> np.ndarray:
    """Return which ``detections`` (n, 4) are on the object at ``box``."""
    if box is None:
        return np.ones(len(detections), bool)
    own = torch.tensor([box], dtype=torch.float64)
    found = torch.from_numpy(detections)
    if on_part or rule.goal == "create":
        # What appears may have any size, and so may the object around a sticker.
        shares = box_iou(own, found, of_smaller=True)[0].numpy()
        sizes = (found[:, 2:] - found[:, :2]).prod(1).numpy()
        own_size = float((own[0, 2:] - own[0, :2]).prod())
        large_enough = (sizes >= own_size) | (rule.goal == "create")
        return np.asarray((shares >= 0.5) & large_enough, bool)
    return np.asarray(box_iou(own, found)[0].numpy() >= rule.iou, bool)


def _detected(
    detections: np.ndarray, scores: np.ndarray, near: np.ndarray, rule: VerdictRule, *, known: bool
) -> FrameVerdict:
    """Return the verdict of a detector.

    Args:
        detections: Boxes (n, 4).
        scores: Scores (n, classes).
        near: Which of them are on the object (n,).
        rule: Rule of the verdict.
        known: Whether the object's place is known; else ``near`` is all of the frame.
    """
    best = scores[near].max(0) if near.any() else np.zeros(scores.shape[-1])
    true, target = rule.true_class, rule.target_class
    recognized = true is not None and bool(best[true] >= rule.threshold)
    hit = target is not None and bool(best[target] >= rule.threshold)

    # Other objects elsewhere in the frame do not concern the object, except for the class aimed at.
    concerned = [c for c in (true, target) if c is not None]
    candidates = list(range(len(best))) if known else concerned
    if recognized or (hit and rule.goal in ("targeted", "create")):
        candidates = concerned if hit and rule.goal == "targeted" else concerned[:1]
    strongest = max(candidates, key=lambda c: float(best[c]))
    index = strongest if best[strongest] >= rule.threshold else None

    other = hit if target is not None else index is not None
    success = {
        "targeted": hit,
        "create": hit,
        "misclassify": other and not recognized,
    }.get(rule.goal, not recognized)
    return _verdict(
        rule,
        index,
        0.0 if index is None else float(best[strongest]),
        1 - float(best[target or 0]) if true is None else float(best[true]),
        true=not hit if true is None else recognized,
        success=success,
        others=_others(detections, scores, near, rule, known=known),
    )


def _others(
    detections: np.ndarray, scores: np.ndarray, near: np.ndarray, rule: VerdictRule, *, known: bool
) -> int:
    """Return the number of other objects of the true class that are detected."""
    if rule.true_class is None:
        return 0
    elsewhere = ~near if known else near
    found = Detections(
        torch.from_numpy(detections[elsewhere])[None],
        torch.from_numpy(scores[elsewhere][:, [rule.true_class]])[None],
    )
    count = len(non_maximum_suppression(found, rule.threshold)[0])
    return count if known else max(count - 1, 0)


def _verdict(
    rule: VerdictRule,
    index: int | None,
    confidence: float,
    true_score: float,
    *,
    true: bool,
    success: bool,
    others: int | None = None,
) -> FrameVerdict:
    scores = round(confidence, 6), round(true_score, 6)
    return FrameVerdict(rule.name(index), *scores, true, success, others)


def _finite(values: torch.Tensor, rule: VerdictRule | None) -> None:
    if rule is not None and rule.card.classes and values.shape[-1] != len(rule.card.classes):
        limit = f"its card names {len(rule.card.classes)}"
        raise ModelError(
            f"the model returned {count_noun(values.shape[-1], 'class')}",
            limit,
            "Use the card that belongs to it",
        )

    if not bool(torch.isfinite(values).all()):
        kind = "NaN" if bool(torch.isnan(values).any()) else "infinite scores"
        raise ModelError(
            f"the model returned {kind}", "finite numbers are needed", "Check its weights"
        )
